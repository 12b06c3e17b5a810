/**
 * The simplest table: a sorted array of rows in memory. It is the model that tests hold other
 * readers against, and what evaluators are tried on; the product itself never keeps state here.
 */
import { type Bytes, compareBytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { Mutation, Row, RowReader, ScanOptions } from "../table/table.ts";

export class SortedRows implements RowReader {
  readonly #rows: Row[] = [];
  #changes = 0;

  get size(): number {
    return this.#rows.length;
  }

  apply(mutations: readonly Mutation[]): void {
    this.#changes++;
    for (const { key, value } of mutations) {
      const at = this.#lowerBound(key);
      const there = this.#rows[at];
      const same = there !== undefined && compareBytes(there.key, key) === 0;
      if (value !== undefined) {
        this.#rows.splice(at, same ? 1 : 0, { key: key.slice(), value: value.slice() });
      } else if (same) this.#rows.splice(at, 1);
    }
  }

  get(key: Bytes): Bytes | undefined {
    const row = this.#rows[this.#lowerBound(key)];
    return row !== undefined && compareBytes(row.key, key) === 0 ? row.value : undefined;
  }

  *scan(from: Bytes, to: Bytes | undefined, options?: ScanOptions): Generator<Row> {
    const started = this.#changes;
    const first = this.#lowerBound(from);
    const end = to === undefined ? this.#rows.length : this.#lowerBound(to);
    const reverse = options?.reverse === true;
    for (let i = 0; i < end - first; i++) {
      if (this.#changes !== started) {
        throw new KisekiError("common.failed_precondition", "the rows changed under a scan");
      }
      const row = this.#rows[reverse ? end - 1 - i : first + i];
      if (row !== undefined) yield row;
    }
  }

  #lowerBound(key: Bytes): number {
    let low = 0;
    let high = this.#rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compareBytes((this.#rows[middle] as Row).key, key) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
