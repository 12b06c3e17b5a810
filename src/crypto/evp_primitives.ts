/**
 * Digests, HMAC and random bytes over the EVP calls that AWS-LC and OpenSSL share.
 *
 * Invariants: a context has one owner and is freed once, never while a call off this thread uses
 * it; lengths and key bytes are checked before a pointer reaches C.
 */
import { asBuffer } from "../../ffi/native_library.ts";
import type { EvpDigests, EvpSymbols } from "../../ffi/evp.ts";
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { Hash, HashAlgorithm } from "./provider.ts";
import { ASYNC_THRESHOLD, callFailed, MAX_CALL_BYTES, released } from "./provider_checks.ts";

const DIGEST_SIZE: Readonly<Record<HashAlgorithm, number>> = { sha256: 32, sha1: 20, md5: 16 };
/** HMAC pads its key with zeros, so this stands for an empty one (C reads NULL as "same key"). */
const EMPTY_KEY = new Uint8Array(1);

/** Primitives of one opened library. */
export class EvpPrimitives {
  readonly #c: EvpSymbols;
  readonly #digests: EvpDigests;
  readonly #length = new Uint8Array(4);

  constructor(symbols: EvpSymbols, digests: EvpDigests) {
    this.#c = symbols;
    this.#digests = digests;
  }

  random(out: Bytes): void {
    if (out.length > MAX_CALL_BYTES) throw tooLong(out.length);
    if (this.#c.RAND_bytes(asBuffer(out), out.length) !== 1) throw callFailed("RAND_bytes");
  }

  hash(algorithm: HashAlgorithm): Hash {
    return new EvpHash(this.#c, this.#algorithm(algorithm), DIGEST_SIZE[algorithm]);
  }

  digest(algorithm: HashAlgorithm, bytes: Bytes): Bytes {
    const out = new Uint8Array(DIGEST_SIZE[algorithm]);
    const md = this.#algorithm(algorithm);
    const ok = this.#c.EVP_Digest(
      asBuffer(bytes),
      BigInt(bytes.length),
      out,
      this.#length,
      md,
      null,
    );
    if (ok !== 1) throw callFailed("EVP_Digest");
    return out;
  }

  async digestAsync(algorithm: HashAlgorithm, bytes: Bytes): Promise<Bytes> {
    if (bytes.length < ASYNC_THRESHOLD) return this.digest(algorithm, bytes);
    const out = new Uint8Array(DIGEST_SIZE[algorithm]);
    const length = new Uint8Array(4);
    const size = bytes.length;
    const ok = await this.#c.EVP_Digest_async(
      asBuffer(bytes),
      BigInt(size),
      out,
      length,
      this.#algorithm(algorithm),
      null,
    );
    // Reading all three here keeps them reachable while C works on them.
    if (ok !== 1 || length[0] !== out.length || bytes.length !== size) {
      throw callFailed("EVP_Digest");
    }
    return out;
  }

  hmacSha256(key: Bytes, bytes: Bytes): Bytes {
    const out = new Uint8Array(32);
    const safeKey = key.length === 0 ? EMPTY_KEY : key;
    const result = this.#c.HMAC(
      this.#digests.sha256,
      asBuffer(safeKey),
      safeKey.length,
      asBuffer(bytes),
      BigInt(bytes.length),
      out,
      this.#length,
    );
    if (result === null) throw callFailed("HMAC");
    return out;
  }

  /** Zeroes bytes in a way that no compiler removes. */
  cleanse(bytes: Bytes): void {
    this.#c.OPENSSL_cleanse(asBuffer(bytes), BigInt(bytes.length));
  }

  #algorithm(algorithm: HashAlgorithm): Deno.PointerObject {
    const md = this.#digests[algorithm];
    if (md === null) {
      throw new KisekiError(
        "crypto.provider_missing",
        `${algorithm} is not offered by the crypto library (a FIPS policy?)`,
      );
    }
    return md;
  }
}

function tooLong(size: number): KisekiError {
  return new KisekiError("common.invalid_argument", `${size} bytes in one call (max 2 GiB - 1)`);
}

class EvpHash implements Hash {
  readonly #c: EvpSymbols;
  readonly #size: number;
  #context: Deno.PointerValue;
  #busy = false;
  #freeWhenIdle = false;

  constructor(symbols: EvpSymbols, md: Deno.PointerObject, size: number) {
    this.#c = symbols;
    this.#size = size;
    this.#context = symbols.EVP_MD_CTX_new();
    if (this.#context === null) throw callFailed("EVP_MD_CTX_new");
    if (symbols.EVP_DigestInit_ex(this.#context, md, null) !== 1) {
      this.#free();
      throw callFailed("EVP_DigestInit_ex");
    }
  }

  update(bytes: Bytes): void {
    this.#idle();
    const ok = this.#c.EVP_DigestUpdate(this.#context, asBuffer(bytes), BigInt(bytes.length));
    if (ok !== 1) throw callFailed("EVP_DigestUpdate");
  }

  async updateAsync(bytes: Bytes): Promise<void> {
    if (bytes.length < ASYNC_THRESHOLD) return this.update(bytes);
    this.#idle();
    const size = bytes.length;
    this.#busy = true;
    try {
      const ok = await this.#c.EVP_DigestUpdate_async(
        this.#context,
        asBuffer(bytes),
        BigInt(size),
      );
      // Reading it here keeps the memory reachable while C works on it.
      if (ok !== 1 || bytes.length !== size) throw callFailed("EVP_DigestUpdate");
    } finally {
      this.#busy = false;
      if (this.#freeWhenIdle) this.#free();
    }
  }

  digest(): Bytes {
    this.#idle();
    const out = new Uint8Array(this.#size);
    const length = new Uint8Array(4);
    const ok = this.#c.EVP_DigestFinal_ex(this.#context, out, length);
    this.#free();
    if (ok !== 1) throw callFailed("EVP_DigestFinal_ex");
    return out;
  }

  release(): void {
    if (this.#busy) this.#freeWhenIdle = true;
    else this.#free();
  }

  #idle(): void {
    if (this.#context === null || this.#freeWhenIdle) throw released("a hash");
    if (this.#busy) {
      throw new KisekiError("common.failed_precondition", "a hash takes one update at a time");
    }
  }

  #free(): void {
    if (this.#context === null) return;
    this.#c.EVP_MD_CTX_free(this.#context);
    this.#context = null;
  }
}
