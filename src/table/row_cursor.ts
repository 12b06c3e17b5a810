/**
 * A position in a sorted set of rows: what memory tables and runs have in common for merges.
 *
 * The current row is laid open as ranges of buffers, so that a merge copies nothing it need not.
 * Invariant: while `done` is false, key and value fields describe one row; any move voids them.
 */
import type { Bytes } from "../common/bytes.ts";
import { EMPTY_BYTES } from "../common/bytes.ts";
import { commonPrefixLength, compareRanges } from "./key_order.ts";

/** What a row holds. The numbers are part of the block format. */
export const RowKind = {
  value: 0,
  tombstone: 1,
  /** The value lies in an overflow block; the row holds a reference to it. */
  overflow: 2,
} as const;
export type RowKind = typeof RowKind[keyof typeof RowKind];

export abstract class RowCursor {
  /** True when there is no current row. */
  done = true;
  keyBuffer: Bytes = EMPTY_BYTES;
  keyStart = 0;
  keyEnd = 0;
  kind: RowKind = RowKind.value;
  valueBuffer: Bytes = EMPTY_BYTES;
  valueStart = 0;
  valueEnd = 0;
  /** After `next`: leading bytes of the key that are those of the row before; 0 when not known. */
  unchanged = 0;

  /** Moves to the first row with a key of at least `key`. */
  abstract seek(key: Bytes): void;
  /** Moves to the last row with a key below `key`; to the very last when undefined. */
  abstract seekBefore(key: Bytes | undefined): void;
  abstract next(): void;
  abstract previous(): void;
  /** The whole value of the current row, read from its overflow block where it lies in one. */
  abstract value(): Bytes;
}

/** The prefix that all keys share is measured anew after so many steps: it may have grown. */
const STEPS_PER_MEASURE = 64;

/**
 * Cursors merged in key order: of rows with equal keys the newest alone is seen.
 *
 * `order` is kept sorted by (key, age), so a step costs two comparisons when the same cursor wins
 * again, whatever the number of cursors. All current keys are known to share `shared` leading
 * bytes, which comparisons leave out: keys of a table have long prefixes in common.
 */
export class MergeCursor {
  readonly #order: RowCursor[] = [];
  readonly #age = new Map<RowCursor, number>();
  readonly #reverse: boolean;
  #shared = 0;
  #steps = 0;

  /** @param cursors Newest first, already positioned. */
  constructor(cursors: readonly RowCursor[], reverse: boolean) {
    this.#reverse = reverse;
    cursors.forEach((cursor, age) => {
      this.#age.set(cursor, age);
      if (cursor.done) return;
      this.#order.unshift(cursor);
      this.#sift(0);
    });
    this.#measure();
  }

  /** The newest row of the least key (greatest in reverse); undefined at the end. */
  get current(): RowCursor | undefined {
    return this.#order[0];
  }

  /** Moves past every row with the current key. */
  advance(): void {
    const order = this.#order;
    const top = order[0];
    if (top === undefined) return;
    while (true) {
      const second = order[1];
      if (second === undefined || this.#compare(top, second) !== 0) break;
      this.#step(1, second);
    }
    this.#step(0, top);
    if (++this.#steps >= STEPS_PER_MEASURE) this.#measure();
  }

  #step(at: number, cursor: RowCursor): void {
    cursor.unchanged = 0;
    if (this.#reverse) cursor.previous();
    else cursor.next();
    if (cursor.done) {
      this.#order.splice(at, 1);
      return;
    }
    if (cursor.unchanged < this.#shared) this.#check(cursor);
    this.#sift(at);
  }

  /** Cuts `shared` to what a cursor that moved still shares with another. */
  #check(cursor: RowCursor): void {
    const order = this.#order;
    const other = order[0] === cursor ? order[1] : order[0];
    if (other === undefined) return;
    const end = Math.min(this.#shared, cursor.keyEnd - cursor.keyStart);
    const a = cursor.keyBuffer;
    const b = other.keyBuffer;
    let i = cursor.unchanged;
    while (i < end && a[cursor.keyStart + i] === b[other.keyStart + i]) i++;
    this.#shared = i;
  }

  /** What the first and the last key share, all between them share. */
  #measure(): void {
    this.#steps = 0;
    const first = this.#order[0];
    const last = this.#order[this.#order.length - 1];
    if (first === undefined || last === undefined) return;
    this.#shared = commonPrefixLength(
      first.keyBuffer,
      first.keyStart,
      first.keyEnd,
      last.keyBuffer,
      last.keyStart,
      last.keyEnd,
    );
  }

  #compare(a: RowCursor, b: RowCursor): number {
    const shared = this.#shared;
    return compareRanges(
      a.keyBuffer,
      a.keyStart + shared,
      a.keyEnd,
      b.keyBuffer,
      b.keyStart + shared,
      b.keyEnd,
    );
  }

  /** Moves the cursor at `at` back to its place. */
  #sift(at: number): void {
    const order = this.#order;
    const cursor = order[at] as RowCursor;
    let i = at;
    while (i + 1 < order.length) {
      const other = order[i + 1] as RowCursor;
      let d = this.#compare(cursor, other);
      if (this.#reverse) d = -d;
      if (d === 0) d = (this.#age.get(cursor) ?? 0) - (this.#age.get(other) ?? 0);
      if (d < 0) break;
      order[i] = other;
      i++;
    }
    order[i] = cursor;
  }
}
