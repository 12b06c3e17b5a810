/**
 * The reference ledger: which chunks are stored, where, and who uses them.
 *
 * Two kinds of rows in the shard that owns the chunk id: one `chunk` row with the chunk's state and
 * record, and one `reference` row for each (composition, operation) that uses it.
 *
 * Invariants:
 * - a reference is inserted before the delta that uses it, and inserting twice is inserting once;
 * - `collect` commits a chunk as dying only when it had no reference row for the whole grace time;
 *   nothing revives a dying chunk: its uploader writes it again once its record is forgotten;
 * - the first upload recorded wins; a later one is told so and removes its own fragments.
 *
 * Value of a chunk row: version 1 (1), state (1): 0 stored, 1 without references, 2 dying;
 * since when, u64 milliseconds (8); then the chunk record (`src/chunk/chunk_record.ts`).
 * Value of a reference row: version 1 (1), inserted at, u64 milliseconds (8).
 */
import { ByteReader, type Bytes, ByteWriter, fromHex, prefixEnd } from "../common/bytes.ts";
import { hybridToMs } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import {
  type ChunkId,
  chunkIdFromBytes,
  type CompositionId,
  idFromBytes,
  idToBytes,
  type OperationId,
  type OrganisationId,
  type ShardId,
} from "../common/ids.ts";
import type { Mutation, RowReader } from "../table/table.ts";
import {
  type CommandEvaluator,
  type Evaluation,
  type EvaluationContext,
  EvaluatorTag,
  type QueryContext,
  type ShardPort,
  type ShardRouter,
} from "./ports.ts";
import { chunkRoutingKey, chunkRowKey, RecordType, rowSuffix } from "./row_key.ts";
import { tagRequest } from "./request.ts";

/** A chunk without references is kept this long. */
export const COLLECTION_GRACE_MS = 24 * 3600 * 1000;
/** Most chunks in one request. */
export const MAX_LEDGER_BATCH = 1024;
const MAX_RECORD_BYTES = 4096;
/** Chunk rows that one collection command looks at, and commands of one call. */
const COLLECT_PAGE_ROWS = 1000;
const MAX_COLLECT_PAGES = 100;

/** The reference of one composition to one chunk, as `src/chunk` declares it. */
export interface LedgerReference {
  readonly chunk: ChunkId;
  readonly composition: CompositionId;
  readonly operation: OperationId;
}

const Operation = {
  acquire: 1,
  record: 2,
  release: 3,
  collect: 4,
  forget: 5,
  lookup: 6,
  replace: 7,
} as const;

const State = { stored: 0, unreferenced: 1, dying: 2 } as const;
type State = typeof State[keyof typeof State];

interface ChunkRow {
  readonly state: State;
  readonly sinceMs: number;
  /** Encoded chunk record. */
  readonly record: Bytes;
}

export type AcquireOutcome = "held" | "missing" | "dying";
const ACQUIRE_OUTCOMES: readonly AcquireOutcome[] = ["held", "missing", "dying"];
export type RecordOutcome = "recorded" | "superseded";

function encodeChunkRow(row: ChunkRow): Bytes {
  return new ByteWriter(16 + row.record.length).u8(1).u8(row.state).int(row.sinceMs).raw(row.record)
    .finish();
}

function decodeChunkRow(value: Bytes): ChunkRow {
  const reader = new ByteReader(value, "chunk row");
  const version = reader.u8();
  if (version !== 1) throw new KisekiError("common.unsupported_version", `chunk row ${version}`);
  const state = reader.u8();
  if (state !== State.stored && state !== State.unreferenced && state !== State.dying) {
    throw reader.corrupt(`state ${state}`);
  }
  return { state, sinceMs: reader.int(), record: reader.rest() };
}

/** Key of a chunk's row. */
export function chunkKey(chunk: ChunkId): Bytes {
  return chunkRowKey(chunk, RecordType.chunk);
}

/** Key of a reference row. */
export function referenceKey(reference: LedgerReference): Bytes {
  return chunkRowKey(
    reference.chunk,
    RecordType.reference,
    idToBytes(reference.composition),
    idToBytes(reference.operation),
  );
}

/** The record of a stored chunk, for evaluators that own its row; undefined when there is none. */
export function readChunkRecord(rows: RowReader, chunk: ChunkId): Bytes | undefined {
  const value = rows.get(chunkKey(chunk));
  return value === undefined ? undefined : decodeChunkRow(value).record;
}

export interface LedgerOptions {
  readonly graceMs?: number;
  /** Reads the incarnation out of an encoded chunk record. */
  incarnationOf(record: Bytes): string;
}

