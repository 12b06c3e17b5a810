/**
 * A formatted device: superblock in front, extents behind.
 *
 * Invariants: a device that holds something else is formatted only by force; extents are whole
 * units of 4 KiB and zero-padded; a freed range is discarded before it can be handed out again, so
 * that a late discard never hits new data; after a failed sync the device takes no more writes.
 */
import type { Bytes } from "../common/bytes.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { ClusterId, DeviceId } from "../common/ids.ts";
import { SILENT_LOGGER } from "../common/logging.ts";
import type { Logger } from "../common/logging.ts";
import { ExtentAllocator, type UnitRange } from "./extent_allocator.ts";
import { foreignContent } from "./foreign_signature.ts";
import { GroupSync } from "./group_sync.ts";
import { BLOCK_BYTES, type BlockDevice, type BlockFile, type Extent } from "./ports.ts";
import { HEAD_BYTES, readSuperblock, type Superblock, writeSuperblock } from "./superblock.ts";

/** The least size of a device. */
export const MIN_DEVICE_BYTES = 16 << 20;

export interface FormatOptions {
  readonly cluster: ClusterId;
  readonly device: DeviceId;
  readonly nowMs: number;
  /** Formats whatever the device holds. Default false. */
  readonly force?: boolean;
}

/**
 * Writes the first superblock.
 *
 * @throws KisekiError `block.foreign_device` when the device holds something and `force` is not
 *   set, `common.invalid_argument` when it is too small, `block.io`.
 */
export async function formatDevice(file: BlockFile, options: FormatOptions): Promise<Superblock> {
  if (file.sizeBytes < MIN_DEVICE_BYTES) {
    throw new KisekiError(
      "common.invalid_argument",
      `${file.name}: ${file.sizeBytes} bytes are too few for a device (least ${MIN_DEVICE_BYTES})`,
    );
  }
  const found = await foreignContent(file);
  if (found !== undefined) {
    if (options.force !== true) {
      throw new KisekiError(
        "block.foreign_device",
        `${file.name} holds ${found}: not formatted; use force to overwrite it`,
        { details: { found } },
      );
    }
    await file.write(0, new Uint8Array(HEAD_BYTES));
    await file.sync();
  }
  const superblock: Superblock = {
    cluster: options.cluster,
    device: options.device,
    generation: 1,
    capacityBytes: file.sizeBytes - (file.sizeBytes % BLOCK_BYTES),
    formattedMs: options.nowMs,
  };
  await writeSuperblock(file, superblock);
  return superblock;
}

/**
 * Reads who a device is and checks that it is whole.
 *
 * @throws KisekiError `block.foreign_device` when it is none of ours or of another cluster,
 *   `common.corrupt_format`, `common.unsupported_version`, `block.io`.
 */
export async function identifyDevice(file: BlockFile, cluster: ClusterId): Promise<Superblock> {
  const superblock = await readSuperblock(file);
  if (superblock === undefined) {
    throw new KisekiError("block.foreign_device", `${file.name} is not a kiseki device: format it`);
  }
  if (superblock.cluster !== cluster) {
    throw new KisekiError(
      "block.foreign_device",
      `${file.name} belongs to cluster ${superblock.cluster}, not to ${cluster}`,
    );
  }
  if (file.sizeBytes < superblock.capacityBytes) {
    throw new KisekiError(
      "block.io",
      `${file.name} shrank: ${file.sizeBytes} of ${superblock.capacityBytes} bytes are left`,
    );
  }
  return superblock;
}

/**
 * Opens a device whose superblock was read.
 *
 * @param used Extents that the index names, in order of offset.
 * @throws KisekiError `common.corrupt_format` when `used` overlaps or lies outside.
 */
export function openBlockDevice(
  file: BlockFile,
  superblock: Superblock,
  used: Iterable<Extent>,
  log: Logger = SILENT_LOGGER,
): BlockDevice {
  const units = (superblock.capacityBytes - HEAD_BYTES) / BLOCK_BYTES;
  return new FileBackedDevice(file, superblock, ExtentAllocator.rebuild(units, toUnits(used)), log);
}

