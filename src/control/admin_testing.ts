/**
 * A node and namespaces in memory behind the admin service, for tests of the service and of the
 * command line. What the node itself does is tried where it is implemented.
 */
import { KisekiError } from "../common/errors.ts";
import type { DeviceId, NamespaceId, NodeId, OrganisationId, ShardId } from "../common/ids.ts";
import { newId128 } from "../common/ids.ts";
import type { NamespaceInfo, NamespaceService } from "../namespace/api.ts";
import type { Identity } from "../namespace/identity.ts";
import type { DeviceStatus, NewDevice, NodeAdmin, PoolStatus, ScrubStatus } from "./node_admin.ts";

/** Namespaces by organisation; the object calls are not there. */
export function memoryNamespaces(): {
  readonly service: NamespaceService;
  isEmpty(organisation: OrganisationId): boolean;
} {
  const all = new Map<string, NamespaceInfo>();
  const key = (caller: Identity, name: string) => `${caller.organisation}/${name}`;
  const find = (caller: Identity, name: string): NamespaceInfo => {
    const found = all.get(key(caller, name));
    if (found !== undefined) return found;
    throw new KisekiError("namespace.no_such_namespace", `no such namespace: ${name}`);
  };
  const service: Partial<NamespaceService> = {
    async listNamespaces(caller) {
      const mine = [...all].filter(([at]) => at.startsWith(`${caller.organisation}/`));
      return mine.map(([, info]) => info);
    },
    async createNamespace(caller, name) {
      if (all.has(key(caller, name))) {
        throw new KisekiError("namespace.namespace_exists", `namespace ${name} exists already`);
      }
      const info: NamespaceInfo = {
        id: newId128<NamespaceId>(),
        name,
        createdMs: 1_700_000_000_000,
        versioning: "unversioned",
      };
      all.set(key(caller, name), info);
      return info;
    },
    getNamespace: async (caller, name) => find(caller, name),
    async deleteNamespace(caller, name) {
      find(caller, name);
      all.delete(key(caller, name));
    },
  };
  return {
    service: service as NamespaceService,
    isEmpty: (organisation) => ![...all.keys()].some((at) => at.startsWith(`${organisation}/`)),
  };
}

/** A node with devices and pools in memory. */
export function memoryNode(): NodeAdmin {
  const node = 1 as NodeId;
  const devices = new Map<DeviceId, DeviceStatus>();
  const pools = new Map<string, PoolStatus>();
  let scrub: ScrubStatus = {
    state: "idle",
    startedMs: 0,
    finishedMs: 0,
    checkedFragments: 0,
    checkedBytes: 0,
    totalFragments: 0,
    badFragments: 0,
    repairedFragments: 0,
    lostChunks: 0,
  };
  const add = (device: NewDevice): DeviceStatus => {
    if (device.path === "/foreign" && !device.force) {
      throw new KisekiError("block.foreign_device", "/foreign holds something else: --force");
    }
    const status: DeviceStatus = {
      device: newId128<DeviceId>(),
      node,
      path: device.path,
      class: device.class,
      capacityBytes: device.sizeBytes ?? 2 ** 30,
      usedBytes: 0,
      fragments: 0,
      state: "ok",
      pools: device.pools,
    };
    devices.set(status.device, status);
    return status;
  };
  const known = (device: DeviceId): void => {
    if (!devices.has(device)) throw new KisekiError("common.not_found", `no device ${device}`);
  };
  return {
    status: async () => ({
      node,
      name: "node1",
      cluster: "kiseki",
      version: "0.1.0",
      packageKind: "source",
      startedMs: 1_700_000_000_000,
      ready: true,
      reasons: [],
      s3Address: "127.0.0.1:9000",
      adminAddress: "127.0.0.1:9090",
      organisations: 1,
      shards: 2,
      devices: devices.size,
      pools: [...pools.values()],
      residentBytes: 2 ** 27,
    }),
    keyStatus: async () => ({
      provider: "openssl",
      providerVersion: "OpenSSL 3.0",
      fips: false,
      passedOver: ["aws-lc: not shipped"],
      manager: "embedded",
      systemEpoch: 1,
      organisations: 1,
    }),
    listDevices: async () => [...devices.values()],
    addDevice: async (device) => add(device),
    async replaceDevice(lost, device) {
      known(lost);
      devices.delete(lost);
      return add(device);
    },
    async removeDevice(device) {
      known(device);
      devices.delete(device);
    },
    listPools: async () => [...pools.values()],
    async createPool(pool) {
      if (pools.has(pool.name)) {
        throw new KisekiError("common.already_exists", `pool ${pool.name} exists already`);
      }
      const status: PoolStatus = { ...pool, capacityBytes: 2 ** 30, usedBytes: 4096, state: "ok" };
      pools.set(pool.name, status);
      return status;
    },
    async changePool(name, change) {
      const before = pools.get(name);
      if (before === undefined) throw new KisekiError("common.not_found", `no pool ${name}`);
      const after = { ...before, ...change };
      pools.set(name, after);
      return after;
    },
    listShards: async () => [{
      shard: 1 as ShardId,
      organisation: "0".repeat(32),
      leader: node,
      term: 3,
      appliedIndex: 17,
      rowsInMemory: 5,
      runs: 1,
      runBytes: 65536,
      state: "leader",
    }],
    async startScrub() {
      scrub = { ...scrub, state: "running", startedMs: 1_700_000_000_000 };
      return scrub;
    },
    scrubStatus: async () => scrub,
  };
}
