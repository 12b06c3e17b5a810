/**
 * What the shard that owns a chunk's id records of it, as bytes.
 *
 * | field           | bytes                                                            |
 * |-----------------|------------------------------------------------------------------|
 * | version         | u8, 1                                                            |
 * | incarnation     | 8                                                                |
 * | durability      | u8 kind (1 copies, 2 erasure), u8 copies or data, u8 0 or parity |
 * | plaintext bytes | varint, 1 to 4 MiB                                               |
 * | envelope bytes  | varint, 1 to 16 MiB                                              |
 * | pool            | varint length (1 to 64), UTF-8                                   |
 * | placement       | 16 bytes a fragment, in order; their number follows from above   |
 */
import { ByteReader, type Bytes, ByteWriter, fromHex, toHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { type DeviceId, idFromBytes, idToBytes } from "../common/ids.ts";
import { fragmentCount, readDurability, requireDurability, writeDurability } from "./durability.ts";
import { type ChunkRecord, MAX_CHUNK_BYTES } from "./ports.ts";

export const CHUNK_RECORD_VERSION = 1;
/** Length of an incarnation, twice as many hex digits. */
export const INCARNATION_BYTES = 8;
/** Longest name of a pool, in bytes of UTF-8. */
export const MAX_POOL_NAME_BYTES = 64;
/** Longest envelope that is stored. */
export const MAX_ENVELOPE_BYTES = 16 << 20;

/** @throws KisekiError `common.invalid_argument` when the placement does not fit the scheme. */
export function encodeChunkRecord(record: ChunkRecord): Bytes {
  requireDurability(record.scheme);
  if (record.placement.length !== fragmentCount(record.scheme)) {
    throw new KisekiError(
      "common.invalid_argument",
      `${record.placement.length} devices for ${fragmentCount(record.scheme)} fragments`,
    );
  }
  const writer = new ByteWriter(64 + 16 * record.placement.length);
  writer.u8(CHUNK_RECORD_VERSION).raw(incarnationBytes(record.incarnation));
  writeDurability(writer, record.scheme);
  writer.varint(record.plaintextBytes).varint(record.envelopeBytes).text(record.pool);
  for (const device of record.placement) writer.raw(idToBytes(device));
  return writer.finish();
}

/** @throws KisekiError `common.corrupt_format`, `common.unsupported_version`. */
export function decodeChunkRecord(bytes: Bytes): ChunkRecord {
  const reader = new ByteReader(bytes, "chunk record");
  const version = reader.u8();
  if (version !== CHUNK_RECORD_VERSION) {
    throw new KisekiError("common.unsupported_version", `chunk record of version ${version}`);
  }
  const incarnation = toHex(reader.raw(INCARNATION_BYTES));
  const scheme = readDurability(reader);
  const plaintextBytes = reader.varint();
  if (plaintextBytes < 1 || plaintextBytes > MAX_CHUNK_BYTES) {
    throw reader.corrupt(`a plaintext of ${plaintextBytes} bytes`);
  }
  const envelopeBytes = reader.varint();
  if (envelopeBytes < 1 || envelopeBytes > MAX_ENVELOPE_BYTES) {
    throw reader.corrupt(`an envelope of ${envelopeBytes} bytes`);
  }
  const name = reader.bytes(MAX_POOL_NAME_BYTES);
  if (name.length === 0) throw reader.corrupt("a pool without a name");
  const pool = poolName(name, reader);
  const placement = Array.from(
    { length: fragmentCount(scheme) },
    () => idFromBytes<DeviceId>(reader.raw(16)),
  );
  reader.end();
  return { incarnation, plaintextBytes, envelopeBytes, pool, scheme, placement };
}

function incarnationBytes(incarnation: string): Bytes {
  const bytes = fromHex(incarnation);
  if (bytes.length === INCARNATION_BYTES) return bytes;
  throw new KisekiError("common.invalid_argument", `not an incarnation: "${incarnation}"`);
}

function poolName(bytes: Bytes, reader: ByteReader): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes.slice());
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    throw reader.corrupt("a pool name that is not UTF-8");
  }
}
