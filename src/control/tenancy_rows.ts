/**
 * Rows of the control shard: their keys, and the messages that are their values.
 *
 * Key = `rowKey(0, zero, RecordType.tenancy, class, key of the class)`:
 *
 * | class           | key of the class                              | value      |
 * |-----------------|-----------------------------------------------|------------|
 * |  1 organisation | zero (16), organisation id (16)               | TenantRow  |
 * |  2 project      | organisation id (16), project id (16)         | TenantRow  |
 * |  3 workload     | project id (16), workload id (16)             | TenantRow  |
 * |  4 credential   | workload id (16), credential id (16)          | TenantRow  |
 * | 17 to 20 lookup | keyed hash (32) of the name of class 1 to 4   | LookupRow  |
 * | 32 shard        | shard number (8, big-endian)                  | ShardRow   |
 * | 33 range        | organisation id (16), start of the range (8)  | RangeRow   |
 * | 34 counter      | 1 next shard, 2 map version, 3 next node (1)  | CounterRow |
 * | 35 node         | name, UTF-8 (1 to 63)                         | NodeRow    |
 * | 36 pool         | name, UTF-8 (1 to 63)                         | PoolRow    |
 * | 37 device       | device id (16)                                | DeviceRow  |
 *
 * Keyed hashes: organisations and credentials under the system's name-hash key, over
 * "organisation" 00 name and "credential" 00 access key id; projects and workloads under the
 * tenant's, over "project" 00 organisation id name and "workload" 00 project id name.
 *
 * The numbers are part of the format: never renumber, never reuse.
 */
import protobuf from "protobufjs";
import { type Bytes, concatBytes, utf8 } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { idToBytes } from "../common/ids.ts";
import { RecordType, ROUTING_KEY_BYTES, rowKey } from "../log/row_key.ts";

/** Classes of tenants, each the parent of the next. */
export const TenantClass = { organisation: 1, project: 2, workload: 3, credential: 4 } as const;
export type TenantClass = typeof TenantClass[keyof typeof TenantClass];

export const RecordClass = {
  ...TenantClass,
  shard: 32,
  range: 33,
  counter: 34,
  node: 35,
  pool: 36,
  device: 37,
} as const;
export type RecordClass = typeof RecordClass[keyof typeof RecordClass];

/** A lookup row's class is that of its tenant plus this. */
export const LOOKUP_CLASS_OFFSET = 16;

export const TenantState = { creating: 1, active: 2, disabled: 3, closing: 4 } as const;
export type TenantState = typeof TenantState[keyof typeof TenantState];

export const Counter = { nextShard: 1, mapVersion: 2, nextNode: 3 } as const;
export type Counter = typeof Counter[keyof typeof Counter];

export const ZERO_ID = "0".repeat(32);
export const CONTROL_ROUTING_KEY: Bytes = new Uint8Array(ROUTING_KEY_BYTES);

/** Key of a row of the control shard. */
export function tenancyKey(recordClass: number, ...suffix: readonly Bytes[]): Bytes {
  return rowKey(
    CONTROL_ROUTING_KEY,
    ZERO_ID,
    RecordType.tenancy,
    Uint8Array.of(recordClass),
    ...suffix,
  );
}

/** Bytes of a row's key before the key of its class. */
export const TENANCY_PREFIX_BYTES: number = tenancyKey(1).length;

/** What a tenant's name is hashed from; see the module's comment for the key. */
export function lookupName(tenantClass: TenantClass, parent: string, name: string): Bytes {
  switch (tenantClass) {
    case TenantClass.organisation:
      return concatBytes(utf8("organisation\0"), utf8(name));
    case TenantClass.project:
      return concatBytes(utf8("project\0"), idToBytes(parent), utf8(name));
    case TenantClass.workload:
      return concatBytes(utf8("workload\0"), idToBytes(parent), utf8(name));
    case TenantClass.credential:
      return concatBytes(utf8("credential\0"), utf8(name));
  }
}

export interface TenantRow {
  readonly organisation: Bytes;
  readonly parent: Bytes;
  readonly id: Bytes;
  readonly state: number;
  readonly createdMs: number;
  readonly lookupHash: Bytes;
  readonly sealed: Bytes;
  readonly project: Bytes;
}
export interface TenantSecret {
  readonly name: string;
  readonly secret: string;
  readonly comment: string;
}
export interface LookupRow {
  readonly parent: Bytes;
  readonly id: Bytes;
}
export interface ShardRow {
  readonly shard: number;
  readonly organisation: Bytes;
  readonly createdMs: number;
}
export interface RangeRow {
  readonly shard: number;
  readonly end: Bytes;
}
export interface CounterRow {
  readonly value: number;
}
export interface NodeRow {
  readonly node: number;
  readonly name: string;
  readonly startCounter: number;
  readonly registeredMs: number;
  readonly regressed: boolean;
}
export interface PoolRow {
  readonly name: string;
  readonly class: string;
  readonly devices: readonly Bytes[];
  readonly copies: number;
  readonly data: number;
  readonly parity: number;
  readonly fullPercent: number;
  readonly createdMs: number;
}
export interface DeviceRow {
  readonly device: Bytes;
  readonly node: number;
  readonly path: string;
  readonly class: string;
  readonly capacityBytes: number;
  readonly state: number;
  readonly seenMs: number;
}

