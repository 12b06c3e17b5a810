/**
 * The key slot file, byte by byte: masters, internal tenant KEKs and wrapped TWKs at rest.
 *
 * Integers are little-endian. The file is a header page twice, then groups of eight slots, each
 * group twice: a write touches one copy, is synced, and only then touches the other, so one copy
 * of every slot is whole at any instant, also on devices that tear 4 KiB pages.
 *
 * | offset                        | size | what                                           |
 * |------------------------------:|-----:|------------------------------------------------|
 * | 0                             | 4096 | header, first copy                             |
 * | 4096                          | 4096 | header, second copy                            |
 * | 8192 + 8192 g                 | 4096 | slots 8g .. 8g+7, first copy, 512 bytes each   |
 * | 8192 + 8192 g + 4096          | 4096 | the same slots, second copy                    |
 *
 * Header (512 bytes, the rest of its page zero):
 *
 * | offset | size | field                                                              |
 * |-------:|-----:|--------------------------------------------------------------------|
 * |      0 |    8 | "KISEKIKS"                                                         |
 * |      8 |    4 | version, 1                                                         |
 * |     12 |    4 | slot size, 512                                                     |
 * |     16 |   16 | file id, random                                                    |
 * |     32 |   16 | key check: HKDF-SHA256(root key, file id, "kiseki key slots check 1")|
 * |     48 |    8 | created, milliseconds since 1970                                   |
 * |     56 |  452 | zero                                                               |
 * |    508 |    4 | CRC-32C of bytes 0..508                                            |
 *
 * Slot (512 bytes; all zero = never used, generation 0):
 *
 * | offset | size | field                                                              |
 * |-------:|-----:|--------------------------------------------------------------------|
 * |      0 |    4 | "KSLT"                                                             |
 * |      4 |    1 | version, 1                                                         |
 * |      5 |    1 | state: 1 used, 2 destroyed (no payload)                            |
 * |      6 |    2 | payload length                                                     |
 * |      8 |    8 | generation, from 1, one more with each write of the slot           |
 * |     16 |    4 | slot number                                                        |
 * |     20 |    4 | zero                                                               |
 * |     24 |  484 | payload: an envelope of kind keySlot, then zeros                   |
 * |    508 |    4 | CRC-32C of bytes 0..508                                            |
 *
 * The payload is sealed under HKDF-SHA256(root key, file id, "kiseki key slots 1") with the system
 * organisation, epochs 0 and the identity "slot NUMBER generation GENERATION" (decimal), so no slot
 * opens in another's place and no old copy opens as a new one. Its plaintext is a record:
 *
 * | offset | size | field                                                              |
 * |-------:|-----:|--------------------------------------------------------------------|
 * |      0 |    1 | version, 1                                                         |
 * |      1 |    1 | type (see {@link KeyRecordType})                                   |
 * |      2 |    2 | length of the key field, 0 to 96                                   |
 * |      4 |    4 | number: system epoch, KEK version or tenant epoch                  |
 * |      8 |    4 | wrapped by: KEK version (TWK), tenant epoch (tenant identifiers)   |
 * |     12 |    4 | zero                                                               |
 * |     16 |   16 | organisation, zero for a master                                    |
 * |     32 |    8 | created, milliseconds since 1970                                   |
 * |     40 |   96 | key field, then zeros                                              |
 */
import { type Bytes, equalBytes, fromHex, toHex, utf8 } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { OrganisationId } from "../common/ids.ts";
import { secretBytes } from "../crypto/provider_checks.ts";

export const KEY_SLOT_FILE_NAME = "keys.slots";
export const KEY_SLOT_FILE_VERSION = 1;
export const SLOT_SIZE = 512;
export const SLOT_PAGE_SIZE = 4096;
export const SLOTS_PER_PAGE = 8;
export const SLOT_HEADER_PAGES = 2;
export const SLOT_PAYLOAD_AT = 24;
export const MAX_SLOT_PAYLOAD = 484;
export const KEY_RECORD_SIZE = 136;
export const MAX_KEY_FIELD = 96;
/** One million slots make a file of 1 GiB: more is a mistake. */
export const MAX_SLOTS = 1 << 20;
const CHECKED = 508;
const FILE_MAGIC = utf8("KISEKIKS");
const SLOT_MAGIC = utf8("KSLT");

/** CRC-32C as a provider gives it. */
export type Crc32c = (bytes: Bytes) => number;

/** The header of the file. */
export interface SlotFileHeader {
  readonly fileId: Bytes;
  readonly keyCheck: Bytes;
  readonly createdMs: number;
}

