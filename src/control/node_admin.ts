/**
 * Port: what the admin service asks of the node itself. Implemented by the server role.
 *
 * All sizes in bytes, all times in milliseconds since the epoch. Errors are KisekiErrors; the
 * admin service maps them.
 */
import type { Durability } from "../chunk/ports.ts";
import type { DeviceId, NodeId, ShardId } from "../common/ids.ts";

export interface DeviceStatus {
  readonly device: DeviceId;
  readonly node: NodeId;
  readonly path: string;
  readonly class: string;
  readonly capacityBytes: number;
  readonly usedBytes: number;
  readonly fragments: number;
  /** `ok`, `full`, `failing`, `lost`, or `draining` while it is being emptied. */
  readonly state: string;
  /** Names of the pools that it belongs to. */
  readonly pools: readonly string[];
}

export interface NewDevice {
  readonly path: string;
  readonly class: string;
  /** Size of a file to make; undefined: all of what is there. */
  readonly sizeBytes?: number;
  /** Formats what holds something else. */
  readonly force: boolean;
  /** Pools to join; empty: those of its class. */
  readonly pools: readonly string[];
}

export interface PoolStatus {
  readonly name: string;
  readonly class?: string;
  readonly durability: Durability;
  readonly fullPercent: number;
  readonly devices: readonly DeviceId[];
  readonly capacityBytes: number;
  readonly usedBytes: number;
  /** `ok`, `degraded` (a device is missing), `full`. */
  readonly state: string;
}

export interface NewPool {
  readonly name: string;
  /** Members by id; empty with a class: all of that class. */
  readonly devices: readonly DeviceId[];
  readonly class?: string;
  readonly durability: Durability;
  readonly fullPercent: number;
}

export interface PoolChange {
  readonly fullPercent?: number;
}

export interface ShardStatus {
  readonly shard: ShardId;
  /** 32 hex digits; all zero for the control shard. */
  readonly organisation: string;
  readonly leader: NodeId;
  readonly term: number;
  readonly appliedIndex: number;
  readonly rowsInMemory: number;
  readonly runs: number;
  readonly runBytes: number;
  /** `leader`, `follower`, `learner`, `stopped`. */
  readonly state: string;
}

export interface ScrubStatus {
  /** `idle`, `running`, `done`, `failed`. */
  readonly state: string;
  readonly startedMs: number;
  readonly finishedMs: number;
  readonly checkedFragments: number;
  readonly checkedBytes: number;
  readonly totalFragments: number;
  readonly badFragments: number;
  readonly repairedFragments: number;
  readonly lostChunks: number;
}

export interface NodeStatus {
  readonly node: NodeId;
  readonly name: string;
  readonly cluster: string;
  readonly version: string;
  /** `source`, `compile`, `elf`. */
  readonly packageKind: string;
  readonly startedMs: number;
  readonly ready: boolean;
  /** Why it is not ready, or what is degraded. */
  readonly reasons: readonly string[];
  readonly s3Address: string;
  readonly adminAddress: string;
  readonly organisations: number;
  readonly shards: number;
  readonly devices: number;
  readonly pools: readonly PoolStatus[];
  readonly residentBytes: number;
}

export interface KeyStatus {
  /** `aws-lc`, `openssl`, `webcrypto`. */
  readonly provider: string;
  readonly providerVersion: string;
  readonly fips: boolean;
  readonly passedOver: readonly string[];
  /** `embedded` or the name of a key server. */
  readonly manager: string;
  readonly systemEpoch: number;
  readonly organisations: number;
}

export interface NodeAdmin {
  status(): Promise<NodeStatus>;
  keyStatus(): Promise<KeyStatus>;
  listDevices(): Promise<readonly DeviceStatus[]>;
  /** @throws KisekiError `block.foreign_device` without `force`, `block.locked`, `block.io`. */
  addDevice(device: NewDevice): Promise<DeviceStatus>;
  /** Puts a new device in the place of one that is lost; repair fills it. */
  replaceDevice(lost: DeviceId, device: NewDevice): Promise<DeviceStatus>;
  /** Takes a device out. Refused while chunks would lose their durability, unless `force`. */
  removeDevice(device: DeviceId, force: boolean): Promise<void>;
  listPools(): Promise<readonly PoolStatus[]>;
  createPool(pool: NewPool): Promise<PoolStatus>;
  changePool(name: string, change: PoolChange): Promise<PoolStatus>;
  listShards(): Promise<readonly ShardStatus[]>;
  /** Starts a scrub of all devices; answers the running one if there is one. */
  startScrub(): Promise<ScrubStatus>;
  scrubStatus(): Promise<ScrubStatus>;
}
