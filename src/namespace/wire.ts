/**
 * Protobuf wire format, described by typed schemas: records and messages of this room.
 *
 * Why not reflection at run time: rows are decoded a thousand at a time in a listing, and ids,
 * sizes and timestamps must come out as what the code uses (bytes, safe integers, bigints). The
 * schemas and `proto/kiseki/v1/namespace.proto` say the same; a test holds them together.
 *
 * Invariants: absent fields have proto3's defaults; unknown fields are skipped; decoded `bytes`
 * are views of the input; any malformed input is `common.corrupt_format` and nothing is allocated
 * beyond the size of the input.
 */
import { type Bytes, EMPTY_BYTES } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const TWO_32 = 0x1_0000_0000;

/** A growing protobuf writer. Nested messages are written in place and moved by their length. */
export class WireWriter {
  #buffer: Uint8Array<ArrayBuffer>;
  #view: DataView;
  length = 0;

  constructor(capacity = 256) {
    this.#buffer = new Uint8Array(capacity);
    this.#view = new DataView(this.#buffer.buffer);
  }

  finish(): Bytes {
    return this.#buffer.slice(0, this.length);
  }

  byte(value: number): void {
    this.#room(1);
    this.#buffer[this.length++] = value;
  }

  varint(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new KisekiError("common.invalid_argument", `not an unsigned safe integer: ${value}`);
    }
    this.#room(8);
    let rest = value;
    while (rest >= 0x80) {
      this.#buffer[this.length++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.#buffer[this.length++] = rest;
  }

  fixed64(value: bigint): void {
    this.#room(8);
    this.#view.setBigUint64(this.length, value, true);
    this.length += 8;
  }

  raw(bytes: Bytes): void {
    this.#room(bytes.length);
    this.#buffer.set(bytes, this.length);
    this.length += bytes.length;
  }

  bytes(bytes: Bytes): void {
    this.varint(bytes.length);
    this.raw(bytes);
  }

