/**
 * The provider over OpenSSL 3: EVP_CIPHER for sealing and key wrap, RAND_bytes for nonces.
 *
 * Invariants: an AEAD has one context per direction, made on first use and keyed once; a seal sets
 * the nonce alone. Plaintext that was not verified is zeroed before the error leaves.
 */
import type { Isal } from "../../ffi/isal.ts";
import { asBuffer } from "../../ffi/native_library.ts";
import { CTRL_GET_TAG, CTRL_SET_TAG, FLAG_WRAP_ALLOW, type OpenSsl } from "../../ffi/openssl.ts";
import type { Bytes } from "../common/bytes.ts";
import { Checksums } from "./checksums.ts";
import { EvpPrimitives } from "./evp_primitives.ts";
import { hkdfSha256 } from "./hkdf.ts";
import { NoncePool } from "./nonce_pool.ts";
import {
  type Aead,
  AEAD_NONCE_SIZE,
  AEAD_OVERHEAD,
  AEAD_TAG_SIZE,
  type CryptoProvider,
} from "./provider.ts";
import {
  callFailed,
  checkAeadKey,
  checkOpen,
  checkSeal,
  checkUnwrap,
  checkWrap,
  openFailed,
  released,
  secretBytes,
  secretCopy,
  unwrapFailed,
} from "./provider_checks.ts";

/** The provider of an opened OpenSSL. */
export function openSslProvider(
  library: OpenSsl,
  isal: Isal | undefined,
  passedOver: readonly string[] = [],
): CryptoProvider {
  const evp = new EvpPrimitives(library.symbols, library.digests);
  const checksums = new Checksums(isal);
  const nonces = new NoncePool((out) => evp.random(out));
  const hmac = (key: Bytes, bytes: Bytes): Bytes => evp.hmacSha256(key, bytes);
  return {
    report: {
      name: "openssl",
      version: library.version,
      path: library.path,
      fips: library.fips,
      passedOver,
    },
    random: (out) => evp.random(out),
    aead(key) {
      checkAeadKey(key);
      return new OpenSslAead(library, key, nonces);
    },
    hash: (algorithm) => evp.hash(algorithm),
    digest: (algorithm, bytes) => evp.digest(algorithm, bytes),
    digestAsync: (algorithm, bytes) => evp.digestAsync(algorithm, bytes),
    hmacSha256: hmac,
    hkdfSha256: (ikm, salt, info, length) => hkdfSha256(hmac, ikm, salt, info, length),
    wrapKey(key, plain) {
      checkWrap(key, plain, false);
      return wrap(library, key, plain, false);
    },
    unwrapKey(key, wrapped) {
      checkUnwrap(key, wrapped, false);
      return unwrap(library, key, wrapped, false);
    },
    wrapKeyPadded(key, plain) {
      checkWrap(key, plain, true);
      return wrap(library, key, plain, true);
    },
    unwrapKeyPadded(key, wrapped) {
      checkUnwrap(key, wrapped, true);
      return unwrap(library, key, wrapped, true);
    },
    checksum: (algorithm) => checksums.start(algorithm),
    crc32c: (bytes, seed) => checksums.crc32c(bytes, seed),
  };
}

function lengthIn(bytes: Uint8Array<ArrayBuffer>): number {
  return new DataView(bytes.buffer).getInt32(0, true);
}

function keyBits(key: Bytes): 128 | 192 | 256 {
  return key.length === 16 ? 128 : key.length === 24 ? 192 : 256;
}

function wrap(library: OpenSsl, key: Bytes, plain: Bytes, padded: boolean): Bytes {
  const c = library.symbols;
  const context = c.EVP_CIPHER_CTX_new();
  if (context === null) throw callFailed("EVP_CIPHER_CTX_new");
  try {
    c.EVP_CIPHER_CTX_set_flags(context, FLAG_WRAP_ALLOW);
    const cipher = library.wrapCipher(keyBits(key), padded);
    if (c.EVP_EncryptInit_key(context, cipher, null, asBuffer(key), null) !== 1) {
      throw callFailed("EVP_EncryptInit_ex (key wrap)");
    }
    const out = new Uint8Array(Math.ceil(plain.length / 8) * 8 + 8);
    const length = new Uint8Array(4);
    const ok = c.EVP_EncryptUpdate(context, out, length, asBuffer(plain), plain.length);
    if (ok !== 1 || lengthIn(length) !== out.length) {
      throw callFailed("EVP_EncryptUpdate (key wrap)");
    }
    return out;
  } finally {
    c.EVP_CIPHER_CTX_free(context);
  }
}

function unwrap(library: OpenSsl, key: Bytes, wrapped: Bytes, padded: boolean): Bytes {
  const c = library.symbols;
  const context = c.EVP_CIPHER_CTX_new();
  if (context === null) throw callFailed("EVP_CIPHER_CTX_new");
  try {
    c.EVP_CIPHER_CTX_set_flags(context, FLAG_WRAP_ALLOW);
    const cipher = library.wrapCipher(keyBits(key), padded);
    if (c.EVP_DecryptInit_key(context, cipher, null, asBuffer(key), null) !== 1) {
      throw callFailed("EVP_DecryptInit_ex (key wrap)");
    }
    // The library may write the whole input's length before it checks the padding.
    const out = secretBytes(wrapped.length);
    const length = new Uint8Array(4);
    const ok = c.EVP_DecryptUpdate(context, out, length, asBuffer(wrapped), wrapped.length);
    const size = lengthIn(length);
    const least = padded ? wrapped.length - 15 : wrapped.length - 8;
    if (ok !== 1 || size < least || size > wrapped.length - 8) {
      out.fill(0);
      c.ERR_clear_error();
      throw unwrapFailed();
    }
    const plain = secretCopy(out.subarray(0, size));
    out.fill(0);
    return plain;
  } finally {
    c.EVP_CIPHER_CTX_free(context);
  }
}

