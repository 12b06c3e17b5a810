/**
 * The fallback provider: Node's primitives as Deno brings them (RustCrypto and ring inside), and
 * WebCrypto's random generator. No native library is needed; sealing runs at some 0.2 GB/s.
 */
import { Buffer } from "node:buffer";
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  type Hash as NodeHash,
} from "node:crypto";
import type { Isal } from "../../ffi/isal.ts";
import { type Bytes, unshared } from "../common/bytes.ts";
import { Checksums } from "./checksums.ts";
import { hkdfSha256 } from "./hkdf.ts";
import { type BlockCipher, unwrap, unwrapPadded, wrap, wrapPadded } from "./key_wrap.ts";
import { NoncePool } from "./nonce_pool.ts";
import {
  type Aead,
  AEAD_NONCE_SIZE,
  AEAD_OVERHEAD,
  AEAD_TAG_SIZE,
  type CryptoProvider,
  type Hash,
  type HashAlgorithm,
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
  secretCopy,
} from "./provider_checks.ts";

/** Most bytes of one getRandomValues call (Web Cryptography API, section 10.1.1). */
const RANDOM_LIMIT = 65536;

/** The provider that is always there. */
export function nodeProvider(
  isal: Isal | undefined,
  passedOver: readonly string[] = [],
): CryptoProvider {
  const checksums = new Checksums(isal);
  const nonces = new NoncePool(random);
  return {
    report: {
      name: "webcrypto",
      version: `deno ${Deno.version.deno}`,
      path: "",
      fips: false,
      passedOver,
    },
    random,
    aead(key) {
      checkAeadKey(key);
      return new NodeAead(key, nonces);
    },
    hash: (algorithm) => new RunningHash(algorithm),
    digest,
    digestAsync: async (algorithm, bytes) => digest(algorithm, bytes),
    hmacSha256,
    hkdfSha256: (ikm, salt, info, length) => hkdfSha256(hmacSha256, ikm, salt, info, length),
    wrapKey(key, plain) {
      checkWrap(key, plain, false);
      return withBlockCipher(key, (cipher) => wrap(cipher, plain));
    },
    unwrapKey(key, wrapped) {
      checkUnwrap(key, wrapped, false);
      return withBlockCipher(key, (cipher) => unwrap(cipher, wrapped));
    },
    wrapKeyPadded(key, plain) {
      checkWrap(key, plain, true);
      return withBlockCipher(key, (cipher) => wrapPadded(cipher, plain));
    },
    unwrapKeyPadded(key, wrapped) {
      checkUnwrap(key, wrapped, true);
      return withBlockCipher(key, (cipher) => unwrapPadded(cipher, wrapped));
    },
    checksum: (algorithm) => checksums.start(algorithm),
    crc32c: (bytes, seed) => checksums.crc32c(bytes, seed),
  };
}

function random(out: Bytes): void {
  if (!(out.buffer instanceof ArrayBuffer)) {
    const own = new Uint8Array(out.length);
    random(own);
    out.set(own);
    return;
  }
  const target = unshared(out);
  for (let offset = 0; offset < target.length; offset += RANDOM_LIMIT) {
    crypto.getRandomValues(target.subarray(offset, offset + RANDOM_LIMIT));
  }
}

function digest(algorithm: HashAlgorithm, bytes: Bytes): Bytes {
  return plainArray(createHash(algorithm).update(unshared(bytes)).digest());
}

function hmacSha256(key: Bytes, bytes: Bytes): Bytes {
  return plainArray(createHmac("sha256", unshared(key)).update(unshared(bytes)).digest());
}

/** Node's Buffer as a plain array of its own. */
function plainArray(buffer: Buffer): Bytes {
  const out = new Uint8Array(buffer.length);
  out.set(buffer);
  return out;
}

/** One block at a time: ECB without padding is the bare cipher. */
function withBlockCipher(key: Bytes, use: (cipher: BlockCipher) => Bytes): Bytes {
  const name = `aes-${key.length * 8}-ecb`;
  const own = secretCopy(key);
  const encryptor = createCipheriv(name, own, null).setAutoPadding(false);
  const decryptor = createDecipheriv(name, own, null).setAutoPadding(false);
  try {
    return use({
      encrypt: (block) => block.set(encryptor.update(block)),
      decrypt: (block) => block.set(decryptor.update(block)),
    });
  } finally {
    encryptor.final();
    decryptor.final();
    own.fill(0);
  }
}

class RunningHash implements Hash {
  #hash: NodeHash | undefined;

  constructor(algorithm: HashAlgorithm) {
    this.#hash = createHash(algorithm);
  }

  update(bytes: Bytes): void {
    this.#live().update(unshared(bytes));
  }

  async updateAsync(bytes: Bytes): Promise<void> {
    this.update(bytes);
  }

  digest(): Bytes {
    const out = plainArray(this.#live().digest());
    this.#hash = undefined;
    return out;
  }

  release(): void {
    this.#hash = undefined;
  }

  #live(): NodeHash {
    if (this.#hash === undefined) throw released("a hash");
    return this.#hash;
  }
}

class NodeAead implements Aead {
  readonly #key: Uint8Array<ArrayBuffer>;
  readonly #nonces: NoncePool;
  #released = false;

  constructor(key: Bytes, nonces: NoncePool) {
    this.#key = secretCopy(key);
    this.#nonces = nonces;
  }

  seal(plaintext: Bytes, associatedData: Bytes, out: Bytes): number {
    checkSeal(plaintext, out);
    if (this.#released) throw released("an AEAD key");
    const nonce = new Uint8Array(AEAD_NONCE_SIZE);
    this.#nonces.take(nonce, 0);
    const cipher = createCipheriv("aes-256-gcm", this.#key, nonce);
    if (associatedData.length > 0) cipher.setAAD(unshared(associatedData));
    const body = plaintext.length > 0 ? cipher.update(unshared(plaintext)) : new Uint8Array(0);
    cipher.final();
    const tag = cipher.getAuthTag();
    if (body.length !== plaintext.length || tag.length !== AEAD_TAG_SIZE) {
      throw callFailed("createCipheriv (AES-256-GCM)");
    }
    out.set(body);
    out.set(tag, body.length);
    out.set(nonce, body.length + AEAD_TAG_SIZE);
    return body.length + AEAD_OVERHEAD;
  }

  open(sealed: Bytes, associatedData: Bytes, out: Bytes): number {
    checkOpen(sealed, out);
    if (this.#released) throw released("an AEAD key");
    const own = unshared(sealed);
    const size = own.length - AEAD_OVERHEAD;
    const nonce = own.subarray(size + AEAD_TAG_SIZE);
    const cipher = createDecipheriv("aes-256-gcm", this.#key, nonce);
    cipher.setAuthTag(own.subarray(size, size + AEAD_TAG_SIZE));
    if (associatedData.length > 0) cipher.setAAD(unshared(associatedData));
    const body = size > 0 ? cipher.update(own.subarray(0, size)) : new Uint8Array(0);
    try {
      cipher.final();
    } catch {
      // The one reason: the tag differs. The cause is dropped, for it says nothing more.
      body.fill(0);
      out.fill(0);
      throw openFailed();
    }
    out.set(body);
    body.fill(0);
    return size;
  }

  release(): void {
    this.#released = true;
    this.#key.fill(0);
  }
}
