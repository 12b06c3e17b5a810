/**
 * CRC-32C of each piece of 64 KiB of a fragment, so that a partial read checks what it touched.
 */
import type { Bytes } from "../common/bytes.ts";
import type { Crc32c } from "../common/crc32c.ts";

/** Bytes that one checksum covers; the last piece of a fragment may be shorter. */
export const PIECE_BYTES = 64 << 10;

/** How many checksums a fragment of `length` bytes has. */
export function pieceCount(length: number): number {
  return Math.ceil(length / PIECE_BYTES);
}

/** The checksums of a whole fragment. */
export function checksumPieces(data: Bytes, crc: Crc32c): Uint32Array {
  const sums = new Uint32Array(pieceCount(data.length));
  for (let i = 0; i < sums.length; i++) {
    sums[i] = crc(data.subarray(i * PIECE_BYTES, (i + 1) * PIECE_BYTES));
  }
  return sums;
}

/**
 * Checks pieces that were read.
 *
 * @param data Begins at the start of piece `first` and ends at the end of a piece.
 * @returns the number of the first piece that is wrong, or undefined.
 */
export function wrongPiece(
  data: Bytes,
  first: number,
  sums: Uint32Array,
  crc: Crc32c,
): number | undefined {
  for (let at = 0, piece = first; at < data.length; at += PIECE_BYTES, piece++) {
    if (crc(data.subarray(at, at + PIECE_BYTES)) !== sums[piece]) return piece;
  }
  return undefined;
}