/** One copy of a slot as it was read. */
export type SlotCopy =
  | { readonly state: "unused" }
  | { readonly state: "used"; readonly generation: bigint; readonly payload: Bytes }
  | { readonly state: "destroyed"; readonly generation: bigint }
  | { readonly state: "torn" };

/** What a record holds. */
export const KeyRecordType = {
  /** A system master; number = system epoch; key field: 32 bytes. */
  master: 1,
  /** An internal tenant KEK; number = its version; key field: 32 bytes. */
  tenantKek: 2,
  /** A TWK; number = tenant epoch, wrapped by = KEK version; key field: AES-KWP, 40 bytes. */
  tenantWrappingKey: 3,
  /** Chunk-id key, then name-hash key; wrapped by = tenant epoch; key field: AES-KWP, 72 bytes. */
  tenantIdentifiers: 4,
  /** The organisation's keys were destroyed; no key field. Keeps the id from being used again. */
  destroyedOrganisation: 5,
} as const;
export type KeyRecordType = typeof KeyRecordType[keyof typeof KeyRecordType];

/** A record of a slot. */
export interface KeyRecord {
  readonly type: KeyRecordType;
  readonly number: number;
  readonly wrappedBy: number;
  readonly organisation: OrganisationId;
  readonly createdMs: number;
  readonly key: Bytes;
}

/** Offsets of the two copies of a slot. */
export function slotOffsets(slot: number): readonly [number, number] {
  const group = Math.floor(slot / SLOTS_PER_PAGE);
  const first = (SLOT_HEADER_PAGES + 2 * group) * SLOT_PAGE_SIZE +
    (slot % SLOTS_PER_PAGE) * SLOT_SIZE;
  return [first, first + SLOT_PAGE_SIZE];
}

/** How many slots a file of this size may hold. */
export function slotsOfFile(size: number): number {
  const body = Math.max(0, size - SLOT_HEADER_PAGES * SLOT_PAGE_SIZE);
  return Math.ceil(body / (2 * SLOT_PAGE_SIZE)) * SLOTS_PER_PAGE;
}

/** One page with the header. */
export function encodeSlotFileHeader(header: SlotFileHeader, crc32c: Crc32c): Bytes {
  const out = new Uint8Array(SLOT_PAGE_SIZE);
  const view = new DataView(out.buffer);
  out.set(FILE_MAGIC);
  view.setUint32(8, KEY_SLOT_FILE_VERSION, true);
  view.setUint32(12, SLOT_SIZE, true);
  out.set(header.fileId, 16);
  out.set(header.keyCheck, 32);
  view.setBigUint64(48, BigInt(header.createdMs), true);
  view.setUint32(CHECKED, crc32c(out.subarray(0, CHECKED)), true);
  return out;
}

/**
 * Reads a header page.
 *
 * @returns undefined when its checksum does not hold.
 * @throws KisekiError `common.unsupported_version` for a whole header of another version.
 */
export function decodeSlotFileHeader(page: Bytes, crc32c: Crc32c): SlotFileHeader | undefined {
  if (page.length < SLOT_SIZE || !equalBytes(page.subarray(0, 8), FILE_MAGIC)) return undefined;
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  if (view.getUint32(CHECKED, true) !== crc32c(page.subarray(0, CHECKED))) return undefined;
  const version = view.getUint32(8, true);
  const slotSize = view.getUint32(12, true);
  if (version !== KEY_SLOT_FILE_VERSION || slotSize !== SLOT_SIZE) {
    throw new KisekiError(
      "common.unsupported_version",
      `key slot file version ${version} with slots of ${slotSize} bytes ` +
        `(this build reads version ${KEY_SLOT_FILE_VERSION} with ${SLOT_SIZE})`,
    );
  }
  return {
    fileId: page.slice(16, 32),
    keyCheck: page.slice(32, 48),
    createdMs: Number(view.getBigUint64(48, true)),
  };
}

/** One copy of a slot; without a payload it says "destroyed". */
export function encodeSlot(
  slot: number,
  generation: bigint,
  payload: Bytes | undefined,
  crc32c: Crc32c,
): Bytes {
  if (payload !== undefined && payload.length > MAX_SLOT_PAYLOAD) {
    throw new KisekiError("common.internal", `a slot payload of ${payload.length} bytes`);
  }
  const out = new Uint8Array(SLOT_SIZE);
  const view = new DataView(out.buffer);
  out.set(SLOT_MAGIC);
  out[4] = KEY_SLOT_FILE_VERSION;
  out[5] = payload === undefined ? 2 : 1;
  view.setUint16(6, payload?.length ?? 0, true);
  view.setBigUint64(8, generation, true);
  view.setUint32(16, slot, true);
  if (payload !== undefined) out.set(payload, SLOT_PAYLOAD_AT);
  view.setUint32(CHECKED, crc32c(out.subarray(0, CHECKED)), true);
  return out;
}

