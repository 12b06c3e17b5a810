/**
 * Byte strings: comparison, hex, and the bounded reader and writer that every binary format uses.
 *
 * Invariants: integers are little-endian unless a name says `Be`; a reader never reads past its
 * end and throws `common.corrupt_format` instead; lengths are checked before anything is allocated.
 */
import { KisekiError } from "./errors.ts";

/** A byte array over memory of any kind, shared or not. */
export type Bytes = Uint8Array;

export const EMPTY_BYTES: Bytes = new Uint8Array(0);

const encoder = new TextEncoder();
const strictDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** UTF-8 bytes of a string. */
export function utf8(text: string): Bytes {
  return encoder.encode(text);
}

/**
 * Text of UTF-8 bytes.
 *
 * @throws KisekiError `common.invalid_argument` when the bytes are not UTF-8.
 */
export function utf8ToString(bytes: Bytes): string {
  try {
    return strictDecoder.decode(unshared(bytes));
  } catch (cause) {
    throw new KisekiError("common.invalid_argument", "bytes are not valid UTF-8", { cause });
  }
}

/** The same bytes in memory that is not shared: some platform calls refuse shared memory. */
export function unshared(bytes: Bytes): Uint8Array<ArrayBuffer> {
  if (bytes.buffer instanceof ArrayBuffer) return bytes as Uint8Array<ArrayBuffer>;
  const copy = new Uint8Array(bytes.length);
  copy.set(bytes);
  return copy;
}

/** Bytewise order, as memcmp: negative, zero or positive. A prefix sorts first. */
export function compareBytes(a: Bytes, b: Bytes): number {
  const n = a.length < b.length ? a.length : b.length;
  for (let i = 0; i < n; i++) {
    const d = (a[i] as number) - (b[i] as number);
    if (d !== 0) return d;
  }
  return a.length - b.length;
}

/** Equality of public bytes. Never for secrets: see `constantTimeEqual`. */
export function equalBytes(a: Bytes, b: Bytes): boolean {
  return a.length === b.length && compareBytes(a, b) === 0;
}

/** Equality whose time depends on the lengths alone. */
export function constantTimeEqual(a: Bytes, b: Bytes): boolean {
  if (a.length !== b.length) return false;
  let difference = 0;
  for (let i = 0; i < a.length; i++) difference |= (a[i] as number) ^ (b[i] as number);
  return difference === 0;
}

/** One array out of many. */
export function concatBytes(...parts: readonly Bytes[]): Bytes {
  let size = 0;
  for (const part of parts) size += part.length;
  const out = new Uint8Array(size);
  let offset = 0;
  for (const part of parts) {
    out.set(part, offset);
    offset += part.length;
  }
  return out;
}

/** Lower-case hex. */
export function toHex(bytes: Bytes): string {
  return bytes.toHex();
}

/** Value of a hex digit by its character code; 255 for what is none. */
const NIBBLES: Uint8Array = (() => {
  const nibbles = new Uint8Array(256).fill(255);
  for (let i = 0; i < 16; i++) {
    const digit = i.toString(16);
    nibbles[digit.charCodeAt(0)] = i;
    nibbles[digit.toUpperCase().charCodeAt(0)] = i;
  }
  return nibbles;
})();

/**
 * Bytes of a hex string of either case.
 *
 * @throws KisekiError `common.invalid_argument` on odd length or a digit that is none.
 */
export function fromHex(text: string): Bytes {
  const size = text.length >> 1;
  const out = new Uint8Array(size);
  let bad = text.length & 1;
  for (let i = 0; i < size; i++) {
    const high = text.charCodeAt(2 * i);
    const low = text.charCodeAt(2 * i + 1);
    const a = NIBBLES[high & 0xff] as number;
    const b = NIBBLES[low & 0xff] as number;
    bad |= (a | b) & 0xf0;
    bad |= (high | low) >> 8;
    out[i] = (a << 4) | b;
  }
  if (bad !== 0) throw new KisekiError("common.invalid_argument", "not a hex string");
  return out;
}

/** The smallest byte string greater than every string with this prefix; undefined when none is. */
export function prefixEnd(prefix: Bytes): Bytes | undefined {
  for (let i = prefix.length - 1; i >= 0; i--) {
    if (prefix[i] !== 0xff) {
      const end = prefix.slice(0, i + 1);
      end[i] = (end[i] as number) + 1;
      return end;
    }
  }
  return undefined;
}

/** A growing little-endian writer. */
export class ByteWriter {
  #buffer: Uint8Array<ArrayBuffer>;
  #view: DataView;
  #length = 0;

  constructor(initialCapacity = 256) {
    this.#buffer = new Uint8Array(initialCapacity);
    this.#view = new DataView(this.#buffer.buffer);
  }

  get length(): number {
    return this.#length;
  }

  /** The bytes written so far; valid until the next write. */
  view(): Bytes {
    return this.#buffer.subarray(0, this.#length);
  }

  /** A copy of the bytes written so far. */
  finish(): Bytes {
    return this.#buffer.slice(0, this.#length);
  }

  reset(): void {
    this.#length = 0;
  }

  u8(value: number): this {
    this.#room(1);
    this.#view.setUint8(this.#length, value);
    this.#length += 1;
    return this;
  }