function* toUnits(extents: Iterable<Extent>): Generator<UnitRange> {
  for (const { offset, length } of extents) {
    yield { start: (offset - HEAD_BYTES) / BLOCK_BYTES, length: Math.ceil(length / BLOCK_BYTES) };
  }
}

class FileBackedDevice implements BlockDevice {
  readonly device: DeviceId;
  readonly capacityBytes: number;
  readonly #group: GroupSync;
  /** Discards under way, so that `close` waits for them. */
  readonly #discards = new Set<Promise<void>>();

  constructor(
    private readonly file: BlockFile,
    superblock: Superblock,
    private readonly allocator: ExtentAllocator,
    private readonly log: Logger,
  ) {
    this.device = superblock.device;
    this.capacityBytes = allocator.units * BLOCK_BYTES;
    this.#group = new GroupSync(() => file.sync());
  }

  get freeBytes(): number {
    return this.allocator.freeUnits * BLOCK_BYTES;
  }

  get failed(): boolean {
    return this.#group.failed;
  }

  allocate(length: number): Extent {
    const start = this.allocator.allocate(Math.ceil(length / BLOCK_BYTES));
    if (start === undefined) {
      throw new KisekiError(
        "block.no_space",
        `${this.file.name}: no ${length} bytes in a row are free (${this.freeBytes} in all)`,
      );
    }
    return { offset: HEAD_BYTES + start * BLOCK_BYTES, length };
  }

  async write(extent: Extent, data: Bytes): Promise<void> {
    if (data.length !== extent.length) {
      throw new KisekiError(
        "common.internal",
        `${data.length} bytes for an extent of ${extent.length}`,
      );
    }
    const whole = data.length - (data.length % BLOCK_BYTES);
    if (whole > 0) await this.file.write(extent.offset, data.subarray(0, whole));
    if (whole < data.length) {
      const tail = new Uint8Array(BLOCK_BYTES);
      tail.set(data.subarray(whole));
      await this.file.write(extent.offset + whole, tail);
    }
  }

  async read(extent: Extent, offset: number, length: number, into?: Bytes): Promise<Bytes> {
    if (offset < 0 || length < 0 || offset + length > extent.length) {
      throw new KisekiError(
        "common.invalid_argument",
        `bytes ${offset}+${length} of an extent of ${extent.length}`,
      );
    }
    if (into !== undefined && offset % BLOCK_BYTES === 0) {
      const whole = length - (length % BLOCK_BYTES);
      if (whole > 0) await this.file.read(extent.offset + offset, into.subarray(0, whole));
      if (whole < length) {
        const tail = new Uint8Array(BLOCK_BYTES);
        await this.file.read(extent.offset + offset + whole, tail);
        into.set(tail.subarray(0, length - whole), whole);
      }
      return into;
    }
    const from = offset - (offset % BLOCK_BYTES);
    const buffer = new Uint8Array(Math.ceil((offset + length - from) / BLOCK_BYTES) * BLOCK_BYTES);
    if (length > 0) await this.file.read(extent.offset + from, buffer);
    const data = buffer.subarray(offset - from, offset - from + length);
    if (into === undefined) return data;
    into.set(data);
    return into;
  }

  sync(): Promise<void> {
    return this.#group.wait();
  }

  free(extent: Extent): void {
    const start = (extent.offset - HEAD_BYTES) / BLOCK_BYTES;
    const units = Math.ceil(extent.length / BLOCK_BYTES);
    const discard = this.file.discard(extent.offset, units * BLOCK_BYTES).catch((error) => {
      const message = isKisekiError(error) ? error.message : String(error);
      this.log.warn("block.discard_failed", { device: this.device, message });
    }).then(() => {
      this.allocator.free(start, units);
      this.#discards.delete(discard);
    });
    this.#discards.add(discard);
  }

  async hostFreeBytes(): Promise<number> {
    return await this.file.hostFreeBytes?.() ?? Number.POSITIVE_INFINITY;
  }

  async close(): Promise<void> {
    await Promise.all(this.#discards);
    await this.file.close();
  }
}
