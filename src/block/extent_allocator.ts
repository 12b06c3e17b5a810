/**
 * Which units of 4 KiB of a device are free.
 *
 * Free ranges are held by start and by end (so that a freed extent joins its neighbours at once) and
 * in bins by size, four to a power of two. A request takes the first range of the smallest bin whose
 * every range fits, so small holes fill first and a fresh device is written from its start on. Both
 * calls cost a few map operations, however fragmented the device is.
 *
 * Invariants: free ranges never touch or overlap; a unit is free or taken, never both; freeing what
 * is free, or taking what is taken, is refused. There is no state on disk: the fragment index is
 * the truth and the free list is rebuilt from it at each opening.
 */
import { KisekiError } from "../common/errors.ts";

/** A run of units. */
export interface UnitRange {
  readonly start: number;
  readonly length: number;
}

const BINS_PER_DOUBLING = 4;
/** Ranges of the request's own bin that are tried before a bigger one is cut. */
const LOOK_AT_MOST = 16;

export class ExtentAllocator {
  /** Start to length, of free ranges. */
  readonly #lengthByStart = new Map<number, number>();
  /** End (exclusive) to start, of free ranges. */
  readonly #startByEnd = new Map<number, number>();
  readonly #bins: Set<number>[] = [];
  #freeUnits = 0;

  private constructor(readonly units: number) {}

  /**
   * A space of `units` in which `taken` is in use.
   *
   * @param taken In order of start.
   * @throws KisekiError `common.corrupt_format` when two overlap, are out of order or out of bounds.
   */
  static rebuild(units: number, taken: Iterable<UnitRange>): ExtentAllocator {
    const allocator = new ExtentAllocator(units);
    let end = 0;
    for (const { start, length } of taken) {
      if (!(length >= 1 && start >= end && start + length <= units)) {
        throw new KisekiError(
          "common.corrupt_format",
          `extent of ${length} units at ${start}: overlaps the one before (ends at ${end}) ` +
            `or the end of the device (${units})`,
        );
      }
      if (start > end) allocator.#insert(end, start - end);
      end = start + length;
    }
    if (units > end) allocator.#insert(end, units - end);
    return allocator;
  }

  get freeUnits(): number {
    return this.#freeUnits;
  }

  /** How many free ranges there are: a measure of fragmentation. */
  get freeRanges(): number {
    return this.#lengthByStart.size;
  }

  /**
   * Takes `length` neighbouring units.
   *
   * @returns their start, or undefined when no free range is long enough.
   */
  allocate(length: number): number | undefined {
    if (!Number.isSafeInteger(length) || length < 1) {
      throw new KisekiError("common.invalid_argument", `not a number of units: ${length}`);
    }
    const start = this.#find(length);
    if (start === undefined) return undefined;
    const found = this.#lengthByStart.get(start) as number;
    this.#remove(start, found);
    if (found > length) this.#insert(start + length, found - length);
    return start;
  }

  /**
   * Gives units back.
   *
   * @throws KisekiError `common.internal` when one of them is free already or beyond the end.
   */
  free(start: number, length: number): void {
    if (!(length >= 1 && start >= 0 && start + length <= this.units)) {
      throw new KisekiError("common.internal", `freed units ${start}+${length} do not exist`);
    }
    if (this.#lengthByStart.has(start) || this.#startByEnd.has(start + length)) {
      throw new KisekiError("common.internal", `freed units ${start}+${length} are free already`);
    }
    let from = start;
    let size = length;
    const before = this.#startByEnd.get(start);
    if (before !== undefined) {
      this.#remove(before, start - before);
      from = before;
      size += start - before;
    }
    const after = this.#lengthByStart.get(start + length);
    if (after !== undefined) {
      this.#remove(start + length, after);
      size += after;
    }
    this.#insert(from, size);
  }

  /** All free ranges, in order of start. For tests and reports. */
  ranges(): readonly UnitRange[] {
    return [...this.#lengthByStart].map(([start, length]) => ({ start, length }))
      .sort((a, b) => a.start - b.start);
  }

  #find(length: number): number | undefined {
    // The bin of `length` itself may hold ranges that are a little too short: look at a few.
    const own = binOf(length);
    let looked = 0;
    for (const start of this.#bins[own] ?? []) {
      if ((this.#lengthByStart.get(start) as number) >= length) return start;
      if (++looked === LOOK_AT_MOST) break;
    }
    for (let bin = own + 1; bin < this.#bins.length; bin++) {
      for (const start of this.#bins[bin] ?? []) return start;
    }
    if (looked < LOOK_AT_MOST) return undefined;
    for (const start of this.#bins[own] ?? []) {
      if ((this.#lengthByStart.get(start) as number) >= length) return start;
    }
    return undefined;
  }

  #insert(start: number, length: number): void {
    this.#lengthByStart.set(start, length);
    this.#startByEnd.set(start + length, start);
    const bin = binOf(length);
    while (this.#bins.length <= bin) this.#bins.push(new Set());
    this.#bins[bin]?.add(start);
    this.#freeUnits += length;
  }

  #remove(start: number, length: number): void {
    this.#lengthByStart.delete(start);
    this.#startByEnd.delete(start + length);
    this.#bins[binOf(length)]?.delete(start);
    this.#freeUnits -= length;
  }
}

/** Grows with the length; equal for lengths within a quarter of a power of two. */
function binOf(length: number): number {
  const log = Math.floor(Math.log2(length));
  const base = 2 ** log;
  return log * BINS_PER_DOUBLING + Math.floor(((length - base) * BINS_PER_DOUBLING) / base);
}