/** Tag 1. */
export class LedgerEvaluator implements CommandEvaluator {
  readonly tag: EvaluatorTag = EvaluatorTag.ledger;
  readonly #graceMs: number;
  readonly #incarnationOf: (record: Bytes) => string;

  constructor(options: LedgerOptions) {
    this.#graceMs = options.graceMs ?? COLLECTION_GRACE_MS;
    this.#incarnationOf = options.incarnationOf;
  }

  evaluate(context: EvaluationContext, request: Bytes): Evaluation {
    const reader = new ByteReader(request, "ledger request");
    const operation = reader.u8();
    const nowMs = hybridToMs(context.timestamp);
    switch (operation) {
      case Operation.acquire:
        return acquire(context.rows, readReferences(reader), nowMs);
      case Operation.record:
        return record(context.rows, reader, nowMs);
      case Operation.release:
        return release(readReferences(reader));
      case Operation.collect:
        return collect(context.rows, reader.u32(), readCursor(reader), nowMs, this.#graceMs);
      case Operation.forget:
        return forget(context.rows, readChunks(reader));
      case Operation.replace:
        return replace(context.rows, reader, this.#incarnationOf);
      default:
        throw reader.corrupt(`operation ${operation}`);
    }
  }

  query(context: QueryContext, request: Bytes): Bytes {
    const reader = new ByteReader(request, "ledger query");
    const operation = reader.u8();
    if (operation !== Operation.lookup) throw reader.corrupt(`query ${operation}`);
    const writer = new ByteWriter(1024);
    for (const chunk of readChunks(reader)) {
      const found = readChunkRecord(context.rows, chunk);
      if (found === undefined) writer.u8(0);
      else writer.u8(1).bytes(found);
    }
    return writer.finish();
  }
}

function acquire(
  rows: RowReader,
  references: readonly LedgerReference[],
  nowMs: number,
): Evaluation {
  const mutations: Mutation[] = [];
  const added: ChunkId[] = [];
  const writer = new ByteWriter(references.length);
  for (const reference of references) {
    const value = rows.get(chunkKey(reference.chunk));
    const row = value === undefined ? undefined : decodeChunkRow(value);
    if (row === undefined || row.state === State.dying) {
      writer.u8(ACQUIRE_OUTCOMES.indexOf(row === undefined ? "missing" : "dying"));
      continue;
    }
    writer.u8(ACQUIRE_OUTCOMES.indexOf("held"));
    addReference(reference, row, mutations, nowMs);
    added.push(reference.chunk);
  }
  return outcome(Operation.acquire, mutations, writer.finish(), references[0]?.chunk, added, []);
}

function record(rows: RowReader, reader: ByteReader, nowMs: number): Evaluation {
  const count = limited(reader, reader.varint());
  const mutations: Mutation[] = [];
  const added: ChunkId[] = [];
  const writer = new ByteWriter(count);
  for (let i = 0; i < count; i++) {
    const reference = readReference(reader);
    const encoded = reader.bytes(MAX_RECORD_BYTES);
    const value = rows.get(chunkKey(reference.chunk));
    const row = value === undefined ? undefined : decodeChunkRow(value);
    if (row?.state === State.dying) {
      throw new KisekiError(
        "chunk.upload_again",
        "a chunk is being collected: it is written again once that is done",
        { retriable: true },
      );
    }
    writer.u8(row === undefined ? 0 : 1);
    const stored = row ?? { state: State.stored, sinceMs: nowMs, record: encoded };
    if (row === undefined) {
      mutations.push({ key: chunkKey(reference.chunk), value: encodeChunkRow(stored) });
    }
    addReference(reference, stored, mutations, nowMs);
    added.push(reference.chunk);
  }
  reader.end();
  return outcome(Operation.record, mutations, writer.finish(), added[0], added, []);
}

function release(references: readonly LedgerReference[]): Evaluation {
  const mutations = references.map((reference): Mutation => ({
    key: referenceKey(reference),
    value: undefined,
  }));
  const dropped = references.map((reference) => reference.chunk);
  return outcome(Operation.release, mutations, new Uint8Array(0), dropped[0], [], dropped);
}

/**
 * One page of the walk over chunk rows: marks those that lost their last reference, and commits as
 * dying those that had none for the grace time. The answer names every dying chunk that it met.
 */
function collect(
  rows: RowReader,
  limit: number,
  cursor: ChunkId | undefined,
  nowMs: number,
  graceMs: number,
): Evaluation {
  const mutations: Mutation[] = [];
  const dying: { chunk: ChunkId; record: Bytes }[] = [];
  const decided: ChunkId[] = [];
  let last: ChunkId | undefined;
  let seen = 0;
  for (const { chunk, row, referenced } of chunkRows(rows, cursor)) {
    last = chunk;
    seen++;
    if (row.state === State.dying) {
      dying.push({ chunk, record: row.record.slice() });
    } else if (referenced) {
      if (row.state === State.unreferenced) {
        mutations.push(rowMutation(chunk, { ...row, state: State.stored, sinceMs: nowMs }));
      }
    } else if (row.state === State.stored) {
      mutations.push(rowMutation(chunk, { ...row, state: State.unreferenced, sinceMs: nowMs }));
    } else if (nowMs - row.sinceMs >= graceMs) {
      mutations.push(rowMutation(chunk, { ...row, state: State.dying, sinceMs: nowMs }));
      decided.push(chunk);
      dying.push({ chunk, record: row.record.slice() });
    }
    if (seen >= limit) break;
  }
  const writer = new ByteWriter(256).varint(dying.length);
  for (const { chunk, record } of dying) writer.raw(fromHex(chunk)).bytes(record);
  if (last !== undefined && seen >= limit) writer.u8(1).raw(fromHex(last));
  else writer.u8(0);
  return outcome(Operation.collect, mutations, writer.finish(), last, [], decided);
}

function forget(rows: RowReader, chunks: readonly ChunkId[]): Evaluation {
  const mutations: Mutation[] = [];
  for (const chunk of chunks) {
    const value = rows.get(chunkKey(chunk));
    if (value === undefined) continue;
    if (decodeChunkRow(value).state !== State.dying) {
      throw new KisekiError(
        "common.failed_precondition",
        "a chunk that is not dying is not forgotten",
      );
    }
    mutations.push({ key: chunkKey(chunk), value: undefined });
  }
  return outcome(Operation.forget, mutations, new Uint8Array(0), chunks[0], [], []);
}

/** New places of a chunk's fragments: only of the upload that is recorded, and not while it dies. */
function replace(
  rows: RowReader,
  reader: ByteReader,
  incarnationOf: (record: Bytes) => string,
): Evaluation {
  const chunk = chunkIdFromBytes(reader.raw(32));
  const record = reader.bytes(MAX_RECORD_BYTES).slice();
  reader.end();
  const value = rows.get(chunkKey(chunk));
  const row = value === undefined ? undefined : decodeChunkRow(value);
  const mutations = row === undefined || row.state === State.dying ||
      incarnationOf(row.record) !== incarnationOf(record)
    ? []
    : [rowMutation(chunk, { ...row, record })];
  return outcome(Operation.replace, mutations, new Uint8Array(0), chunk, [], []);
}

/** Chunk rows after `cursor` in order of chunk id, each with whether a reference row exists. */
function* chunkRows(
  rows: RowReader,
  cursor: ChunkId | undefined,
): Generator<{ chunk: ChunkId; row: ChunkRow; referenced: boolean }> {
  let from: Bytes = new Uint8Array(0);
  if (cursor !== undefined) {
    const after = prefixEnd(chunkKey(cursor));
    if (after === undefined) return;
    from = after;
  }
  for (const { key, value } of rows.scan(from, undefined)) {
    if (key[24] !== RecordType.chunk) continue;
    const id = new Uint8Array(32);
    id.set(key.subarray(0, 24), 0);
    id.set(rowSuffix(key), 24);
    const chunk = chunkIdFromBytes(id);
    const row = decodeChunkRow(value.slice());
    const first = chunkRowKey(chunk, RecordType.reference);
    let referenced = false;
    for (const _ of rows.scan(first, prefixEnd(first))) {
      referenced = true;
      break;
    }
    yield { chunk, row, referenced };
  }
}

function addReference(
  reference: LedgerReference,
  row: ChunkRow,
  mutations: Mutation[],
  nowMs: number,
): void {
  mutations.push({
    key: referenceKey(reference),
    value: new ByteWriter(9).u8(1).int(nowMs).finish(),
  });
  if (row.state === State.unreferenced) {
    mutations.push(rowMutation(reference.chunk, { ...row, state: State.stored, sinceMs: nowMs }));
  }
}

function rowMutation(chunk: ChunkId, row: ChunkRow): Mutation {
  return { key: chunkKey(chunk), value: encodeChunkRow(row) };
}

function outcome(
  operation: number,
  mutations: readonly Mutation[],
  result: Bytes,
  first: ChunkId | undefined,
  chunksAdded: readonly ChunkId[],
  chunksDropped: readonly ChunkId[],
): Evaluation {
  return {
    mutations,
    result,
    operation,
    routingKey: first === undefined ? new Uint8Array(8) : chunkRoutingKey(first),
    chunksAdded,
    chunksDropped,
  };
}

// ---- requests ----

function limited(reader: ByteReader, count: number): number {
  if (count > MAX_LEDGER_BATCH) throw reader.corrupt(`${count} chunks (max ${MAX_LEDGER_BATCH})`);
  return count;
}

function readReference(reader: ByteReader): LedgerReference {
  return {
    chunk: chunkIdFromBytes(reader.raw(32)),
    composition: idFromBytes<CompositionId>(reader.raw(16)),
    operation: idFromBytes<OperationId>(reader.raw(16)),
  };
}

function writeReference(writer: ByteWriter, reference: LedgerReference): void {
  writer.raw(fromHex(reference.chunk)).raw(idToBytes(reference.composition))
    .raw(idToBytes(reference.operation));
}

function readReferences(reader: ByteReader): readonly LedgerReference[] {
  const count = limited(reader, reader.varint());
  const references: LedgerReference[] = [];
  for (let i = 0; i < count; i++) references.push(readReference(reader));
  reader.end();
  return references;
}

function readChunks(reader: ByteReader): readonly ChunkId[] {
  const count = limited(reader, reader.varint());
  const chunks: ChunkId[] = [];
  for (let i = 0; i < count; i++) chunks.push(chunkIdFromBytes(reader.raw(32)));
  reader.end();
  return chunks;
}

function readCursor(reader: ByteReader): ChunkId | undefined {
  const cursor = reader.u8() === 1 ? chunkIdFromBytes(reader.raw(32)) : undefined;
  reader.end();
  return cursor;
}

// ---- client ----

/** How chunk records become bytes: `src/chunk/chunk_record.ts`, handed in by the wiring. */
export interface RecordCodec<Record> {
  encode(record: Record): Bytes;
  decode(bytes: Bytes): Record;
}

/** Speaks to the shards that own the chunk ids; has the shape of `src/chunk`'s `ReferenceLedger`. */
export class LedgerClient<Record> {
  readonly #shards: ShardPort;
  readonly #router: ShardRouter;
  readonly #codec: RecordCodec<Record>;
  /** Where the collection of each shard goes on. */
  readonly #cursors = new Map<ShardId, ChunkId>();

  constructor(shards: ShardPort, router: ShardRouter, codec: RecordCodec<Record>) {
    this.#shards = shards;
    this.#router = router;
    this.#codec = codec;
  }

  async acquire(
    organisation: OrganisationId,
    references: readonly LedgerReference[],
  ): Promise<readonly AcquireOutcome[]> {
    return await this.#each(organisation, references, (r) => r.chunk, async (shard, batch) => {
      const answer = await this.#shards.execute(shard, referencesRequest(Operation.acquire, batch));
      return batch.map((_, i) => ACQUIRE_OUTCOMES[answer[i] ?? -1] ?? "missing");
    });
  }

