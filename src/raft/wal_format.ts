/**
 * The bytes of a log segment. Little-endian; every block is 4,096 bytes.
 *
 * A segment is one header block, then batches. A batch is what one group commit wrote: a header of
 * 64 bytes, records, zeros up to the next block. No block that holds synced bytes is ever written
 * again, and batch n+1 is written only after the sync of batch n returned. So a valid batch header
 * proves that everything before it was durable: damage before it is corruption, never a torn tail.
 *
 * Segment header (block 0):
 *
 * | at | size | field |
 * |---|---|---|
 * | 0 | 8 | magic "KSKWAL\r\n" |
 * | 8 | 2 | version = 1 |
 * | 10 | 2 | zero |
 * | 12 | 4 | CRC-32C of the block with this field as zero |
 * | 16 | 8 | segment number, from 1 |
 * | 24 | 16 | log id, random |
 * | 40 | 8 | number of the first batch |
 * | 48 | 8 | where the previous segment ends, in bytes; 0 in the first one |
 * | 56 | 8 | capacity in bytes |
 * | 64 | - | zero |
 *
 * Batch header:
 *
 * | at | size | field |
 * |---|---|---|
 * | 0 | 4 | magic "KWB1" |
 * | 4 | 4 | CRC-32C of bytes 8 to 63 |
 * | 8 | 8 | segment number |
 * | 16 | 8 | batch number, one more than the one before, across segments |
 * | 24 | 4 | offset of this batch in the segment |
 * | 28 | 4 | bytes of records |
 * | 32 | 4 | count of records; 0 = a watermark: all before is durable |
 * | 36 | 4 | CRC-32C over the records' CRCs, in order |
 * | 40 | 16 | log id |
 * | 56 | 8 | zero |
 *
 * Record, at a multiple of 8:
 *
 * | at | size | field |
 * |---|---|---|
 * | 0 | 4 | CRC-32C of bytes 4 to the end of the data, seeded by segment and offset |
 * | 4 | 4 | bytes of data |
 * | 8 | 1 | type: 1 entry, 2 hard state, 3 truncate, 4 compact |
 * | 9 | 1 | kind of entry, else 0 |
 * | 10 | 6 | zero |
 * | 16 | 8 | shard |
 * | 24 | 8 | index (hard state: commit) |
 * | 32 | 8 | term (truncate: 0) |
 * | 40 | - | data (hard state: vote, u64), zeros up to a multiple of 8 |
 */
import { ByteReader, type Bytes, equalBytes, fromHex, toHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { Id128, NodeId, ShardId } from "../common/ids.ts";
import type { Crc32c } from "../common/crc32c.ts";
import { EntryKind, type LogRecord } from "./ports.ts";

export const BLOCK_BYTES = 4096;
export const SEGMENT_VERSION = 1;
export const BATCH_HEADER_BYTES = 64;
export const RECORD_HEADER_BYTES = 40;
/** Largest `data` of an entry: a delta of 1 MiB and its envelope. */
export const MAX_DATA_BYTES = 1024 * 1024 + 64 * 1024;
/** Largest batch, header and padding included. */
export const MAX_BATCH_BYTES = 8 * 1024 * 1024;

const SEGMENT_MAGIC = fromHex("4b534b57414c0d0a");
const BATCH_MAGIC = 0x3142_574b;
const RECORD_TYPES = ["", "entry", "hardState", "truncate", "compact"] as const;

/** What block 0 of a segment says. */
export interface SegmentHeader {
  readonly segment: number;
  readonly logId: Id128;
  readonly firstBatch: number;
  readonly previousEnd: number;
  readonly capacityBytes: number;
}

/** What a batch header says. */
export interface BatchHeader {
  readonly segment: number;
  readonly batch: number;
  readonly offset: number;
  readonly recordBytes: number;
  readonly recordCount: number;
  readonly recordsCrc: number;
}

/** Rounds up to whole blocks. */
export function blocksUp(bytes: number): number {
  return Math.ceil(bytes / BLOCK_BYTES) * BLOCK_BYTES;
}

/** Bytes that a record takes in a batch. */
export function recordBytes(record: LogRecord): number {
  const data = record.type === "entry"
    ? record.entry.data.length
    : record.type === "hardState"
    ? 8
    : 0;
  return (RECORD_HEADER_BYTES + data + 7) & ~7;
}

/** The seed that binds a record's CRC to its place. */
function placeSeed(segment: number, offset: number): number {
  return (Math.imul(segment, 0x9e37_79b1) ^ offset) >>> 0;
}

function setInt(view: DataView, at: number, value: number): void {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new KisekiError("common.invalid_argument", `not an unsigned safe integer: ${value}`);
  }
  view.setUint32(at, value % 0x1_0000_0000, true);
  view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
}

