/**
 * Where the entries of one shard lie in the log: one slot an entry, contiguous indexes.
 *
 * 14 bytes an entry in RAM; bounded by what the log itself still holds.
 */
import { KisekiError } from "../common/errors.ts";

/** A place in the log. */
export interface EntryPosition {
  readonly segment: number;
  readonly offset: number;
  /** Record header and data, without padding. */
  readonly bytes: number;
}

/** Positions of the entries `first` to `last` of a shard. */
export class EntryPositions {
  #segments = new Float64Array(64);
  #offsets = new Uint32Array(64);
  #bytes = new Uint32Array(64);
  #start = 0;
  #count = 0;
  #first = 1;

  /** Index of the first entry held; `last + 1` when there is none. */
  get first(): number {
    return this.#first;
  }

  get last(): number {
    return this.#first + this.#count - 1;
  }

  /** True when `index` may be pushed next: it follows the last one, or nothing is held. */
  accepts(index: number): boolean {
    return this.#count === 0 || index === this.last + 1;
  }

  /** @throws KisekiError `common.internal` on a gap. */
  push(index: number, segment: number, offset: number, bytes: number): void {
    if (this.#count === 0) this.#first = index;
    else if (index !== this.last + 1) {
      throw new KisekiError("common.internal", `entry ${index} after ${this.last}`);
    }
    const at = this.#start + this.#count;
    if (at === this.#offsets.length) return this.#makeRoom(index, segment, offset, bytes);
    this.#segments[at] = segment;
    this.#offsets[at] = offset;
    this.#bytes[at] = bytes;
    this.#count++;
  }

  get(index: number): EntryPosition | undefined {
    if (index < this.#first || index > this.last) return undefined;
    const at = this.#start + index - this.#first;
    return {
      segment: this.#segments[at] as number,
      offset: this.#offsets[at] as number,
      bytes: this.#bytes[at] as number,
    };
  }

  /** Forgets `index` and all after it. */
  truncateFrom(index: number): void {
    if (index > this.last) return;
    this.#count = Math.max(0, index - this.#first);
  }

  /** Forgets all up to `index`. */
  dropThrough(index: number): void {
    const dropped = Math.min(this.#count, Math.max(0, index + 1 - this.#first));
    this.#start += dropped;
    this.#count -= dropped;
    this.#first += dropped;
    if (this.#count === 0) this.#start = 0;
  }

  #makeRoom(index: number, segment: number, offset: number, bytes: number): void {
    const size = this.#start > this.#count ? this.#offsets.length : 2 * this.#offsets.length;
    const end = this.#start + this.#count;
    const segments = new Float64Array(size);
    segments.set(this.#segments.subarray(this.#start, end));
    const offsets = new Uint32Array(size);
    offsets.set(this.#offsets.subarray(this.#start, end));
    const lengths = new Uint32Array(size);
    lengths.set(this.#bytes.subarray(this.#start, end));
    this.#segments = segments;
    this.#offsets = offsets;
    this.#bytes = lengths;
    this.#start = 0;
    this.push(index, segment, offset, bytes);
  }
}
