/**
 * The CRC of two pieces put together, from the CRCs of the pieces and the length of the second.
 *
 * A CRC is a remainder in GF(2)[x]: appending n zero bytes multiplies it by x^(8n) modulo the
 * polynomial, which is found by squaring (the idea of zlib's crc32_combine by Mark Adler, here in
 * arithmetic on any width). It holds for CRCs that start from and end with all ones, as these do.
 */
import type { Bytes } from "../common/bytes.ts";

export type CombinableCrc = "CRC32" | "CRC32C" | "CRC64NVME";

interface Field {
  readonly width: bigint;
  /** Reflected polynomial. */
  readonly polynomial: bigint;
}

const FIELDS: Readonly<Record<CombinableCrc, Field>> = {
  CRC32: { width: 32n, polynomial: 0xedb8_8320n },
  CRC32C: { width: 32n, polynomial: 0x82f6_3b78n },
  CRC64NVME: { width: 64n, polynomial: 0x9a6c_9329_ac4b_c9b5n },
};

/** Combines CRCs from left to right; remembers the factor of the last length. */
export class CrcCombiner {
  readonly #field: Field;
  #value = 0n;
  #length = -1;
  #factor = 0n;

  constructor(algorithm: CombinableCrc) {
    this.#field = FIELDS[algorithm];
  }

  /** @param crc Big-endian bytes. @param sizeBytes What it was computed over. */
  append(crc: Bytes, sizeBytes: number): void {
    if (this.#length !== sizeBytes) {
      this.#factor = zeroBytesFactor(this.#field, sizeBytes);
      this.#length = sizeBytes;
    }
    let next = 0n;
    for (const byte of crc) next = (next << 8n) | BigInt(byte);
    this.#value = multiply(this.#field, this.#factor, this.#value) ^ next;
  }

  /** Big-endian bytes; of nothing appended, the CRC of nothing. */
  digest(): Bytes {
    const out = new Uint8Array(Number(this.#field.width / 8n));
    let rest = this.#value;
    for (let i = out.length - 1; i >= 0; i--) {
      out[i] = Number(rest & 0xffn);
      rest >>= 8n;
    }
    return out;
  }
}

/** x^(8n) modulo the polynomial, reflected: the top bit is x^0. */
function zeroBytesFactor(field: Field, sizeBytes: number): bigint {
  let square = 1n << (field.width - 9n); // x^8
  let factor = 1n << (field.width - 1n); // x^0
  for (let n = BigInt(sizeBytes); n > 0n; n >>= 1n) {
    if ((n & 1n) === 1n) factor = multiply(field, factor, square);
    square = multiply(field, square, square);
  }
  return factor;
}

function multiply(field: Field, a: bigint, b: bigint): bigint {
  let product = 0n;
  let shifted = b;
  for (let bit = 1n << (field.width - 1n); bit > 0n; bit >>= 1n) {
    if ((a & bit) !== 0n) product ^= shifted;
    shifted = (shifted & 1n) === 1n ? (shifted >> 1n) ^ field.polynomial : shifted >> 1n;
  }
  return product;
}
