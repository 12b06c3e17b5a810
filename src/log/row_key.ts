/**
 * Keys of rows. They are part of the format: never renumber, never reuse.
 *
 * | size | field                                                                        |
 * |-----:|------------------------------------------------------------------------------|
 * |    8 | routing key: first 8 bytes of SHA-256(placement id), or of the chunk id       |
 * |   16 | owner: directory id, file id, composition id, upload id, or chunk id 8..24    |
 * |    1 | record type                                                                  |
 * |    n | suffix of the record type, below                                             |
 *
 * | type              | owner        | suffix                                                   |
 * |-------------------|--------------|----------------------------------------------------------|
 * |  1 directory      | directory    | -                                                        |
 * |  2 entry          | directory    | escaped name                                             |
 * |  3 version        | directory    | escaped name, inverted version sequence (8, big-endian), version id tail (8) |
 * |  4 upload         | directory    | escaped name, upload id (16)                             |
 * |  5 cookie         | directory    | cookie (8, big-endian)                                   |
 * |  6 extent         | composition  | first offset (8, big-endian)                             |
 * |  7 composition part | composition | first part index (4, big-endian)                        |
 * |  8 inline content | composition  | -                                                        |
 * |  9 upload part    | upload       | part number (2, big-endian)                              |
 * | 10 staged         | composition  | operation id (16)                                        |
 * | 11 file           | file         | -                                                        |
 * | 12 lock           | file         | session id (16), range start (8)                         |
 * | 13 chunk          | chunk 8..24  | chunk 24..32                                             |
 * | 14 reference      | chunk 8..24  | chunk 24..32, composition id (16), operation id (16)     |
 * | 15 fence          | operation    | -                                                        |
 * | 32 tenancy record | zero         | record class (1), key of the class (1 to 63)            |
 *
 * Rows of the control shard use routing key 0.
 *
 * An escaped name writes 00 as 00 FF and ends with 00 00, so that names compare bytewise and a
 * prefix sorts first. The name of a directory carries a trailing "/".
 */
import { ByteReader, type Bytes, fromHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { ChunkId, Id128 } from "../common/ids.ts";

export const RecordType = {
  directory: 1,
  entry: 2,
  version: 3,
  upload: 4,
  cookie: 5,
  extent: 6,
  compositionPart: 7,
  inlineContent: 8,
  uploadPart: 9,
  staged: 10,
  file: 11,
  lock: 12,
  chunk: 13,
  reference: 14,
  fence: 15,
  tenancy: 32,
} as const;
export type RecordType = typeof RecordType[keyof typeof RecordType];

export const ROUTING_KEY_BYTES = 8;
const OWNER_OFFSET = ROUTING_KEY_BYTES;
const TYPE_OFFSET = OWNER_OFFSET + 16;
/** Bytes before the suffix. */
export const KEY_PREFIX_BYTES = TYPE_OFFSET + 1;

/** Key of a row. `suffix` parts are appended as they are. */
export function rowKey(
  routingKey: Bytes,
  owner: Id128,
  type: RecordType,
  ...suffix: readonly Bytes[]
): Bytes {
  if (routingKey.length !== ROUTING_KEY_BYTES) {
    throw new KisekiError("common.invalid_argument", `a routing key of ${routingKey.length} bytes`);
  }
  let size = KEY_PREFIX_BYTES;
  for (const part of suffix) size += part.length;
  const key = new Uint8Array(size);
  key.set(routingKey, 0);
  key.set(fromHex(owner), OWNER_OFFSET);
  key[TYPE_OFFSET] = type;
  let offset = KEY_PREFIX_BYTES;
  for (const part of suffix) {
    key.set(part, offset);
    offset += part.length;
  }
  return key;
}

/** Routing key, owner and suffix of the rows of a chunk id. */
export function chunkRowKey(
  chunk: ChunkId,
  type: typeof RecordType.chunk | typeof RecordType.reference,
  ...suffix: readonly Bytes[]
): Bytes {
  return rowKey(
    fromHex(chunk.slice(0, 16)),
    chunk.slice(16, 48),
    type,
    fromHex(chunk.slice(48, 64)),
    ...suffix,
  );
}

/** Routing key of a chunk's rows. */
export function chunkRoutingKey(chunk: ChunkId): Bytes {
  return fromHex(chunk.slice(0, 16));
}

/** The suffix after the fixed prefix. */
export function rowSuffix(key: Bytes): Bytes {
  return key.subarray(KEY_PREFIX_BYTES);
}

/** Escaped name with its end mark. */
export function escapeName(name: Bytes): Bytes {
  let zeros = 0;
  for (let i = 0; i < name.length; i++) if (name[i] === 0) zeros++;
  const out = new Uint8Array(name.length + zeros + 2);
  let at = 0;
  for (let i = 0; i < name.length; i++) {
    const byte = name[i] as number;
    out[at++] = byte;
    if (byte === 0) out[at++] = 0xff;
  }
  return out;
}

/** The escaped form of a prefix of names: no end mark, so that it bounds a range. */
export function escapeNamePrefix(prefix: Bytes): Bytes {
  const escaped = escapeName(prefix);
  return escaped.subarray(0, escaped.length - 2);
}

/**
 * Reads an escaped name from the front of `bytes`.
 *
 * @returns the name and how many bytes its escaped form took.
 * @throws KisekiError `common.corrupt_format`.
 */
export function unescapeName(bytes: Bytes): { readonly name: Bytes; readonly size: number } {
  const out = new Uint8Array(bytes.length);
  let length = 0;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i] as number;
    if (byte !== 0) {
      out[length++] = byte;
      continue;
    }
    const next = bytes[i + 1];
    if (next === 0) return { name: out.slice(0, length), size: i + 2 };
    if (next !== 0xff) break;
    out[length++] = 0;
    i++;
  }
  throw new ByteReader(bytes, "escaped name").corrupt("no end mark");
}
