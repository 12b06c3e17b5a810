/**
 * What a shard's Raft entries hold: deltas, and the log keys that seal them.
 *
 * Log key entry (the first of each leader term, and again after 2^30 seals):
 *
 * | offset | size | field                                              |
 * |-------:|-----:|----------------------------------------------------|
 * |      0 |    1 | 2 = log key, version 1 of it                       |
 * |      1 |    3 | reserved, 0                                        |
 * |      4 |    8 | leader term, u64                                   |
 * |     12 |    4 | key number within the term, u32                    |
 * |     16 |   60 | the DEK, wrapped twice                             |
 *
 * Delta entry: a clear header, then an envelope (kind delta, identity shard | sequence). All
 * integers little-endian. Collection and compaction of the log read headers alone.
 *
 * | offset | size | field                                              |
 * |-------:|-----:|----------------------------------------------------|
 * |      0 |    1 | 1 = delta, version 1 of it                         |
 * |      1 |    1 | evaluator tag                                      |
 * |      2 |    2 | operation of that evaluator, u16                   |
 * |      4 |    8 | shard, u64                                         |
 * |     12 |    8 | sequence within the shard, u64, from 1             |
 * |     20 |    8 | hybrid timestamp                                   |
 * |     28 |    8 | routing key                                        |
 * |     36 |   32 | keyed hash of the name, zero when there is none    |
 * |     68 |    8 | leader term of the log key                         |
 * |     76 |    4 | number of the log key                              |
 * |     80 |    4 | n: chunk ids added                                 |
 * |     84 |    4 | m: chunk ids dropped                               |
 * |     88 |    4 | p: size of the envelope                            |
 * |     92 | 32n+32m | chunk ids                                       |
 * |        |    p | envelope of the payload                            |
 *
 * Payload: varint count, then for each mutation: varint key length, key, one byte (0 delete,
 * 1 put), and for a put: varint value length, value.
 */
import { ByteReader, type Bytes, ByteWriter, concatBytes, fromHex } from "../common/bytes.ts";
import type { HybridTimestamp } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import { type ChunkId, chunkIdFromBytes, type ShardId } from "../common/ids.ts";
import { WRAPPED_DEK_SIZE } from "../crypto/sealer.ts";
import { MAX_KEY_BYTES, MAX_VALUE_BYTES, type Mutation } from "../table/table.ts";
import { MAX_DELTA_BYTES } from "./ports.ts";
import { ROUTING_KEY_BYTES } from "./row_key.ts";

const DELTA_TYPE = 1;
const LOG_KEY_TYPE = 2;
const DELTA_FIXED_BYTES = 92;
const LOG_KEY_BYTES = 16 + WRAPPED_DEK_SIZE;
const NAME_HASH_BYTES = 32;
const CHUNK_ID_BYTES = 32;
/** Most mutations of one delta. */
export const MAX_MUTATIONS = 65_536;

/** Names a log key. */
export interface LogKeyId {
  readonly term: number;
  readonly number: number;
}

export interface LogKey extends LogKeyId {
  readonly wrapped: Bytes;
}

export interface DeltaHeader {
  readonly evaluator: number;
  readonly operation: number;
  readonly shard: ShardId;
  readonly sequence: number;
  readonly timestamp: HybridTimestamp;
  readonly routingKey: Bytes;
  /** 32 bytes; all zero when the delta is about no name. */
  readonly nameHash: Bytes;
  readonly key: LogKeyId;
  readonly chunksAdded: readonly ChunkId[];
  readonly chunksDropped: readonly ChunkId[];
}

export type LogEntryData =
  | { readonly type: "delta"; readonly header: DeltaHeader; readonly envelope: Bytes }
  | { readonly type: "logKey"; readonly key: LogKey };

export const NO_NAME_HASH: Bytes = new Uint8Array(NAME_HASH_BYTES);

/** Identity bound into a delta's envelope. */
export function deltaIdentity(shard: ShardId, sequence: number): Bytes {
  return new ByteWriter(16).int(shard).int(sequence).finish();
}

