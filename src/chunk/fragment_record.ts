/**
 * A row of the fragment index, as bytes: where a fragment lies, how to check it, what it is.
 *
 * | field             | bytes                                                            |
 * |-------------------|------------------------------------------------------------------|
 * | version           | u8, 1                                                            |
 * | durability        | u8 kind (1 copies, 2 erasure), u8 copies or data, u8 0 or parity |
 * | organisation id   | 16                                                               |
 * | envelope bytes    | varint                                                           |
 * | plaintext bytes   | varint                                                           |
 * | placement version | varint                                                           |
 * | written           | varint, wall milliseconds                                        |
 * | extent offset     | varint, in units of 4 KiB                                        |
 * | extent length     | varint, bytes                                                    |
 * | wrapped DEK       | varint length (at most 512), bytes                               |
 * | piece checksums   | u32 each; their number follows from the length                   |
 * | checksum          | u32, CRC-32C of the key and all the above                        |
 *
 * The key (chunk id 32, incarnation 8, fragment number 1) is not repeated; the checksum binds the
 * row to it.
 */
import { ByteReader, type Bytes, ByteWriter, fromHex, toHex } from "../common/bytes.ts";
import { crc32c } from "../common/crc32c.ts";
import { KisekiError } from "../common/errors.ts";
import {
  type ChunkId,
  chunkIdFromBytes,
  idFromBytes,
  idToBytes,
  type OrganisationId,
} from "../common/ids.ts";
import { BLOCK_BYTES, type Extent } from "../block/ports.ts";
import { MAX_ENVELOPE_BYTES } from "./chunk_record.ts";
import { fragmentCount, readDurability, writeDurability } from "./durability.ts";
import { pieceCount } from "./piece_checksums.ts";
import { type FragmentHeader, MAX_CHUNK_BYTES } from "./ports.ts";

export const FRAGMENT_RECORD_VERSION = 1;
/** Chunk id, incarnation, fragment number. */
export const FRAGMENT_KEY_BYTES = 32 + 8 + 1;
const MAX_WRAPPED_DEK_BYTES = 512;

/** A fragment as its device knows it. */
export interface FragmentRow {
  readonly header: FragmentHeader;
  readonly extent: Extent;
  /** CRC-32C of each 64 KiB. */
  readonly pieces: Uint32Array;
}

/** @throws KisekiError `common.invalid_argument` when a field cannot be stored. */
export function encodeFragmentRow(row: FragmentRow): Bytes {
  const { header, extent, pieces } = row;
  if (
    extent.offset % BLOCK_BYTES !== 0 || pieces.length !== pieceCount(extent.length) ||
    header.wrappedDek.length > MAX_WRAPPED_DEK_BYTES || header.wrappedDek.length === 0 ||
    !lengthsFit(header.envelopeBytes, header.plaintextBytes, extent.length) ||
    header.fragment >= fragmentCount(header.scheme)
  ) {
    throw new KisekiError("common.invalid_argument", "a fragment row whose fields do not fit");
  }
  const writer = new ByteWriter(192 + 4 * pieces.length);
  writer.u8(FRAGMENT_RECORD_VERSION);
  writeDurability(writer, header.scheme);
  writer.raw(idToBytes(header.organisation))
    .varint(header.envelopeBytes).varint(header.plaintextBytes)
    .varint(header.placementVersion).varint(header.writtenMs)
    .varint(extent.offset / BLOCK_BYTES).varint(extent.length).bytes(header.wrappedDek);
  for (const sum of pieces) writer.u32(sum);
  writer.u32(
    crc32c(writer.view(), crc32c(fragmentKey(header.chunk, header.incarnation, header.fragment))),
  );
  return writer.finish();
}

/** The key of a row: chunk id, incarnation, fragment number. */
export function fragmentKey(chunk: ChunkId, incarnation: string, fragment: number): Bytes {
  const key = new Uint8Array(FRAGMENT_KEY_BYTES);
  key.set(fromHex(chunk));
  key.set(fromHex(incarnation), 32);
  key[FRAGMENT_KEY_BYTES - 1] = fragment;
  return key;
}

/**
 * @param key As {@link fragmentKey} makes it.
 * @throws KisekiError `common.corrupt_format`, `common.unsupported_version`.
 */
export function decodeFragmentRow(key: Bytes, bytes: Bytes): FragmentRow {
  if (key.length !== FRAGMENT_KEY_BYTES) {
    throw new KisekiError("common.corrupt_format", `fragment row: a key of ${key.length} bytes`);
  }
  const fragment = key[FRAGMENT_KEY_BYTES - 1] as number;
  const reader = new ByteReader(bytes, "fragment row");
  const version = reader.u8();
  if (version !== FRAGMENT_RECORD_VERSION) {
    throw new KisekiError("common.unsupported_version", `fragment row of version ${version}`);
  }
  if (bytes.length < 5) throw reader.corrupt("too short");
  const stored = new DataView(bytes.buffer, bytes.byteOffset).getUint32(bytes.length - 4, true);
  if (stored !== crc32c(bytes.subarray(0, bytes.length - 4), crc32c(key))) {
    throw reader.corrupt("wrong checksum");
  }
  const scheme = readDurability(reader);
  if (fragment >= fragmentCount(scheme)) throw reader.corrupt(`no fragment ${fragment} in it`);
  const organisation = idFromBytes<OrganisationId>(reader.raw(16));
  const envelopeBytes = reader.varint();
  const plaintextBytes = reader.varint();
  const placementVersion = reader.varint();
  const writtenMs = reader.varint();
  const extent: Extent = { offset: reader.varint() * BLOCK_BYTES, length: reader.varint() };
  if (
    !lengthsFit(envelopeBytes, plaintextBytes, extent.length) ||
    !Number.isSafeInteger(extent.offset)
  ) {
    throw reader.corrupt("a length beyond its limit");
  }
  const wrappedDek = reader.bytes(MAX_WRAPPED_DEK_BYTES).slice();
  const pieces = new Uint32Array(pieceCount(extent.length));
  for (let i = 0; i < pieces.length; i++) pieces[i] = reader.u32();
  reader.u32();
  reader.end();
  const header: FragmentHeader = {
    chunk: chunkIdFromBytes(key.subarray(0, 32)),
    incarnation: toHex(key.subarray(32, 40)),
    organisation,
    fragment,
    scheme,
    envelopeBytes,
    plaintextBytes,
    placementVersion,
    writtenMs,
    wrappedDek,
  };
  return { header, extent, pieces };
}

function lengthsFit(envelope: number, plaintext: number, extent: number): boolean {
  return plaintext >= 1 && plaintext <= MAX_CHUNK_BYTES && envelope >= 1 &&
    envelope <= MAX_ENVELOPE_BYTES && extent >= 1 && extent <= MAX_ENVELOPE_BYTES;
}
