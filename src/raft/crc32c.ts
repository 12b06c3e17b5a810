/**
 * CRC-32C (Castagnoli, RFC 3720 appendix B.4) in plain TypeScript, eight bytes a step.
 *
 * The write-ahead log takes any function of this shape; a composition root may hand in the crypto
 * provider's native one. This one is the portable default and the reference in tests.
 */
import type { Bytes } from "../common/bytes.ts";

/** CRC-32C of `bytes` as an unsigned 32-bit number; `seed` continues an earlier value. */
export type Crc32c = (bytes: Bytes, seed?: number) => number;

const POLYNOMIAL_REFLECTED = 0x82f63b78;
const TABLES = buildTables();

function buildTables(): Uint32Array {
  const tables = new Uint32Array(8 * 256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) {
      crc = (crc >>> 1) ^ ((crc & 1) === 1 ? POLYNOMIAL_REFLECTED : 0);
    }
    tables[byte] = crc >>> 0;
  }
  for (let i = 256; i < tables.length; i++) {
    const before = tables[i - 256] as number;
    tables[i] = ((before >>> 8) ^ (tables[before & 0xff] as number)) >>> 0;
  }
  return tables;
}

/** See {@link Crc32c}. */
export function crc32c(bytes: Bytes, seed = 0): number {
  const t = TABLES;
  let crc = ~seed;
  let i = 0;
  const bulk = bytes.length - (bytes.length % 8);
  while (i < bulk) {
    const low = crc ^ ((bytes[i] as number) | ((bytes[i + 1] as number) << 8) |
      ((bytes[i + 2] as number) << 16) | ((bytes[i + 3] as number) << 24));
    crc = (t[1792 + (low & 0xff)] as number) ^ (t[1536 + ((low >>> 8) & 0xff)] as number) ^
      (t[1280 + ((low >>> 16) & 0xff)] as number) ^ (t[1024 + (low >>> 24)] as number) ^
      (t[768 + (bytes[i + 4] as number)] as number) ^
      (t[512 + (bytes[i + 5] as number)] as number) ^
      (t[256 + (bytes[i + 6] as number)] as number) ^
      (t[bytes[i + 7] as number] as number);
    i += 8;
  }
  for (; i < bytes.length; i++) {
    crc = (crc >>> 8) ^ (t[(crc ^ (bytes[i] as number)) & 0xff] as number);
  }
  return ~crc >>> 0;
}
