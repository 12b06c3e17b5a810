/**
 * A block of rows, before it is sealed: at most 16 KiB of neighbouring rows.
 *
 * | field                | size | meaning                                                   |
 * |----------------------|------|-----------------------------------------------------------|
 * | rows                 |      | each: shared varint, rest varint, tag varint, rest bytes of |
 * |                      |      | the key, value bytes                                      |
 * | restarts             | 2*r  | u16 offset of rows 0, 16, 32, ...; r = ceil(rows / 16)    |
 * | row count            |    2 | u16, at least 1                                           |
 *
 * `shared` leading bytes of the key are those of the row before; a restart row shares none. The
 * tag is value length * 4 + kind (see `RowKind`); a tombstone has no value. An overflow row's value
 * is a reference: overflow number u64, file offset u64, plaintext length u32, tag of the overflow
 * envelope (16).
 */
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { commonPrefixLength, copyBytes } from "./key_order.ts";
import { type RowCursor, RowKind } from "./row_cursor.ts";
import { MAX_KEY_BYTES } from "./table.ts";

/** Most plaintext bytes of a block. */
export const ROW_BLOCK_BYTES = 16 * 1024;
/** Values above this go to an overflow block of their own. */
export const MAX_INLINE_VALUE_BYTES = 8 * 1024;
export const RESTART_INTERVAL_LOG2 = 4;
const RESTART_INTERVAL = 1 << RESTART_INTERVAL_LOG2;
const MAX_ROW_HEADER_BYTES = 7;

/** Builds one block after another. */
export class RowBlockBuilder {
  readonly #buffer = new Uint8Array(ROW_BLOCK_BYTES);
  readonly #restarts = new Uint16Array(ROW_BLOCK_BYTES / 3 / RESTART_INTERVAL + 1);
  readonly lastKey = new Uint8Array(MAX_KEY_BYTES);
  lastKeyLength = 0;
  #rows = 0;
  #length = 0;

  get rows(): number {
    return this.#rows;
  }

