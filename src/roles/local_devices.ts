/**
 * The devices of this node: opened, or formatted on their first start.
 *
 * Invariants: a device that was never known here is formatted, unless it holds something else and
 * is not forced; one that was known and does not open is a *lost* device: it is reported and its
 * fragments are rebuilt elsewhere, it is never silently replaced by an empty one.
 *
 * `devices.json` in the data directory keeps which path is which device.
 */
import type { Libc } from "../../ffi/libc.ts";
import type { DeviceConfig, PoolConfig as PoolSettings, ServerConfig } from "../common/config.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import { type ClusterId, type DeviceId, newId128 } from "../common/ids.ts";
import type { Logger } from "../common/logging.ts";
import type { Crc32c } from "../common/crc32c.ts";
import { createDeviceFile, openFileBlockFile } from "../block/file_block_file.ts";
import { foreignContent } from "../block/foreign_signature.ts";
import type { BlockFile } from "../block/ports.ts";
import { formatLocalDevice, openLocalDevice } from "../chunk/local_device.ts";
import type { FragmentStore } from "../chunk/ports.ts";
import { writeDurably } from "./durable_file.ts";
import type { PoolStart } from "./isolates.ts";

/** A device as it is served. */
export interface LocalDevice {
  readonly id: DeviceId;
  readonly path: string;
  readonly class: string;
  readonly store: FragmentStore;
  /** Why it is lost; undefined while it works. */
  readonly lost: string | undefined;
  close(): Promise<void>;
}

export interface OpenDevicesOptions {
  readonly config: ServerConfig;
  readonly cluster: ClusterId;
  readonly libc: Libc;
  readonly crc32c: Crc32c;
  readonly logger: Logger;
  readonly nowMs: number;
  /** Formats devices that hold something else. */
  readonly force: boolean;
}

interface KnownDevice {
  readonly id: DeviceId;
  /** False from before the first write to the device until its index is there. */
  readonly formatted: boolean;
}

type KnownDevices = Record<string, KnownDevice>;

/** Opens every configured device. @throws KisekiError `block.foreign_device`, `block.locked`, ... */
export async function openDevices(options: OpenDevicesOptions): Promise<readonly LocalDevice[]> {
  const file = `${options.config.dataDir}/devices.json`;
  const known = await readKnown(file);
  const devices: LocalDevice[] = [];
  try {
    for (const device of options.config.devices) {
      const before = known[device.path];
      if (before?.formatted === true) {
        devices.push(await openKnown(before.id, device, options));
        continue;
      }
      const id = before?.id ?? newId128<DeviceId>();
      if (before === undefined) {
        await requireBlank(device, options);
        known[device.path] = { id, formatted: false };
        await writeDurably(file, JSON.stringify(known, undefined, 2));
      }
      devices.push(await formatNew(id, device, options));
      known[device.path] = { id, formatted: true };
      await writeDurably(file, JSON.stringify(known, undefined, 2));
    }
  } catch (error) {
    for (const device of devices) await device.close();
    throw error;
  }
  return devices;
}

/**
 * Formats the disk that stands at the path of a lost device, under the same id; repair fills it.
 *
 * @throws KisekiError `common.failed_precondition` while the device works, `block.foreign_device`
 *   when the new disk holds something else and `force` is not set.
 */
export async function replaceDevice(
  lost: LocalDevice,
  force: boolean,
  options: Omit<OpenDevicesOptions, "force">,
): Promise<LocalDevice> {
  const settings = options.config.devices.find((device) => device.path === lost.path);
  if (lost.lost === undefined || settings === undefined) {
    throw new KisekiError(
      "common.failed_precondition",
      `device ${lost.id} at ${lost.path} works: only a lost device is replaced`,
    );
  }
  const file = `${options.config.dataDir}/devices.json`;
  const known = await readKnown(file);
  await requireBlank(settings, { ...options, force });
  known[lost.path] = { id: lost.id, formatted: false };
  await writeDurably(file, JSON.stringify(known, undefined, 2));
  const replaced = await formatNew(lost.id, settings, { ...options, force });
  known[lost.path] = { id: lost.id, formatted: true };
  await writeDurably(file, JSON.stringify(known, undefined, 2));
  return replaced;
}