/** Block 0 of a segment. */
export function encodeSegmentHeader(header: SegmentHeader, crc32c: Crc32c): Bytes {
  const block = new Uint8Array(BLOCK_BYTES);
  const view = new DataView(block.buffer);
  block.set(SEGMENT_MAGIC, 0);
  view.setUint16(8, SEGMENT_VERSION, true);
  setInt(view, 16, header.segment);
  block.set(fromHex(header.logId), 24);
  setInt(view, 40, header.firstBatch);
  setInt(view, 48, header.previousEnd);
  setInt(view, 56, header.capacityBytes);
  view.setUint32(12, crc32c(block), true);
  return block;
}

/**
 * Reads block 0.
 *
 * @returns undefined when it is torn or never was written.
 * @throws KisekiError `common.unsupported_version` when it is whole and of another version.
 */
export function decodeSegmentHeader(block: Bytes, crc32c: Crc32c): SegmentHeader | undefined {
  if (block.length !== BLOCK_BYTES || !equalBytes(block.subarray(0, 8), SEGMENT_MAGIC)) {
    return undefined;
  }
  const copy = block.slice();
  const view = new DataView(copy.buffer);
  const stored = view.getUint32(12, true);
  view.setUint32(12, 0, true);
  if (crc32c(copy) !== stored) return undefined;
  const version = view.getUint16(8, true);
  if (version !== SEGMENT_VERSION) {
    throw new KisekiError(
      "common.unsupported_version",
      `a log segment of version ${version} (this build reads ${SEGMENT_VERSION}): use the build that wrote it`,
    );
  }
  const reader = new ByteReader(copy.subarray(16, 64), "log segment header");
  return {
    segment: reader.int(),
    logId: toHex(reader.raw(16)),
    firstBatch: reader.int(),
    previousEnd: reader.int(),
    capacityBytes: reader.int(),
  };
}

/** Fills a reusable buffer with one batch. The caller sees to it that everything fits. */
export class BatchEncoder {
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;
  readonly #crc32c: Crc32c;
  readonly #logId: Bytes;
  #crcs: Uint8Array<ArrayBuffer> = new Uint8Array(4 * 256);
  #crcsView = new DataView(this.#crcs.buffer);
  #segment = 0;
  #offset = 0;
  #count = 0;
  #length = BATCH_HEADER_BYTES;

  /** @param maxBytes Whole blocks. */
  constructor(maxBytes: number, logId: Id128, crc32c: Crc32c) {
    this.#bytes = new Uint8Array(maxBytes);
    this.#view = new DataView(this.#bytes.buffer);
    this.#logId = fromHex(logId);
    this.#crc32c = crc32c;
  }

  /** Starts a batch at `offset` of `segment`. */
  begin(segment: number, offset: number): void {
    this.#segment = segment;
    this.#offset = offset;
    this.#count = 0;
    this.#length = BATCH_HEADER_BYTES;
  }

  /** Bytes so far, header included. */
  get length(): number {
    return this.#length;
  }

