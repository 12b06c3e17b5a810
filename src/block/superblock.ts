/**
 * The superblock: who a device is. Two copies of one block, at offset 0 and at 512 KiB, inside a
 * head of 1 MiB that holds nothing else.
 *
 * | offset | size | field                                                               |
 * |-------:|-----:|---------------------------------------------------------------------|
 * |      0 |    8 | magic `KISEKIBD`                                                    |
 * |      8 |    2 | version, 1                                                          |
 * |     10 |    2 | flags, 0                                                            |
 * |     12 |    4 | size of the head in bytes = offset of the first extent              |
 * |     16 |   16 | cluster id                                                          |
 * |     32 |   16 | device id                                                           |
 * |     48 |    8 | generation: one more at each opening                                |
 * |     56 |    8 | capacity in bytes, head included                                    |
 * |     64 |    8 | formatted at, wall milliseconds since 1970                          |
 * |     72 | 4020 | zero                                                                |
 * |   4092 |    4 | CRC-32C of bytes 0 to 4091                                          |
 *
 * Invariants: the copies are written one after the other with a sync between them, so that a power
 * cut leaves at least one whole; the valid copy with the higher generation counts. The second copy
 * lies beyond what a partition table or a file system's first block overwrites.
 */
import { ByteReader, type Bytes, ByteWriter, equalBytes, utf8 } from "../common/bytes.ts";
import { crc32c } from "../common/crc32c.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import { type ClusterId, type DeviceId, idFromBytes, idToBytes } from "../common/ids.ts";
import { BLOCK_BYTES, type BlockFile } from "./ports.ts";

export const SUPERBLOCK_VERSION = 1;
/** Bytes before the first extent. */
export const HEAD_BYTES = 1 << 20;
/** Where the two copies lie. */
export const SUPERBLOCK_OFFSETS: readonly [number, number] = [0, 512 << 10];
export const SUPERBLOCK_MAGIC: Bytes = utf8("KISEKIBD");

const CRC_OFFSET = BLOCK_BYTES - 4;

/** Identity and state of a device. */
export interface Superblock {
  readonly cluster: ClusterId;
  readonly device: DeviceId;
  /** Starts at 1, one more at each opening. */
  readonly generation: number;
  /** Bytes of the device that are in use by us, head included; a multiple of 4 KiB. */
  readonly capacityBytes: number;
  readonly formattedMs: number;
}

/** One block of 4 KiB. */
export function encodeSuperblock(superblock: Superblock): Bytes {
  const writer = new ByteWriter(BLOCK_BYTES);
  writer.raw(SUPERBLOCK_MAGIC).u16(SUPERBLOCK_VERSION).u16(0).u32(HEAD_BYTES)
    .raw(idToBytes(superblock.cluster)).raw(idToBytes(superblock.device))
    .int(superblock.generation).int(superblock.capacityBytes).int(superblock.formattedMs);
  const block = new Uint8Array(BLOCK_BYTES);
  block.set(writer.view());
  new DataView(block.buffer).setUint32(CRC_OFFSET, crc32c(block.subarray(0, CRC_OFFSET)), true);
  return block;
}

/** True when a block starts as a superblock does, valid or not. */
export function looksLikeSuperblock(block: Bytes): boolean {
  return block.length >= SUPERBLOCK_MAGIC.length &&
    equalBytes(block.subarray(0, SUPERBLOCK_MAGIC.length), SUPERBLOCK_MAGIC);
}

/**
 * @throws KisekiError `common.corrupt_format`, `common.unsupported_version`.
 */
export function decodeSuperblock(block: Bytes): Superblock {
  if (block.length !== BLOCK_BYTES) {
    throw new KisekiError("common.corrupt_format", `superblock: ${block.length} bytes`);
  }
  const reader = new ByteReader(block, "superblock");
  if (!looksLikeSuperblock(block)) throw reader.corrupt("no magic");
  reader.raw(SUPERBLOCK_MAGIC.length);
  const stored = new DataView(block.buffer, block.byteOffset).getUint32(CRC_OFFSET, true);
  if (stored !== crc32c(block.subarray(0, CRC_OFFSET))) throw reader.corrupt("wrong checksum");
  const version = reader.u16();
  if (version !== SUPERBLOCK_VERSION) {
    throw new KisekiError(
      "common.unsupported_version",
      `superblock of version ${version} (this build reads ${SUPERBLOCK_VERSION})`,
    );
  }
  const flags = reader.u16();
  if (flags !== 0) {
    throw new KisekiError("common.unsupported_version", `superblock with unknown flags ${flags}`);
  }
  if (reader.u32() !== HEAD_BYTES) throw reader.corrupt("a head of another size");
  const superblock: Superblock = {
    cluster: idFromBytes<ClusterId>(reader.raw(16)),
    device: idFromBytes<DeviceId>(reader.raw(16)),
    generation: reader.int(),
    capacityBytes: reader.int(),
    formattedMs: reader.int(),
  };
  if (superblock.generation === 0) throw reader.corrupt("generation 0");
  if (superblock.capacityBytes % BLOCK_BYTES !== 0 || superblock.capacityBytes <= HEAD_BYTES) {
    throw reader.corrupt(`a capacity of ${superblock.capacityBytes} bytes`);
  }
  return superblock;
}

/**
 * The superblock that counts, from both copies.
 *
 * @returns undefined when neither copy starts with the magic: not one of our devices.
 * @throws KisekiError `common.corrupt_format` when both copies are damaged or name two devices,
 *   `common.unsupported_version`, `block.io`.
 */
export async function readSuperblock(file: BlockFile): Promise<Superblock | undefined> {
  let best: Superblock | undefined;
  let damage: KisekiError | undefined;
  let ours = false;
  for (const offset of SUPERBLOCK_OFFSETS) {
    if (offset + BLOCK_BYTES > file.sizeBytes) continue;
    const block = new Uint8Array(BLOCK_BYTES);
    try {
      await file.read(offset, block);
    } catch (error) {
      if (!isKisekiError(error, "block.io")) throw error;
      damage = error;
      continue;
    }
    if (!looksLikeSuperblock(block)) continue;
    ours = true;
    try {
      const found = decodeSuperblock(block);
      if (best !== undefined && best.device !== found.device) {
        throw new KisekiError(
          "common.corrupt_format",
          `${file.name}: its superblocks name two devices, ${best.device} and ${found.device}`,
        );
      }
      if (best === undefined || found.generation > best.generation) best = found;
    } catch (error) {
      if (!isKisekiError(error) || error.code !== "common.corrupt_format") throw error;
      if (best !== undefined && error.message.includes("name two devices")) throw error;
      damage = error;
    }
  }
  if (best !== undefined) return best;
  if (ours && damage !== undefined) {
    throw new KisekiError(
      "common.corrupt_format",
      `${file.name}: both superblocks are damaged (${damage.message}); ` +
        "replace the device and let it be repaired",
      { cause: damage },
    );
  }
  if (damage !== undefined) throw damage;
  return undefined;
}

/** Writes both copies, each durable before the next is touched. */
export async function writeSuperblock(file: BlockFile, superblock: Superblock): Promise<void> {
  const block = encodeSuperblock(superblock);
  for (const offset of SUPERBLOCK_OFFSETS) {
    await file.write(offset, block);
    await file.sync();
  }
}
