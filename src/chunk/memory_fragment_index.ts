/**
 * A fragment index in memory whose power can be cut, for tests: what a commit promises and no more.
 *
 * Commits become durable in order, at some time before they are answered; after a cut any number of
 * the first of those that were not answered is there.
 */
import type { ChunkId } from "../common/ids.ts";
import { toHex } from "../common/bytes.ts";
import type { Extent } from "../block/ports.ts";
import type { Power } from "../block/memory_block_file.ts";
import type { FragmentIndex, IndexChange, ScannedRow } from "./fragment_index.ts";
import { fragmentKey, type FragmentRow } from "./fragment_record.ts";

type Rows = ReadonlyMap<string, FragmentRow>;

export class MemoryFragmentIndex implements FragmentIndex {
  #rows: Rows;
  /** What may be found after a cut: what is durable, then the state after each open commit. */
  #possible: Rows[];

  constructor(rows: Rows, private readonly power: Power) {
    this.#rows = rows;
    this.#possible = [rows];
  }

  get failed(): boolean {
    return this.power.isOff;
  }

  get count(): number {
    return this.#rows.size;
  }

  /** Every state that a cut now may leave. */
  states(): readonly Rows[] {
    return this.#possible;
  }

  get(chunk: ChunkId, incarnation: string, fragment: number): FragmentRow | undefined {
    return this.#rows.get(toHex(fragmentKey(chunk, incarnation, fragment)));
  }

  async commit(changes: readonly IndexChange[]): Promise<void> {
    this.power.begin();
    const rows = new Map(this.#rows);
    for (const change of changes) {
      if (change.kind === "put") {
        const { chunk, incarnation, fragment } = change.row.header;
        rows.set(toHex(fragmentKey(chunk, incarnation, fragment)), change.row);
      } else {
        rows.delete(toHex(fragmentKey(change.chunk, change.incarnation, change.fragment)));
      }
    }
    this.#rows = rows;
    this.#possible.push(rows);
    await Promise.resolve();
    this.power.requireOn();
    const at = this.#possible.indexOf(rows);
    if (at > 0) this.#possible = this.#possible.slice(at);
  }

  scan(): readonly ScannedRow[] {
    return [...this.#rows.values()].map((row) => ({ ...row.header, row }));
  }

  extents(): Iterable<Extent> {
    return [...this.#rows.values()].map((row) => row.extent).sort((a, b) => a.offset - b.offset);
  }

  async close(): Promise<void> {}
}
