/**
 * The provider over AWS-LC: EVP_AEAD for sealing, AES_wrap_key, HKDF, EVP digests.
 *
 * In a FIPS build nonces are drawn by the module itself inside the seal call
 * (`EVP_aead_aes_256_gcm_randnonce`): GCM with a nonce from outside is not an approved service.
 * Otherwise nonces come in batches from the module's RAND_bytes.
 */
import { AES_KEY_STRUCT_SIZE, type AwsLc } from "../../ffi/aws_lc.ts";
import type { Isal } from "../../ffi/isal.ts";
import { asBuffer } from "../../ffi/native_library.ts";
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { Checksums } from "./checksums.ts";
import { EvpPrimitives } from "./evp_primitives.ts";
import { NoncePool } from "./nonce_pool.ts";
import {
  type Aead,
  AEAD_KEY_SIZE,
  AEAD_NONCE_SIZE,
  AEAD_OVERHEAD,
  AEAD_TAG_SIZE,
  type CryptoProvider,
} from "./provider.ts";
import {
  callFailed,
  checkAeadKey,
  checkHkdfLength,
  checkOpen,
  checkSeal,
  checkUnwrap,
  checkWrap,
  openFailed,
  released,
  secretBytes,
  unwrapFailed,
} from "./provider_checks.ts";

const TAG = BigInt(AEAD_TAG_SIZE);
const NONCE = BigInt(AEAD_NONCE_SIZE);
/** Value of FIPS_service_indicator_* differs by this much after an approved call. */
const APPROVED_STEP = 1n;

/** The provider of an opened AWS-LC. */
export function awsLcProvider(
  library: AwsLc,
  isal: Isal | undefined,
  passedOver: readonly string[] = [],
): CryptoProvider {
  const c = library.symbols;
  const evp = new EvpPrimitives(c, library.digests);
  const checksums = new Checksums(isal);
  const nonces = new NoncePool((out) => evp.random(out));
  const schedule = secretBytes(AES_KEY_STRUCT_SIZE);
  const outLength = new Uint8Array(8);

  const withSchedule = <T>(key: Bytes, decrypt: boolean, use: () => T): T => {
    const set = decrypt ? c.AES_set_decrypt_key : c.AES_set_encrypt_key;
    try {
      if (set(asBuffer(key), key.length * 8, schedule) !== 0) throw callFailed("AES_set_key");
      return use();
    } finally {
      schedule.fill(0);
    }
  };
  const length = (): number => new DataView(outLength.buffer).getUint32(0, true);

  return {
    report: {
      name: "aws-lc",
      version: library.version,
      path: library.path,
      fips: library.fips,
      passedOver,
    },
    random: (out) => evp.random(out),
    aead(key) {
      checkAeadKey(key);
      return library.fips ? new RandomNonceAead(library, key) : new AwsLcAead(library, key, nonces);
    },
    hash: (algorithm) => evp.hash(algorithm),
    digest: (algorithm, bytes) => evp.digest(algorithm, bytes),
    digestAsync: (algorithm, bytes) => evp.digestAsync(algorithm, bytes),
    hmacSha256: (key, bytes) => evp.hmacSha256(key, bytes),
    hkdfSha256(ikm, salt, info, size) {
      checkHkdfLength(size);
      const out = secretBytes(size);
      if (size === 0) return out;
      const ok = c.HKDF(
        out,
        BigInt(size),
        library.digests.sha256,
        asBuffer(ikm),
        BigInt(ikm.length),
        asBuffer(salt),
        BigInt(salt.length),
        asBuffer(info),
        BigInt(info.length),
      );
      if (ok !== 1) throw callFailed("HKDF");
      return out;
    },
    wrapKey(key, plain) {
      checkWrap(key, plain, false);
      return withSchedule(key, false, () => {
        const out = new Uint8Array(plain.length + 8);
        const n = c.AES_wrap_key(schedule, null, out, asBuffer(plain), BigInt(plain.length));
        if (n !== out.length) throw callFailed("AES_wrap_key");
        return out;
      });
    },
    unwrapKey(key, wrapped) {
      checkUnwrap(key, wrapped, false);
      return withSchedule(key, true, () => {
        const out = secretBytes(wrapped.length - 8);
        const n = c.AES_unwrap_key(schedule, null, out, asBuffer(wrapped), BigInt(wrapped.length));
        if (n !== out.length) {
          out.fill(0);
          c.ERR_clear_error();
          throw unwrapFailed();
        }
        return out;
      });
    },
    wrapKeyPadded(key, plain) {
      checkWrap(key, plain, true);
      return withSchedule(key, false, () => {
        const out = new Uint8Array(Math.ceil(plain.length / 8) * 8 + 8);
        const ok = c.AES_wrap_key_padded(
          schedule,
          out,
          outLength,
          BigInt(out.length),
          asBuffer(plain),
          BigInt(plain.length),
        );
        if (ok !== 1 || length() !== out.length) throw callFailed("AES_wrap_key_padded");
        return out;
      });
    },
    unwrapKeyPadded(key, wrapped) {
      checkUnwrap(key, wrapped, true);
      return withSchedule(key, true, () => {
        const out = secretBytes(wrapped.length);
        const ok = c.AES_unwrap_key_padded(
          schedule,
          out,
          outLength,
          BigInt(out.length),
          asBuffer(wrapped),
          BigInt(wrapped.length),
        );
        if (ok !== 1) {
          out.fill(0);
          c.ERR_clear_error();
          throw unwrapFailed();
        }
        return out.subarray(0, length());
      });
    },
    checksum: (algorithm) => checksums.start(algorithm),
    crc32c: (bytes, seed) => checksums.crc32c(bytes, seed),
  };
}

