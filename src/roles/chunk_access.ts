/**
 * Chunks as an isolate without devices reaches them: stores across the storage link, and the chunk
 * store over them.
 */
import { SYSTEM_CLOCK } from "../common/clock.ts";
import type { DeviceId, NodeId } from "../common/ids.ts";
import type { Logger } from "../common/logging.ts";
import type { Metrics } from "../common/metrics.ts";
import { DeviceChunkStore } from "../chunk/chunk_store.ts";
import type { ErasureCoder } from "../chunk/erasure_code.ts";
import type { FindingSink } from "../chunk/finding.ts";
import { chooseErasureCoder } from "../chunk/isal_coder.ts";
import type { FragmentStore } from "../chunk/ports.ts";
import { SharedBulkMemory } from "../engine/bulk_memory.ts";
import { RemoteFragmentStore } from "../engine/fragment_link.ts";
import type { Link } from "../engine/link.ts";
import type { PoolStart } from "./isolates.ts";
import { timedCoder, timedStore } from "./timed_parts.ts";

export interface ChunkAccess {
  readonly chunks: DeviceChunkStore;
  readonly stores: ReadonlyMap<DeviceId, FragmentStore>;
  readonly coder: ErasureCoder;
  readonly memory: SharedBulkMemory;
}

export interface ChunkAccessOptions {
  readonly storage: Link;
  /** Shared with the storage isolate. */
  readonly bulk: SharedArrayBuffer;
  readonly pools: readonly PoolStart[];
  readonly node: NodeId;
  readonly isalPath: string | undefined;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly report: FindingSink;
}

/** Wires stores and chunk store of one isolate. */
export function openChunkAccess(options: ChunkAccessOptions): ChunkAccess {
  const { bulk } = options;
  const address = Deno.UnsafePointer.value(Deno.UnsafePointer.of(new Uint8Array(bulk)));
  const memory = new SharedBulkMemory(bulk, Number(BigInt(address) % 4096n));
  const stores = new Map<DeviceId, FragmentStore>();
  for (const pool of options.pools) {
    for (const device of pool.devices) {
      const store = new RemoteFragmentStore(device, options.storage, memory);
      stores.set(device, timedStore(store, options.metrics));
    }
  }
  const coder = timedCoder(chooseErasureCoder(options.isalPath).coder, options.metrics);
  const chunks = new DeviceChunkStore({
    pools: options.pools.map((pool) => ({
      name: pool.name,
      durability: pool.durability,
      devices: pool.devices.map((device) => ({ device, weight: 1, node: options.node })),
      placementVersion: 1,
      fullPercent: pool.fullPercent,
    })),
    stores,
    coder,
    memory,
    clock: SYSTEM_CLOCK,
    log: options.logger,
    report: options.report,
  });
  return { chunks, stores, coder, memory };
}

/** Bulk memory of `bytes`, in whole slabs and a page for alignment. */
export function newBulkMemory(bytes: number, slabBytes: number): SharedArrayBuffer {
  return new SharedArrayBuffer(Math.max(2, Math.floor(bytes / slabBytes)) * slabBytes + 4096);
}