  u16(value: number): this {
    this.#room(2);
    this.#view.setUint16(this.#length, value, true);
    this.#length += 2;
    return this;
  }

  u32(value: number): this {
    this.#room(4);
    this.#view.setUint32(this.#length, value, true);
    this.#length += 4;
    return this;
  }

  u64(value: bigint): this {
    this.#room(8);
    this.#view.setBigUint64(this.#length, value, true);
    this.#length += 8;
    return this;
  }

  /** A non-negative safe integer as u64. */
  int(value: number): this {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new KisekiError("common.invalid_argument", `not an unsigned safe integer: ${value}`);
    }
    this.#room(8);
    this.#view.setUint32(this.#length, value % 0x1_0000_0000, true);
    this.#view.setUint32(this.#length + 4, Math.floor(value / 0x1_0000_0000), true);
    this.#length += 8;
    return this;
  }

  f64(value: number): this {
    this.#room(8);
    this.#view.setFloat64(this.#length, value, true);
    this.#length += 8;
    return this;
  }

  /** LEB128 of a non-negative safe integer: 1 to 8 bytes. */
  varint(value: number): this {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new KisekiError("common.invalid_argument", `not an unsigned safe integer: ${value}`);
    }
    this.#room(8);
    let rest = value;
    while (rest >= 0x80) {
      this.#buffer[this.#length++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.#buffer[this.#length++] = rest;
    return this;
  }

  /** Raw bytes without a length. */
  raw(bytes: Bytes): this {
    this.#room(bytes.length);
    this.#buffer.set(bytes, this.#length);
    this.#length += bytes.length;
    return this;
  }

  /** A varint length, then the bytes. */
  bytes(bytes: Bytes): this {
    return this.varint(bytes.length).raw(bytes);
  }

  /** A varint length, then UTF-8. */
  text(text: string): this {
    return this.bytes(utf8(text));
  }

  #room(size: number): void {
    const needed = this.#length + size;
    if (needed <= this.#buffer.length) return;
    let capacity = this.#buffer.length * 2;
    if (capacity < 64) capacity = 64;
    while (capacity < needed) capacity *= 2;
    const grown = new Uint8Array(capacity);
    grown.set(this.#buffer.subarray(0, this.#length));
    this.#buffer = grown;
    this.#view = new DataView(grown.buffer);
  }
}

/** A bounded little-endian reader over one array. */
export class ByteReader {
  readonly #bytes: Bytes;
  readonly #view: DataView;
  readonly #what: string;
  #offset = 0;

  /** @param what Names the format in errors, e.g. "delta header". */
  constructor(bytes: Bytes, what: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#what = what;
  }

  get offset(): number {
    return this.#offset;
  }

  get remaining(): number {
    return this.#bytes.length - this.#offset;
  }

  u8(): number {
    this.#need(1);
    return this.#view.getUint8(this.#offset++);
  }

  u16(): number {
    this.#need(2);
    const value = this.#view.getUint16(this.#offset, true);
    this.#offset += 2;
    return value;
  }

  u32(): number {
    this.#need(4);
    const value = this.#view.getUint32(this.#offset, true);
    this.#offset += 4;
    return value;
  }

  u64(): bigint {
    this.#need(8);
    const value = this.#view.getBigUint64(this.#offset, true);
    this.#offset += 8;
    return value;
  }

  /** A u64 that must be a safe integer. */
  int(): number {
    this.#need(8);
    const low = this.#view.getUint32(this.#offset, true);
    const high = this.#view.getUint32(this.#offset + 4, true);
    if (high > 0x1f_ffff) throw this.corrupt("an integer beyond 2^53");
    this.#offset += 8;
    return high * 0x1_0000_0000 + low;
  }

  f64(): number {
    this.#need(8);
    const value = this.#view.getFloat64(this.#offset, true);
    this.#offset += 8;
    return value;
  }

  varint(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 8; i++) {
      const byte = this.u8();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (!Number.isSafeInteger(value) || (byte === 0 && i > 0)) {
          throw this.corrupt("a malformed varint");
        }
        return value;
      }
      scale *= 0x80;
    }
    throw this.corrupt("a malformed varint");
  }

  /** A view of the next `size` bytes. */
  raw(size: number): Bytes {
    this.#need(size);
    const view = this.#bytes.subarray(this.#offset, this.#offset + size);
    this.#offset += size;
    return view;
  }

  /** A view of varint-prefixed bytes, at most `max` of them. */
  bytes(max: number): Bytes {
    const size = this.varint();
    if (size > max) throw this.corrupt(`a field of ${size} bytes (max ${max})`);
    return this.raw(size);
  }

  text(max: number): string {
    return utf8ToString(this.bytes(max));
  }

  /** All that is left, as a view. */
  rest(): Bytes {
    return this.raw(this.remaining);
  }

  /** @throws KisekiError `common.corrupt_format` unless every byte was read. */
  end(): void {
    if (this.remaining !== 0) throw this.corrupt(`${this.remaining} bytes too many`);
  }

  /** An error that names the format and the offset. */
  corrupt(what: string): KisekiError {
    return new KisekiError(
      "common.corrupt_format",
      `${this.#what}: ${what} at offset ${this.#offset}`,
    );
  }

  #need(size: number): void {
    if (this.remaining < size) throw this.corrupt(`${size} bytes wanted, ${this.remaining} left`);
  }
}
