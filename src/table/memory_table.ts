/**
 * The memory table: recent changes, sorted, in shared memory.
 *
 * Keys and values lie in arena segments (SharedArrayBuffer), so that a Worker folds them without a
 * copy; 32-bit references to them are kept sorted in leaves of at most 256. A binary search carries
 * the length of the prefix known to be shared on both sides, so long common prefixes cost little.
 *
 * Arena entry: key length u16 | value length + 1 as u32, 0 = tombstone | key | value.
 * Reference: segment (11 bits) | offset in it (21 bits).
 *
 * Invariants: references are sorted by key and unique; after `freeze` nothing changes any more.
 */
import type { Bytes } from "../common/bytes.ts";
import { EMPTY_BYTES } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { copyBytes } from "./key_order.ts";
import { RowCursor, RowKind } from "./row_cursor.ts";
import { SEGMENT_SIZES, SegmentPool } from "./segment_pool.ts";

const OFFSET_BITS = 21;
const OFFSET_MASK = (1 << OFFSET_BITS) - 1;
const MAX_SEGMENTS = 1 << (32 - OFFSET_BITS);
const ENTRY_HEADER_BYTES = 6;
const LEAF_ROWS = 256;

/** A frozen table as plain data, for a hop to a Worker: segments are shared, not copied. */
export interface FrozenRows {
  readonly segments: readonly SharedArrayBuffer[];
  /** References in key order, 32 bits each. */
  readonly references: ArrayBuffer;
  readonly rows: number;
}

export class MemoryTable {
  readonly #pool: SegmentPool;
  #segments: Uint8Array[] = [];
  readonly #leaves: Uint32Array[] = [];
  readonly #counts: number[] = [];
  #used = 0;
  #bytes = 0;
  #rows = 0;
  // result of #locate
  #leaf = 0;
  #slot = 0;
  #shared = 0;

  /** @param pool Where segments come from and go to. */
  constructor(pool: SegmentPool = new SegmentPool(0)) {
    this.#pool = pool;
  }

  /** Rows, tombstones included. */
  get rows(): number {
    return this.#rows;
  }

  /** Bytes of arena in use, overwritten values included. */
  get bytes(): number {
    return this.#bytes + 4 * this.#rows;
  }

