/**
 * What commands of the control shard mean: tenants, the shard map, nodes, pools and devices.
 *
 * Invariants:
 * - a tenant's parent exists and is not closing; a lookup hash belongs to one tenant;
 * - a tenant that still has children is not removed;
 * - shard and node numbers are given once and never again;
 * - inserting the same row again (a retry after a lost answer) changes nothing and succeeds.
 */
import { type Bytes, compareBytes, EMPTY_BYTES, equalBytes, prefixEnd } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import {
  type CommandEvaluator,
  type Evaluation,
  type EvaluationContext,
  EvaluatorTag,
  type QueryContext,
} from "../log/ports.ts";
import type { Mutation, RowReader } from "../table/table.ts";
import {
  CONTROL_ROUTING_KEY,
  Counter,
  loadTenancyMessages,
  LOOKUP_CLASS_OFFSET,
  RecordClass,
  TENANCY_PREFIX_BYTES,
  type TenancyAnswer,
  type TenancyCommand,
  tenancyKey,
  type TenancyMessages,
  type TenancyQuery,
  type TenancyResult,
  TenantClass,
  type TenantRow,
  TenantState,
  ZERO_ID,
} from "./tenancy_rows.ts";
import { fromHex, utf8 } from "../common/bytes.ts";
import { parseName } from "../common/config_values.ts";

/** Largest sealed part of a tenant's row. */
export const MAX_SEALED_BYTES = 8192;
/** Most rows that one scan answers. */
export const MAX_SCAN_ROWS = 1000;
/** Answers of a scan end after this many bytes of values. */
const MAX_SCAN_BYTES = 512 * 1024;
/** The control shard is 1: organisations start behind it. */
const FIRST_TENANT_SHARD = 2;
const FIRST_NODE = 1;

/** Operation numbers in delta headers: part of the format. */
export const TenancyOperation = {
  insert: 65,
  setState: 66,
  remove: 67,
  allocateShard: 68,
  registerNode: 69,
  putPool: 70,
  putDevice: 71,
  removeRecord: 72,
} as const;

const ZERO = fromHex(ZERO_ID);
const CLASS_NAMES: Readonly<Record<number, string>> = {
  1: "organisation",
  2: "project",
  3: "workload",
  4: "credential",
  36: "pool",
  37: "device",
};

interface Outcome {
  readonly mutations: readonly Mutation[];
  readonly result: TenancyResult;
  readonly operation: number;
}

/** The tenancy evaluator. Pure: rows in, mutations out. */
export class TenancyEvaluator implements CommandEvaluator {
  readonly tag = EvaluatorTag.tenancy;
  readonly #messages: TenancyMessages;

  /** @param protoText Text of `proto/kiseki/v1/tenancy.proto`. */
  constructor(protoText: string) {
    this.#messages = loadTenancyMessages(protoText);
  }

  evaluate(context: EvaluationContext, request: Bytes): Evaluation {
    const outcome = this.#dispatch(context.rows, this.#messages.command.decode(request));
    return {
      mutations: outcome.mutations,
      result: this.#messages.result.encode(outcome.result),
      operation: outcome.operation,
      routingKey: CONTROL_ROUTING_KEY,
    };
  }

  query(context: QueryContext, request: Bytes): Bytes {
    const query = this.#messages.query.decode(request);
    return this.#messages.answer.encode(this.#answer(context.rows, query));
  }