export function encodeLogKey(key: LogKey): Bytes {
  if (key.wrapped.length !== WRAPPED_DEK_SIZE) {
    throw new KisekiError(
      "common.invalid_argument",
      `a wrapped key of ${key.wrapped.length} bytes`,
    );
  }
  return new ByteWriter(LOG_KEY_BYTES)
    .u8(LOG_KEY_TYPE).u8(0).u16(0).int(key.term).u32(key.number).raw(key.wrapped).finish();
}

/** @throws KisekiError `log.delta_too_large` above {@link MAX_DELTA_BYTES}. */
export function encodeDelta(header: DeltaHeader, envelope: Bytes): Bytes {
  const begun = beginDelta(header, envelope.length);
  begun.envelope.set(envelope);
  return begun.delta;
}

/**
 * A delta whose envelope is still to be written, into `envelope`, a view of `delta`: so that the
 * payload is sealed where it will lie.
 *
 * @throws KisekiError `log.delta_too_large` above {@link MAX_DELTA_BYTES}.
 */
export function beginDelta(
  header: DeltaHeader,
  envelopeBytes: number,
): { readonly delta: Bytes; readonly envelope: Bytes } {
  const chunks = header.chunksAdded.length + header.chunksDropped.length;
  const head = DELTA_FIXED_BYTES + CHUNK_ID_BYTES * chunks;
  const size = head + envelopeBytes;
  if (size > MAX_DELTA_BYTES) {
    throw new KisekiError(
      "log.delta_too_large",
      `a delta of ${size} bytes (max ${MAX_DELTA_BYTES}): stage the change in parts`,
    );
  }
  const writer = new ByteWriter(head)
    .u8(DELTA_TYPE).u8(header.evaluator).u16(header.operation)
    .int(header.shard).int(header.sequence).u64(header.timestamp)
    .raw(exactly(header.routingKey, ROUTING_KEY_BYTES, "routing key"))
    .raw(exactly(header.nameHash, NAME_HASH_BYTES, "name hash"))
    .int(header.key.term).u32(header.key.number)
    .u32(header.chunksAdded.length).u32(header.chunksDropped.length).u32(envelopeBytes);
  for (const id of header.chunksAdded) writer.raw(exactly(fromHex(id), CHUNK_ID_BYTES, "chunk id"));
  for (const id of header.chunksDropped) {
    writer.raw(exactly(fromHex(id), CHUNK_ID_BYTES, "chunk id"));
  }
  const delta = new Uint8Array(size);
  delta.set(writer.view());
  return { delta, envelope: delta.subarray(head) };
}

/**
 * Reads an entry's data. The envelope is a view.
 *
 * @throws KisekiError `common.corrupt_format`, `common.unsupported_version` for a type from a
 *   later release.
 */
export function decodeLogEntryData(data: Bytes): LogEntryData {
  const reader = new ByteReader(data, "log entry");
  const type = reader.u8();
  if (type === LOG_KEY_TYPE) {
    if (reader.u8() !== 0 || reader.u16() !== 0) throw reader.corrupt("reserved bytes in use");
    const key = { term: reader.int(), number: reader.u32(), wrapped: reader.raw(WRAPPED_DEK_SIZE) };
    reader.end();
    return { type: "logKey", key };
  }
  if (type !== DELTA_TYPE) {
    throw new KisekiError(
      "common.unsupported_version",
      `log entry type ${type} is not known to this release: upgrade this node`,
    );
  }
  const evaluator = reader.u8();
  const operation = reader.u16();
  const shard = reader.int() as ShardId;
  const sequence = reader.int();
  const timestamp = reader.u64();
  const routingKey = reader.raw(ROUTING_KEY_BYTES);
  const nameHash = reader.raw(NAME_HASH_BYTES);
  const key = { term: reader.int(), number: reader.u32() };
  const added = reader.u32();
  const dropped = reader.u32();
  const envelopeSize = reader.u32();
  if ((added + dropped) * CHUNK_ID_BYTES + envelopeSize !== reader.remaining) {
    throw reader.corrupt("lengths that do not add up");
  }
  const chunksAdded: ChunkId[] = [];
  for (let i = 0; i < added; i++) chunksAdded.push(chunkIdFromBytes(reader.raw(CHUNK_ID_BYTES)));
  const chunksDropped: ChunkId[] = [];
  for (let i = 0; i < dropped; i++) {
    chunksDropped.push(chunkIdFromBytes(reader.raw(CHUNK_ID_BYTES)));
  }
  return {
    type: "delta",
    header: {
      evaluator,
      operation,
      shard,
      sequence,
      timestamp,
      routingKey,
      nameHash,
      key,
      chunksAdded,
      chunksDropped,
    },
    envelope: reader.rest(),
  };
}