  /**
   * Adds a row, greater than the one before.
   *
   * @returns false when the block has no room for it; an empty block has room for any row.
   */
  add(
    row: RowCursor,
    kind: RowKind,
    value: Bytes,
    valueStart: number,
    valueEnd: number,
  ): boolean {
    const keyLength = row.keyEnd - row.keyStart;
    const restart = (this.#rows & (RESTART_INTERVAL - 1)) === 0;
    const shared = restart ? 0 : commonPrefixLength(
      row.keyBuffer,
      row.keyStart,
      row.keyEnd,
      this.lastKey,
      0,
      this.lastKeyLength,
    );
    const rest = keyLength - shared;
    const valueLength = valueEnd - valueStart;
    const restarts = (this.#rows >> RESTART_INTERVAL_LOG2) + 1;
    const needed = MAX_ROW_HEADER_BYTES + rest + valueLength + 2 * restarts + 2;
    if (this.#length + needed > ROW_BLOCK_BYTES) return false;

    const buffer = this.#buffer;
    let at = this.#length;
    if (restart) this.#restarts[restarts - 1] = at;
    at = putVarint(buffer, at, shared);
    at = putVarint(buffer, at, rest);
    at = putVarint(buffer, at, valueLength * 4 + kind);
    copyBytes(row.keyBuffer, row.keyStart + shared, row.keyEnd, buffer, at);
    at += rest;
    copyBytes(value, valueStart, valueEnd, buffer, at);
    this.#length = at + valueLength;
    this.#rows++;
    copyBytes(row.keyBuffer, row.keyStart + shared, row.keyEnd, this.lastKey, shared);
    this.lastKeyLength = keyLength;
    return true;
  }

  /** The finished block as a view, valid until the next `add`; the builder starts anew. */
  finish(): Bytes {
    const restarts = (this.#rows + RESTART_INTERVAL - 1) >> RESTART_INTERVAL_LOG2;
    let at = this.#length;
    for (let i = 0; i < restarts; i++) {
      const offset = this.#restarts[i] as number;
      this.#buffer[at++] = offset & 0xff;
      this.#buffer[at++] = offset >> 8;
    }
    this.#buffer[at++] = this.#rows & 0xff;
    this.#buffer[at++] = this.#rows >> 8;
    this.#rows = 0;
    this.#length = 0;
    return this.#buffer.subarray(0, at);
  }
}

function putVarint(buffer: Bytes, offset: number, value: number): number {
  let at = offset;
  let rest = value;
  while (rest >= 0x80) {
    buffer[at++] = (rest & 0x7f) | 0x80;
    rest >>>= 7;
  }
  buffer[at++] = rest;
  return at;
}

/**
 * Reads rows of one block; the current one is laid open in fields, its key rebuilt in `key`.
 *
 * Blocks were authenticated before; what still does not add up throws `common.corrupt_format`.
 */
export class RowBlockReader {
  readonly key: Uint8Array = new Uint8Array(MAX_KEY_BYTES);
  keyLength = 0;
  kind: RowKind = RowKind.value;
  valueStart = 0;
  valueEnd = 0;
  /** Number of the current row in its block. */
  row = 0;
  rows = 0;
  block: Bytes = new Uint8Array(0);
  #restartsAt = 0;
  #next = 0;
  #shared = 0;
  #restStart = 0;
  /** Bytes that the restart found last is known to share with the key looked for. */
  #known = 0;

  /** Leading bytes of the key that the current row takes from the row before it. */
  get shared(): number {
    return this.#shared;
  }

  /** Takes up a block; no row is current. */
  load(block: Bytes): void {
    const length = block.length;
    const rows = length < 2
      ? 0
      : (block[length - 2] as number) | ((block[length - 1] as number) << 8);
    const restarts = (rows + RESTART_INTERVAL - 1) >> RESTART_INTERVAL_LOG2;
    this.#restartsAt = length - 2 - 2 * restarts;
    if (rows === 0 || this.#restartsAt < 0) throw corrupt("a row count that does not fit");
    this.block = block;
    this.rows = rows;
  }

  /** Goes to a row by number. */
  goTo(row: number): void {
    this.#startAt(row >> RESTART_INTERVAL_LOG2);
    while (this.row < row) this.next();
  }

  /** Goes to the next row. The caller knows that there is one. */
  next(): void {
    this.row++;
    this.#decode();
    this.#rebuildKey();
  }

  /** Goes to the first row with at least `key`; false when all are below. */
  seek(key: Bytes): boolean {
    const restart = this.#restartBelow(key);
    this.#startAt(restart);
    // Rows up to here are below `key`; `matched` is what the last of them shares with it.
    let matched = this.#matched(key, 0, this.#restStart, this.#restStart + this.keyLength);
    if (matched < 0) return true;
    while (this.row + 1 < this.rows) {
      this.next();
      const shared = this.#shared;
      if (shared > matched) continue;
      if (shared < matched) return true;
      matched = this.#matched(
        key,
        shared,
        this.#restStart,
        this.#restStart + this.keyLength - shared,
      );
      if (matched < 0) return true;
    }
    return false;
  }

  /** True when `key` is there; it is then the current row, its key not rebuilt. */
  find(key: Bytes): boolean {
    const restart = this.#restartBelow(key);
    this.#next = this.#restart(restart);
    this.row = restart << RESTART_INTERVAL_LOG2;
    this.#decode();
    // The restart row shares nothing with a row before it: `known` bytes are compared already.
    let matched = 0;
    let known = this.#known;
    while (true) {
      const shared = this.#shared;
      if (shared < matched) return false;
      if (shared === matched) {
        const length = this.keyLength;
        const block = this.block;
        const start = this.#restStart - shared;
        const n = length < key.length ? length : key.length;
        let i = shared > known ? shared : known;
        known = 0;
        while (i < n && block[start + i] === key[i]) i++;
        if (i === n) {
          if (length === key.length) return true;
          if (length > key.length) return false;
        } else if ((block[start + i] as number) > (key[i] as number)) return false;
        matched = i;
      }
      if (this.row + 1 >= this.rows) return false;
      this.row++;
      this.#decode();
    }
  }

  /** Length of the prefix shared with `key` when the row is below it; -1 when it is not. */
  #matched(key: Bytes, from: number, start: number, end: number): number {
    const block = this.block;
    const base = start - from;
    const n = Math.min(end - base, key.length);
    let i = from;
    while (i < n && block[base + i] === key[i]) i++;
    if (i === n) return end - base < key.length ? i : -1;
    return (block[base + i] as number) < (key[i] as number) ? i : -1;
  }

  /** The last restart whose key is at most `key`, or the first; sets `#known`. */
  #restartBelow(key: Bytes): number {
    const block = this.block;
    let low = 0;
    let high = ((this.rows + RESTART_INTERVAL - 1) >> RESTART_INTERVAL_LOG2) - 1;
    let sharedLow = 0;
    let sharedHigh = 0;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      this.#next = this.#restart(middle);
      this.#decode();
      const start = this.#restStart;
      const n = this.keyLength < key.length ? this.keyLength : key.length;
      let i = sharedLow < sharedHigh ? sharedLow : sharedHigh;
      while (i < n && block[start + i] === key[i]) i++;
      const above = i === n
        ? this.keyLength > key.length
        : (block[start + i] as number) > (key[i] as number);
      if (above) {
        high = middle - 1;
        sharedHigh = i;
      } else {
        low = middle;
        sharedLow = i;
      }
    }
    this.#known = sharedLow;
    return low;
  }

  #restart(index: number): number {
    const at = this.#restartsAt + 2 * index;
    return (this.block[at] as number) | ((this.block[at + 1] as number) << 8);
  }

  #startAt(restart: number): void {
    this.#next = this.#restart(restart);
    this.row = restart << RESTART_INTERVAL_LOG2;
    this.#decode();
    this.#rebuildKey();
  }

  #rebuildKey(): void {
    copyBytes(
      this.block,
      this.#restStart,
      this.#restStart + this.keyLength - this.#shared,
      this.key,
      this.#shared,
    );
  }

  /** Decodes the row header at `#next`. */
  #decode(): void {
    const block = this.block;
    let at = this.#next;
    let byte = block[at++] as number;
    let shared = byte & 0x7f;
    if (byte >= 0x80) shared |= (block[at++] as number) << 7;
    byte = block[at++] as number;
    let rest = byte & 0x7f;
    if (byte >= 0x80) rest |= (block[at++] as number) << 7;
    byte = block[at++] as number;
    let tag = byte & 0x7f;
    for (let shift = 7; byte >= 0x80; shift += 7) {
      byte = block[at++] as number;
      tag |= (byte & 0x7f) << shift;
      if (shift > 14) throw corrupt("a malformed value length");
    }
    const valueStart = at + rest;
    const valueEnd = valueStart + (tag >> 2);
    if (!(valueEnd <= this.#restartsAt) || shared + rest > MAX_KEY_BYTES) {
      throw corrupt("a row beyond its end");
    }
    this.#shared = shared;
    this.#restStart = at;
    this.keyLength = shared + rest;
    this.kind = (tag & 3) as RowKind;
    this.valueStart = valueStart;
    this.valueEnd = valueEnd;
    this.#next = valueEnd;
  }
}

function corrupt(what: string): KisekiError {
  return new KisekiError("common.corrupt_format", `run block: ${what}`);
}