  #dispatch(rows: RowReader, command: TenancyCommand): Outcome {
    if (command.insert !== undefined) return this.#insert(rows, command.insert);
    if (command.setState !== undefined) return this.#setState(rows, command.setState);
    if (command.remove !== undefined) return this.#remove(rows, command.remove);
    if (command.allocateShard !== undefined) {
      return this.#allocateShard(rows, command.allocateShard);
    }
    if (command.registerNode !== undefined) return this.#registerNode(rows, command.registerNode);
    if (command.putPool !== undefined) return this.#putPool(command.putPool);
    if (command.putDevice !== undefined) return this.#putDevice(rows, command.putDevice);
    if (command.removeRecord !== undefined) return this.#removeRecord(rows, command.removeRecord);
    throw new KisekiError("common.invalid_argument", "a tenancy command without content");
  }

  #insert(rows: RowReader, command: NonNullable<TenancyCommand["insert"]>): Outcome {
    const { row } = command;
    if (row === undefined) throw invalid("an insert without a row");
    const tenantClass = tenantClassOf(command.class);
    checkTenantRow(tenantClass, row);
    const key = tenancyKey(tenantClass, row.parent, row.id);
    const lookupKey = tenancyKey(tenantClass + LOOKUP_CLASS_OFFSET, row.lookupHash);
    const present = rows.get(lookupKey);
    if (present !== undefined) {
      const lookup = this.#messages.lookupRow.decode(present);
      if (!equalBytes(lookup.id, row.id) || !equalBytes(lookup.parent, row.parent)) {
        throw new KisekiError(
          "common.already_exists",
          `this ${CLASS_NAMES[tenantClass]} exists already`,
        );
      }
      return unchanged(TenancyOperation.insert, { row: this.#tenant(rows, tenantClass, row) });
    }
    this.#checkParent(rows, tenantClass, row);
    return {
      mutations: [
        { key, value: this.#messages.tenantRow.encode(row) },
        {
          key: lookupKey,
          value: this.#messages.lookupRow.encode({ parent: row.parent, id: row.id }),
        },
      ],
      result: { row },
      operation: TenancyOperation.insert,
    };
  }

  /** The parent exists, may have children, and belongs to the organisation that the row names. */
  #checkParent(rows: RowReader, tenantClass: TenantClass, row: TenantRow): void {
    if (tenantClass === TenantClass.organisation) return;
    const grandparent = tenantClass === TenantClass.project
      ? ZERO
      : tenantClass === TenantClass.workload
      ? row.organisation
      : row.project;
    const parent = this.#tenant(rows, tenantClassOf(tenantClass - 1), {
      parent: grandparent,
      id: row.parent,
    });
    if (!equalBytes(parent.organisation, row.organisation)) {
      throw new KisekiError(
        "common.not_found",
        `no such ${CLASS_NAMES[tenantClass - 1]} in this organisation`,
      );
    }
    if (parent.state === TenantState.closing) {
      throw new KisekiError(
        "common.failed_precondition",
        `the ${CLASS_NAMES[tenantClass - 1]} is being deleted`,
      );
    }
  }

  #setState(rows: RowReader, command: NonNullable<TenancyCommand["setState"]>): Outcome {
    const tenantClass = tenantClassOf(command.class);
    checkState(command.state);
    const row = this.#tenant(rows, tenantClass, command);
    if (command.expected.length > 0 && !command.expected.includes(row.state)) {
      throw new KisekiError(
        "common.failed_precondition",
        `the ${CLASS_NAMES[tenantClass]} is in state ${row.state}, not in ${command.expected}`,
      );
    }
    const changed = { ...row, state: command.state };
    return {
      mutations: [{
        key: tenancyKey(tenantClass, row.parent, row.id),
        value: this.#messages.tenantRow.encode(changed),
      }],
      result: { row: changed },
      operation: TenancyOperation.setState,
    };
  }

  #remove(rows: RowReader, command: NonNullable<TenancyCommand["remove"]>): Outcome {
    const tenantClass = tenantClassOf(command.class);
    const row = this.#tenant(rows, tenantClass, command);
    if (tenantClass !== TenantClass.credential) {
      const children = tenancyKey(tenantClass + 1, row.id);
      for (const _ of rows.scan(children, prefixEnd(children))) {
        throw new KisekiError(
          "common.failed_precondition",
          `the ${CLASS_NAMES[tenantClass]} still holds a ${
            CLASS_NAMES[tenantClass + 1]
          }: delete that first`,
        );
      }
    }
    const mutations: Mutation[] = [
      { key: tenancyKey(tenantClass, row.parent, row.id), value: undefined },
      { key: tenancyKey(tenantClass + LOOKUP_CLASS_OFFSET, row.lookupHash), value: undefined },
    ];
    const shards: number[] = [];
    if (tenantClass === TenantClass.organisation) {
      for (const range of this.#ranges(rows, row.id)) {
        mutations.push({ key: range.key, value: undefined });
        if (!shards.includes(range.shard)) shards.push(range.shard);
      }
      for (const shard of shards) {
        mutations.push({ key: tenancyKey(RecordClass.shard, shardKey(shard)), value: undefined });
      }
      if (shards.length > 0) mutations.push(this.#count(rows, Counter.mapVersion, 1).mutation);
    }
    return { mutations, result: { row, shards }, operation: TenancyOperation.remove };
  }

  #allocateShard(rows: RowReader, command: NonNullable<TenancyCommand["allocateShard"]>): Outcome {
    const { organisation } = command;
    this.#tenant(rows, TenantClass.organisation, { parent: ZERO, id: organisation });
    const ranges = this.#ranges(rows, organisation);
    if (ranges.length > 0) {
      const shards = [...new Set(ranges.map((range) => range.shard))];
      return unchanged(TenancyOperation.allocateShard, { shards });
    }
    const next = this.#count(rows, Counter.nextShard, FIRST_TENANT_SHARD);
    const shard = next.value;
    return {
      mutations: [
        next.mutation,
        this.#count(rows, Counter.mapVersion, 1).mutation,
        {
          key: tenancyKey(RecordClass.shard, shardKey(shard)),
          value: this.#messages.shardRow.encode({
            shard,
            organisation,
            createdMs: command.createdMs,
          }),
        },
        {
          key: tenancyKey(RecordClass.range, organisation, new Uint8Array(8)),
          value: this.#messages.rangeRow.encode({ shard, end: EMPTY_BYTES }),
        },
      ],
      result: { shards: [shard] },
      operation: TenancyOperation.allocateShard,
    };
  }

  /** A node's number for its name. A start counter that went back marks the node. */
  #registerNode(rows: RowReader, command: NonNullable<TenancyCommand["registerNode"]>): Outcome {
    checkName(command.name, "node");
    const key = tenancyKey(RecordClass.node, utf8(command.name));
    const present = rows.get(key);
    const mutations: Mutation[] = [];
    let node: number;
    let regressed = false;
    if (present === undefined) {
      const next = this.#count(rows, Counter.nextNode, FIRST_NODE);
      node = next.value;
      mutations.push(next.mutation);
    } else {
      const before = this.#messages.nodeRow.decode(present);
      node = before.node;
      regressed = before.regressed || command.startCounter <= before.startCounter;
    }
    const row = {
      node,
      name: command.name,
      startCounter: command.startCounter,
      registeredMs: command.registeredMs,
      regressed,
    };
    mutations.push({ key, value: this.#messages.nodeRow.encode(row) });
    return { mutations, result: { node: row }, operation: TenancyOperation.registerNode };
  }

  #putPool(row: NonNullable<TenancyCommand["putPool"]>): Outcome {
    checkName(row.name, "pool");
    const copies = row.copies >= 1 && row.copies <= 5 && row.data === 0 && row.parity === 0;
    const erasure = row.copies === 0 && row.data >= 2 && row.data <= 16 && row.parity >= 1 &&
      row.parity <= 8;
    if (!copies && !erasure) {
      throw invalid("a pool keeps 1 to 5 copies, or 2 to 16 data and 1 to 8 parity fragments");
    }
    if (row.fullPercent < 50 || row.fullPercent > 99) {
      throw invalid(`full_percent is 50 to 99, found ${row.fullPercent}`);
    }
    if (row.devices.length > 1024 || row.devices.some((id) => id.length !== 16)) {
      throw invalid("a pool's devices are ids of 16 bytes, at most 1024");
    }
    return {
      mutations: [{
        key: tenancyKey(RecordClass.pool, utf8(row.name)),
        value: this.#messages.poolRow.encode(row),
      }],
      result: {},
      operation: TenancyOperation.putPool,
    };
  }

  #putDevice(_rows: RowReader, row: NonNullable<TenancyCommand["putDevice"]>): Outcome {
    checkId(row.device, "device");
    checkName(row.class, "device class");
    if (row.state < 1 || row.state > 4) throw invalid(`device state ${row.state}`);
    if (row.path.length > 4096) throw invalid("a device path is at most 4096 characters");
    return {
      mutations: [{
        key: tenancyKey(RecordClass.device, row.device),
        value: this.#messages.deviceRow.encode(row),
      }],
      result: {},
      operation: TenancyOperation.putDevice,
    };
  }

  #removeRecord(rows: RowReader, command: NonNullable<TenancyCommand["removeRecord"]>): Outcome {
    if (command.class !== RecordClass.pool && command.class !== RecordClass.device) {
      throw invalid(`records of class ${command.class} are not removed this way`);
    }
    const key = tenancyKey(command.class, command.key.subarray(0, 64));
    if (rows.get(key) === undefined) {
      throw new KisekiError("common.not_found", `no such ${CLASS_NAMES[command.class]}`);
    }
    return {
      mutations: [{ key, value: undefined }],
      result: {},
      operation: TenancyOperation.removeRecord,
    };
  }

  #tenant(
    rows: RowReader,
    tenantClass: TenantClass,
    at: { readonly parent: Bytes; readonly id: Bytes },
  ): TenantRow {
    checkId(at.parent, "parent");
    checkId(at.id, "tenant");
    const value = rows.get(tenancyKey(tenantClass, at.parent, at.id));
    if (value === undefined) {
      throw new KisekiError("common.not_found", `no such ${CLASS_NAMES[tenantClass]}`);
    }
    return this.#messages.tenantRow.decode(value);
  }

  #ranges(
    rows: RowReader,
    organisation: Bytes,
  ): { readonly key: Bytes; readonly shard: number }[] {
    const prefix = tenancyKey(RecordClass.range, organisation);
    const out = [];
    for (const row of rows.scan(prefix, prefixEnd(prefix))) {
      out.push({
        key: row.key.slice(),
        shard: this.#messages.rangeRow.decode(row.value.slice()).shard,
      });
    }
    return out;
  }

  /** The value of a counter and the mutation that moves it on. */
  #count(rows: RowReader, counter: Counter, first: number): { value: number; mutation: Mutation } {
    const key = tenancyKey(RecordClass.counter, Uint8Array.of(counter));
    const present = rows.get(key);
    const value = present === undefined ? first : this.#messages.counterRow.decode(present).value;
    return {
      value,
      mutation: { key, value: this.#messages.counterRow.encode({ value: value + 1 }) },
    };
  }

  #answer(rows: RowReader, query: TenancyQuery): TenancyAnswer {
    if (query.find !== undefined) return this.#find(rows, query.find);
    if (query.get !== undefined) {
      const key = tenancyKey(recordClassOf(query.get.class), query.get.key.subarray(0, 64));
      const value = rows.get(key);
      return value === undefined ? NONE : {
        rows: [{ key: query.get.key, value }],
        more: false,
      };
    }
    if (query.scan !== undefined) return scan(rows, query.scan);
    throw invalid("a tenancy query without content");
  }

  #find(rows: RowReader, find: NonNullable<TenancyQuery["find"]>): TenancyAnswer {
    const tenantClass = tenantClassOf(find.class);
    if (find.lookupHash.length !== 32) throw invalid("a lookup hash has 32 bytes");
    const found = rows.get(tenancyKey(tenantClass + LOOKUP_CLASS_OFFSET, find.lookupHash));
    if (found === undefined) return NONE;
    const { parent, id } = this.#messages.lookupRow.decode(found);
    const key = tenancyKey(tenantClass, parent, id);
    const value = rows.get(key);
    if (value === undefined) {
      throw new KisekiError("table.corrupt", `a ${CLASS_NAMES[tenantClass]} has a name but no row`);
    }
    return { rows: [{ key: key.subarray(TENANCY_PREFIX_BYTES), value }], more: false };
  }
}