/** The plaintext of a delta's payload. */
export function encodeMutations(mutations: readonly Mutation[]): Bytes {
  if (mutations.length > MAX_MUTATIONS) {
    throw new KisekiError(
      "log.delta_too_large",
      `${mutations.length} mutations in a delta (max ${MAX_MUTATIONS})`,
    );
  }
  let size = 8;
  for (const { key, value } of mutations) size += key.length + (value?.length ?? 0) + 9;
  const writer = new ByteWriter(size).varint(mutations.length);
  for (const { key, value } of mutations) {
    writer.bytes(key);
    if (value === undefined) writer.u8(0);
    else writer.u8(1).bytes(value);
  }
  return writer.view();
}

/** Keys and values are views. @throws KisekiError `common.corrupt_format`. */
export function decodeMutations(payload: Bytes): readonly Mutation[] {
  const reader = new ByteReader(payload, "delta payload");
  const count = reader.varint();
  if (count > MAX_MUTATIONS) throw reader.corrupt(`${count} mutations (max ${MAX_MUTATIONS})`);
  const mutations: Mutation[] = [];
  for (let i = 0; i < count; i++) {
    const key = reader.bytes(MAX_KEY_BYTES);
    const present = reader.u8();
    if (present > 1) throw reader.corrupt(`a mutation flag of ${present}`);
    mutations.push({ key, value: present === 1 ? reader.bytes(MAX_VALUE_BYTES) : undefined });
  }
  reader.end();
  return mutations;
}

/** What a shard keeps in its table's manifest beside the applied index. */
export interface ShardState {
  readonly sequence: number;
  readonly timestamp: HybridTimestamp;
  /** The key that entries after the applied index may use before they name a newer one. */
  readonly key: LogKey | undefined;
}

const SHARD_STATE_VERSION = 1;

export function encodeShardState(state: ShardState): Bytes {
  const writer = new ByteWriter(128).u8(SHARD_STATE_VERSION).int(state.sequence).u64(
    state.timestamp,
  );
  return (state.key === undefined ? writer.u8(0) : writer.u8(1).raw(encodeLogKey(state.key)))
    .finish();
}

/** A copy of an encoded state with another sequence and timestamp: the key changes rarely. */
export function advanceShardState(
  encoded: Bytes,
  sequence: number,
  timestamp: HybridTimestamp,
): Bytes {
  const state = encoded.slice();
  const view = new DataView(state.buffer, state.byteOffset);
  view.setBigUint64(1, BigInt(sequence), true);
  view.setBigUint64(9, timestamp, true);
  return state;
}

/** An empty array is the state of a new shard. */
export function decodeShardState(bytes: Bytes): ShardState {
  if (bytes.length === 0) return { sequence: 0, timestamp: 0n, key: undefined };
  const reader = new ByteReader(bytes, "shard state");
  const version = reader.u8();
  if (version !== SHARD_STATE_VERSION) {
    throw new KisekiError("common.unsupported_version", `shard state version ${version}`);
  }
  const sequence = reader.int();
  const timestamp = reader.u64();
  let key: LogKey | undefined;
  if (reader.u8() === 1) {
    const data = decodeLogEntryData(concatBytes(reader.raw(LOG_KEY_BYTES)));
    if (data.type !== "logKey") throw reader.corrupt("no log key");
    key = data.key;
  }
  reader.end();
  return { sequence, timestamp, key };
}

function exactly(bytes: Bytes, size: number, what: string): Bytes {
  if (bytes.length !== size) {
    throw new KisekiError(
      "common.invalid_argument",
      `a ${what} of ${bytes.length} bytes (${size} wanted)`,
    );
  }
  return bytes;
}
