/**
 * What the control shard records of the system itself: nodes, pools, devices.
 *
 * These rows are operators' words, not tenants': they are sealed with the shard's own rows alone.
 */
import { EMPTY_BYTES, toHex, utf8 } from "../common/bytes.ts";
import type { Clock } from "../common/clock.ts";
import { type DeviceId, idToBytes, type NodeId, type OrganisationId } from "../common/ids.ts";
import type { ShardId } from "../common/ids.ts";
import type { Durability } from "../chunk/ports.ts";
import type { ShardPort } from "../log/ports.ts";
import { RecordClass } from "./tenancy_rows.ts";
import { TenancyStore } from "./tenancy_store.ts";

export interface NodeRecord {
  readonly node: NodeId;
  readonly name: string;
  readonly startCounter: number;
  readonly registeredMs: number;
  /** Its start counter went back: an old disk was restored. It rejoins as a learner. */
  readonly regressed: boolean;
}

export interface PoolRecord {
  readonly name: string;
  readonly class?: string;
  readonly devices: readonly DeviceId[];
  readonly durability: Durability;
  /** 50 to 99. */
  readonly fullPercent: number;
  readonly createdMs: number;
}

export const DeviceState = { inUse: 1, draining: 2, lost: 3, removed: 4 } as const;
export type DeviceState = typeof DeviceState[keyof typeof DeviceState];

export interface DeviceRecord {
  readonly device: DeviceId;
  readonly node: NodeId;
  readonly path: string;
  readonly class: string;
  readonly capacityBytes: number;
  readonly state: DeviceState;
  /** When it was last seen whole. */
  readonly seenMs: number;
}

export interface ShardRecord {
  readonly shard: ShardId;
  readonly organisation: OrganisationId;
  readonly createdMs: number;
}

export class SystemRecords {
  readonly #store: TenancyStore;
  readonly #clock: Clock;

  /** @param protoText Text of `proto/kiseki/v1/tenancy.proto`. */
  constructor(shards: ShardPort, clock: Clock, protoText: string) {
    this.#store = new TenancyStore(shards, protoText);
    this.#clock = clock;
  }

  /** The node's number, given at its first registration. @param startCounter Rises every start. */
  async registerNode(name: string, startCounter: number): Promise<NodeRecord> {
    const { node } = await this.#store.execute({
      registerNode: { name, startCounter, registeredMs: this.#now() },
    });
    if (node === undefined) throw new TypeError("a registration without its node");
    return { ...node, node: node.node as NodeId };
  }

  async listNodes(): Promise<readonly NodeRecord[]> {
    return await this.#all(RecordClass.node, (value) => {
      const row = this.#store.messages.nodeRow.decode(value);
      return { ...row, node: row.node as NodeId };
    });
  }

  /** Makes or replaces a pool. @throws KisekiError `common.invalid_argument`. */
  async putPool(pool: Omit<PoolRecord, "createdMs">): Promise<void> {
    const { durability } = pool;
    await this.#store.execute({
      putPool: {
        name: pool.name,
        class: pool.class ?? "",
        devices: pool.devices.map(idToBytes),
        copies: durability.scheme === "copies" ? durability.copies : 0,
        data: durability.scheme === "erasure" ? durability.data : 0,
        parity: durability.scheme === "erasure" ? durability.parity : 0,
        fullPercent: pool.fullPercent,
        createdMs: this.#now(),
      },
    });
  }

  async listPools(): Promise<readonly PoolRecord[]> {
    return await this.#all(RecordClass.pool, (value) => {
      const row = this.#store.messages.poolRow.decode(value);
      return {
        name: row.name,
        ...(row.class === "" ? {} : { class: row.class }),
        devices: row.devices.map((id) => toHex(id) as DeviceId),
        durability: row.copies > 0
          ? { scheme: "copies", copies: row.copies }
          : { scheme: "erasure", data: row.data, parity: row.parity },
        fullPercent: row.fullPercent,
        createdMs: row.createdMs,
      };
    });
  }

  /** @throws KisekiError `common.not_found`. */
  async removePool(name: string): Promise<void> {
    await this.#store.execute({ removeRecord: { class: RecordClass.pool, key: utf8(name) } });
  }

  /** Records a device as it is seen now. */
  async putDevice(device: Omit<DeviceRecord, "seenMs">): Promise<void> {
    await this.#store.execute({
      putDevice: { ...device, device: idToBytes(device.device), seenMs: this.#now() },
    });
  }

  async listDevices(): Promise<readonly DeviceRecord[]> {
    return await this.#all(RecordClass.device, (value) => {
      const row = this.#store.messages.deviceRow.decode(value);
      return {
        ...row,
        device: toHex(row.device) as DeviceId,
        node: row.node as NodeId,
        state: row.state as DeviceState,
      };
    });
  }

  /** @throws KisekiError `common.not_found`. */
  async removeDevice(device: DeviceId): Promise<void> {
    await this.#store.execute({
      removeRecord: { class: RecordClass.device, key: idToBytes(device) },
    });
  }

  /** Shards of organisations; the control shard itself is not among them. */
  async listShards(): Promise<readonly ShardRecord[]> {
    return await this.#all(RecordClass.shard, (value) => {
      const row = this.#store.messages.shardRow.decode(value);
      return {
        shard: row.shard as ShardId,
        organisation: toHex(row.organisation) as OrganisationId,
        createdMs: row.createdMs,
      };
    });
  }

  async #all<T>(recordClass: RecordClass, decode: (value: Uint8Array) => T): Promise<readonly T[]> {
    const out: T[] = [];
    for await (const row of this.#store.all(recordClass, EMPTY_BYTES)) out.push(decode(row.value));
    return out;
  }

  #now(): number {
    return Math.floor(this.#clock.wallMs());
  }
}