  /** Sets a row; an absent value is a tombstone. Lengths were checked by the caller. */
  put(key: Bytes, value: Bytes | undefined): void {
    if (this.#locate(key)) {
      const leaf = this.#leaves[this.#leaf] as Uint32Array;
      if (!this.#overwrite(leaf[this.#slot] as number, key.length, value)) {
        leaf[this.#slot] = this.#append(key, value);
      }
      return;
    }
    const reference = this.#append(key, value);
    this.#insert(reference);
    this.#rows++;
  }

  /** The value; null for a tombstone, undefined when the key is not here. */
  get(key: Bytes): Bytes | null | undefined {
    if (!this.#locate(key)) return undefined;
    const reference = (this.#leaves[this.#leaf] as Uint32Array)[this.#slot] as number;
    const segment = this.#segments[reference >>> OFFSET_BITS] as Uint8Array;
    const offset = reference & OFFSET_MASK;
    const marked = readU32(segment, offset + 2);
    if (marked === 0) return null;
    const start = offset + ENTRY_HEADER_BYTES + key.length;
    return segment.subarray(start, start + marked - 1);
  }

  cursor(): RowCursor {
    return new MemoryCursor(this.#segments, this.#leaves, this.#counts, (key) => {
      this.#locate(key);
      return [this.#leaf, this.#slot];
    });
  }

  /** The rows in order as plain data. The table must not be changed afterwards. */
  freeze(): FrozenRows {
    const references = new Uint32Array(this.#rows);
    let at = 0;
    this.#leaves.forEach((leaf, i) => {
      const count = this.#counts[i] as number;
      references.set(leaf.subarray(0, count), at);
      at += count;
    });
    return {
      segments: this.#segments.map((segment) => segment.buffer as unknown as SharedArrayBuffer),
      references: references.buffer,
      rows: this.#rows,
    };
  }

  /** Gives the segments back to the pool. Neither the table nor views of it may be used again. */
  recycle(): void {
    this.#pool.give(this.#segments);
    this.#segments = [];
    this.#leaves.length = 0;
    this.#counts.length = 0;
    this.#rows = 0;
    this.#bytes = 0;
  }

  /** Finds the place of the first row with at least `key`; true when it has that very key. */
  #locate(key: Bytes): boolean {
    const leaves = this.#leaves;
    let low = 0;
    let high = leaves.length - 1;
    let sharedLow = 0;
    let sharedHigh = 0;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      const first = (leaves[middle] as Uint32Array)[0] as number;
      if (this.#compare(first, key, sharedLow < sharedHigh ? sharedLow : sharedHigh) <= 0) {
        low = middle;
        sharedLow = this.#shared;
      } else {
        high = middle - 1;
        sharedHigh = this.#shared;
      }
    }
    this.#leaf = low;
    const leaf = leaves[low];
    if (leaf === undefined) {
      this.#slot = 0;
      return false;
    }
    let from = 0;
    let to = this.#counts[low] as number;
    while (from < to) {
      const middle = (from + to) >> 1;
      const order = this.#compare(
        leaf[middle] as number,
        key,
        sharedLow < sharedHigh ? sharedLow : sharedHigh,
      );
      if (order === 0) {
        this.#slot = middle;
        return true;
      }
      if (order < 0) {
        from = middle + 1;
        sharedLow = this.#shared;
      } else {
        to = middle;
        sharedHigh = this.#shared;
      }
    }
    this.#slot = from;
    return false;
  }

  /** Order of an entry's key and `key`, whose first `known` bytes are equal; sets `#shared`. */
  #compare(reference: number, key: Bytes, known: number): number {
    const segment = this.#segments[reference >>> OFFSET_BITS] as Uint8Array;
    const offset = reference & OFFSET_MASK;
    const length = (segment[offset] as number) | ((segment[offset + 1] as number) << 8);
    const start = offset + ENTRY_HEADER_BYTES;
    const n = length < key.length ? length : key.length;
    let i = known;
    while (i < n) {
      const d = (segment[start + i] as number) - (key[i] as number);
      if (d !== 0) {
        this.#shared = i;
        return d;
      }
      i++;
    }
    this.#shared = i;
    return length - key.length;
  }

  /** Writes over an entry's value where the new one is no longer. */
  #overwrite(reference: number, keyLength: number, value: Bytes | undefined): boolean {
    const segment = this.#segments[reference >>> OFFSET_BITS] as Uint8Array;
    const offset = reference & OFFSET_MASK;
    if (value === undefined) {
      writeU32(segment, offset + 2, 0);
      return true;
    }
    if (value.length + 1 > readU32(segment, offset + 2)) return false;
    writeU32(segment, offset + 2, value.length + 1);
    segment.set(value, offset + ENTRY_HEADER_BYTES + keyLength);
    return true;
  }

  #append(key: Bytes, value: Bytes | undefined): number {
    const size = ENTRY_HEADER_BYTES + key.length + (value === undefined ? 0 : value.length);
    let segment = this.#segments[this.#segments.length - 1];
    if (segment === undefined || this.#used + size > segment.length) {
      if (this.#segments.length === MAX_SEGMENTS) {
        throw new KisekiError(
          "common.limit_exceeded",
          `a memory table of ${MAX_SEGMENTS} segments is full: fold it`,
          { retriable: true },
        );
      }
      const step = Math.min(this.#segments.length, SEGMENT_SIZES.length - 1);
      segment = this.#pool.take(Math.max(SEGMENT_SIZES[step] as number, size));
      this.#segments.push(segment);
      this.#used = 0;
    }
    const offset = this.#used;
    segment[offset] = key.length & 0xff;
    segment[offset + 1] = key.length >> 8;
    writeU32(segment, offset + 2, value === undefined ? 0 : value.length + 1);
    copyBytes(key, 0, key.length, segment, offset + ENTRY_HEADER_BYTES);
    if (value !== undefined) segment.set(value, offset + ENTRY_HEADER_BYTES + key.length);
    this.#used += size;
    this.#bytes += size;
    return (((this.#segments.length - 1) << OFFSET_BITS) | offset) >>> 0;
  }

  /** Puts a reference where `#locate` pointed. */
  #insert(reference: number): void {
    let at = this.#leaf;
    let slot = this.#slot;
    let leaf = this.#leaves[at];
    if (leaf === undefined) {
      leaf = new Uint32Array(LEAF_ROWS);
      this.#leaves.push(leaf);
      this.#counts.push(0);
    }
    let count = this.#counts[at] as number;
    if (count === LEAF_ROWS) {
      // Rows that come in order fill their leaves; others split them in halves.
      const inOrder = slot === LEAF_ROWS && at === this.#leaves.length - 1;
      const kept = inOrder ? LEAF_ROWS : LEAF_ROWS >> 1;
      const right = new Uint32Array(LEAF_ROWS);
      right.set(leaf.subarray(kept));
      this.#leaves.splice(at + 1, 0, right);
      this.#counts.splice(at + 1, 0, LEAF_ROWS - kept);
      this.#counts[at] = kept;
      count = kept;
      if (slot > kept || inOrder) {
        at++;
        slot -= kept;
        leaf = right;
        count = LEAF_ROWS - kept;
      }
    }
    leaf.copyWithin(slot + 1, slot, count);
    leaf[slot] = reference;
    this.#counts[at] = count + 1;
  }
}

/** Rows of a frozen table in order, without the table: what a fold in a Worker reads. */
export function frozenCursor(frozen: FrozenRows): RowCursor {
  const segments = frozen.segments.map((buffer) => new Uint8Array(buffer));
  return new MemoryCursor(
    segments,
    frozen.rows === 0 ? [] : [new Uint32Array(frozen.references)],
    [frozen.rows],
    () => {
      throw new KisekiError("common.internal", "frozen rows are read in order alone");
    },
  );
}

class MemoryCursor extends RowCursor {
  readonly #segments: readonly Uint8Array[];
  readonly #leaves: readonly Uint32Array[];
  readonly #counts: readonly number[];
  readonly #locate: (key: Bytes) => readonly [number, number];
  #leaf = 0;
  #slot = -1;

  constructor(
    segments: readonly Uint8Array[],
    leaves: readonly Uint32Array[],
    counts: readonly number[],
    locate: (key: Bytes) => readonly [number, number],
  ) {
    super();
    this.#segments = segments;
    this.#leaves = leaves;
    this.#counts = counts;
    this.#locate = locate;
  }

  override seek(key: Bytes): void {
    if (key.length === 0) {
      this.#leaf = 0;
      this.#slot = 0;
    } else {
      [this.#leaf, this.#slot] = this.#locate(key);
    }
    this.#settle();
  }

  override seekBefore(key: Bytes | undefined): void {
    if (key === undefined) {
      this.#leaf = this.#leaves.length;
      this.#slot = 0;
    } else {
      [this.#leaf, this.#slot] = this.#locate(key);
    }
    this.previous();
  }

  override next(): void {
    this.#slot++;
    this.#settle();
  }

  override previous(): void {
    this.#slot--;
    while (this.#slot < 0) {
      this.#leaf--;
      if (this.#leaf < 0) {
        this.done = true;
        return;
      }
      this.#slot = (this.#counts[this.#leaf] as number) - 1;
    }
    this.#show();
  }

  override value(): Bytes {
    return this.kind === RowKind.tombstone
      ? EMPTY_BYTES
      : this.valueBuffer.subarray(this.valueStart, this.valueEnd);
  }

  #settle(): void {
    while (this.#leaf < this.#leaves.length && this.#slot >= (this.#counts[this.#leaf] as number)) {
      this.#leaf++;
      this.#slot = 0;
    }
    if (this.#leaf >= this.#leaves.length) this.done = true;
    else this.#show();
  }

  #show(): void {
    const reference = (this.#leaves[this.#leaf] as Uint32Array)[this.#slot] as number;
    const segment = this.#segments[reference >>> OFFSET_BITS] as Uint8Array;
    const offset = reference & OFFSET_MASK;
    const marked = readU32(segment, offset + 2);
    this.done = false;
    this.keyBuffer = segment;
    this.keyStart = offset + ENTRY_HEADER_BYTES;
    this.keyEnd = this.keyStart +
      ((segment[offset] as number) | ((segment[offset + 1] as number) << 8));
    this.kind = marked === 0 ? RowKind.tombstone : RowKind.value;
    this.valueBuffer = segment;
    this.valueStart = this.keyEnd;
    this.valueEnd = this.keyEnd + (marked === 0 ? 0 : marked - 1);
  }
}

function readU32(bytes: Bytes, at: number): number {
  return (bytes[at] as number) | ((bytes[at + 1] as number) << 8) |
    ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24);
}

function writeU32(bytes: Bytes, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}
