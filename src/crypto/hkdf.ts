/**
 * HKDF-SHA256 (RFC 5869) over any HMAC, for libraries that offer none of their own.
 */
import { type Bytes, concatBytes } from "../common/bytes.ts";
import { checkHkdfLength } from "./provider_checks.ts";

/** HMAC-SHA256 of a provider. */
export type HmacSha256 = (key: Bytes, bytes: Bytes) => Bytes;

const HASH_SIZE = 32;

/**
 * Extract, then expand (RFC 5869, sections 2.2 and 2.3).
 *
 * @throws KisekiError `common.invalid_argument` when `length` is over 255 * 32.
 */
export function hkdfSha256(
  hmac: HmacSha256,
  ikm: Bytes,
  salt: Bytes,
  info: Bytes,
  length: number,
): Bytes {
  checkHkdfLength(length);
  const pseudorandomKey = hmac(salt.length === 0 ? new Uint8Array(HASH_SIZE) : salt, ikm);
  const out = new Uint8Array(new ArrayBuffer(length));
  let block: Bytes = new Uint8Array(0);
  for (let offset = 0, i = 1; offset < length; offset += HASH_SIZE, i++) {
    const input = concatBytes(block, info, new Uint8Array([i]));
    block.fill(0);
    block = hmac(pseudorandomKey, input);
    input.fill(0);
    out.set(block.subarray(0, Math.min(HASH_SIZE, length - offset)), offset);
  }
  block.fill(0);
  pseudorandomKey.fill(0);
  return out;
}
