/**
 * Bytewise order of keys that lie inside larger buffers, without making views of them.
 *
 * The order is that of `compareBytes`: memcmp, a prefix first.
 */
import type { Bytes } from "../common/bytes.ts";

/** Order of `a[aStart..aEnd)` and `b[bStart..bEnd)`: negative, zero or positive. */
export function compareRanges(
  a: Bytes,
  aStart: number,
  aEnd: number,
  b: Bytes,
  bStart: number,
  bEnd: number,
): number {
  const aLength = aEnd - aStart;
  const bLength = bEnd - bStart;
  const n = aLength < bLength ? aLength : bLength;
  for (let i = 0; i < n; i++) {
    const d = (a[aStart + i] as number) - (b[bStart + i] as number);
    if (d !== 0) return d;
  }
  return aLength - bLength;
}

/** How many leading bytes `a[aStart..aEnd)` and `b[bStart..bEnd)` share. */
export function commonPrefixLength(
  a: Bytes,
  aStart: number,
  aEnd: number,
  b: Bytes,
  bStart: number,
  bEnd: number,
): number {
  const n = Math.min(aEnd - aStart, bEnd - bStart);
  let i = 0;
  while (i < n && a[aStart + i] === b[bStart + i]) i++;
  return i;
}

/** Copies bytes; a plain loop is faster than `set` of a view for short ones. */
export function copyBytes(
  from: Bytes,
  start: number,
  end: number,
  to: Bytes,
  offset: number,
): void {
  if (end - start > 48) {
    to.set(from.subarray(start, end), offset);
    return;
  }
  for (let i = start; i < end; i++) to[offset++] = from[i] as number;
}
