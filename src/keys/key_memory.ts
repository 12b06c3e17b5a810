/**
 * Memory for keys: pages of their own, left out of core dumps, locked where the limit allows it,
 * zeroed when a key is released.
 *
 * Invariants: a key is 32 bytes; a released key throws on use; pages are given back only by
 * `close`, after all were zeroed and every key was revoked, so that no late holder touches memory
 * that is gone; a key shows itself neither to JSON nor to a log.
 */
import type { AlignedBuffer, Libc } from "../../ffi/libc.ts";
import { errnoName, ResourceLimit } from "../../ffi/libc_constants.ts";
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";

/** Bytes of every key that this memory holds. */
export const KEY_SIZE = 32;
const PAGE_SIZE = 4096;
const PAGES_AT_ONCE = 4;

/** One key in locked memory. */
export interface SecretKey {
  /**
   * A view of the key, to be used at once and not kept; throws `keys.unavailable` after `release`
   * and after the memory was closed. Never copy it to a log.
   */
  readonly bytes: Bytes;
  /** Zeroes the key. Harmless when repeated. */
  release(): void;
}

/** What protects the memory, for health and `kiseki doctor`. */
export interface KeyMemoryReport {
  readonly keys: number;
  readonly locked: boolean;
  readonly excludedFromCoreDumps: boolean;
  /** Why a protection is missing. */
  readonly reason: string | undefined;
}

/** An arena of 32-byte keys. */
export class KeyMemory {
  readonly #libc: Libc;
  readonly #pages: AlignedBuffer[] = [];
  readonly #free: Bytes[] = [];
  readonly #live = new Set<HeldKey>();
  #closed = false;
  #locked = true;
  #excluded = true;
  #reason: string | undefined;

  constructor(libc: Libc) {
    this.#libc = libc;
  }

  /**
   * Copies a key in. The caller zeroes its own copy.
   *
   * @throws KisekiError `common.invalid_argument` unless the key has 32 bytes; `keys.unavailable`
   *   after `close`.
   */
  hold(key: Bytes): SecretKey {
    if (key.length !== KEY_SIZE) {
      throw new KisekiError("common.invalid_argument", `a key of ${key.length} bytes (32 wanted)`);
    }
    if (this.#closed) throw new KisekiError("keys.unavailable", "the memory of keys was closed");
    if (this.#free.length === 0) this.#grow();
    const slot = this.#free.pop();
    if (slot === undefined) throw new KisekiError("common.internal", "no memory for a key");
    slot.set(key);
    const held: HeldKey = new HeldKey(slot, () => {
      this.#live.delete(held);
      this.#free.push(slot);
    });
    this.#live.add(held);
    return held;
  }

  report(): KeyMemoryReport {
    return {
      keys: this.#live.size,
      locked: this.#locked,
      excludedFromCoreDumps: this.#excluded,
      reason: this.#reason,
    };
  }

  /** Zeroes, revokes and frees everything. Harmless when repeated. */
  close(): void {
    this.#closed = true;
    for (const held of [...this.#live]) held.release();
    this.#free.length = 0;
    for (const pages of this.#pages) {
      pages.bytes.fill(0);
      this.#libc.munlock(pages);
      pages.free();
    }
    this.#pages.length = 0;
  }

  #grow(): void {
    const pages = this.#libc.allocateAligned(PAGES_AT_ONCE * PAGE_SIZE, PAGE_SIZE);
    pages.bytes.fill(0);
    const dump = this.#libc.excludeFromCoreDump(pages);
    const lock = this.#libc.mlock(pages);
    if (dump < 0) {
      this.#excluded = false;
      this.#reason = `madvise(MADV_DONTDUMP): ${errnoName(dump)}`;
    }
    if (lock < 0) {
      this.#locked = false;
      this.#reason = `mlock: ${errnoName(lock)} (raise the limit of locked memory)`;
    }
    this.#pages.push(pages);
    for (let at = 0; at < pages.bytes.length; at += KEY_SIZE) {
      this.#free.push(pages.bytes.subarray(at, at + KEY_SIZE));
    }
  }
}

/** A class, not a literal: its getter lies on the prototype, where JSON and inspection do not look. */
class HeldKey implements SecretKey {
  #slot: Bytes | undefined;
  readonly #given: () => void;

  constructor(slot: Bytes, given: () => void) {
    this.#slot = slot;
    this.#given = given;
  }

  get bytes(): Bytes {
    if (this.#slot === undefined) {
      throw new KisekiError("keys.unavailable", "a key was used after its release");
    }
    return this.#slot;
  }

  release(): void {
    if (this.#slot === undefined) return;
    this.#slot.fill(0);
    this.#slot = undefined;
    this.#given();
  }
}

/**
 * Keeps this process from writing core dumps and from being traced by its own user: key schedules
 * inside the crypto library lie in its heap, which page flags do not cover.
 *
 * @returns what could not be done, one line each.
 */
export function hardenProcess(libc: Libc): readonly string[] {
  const missing: string[] = [];
  const dumpable = libc.setDumpable(false);
  if (dumpable < 0) missing.push(`prctl(PR_SET_DUMPABLE): ${errnoName(dumpable)}`);
  const core = libc.setLimit(ResourceLimit.core, { soft: 0n, hard: 0n });
  if (core < 0) missing.push(`setrlimit(RLIMIT_CORE): ${errnoName(core)}`);
  return missing;
}