  async record(
    organisation: OrganisationId,
    chunks: readonly { readonly reference: LedgerReference; readonly record: Record }[],
  ): Promise<readonly RecordOutcome[]> {
    return await this.#each(
      organisation,
      chunks,
      (c) => c.reference.chunk,
      async (shard, batch) => {
        const writer = new ByteWriter(128 * batch.length).u8(Operation.record).varint(batch.length);
        for (const { reference, record } of batch) {
          writeReference(writer, reference);
          writer.bytes(this.#codec.encode(record));
        }
        const answer = await this.#shards.execute(
          shard,
          tagRequest(EvaluatorTag.ledger, writer.view()),
        );
        return batch.map((_, i) => answer[i] === 0 ? "recorded" : "superseded");
      },
    );
  }

  async release(
    organisation: OrganisationId,
    references: readonly LedgerReference[],
  ): Promise<void> {
    await this.#each(organisation, references, (r) => r.chunk, async (shard, batch) => {
      await this.#shards.execute(shard, referencesRequest(Operation.release, batch));
      return batch;
    });
  }

  async lookup(
    organisation: OrganisationId,
    chunks: readonly ChunkId[],
  ): Promise<readonly (Record | undefined)[]> {
    return await this.#each(organisation, chunks, (c) => c, async (shard, batch) => {
      const answer = await this.#shards.query(shard, chunksRequest(Operation.lookup, batch));
      const reader = new ByteReader(answer, "ledger answer");
      return batch.map(() =>
        reader.u8() === 1 ? this.#codec.decode(reader.bytes(MAX_RECORD_BYTES)) : undefined
      );
    });
  }

  /** One page over one shard's chunks. `next` is the cursor of the following page. */
  async collectPage(
    shard: ShardId,
    limit: number,
    cursor: ChunkId | undefined,
  ): Promise<{
    readonly dying: readonly { readonly chunk: ChunkId; readonly record: Record }[];
    readonly next: ChunkId | undefined;
  }> {
    const writer = new ByteWriter(64).u8(Operation.collect).u32(limit);
    if (cursor === undefined) writer.u8(0);
    else writer.u8(1).raw(fromHex(cursor));
    const answer = await this.#shards.execute(
      shard,
      tagRequest(EvaluatorTag.ledger, writer.view()),
    );
    const reader = new ByteReader(answer, "ledger answer");
    const dying: { chunk: ChunkId; record: Record }[] = [];
    const count = reader.varint();
    for (let i = 0; i < count; i++) {
      const chunk = chunkIdFromBytes(reader.raw(32));
      dying.push({ chunk, record: this.#codec.decode(reader.bytes(MAX_RECORD_BYTES)) });
    }
    const next = reader.u8() === 1 ? chunkIdFromBytes(reader.raw(32)) : undefined;
    return { dying, next };
  }

  /**
   * Up to `limit` dying chunks; walks on from where the last call of this client stopped, and from
   * the start again after the end. One call looks at a bounded number of rows.
   */
  async collect(
    organisation: OrganisationId,
    limit: number,
  ): Promise<readonly { readonly chunk: ChunkId; readonly record: Record }[]> {
    const dying: { readonly chunk: ChunkId; readonly record: Record }[] = [];
    for (const shard of this.#router.shardsOf(organisation)) {
      for (let page = 0; page < MAX_COLLECT_PAGES && dying.length < limit; page++) {
        const found = await this.collectPage(shard, COLLECT_PAGE_ROWS, this.#cursors.get(shard));
        dying.push(...found.dying);
        if (found.next === undefined) {
          this.#cursors.delete(shard);
          break;
        }
        this.#cursors.set(shard, found.next);
      }
    }
    return dying;
  }

  async replace(organisation: OrganisationId, chunk: ChunkId, record: Record): Promise<void> {
    const shard = this.#router.shardOf(organisation, chunkRoutingKey(chunk));
    const writer = new ByteWriter(256).u8(Operation.replace).raw(fromHex(chunk))
      .bytes(this.#codec.encode(record));
    await this.#shards.execute(shard, tagRequest(EvaluatorTag.ledger, writer.view()));
  }

  async forget(organisation: OrganisationId, chunks: readonly ChunkId[]): Promise<void> {
    await this.#each(organisation, chunks, (c) => c, async (shard, batch) => {
      await this.#shards.execute(shard, chunksRequest(Operation.forget, batch));
      return batch;
    });
  }

  /** Groups by owning shard and batch, keeps the order of the answers. */
  async #each<In, Out>(
    organisation: OrganisationId,
    items: readonly In[],
    chunkOf: (item: In) => ChunkId,
    call: (shard: ShardId, batch: readonly In[]) => Promise<readonly Out[]>,
  ): Promise<readonly Out[]> {
    const byShard = new Map<ShardId, number[]>();
    items.forEach((item, i) => {
      const shard = this.#router.shardOf(organisation, chunkRoutingKey(chunkOf(item)));
      const group = byShard.get(shard);
      if (group === undefined) byShard.set(shard, [i]);
      else group.push(i);
    });
    const out = new Array<Out>(items.length);
    await Promise.all([...byShard].map(async ([shard, indices]) => {
      for (let at = 0; at < indices.length; at += MAX_LEDGER_BATCH) {
        const part = indices.slice(at, at + MAX_LEDGER_BATCH);
        const answers = await call(shard, part.map((i) => items[i] as In));
        part.forEach((i, j) => out[i] = answers[j] as Out);
      }
    }));
    return out;
  }
}

function referencesRequest(operation: number, references: readonly LedgerReference[]): Bytes {
  const writer = new ByteWriter(80 * references.length).u8(operation).varint(references.length);
  for (const reference of references) writeReference(writer, reference);
  return tagRequest(EvaluatorTag.ledger, writer.view());
}

function chunksRequest(operation: number, chunks: readonly ChunkId[]): Bytes {
  const writer = new ByteWriter(40 * chunks.length).u8(operation).varint(chunks.length);
  for (const chunk of chunks) writer.raw(fromHex(chunk));
  return tagRequest(EvaluatorTag.ledger, writer.view());
}
