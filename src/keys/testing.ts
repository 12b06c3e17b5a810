/**
 * A slot file in memory that loses power, is killed, or fails, at any chosen step. For tests alone.
 *
 * A step is one write or one sync. Writes since the last sync are in the page cache: a kill keeps
 * them, a power cut does to them what `Loss` says.
 */
import type { Bytes } from "../common/bytes.ts";
import { SLOT_PAGE_SIZE } from "./key_slot_format.ts";
import type { SlotStorage } from "./slot_storage.ts";

/** What a power cut does to writes that were not synced. */
export type Loss = "lost" | "applied" | "torn" | "garbage pages";
export const LOSSES: readonly Loss[] = ["lost", "applied", "torn", "garbage pages"];

/** Thrown at the chosen step: nothing runs after it. */
export class Crash extends Error {}

interface Write {
  readonly offset: number;
  readonly bytes: Bytes;
}

/** See the module's comment. */
export class MemorySlotStorage implements SlotStorage {
  #durable: Bytes;
  #pending: Write[];
  #steps = 0;
  #crashAt: number;
  #failAt: number;
  closed = false;

  /** @param crashAt Step, from 1, that does not happen; @param failAt step that reports an error. */
  constructor(
    durable: Bytes,
    options: {
      readonly crashAt?: number;
      readonly failAt?: number;
      readonly pending?: readonly Write[];
    } = {},
  ) {
    this.#durable = durable.slice();
    this.#pending = [...options.pending ?? []];
    this.#crashAt = options.crashAt ?? Infinity;
    this.#failAt = options.failAt ?? Infinity;
  }

  get steps(): number {
    return this.#steps;
  }

  /** Chooses the step from here. */
  crashAfter(steps: number): void {
    this.#crashAt = this.#steps + steps;
  }

  failAfter(steps: number): void {
    this.#failAt = this.#steps + steps;
  }

  read(offset: number, length: number): Bytes {
    const out = new Uint8Array(length);
    out.set(this.cache().subarray(offset, offset + length));
    return out;
  }

  write(offset: number, bytes: Bytes): void {
    this.#step();
    this.#pending.push({ offset, bytes: bytes.slice() });
  }

  async sync(): Promise<void> {
    this.#step();
    this.#durable = this.cache();
    this.#pending = [];
  }

  size(): number {
    return this.cache().length;
  }

  close(): void {
    this.closed = true;
  }

  /** What a reader sees: durable bytes under those that wait. */
  cache(): Bytes {
    return this.#pending.reduce(apply, this.#durable);
  }

  /** The process died, the machine lives. */
  killed(crashAt = Infinity): MemorySlotStorage {
    return new MemorySlotStorage(this.#durable, { crashAt, pending: this.#pending });
  }

  /** The power went. */
  afterPowerCut(loss: Loss, crashAt = Infinity): MemorySlotStorage {
    if (loss === "lost") return new MemorySlotStorage(this.#durable, { crashAt });
    if (loss === "applied") return new MemorySlotStorage(this.cache(), { crashAt });
    const left = this.#pending.map((write) => loss === "torn" ? torn(write) : garbage(write));
    return new MemorySlotStorage(left.reduce(apply, this.#durable), { crashAt });
  }

  #step(): void {
    this.#steps++;
    if (this.#steps >= this.#crashAt) throw new Crash();
    if (this.#steps === this.#failAt) throw new Error("EIO");
  }
}

function torn({ offset, bytes }: Write): Write {
  return { offset, bytes: bytes.subarray(0, Math.min(200, bytes.length - 1)) };
}

/** Every page that the write touches. */
function garbage({ offset, bytes }: Write): Write {
  const first = Math.floor(offset / SLOT_PAGE_SIZE) * SLOT_PAGE_SIZE;
  const end = Math.ceil((offset + bytes.length) / SLOT_PAGE_SIZE) * SLOT_PAGE_SIZE;
  return { offset: first, bytes: new Uint8Array(end - first).fill(0xdb) };
}

function apply(under: Bytes, { offset, bytes }: Write): Bytes {
  const out = new Uint8Array(Math.max(under.length, offset + bytes.length));
  out.set(under);
  out.set(bytes, offset);
  return out;
}

/** True when `needle` lies anywhere in `bytes`. */
export function contains(bytes: Bytes, needle: Bytes): boolean {
  for (let i = bytes.indexOf(needle[0] ?? 0); i >= 0; i = bytes.indexOf(needle[0] ?? 0, i + 1)) {
    if (needle.every((byte, j) => bytes[i + j] === byte)) return true;
  }
  return false;
}