/** AES-256-GCM with nonces from the pool. */
class AwsLcAead implements Aead {
  readonly #c: AwsLc["symbols"];
  readonly #nonces: NoncePool;
  readonly #nonce = new Uint8Array(AEAD_NONCE_SIZE);
  readonly #length = new Uint8Array(8);
  #context: Deno.PointerValue;

  constructor(library: AwsLc, key: Bytes, nonces: NoncePool) {
    this.#c = library.symbols;
    this.#nonces = nonces;
    this.#context = this.#c.EVP_AEAD_CTX_new(
      library.aes256Gcm,
      asBuffer(key),
      BigInt(AEAD_KEY_SIZE),
      TAG,
    );
    if (this.#context === null) throw callFailed("EVP_AEAD_CTX_new");
  }

  seal(plaintext: Bytes, associatedData: Bytes, out: Bytes): number {
    checkSeal(plaintext, out);
    if (this.#context === null) throw released("an AEAD key");
    const size = plaintext.length;
    const nonce = this.#nonce;
    this.#nonces.take(nonce, 0);
    const ok = this.#c.EVP_AEAD_CTX_seal(
      this.#context,
      asBuffer(out),
      this.#length,
      BigInt(size + AEAD_TAG_SIZE),
      nonce,
      NONCE,
      asBuffer(plaintext),
      BigInt(size),
      asBuffer(associatedData),
      BigInt(associatedData.length),
    );
    if (ok !== 1) throw callFailed("EVP_AEAD_CTX_seal");
    const at = size + AEAD_TAG_SIZE;
    for (let i = 0; i < AEAD_NONCE_SIZE; i++) out[at + i] = nonce[i] as number;
    return size + AEAD_OVERHEAD;
  }

  open(sealed: Bytes, associatedData: Bytes, out: Bytes): number {
    checkOpen(sealed, out);
    if (this.#context === null) throw released("an AEAD key");
    const body = sealed.length - AEAD_NONCE_SIZE;
    const nonce = this.#nonce;
    for (let i = 0; i < AEAD_NONCE_SIZE; i++) nonce[i] = sealed[body + i] as number;
    const ok = this.#c.EVP_AEAD_CTX_open(
      this.#context,
      asBuffer(out),
      this.#length,
      BigInt(out.length),
      nonce,
      NONCE,
      asBuffer(sealed),
      BigInt(body),
      asBuffer(associatedData),
      BigInt(associatedData.length),
    );
    if (ok !== 1) {
      out.fill(0);
      this.#c.ERR_clear_error();
      throw openFailed();
    }
    return sealed.length - AEAD_OVERHEAD;
  }

  release(): void {
    if (this.#context === null) return;
    this.#c.EVP_AEAD_CTX_free(this.#context);
    this.#context = null;
  }
}

/** AES-256-GCM whose nonce the FIPS module draws; every seal must have been an approved service. */
class RandomNonceAead implements Aead {
  readonly #c: AwsLc["symbols"];
  readonly #length = new Uint8Array(8);
  readonly #empty = new Uint8Array(1);
  #context: Deno.PointerValue;

  constructor(library: AwsLc, key: Bytes) {
    this.#c = library.symbols;
    this.#context = this.#c.EVP_AEAD_CTX_new(
      library.aes256GcmRandomNonce,
      asBuffer(key),
      BigInt(AEAD_KEY_SIZE),
      BigInt(AEAD_OVERHEAD),
    );
    if (this.#context === null) throw callFailed("EVP_AEAD_CTX_new");
  }

  seal(plaintext: Bytes, associatedData: Bytes, out: Bytes): number {
    checkSeal(plaintext, out);
    if (this.#context === null) throw released("an AEAD key");
    const before = this.#c.FIPS_service_indicator_before_call?.() ?? 0n;
    const ok = this.#c.EVP_AEAD_CTX_seal(
      this.#context,
      asBuffer(out),
      this.#length,
      BigInt(plaintext.length + AEAD_OVERHEAD),
      this.#empty,
      0n,
      asBuffer(plaintext),
      BigInt(plaintext.length),
      asBuffer(associatedData),
      BigInt(associatedData.length),
    );
    if (ok !== 1) throw callFailed("EVP_AEAD_CTX_seal");
    const after = this.#c.FIPS_service_indicator_after_call?.() ?? APPROVED_STEP;
    if (after - before < APPROVED_STEP) {
      out.fill(0);
      throw new KisekiError("ffi.call_failed", "the FIPS module did not approve a seal");
    }
    return plaintext.length + AEAD_OVERHEAD;
  }

  open(sealed: Bytes, associatedData: Bytes, out: Bytes): number {
    checkOpen(sealed, out);
    if (this.#context === null) throw released("an AEAD key");
    const ok = this.#c.EVP_AEAD_CTX_open(
      this.#context,
      asBuffer(out),
      this.#length,
      BigInt(out.length),
      this.#empty,
      0n,
      asBuffer(sealed),
      BigInt(sealed.length),
      asBuffer(associatedData),
      BigInt(associatedData.length),
    );
    if (ok !== 1) {
      out.fill(0);
      this.#c.ERR_clear_error();
      throw openFailed();
    }
    return sealed.length - AEAD_OVERHEAD;
  }

  release(): void {
    if (this.#context === null) return;
    this.#c.EVP_AEAD_CTX_free(this.#context);
    this.#context = null;
  }
}
