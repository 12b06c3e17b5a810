/**
 * The envelope: what sealed bytes look like, byte by byte. Encoder and decoder: `envelope.ts`.
 *
 * | offset | size | field                                                              |
 * |-------:|-----:|--------------------------------------------------------------------|
 * |      0 |    1 | version, 1                                                         |
 * |      1 |    1 | algorithm, 1 = AES-256-GCM, 96-bit random nonce, 128-bit tag       |
 * |      2 |    1 | kind (see {@link EnvelopeKind})                                    |
 * |      3 |    1 | log2 of the segment size, 0 = one segment of any size              |
 * |      4 |    4 | system epoch when sealed, u32 little-endian                        |
 * |      8 |    4 | tenant epoch when sealed, u32 little-endian                        |
 * |     12 |    n | segments: each ciphertext, tag (16), nonce (12)                    |
 *
 * Every segment but the last holds exactly 2^log2 bytes of plaintext; the last holds 1 to 2^log2
 * (0 only when the whole plaintext is empty).
 *
 * Associated data of a segment, in this order:
 * bytes 0..12 of the envelope | organisation id (16) | identity (see the kind) |
 * segment index u32 | segment count u32.
 */

export const ENVELOPE_VERSION = 1;
export const ENVELOPE_ALGORITHM_AES_256_GCM = 1;
export const ENVELOPE_HEADER_SIZE = 12;
/** Chunks are sealed in segments of 64 KiB, so that a range is opened without the rest. */
export const CHUNK_SEGMENT_LOG2 = 16;

export const EnvelopeKind = {
  /** Identity: chunk id (32), plaintext length u32. */
  chunk: 1,
  /** A block of a sealed run. Identity: run id (16), block position u64 (2^64-1 = footer index). */
  runBlock: 2,
  /** A delta's payload. Identity: shard u64, sequence u64. */
  delta: 3,
  /** A tenant's record inside the control shard. Identity: keyed hash of its lookup key (32). */
  record: 4,
  /** A table's manifest record. Identity: table id (16), manifest version u64. */
  manifest: 5,
  /** A slot of the key manager. Identity: slot name, UTF-8, zero-padded to 64. */
  keySlot: 6,
  /** A continuation token or another value handed to a client. Identity: purpose, 16 bytes. */
  token: 7,
} as const;
export type EnvelopeKind = typeof EnvelopeKind[keyof typeof EnvelopeKind];