  /** Adds a record. @returns the offset of the record in the segment. */
  add(record: LogRecord): number {
    const at = this.#length;
    const size = recordBytes(record);
    const bytes = this.#bytes;
    const view = this.#view;
    const place = this.#offset + at;
    bytes.fill(0, at, at + RECORD_HEADER_BYTES);
    let dataLength = 0;
    setInt(view, at + 16, record.shard);
    switch (record.type) {
      case "entry":
        bytes[at + 8] = 1;
        bytes[at + 9] = record.entry.kind;
        setInt(view, at + 24, record.entry.index);
        setInt(view, at + 32, record.entry.term);
        dataLength = record.entry.data.length;
        bytes.set(record.entry.data, at + RECORD_HEADER_BYTES);
        break;
      case "hardState":
        bytes[at + 8] = 2;
        setInt(view, at + 24, record.hardState.commit);
        setInt(view, at + 32, record.hardState.term);
        dataLength = 8;
        setInt(view, at + RECORD_HEADER_BYTES, record.hardState.vote);
        break;
      case "truncate":
        bytes[at + 8] = 3;
        setInt(view, at + 24, record.index);
        break;
      case "compact":
        bytes[at + 8] = 4;
        setInt(view, at + 24, record.index);
        setInt(view, at + 32, record.term);
        break;
    }
    view.setUint32(at + 4, dataLength, true);
    const end = at + RECORD_HEADER_BYTES + dataLength;
    bytes.fill(0, end, at + size);
    const crc = this.#crc32c(bytes.subarray(at + 4, end), placeSeed(this.#segment, place));
    view.setUint32(at, crc, true);
    this.#noteCrc(crc);
    this.#length = at + size;
    return place;
  }

