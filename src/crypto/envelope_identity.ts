/**
 * Identities that bind an envelope to its place; the layouts are those of `EnvelopeKind`.
 */
import { type Bytes, utf8 } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { ChunkId } from "../common/ids.ts";
import { EnvelopeKind } from "./envelope_format.ts";

/** Bytes of an identity, by kind. */
export const IDENTITY_SIZE: Readonly<Record<EnvelopeKind, number>> = {
  [EnvelopeKind.chunk]: 36,
  [EnvelopeKind.runBlock]: 24,
  [EnvelopeKind.delta]: 16,
  [EnvelopeKind.record]: 32,
  [EnvelopeKind.manifest]: 24,
  [EnvelopeKind.keySlot]: 64,
  [EnvelopeKind.token]: 16,
};

/** Position of a run's footer index in {@link runBlockIdentity}. */
export const RUN_FOOTER_POSITION = 0xffff_ffff_ffff_ffffn;

/** Identity of a chunk: its id and its plaintext's length (below 2^32). */
export function chunkIdentity(chunkId: ChunkId, plaintextLength: number): Bytes {
  const out = new Uint8Array(36);
  writeHex(chunkId, 32, out, 0);
  new DataView(out.buffer).setUint32(32, plaintextLength, true);
  return out;
}

/** Identity of a block of a sealed run: the run's 128-bit id in hex and the block's position. */
export function runBlockIdentity(runId: string, position: number | bigint): Bytes {
  return idAndNumber(runId, position);
}

/** Identity of a delta's payload. */
export function deltaIdentity(shard: number, sequence: number | bigint): Bytes {
  const out = new Uint8Array(16);
  const view = new DataView(out.buffer);
  view.setBigUint64(0, BigInt(shard), true);
  view.setBigUint64(8, BigInt(sequence), true);
  return out;
}

/** Identity of a tenant's record in the control shard: the 32-byte keyed hash of its lookup key. */
export function recordIdentity(lookupHash: Bytes): Bytes {
  if (lookupHash.length !== 32) throw wrongSize("a record", lookupHash.length, 32);
  return lookupHash;
}

/** Identity of a table's manifest record. */
export function manifestIdentity(tableId: string, version: number | bigint): Bytes {
  return idAndNumber(tableId, version);
}

/** Identity of a key slot: its name, at most 64 bytes of UTF-8. */
export function keySlotIdentity(name: string): Bytes {
  return padded(name, 64);
}

/** Identity of a token: what it is for, at most 16 bytes of UTF-8. */
export function tokenIdentity(purpose: string): Bytes {
  return padded(purpose, 16);
}

/**
 * Writes `size` bytes given as hex digits.
 *
 * @throws KisekiError `common.invalid_argument` unless there are exactly 2 * size hex digits.
 */
export function writeHex(text: string, size: number, out: Uint8Array, offset: number): void {
  let bad = text.length === 2 * size ? 0 : 256;
  for (let i = 0; i < size && bad === 0; i++) {
    const value = (nibble(text.charCodeAt(2 * i)) << 4) | nibble(text.charCodeAt(2 * i + 1));
    bad |= value & ~0xff;
    out[offset + i] = value;
  }
  if (bad !== 0) {
    throw new KisekiError("common.invalid_argument", `an id of ${size} bytes in hex is wanted`);
  }
}

/** The value of a hex digit, or 256. */
function nibble(code: number): number {
  if (code >= 48 && code <= 57) return code - 48;
  if (code >= 97 && code <= 102) return code - 87;
  if (code >= 65 && code <= 70) return code - 55;
  return 256;
}

function idAndNumber(id: string, number: number | bigint): Bytes {
  const out = new Uint8Array(24);
  writeHex(id, 16, out, 0);
  new DataView(out.buffer).setBigUint64(16, BigInt(number), true);
  return out;
}

function padded(text: string, size: number): Bytes {
  const bytes = utf8(text);
  if (bytes.length > size) throw wrongSize("a name", bytes.length, size);
  const out = new Uint8Array(size);
  out.set(bytes);
  return out;
}

function wrongSize(what: string, found: number, wanted: number): KisekiError {
  return new KisekiError(
    "common.invalid_argument",
    `${what} of ${found} bytes in an envelope's identity (${wanted} wanted)`,
  );
}
