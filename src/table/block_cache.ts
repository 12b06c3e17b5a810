/**
 * A bounded cache of opened blocks, shared by the tables of one isolate.
 *
 * Eviction is CLOCK: a hit sets one bit, the hand clears it and takes the next block without. A
 * cached block is found through its run's own slot array, so a hit costs no hashing.
 *
 * Invariants: `usedBytes` is at most `capacityBytes`; a block in the ring is in its owner's slot.
 */
import type { Bytes } from "../common/bytes.ts";
import { SegmentPool } from "./segment_pool.ts";
import type { BlockCache } from "./table.ts";

/** Default capacity. */
export const DEFAULT_BLOCK_CACHE_BYTES = 64 * 1024 * 1024;

/** One opened block; immutable. */
export interface CachedBlock {
  readonly bytes: Bytes;
  readonly slots: (CachedBlock | undefined)[];
  readonly slot: number;
  used: boolean;
}

export class ClockBlockCache implements BlockCache {
  readonly capacityBytes: number;
  /** Spare memory of the same tables' memory tables, bounded on its own. */
  readonly segments: SegmentPool = new SegmentPool();
  #usedBytes = 0;
  #hits = 0;
  #misses = 0;
  #ring: CachedBlock[] = [];
  #hand = 0;

  constructor(capacityBytes: number = DEFAULT_BLOCK_CACHE_BYTES) {
    this.capacityBytes = capacityBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  get hits(): number {
    return this.#hits;
  }

  get misses(): number {
    return this.#misses;
  }

  /** The block in an owner's slot. */
  get(slots: (CachedBlock | undefined)[], slot: number): Bytes | undefined {
    const block = slots[slot];
    if (block === undefined) {
      this.#misses++;
      return undefined;
    }
    this.#hits++;
    block.used = true;
    return block.bytes;
  }

  /** Keeps a block until room is needed. A block larger than the cache is not kept. */
  put(slots: (CachedBlock | undefined)[], slot: number, bytes: Bytes): void {
    if (bytes.length > this.capacityBytes || slots[slot] !== undefined) return;
    const block: CachedBlock = { bytes, slots, slot, used: false };
    slots[slot] = block;
    while (this.#usedBytes + bytes.length > this.capacityBytes) {
      const victim = this.#victim();
      this.#drop(victim);
    }
    this.#ring.push(block);
    this.#usedBytes += bytes.length;
  }

  /** Forgets all blocks of an owner that goes away. */
  forget(slots: (CachedBlock | undefined)[]): void {
    this.#ring = this.#ring.filter((block) => {
      if (block.slots !== slots) return true;
      this.#usedBytes -= block.bytes.length;
      return false;
    });
    this.#hand = 0;
    slots.length = 0;
  }

  /** The place of the next block that was not used since the hand last passed. */
  #victim(): number {
    while (true) {
      if (this.#hand >= this.#ring.length) this.#hand = 0;
      const block = this.#ring[this.#hand] as CachedBlock;
      if (!block.used) return this.#hand;
      block.used = false;
      this.#hand++;
    }
  }

  #drop(at: number): void {
    const block = this.#ring[at] as CachedBlock;
    block.slots[block.slot] = undefined;
    this.#usedBytes -= block.bytes.length;
    const last = this.#ring.pop();
    if (last !== undefined && last !== block) this.#ring[at] = last;
  }
}
