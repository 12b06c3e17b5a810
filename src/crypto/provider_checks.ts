/**
 * Argument checks and errors that all providers share, so that each refuses the same input with
 * the same words.
 */
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { AEAD_KEY_SIZE, AEAD_OVERHEAD } from "./provider.ts";

/** Most bytes that one key wrap takes. */
export const MAX_WRAP_SIZE = 4096;
/** Work below this stays on the calling thread: a hop costs some 50 us. */
export const ASYNC_THRESHOLD = 1 << 20;
/** Most bytes of one digest, HMAC or AEAD call: lengths are C ints in places. */
export const MAX_CALL_BYTES = 0x7fff_ffff;

/** @throws KisekiError `common.invalid_argument` unless the key has 32 bytes. */
export function checkAeadKey(key: Bytes): void {
  if (key.length !== AEAD_KEY_SIZE) throw invalid(`an AEAD key of ${key.length} bytes (32 wanted)`);
}

/** @throws KisekiError `common.invalid_argument` unless `out` holds exactly what sealing writes. */
export function checkSeal(plaintext: Bytes, out: Bytes): void {
  if (out.length < plaintext.length + AEAD_OVERHEAD) {
    throw invalid(`${out.length} bytes of room for sealing ${plaintext.length}`);
  }
}

/** @throws KisekiError `crypto.open_failed` on input too short to be sealed. */
export function checkOpen(sealed: Bytes, out: Bytes): void {
  if (sealed.length < AEAD_OVERHEAD) throw openFailed();
  if (out.length < sealed.length - AEAD_OVERHEAD) {
    throw invalid(`${out.length} bytes of room for opening ${sealed.length}`);
  }
}

/** Checks a wrap key and what is wrapped; `padded` allows any length from 1. */
export function checkWrap(key: Bytes, plain: Bytes, padded: boolean): void {
  checkWrapKey(key);
  const good = padded
    ? plain.length >= 1 && plain.length <= MAX_WRAP_SIZE
    : plain.length >= 16 && plain.length <= MAX_WRAP_SIZE && plain.length % 8 === 0;
  if (!good) throw invalid(`a key of ${plain.length} bytes to wrap`);
}

/** Checks a wrap key and the length of what was wrapped. */
export function checkUnwrap(key: Bytes, wrapped: Bytes, padded: boolean): void {
  checkWrapKey(key);
  const least = padded ? 16 : 24;
  if (wrapped.length < least || wrapped.length > MAX_WRAP_SIZE + 16 || wrapped.length % 8 !== 0) {
    throw new KisekiError("crypto.open_failed", `a wrapped key of ${wrapped.length} bytes`);
  }
}

function checkWrapKey(key: Bytes): void {
  if (key.length !== 16 && key.length !== 24 && key.length !== 32) {
    throw invalid(`a wrapping key of ${key.length} bytes`);
  }
}

/** @throws KisekiError `common.invalid_argument` outside 0 to 255 * 32. */
export function checkHkdfLength(length: number): void {
  if (!Number.isSafeInteger(length) || length < 0 || length > 255 * 32) {
    throw invalid(`HKDF-SHA256 of ${length} bytes (max ${255 * 32})`);
  }
}

/** The one answer to anything that does not open. */
export function openFailed(): KisekiError {
  return new KisekiError(
    "crypto.open_failed",
    "sealed bytes do not open: changed, moved or keyed otherwise",
  );
}

/** The one answer to a wrapped key that does not open. */
export function unwrapFailed(): KisekiError {
  return new KisekiError("crypto.open_failed", "a wrapped key does not open under this key");
}

/** A call into the module that must not fail, did. */
export function callFailed(call: string): KisekiError {
  return new KisekiError("ffi.call_failed", `${call} failed in the crypto library`);
}

/** A use after `release`. */
export function released(what: string): KisekiError {
  return new KisekiError("common.failed_precondition", `${what} was released`);
}

function invalid(message: string): KisekiError {
  return new KisekiError("common.invalid_argument", message);
}

/**
 * Memory for key bytes: outside the moving heap, so that no forgotten copy stays behind when it is
 * zeroed (V8 keeps arrays of up to 64 bytes on its heap unless they come with a buffer).
 */
export function secretBytes(size: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(new ArrayBuffer(size));
}

/** A copy of key bytes in such memory. */
export function secretCopy(bytes: Bytes): Uint8Array<ArrayBuffer> {
  const copy = secretBytes(bytes.length);
  copy.set(bytes);
  return copy;
}
