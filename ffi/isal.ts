/**
 * ISA-L: Reed-Solomon over GF(2^8) and fast checksums (Intel Intelligent Storage Acceleration
 * Library, isa-l.h of 2.30).
 *
 * Invariants: matrices are row-major bytes; a table of k data and p parity rows has 32 * k * p
 * bytes; calls are synchronous (a 1 MiB fragment of 4+2 takes some 0.2 ms).
 */
import { asBuffer, type NativeBytes, NativeLibraryError, openLibrary } from "./native_library.ts";

const B = "buffer";
const I32 = "i32";

const SYMBOLS = {
  gf_gen_cauchy1_matrix: { parameters: [B, I32, I32], result: "void" },
  gf_invert_matrix: { parameters: [B, B, I32], result: I32 },
  gf_mul: { parameters: ["u8", "u8"], result: "u8" },
  ec_init_tables: { parameters: [I32, I32, B, B], result: "void" },
  ec_encode_data: { parameters: [I32, I32, I32, B, B, B], result: "void" },
  ec_encode_data_async: {
    name: "ec_encode_data",
    parameters: [I32, I32, I32, B, B, B],
    result: "void",
    nonblocking: true,
  },
  ec_encode_data_update: { parameters: [I32, I32, I32, I32, B, B, B], result: "void" },
  crc32_iscsi: { parameters: [B, I32, "u32"], result: "u32" },
  crc32_gzip_refl: { parameters: ["u32", B, "u64"], result: "u32" },
  // From ISA-L 2.31 on: the polynomial of NVM Express 2.0 (Rocksoft model).
  crc64_rocksoft_refl: { parameters: ["u64", B, "u64"], result: "u64", optional: true },
} as const satisfies Deno.ForeignLibraryInterface;

/** Most data and parity rows together (GF(2^8)). */
export const MAX_ERASURE_ROWS = 255;
/** Bytes of one coefficient's expanded table. */
export const ERASURE_TABLE_BYTES_PER_COEFFICIENT = 32;

/**
 * Opens ISA-L.
 *
 * @throws NativeLibraryError when it is absent, lacks a symbol or multiplies wrongly.
 */
export function openIsal(path = "libisal.so.2"): Isal {
  return new Isal(path);
}

/** Addresses of buffers, made once and used for many encodes; keeps the buffers alive. */
export class BufferTable {
  readonly buffers: readonly NativeBytes[];
  readonly addresses: Uint8Array<ArrayBuffer>;

  constructor(buffers: readonly NativeBytes[]) {
    const words = new BigUint64Array(buffers.length);
    for (let i = 0; i < buffers.length; i++) {
      const buffer = buffers[i];
      if (buffer === undefined || buffer.length === 0) {
        throw new RangeError(`buffer ${i} of an address table is empty`);
      }
      words[i] = Deno.UnsafePointer.value(Deno.UnsafePointer.of(asBuffer(buffer)));
    }
    this.buffers = buffers;
    this.addresses = new Uint8Array(words.buffer);
  }
}

/** The binding. */
export class Isal {
  readonly path: string;
  /** True where the library knows CRC-64/NVME. */
  readonly hasCrc64Nvme: boolean;
  readonly #library: Deno.DynamicLibrary<typeof SYMBOLS>;
  readonly #c: Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];

  constructor(path: string) {
    this.path = path;
    this.#library = openLibrary(path, SYMBOLS);
    this.#c = this.#library.symbols;
    this.hasCrc64Nvme = this.#c.crc64_rocksoft_refl !== null;
    // 3 * 200 over x^8+x^4+x^3+x^2+1.
    if (this.#c.gf_mul(3, 200) !== 0x45) {
      throw new NativeLibraryError(path, "GF(2^8) multiplication gives a wrong product");
    }
  }

  /** Unloads the binding. For tests. */
  unload(): void {
    this.#library.close();
  }

  /**
   * A generator matrix of `rows` (data and parity) by `dataRows`: identity, then Cauchy rows.
   * Every square part of the Cauchy rows can be inverted.
   *
   * @throws RangeError outside 1 <= dataRows < rows <= 255.
   */
  cauchyMatrix(rows: number, dataRows: number): Uint8Array<ArrayBuffer> {
    if (!(dataRows >= 1 && dataRows < rows && rows <= MAX_ERASURE_ROWS)) {
      throw new RangeError(`an erasure matrix of ${rows} rows by ${dataRows}`);
    }
    const matrix = new Uint8Array(rows * dataRows);
    this.#c.gf_gen_cauchy1_matrix(matrix, rows, dataRows);
    return matrix;
  }

