/**
 * Systematic Reed-Solomon over GF(2^8) (polynomial 0x11d) with a Cauchy matrix (Blömer et al.,
 * "An XOR-Based Erasure-Resilient Coding Scheme", 1995): the matrix algebra, and a portable coder.
 *
 * The generator has the identity on top; row i >= k has 1 / (i xor j) in column j, as ISA-L's
 * `gf_gen_cauchy1_matrix`, so both coders give the same bytes. Any k of the k+m fragments rebuild
 * the rest. The code works byte by byte, so a range is rebuilt from the same range of k others.
 */
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";

/** k data and m parity fragments. */
export interface ErasureScheme {
  readonly data: number;
  readonly parity: number;
}

/** A fragment, or the same range of each. */
export interface NumberedFragment {
  readonly fragment: number;
  readonly bytes: Bytes;
}

/** Computes fragments from others; all buffers of a call have one length. */
export interface ErasureCoder {
  readonly name: "isa-l" | "portable";
  /** Fills the `parity` buffers from the `data` buffers. */
  encode(scheme: ErasureScheme, data: readonly Bytes[], parity: readonly Bytes[]): void;
  /**
   * Fills the `wanted` fragments from exactly k others.
   *
   * @throws KisekiError `common.invalid_argument` unless there are k distinct ones.
   */
  rebuild(
    scheme: ErasureScheme,
    from: readonly NumberedFragment[],
    wanted: readonly NumberedFragment[],
  ): void;
}

const LOG = new Uint8Array(256);
const EXP = new Uint8Array(512);
for (let power = 0, value = 1; power < 255; power++) {
  EXP[power] = value;
  EXP[power + 255] = value;
  LOG[value] = power;
  value = (value << 1) ^ (value >= 0x80 ? 0x11d : 0);
}

function multiply(a: number, b: number): number {
  if (a === 0 || b === 0) return 0;
  return EXP[(LOG[a] as number) + (LOG[b] as number)] as number;
}

function inverse(a: number): number {
  return EXP[255 - (LOG[a] as number)] as number;
}

/** The generator, (k + m) rows of k, row-major. */
export function generatorMatrix({ data, parity }: ErasureScheme): Bytes {
  const matrix = new Uint8Array((data + parity) * data);
  for (let i = 0; i < data; i++) matrix[i * data + i] = 1;
  for (let i = data; i < data + parity; i++) {
    for (let j = 0; j < data; j++) matrix[i * data + j] = inverse(i ^ j);
  }
  return matrix;
}

/**
 * The rows that give fragments `wanted` from fragments `from`, row-major, k to a row.
 *
 * @throws KisekiError `common.invalid_argument` unless `from` names k distinct fragments.
 */
export function rebuildMatrix(
  scheme: ErasureScheme,
  from: readonly number[],
  wanted: readonly number[],
): Bytes {
  const k = scheme.data;
  const all = k + scheme.parity;
  if (
    from.length !== k || new Set(from).size !== k ||
    [...from, ...wanted].some((fragment) => !(fragment >= 0 && fragment < all))
  ) {
    throw new KisekiError(
      "common.invalid_argument",
      `fragments ${from.join(",")} cannot rebuild ${wanted.join(",")} of ${k}+${scheme.parity}`,
    );
  }
  const generator = generatorMatrix(scheme);
  const chosen = new Uint8Array(k * k);
  from.forEach((fragment, row) => {
    chosen.set(generator.subarray(fragment * k, (fragment + 1) * k), row * k);
  });
  const decode = invert(chosen, k);
  const rows = new Uint8Array(wanted.length * k);
  wanted.forEach((fragment, row) => {
    for (let column = 0; column < k; column++) {
      let sum = 0;
      for (let i = 0; i < k; i++) {
        sum ^= multiply(generator[fragment * k + i] as number, decode[i * k + column] as number);
      }
      rows[row * k + column] = sum;
    }
  });
  return rows;
}

/** Gauss-Jordan elimination. Every k rows of a Cauchy generator are independent. */
function invert(matrix: Bytes, n: number): Bytes {
  const left = matrix.slice();
  const right = new Uint8Array(n * n);
  for (let i = 0; i < n; i++) right[i * n + i] = 1;
  for (let column = 0; column < n; column++) {
    let pivot = column;
    while (pivot < n && left[pivot * n + column] === 0) pivot++;
    if (pivot === n) throw new KisekiError("common.internal", "a singular erasure matrix");
    swapRows(left, n, pivot, column);
    swapRows(right, n, pivot, column);
    const scale = inverse(left[column * n + column] as number);
    for (let i = 0; i < n; i++) {
      left[column * n + i] = multiply(scale, left[column * n + i] as number);
      right[column * n + i] = multiply(scale, right[column * n + i] as number);
    }
    for (let row = 0; row < n; row++) {
      const factor = left[row * n + column] as number;
      if (row === column || factor === 0) continue;
      for (let i = 0; i < n; i++) {
        left[row * n + i] = (left[row * n + i] as number) ^
          multiply(factor, left[column * n + i] as number);
        right[row * n + i] = (right[row * n + i] as number) ^
          multiply(factor, right[column * n + i] as number);
      }
    }
  }
  return right;
}

function swapRows(matrix: Bytes, n: number, a: number, b: number): void {
  if (a === b) return;
  const row = matrix.slice(a * n, (a + 1) * n);
  matrix.copyWithin(a * n, b * n, (b + 1) * n);
  matrix.set(row, b * n);
}

/** The coder in plain TypeScript: for machines without ISA-L, and the reference in tests. */
export const PORTABLE_CODER: ErasureCoder = {
  name: "portable",
  encode(scheme, data, parity) {
    requireBuffers(scheme, data, parity);
    const rows = generatorMatrix(scheme).subarray(scheme.data * scheme.data);
    combine(rows, data, parity);
  },
  rebuild(scheme, from, wanted) {
    const rows = rebuildMatrix(scheme, numbersOf(from), numbersOf(wanted));
    combine(rows, from.map((part) => part.bytes), wanted.map((part) => part.bytes));
  },
};

/** The fragment numbers. */
export function numbersOf(fragments: readonly NumberedFragment[]): readonly number[] {
  return fragments.map((part) => part.fragment);
}

/** @throws KisekiError `common.invalid_argument` unless there are k data and m parity buffers. */
export function requireBuffers(
  scheme: ErasureScheme,
  data: readonly Bytes[],
  parity: readonly Bytes[],
): void {
  if (data.length === scheme.data && parity.length === scheme.parity) return;
  throw new KisekiError(
    "common.invalid_argument",
    `${data.length}+${parity.length} buffers for a code of ${scheme.data}+${scheme.parity}`,
  );
}

function combine(rows: Bytes, inputs: readonly Bytes[], outputs: readonly Bytes[]): void {
  outputs.forEach((output, row) => {
    inputs.forEach((input, column) => {
      const factor = rows[row * inputs.length + column] as number;
      const table = new Uint8Array(256);
      for (let i = 0; i < 256; i++) table[i] = multiply(factor, i);
      if (column === 0) {
        for (let i = 0; i < output.length; i++) output[i] = table[input[i] as number] as number;
      } else {
        for (let i = 0; i < output.length; i++) {
          output[i] = (output[i] as number) ^ (table[input[i] as number] as number);
        }
      }
    });
  });
}
