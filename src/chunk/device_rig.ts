/**
 * Devices for tests: real files in a temporary directory, formatted, opened, reopened.
 */
import { join } from "node:path";
import { type Libc, openLibc } from "../../ffi/libc.ts";
import { createDeviceFile, openFileBlockFile } from "../block/file_block_file.ts";
import type { BlockFile } from "../block/ports.ts";
import { type Bytes, toHex } from "../common/bytes.ts";
import { crc32c } from "../common/crc32c.ts";
import {
  type ChunkId,
  type ClusterId,
  type DeviceId,
  newId128,
  type NodeId,
  type OrganisationId,
} from "../common/ids.ts";
import type { LocalFragmentStore } from "./fragment_store.ts";
import { formatLocalDevice, openLocalDevice } from "./local_device.ts";
import type { PlacementDevice } from "./placement.ts";
import type { SealedChunk } from "./ports.ts";

/** A device of a rig. */
export interface RigDevice {
  readonly path: string;
  readonly id: DeviceId;
}

/** Devices in one temporary directory; dispose of it at the end of the test. */
export class DeviceRig {
  readonly libc: Libc = openLibc();
  readonly cluster: ClusterId = newId128<ClusterId>();
  readonly organisation: OrganisationId = newId128<OrganisationId>();
  readonly devices: RigDevice[] = [];
  readonly stores = new Map<DeviceId, LocalFragmentStore>();
  /** Wraps each device's file when it is opened: for faults. */
  wrap: (file: BlockFile, device: RigDevice) => BlockFile = (file) => file;

  private constructor(readonly directory: string, readonly sizeBytes: number) {}

  /** Makes `count` formatted devices of `sizeBytes` and opens them. */
  static async create(count: number, sizeBytes = 64 << 20): Promise<DeviceRig> {
    const rig = new DeviceRig(await Deno.makeTempDir({ prefix: "kiseki-devices-" }), sizeBytes);
    for (let i = 0; i < count; i++) await rig.add();
    return rig;
  }

  /** Adds and opens a fresh device. */
  async add(): Promise<RigDevice> {
    const id = newId128<DeviceId>();
    const device = { path: join(this.directory, `${this.devices.length}.device`), id };
    await createDeviceFile(device.path, this.sizeBytes);
    const file = await openFileBlockFile(device.path, { libc: this.libc });
    await formatLocalDevice(file, {
      cluster: this.cluster,
      indexPath: indexPath(device),
      device: id,
      nowMs: 1_700_000_000_000,
    });
    await file.close();
    this.devices.push(device);
    await this.open(device);
    return device;
  }

  async open(device: RigDevice): Promise<LocalFragmentStore> {
    const file = this.wrap(await openFileBlockFile(device.path, { libc: this.libc }), device);
    const options = { cluster: this.cluster, indexPath: indexPath(device), crc32c };
    try {
      const store = await openLocalDevice(file, options);
      this.stores.set(device.id, store);
      return store;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Closes a device and takes it out of `stores`. */
  async close(device: RigDevice): Promise<void> {
    const store = this.stores.get(device.id);
    this.stores.delete(device.id);
    await store?.close();
  }

  /** Closes and opens every device. */
  async restart(): Promise<void> {
    for (const device of this.devices) {
      await this.close(device);
      await this.open(device);
    }
  }

  placement(): readonly PlacementDevice[] {
    return this.devices.map(({ id }) => ({ device: id, weight: 1, node: 1 as NodeId }));
  }

  /** A chunk of `size` envelope bytes that look random; its id follows from `seed`. */
  chunk(seed: number, size: number): SealedChunk {
    return {
      chunk: chunkIdOf(seed),
      organisation: this.organisation,
      plaintextBytes: Math.max(1, Math.min(4 << 20, size - 40)),
      wrappedDek: pattern(seed, 60),
      envelope: pattern(seed + 1, size),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const device of this.devices) await this.close(device);
    this.libc.unload();
    await Deno.remove(this.directory, { recursive: true });
  }
}

/** Where a rig's device has its index. */
export function indexPath(device: RigDevice): string {
  return `${device.path}.index`;
}

/** A chunk id out of a number. */
export function chunkIdOf(seed: number): ChunkId {
  return toHex(pattern(seed, 32)) as ChunkId;
}

/** Bytes that look random and follow from `seed`. */
export function pattern(seed: number, size: number): Bytes {
  const words = new Uint32Array(Math.ceil(size / 4));
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = state ^ (state >>> 15);
  }
  return new Uint8Array(words.buffer, 0, size);
}
