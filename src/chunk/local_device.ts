/**
 * Formatting and opening of a local device: block device and fragment index together.
 *
 * Invariants: an index and a device that do not belong together, or of which one is an old copy, are
 * refused. The index of a device file lies beside it (`FILE.index`); that of a raw device in the
 * data directory (`DEVICE-ID.index`), where the caller says.
 */
import type { Crc32c } from "../common/crc32c.ts";
import { KisekiError } from "../common/errors.ts";
import type { ClusterId, DeviceId } from "../common/ids.ts";
import { type Logger, SILENT_LOGGER } from "../common/logging.ts";
import { formatDevice, identifyDevice, openBlockDevice } from "../block/block_device.ts";
import type { BlockFile } from "../block/ports.ts";
import { type Superblock, writeSuperblock } from "../block/superblock.ts";
import { openFragmentIndex, type SqliteFragmentIndex } from "./fragment_index.ts";
import { LocalFragmentStore } from "./fragment_store.ts";

export interface LocalDeviceOptions {
  readonly cluster: ClusterId;
  /** Path of the index database. */
  readonly indexPath: string;
}

/**
 * Formats a device and makes its empty index. The index comes second: a crash between leaves a
 * formatted device without index, which only `force` formats again.
 *
 * @throws KisekiError `block.foreign_device`, `common.already_exists` (the index), `block.io`.
 */
export async function formatLocalDevice(
  file: BlockFile,
  options: LocalDeviceOptions & {
    readonly device: DeviceId;
    readonly nowMs: number;
    readonly force?: boolean;
  },
): Promise<Superblock> {
  if (options.force === true) {
    for (const suffix of ["", "-wal", "-shm"]) await removeFile(options.indexPath + suffix);
  }
  const superblock = await formatDevice(file, options);
  const index = await openFragmentIndex(options.indexPath, superblock);
  await index.close();
  return superblock;
}

/**
 * Opens a formatted device; `file` is closed with the store.
 *
 * @throws KisekiError `block.foreign_device`, `common.failed_precondition` (index and device do not
 *   belong together), `common.corrupt_format`, `common.not_found` (no index), `block.io`.
 */
export async function openLocalDevice(
  file: BlockFile,
  options: LocalDeviceOptions & { readonly crc32c: Crc32c; readonly log?: Logger },
): Promise<LocalFragmentStore> {
  const superblock = await identifyDevice(file, options.cluster);
  const index = await openFragmentIndex(options.indexPath);
  try {
    requireSameGeneration(superblock, index, file.name);
    const generation = superblock.generation + 1;
    await index.announce(generation);
    await writeSuperblock(file, { ...superblock, generation });
    await index.takeOver(generation);
    const log = options.log ?? SILENT_LOGGER;
    const block = openBlockDevice(file, superblock, index.extents(), log);
    return new LocalFragmentStore(block, index, options.crc32c);
  } catch (error) {
    await index.close();
    throw error;
  }
}

function requireSameGeneration(
  superblock: Superblock,
  index: SqliteFragmentIndex,
  name: string,
): void {
  const { device, current, announced } = index.generation();
  if (device !== superblock.device) {
    throw new KisekiError(
      "common.failed_precondition",
      `${name} is device ${superblock.device}, but its index is that of ${device}`,
    );
  }
  if (superblock.generation === current || superblock.generation === announced) return;
  const older = superblock.generation < current ? "device" : "index";
  throw new KisekiError(
    "common.failed_precondition",
    `${name}: the ${older} is an old copy (device at generation ${superblock.generation}, ` +
      `index at ${current}): format the device again and let it be repaired`,
  );
}

async function removeFile(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
