/**
 * Random nonces, drawn from the module's generator in batches.
 *
 * One call for 512 nonces costs less than 512 calls. Invariant: each nonce is handed out once;
 * the pool is never copied to another isolate or written anywhere.
 */
import type { Bytes } from "../common/bytes.ts";
import { AEAD_NONCE_SIZE } from "./provider.ts";

const BATCH = 512;

/** Hands out nonces that nobody handed out before. */
export class NoncePool {
  readonly #fill: (out: Bytes) => void;
  readonly #pool = new Uint8Array(BATCH * AEAD_NONCE_SIZE);
  #next = this.#pool.length;

  /** @param fill Fills an array with random bytes from the module, or throws. */
  constructor(fill: (out: Bytes) => void) {
    this.#fill = fill;
  }

  /** Writes the next nonce to `out` at `offset`. */
  take(out: Bytes, offset: number): void {
    if (this.#next === this.#pool.length) {
      this.#fill(this.#pool);
      this.#next = 0;
    }
    const pool = this.#pool;
    const from = this.#next;
    this.#next = from + AEAD_NONCE_SIZE;
    for (let i = 0; i < AEAD_NONCE_SIZE; i++) {
      out[offset + i] = pool[from + i] as number;
      pool[from + i] = 0;
    }
  }
}
