/**
 * Memory for keys: pages of their own, left out of core dumps, locked where the limit allows it,
 * zeroed when a key is released.
 *
 * Invariants: a key is 32 bytes; a released key throws on use; pages are given back only by
 * `close`, after all were zeroed.
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
  /** A view of the key; throws `keys.unavailable` after `release`. Never copy it to a log. */
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
  #inUse = 0;
  #locked = true;
  #excluded = true;
  #reason: string | undefined;

  constructor(libc: Libc) {
    this.#libc = libc;
  }

  /**
   * Copies a key in. The caller zeroes its own copy.
   *
   * @throws KisekiError `common.invalid_argument` unless the key has 32 bytes.
   */
  hold(key: Bytes): SecretKey {
    if (key.length !== KEY_SIZE) {
      throw new KisekiError("common.invalid_argument", `a key of ${key.length} bytes (32 wanted)`);
    }
    if (this.#free.length === 0) this.#grow();
    const slot = this.#free.pop();
    if (slot === undefined) throw new KisekiError("common.internal", "no memory for a key");
    slot.set(key);
    this.#inUse++;
    let live = true;
    return {
      get bytes() {
        if (!live) throw new KisekiError("keys.unavailable", "a key was used after its release");
        return slot;
      },
      release: () => {
        if (!live) return;
        live = false;
        slot.fill(0);
        this.#inUse--;
        this.#free.push(slot);
      },
    };
  }

  report(): KeyMemoryReport {
    return {
      keys: this.#inUse,
      locked: this.#locked,
      excludedFromCoreDumps: this.#excluded,
      reason: this.#reason,
    };
  }

  /** Zeroes and frees everything. No key may be in use afterwards. */
  close(): void {
    this.#free.length = 0;
    for (const pages of this.#pages) {
      pages.bytes.fill(0);
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