  /** The inverse of an n by n matrix, or undefined when it has none. */
  invert(matrix: NativeBytes, n: number): Uint8Array<ArrayBuffer> | undefined {
    if (matrix.length !== n * n) throw new RangeError(`${matrix.length} bytes for ${n} by ${n}`);
    const scratch = new Uint8Array(matrix); // the call destroys its input
    const out = new Uint8Array(n * n);
    return this.#c.gf_invert_matrix(scratch, out, n) === 0 ? out : undefined;
  }

  /** Product in GF(2^8) over 0x11d. */
  multiply(a: number, b: number): number {
    return this.#c.gf_mul(a, b);
  }

  /** Expands `outputs` rows of `inputs` coefficients for {@link encode}. */
  tables(inputs: number, outputs: number, coefficients: NativeBytes): Uint8Array<ArrayBuffer> {
    if (coefficients.length !== inputs * outputs) {
      throw new RangeError(`${coefficients.length} coefficients for ${outputs} by ${inputs}`);
    }
    const out = new Uint8Array(ERASURE_TABLE_BYTES_PER_COEFFICIENT * inputs * outputs);
    this.#c.ec_init_tables(inputs, outputs, asBuffer(coefficients), out);
    return out;
  }

  /** Computes every output from all inputs over the first `length` bytes of each buffer. */
  encode(length: number, tables: NativeBytes, inputs: BufferTable, outputs: BufferTable): void {
    checkEncode(length, tables, inputs, outputs);
    this.#c.ec_encode_data(
      length,
      inputs.buffers.length,
      outputs.buffers.length,
      asBuffer(tables),
      inputs.addresses,
      outputs.addresses,
    );
  }

  /** The same on another thread: worth it from about 4 MiB of input. Buffers must not change. */
  async encodeAsync(
    length: number,
    tables: NativeBytes,
    inputs: BufferTable,
    outputs: BufferTable,
  ): Promise<void> {
    checkEncode(length, tables, inputs, outputs);
    await this.#c.ec_encode_data_async(
      length,
      inputs.buffers.length,
      outputs.buffers.length,
      asBuffer(tables),
      inputs.addresses,
      outputs.addresses,
    );
    // A use after the wait keeps the buffers reachable until then.
    checkEncode(length, tables, inputs, outputs);
  }

  /** Adds input number `index` of `inputs` to outputs that were zeroed before the first one. */
  encodeUpdate(
    length: number,
    inputs: number,
    index: number,
    tables: NativeBytes,
    input: NativeBytes,
    outputs: BufferTable,
  ): void {
    if (input.length < length || index < 0 || index >= inputs) {
      throw new RangeError(`input ${index} of ${inputs} with ${input.length} bytes for ${length}`);
    }
    checkLengths(length, tables, inputs, outputs);
    this.#c.ec_encode_data_update(
      length,
      inputs,
      outputs.buffers.length,
      index,
      asBuffer(tables),
      asBuffer(input),
      outputs.addresses,
    );
  }

  /** CRC-32C (Castagnoli); `seed` is the value so far, 0 at the start. At most 2 GiB - 1. */
  crc32c(bytes: NativeBytes, seed = 0): number {
    return ~this.#c.crc32_iscsi(asBuffer(bytes), bytes.length, ~seed >>> 0) >>> 0;
  }

  /** CRC-32 (ISO-HDLC, as gzip); `seed` is the value so far, 0 at the start. */
  crc32(bytes: NativeBytes, seed = 0): number {
    return this.#c.crc32_gzip_refl(seed, asBuffer(bytes), BigInt(bytes.length));
  }

  /** CRC-64/NVME; undefined where {@link hasCrc64Nvme} is false. */
  crc64Nvme(bytes: NativeBytes, seed = 0n): bigint | undefined {
    const call = this.#c.crc64_rocksoft_refl;
    return call === null ? undefined : call(seed, asBuffer(bytes), BigInt(bytes.length));
  }
}

function checkLengths(
  length: number,
  tables: NativeBytes,
  inputs: number,
  outputs: BufferTable,
): void {
  const wanted = ERASURE_TABLE_BYTES_PER_COEFFICIENT * inputs * outputs.buffers.length;
  if (tables.length !== wanted) {
    throw new RangeError(`erasure tables of ${tables.length} bytes (${wanted} wanted)`);
  }
  for (const buffer of outputs.buffers) {
    if (buffer.length < length) throw new RangeError(`an output of ${buffer.length} bytes`);
  }
}

function checkEncode(
  length: number,
  tables: NativeBytes,
  inputs: BufferTable,
  outputs: BufferTable,
): void {
  checkLengths(length, tables, inputs.buffers.length, outputs);
  for (const buffer of inputs.buffers) {
    if (buffer.length < length) throw new RangeError(`an input of ${buffer.length} bytes`);
  }
}
