/**
 * What the admin service asks of the node itself.
 *
 * Devices and pools are named in the configuration file: adding, removing and changing them is a
 * matter of that file and a restart, and the calls say so.
 */
import { buildInfo } from "../common/build_info.ts";
import type { Clock } from "../common/clock.ts";
import type { ServerConfig } from "../common/config.ts";
import { KisekiError } from "../common/errors.ts";
import type { DeviceId } from "../common/ids.ts";
import type {
  DeviceStatus,
  KeyStatus,
  NewDevice,
  NodeAdmin,
  NodeStatus,
  PoolStatus,
  ScrubStatus,
  ShardStatus,
} from "../control/node_admin.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import type { KeyManager } from "../keys/key_manager.ts";
import type { ShardStatus as HostedShard } from "../log/log_host.ts";
import type { ChunkAccess } from "./chunk_access.ts";
import type { DeviceStart, PoolStart } from "./isolates.ts";
import type { NodeIdentity } from "./node_identity.ts";
import type { Upkeep } from "./upkeep.ts";

export interface NodeAdminOptions {
  readonly config: ServerConfig;
  readonly identity: NodeIdentity;
  readonly provider: CryptoProvider;
  readonly keys: KeyManager;
  readonly access: ChunkAccess;
  readonly upkeep: Upkeep;
  readonly clock: Clock;
  readonly startedMs: number;
  readonly pools: readonly PoolStart[];
  readonly s3Address: () => string;
  readonly adminAddress: () => string;
  readonly notReady: () => readonly string[];
  readonly devices: () => Promise<readonly DeviceStart[]>;
  readonly shards: () => Promise<readonly HostedShard[]>;
  readonly replaceDevice: (device: DeviceId, force: boolean) => Promise<void>;
}

export class ServerNodeAdmin implements NodeAdmin {
  readonly #o: NodeAdminOptions;

  constructor(options: NodeAdminOptions) {
    this.#o = options;
  }

  async status(): Promise<NodeStatus> {
    const { config, identity } = this.#o;
    const build = buildInfo();
    const pools = await this.listPools();
    const reasons = [
      ...this.#o.notReady(),
      ...pools.filter((pool) => pool.state !== "ok").map((pool) =>
        `pool ${pool.name}: ${pool.state}`
      ),
    ];
    return {
      node: identity.node,
      name: config.node,
      cluster: identity.cluster,
      version: build.version,
      packageKind: build.kind,
      startedMs: this.#o.startedMs,
      ready: this.#o.notReady().length === 0,
      reasons,
      s3Address: this.#o.s3Address(),
      adminAddress: this.#o.adminAddress(),
      organisations: this.#o.keys.health().organisations,
      shards: (await this.#o.shards()).length,
      devices: (await this.#o.devices()).length,
      pools,
      residentBytes: Deno.memoryUsage().rss,
    };
  }

  keyStatus(): Promise<KeyStatus> {
    const { report } = this.#o.provider;
    const { manager, systemEpoch, organisations } = this.#o.keys.health();
    return Promise.resolve({
      provider: report.name,
      providerVersion: report.version,
      fips: report.fips,
      passedOver: report.passedOver,
      manager,
      systemEpoch,
      organisations,
    });
  }

  async listDevices(): Promise<readonly DeviceStatus[]> {
    const devices = await this.#o.devices();
    return await Promise.all(devices.map((device) => this.#device(device)));
  }

  addDevice(_device: NewDevice): Promise<DeviceStatus> {
    return refuse("add a device: name it in [[devices]] of the configuration and restart");
  }

  /** The disk at the path of a lost device was changed: format it and rebuild what it held. */
  async replaceDevice(lost: DeviceId, device: NewDevice): Promise<DeviceStatus> {
    const known = (await this.#o.devices()).find((one) => one.id === lost);
    if (known === undefined) {
      throw new KisekiError("common.not_found", `device ${lost} is not on this node`);
    }
    if (device.path !== known.path) {
      throw new KisekiError(
        "common.invalid_argument",
        `device ${lost} is configured at ${known.path}: put the new disk there`,
      );
    }
    await this.#o.replaceDevice(lost, device.force);
    this.#o.upkeep.rebuild(lost);
    const now = (await this.#o.devices()).find((one) => one.id === lost) ?? known;
    return await this.#device(now);
  }

  removeDevice(_device: DeviceId, _force: boolean): Promise<void> {
    return refuse("remove a device: take it out of [[devices]] of the configuration and restart");
  }

  async listPools(): Promise<readonly PoolStatus[]> {
    const usage = await this.#o.access.chunks.usage();
    return this.#o.pools.map((pool) => {
      const now = usage.find((one) => one.name === pool.name);
      const settings = this.#o.config.pools.find((one) => one.name === pool.name);
      return {
        name: pool.name,
        ...(settings?.class === undefined ? {} : { class: settings.class }),
        durability: pool.durability,
        fullPercent: pool.fullPercent,
        devices: pool.devices,
        capacityBytes: now?.capacityBytes ?? 0,
        usedBytes: now?.usedBytes ?? 0,
        state: now?.state ?? "degraded",
      };
    });
  }

  createPool(): Promise<PoolStatus> {
    return refuse("create a pool: name it in [[pools]] of the configuration and restart");
  }

  changePool(): Promise<PoolStatus> {
    return refuse("change a pool: change it in [[pools]] of the configuration and restart");
  }

  async listShards(): Promise<readonly ShardStatus[]> {
    return (await this.#o.shards()).map((shard) => ({
      shard: shard.shard,
      organisation: shard.organisation,
      leader: this.#o.identity.node,
      term: shard.term,
      appliedIndex: shard.appliedIndex,
      rowsInMemory: shard.rowsInMemory,
      runs: shard.runs,
      runBytes: shard.runBytes,
      state: shard.leading ? "leader" : "stopped",
    }));
  }

  startScrub(): Promise<ScrubStatus> {
    return this.#o.upkeep.startScrub();
  }

  scrubStatus(): Promise<ScrubStatus> {
    return Promise.resolve(this.#o.upkeep.scrubStatus());
  }

  async #device(device: DeviceStart): Promise<DeviceStatus> {
    const usage = await this.#o.access.stores.get(device.id)?.usage();
    return {
      device: device.id,
      node: this.#o.identity.node,
      path: device.path,
      class: device.class,
      capacityBytes: usage?.capacityBytes ?? 0,
      usedBytes: usage?.usedBytes ?? 0,
      fragments: usage?.fragments ?? 0,
      state: device.lost === undefined ? usage?.state ?? "lost" : "lost",
      pools: this.#o.pools.filter((pool) => pool.devices.includes(device.id))
        .map((pool) => pool.name),
    };
  }
}

function refuse(what: string): Promise<never> {
  return Promise.reject(new KisekiError("common.not_implemented", `this release cannot ${what}`));
}