export interface TenancyCommand {
  readonly insert?: { readonly class: number; readonly row?: TenantRow };
  readonly setState?: {
    readonly class: number;
    readonly parent: Bytes;
    readonly id: Bytes;
    readonly state: number;
    readonly expected: readonly number[];
  };
  readonly remove?: { readonly class: number; readonly parent: Bytes; readonly id: Bytes };
  readonly allocateShard?: { readonly organisation: Bytes; readonly createdMs: number };
  readonly registerNode?: {
    readonly name: string;
    readonly startCounter: number;
    readonly registeredMs: number;
  };
  readonly putPool?: PoolRow;
  readonly putDevice?: DeviceRow;
  readonly removeRecord?: { readonly class: number; readonly key: Bytes };
}
export interface TenancyResult {
  readonly row?: TenantRow;
  readonly shards?: readonly number[];
  readonly node?: NodeRow;
}
export interface TenancyQuery {
  readonly find?: { readonly class: number; readonly lookupHash: Bytes };
  readonly get?: { readonly class: number; readonly key: Bytes };
  readonly scan?: {
    readonly class: number;
    readonly prefix: Bytes;
    readonly after: Bytes;
    readonly limit: number;
  };
}
export interface TenancyAnswer {
  readonly rows: readonly { readonly key: Bytes; readonly value: Bytes }[];
  readonly more: boolean;
}

/** Encoder and decoder of one message. */
export interface Codec<T> {
  encode(message: T): Bytes;
  /** @throws KisekiError `common.corrupt_format`. */
  decode(bytes: Bytes): T;
}

/** All messages of `proto/kiseki/v1/tenancy.proto`. */
export interface TenancyMessages {
  readonly tenantRow: Codec<TenantRow>;
  readonly tenantSecret: Codec<TenantSecret>;
  readonly lookupRow: Codec<LookupRow>;
  readonly shardRow: Codec<ShardRow>;
  readonly rangeRow: Codec<RangeRow>;
  readonly counterRow: Codec<CounterRow>;
  readonly nodeRow: Codec<NodeRow>;
  readonly poolRow: Codec<PoolRow>;
  readonly deviceRow: Codec<DeviceRow>;
  readonly command: Codec<TenancyCommand>;
  readonly result: Codec<TenancyResult>;
  readonly query: Codec<TenancyQuery>;
  readonly answer: Codec<TenancyAnswer>;
}

/** Makes the codecs from the text of `proto/kiseki/v1/tenancy.proto`. */
export function loadTenancyMessages(protoText: string): TenancyMessages {
  const root = protobuf.parse(protoText, { keepCase: false }).root;
  const codec = <T extends object>(name: string): Codec<T> =>
    protobufCodec<T>(root.lookupType(`kiseki.v1.${name}`));
  return {
    tenantRow: codec("TenantRow"),
    tenantSecret: codec("TenantSecret"),
    lookupRow: codec("LookupRow"),
    shardRow: codec("ShardRow"),
    rangeRow: codec("RangeRow"),
    counterRow: codec("CounterRow"),
    nodeRow: codec("NodeRow"),
    poolRow: codec("PoolRow"),
    deviceRow: codec("DeviceRow"),
    command: codec("TenancyCommand"),
    result: codec("TenancyResult"),
    query: codec("TenancyQuery"),
    answer: codec("TenancyAnswer"),
  };
}

/** A codec over a reflected message. Absent scalars decode as their defaults. */
export function protobufCodec<T extends object>(type: protobuf.Type): Codec<T> {
  return {
    encode: (message) => new Uint8Array(type.encode(type.fromObject(message)).finish()),
    decode(bytes) {
      try {
        // A copy: bytes fields alias what they were read from, and rows are views.
        const message = type.decode(bytes.slice());
        return withoutNulls(type.toObject(message, { defaults: true, longs: Number })) as T;
      } catch (cause) {
        const reason = cause instanceof Error ? cause.message : String(cause);
        throw new KisekiError("common.corrupt_format", `${type.name}: ${reason}`, { cause });
      }
    },
  };
}

/** Absent messages come as null from protobufjs: here they are absent. */
function withoutNulls(message: Record<string, unknown>): Record<string, unknown> {
  for (const [name, value] of Object.entries(message)) {
    if (value === null) delete message[name];
    else if (typeof value === "object" && !ArrayBuffer.isView(value) && !Array.isArray(value)) {
      withoutNulls(value as Record<string, unknown>);
    }
  }
  return message;
}
