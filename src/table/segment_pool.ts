/**
 * Spare arena segments of the memory tables of one isolate.
 *
 * A fold sets some 16 MB of shared memory free. V8 does not count shared memory when it decides
 * to collect, and a Worker that saw it keeps it alive: used again, it stays bounded, and is not
 * faulted in page by page each time.
 *
 * Invariant: a segment is in the pool or in one memory table, never in both.
 */

/** Sizes of segments: a table's first is the smallest, each next is twice as large. */
export const SEGMENT_SIZES: readonly number[] = [1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20];
/** Default bound of what is kept. */
export const DEFAULT_SPARE_BYTES = 48 * 1024 * 1024;

export class SegmentPool {
  readonly #capacityBytes: number;
  readonly #spare = new Map<number, Uint8Array[]>();
  #bytes = 0;

  constructor(capacityBytes: number = DEFAULT_SPARE_BYTES) {
    this.#capacityBytes = capacityBytes;
    for (const size of SEGMENT_SIZES) this.#spare.set(size, []);
  }

  /** Bytes that wait to be used again. */
  get spareBytes(): number {
    return this.#bytes;
  }

  /** A segment of this size; its content is whatever it was. */
  take(size: number): Uint8Array {
    const spare = this.#spare.get(size)?.pop();
    if (spare === undefined) return new Uint8Array(new SharedArrayBuffer(size));
    this.#bytes -= size;
    return spare;
  }

  /** Takes segments back; what is over the bound or of another size is dropped. */
  give(segments: readonly Uint8Array[]): void {
    for (const segment of segments) {
      const spare = this.#spare.get(segment.length);
      if (spare === undefined || this.#bytes + segment.length > this.#capacityBytes) continue;
      spare.push(segment);
      this.#bytes += segment.length;
    }
  }
}