const NONE: TenancyAnswer = { rows: [], more: false };

function scan(rows: RowReader, request: NonNullable<TenancyQuery["scan"]>): TenancyAnswer {
  const recordClass = recordClassOf(request.class);
  const limit = Math.min(Math.max(1, request.limit), MAX_SCAN_ROWS);
  if (request.prefix.length > 64 || request.after.length > 64) throw invalid("a key over 64 bytes");
  const prefix = tenancyKey(recordClass, request.prefix);
  // The next key after `after` is `after` with a zero byte.
  const after = request.after.length === 0
    ? prefix
    : tenancyKey(recordClass, request.after, Uint8Array.of(0));
  const from = compareBytes(after, prefix) > 0 ? after : prefix;
  const out: { key: Bytes; value: Bytes }[] = [];
  let size = 0;
  for (const row of rows.scan(from, prefixEnd(prefix))) {
    if (out.length === limit || size > MAX_SCAN_BYTES) return { rows: out, more: true };
    out.push({ key: row.key.slice(TENANCY_PREFIX_BYTES), value: row.value.slice() });
    size += row.value.length;
  }
  return { rows: out, more: false };
}

function unchanged(operation: number, result: TenancyResult): Outcome {
  return { mutations: [], result, operation };
}

/** Key of a shard's row. */
export function shardKey(shard: number): Bytes {
  const key = new Uint8Array(8);
  new DataView(key.buffer).setBigUint64(0, BigInt(shard));
  return key;
}