  /** Closes the batch. @returns whole blocks, valid until the next `begin`. */
  finish(batch: number): Bytes {
    const view = this.#view;
    const end = blocksUp(this.#length);
    this.#bytes.fill(0, this.#length, end);
    this.#bytes.fill(0, 0, BATCH_HEADER_BYTES);
    view.setUint32(0, BATCH_MAGIC, true);
    setInt(view, 8, this.#segment);
    setInt(view, 16, batch);
    view.setUint32(24, this.#offset, true);
    view.setUint32(28, this.#length - BATCH_HEADER_BYTES, true);
    view.setUint32(32, this.#count, true);
    view.setUint32(36, this.#crc32c(this.#crcs.subarray(0, 4 * this.#count)), true);
    this.#bytes.set(this.#logId, 40);
    view.setUint32(4, this.#crc32c(this.#bytes.subarray(8, BATCH_HEADER_BYTES)), true);
    return this.#bytes.subarray(0, end);
  }

  #noteCrc(crc: number): void {
    if (4 * this.#count === this.#crcs.length) {
      const grown = new Uint8Array(2 * this.#crcs.length);
      grown.set(this.#crcs);
      this.#crcs = grown;
      this.#crcsView = new DataView(grown.buffer);
    }
    this.#crcsView.setUint32(4 * this.#count, crc, true);
    this.#count++;
  }
}

/**
 * Reads a batch header.
 *
 * @returns undefined unless it is whole, of this log, this segment and this offset.
 */
export function decodeBatchHeader(
  bytes: Bytes,
  logId: Id128,
  segment: number,
  offset: number,
  crc32c: Crc32c,
): BatchHeader | undefined {
  if (bytes.length < BATCH_HEADER_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== BATCH_MAGIC) return undefined;
  if (view.getUint32(4, true) !== crc32c(bytes.subarray(8, BATCH_HEADER_BYTES))) return undefined;
  if (!equalBytes(bytes.subarray(40, 56), fromHex(logId))) return undefined;
  if (view.getBigUint64(8, true) !== BigInt(segment)) return undefined;
  if (view.getUint32(24, true) !== offset) return undefined;
  const batch = view.getBigUint64(16, true);
  if (batch > BigInt(Number.MAX_SAFE_INTEGER)) return undefined;
  return {
    segment,
    batch: Number(batch),
    offset,
    recordBytes: view.getUint32(28, true),
    recordCount: view.getUint32(32, true),
    recordsCrc: view.getUint32(36, true),
  };
}

/** A record and where it lies in its segment. */
export interface PlacedRecord {
  readonly record: LogRecord;
  readonly offset: number;
  /** Without padding. */
  readonly bytes: number;
}

/**
 * Reads the records of a whole batch (header, records and padding). Entry data are copies.
 *
 * @throws KisekiError `common.corrupt_format`.
 */
export function decodeBatchRecords(
  bytes: Bytes,
  header: BatchHeader,
  crc32c: Crc32c,
): readonly PlacedRecord[] {
  const end = BATCH_HEADER_BYTES + header.recordBytes;
  if (
    blocksUp(end) !== bytes.length || header.recordCount * RECORD_HEADER_BYTES > header.recordBytes
  ) {
    throw corrupt("a batch whose lengths do not agree", header.offset);
  }
  const records: PlacedRecord[] = [];
  const crcs = new Uint8Array(4 * header.recordCount);
  let at = BATCH_HEADER_BYTES;
  for (let i = 0; i < header.recordCount; i++) {
    const place = header.offset + at;
    const placed = decodeRecord(bytes.subarray(at, end), header.segment, place, crc32c);
    crcs.set(bytes.subarray(at, at + 4), 4 * i);
    records.push(placed);
    at += (placed.bytes + 7) & ~7;
  }
  if (at !== end || crc32c(crcs) !== header.recordsCrc) {
    throw corrupt("a batch whose records are not those of its header", header.offset);
  }
  for (let i = end; i < bytes.length; i++) {
    if (bytes[i] !== 0) throw corrupt("padding that is not zero", header.offset + i);
  }
  return records;
}

/**
 * Reads one record at the start of `bytes`, which lies at `place` of `segment`.
 *
 * @throws KisekiError `common.corrupt_format`.
 */
export function decodeRecord(
  bytes: Bytes,
  segment: number,
  place: number,
  crc32c: Crc32c,
): PlacedRecord {
  if (bytes.length < RECORD_HEADER_BYTES) throw corrupt("a record cut short", place);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const dataLength = view.getUint32(4, true);
  if (dataLength > MAX_DATA_BYTES) throw corrupt(`data of ${dataLength} bytes`, place);
  const end = RECORD_HEADER_BYTES + dataLength;
  const padded = (end + 7) & ~7;
  if (padded > bytes.length) throw corrupt("a record cut short", place);
  if (view.getUint32(0, true) !== crc32c(bytes.subarray(4, end), placeSeed(segment, place))) {
    throw corrupt("a record whose checksum is wrong", place);
  }
  for (let i = end; i < padded; i++) {
    if (bytes[i] !== 0) throw corrupt("padding that is not zero", place);
  }
  const reader = new ByteReader(bytes.subarray(8, RECORD_HEADER_BYTES), "log record");
  const type = RECORD_TYPES[reader.u8()];
  const kind = reader.u8();
  reader.raw(6);
  const shard = reader.int() as ShardId;
  const index = reader.int();
  const term = reader.int();
  if (type !== "entry" && kind !== 0) throw corrupt("a kind where none belongs", place);
  const data = bytes.subarray(RECORD_HEADER_BYTES, end);
  return {
    record: recordOf(type, kind, shard, index, term, data, place),
    offset: place,
    bytes: end,
  };
}

function recordOf(
  type: typeof RECORD_TYPES[number] | undefined,
  kind: number,
  shard: ShardId,
  index: number,
  term: number,
  data: Bytes,
  place: number,
): LogRecord {
  const expected = type === "entry" ? data.length : type === "hardState" ? 8 : 0;
  if (data.length !== expected) throw corrupt("data of the wrong length", place);
  switch (type) {
    case "entry": {
      if (
        kind !== EntryKind.termStart && kind !== EntryKind.normal &&
        kind !== EntryKind.configuration
      ) {
        throw corrupt(`an entry of unknown kind ${kind}`, place);
      }
      return { type, shard, entry: { index, term, kind, data: data.slice() } };
    }
    case "hardState": {
      const vote = new ByteReader(data, "log record").int() as NodeId;
      return { type, shard, hardState: { term, vote, commit: index } };
    }
    case "truncate":
      return { type, shard, index };
    case "compact":
      return { type, shard, index, term };
    default:
      throw corrupt("a record of unknown type", place);
  }
}

function corrupt(what: string, offset: number): KisekiError {
  return new KisekiError("common.corrupt_format", `log segment: ${what} at offset ${offset}`);
}
