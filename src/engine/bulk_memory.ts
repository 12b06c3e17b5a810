/**
 * Bulk memory: one shared buffer per gateway, from which chunk envelopes and fragments are cut, so
 * that a device isolate writes and reads them where they lie.
 *
 * Sizes are rounded up to a class (powers of two and one and a half times them, 64 KiB to 8 MiB)
 * and taken from free lists over 8 MiB slabs. When the shared buffer is used up, `acquire` gives
 * private memory and `acquireShared` waits: slower, never wrong.
 *
 * Invariants: a buffer is handed out once until it is released; releasing a private or an unknown
 * buffer does nothing; every buffer starts on a 4 KiB boundary of the shared buffer's own address.
 */
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";

export const SLAB_BYTES = 8 << 20;
const SMALLEST_CLASS = 64 << 10;
const PAGE = 4096;
/** Share of the memory that `acquire` gives out. */
const LENDABLE_SHARE = 0.75;

/** The place of a buffer inside the shared memory. */
export interface BulkPlace {
  readonly offset: number;
  readonly length: number;
}

export class SharedBulkMemory {
  readonly memory: SharedArrayBuffer;
  readonly #base: number;
  readonly #free = new Map<number, number[]>();
  readonly #taken = new Map<number, number>();
  #freeSlabs: number[] = [];
  #shortages = 0;
  #takenBytes = 0;
  readonly #lendable: number;
  readonly #waiting: { readonly size: number; readonly resolve: (buffer: Bytes) => void }[] = [];

  /**
   * @param memory The shared buffer; a multiple of 8 MiB plus one page is used best.
   * @param addressOf The buffer's address modulo 4096, for alignment (0 when that is unknown).
   */
  constructor(memory: SharedArrayBuffer, addressOf = 0) {
    this.memory = memory;
    this.#base = (PAGE - (addressOf % PAGE)) % PAGE;
    for (let at = this.#base; at + SLAB_BYTES <= memory.byteLength; at += SLAB_BYTES) {
      this.#freeSlabs.push(at);
    }
    this.#freeSlabs.reverse();
    this.#lendable = Math.floor(this.#freeSlabs.length * SLAB_BYTES * LENDABLE_SHARE);
  }

  /** How often there was no room at once. */
  get shortages(): number {
    return this.#shortages;
  }

  get takenBytes(): number {
    return this.#takenBytes;
  }

  /**
   * A buffer of exactly `size` bytes, not zeroed, for as long as the holder likes. A share of the
   * memory is kept back for {@link acquireShared}, so that slow holders stop nobody.
   *
   * @throws KisekiError above 8 MiB.
   */
  acquire(size: number): Bytes {
    const place = this.#takenBytes < this.#lendable ? this.#take(size) : undefined;
    if (place === undefined) {
      this.#shortages++;
      return new Uint8Array(size);
    }
    return new Uint8Array(this.memory, place, size);
  }

  /**
   * A buffer in the shared memory; waits, in order of the calls, until there is room. For holders
   * that give it back soon whatever a client does.
   */
  acquireShared(size: number): Bytes | Promise<Bytes> {
    const place = this.#waiting.length > 0 ? undefined : this.#take(size);
    if (place !== undefined) return new Uint8Array(this.memory, place, size);
    this.#shortages++;
    const { promise, resolve } = Promise.withResolvers<Bytes>();
    this.#waiting.push({ size, resolve });
    return promise;
  }

  release(buffer: Bytes): void {
    if (buffer.buffer !== this.memory) return;
    const size = this.#taken.get(buffer.byteOffset);
    if (size === undefined) return;
    this.#taken.delete(buffer.byteOffset);
    this.#takenBytes -= size;
    this.#give(buffer.byteOffset, size);
    while (this.#waiting.length > 0) {
      const [next] = this.#waiting;
      if (next === undefined) return;
      const place = this.#take(next.size);
      if (place === undefined) return;
      this.#waiting.shift();
      next.resolve(new Uint8Array(this.memory, place, next.size));
    }
  }

  /** Where a view lies; undefined for private memory. */
  placeOf(view: Bytes): BulkPlace | undefined {
    return view.buffer === this.memory
      ? { offset: view.byteOffset, length: view.length }
      : undefined;
  }

  #take(size: number): number | undefined {
    if (size > SLAB_BYTES) {
      throw new KisekiError("common.limit_exceeded", `a bulk buffer of ${size} bytes (max 8 MiB)`);
    }
    const wanted = classOf(size);
    let offset = this.#free.get(wanted)?.pop();
    if (offset === undefined) {
      const slab = this.#freeSlabs.pop() ?? this.#reclaimSlab();
      if (slab === undefined) return undefined;
      offset = slab;
      for (let at = slab + wanted; at + wanted <= slab + SLAB_BYTES; at += wanted) {
        this.#give(at, wanted);
      }
    }
    this.#taken.set(offset, wanted);
    this.#takenBytes += wanted;
    return offset;
  }

  #give(offset: number, size: number): void {
    const list = this.#free.get(size);
    if (list === undefined) this.#free.set(size, [offset]);
    else list.push(offset);
  }

  /** Finds a slab all of whose pieces are free, whatever their class. */
  #reclaimSlab(): number | undefined {
    const takenSlabs = new Set<number>();
    for (const offset of this.#taken.keys()) takenSlabs.add(this.#slabOf(offset));
    for (let slab = this.#base; slab + SLAB_BYTES <= this.memory.byteLength; slab += SLAB_BYTES) {
      if (takenSlabs.has(slab)) continue;
      for (const [size, list] of this.#free) {
        this.#free.set(size, list.filter((offset) => this.#slabOf(offset) !== slab));
      }
      this.#freeSlabs = this.#freeSlabs.filter((free) => free !== slab);
      return slab;
    }
    return undefined;
  }

  #slabOf(offset: number): number {
    return this.#base + Math.floor((offset - this.#base) / SLAB_BYTES) * SLAB_BYTES;
  }
}

function classOf(size: number): number {
  let power = SMALLEST_CLASS;
  while (power < size) {
    const half = power + power / 2;
    if (half >= size && half % PAGE === 0 && half < SLAB_BYTES) return half;
    power *= 2;
  }
  return power;
}