/** AES-256-GCM over EVP_CIPHER. */
class OpenSslAead implements Aead {
  readonly #library: OpenSsl;
  readonly #nonces: NoncePool;
  readonly #nonce = new Uint8Array(AEAD_NONCE_SIZE);
  readonly #tag = new Uint8Array(AEAD_TAG_SIZE);
  readonly #length = new Uint8Array(4);
  /** Kept until both directions are keyed. */
  readonly #key: Uint8Array<ArrayBuffer>;
  #sealing: Deno.PointerValue = null;
  #opening: Deno.PointerValue = null;
  #released = false;

  constructor(library: OpenSsl, key: Bytes, nonces: NoncePool) {
    this.#library = library;
    this.#nonces = nonces;
    this.#key = secretCopy(key);
  }

  seal(plaintext: Bytes, associatedData: Bytes, out: Bytes): number {
    checkSeal(plaintext, out);
    const context = this.#sealContext();
    const c = this.#library.symbols;
    const size = plaintext.length;
    const nonce = this.#nonce;
    const length = this.#length;
    this.#nonces.take(nonce, 0);
    let ok = c.EVP_EncryptInit_iv(context, null, null, null, nonce) === 1;
    if (ok && associatedData.length > 0) {
      const aad = asBuffer(associatedData);
      ok = c.EVP_EncryptUpdate_aad(context, null, length, aad, aad.length) === 1;
    }
    if (ok && size > 0) {
      ok = c.EVP_EncryptUpdate(context, asBuffer(out), length, asBuffer(plaintext), size) === 1;
    }
    ok = ok && c.EVP_EncryptFinal_ex(context, this.#tag, length) === 1 &&
      c.EVP_CIPHER_CTX_ctrl(context, CTRL_GET_TAG, AEAD_TAG_SIZE, this.#tag) === 1;
    if (!ok) {
      out.fill(0);
      throw callFailed("EVP_Encrypt (AES-256-GCM)");
    }
    const tag = this.#tag;
    for (let i = 0; i < AEAD_TAG_SIZE; i++) out[size + i] = tag[i] as number;
    const at = size + AEAD_TAG_SIZE;
    for (let i = 0; i < AEAD_NONCE_SIZE; i++) out[at + i] = nonce[i] as number;
    return size + AEAD_OVERHEAD;
  }

  open(sealed: Bytes, associatedData: Bytes, out: Bytes): number {
    checkOpen(sealed, out);
    const context = this.#openContext();
    const c = this.#library.symbols;
    const size = sealed.length - AEAD_OVERHEAD;
    const nonce = this.#nonce;
    const tag = this.#tag;
    const length = this.#length;
    for (let i = 0; i < AEAD_TAG_SIZE; i++) tag[i] = sealed[size + i] as number;
    const at = size + AEAD_TAG_SIZE;
    for (let i = 0; i < AEAD_NONCE_SIZE; i++) nonce[i] = sealed[at + i] as number;
    let ok = c.EVP_DecryptInit_iv(context, null, null, null, nonce) === 1 &&
      c.EVP_CIPHER_CTX_ctrl(context, CTRL_SET_TAG, AEAD_TAG_SIZE, tag) === 1;
    if (ok && associatedData.length > 0) {
      const aad = asBuffer(associatedData);
      ok = c.EVP_DecryptUpdate_aad(context, null, length, aad, aad.length) === 1;
    }
    if (ok && size > 0) {
      ok = c.EVP_DecryptUpdate(context, asBuffer(out), length, asBuffer(sealed), size) === 1;
    }
    if (!ok || c.EVP_DecryptFinal_ex(context, tag, length) !== 1) {
      out.fill(0);
      c.ERR_clear_error();
      throw openFailed();
    }
    return size;
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#key.fill(0);
    const c = this.#library.symbols;
    if (this.#sealing !== null) c.EVP_CIPHER_CTX_free(this.#sealing);
    if (this.#opening !== null) c.EVP_CIPHER_CTX_free(this.#opening);
    this.#sealing = null;
    this.#opening = null;
  }

  #sealContext(): Deno.PointerObject {
    if (this.#sealing !== null) return this.#sealing;
    const context = this.#newContext();
    const c = this.#library.symbols;
    if (c.EVP_EncryptInit_key(context, this.#library.aes256Gcm, null, this.#key, null) !== 1) {
      c.EVP_CIPHER_CTX_free(context);
      throw callFailed("EVP_EncryptInit_ex");
    }
    this.#sealing = context;
    if (this.#opening !== null) this.#key.fill(0);
    return context;
  }

  #openContext(): Deno.PointerObject {
    if (this.#opening !== null) return this.#opening;
    const context = this.#newContext();
    const c = this.#library.symbols;
    if (c.EVP_DecryptInit_key(context, this.#library.aes256Gcm, null, this.#key, null) !== 1) {
      c.EVP_CIPHER_CTX_free(context);
      throw callFailed("EVP_DecryptInit_ex");
    }
    this.#opening = context;
    if (this.#sealing !== null) this.#key.fill(0);
    return context;
  }

  #newContext(): Deno.PointerObject {
    if (this.#released) throw released("an AEAD key");
    const context = this.#library.symbols.EVP_CIPHER_CTX_new();
    if (context === null) throw callFailed("EVP_CIPHER_CTX_new");
    return context;
  }
}
