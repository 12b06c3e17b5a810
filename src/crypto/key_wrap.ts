/**
 * AES key wrap (RFC 3394) and key wrap with padding (RFC 5649) over a single-block cipher, for
 * libraries that offer none. Written for the fallback provider: a few microseconds a key.
 */
import { type Bytes, constantTimeEqual } from "../common/bytes.ts";
import { secretBytes, unwrapFailed } from "./provider_checks.ts";

/** One AES block in each direction under one key; `block` has 16 bytes and is changed in place. */
export interface BlockCipher {
  encrypt(block: Uint8Array<ArrayBuffer>): void;
  decrypt(block: Uint8Array<ArrayBuffer>): void;
}

/** RFC 3394, section 2.2.3.1. */
const DEFAULT_IV = new Uint8Array(8).fill(0xa6);
/** RFC 5649, section 3. */
const PADDED_IV_PREFIX = new Uint8Array([0xa6, 0x59, 0x59, 0xa6]);

/** RFC 3394, section 2.2.1. */
export function wrap(cipher: BlockCipher, plain: Bytes): Bytes {
  return wrapWith(cipher, DEFAULT_IV, plain);
}

/** RFC 3394, section 2.2.2. @throws KisekiError `crypto.open_failed`. */
export function unwrap(cipher: BlockCipher, wrapped: Bytes): Bytes {
  const { iv, plain } = unwrapWith(cipher, wrapped);
  if (!constantTimeEqual(iv, DEFAULT_IV)) {
    plain.fill(0);
    throw unwrapFailed();
  }
  return plain;
}

/** RFC 5649, section 4.1. */
export function wrapPadded(cipher: BlockCipher, plain: Bytes): Bytes {
  const iv = new Uint8Array(8);
  iv.set(PADDED_IV_PREFIX);
  new DataView(iv.buffer).setUint32(4, plain.length);
  const padded = secretBytes(Math.ceil(plain.length / 8) * 8);
  padded.set(plain);
  try {
    if (padded.length > 8) return wrapWith(cipher, iv, padded);
    const block = secretBytes(16);
    block.set(iv);
    block.set(padded, 8);
    cipher.encrypt(block);
    return block;
  } finally {
    padded.fill(0);
  }
}

/** RFC 5649, section 4.2. @throws KisekiError `crypto.open_failed`. */
export function unwrapPadded(cipher: BlockCipher, wrapped: Bytes): Bytes {
  let iv: Bytes;
  let padded: Bytes;
  if (wrapped.length === 16) {
    const block = secretBytes(16);
    block.set(wrapped);
    cipher.decrypt(block);
    iv = block.slice(0, 8);
    padded = block.subarray(8);
  } else {
    ({ iv, plain: padded } = unwrapWith(cipher, wrapped));
  }
  const length = new DataView(iv.buffer, iv.byteOffset).getUint32(4);
  let bad = constantTimeEqual(iv.subarray(0, 4), PADDED_IV_PREFIX) ? 0 : 1;
  if (length > padded.length || length <= padded.length - 8) bad = 1;
  for (let i = 1; i <= 7; i++) {
    const at = padded.length - i;
    if (at >= length) bad |= padded[at] ?? 0;
  }
  if (bad !== 0) {
    padded.fill(0);
    throw unwrapFailed();
  }
  return padded.subarray(0, length);
}

function wrapWith(cipher: BlockCipher, iv: Bytes, plain: Bytes): Bytes {
  const n = plain.length / 8;
  const out = new Uint8Array(plain.length + 8);
  out.set(plain, 8);
  const block = secretBytes(16);
  const view = new DataView(block.buffer);
  block.set(iv);
  for (let j = 0; j < 6; j++) {
    for (let i = 1; i <= n; i++) {
      block.set(out.subarray(8 * i, 8 * i + 8), 8);
      cipher.encrypt(block);
      view.setUint32(4, (view.getUint32(4) ^ (n * j + i)) >>> 0);
      out.set(block.subarray(8), 8 * i);
    }
  }
  out.set(block.subarray(0, 8));
  block.fill(0);
  return out;
}

function unwrapWith(cipher: BlockCipher, wrapped: Bytes): { iv: Bytes; plain: Bytes } {
  const n = wrapped.length / 8 - 1;
  const plain = secretBytes(8 * n);
  plain.set(wrapped.subarray(8));
  const block = secretBytes(16);
  const view = new DataView(block.buffer);
  block.set(wrapped.subarray(0, 8));
  for (let j = 5; j >= 0; j--) {
    for (let i = n; i >= 1; i--) {
      view.setUint32(4, (view.getUint32(4) ^ (n * j + i)) >>> 0);
      block.set(plain.subarray(8 * i - 8, 8 * i), 8);
      cipher.decrypt(block);
      plain.set(block.subarray(8), 8 * i - 8);
    }
  }
  const iv = block.slice(0, 8);
  block.fill(0);
  return { iv, plain };
}
