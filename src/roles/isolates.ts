/**
 * What the main isolate hands to its Workers.
 *
 * Invariants: a Worker that dies takes the process with it: half a node serves nothing; the first
 * message of a Worker is its start message, everything after goes over links.
 */
import type { ServerConfig } from "../common/config.ts";
import type { ClusterId, DeviceId, NodeId } from "../common/ids.ts";
import type { LinkMemory } from "../engine/link.ts";
import type { Durability } from "../chunk/ports.ts";

/** A pool with its devices known. */
export interface PoolStart {
  readonly name: string;
  readonly durability: Durability;
  readonly devices: readonly DeviceId[];
  readonly fullPercent: number;
}

/** A device as the main isolate knows it. */
export interface DeviceStart {
  readonly id: DeviceId;
  readonly path: string;
  readonly class: string;
  /** Why it is lost; absent while it works. */
  readonly lost?: string;
}

export interface LinkStart {
  readonly peer: string;
  readonly memory: LinkMemory;
  /** Bulk memory of the calling side, where it moves chunks. */
  readonly bulk?: SharedArrayBuffer;
}

export interface StorageStart {
  readonly role: "storage";
  readonly config: ServerConfig;
  readonly cluster: ClusterId;
  readonly node: NodeId;
  /** `main` first, then the gateways. */
  readonly links: readonly LinkStart[];
  /** Devices that a first start may format although they hold something else. */
  readonly force: boolean;
}

/** Answer to the storage isolate's `start` call. */
export interface StorageStarted {
  readonly pools: readonly PoolStart[];
}

export interface GatewayStart {
  readonly role: "gateway";
  readonly name: string;
  readonly config: ServerConfig;
  readonly cluster: ClusterId;
  readonly node: NodeId;
  readonly main: LinkStart;
  readonly storage: LinkStart & { readonly bulk: SharedArrayBuffer };
  readonly pools: readonly PoolStart[];
  /** Port to bind; the first gateway may bind 0 and tells the rest. */
  readonly port: number;
}

export interface GatewayStarted {
  readonly port: number;
}
