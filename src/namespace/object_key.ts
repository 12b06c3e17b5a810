/**
 * Object keys as paths: a key is cut after every "/", so that each part but the last is the name
 * of a directory with its trailing "/", and the last (maybe empty) is the name of the object.
 *
 * An in-order walk of such a tree is the byte order of full keys.
 */
import { type Bytes, utf8 } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { MAX_KEY_UTF8_BYTES } from "./api.ts";

const SLASH = 0x2f;

/**
 * UTF-8 of an object key.
 *
 * @throws KisekiError `common.invalid_argument` for an empty key or a lone surrogate,
 *   `common.limit_exceeded` over 1,024 bytes.
 */
export function keyBytes(key: string): Bytes {
  if (key.length === 0) throw new KisekiError("common.invalid_argument", "an empty object key");
  if (!key.isWellFormed()) {
    throw new KisekiError("common.invalid_argument", "an object key that is not valid Unicode");
  }
  const bytes = utf8(key);
  if (bytes.length > MAX_KEY_UTF8_BYTES) {
    throw new KisekiError(
      "common.limit_exceeded",
      `an object key of ${bytes.length} bytes (max ${MAX_KEY_UTF8_BYTES})`,
    );
  }
  return bytes;
}

/** End of the directory name that starts at `start` (after its "/"), or -1 for a last part. */
export function directoryEnd(key: Bytes, start: number): number {
  const at = key.indexOf(SLASH, start);
  return at < 0 ? -1 : at + 1;
}

/** The position of `needle` in `bytes` at or after `from`, or -1. */
export function indexOfBytes(bytes: Bytes, needle: Bytes, from: number): number {
  const first = needle[0] as number;
  for (let at = bytes.indexOf(first, from); at >= 0; at = bytes.indexOf(first, at + 1)) {
    if (at + needle.length > bytes.length) return -1;
    let i = 1;
    while (i < needle.length && bytes[at + i] === needle[i]) i++;
    if (i === needle.length) return at;
  }
  return -1;
}

/** True when `bytes` starts with `prefix`. */
export function startsWith(bytes: Bytes, prefix: Bytes): boolean {
  if (bytes.length < prefix.length) return false;
  for (let i = 0; i < prefix.length; i++) if (bytes[i] !== prefix[i]) return false;
  return true;
}
