/**
 * A bounded ring of messages between two isolates, on shared memory: one producer, one consumer.
 *
 * Layout of the shared buffer: 64 bytes of counters, then `capacity` bytes of data (a power of
 * two). Counters are 32-bit and wrap: `tail` counts bytes ever written, `head` bytes ever read.
 *
 * | offset | field                                                                  |
 * |-------:|------------------------------------------------------------------------|
 * |      0 | tail, written by the producer                                          |
 * |      4 | head, written by the consumer                                          |
 * |      8 | 1 while the consumer sleeps on `tail`                                  |
 * |     12 | 1 while the producer sleeps on `head`                                  |
 * |     16 | 1 once closed, by either side                                          |
 *
 * A message is u32 length and bytes, padded to 8; it never wraps: length 0xFFFFFFFF tells the
 * consumer to skip to the start.
 *
 * Invariants: a message is visible only when whole; a full ring is backpressure, never loss; the
 * bytes handed to the consumer are a view that is valid until it returns.
 */
import { setImmediate } from "node:timers";
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";

const TAIL = 0;
const HEAD = 1;
const CONSUMER_SLEEPS = 2;
const PRODUCER_SLEEPS = 3;
const CLOSED = 4;
const HEADER_BYTES = 64;
const SKIP = 0xffff_ffff;

/** Shared memory of a ring of `capacity` bytes (a power of two, 64 KiB to 64 MiB). */
export function newRingMemory(capacity: number): SharedArrayBuffer {
  if (capacity < 65_536 || capacity > (64 << 20) || (capacity & (capacity - 1)) !== 0) {
    throw new KisekiError("common.invalid_argument", `ring capacity ${capacity}`);
  }
  return new SharedArrayBuffer(HEADER_BYTES + capacity);
}

class Ring {
  protected readonly counters: Int32Array<SharedArrayBuffer>;
  protected readonly data: Uint8Array<SharedArrayBuffer>;
  protected readonly lengths: Uint32Array<SharedArrayBuffer>;
  protected readonly capacity: number;

  constructor(memory: SharedArrayBuffer) {
    this.capacity = memory.byteLength - HEADER_BYTES;
    this.counters = new Int32Array(memory, 0, HEADER_BYTES / 4);
    this.data = new Uint8Array(memory, HEADER_BYTES, this.capacity);
    this.lengths = new Uint32Array(memory, HEADER_BYTES, this.capacity / 4);
  }

  get closed(): boolean {
    return Atomics.load(this.counters, CLOSED) === 1;
  }

  /** Wakes the other side and ends the ring. */
  close(): void {
    Atomics.store(this.counters, CLOSED, 1);
    Atomics.notify(this.counters, TAIL);
    Atomics.notify(this.counters, HEAD);
  }
}

/** The writing end. */
export class RingProducer extends Ring {
  #waiting: Promise<void> = Promise.resolve();
  #queued = 0;
  #waking = false;

  /** Largest message. */
  get maxMessageBytes(): number {
    return this.capacity / 4;
  }

  /** Messages that wait for room: what the caller may use as backpressure. */
  get queued(): number {
    return this.#queued;
  }