/** Pools with the ids of their devices. */
export function resolvePools(
  pools: readonly PoolSettings[],
  devices: readonly LocalDevice[],
): readonly PoolStart[] {
  return pools.map((pool) => ({
    name: pool.name,
    durability: pool.durability,
    fullPercent: pool.fullPercent,
    devices: devices
      .filter((device) =>
        pool.class === undefined ? pool.devices.includes(device.path) : device.class === pool.class
      )
      .map((device) => device.id),
  }));
}

/** Makes a missing device file, and refuses a device that holds something unless forced. */
async function requireBlank(device: DeviceConfig, options: OpenDevicesOptions): Promise<void> {
  if (device.sizeBytes !== undefined && !await exists(device.path)) {
    await createDeviceFile(device.path, device.sizeBytes);
    return;
  }
  if (options.force) return;
  const file = await openFileBlockFile(device.path, { libc: options.libc });
  try {
    const found = await foreignContent(file);
    if (found === undefined) return;
    throw new KisekiError(
      "block.foreign_device",
      `${device.path} holds ${found}: not formatted; start once with --force to overwrite it`,
      { details: { found } },
    );
  } finally {
    await file.close();
  }
}

/** Formats what is blank, or what an earlier start left half formatted. */
async function formatNew(
  id: DeviceId,
  device: DeviceConfig,
  options: OpenDevicesOptions,
): Promise<LocalDevice> {
  const file = await openFileBlockFile(device.path, { libc: options.libc });
  try {
    await formatLocalDevice(file, {
      cluster: options.cluster,
      indexPath: indexPath(id, device, options.config),
      device: id,
      nowMs: options.nowMs,
      force: true,
    });
  } catch (error) {
    await file.close();
    throw error;
  }
  options.logger.info("device formatted", { device: id, path: device.path });
  return await openStore(id, device, file, options);
}

async function openKnown(
  id: DeviceId,
  device: DeviceConfig,
  options: OpenDevicesOptions,
): Promise<LocalDevice> {
  let file: BlockFile | undefined;
  try {
    file = await openFileBlockFile(device.path, { libc: options.libc });
    return await openStore(id, device, file, options);
  } catch (error) {
    if (isKisekiError(error, "block.locked")) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    options.logger.error("device lost", { device: id, path: device.path, reason });
    return {
      id,
      path: device.path,
      class: device.class,
      store: lostStore(id, device.path, reason),
      lost: reason,
      close: () => Promise.resolve(),
    };
  }
}

async function openStore(
  id: DeviceId,
  device: DeviceConfig,
  file: BlockFile,
  options: OpenDevicesOptions,
): Promise<LocalDevice> {
  let store;
  try {
    store = await openLocalDevice(file, {
      cluster: options.cluster,
      indexPath: indexPath(id, device, options.config),
      crc32c: options.crc32c,
      log: options.logger,
    });
  } catch (error) {
    await file.close();
    throw error;
  }
  if (store.device !== id) {
    const found = store.device;
    await store.close();
    throw new KisekiError(
      "block.foreign_device",
      `${device.path} is device ${found}, but device ${id} was there before`,
    );
  }
  const opened = store;
  return {
    id,
    path: device.path,
    class: device.class,
    store: opened,
    lost: undefined,
    close: () => opened.close(),
  };
}

/** Beside a device file; in the data directory for a raw device. */
function indexPath(id: DeviceId, device: DeviceConfig, config: ServerConfig): string {
  return device.path.startsWith("/dev/") ? `${config.dataDir}/${id}.index` : `${device.path}.index`;
}

/** Answers every call with why the device is lost. */
function lostStore(id: DeviceId, path: string, reason: string): FragmentStore {
  const fail = (): Promise<never> =>
    Promise.reject(new KisekiError("block.io", `device ${path} is lost: ${reason}`));
  return {
    device: id,
    put: fail,
    get: fail,
    head: fail,
    remove: fail,
    rewrap: fail,
    list: fail,
    usage: () =>
      Promise.resolve({ device: id, capacityBytes: 0, usedBytes: 0, fragments: 0, state: "lost" }),
  };
}

async function readKnown(file: string): Promise<KnownDevices> {
  try {
    const value: unknown = JSON.parse(await Deno.readTextFile(file));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      return value as KnownDevices;
    }
    throw new KisekiError("common.corrupt_format", `${file}: not a table of devices`);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return {};
    throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