function invalid(message: string): KisekiError {
  return new KisekiError("common.invalid_argument", message);
}

function tenantClassOf(value: number): TenantClass {
  if (value === 1 || value === 2 || value === 3 || value === 4) return value;
  throw invalid(`no tenant class ${value}`);
}

function recordClassOf(value: number): number {
  if (Object.values(RecordClass).some((known) => known === value)) return value;
  throw invalid(`no record class ${value}`);
}

function checkState(state: number): void {
  if (state < TenantState.creating || state > TenantState.closing) throw invalid(`state ${state}`);
}

function checkId(id: Bytes, what: string): void {
  if (id.length !== 16) throw invalid(`${what}: an id has 16 bytes, found ${id.length}`);
}

function checkName(name: string, what: string): void {
  if (parseName(name) === undefined) throw invalid(`not a ${what} name: ${name.slice(0, 80)}`);
}

function checkTenantRow(tenantClass: TenantClass, row: TenantRow): void {
  checkId(row.organisation, "organisation");
  checkId(row.parent, "parent");
  checkId(row.id, "tenant");
  checkState(row.state);
  if (row.lookupHash.length !== 32) throw invalid("a lookup hash has 32 bytes");
  if (row.sealed.length === 0 || row.sealed.length > MAX_SEALED_BYTES) {
    throw invalid(`a sealed record has 1 to ${MAX_SEALED_BYTES} bytes, found ${row.sealed.length}`);
  }
  const projectBytes = tenantClass === TenantClass.credential ? 16 : 0;
  if (row.project.length !== projectBytes) throw invalid("only a credential names its project");
  if (tenantClass === TenantClass.organisation) {
    if (!equalBytes(row.parent, ZERO) || !equalBytes(row.id, row.organisation)) {
      throw invalid("an organisation stands below nothing and is its own");
    }
    if (equalBytes(row.id, ZERO)) throw invalid("the zero id is the system's own");
  }
  if (tenantClass === TenantClass.project && !equalBytes(row.parent, row.organisation)) {
    throw invalid("a project stands below its organisation");
  }
}
