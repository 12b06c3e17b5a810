/**
 * Time comes in through here, so that tests and simulations can hold it.
 *
 * Invariants: `monotonicMs` never goes back; hybrid timestamps of one clock strictly increase and
 * are never behind a timestamp that was observed.
 */
import { KisekiError } from "./errors.ts";

export interface Clock {
  /** Milliseconds since the Unix epoch; may jump. */
  wallMs(): number;
  /** Milliseconds since an arbitrary start; never goes back. */
  monotonicMs(): number;
  /** Calls back once after `delayMs`. Returns a function that cancels. */
  after(delayMs: number, callback: () => void): () => void;
}

/**
 * The machine's own clocks. Its monotonic time stops while the machine is suspended: what must not
 * outlive a suspend (leases) takes a clock over CLOCK_BOOTTIME instead.
 */
export const SYSTEM_CLOCK: Clock = {
  wallMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  after(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};

/** A clock that a test moves by hand. Timers fire in order of their time inside `advance`. */
export class VirtualClock implements Clock {
  #now: number;
  #next = 1;
  readonly #timers = new Map<number, { readonly at: number; readonly callback: () => void }>();

  constructor(startMs = 1_700_000_000_000) {
    this.#now = startMs;
  }

  wallMs(): number {
    return this.#now;
  }

  monotonicMs(): number {
    return this.#now;
  }

  after(delayMs: number, callback: () => void): () => void {
    const id = this.#next++;
    this.#timers.set(id, { at: this.#now + Math.max(0, delayMs), callback });
    return () => void this.#timers.delete(id);
  }

  /** Moves time on and fires what falls due. */
  advance(ms: number): void {
    const end = this.#now + ms;
    while (true) {
      let due: [number, { readonly at: number; readonly callback: () => void }] | undefined;
      for (const entry of this.#timers) {
        if (entry[1].at <= end && (due === undefined || entry[1].at < due[1].at)) due = entry;
      }
      if (due === undefined) break;
      this.#timers.delete(due[0]);
      this.#now = Math.max(this.#now, due[1].at);
      due[1].callback();
    }
    this.#now = end;
  }
}

/**
 * A hybrid logical timestamp: 48 bits of wall milliseconds, 16 bits of counter, as one bigint
 * (Kulkarni et al., "Logical Physical Clocks", 2014).
 */
export type HybridTimestamp = bigint;

const COUNTER_BITS = 16n;
/** How far ahead of this node's wall clock an observed timestamp may be. */
export const MAX_CLOCK_SKEW_MS = 60_000;

export class HybridClock {
  readonly #clock: Clock;
  #last: HybridTimestamp = 0n;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  now(): HybridTimestamp {
    const wall = BigInt(Math.max(0, Math.floor(this.#clock.wallMs()))) << COUNTER_BITS;
    this.#last = wall > this.#last ? wall : this.#last + 1n;
    return this.#last;
  }

  /**
   * Takes note of a timestamp from elsewhere: what follows is later.
   *
   * @throws KisekiError `common.failed_precondition` when it is over {@link MAX_CLOCK_SKEW_MS} ahead.
   */
  observe(timestamp: HybridTimestamp): void {
    const aheadMs = hybridToMs(timestamp) - this.#clock.wallMs();
    if (aheadMs > MAX_CLOCK_SKEW_MS) {
      throw new KisekiError(
        "common.failed_precondition",
        `a timestamp ${
          Math.round(aheadMs)
        } ms ahead of this node's clock (max ${MAX_CLOCK_SKEW_MS}): check time synchronisation`,
      );
    }
    if (timestamp > this.#last) this.#last = timestamp;
  }
}

/** Wall milliseconds of a hybrid timestamp. */
export function hybridToMs(timestamp: HybridTimestamp): number {
  return Number(timestamp >> COUNTER_BITS);
}
