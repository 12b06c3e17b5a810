/**
 * A device in memory whose power can be cut, for tests.
 *
 * What it promises is what fdatasync promises and no more: a write is in the cache at once and on
 * the medium at some time before the next completed sync, sector by sector, in any order. After a
 * cut, each sector of 4 KiB that a pending write touched holds its durable content, any of the
 * pending versions, or a torn mix of two neighbouring versions at a boundary of 512 bytes.
 */
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { BLOCK_BYTES, type BlockFile } from "./ports.ts";

const TEAR_BYTES = 512;

/** The power of everything that is cut off together. */
export class Power {
  #steps = 0;
  #cutAfter = Number.POSITIVE_INFINITY;

  /** Writes, discards, syncs and whatever else was begun so far. */
  get steps(): number {
    return this.#steps;
  }

  get isOff(): boolean {
    return this.#steps >= this.#cutAfter;
  }

  /** The power goes when `steps` more were begun; the last of them may be half done. */
  cutAfter(steps: number): void {
    this.#cutAfter = this.#steps + steps;
  }

  /** @throws KisekiError `block.io` when the power is off. */
  begin(): void {
    this.requireOn();
    this.#steps++;
  }

  /** @throws KisekiError `block.io` when the power is off. */
  requireOn(): void {
    if (this.isOff) throw new KisekiError("block.io", "the power is off");
  }
}

export class MemoryBlockFile implements BlockFile {
  readonly name: string;
  readonly power: Power;
  readonly #cache: Bytes;
  readonly #durable: Bytes;
  /** Versions of touched sectors since the last completed sync, oldest first, by sector number. */
  #pending = new Map<number, Bytes[]>();

  /** @param image What is on the medium; its length is the device's size. */
  constructor(image: Bytes | number, name = "memory", power: Power = new Power()) {
    this.name = name;
    this.power = power;
    this.#durable = typeof image === "number" ? new Uint8Array(image) : image.slice();
    this.#cache = this.#durable.slice();
  }

  get sizeBytes(): number {
    return this.#durable.length;
  }

  async read(offset: number, into: Bytes): Promise<void> {
    this.#check(offset, into.length);
    this.power.requireOn();
    into.set(this.#cache.subarray(offset, offset + into.length));
  }

  async write(offset: number, bytes: Bytes): Promise<void> {
    this.#check(offset, bytes.length);
    this.#apply(offset, bytes);
  }

  async sync(): Promise<void> {
    this.power.begin();
    const covered = this.#pending;
    this.#pending = new Map();
    await Promise.resolve();
    if (this.power.isOff) {
      for (const [sector, versions] of this.#pending) {
        covered.set(sector, [...covered.get(sector) ?? [], ...versions]);
      }
      this.#pending = covered;
      this.power.requireOn();
    }
    for (const [sector, versions] of covered) {
      const last = versions.at(-1);
      if (last !== undefined) this.#durable.set(last, sector * BLOCK_BYTES);
    }
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#check(offset, length);
    this.#apply(offset, new Uint8Array(length));
  }

  async close(): Promise<void> {}

  /** In how many ways the medium may look after a cut now. May be astronomic. */
  imageCount(): number {
    let count = 1;
    for (const sector of this.#pending.keys()) count *= this.#choices(sector).length;
    return count;
  }

  /**
   * What the medium may hold after a cut now: all of it when there are at most `most` images, else
   * `most` drawn with `random`, both extremes (all lost, all written) among them.
   */
  *images(most: number, random: () => number): Generator<Bytes> {
    const sectors = [...this.#pending.keys()].map((sector) => ({
      sector,
      choices: this.#choices(sector),
    }));
    const total = this.imageCount();
    for (let i = 0; i < Math.min(total, most); i++) {
      const image = this.#durable.slice();
      let rest = i;
      for (const { sector, choices } of sectors) {
        let at: number;
        if (total <= most) {
          at = rest % choices.length;
          rest = Math.floor(rest / choices.length);
        } else if (i < 2) at = i;
        else at = Math.floor(random() * choices.length);
        const content = choices[at];
        if (content !== undefined) image.set(content, sector * BLOCK_BYTES);
      }
      yield image;
    }
  }

  /** First the durable content, then the last version, then what lies between and torn mixes. */
  #choices(sector: number): Bytes[] {
    const old = this.#durable.slice(sector * BLOCK_BYTES, (sector + 1) * BLOCK_BYTES);
    const versions = [old, ...this.#pending.get(sector) ?? []];
    const choices: Bytes[] = [old, versions.at(-1) ?? old, ...versions.slice(1, -1)];
    for (let i = 1; i < versions.length; i++) {
      const [before, after] = [versions[i - 1] as Bytes, versions[i] as Bytes];
      for (let cut = TEAR_BYTES; cut < BLOCK_BYTES; cut += TEAR_BYTES) {
        for (const [head, tail] of [[after, before], [before, after]] as const) {
          const torn = head.slice();
          torn.set(tail.subarray(cut), cut);
          choices.push(torn);
        }
      }
    }
    const distinct = new Map(choices.map((bytes) => [String.fromCharCode(...bytes), bytes]));
    return [...distinct.values()];
  }

  #apply(offset: number, bytes: Bytes): void {
    this.power.begin();
    this.#cache.set(bytes, offset);
    for (let at = offset; at < offset + bytes.length; at += BLOCK_BYTES) {
      const sector = at / BLOCK_BYTES;
      const version = this.#cache.slice(at, at + BLOCK_BYTES);
      const versions = this.#pending.get(sector);
      if (versions === undefined) this.#pending.set(sector, [version]);
      else versions.push(version);
    }
    this.power.requireOn();
  }

  #check(offset: number, length: number): void {
    if (offset % BLOCK_BYTES !== 0 || length % BLOCK_BYTES !== 0) {
      throw new KisekiError("common.internal", `unaligned transfer: ${length} bytes at ${offset}`);
    }
    if (offset + length > this.sizeBytes) {
      throw new KisekiError("block.io", `${this.name}: ${offset + length} is beyond its end`);
    }
  }
}