  text(text: string): void {
    // At most three bytes a UTF-16 unit; a short text takes one byte of length.
    this.#room(text.length * 3 + 5);
    if (text.length < 42) {
      const { written } = encoder.encodeInto(text, this.#buffer.subarray(this.length + 1));
      this.#buffer[this.length] = written;
      this.length += 1 + written;
    } else {
      this.bytes(encoder.encode(text));
    }
  }

  /** Writes what `body` writes as a length-delimited field value. */
  nested(body: () => void): void {
    const start = this.length;
    this.byte(0);
    body();
    const size = this.length - start - 1;
    if (size < 0x80) {
      this.#buffer[start] = size;
      return;
    }
    let width = 1;
    for (let rest = size; rest >= 0x80; rest = Math.floor(rest / 0x80)) width++;
    this.#room(width - 1);
    this.#buffer.copyWithin(start + width, start + 1, this.length);
    this.length = start;
    this.varint(size);
    this.length += size;
  }

  #room(size: number): void {
    const needed = this.length + size;
    if (needed <= this.#buffer.length) return;
    let capacity = Math.max(64, this.#buffer.length * 2);
    while (capacity < needed) capacity *= 2;
    const grown = new Uint8Array(capacity);
    grown.set(this.#buffer.subarray(0, this.length));
    this.#buffer = grown;
    this.#view = new DataView(grown.buffer);
  }
}

/** A bounded protobuf reader. */
export class WireReader {
  readonly buffer: Bytes;
  readonly #what: string;
  position = 0;

  constructor(buffer: Bytes, what: string) {
    this.buffer = buffer;
    this.#what = what;
  }

  corrupt(what: string): KisekiError {
    return new KisekiError(
      "common.corrupt_format",
      `${this.#what}: ${what} at offset ${this.position}`,
    );
  }

  /** An unsigned varint of at most 2^53 - 1. */
  varint(end: number): number {
    const buffer = this.buffer;
    let position = this.position;
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 8; i++) {
      if (position >= end) throw this.corrupt("a truncated varint");
      const byte = buffer[position++] as number;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (value > Number.MAX_SAFE_INTEGER) throw this.corrupt("an integer beyond 2^53");
        this.position = position;
        return value;
      }
      scale *= 0x80;
    }
    throw this.corrupt("an integer beyond 2^53");
  }

  fixed64(end: number): bigint {
    if (this.position + 8 > end) throw this.corrupt("a truncated fixed64");
    const b = this.buffer;
    const p = this.position;
    const low = ((b[p] as number) | ((b[p + 1] as number) << 8) | ((b[p + 2] as number) << 16) |
      ((b[p + 3] as number) << 24)) >>> 0;
    const high = ((b[p + 4] as number) | ((b[p + 5] as number) << 8) |
      ((b[p + 6] as number) << 16) | ((b[p + 7] as number) << 24)) >>> 0;
    this.position += 8;
    return BigInt(high) * BigInt(TWO_32) + BigInt(low);
  }

  /** Reads a length and returns where the field ends. */
  limit(end: number): number {
    const size = this.varint(end);
    const stop = this.position + size;
    if (stop > end) throw this.corrupt(`a field of ${size} bytes where fewer are left`);
    return stop;
  }

  bytes(end: number): Bytes {
    const stop = this.limit(end);
    const view = this.buffer.subarray(this.position, stop);
    this.position = stop;
    return view;
  }

  text(end: number): string {
    const stop = this.limit(end);
    const start = this.position;
    this.position = stop;
    const buffer = this.buffer;
    if (stop - start <= 48) {
      let text = "";
      let i = start;
      for (; i < stop; i++) {
        const byte = buffer[i] as number;
        if (byte >= 0x80) break;
        text += String.fromCharCode(byte);
      }
      if (i === stop) return text;
    }
    try {
      return decoder.decode(buffer.slice(start, stop));
    } catch (cause) {
      throw new KisekiError("common.corrupt_format", `${this.#what}: text that is not UTF-8`, {
        cause,
      });
    }
  }

  skip(wire: number, end: number): void {
    if (wire === 0) {
      for (let i = 0; i < 10; i++) {
        if (this.position >= end) break;
        if ((this.buffer[this.position++] as number) < 0x80) return;
      }
      throw this.corrupt("a malformed varint");
    }
    const size = wire === 1 ? 8 : wire === 5 ? 4 : wire === 2 ? this.varint(end) : -1;
    if (size < 0) throw this.corrupt(`wire type ${wire}`);
    if (this.position + size > end) throw this.corrupt("a truncated field");
    this.position += size;
  }
}

/** How one field is written and read. `T` is what it is in memory. */
export interface Field<T> {
  readonly number: number;
  /** Wire type: 0 varint, 1 fixed64, 2 length-delimited. */
  readonly wire: 0 | 1 | 2;
  readonly repeated: boolean;
  /** Name of the type in the .proto text. */
  readonly type: string;
  /** Presence is told apart from the default (`optional`). */
  readonly optional?: boolean;
  /** Of nested messages. */
  readonly codec?: Codec<unknown>;
  /** Value when absent; never changed in place. */
  initial(): T;
  /** Writes tag and value unless it is the default. */
  write(writer: WireWriter, value: T): void;
  /** The new value, given the one so far. */
  read(reader: WireReader, end: number, soFar: T): T;
}

type FieldTable = Readonly<Record<string, Field<unknown>>>;
type ValueOf<F> = F extends Field<infer T> ? T : never;
/** The in-memory form of a schema. */
export type Message<F> = { readonly [K in keyof F]: ValueOf<F[K]> };

/** Encodes and decodes one kind of message. */
export interface Codec<T> {
  readonly name: string;
  /** Fields by name, for the test that compares them with the .proto text. */
  readonly fields: Readonly<Record<string, Field<unknown>>>;
  /** Absent properties count as defaults. */
  encode(value: Partial<T>): Bytes;
  /** @throws KisekiError `common.corrupt_format`. */
  decode(bytes: Bytes): T;
  write(writer: WireWriter, value: Partial<T>): void;
  read(reader: WireReader, end: number): T;
}

/** The value type of a codec. */
export type Of<C> = C extends Codec<infer T> ? T : never;

/** Defines a message. */
export function message<const F extends FieldTable>(
  name: string,
  fields: F,
): Codec<Message<F>> {
  type T = Message<F>;
  const list = Object.entries<Field<unknown>>(fields)
    .map(([key, field]) => ({ key, field }))
    .sort((a, b) => a.field.number - b.field.number);
  const byNumber: ({ key: string; field: Field<unknown> } | undefined)[] = [];
  for (const one of list) byNumber[one.field.number] = one;

  // Initial values are never changed in place, so one object of them is copied for each message.
  const defaults: Record<string, unknown> = {};
  for (const { key, field } of list) defaults[key] = field.initial();

  const read = (reader: WireReader, end: number): T => {
    const out: Record<string, unknown> = { ...defaults };
    while (reader.position < end) {
      const tag = reader.varint(end);
      const one = byNumber[Math.floor(tag / 8)];
      if (one === undefined) {
        if (tag < 8) throw reader.corrupt("field number 0");
        reader.skip(tag % 8, end);
        continue;
      }
      if (one.field.wire !== tag % 8) throw reader.corrupt(`wire type of field ${one.key}`);
      out[one.key] = one.field.read(reader, end, out[one.key]);
    }
    return out as T;
  };
  const write = (writer: WireWriter, value: Partial<T>): void => {
    const source = value as Readonly<Record<string, unknown>>;
    for (const { key, field } of list) {
      const one = source[key];
      if (one !== undefined) field.write(writer, one);
    }
  };
  return {
    name,
    fields,
    read,
    write,
    encode(value) {
      const writer = new WireWriter();
      write(writer, value);
      return writer.finish();
    },
    decode(bytes) {
      return read(new WireReader(bytes, name), bytes.length);
    },
  };
}

function scalar<T>(
  number: number,
  type: string,
  wire: 0 | 1 | 2,
  initial: T,
  isDefault: (value: T) => boolean,
  write: (writer: WireWriter, value: T) => void,
  read: (reader: WireReader, end: number) => T,
): Field<T> {
  const tag = number * 8 + wire;
  return {
    number,
    wire,
    type,
    repeated: false,
    initial: () => initial,
    write(writer, value) {
      if (isDefault(value)) return;
      writer.varint(tag);
      write(writer, value);
    },
    read,
  };
}

/** uint64 as a safe integer. */
export function uint(number: number): Field<number> {
  return scalar(
    number,
    "uint64",
    0,
    0,
    (v) => v === 0,
    (w, v) => w.varint(v),
    (r, end) => r.varint(end),
  );
}

export function bool(number: number): Field<boolean> {
  return scalar(
    number,
    "bool",
    0,
    false,
    (v) => !v,
    (w) => w.varint(1),
    (r, end) => r.varint(end) !== 0,
  );
}

/** fixed64 as a bigint. */
export function fixed64(number: number): Field<bigint> {
  return scalar(
    number,
    "fixed64",
    1,
    0n,
    (v) => v === 0n,
    (w, v) => w.fixed64(v),
    (r, end) => r.fixed64(end),
  );
}

export function bytes(number: number): Field<Bytes> {
  return scalar(
    number,
    "bytes",
    2,
    EMPTY_BYTES,
    (v) => v.length === 0,
    (w, v) => w.bytes(v),
    (r, end) => r.bytes(end),
  );
}

export function text(number: number): Field<string> {
  return scalar(
    number,
    "string",
    2,
    "",
    (v) => v === "",
    (w, v) => w.text(v),
    (r, end) => r.text(end),
  );
}

/** `optional string`: "" and absence differ. */
export function optionalText(number: number): Field<string | undefined> {
  const field = scalar<string | undefined>(
    number,
    "string",
    2,
    undefined,
    (v) => v === undefined,
    (w, v) => w.text(v ?? ""),
    (r, end) => r.text(end),
  );
  return { ...field, optional: true };
}

/** `optional bytes`: empty and absent differ. */
export function optionalBytes(number: number): Field<Bytes | undefined> {
  const field = scalar<Bytes | undefined>(
    number,
    "bytes",
    2,
    undefined,
    (v) => v === undefined,
    (w, v) => w.bytes(v ?? EMPTY_BYTES),
    (r, end) => r.bytes(end),
  );
  return { ...field, optional: true };
}

/** A nested message; absent is undefined. */
export function nested<T>(number: number, codec: Codec<T>): Field<T | undefined> {
  const tag = number * 8 + 2;
  return {
    number,
    wire: 2,
    type: codec.name,
    codec: codec as Codec<unknown>,
    repeated: false,
    initial: () => undefined,
    write(writer, value) {
      if (value === undefined) return;
      writer.varint(tag);
      writer.nested(() => codec.write(writer, value));
    },
    read(reader, end) {
      return codec.read(reader, reader.limit(end));
    },
  };
}

/** A repeated length-delimited field. */
function list<T>(
  number: number,
  type: string,
  writeOne: (writer: WireWriter, value: T) => void,
  readOne: (reader: WireReader, end: number) => T,
): Field<readonly T[]> {
  const tag = number * 8 + 2;
  const none: readonly T[] = [];
  return {
    number,
    wire: 2,
    type,
    repeated: true,
    initial: () => none,
    write(writer, values) {
      for (const value of values) {
        writer.varint(tag);
        writeOne(writer, value);
      }
    },
    read(reader, end, soFar) {
      const value = readOne(reader, end);
      if (soFar === none) return [value];
      (soFar as T[]).push(value);
      return soFar;
    },
  };
}

export function repeated<T>(number: number, codec: Codec<T>): Field<readonly T[]> {
  const field = list<T>(
    number,
    codec.name,
    (w, v) => w.nested(() => codec.write(w, v)),
    (r, end) => codec.read(r, r.limit(end)),
  );
  return { ...field, codec: codec as Codec<unknown> };
}

export function repeatedText(number: number): Field<readonly string[]> {
  return list<string>(number, "string", (w, v) => w.text(v), (r, end) => r.text(end));
}

export function repeatedBytes(number: number): Field<readonly Bytes[]> {
  return list<Bytes>(number, "bytes", (w, v) => w.bytes(v), (r, end) => r.bytes(end));
}

/** `repeated uint64`, packed. */
export function packed(number: number): Field<readonly number[]> {
  const tag = number * 8 + 2;
  const none: readonly number[] = [];
  return {
    number,
    wire: 2,
    type: "uint64",
    repeated: true,
    initial: () => none,
    write(writer, values) {
      if (values.length === 0) return;
      writer.varint(tag);
      writer.nested(() => {
        for (const value of values) writer.varint(value);
      });
    },
    read(reader, end, soFar) {
      const stop = reader.limit(end);
      const values = [...soFar];
      while (reader.position < stop) values.push(reader.varint(stop));
      return values;
    },
  };
}
