/**
 * The payload: every packaged file in one blob, as deploy/build/stub.c reads it.
 *
 * ```
 *   0  "KISEKIPK"   8  u64 total size, header included   16  zero
 *  24  hash of bytes 64..total                           56  zero
 *  64  u32 version = 1   68  u32 count   72  zero        128  entries, then the files
 *  entry, 128 bytes:  0 u64 size   8 u64 offset from the payload's start   16 name, NUL-padded
 * ```
 * All numbers little endian; every file starts on a multiple of 64; total - 64 is a multiple of
 * 512. The hash is SHA-256 over the SHA-256 of eight equal stripes of those bytes: the stub hashes
 * eight lanes at once, because many servers have no SHA instructions.
 */
import { createHash } from "node:crypto";

const HASHED_FROM = 64;
const HEADER_BYTES = 128;
const ENTRY_BYTES = 128;
const NAME_BYTES = 112;
/** memfd names may have 249 bytes; ours are `kiseki:` and the name, in a 128-byte buffer. */
const LONGEST_NAME = 110;
const MOST_FILES = 256;
const VERSION = 1;
const STRIPES = 8;

/** One packaged file. `main.js` is the program. */
export interface PackagedFile {
  readonly name: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** SHA-256 (hex) over names and bytes, whatever the order they came in. */
export function contentHash(files: readonly PackagedFile[]): string {
  const hash = createHash("sha256");
  for (const file of [...files].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    hash.update(`${file.name}\0${file.bytes.length}\0`).update(file.bytes);
  }
  return hash.digest("hex");
}

/**
 * Encodes the payload.
 *
 * @throws RangeError when a name is too long or there are too many files.
 */
export function encodePayload(files: readonly PackagedFile[]): Uint8Array<ArrayBuffer> {
  if (files.length > MOST_FILES) {
    throw new RangeError(`too many files to package: ${files.length} (max ${MOST_FILES})`);
  }
  const encoder = new TextEncoder();
  let at = align(HEADER_BYTES + files.length * ENTRY_BYTES);
  const offsets = files.map((file) => {
    const offset = at;
    at = align(at + file.bytes.length);
    return offset;
  });
  at = HASHED_FROM + Math.ceil((at - HASHED_FROM) / (64 * STRIPES)) * 64 * STRIPES;
  const payload = new Uint8Array(at);
  const view = new DataView(payload.buffer);
  payload.set(encoder.encode("KISEKIPK"));
  view.setBigUint64(8, BigInt(at), true);
  view.setUint32(64, VERSION, true);
  view.setUint32(68, files.length, true);
  for (const [index, file] of files.entries()) {
    const name = encoder.encode(file.name);
    const entry = HEADER_BYTES + index * ENTRY_BYTES;
    const offset = offsets[index] ?? 0;
    if (name.length > LONGEST_NAME || name.length > NAME_BYTES - 1) {
      throw new RangeError(`name too long to package: "${file.name}" (max ${LONGEST_NAME} bytes)`);
    }
    view.setBigUint64(entry, BigInt(file.bytes.length), true);
    view.setBigUint64(entry + 8, BigInt(offset), true);
    payload.set(name, entry + 16);
    payload.set(file.bytes, offset);
  }
  payload.set(stripedHash(payload.subarray(HASHED_FROM)), 24);
  return payload;
}

/** SHA-256 over the SHA-256 of the eight equal stripes of `bytes`. */
export function stripedHash(bytes: Uint8Array): Uint8Array {
  const size = bytes.length / STRIPES;
  const whole = createHash("sha256");
  for (let index = 0; index < STRIPES; index++) {
    const stripe = bytes.subarray(index * size, (index + 1) * size);
    whole.update(createHash("sha256").update(stripe).digest());
  }
  return whole.digest();
}

function align(at: number): number {
  return Math.ceil(at / 64) * 64;
}
