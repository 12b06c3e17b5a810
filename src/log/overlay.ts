/**
 * Rows as a leader sees them while it evaluates: the applied rows, overlaid with the mutations of
 * deltas that are proposed but not yet applied.
 *
 * Invariants: a later proposal's value hides an earlier one's; when an entry is applied, only the
 * values that it put there itself leave the overlay.
 */
import { Buffer } from "node:buffer";
import { type Bytes, compareBytes } from "../common/bytes.ts";
import type { Mutation, Row, RowReader, ScanOptions } from "../table/table.ts";

interface Pending {
  readonly key: Bytes;
  readonly value: Bytes | undefined;
  readonly index: number;
}

export class Overlay implements RowReader {
  readonly #base: RowReader;
  readonly #pending = new Map<string, Pending>();

  constructor(base: RowReader) {
    this.#base = base;
  }

  get size(): number {
    return this.#pending.size;
  }

  /** Adds the mutations that were proposed at `index`. */
  add(index: number, mutations: readonly Mutation[]): void {
    for (const { key, value } of mutations) this.#pending.set(textOf(key), { key, value, index });
  }

  /** The entry at `index` was applied. */
  settle(index: number, mutations: readonly Mutation[]): void {
    for (const { key } of mutations) {
      const text = textOf(key);
      if (this.#pending.get(text)?.index === index) this.#pending.delete(text);
    }
  }

  clear(): void {
    this.#pending.clear();
  }

  get(key: Bytes): Bytes | undefined {
    if (this.#pending.size > 0) {
      const pending = this.#pending.get(textOf(key));
      if (pending !== undefined) return pending.value;
    }
    return this.#base.get(key);
  }

  scan(from: Bytes, to: Bytes | undefined, options?: ScanOptions): Iterable<Row> {
    const within: Pending[] = [];
    for (const pending of this.#pending.values()) {
      if (compareBytes(pending.key, from) < 0) continue;
      if (to !== undefined && compareBytes(pending.key, to) >= 0) continue;
      within.push(pending);
    }
    if (within.length === 0) return this.#base.scan(from, to, options);
    const sign = options?.reverse === true ? -1 : 1;
    within.sort((a, b) => sign * compareBytes(a.key, b.key));
    return merge(this.#base.scan(from, to, options), within, sign);
  }
}

function* merge(base: Iterable<Row>, pending: readonly Pending[], sign: number): Generator<Row> {
  let at = 0;
  for (const row of base) {
    let hidden = false;
    for (; at < pending.length; at++) {
      const next = pending[at] as Pending;
      const order = sign * compareBytes(next.key, row.key);
      if (order > 0) break;
      if (order === 0) hidden = true;
      if (next.value !== undefined) yield { key: next.key, value: next.value };
    }
    if (!hidden) yield row;
  }
  for (; at < pending.length; at++) {
    const { key, value } = pending[at] as Pending;
    if (value !== undefined) yield { key, value };
  }
}

function textOf(key: Bytes): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("latin1");
}
