/**
 * The log of one group as the core sees it: terms of all indexes, data of recent entries.
 *
 * Invariants: compactIndex <= applied <= committed <= last; handed <= last; stable <= handed.
 * Entries above `stable` are always in memory; older ones may be evicted, and then `entries`
 * answers undefined and the host reads them back from the write-ahead log.
 */
import { KisekiError } from "../../common/errors.ts";
import type { Entry } from "../ports.ts";

interface TermRun {
  readonly from: number;
  readonly term: number;
}

export class RaftLog {
  #runs: TermRun[] = [];
  #entries: Entry[] = [];
  /** Slots at the head of #entries that were evicted. */
  #evicted = 0;
  #memoryBytes = 0;
  #compactIndex: number;
  #compactTerm: number;
  #last: number;
  #stable: number;
  #handed: number;
  #committed: number;
  #applied: number;
  #truncateFrom: number | undefined;

  /** An empty log after `compactIndex`. */
  constructor(compactIndex = 0, compactTerm = 0) {
    this.#compactIndex = compactIndex;
    this.#compactTerm = compactTerm;
    this.#last = compactIndex;
    this.#stable = compactIndex;
    this.#handed = compactIndex;
    this.#committed = compactIndex;
    this.#applied = compactIndex;
  }

  get compactIndex(): number {
    return this.#compactIndex;
  }
  get compactTerm(): number {
    return this.#compactTerm;
  }
  get firstIndex(): number {
    return this.#compactIndex + 1;
  }
  get lastIndex(): number {
    return this.#last;
  }
  get lastTerm(): number {
    return this.termAt(this.#last) ?? 0;
  }
  /** Durable here up to this index. */
  get stable(): number {
    return this.#stable;
  }
  get committed(): number {
    return this.#committed;
  }
  get applied(): number {
    return this.#applied;
  }
  /** Bytes of entry data in memory. */
  get memoryBytes(): number {
    return this.#memoryBytes;
  }
  /** Index of the oldest entry in memory; last + 1 for none. */
  get firstInMemory(): number {
    return this.#last - (this.#entries.length - this.#evicted) + 1;
  }

  /** Term of the entry at `index`; undefined when it is collected or not there yet. */
  termAt(index: number): number | undefined {
    if (index === this.#compactIndex) return this.#compactTerm;
    if (index < this.#compactIndex || index > this.#last) return undefined;
    for (let i = this.#runs.length - 1; i >= 0; i--) {
      const run = this.#runs[i] as TermRun;
      if (run.from <= index) return run.term;
    }
    return undefined;
  }

  matches(index: number, term: number): boolean {
    return this.termAt(index) === term;
  }

  /** Raft paper 5.4.1: is a log that ends so at least as up to date as this one? */
  isUpToDate(lastIndex: number, lastTerm: number): boolean {
    return lastTerm > this.lastTerm || (lastTerm === this.lastTerm && lastIndex >= this.#last);
  }

  /** Adds an entry after the last one. */
  append(entry: Entry): void {
    if (entry.index !== this.#last + 1) {
      throw new KisekiError("common.internal", `entry ${entry.index} after ${this.#last}`);
    }
    this.#noteTerm(entry.index, entry.term);
    this.#entries.push(entry);
    this.#memoryBytes += entry.data.length;
    this.#last = entry.index;
  }

  /** Takes up an entry that is durable already, at start. */
  restoreEntry(entry: Entry): void {
    this.append(entry);
    this.#stable = entry.index;
    this.#handed = entry.index;
  }

  /**
   * A follower's append (Raft paper 5.3): conflicting entries are cut, new ones are added.
   * @returns the last new index, or undefined when the previous entry does not match.
   */
  tryAppend(
    previousIndex: number,
    previousTerm: number,
    entries: readonly Entry[],
  ): number | undefined {
    if (!this.matches(previousIndex, previousTerm)) return undefined;
    for (const entry of entries) {
      if (entry.index <= this.#last) {
        if (entry.index <= this.#compactIndex || this.matches(entry.index, entry.term)) continue;
        this.truncateFrom(entry.index);
      }
      this.append(entry);
    }
    return previousIndex + entries.length;
  }

  /** Cuts `index` and all after it. @throws KisekiError `common.internal` below the commit index. */
  truncateFrom(index: number): void {
    if (index <= this.#committed) {
      throw new KisekiError(
        "common.internal",
        `entry ${index} conflicts with the committed entry ${this.#committed}`,
      );
    }
    while (this.#last >= index) {
      const entry = this.#entries.length > this.#evicted ? this.#entries.pop() : undefined;
      if (entry !== undefined) this.#memoryBytes -= entry.data.length;
      this.#last--;
    }
    while (this.#runs.length > 0 && (this.#runs.at(-1) as TermRun).from >= index) this.#runs.pop();
    if (this.#handed >= index) {
      this.#truncateFrom = Math.min(index, this.#truncateFrom ?? index);
      this.#handed = index - 1;
    }
    this.#stable = Math.min(this.#stable, index - 1);
  }

  commitTo(index: number): boolean {
    if (index <= this.#committed) return false;
    if (index > this.#last) {
      throw new KisekiError(
        "common.internal",
        `commit index ${index} is beyond the last entry ${this.#last}: was the log cut?`,
      );
    }
    this.#committed = index;
    return true;
  }

  appliedTo(index: number): void {
    if (index < this.#applied || index > this.#committed) {
      throw new KisekiError(
        "common.internal",
        `applied ${index} outside ${this.#applied} to ${this.#committed}`,
      );
    }
    this.#applied = index;
  }

  /** What is to be written: cut first, then append. Marks it as handed over. */
  takeUnwritten(): {
    readonly truncateFrom: number | undefined;
    readonly entries: readonly Entry[];
  } {
    const truncateFrom = this.#truncateFrom;
    const entries = this.#handed < this.#last
      ? this.#entries.slice(this.#entries.length - (this.#last - this.#handed))
      : [];
    this.#truncateFrom = undefined;
    this.#handed = this.#last;
    return { truncateFrom, entries };
  }

  get hasUnwritten(): boolean {
    return this.#handed < this.#last || this.#truncateFrom !== undefined;
  }

  /** Entries up to `index` are durable, if they are still those of `term`. */
  stableTo(index: number, term: number): boolean {
    if (index <= this.#stable || index > this.#handed || !this.matches(index, term)) return false;
    this.#stable = index;
    return true;
  }

  /** Entries `from` to `to`, at least one, then up to `maxBytes`; undefined: not in memory. */
  entries(from: number, to: number, maxBytes: number): readonly Entry[] | undefined {
    if (from > to) return [];
    if (from < this.firstInMemory || to > this.#last) return undefined;
    const start = this.#entries.length - (this.#last - from) - 1;
    let end = start;
    let bytes = 0;
    const limit = start + to - from + 1;
    while (end < limit) {
      bytes += (this.#entries[end] as Entry).data.length;
      if (bytes > maxBytes && end > start) break;
      end++;
    }
    return this.#entries.slice(start, end);
  }

  /** The entry at `index` when it is in memory. */
  entryInMemory(index: number): Entry | undefined {
    if (index < this.firstInMemory || index > this.#last) return undefined;
    return this.#entries[this.#entries.length - 1 - (this.#last - index)];
  }

  /** Drops the data of durable entries up to `upTo`, oldest first, until `maxBytes` are held. */
  evict(maxBytes: number, upTo: number = this.#applied): void {
    const limit = Math.min(this.#stable, upTo);
    let first = this.firstInMemory;
    while (this.#memoryBytes > maxBytes && first <= limit) {
      this.#memoryBytes -= (this.#entries[this.#evicted] as Entry).data.length;
      this.#entries[this.#evicted] = EVICTED;
      this.#evicted++;
      first++;
    }
    if (this.#evicted > 1024 && this.#evicted * 2 > this.#entries.length) {
      this.#entries = this.#entries.slice(this.#evicted);
      this.#evicted = 0;
    }
  }

  /** Forgets entries up to `index`, which a durable snapshot covers. */
  compactTo(index: number): void {
    if (index <= this.#compactIndex) return;
    const term = this.termAt(index);
    if (term === undefined || index > this.#applied) {
      throw new KisekiError(
        "common.invalid_argument",
        `cannot collect the log up to ${index}: applied is ${this.#applied}`,
      );
    }
    this.evict(-1, index);
    const runs = this.#runs.filter((_run, i) => {
      const next = this.#runs[i + 1];
      return next === undefined || next.from > index + 1;
    });
    this.#runs = runs;
    this.#compactIndex = index;
    this.#compactTerm = term;
  }

  /** Starts over after a snapshot. */
  restore(index: number, term: number): void {
    this.#runs = [];
    this.#entries = [];
    this.#evicted = 0;
    this.#memoryBytes = 0;
    this.#compactIndex = index;
    this.#compactTerm = term;
    this.#last = index;
    this.#stable = index;
    this.#handed = index;
    this.#committed = index;
    this.#applied = index;
    this.#truncateFrom = undefined;
  }

  /** The largest index at or below `index` whose term is at most `term` (fast log repair). */
  findConflictByTerm(index: number, term: number): number {
    let at = Math.min(index, this.#last);
    while (at > this.#compactIndex) {
      const ours = this.termAt(at);
      if (ours === undefined || ours <= term) break;
      at--;
    }
    return at;
  }

  #noteTerm(index: number, term: number): void {
    const last = this.#runs.at(-1);
    if (last === undefined || last.term !== term) this.#runs.push({ from: index, term });
  }
}

const EVICTED: Entry = { index: 0, term: 0, kind: 0, data: new Uint8Array(0) };
