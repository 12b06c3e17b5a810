/**
 * What the product asks of a cryptographic library, one small interface per kind.
 *
 * A provider is chosen once per isolate (AWS-LC, then OpenSSL 3, then WebCrypto with Node's
 * primitives) and handed down; nothing else in the tree calls a crypto library. All calls are
 * synchronous: inputs are at most one segment or one block, and larger work is cut by the caller.
 *
 * Invariants: an AEAD key is 32 bytes; nonces come from the module's random generator and are
 * never a counter; key bytes given to a constructor may be zeroed by the caller afterwards.
 */
import type { Bytes } from "../common/bytes.ts";

/** Bytes that sealing adds after the ciphertext: tag (16), then nonce (12). */
export const AEAD_OVERHEAD = 28;
export const AEAD_TAG_SIZE = 16;
export const AEAD_NONCE_SIZE = 12;
export const AEAD_KEY_SIZE = 32;

/** AES-256-GCM under one key. Layout of sealed bytes: ciphertext | tag 16 | nonce 12. */
export interface Aead {
  /**
   * Seals `plaintext` with a fresh random nonce into `out`, which must hold
   * `plaintext.length + AEAD_OVERHEAD` bytes and may not overlap it.
   *
   * @returns bytes written.
   * @throws KisekiError `ffi.call_failed`.
   */
  seal(plaintext: Bytes, associatedData: Bytes, out: Bytes): number;
  /**
   * Opens `sealed` (ciphertext | tag | nonce) into `out`, which must hold
   * `sealed.length - AEAD_OVERHEAD` bytes and may not overlap it.
   *
   * @returns bytes written.
   * @throws KisekiError `crypto.open_failed` when anything was changed or moved; `out` is zeroed.
   */
  open(sealed: Bytes, associatedData: Bytes, out: Bytes): number;
  /** Frees and zeroes the key schedule. Calls after it throw. */
  release(): void;
}

/** A running digest. */
export interface Hash {
  update(bytes: Bytes): void;
  /**
   * The same off this thread for inputs of 1 MiB and more; one call at a time. `bytes` must not
   * change until it resolves.
   */
  updateAsync(bytes: Bytes): Promise<void>;
  /** The digest; the hash is released. */
  digest(): Bytes;
  /** Releases without a digest. Harmless after `digest`. */
  release(): void;
}

export type HashAlgorithm = "sha256" | "sha1" | "md5";

/** A running checksum. The value is an unsigned integer, big-endian when printed. */
export interface Checksum {
  update(bytes: Bytes): void;
  /** Big-endian bytes of the value: 4 for CRC-32 and CRC-32C, 8 for CRC-64/NVME. */
  digest(): Bytes;
}

export type ChecksumAlgorithm = "crc32" | "crc32c" | "crc64nvme";

/** What a provider says of itself, for `kiseki doctor` and metrics. */
export interface ProviderReport {
  readonly name: "aws-lc" | "openssl" | "webcrypto";
  readonly version: string;
  readonly path: string;
  readonly fips: boolean;
  /** Why better providers were passed over, one line each. */
  readonly passedOver: readonly string[];
}

export interface CryptoProvider {
  readonly report: ProviderReport;
  /** Fills with random bytes from the module. */
  random(out: Bytes): void;
  /** @throws KisekiError `common.invalid_argument` unless the key has 32 bytes. */
  aead(key: Bytes): Aead;
  hash(algorithm: HashAlgorithm): Hash;
  /** One-shot digest. */
  digest(algorithm: HashAlgorithm, bytes: Bytes): Bytes;
  /** One-shot digest off this thread, for 1 MiB and more. */
  digestAsync(algorithm: HashAlgorithm, bytes: Bytes): Promise<Bytes>;
  hmacSha256(key: Bytes, bytes: Bytes): Bytes;
  /** RFC 5869. @param length at most 255 * 32. */
  hkdfSha256(ikm: Bytes, salt: Bytes, info: Bytes, length: number): Bytes;
  /** RFC 3394 with the default IV. `key` 16, 24 or 32 bytes; `plain` a multiple of 8, 16 to 4096. */
  wrapKey(key: Bytes, plain: Bytes): Bytes;
  /** @throws KisekiError `crypto.open_failed`. */
  unwrapKey(key: Bytes, wrapped: Bytes): Bytes;
  /** RFC 5649; `plain` 1 to 4096 bytes. */
  wrapKeyPadded(key: Bytes, plain: Bytes): Bytes;
  unwrapKeyPadded(key: Bytes, wrapped: Bytes): Bytes;
  checksum(algorithm: ChecksumAlgorithm): Checksum;
  /** CRC-32C of one buffer as an unsigned 32-bit number; `seed` continues an earlier value. */
  crc32c(bytes: Bytes, seed?: number): number;
}