/**
 * Reads one copy of a slot. Anything that no write of this version leaves whole is "torn".
 *
 * @throws KisekiError `common.unsupported_version` for a whole slot of another version.
 */
export function decodeSlot(bytes: Bytes, slot: number, crc32c: Crc32c): SlotCopy {
  if (bytes.length < SLOT_SIZE) return { state: "torn" };
  if (bytes.every((byte) => byte === 0)) return { state: "unused" };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (!equalBytes(bytes.subarray(0, 4), SLOT_MAGIC)) return { state: "torn" };
  if (view.getUint32(CHECKED, true) !== crc32c(bytes.subarray(0, CHECKED))) {
    return { state: "torn" };
  }
  if (bytes[4] !== KEY_SLOT_FILE_VERSION) {
    throw new KisekiError(
      "common.unsupported_version",
      `key slot version ${bytes[4]} (this build reads ${KEY_SLOT_FILE_VERSION})`,
    );
  }
  const generation = view.getBigUint64(8, true);
  const length = view.getUint16(6, true);
  if (view.getUint32(16, true) !== slot || generation === 0n || length > MAX_SLOT_PAYLOAD) {
    return { state: "torn" };
  }
  if (bytes[5] === 2) return { state: "destroyed", generation };
  if (bytes[5] !== 1) return { state: "torn" };
  return {
    state: "used",
    generation,
    payload: bytes.slice(SLOT_PAYLOAD_AT, SLOT_PAYLOAD_AT + length),
  };
}

/** The name that a slot's envelope is bound to. */
export function slotIdentityName(slot: number, generation: bigint): string {
  return `slot ${slot} generation ${generation}`;
}

/** A record's plaintext. The caller zeroes it. */
export function encodeKeyRecord(record: KeyRecord): Bytes {
  if (record.key.length > MAX_KEY_FIELD) {
    throw new KisekiError("common.internal", `a key field of ${record.key.length} bytes`);
  }
  const out = secretBytes(KEY_RECORD_SIZE);
  const view = new DataView(out.buffer);
  out[0] = 1;
  out[1] = record.type;
  view.setUint16(2, record.key.length, true);
  view.setUint32(4, record.number, true);
  view.setUint32(8, record.wrappedBy, true);
  out.set(fromHex(record.organisation), 16);
  view.setBigUint64(32, BigInt(record.createdMs), true);
  out.set(record.key, 40);
  return out;
}

/**
 * Reads a record; `key` is a view of `bytes`.
 *
 * @throws KisekiError `common.unsupported_version`, `common.corrupt_format`.
 */
export function decodeKeyRecord(bytes: Bytes): KeyRecord {
  if (bytes.length !== KEY_RECORD_SIZE) throw corrupt(`a record of ${bytes.length} bytes`);
  if (bytes[0] !== 1) {
    throw new KisekiError(
      "common.unsupported_version",
      `key record version ${bytes[0]} (this build reads 1)`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const type = bytes[1] as KeyRecordType;
  const length = view.getUint16(2, true);
  if (type < KeyRecordType.master || type > KeyRecordType.destroyedOrganisation) {
    throw corrupt(`a record of type ${type}`);
  }
  if (length !== KEY_FIELD_SIZE[type]) throw corrupt(`a key field of ${length} bytes`);
  const number = view.getUint32(4, true);
  if (number === 0 && type <= KeyRecordType.tenantWrappingKey) throw corrupt("a key numbered 0");
  const createdMs = Number(view.getBigUint64(32, true));
  if (!Number.isSafeInteger(createdMs)) throw corrupt("a time beyond 2^53");
  return {
    type,
    number,
    wrappedBy: view.getUint32(8, true),
    organisation: toHex(bytes.subarray(16, 32)) as OrganisationId,
    createdMs,
    key: bytes.subarray(40, 40 + length),
  };
}

/** Exact size of the key field, by type. */
export const KEY_FIELD_SIZE: Readonly<Record<KeyRecordType, number>> = {
  [KeyRecordType.master]: 32,
  [KeyRecordType.tenantKek]: 32,
  [KeyRecordType.tenantWrappingKey]: 40,
  [KeyRecordType.tenantIdentifiers]: 72,
  [KeyRecordType.destroyedOrganisation]: 0,
};

function corrupt(what: string): KisekiError {
  return new KisekiError("common.corrupt_format", `key slot: ${what}`);
}
