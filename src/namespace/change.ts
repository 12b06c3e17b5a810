/**
 * One evaluation under way: the rows it writes and the chunks it drops.
 *
 * Rows are written once and never read back in the same evaluation. References of chunks that this
 * shard owns are deleted in the same delta; content whose references lie elsewhere, or too much for
 * one delta, becomes a garbage row that maintenance drains.
 */
import { type Bytes, fromHex, toHex } from "../common/bytes.ts";
import { hybridToMs } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import type { ChunkId } from "../common/ids.ts";
import type { EvaluationContext, ShardRouter } from "../log/ports.ts";
import { RecordType } from "../log/row_key.ts";
import type { Mutation } from "../table/table.ts";
import {
  type Content,
  ContentKind,
  type Extent,
  ExtentRow,
  MAX_PER_ROW,
  StagedKind,
  StagedRecord,
} from "./records.ts";
import type { NewContent, StagedBatches } from "./messages.ts";
import { endOf, keyOf, type Routing, u32be, u64be } from "./rows.ts";

/** Extents that one delta may unlink by itself. */
const MAX_DROPS_PER_DELTA = 2048;

export class Change {
  readonly context: EvaluationContext;
  readonly routing: Routing;
  readonly #router: ShardRouter;
  readonly mutations: Mutation[] = [];
  readonly chunksAdded: ChunkId[] = [];
  readonly chunksDropped: ChunkId[] = [];
  readonly nowMs: number;
  /** The name that the change is about. */
  subject: Bytes | undefined;
  #drops = 0;

  constructor(context: EvaluationContext, routing: Routing, router: ShardRouter) {
    this.context = context;
    this.routing = routing;
    this.#router = router;
    this.nowMs = hybridToMs(context.timestamp);
  }

  /** A row's value, in memory of its own. */
  get(key: Bytes): Bytes | undefined {
    return this.context.rows.get(key)?.slice();
  }

  put(key: Bytes, value: Bytes): void {
    this.mutations.push({ key, value });
  }

  remove(key: Bytes): void {
    this.mutations.push({ key, value: undefined });
  }

  newId(): Bytes {
    return fromHex(this.context.newId());
  }

  /** True when rows with this routing key are in this shard. */
  owns(routingKey: Bytes): boolean {
    return this.#router.shardOf(this.context.organisation, routingKey) === this.context.shard;
  }

  /** Writes the rows of finished content and takes its announcement away. */
  adopt(content: NewContent): Content {
    const what = content.content;
    if (what === undefined) {
      throw new KisekiError("common.corrupt_format", "namespace request: content is missing");
    }
    if (content.staged !== undefined) this.#takeStaged(content.staged);
    const routing = what.placement.length === 0 ? undefined : this.routing.of(what.placement);
    if (what.kind === ContentKind.inlineRow && routing !== undefined) {
      this.put(keyOf(routing, what.composition, RecordType.inlineContent), content.inline);
    }
    if (what.kind === ContentKind.extents && routing !== undefined) {
      for (let i = 0; i < content.extents.length; i += MAX_PER_ROW) {
        const extents = content.extents.slice(i, i + MAX_PER_ROW);
        const first = extents[0] as Extent;
        this.put(
          keyOf(routing, what.composition, RecordType.extent, u64be(first.offset)),
          ExtentRow.encode({ extents }),
        );
      }
    }
    return what;
  }

  /** The writer gives up: what it announced is dropped, unless it was published. */
  unstage(staged: StagedBatches): void {
    for (let batch = 0; batch < staged.count; batch++) {
      const key = stagedKey(this.routing, staged, batch);
      const value = this.get(key);
      if (value === undefined) continue;
      const record = StagedRecord.decode(value);
      if (record.kind !== StagedKind.writing) continue;
      if (record.chunks.every((chunk) => this.owns(chunk.subarray(0, 8)))) {
        this.remove(key);
        for (const chunk of record.chunks) {
          this.dropReference(chunk, staged.composition, staged.operation);
        }
      } else {
        this.put(key, StagedRecord.encode({ ...record, kind: StagedKind.abandoned }));
      }
    }
  }

  #takeStaged(staged: StagedBatches): void {
    for (let batch = 0; batch < staged.count; batch++) {
      const key = stagedKey(this.routing, staged, batch);
      const value = this.context.rows.get(key);
      if (value === undefined || StagedRecord.decode(value).kind !== StagedKind.writing) {
        throw new KisekiError(
          "namespace.conflict",
          "the upload took too long and was collected: send the content again",
        );
      }
      this.remove(key);
    }
  }

  /** Nobody sees this content any more. */
  drop(content: Content | undefined): void {
    if (content === undefined || content.kind === ContentKind.embedded) return;
    if (
      content.kind === ContentKind.parts ||
      (content.kind === ContentKind.extents && this.#drops + content.count > MAX_DROPS_PER_DELTA)
    ) {
      return this.discard(content);
    }
    const extents: Extent[] = content.oneExtent === undefined ? [] : [content.oneExtent];
    const routing = this.routing.of(content.placement);
    const removals: Bytes[] = [];
    if (content.kind === ContentKind.inlineRow) {
      removals.push(keyOf(routing, content.composition, RecordType.inlineContent));
    } else if (content.kind === ContentKind.extents) {
      const from = keyOf(routing, content.composition, RecordType.extent);
      for (const row of this.context.rows.scan(from, endOf(from))) {
        removals.push(row.key.slice());
        extents.push(...ExtentRow.decode(row.value.slice()).extents);
      }
    }
    const chunks = distinctChunks(extents);
    if (chunks.some((chunk) => !this.owns(chunk.subarray(0, 8)))) return this.discard(content);
    for (const key of removals) this.remove(key);
    for (const chunk of chunks) {
      this.dropReference(chunk, content.composition, content.operation);
    }
  }

  dropReference(chunk: Bytes, composition: Bytes, operation: Bytes): void {
    this.#drops++;
    this.remove(referenceRowKey(chunk, composition, operation));
    this.chunksDropped.push(toHex(chunk) as ChunkId);
  }

  /** Leaves content to maintenance. */
  discard(content: Content): void {
    this.put(
      stagedKey(this.routing, content, GARBAGE_BATCH),
      StagedRecord.encode({ kind: StagedKind.garbage, createdMs: this.nowMs, content }),
    );
  }
}

/** Batch number of a garbage row: after all batches of a writer. */
export const GARBAGE_BATCH = 0xffff_ffff;

export function stagedKey(
  routing: Routing,
  of: { readonly placement: Bytes; readonly composition: Bytes; readonly operation: Bytes },
  batch: number,
): Bytes {
  return keyOf(
    routing.of(of.placement),
    of.placement,
    RecordType.staged,
    of.composition,
    of.operation,
    u32be(batch),
  );
}

/** Key of a reference row in the shard that owns the chunk id. */
export function referenceRowKey(chunk: Bytes, composition: Bytes, operation: Bytes): Bytes {
  return keyOf(
    chunk.subarray(0, 8),
    chunk.subarray(8, 24),
    RecordType.reference,
    chunk.subarray(24, 32),
    composition,
    operation,
  );
}

/** Chunk ids of extents, each once. */
export function distinctChunks(extents: readonly Extent[]): Bytes[] {
  const seen = new Map<string, Bytes>();
  for (const extent of extents) seen.set(toHex(extent.chunk), extent.chunk);
  return [...seen.values()];
}