  /**
   * Writes `parts` as one message, in order of calls; waits while the ring is full.
   *
   * @throws KisekiError `common.limit_exceeded`, `common.unavailable` once the ring is closed.
   */
  send(parts: readonly Bytes[]): void | Promise<void> {
    let size = 0;
    for (const part of parts) size += part.length;
    if (size > this.maxMessageBytes) {
      throw new KisekiError(
        "common.limit_exceeded",
        `a message of ${size} bytes between isolates (max ${this.maxMessageBytes})`,
      );
    }
    if (this.#queued === 0 && this.#trySend(parts, size)) return;
    const kept = parts.map((part) => part.slice());
    this.#queued++;
    this.#waiting = this.#waiting.then(() => this.#sendLater(kept, size)).finally(() => {
      this.#queued--;
    });
    return this.#waiting;
  }

  #trySend(parts: readonly Bytes[], size: number): boolean {
    if (this.closed) throw ringClosed();
    const tail = Atomics.load(this.counters, TAIL);
    const head = Atomics.load(this.counters, HEAD);
    const free = this.capacity - ((tail - head) >>> 0);
    const at = (tail >>> 0) % this.capacity;
    const need = (size + 4 + 7) & ~7;
    const toEnd = this.capacity - at;
    let start = at;
    let total = need;
    if (need > toEnd) {
      total = toEnd + need;
      start = 0;
    }
    if (total > free) return false;
    if (start !== at) this.lengths[at >>> 2] = SKIP;
    this.lengths[start >>> 2] = size;
    let offset = start + 4;
    for (const part of parts) {
      this.data.set(part, offset);
      offset += part.length;
    }
    Atomics.store(this.counters, TAIL, (tail + total) | 0);
    if (!this.#waking && Atomics.load(this.counters, CONSUMER_SLEEPS) === 1) {
      this.#waking = true;
      setImmediate(this.#wake);
    }
    return true;
  }

  /** One wake-up for all that one turn of the event loop has sent: it costs a system call. */
  readonly #wake = (): void => {
    this.#waking = false;
    Atomics.notify(this.counters, TAIL);
  };

  async #sendLater(parts: readonly Bytes[], size: number): Promise<void> {
    const alive = keepAlive();
    try {
      await this.#retry(parts, size);
    } finally {
      alive.end();
    }
  }

  async #retry(parts: readonly Bytes[], size: number): Promise<void> {
    while (true) {
      const head = Atomics.load(this.counters, HEAD);
      Atomics.store(this.counters, PRODUCER_SLEEPS, 1);
      if (this.#trySend(parts, size)) {
        Atomics.store(this.counters, PRODUCER_SLEEPS, 0);
        return;
      }
      const wait = Atomics.waitAsync(this.counters, HEAD, head);
      if (wait.async) await wait.value;
    }
  }
}

/** The reading end. */
export class RingConsumer extends Ring {
  /** Messages to take before the event loop gets a turn. */
  static readonly BATCH = 256;

  /**
   * Calls `visit` for every message, until the ring is closed. `visit` must not await: it takes
   * what it needs from the view and returns.
   */
  async run(visit: (message: Bytes) => void): Promise<void> {
    const alive = keepAlive();
    try {
      await this.#loop(visit);
    } finally {
      alive.end();
    }
  }

  async #loop(visit: (message: Bytes) => void): Promise<void> {
    while (true) {
      let taken = 0;
      while (taken < RingConsumer.BATCH && this.#take(visit)) taken++;
      if (taken === RingConsumer.BATCH) {
        await new Promise<void>((resolve) => setImmediate(resolve));
        continue;
      }
      if (this.closed) return;
      const tail = Atomics.load(this.counters, TAIL);
      Atomics.store(this.counters, CONSUMER_SLEEPS, 1);
      if (Atomics.load(this.counters, TAIL) === Atomics.load(this.counters, HEAD) && !this.closed) {
        const wait = Atomics.waitAsync(this.counters, TAIL, tail);
        if (wait.async) await wait.value;
      }
      Atomics.store(this.counters, CONSUMER_SLEEPS, 0);
    }
  }

  #take(visit: (message: Bytes) => void): boolean {
    const tail = Atomics.load(this.counters, TAIL);
    let head = Atomics.load(this.counters, HEAD);
    if (tail === head) return false;
    let at = (head >>> 0) % this.capacity;
    let size = this.lengths[at >>> 2] as number;
    if (size === SKIP) {
      head = (head + this.capacity - at) | 0;
      at = 0;
      size = this.lengths[0] as number;
    }
    try {
      visit(this.data.subarray(at + 4, at + 4 + size));
    } finally {
      Atomics.store(this.counters, HEAD, (head + ((size + 4 + 7) & ~7)) | 0);
      if (Atomics.load(this.counters, PRODUCER_SLEEPS) === 1) Atomics.notify(this.counters, HEAD);
    }
    return true;
  }
}

/** `Atomics.waitAsync` alone does not keep Deno's event loop alive; a far timer does. */
function keepAlive(): { end(): void } {
  const timer = setInterval(() => undefined, 0x7fff_ffff);
  return { end: () => clearInterval(timer) };
}

function ringClosed(): KisekiError {
  return new KisekiError("common.unavailable", "the isolate at the other end has stopped", {
    retriable: true,
  });
}
