/**
 * Checksums: CRC-32 (ISO-HDLC), CRC-32C (iSCSI) and CRC-64/NVME.
 *
 * ISA-L does the first two, and the third from version 2.31 on; otherwise CRC-32 is zlib's and the
 * others go through tables, 16 and 8 bytes a step (Kounavis and Berry, "A Systematic Approach to
 * Building High Performance Software-based CRC Generators", 2005).
 *
 * Parameters are those of the CRC catalogue (reveng): CRC-32/ISO-HDLC poly 04c11db7, CRC-32/ISCSI
 * poly 1edc6f41, CRC-64/NVME poly ad93d23594c93659; all reflected, init and xorout all ones.
 */
import { crc32 as zlibCrc32 } from "node:zlib";
import type { Isal } from "../../ffi/isal.ts";
import { type Bytes, unshared } from "../common/bytes.ts";
import type { Checksum, ChecksumAlgorithm } from "./provider.ts";

const CRC32C_REFLECTED = 0x82f63b78;
const CRC64_REFLECTED_HIGH = 0x9a6c9329;
const CRC64_REFLECTED_LOW = 0xac4bc9b5;
const SLICES_32 = 16;
const SLICES_64 = 8;

/** The checksums of one isolate. */
export class Checksums {
  readonly #isal: Isal | undefined;

  /** @param isal ISA-L where it was found. */
  constructor(isal: Isal | undefined) {
    this.#isal = isal;
  }

  /** Which implementation serves each algorithm, for `kiseki doctor`. */
  report(): Readonly<Record<ChecksumAlgorithm, string>> {
    const isal = this.#isal;
    return {
      crc32: isal === undefined ? "zlib" : "isa-l",
      crc32c: isal === undefined ? "tables" : "isa-l",
      crc64nvme: isal?.hasCrc64Nvme === true ? "isa-l" : "tables",
    };
  }

  /** CRC-32C of one buffer; `seed` continues an earlier value. */
  crc32c(bytes: Bytes, seed = 0): number {
    return this.#isal === undefined ? crc32cTables(bytes, seed) : this.#isal.crc32c(bytes, seed);
  }

  start(algorithm: ChecksumAlgorithm): Checksum {
    const isal = this.#isal;
    switch (algorithm) {
      case "crc32":
        return new Checksum32(
          isal === undefined
            ? (bytes, seed) => zlibCrc32(unshared(bytes), seed)
            : (bytes, seed) => isal.crc32(bytes, seed),
        );
      case "crc32c":
        return new Checksum32((bytes, seed) => this.crc32c(bytes, seed));
      case "crc64nvme":
        return isal?.hasCrc64Nvme === true ? new NativeCrc64(isal) : new TableCrc64();
    }
  }
}

class Checksum32 implements Checksum {
  readonly #step: (bytes: Bytes, seed: number) => number;
  #value = 0;

  constructor(step: (bytes: Bytes, seed: number) => number) {
    this.#step = step;
  }

  update(bytes: Bytes): void {
    if (bytes.length > 0) this.#value = this.#step(bytes, this.#value);
  }

  digest(): Bytes {
    const out = new Uint8Array(4);
    new DataView(out.buffer).setUint32(0, this.#value);
    return out;
  }
}

class NativeCrc64 implements Checksum {
  readonly #isal: Isal;
  #value = 0n;

  constructor(isal: Isal) {
    this.#isal = isal;
  }

  update(bytes: Bytes): void {
    if (bytes.length > 0) this.#value = this.#isal.crc64Nvme(bytes, this.#value) ?? this.#value;
  }

  digest(): Bytes {
    const out = new Uint8Array(8);
    new DataView(out.buffer).setBigUint64(0, this.#value);
    return out;
  }
}

// --- CRC-32C by tables ---------------------------------------------------------------------------

let tables32: Int32Array | undefined;

function crc32cTable(): Int32Array {
  if (tables32 !== undefined) return tables32;
  const t = new Int32Array(SLICES_32 * 256);
  for (let i = 0; i < 256; i++) {
    let value = i;
    for (let bit = 0; bit < 8; bit++) {
      value = (value & 1) !== 0 ? (value >>> 1) ^ CRC32C_REFLECTED : value >>> 1;
    }
    t[i] = value;
  }
  for (let i = 256; i < t.length; i++) {
    const before = t[i - 256] as number;
    t[i] = (before >>> 8) ^ (t[before & 0xff] as number);
  }
  return tables32 = t;
}

/** CRC-32C without a native library; `seed` is the value so far. */
export function crc32cTables(bytes: Bytes, seed = 0): number {
  const t = crc32cTable();
  const at = (slice: number, byte: number): number => t[(slice << 8) | byte] as number;
  let crc = ~seed;
  let i = 0;
  const end = bytes.length - 15;
  for (; i < end; i += 16) {
    const a = crc ^ word(bytes, i);
    const b = word(bytes, i + 4);
    const c = word(bytes, i + 8);
    const d = word(bytes, i + 12);
    crc = at(15, a & 0xff) ^ at(14, (a >>> 8) & 0xff) ^ at(13, (a >>> 16) & 0xff) ^
      at(12, a >>> 24) ^ at(11, b & 0xff) ^ at(10, (b >>> 8) & 0xff) ^ at(9, (b >>> 16) & 0xff) ^
      at(8, b >>> 24) ^ at(7, c & 0xff) ^ at(6, (c >>> 8) & 0xff) ^ at(5, (c >>> 16) & 0xff) ^
      at(4, c >>> 24) ^ at(3, d & 0xff) ^ at(2, (d >>> 8) & 0xff) ^ at(1, (d >>> 16) & 0xff) ^
      at(0, d >>> 24);
  }
  for (; i < bytes.length; i++) crc = (crc >>> 8) ^ at(0, (crc ^ (bytes[i] as number)) & 0xff);
  return ~crc >>> 0;
}

function word(bytes: Bytes, i: number): number {
  return (bytes[i] as number) | ((bytes[i + 1] as number) << 8) |
    ((bytes[i + 2] as number) << 16) | ((bytes[i + 3] as number) << 24);
}

// --- CRC-64/NVME by tables -----------------------------------------------------------------------

/** High and low words of the tables, slice by slice. */
let tables64: { readonly high: Int32Array; readonly low: Int32Array } | undefined;

function crc64Table(): { readonly high: Int32Array; readonly low: Int32Array } {
  if (tables64 !== undefined) return tables64;
  const high = new Int32Array(SLICES_64 * 256);
  const low = new Int32Array(SLICES_64 * 256);
  for (let i = 0; i < 256; i++) {
    let h = 0;
    let l = i;
    for (let bit = 0; bit < 8; bit++) {
      const odd = (l & 1) !== 0;
      l = (l >>> 1) | (h << 31);
      h = h >>> 1;
      if (odd) {
        l ^= CRC64_REFLECTED_LOW;
        h ^= CRC64_REFLECTED_HIGH;
      }
    }
    high[i] = h;
    low[i] = l;
  }
  for (let i = 256; i < high.length; i++) {
    const h = high[i - 256] as number;
    const l = low[i - 256] as number;
    high[i] = (h >>> 8) ^ (high[l & 0xff] as number);
    low[i] = ((l >>> 8) | (h << 24)) ^ (low[l & 0xff] as number);
  }
  return tables64 = { high, low };
}

class TableCrc64 implements Checksum {
  #high = -1;
  #low = -1;

  update(bytes: Bytes): void {
    const { high, low } = crc64Table();
    let h = this.#high;
    let l = this.#low;
    let i = 0;
    const end = bytes.length - 7;
    for (; i < end; i += 8) {
      const a = l ^ word(bytes, i);
      const b = h ^ word(bytes, i + 4);
      const i7 = 0x700 | (a & 0xff);
      const i6 = 0x600 | ((a >>> 8) & 0xff);
      const i5 = 0x500 | ((a >>> 16) & 0xff);
      const i4 = 0x400 | (a >>> 24);
      const i3 = 0x300 | (b & 0xff);
      const i2 = 0x200 | ((b >>> 8) & 0xff);
      const i1 = 0x100 | ((b >>> 16) & 0xff);
      const i0 = b >>> 24;
      h = (high[i7] as number) ^ (high[i6] as number) ^ (high[i5] as number) ^
        (high[i4] as number) ^ (high[i3] as number) ^ (high[i2] as number) ^
        (high[i1] as number) ^ (high[i0] as number);
      l = (low[i7] as number) ^ (low[i6] as number) ^ (low[i5] as number) ^
        (low[i4] as number) ^ (low[i3] as number) ^ (low[i2] as number) ^
        (low[i1] as number) ^ (low[i0] as number);
    }
    for (; i < bytes.length; i++) {
      const index = (l ^ (bytes[i] as number)) & 0xff;
      l = ((l >>> 8) | (h << 24)) ^ (low[index] as number);
      h = (h >>> 8) ^ (high[index] as number);
    }
    this.#high = h;
    this.#low = l;
  }

  digest(): Bytes {
    const out = new Uint8Array(8);
    const view = new DataView(out.buffer);
    view.setUint32(0, ~this.#high >>> 0);
    view.setUint32(4, ~this.#low >>> 0);
    return out;
  }
}
