/**
 * Runs many groups over one write-ahead log on one isolate.
 *
 * Each turn of the event loop, the groups with news hand out what is to be written; all of it goes
 * into one append. When it is durable, held messages leave, commit indexes move, entries are
 * applied and tickets resolve. Nothing is applied or acknowledged before it is durable here.
 *
 * A failed log stops every group for good (`raft.stopped`); a state machine that throws stops its
 * own group.
 */
import { type Clock, SYSTEM_CLOCK } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import type { NodeId, ShardId } from "../common/ids.ts";
import type { Logger } from "../common/logging.ts";
import type { Ready } from "./core/ready.ts";
import { GroupRunner } from "./group.ts";
import type { LogRecord, RaftGroup, StateMachine } from "./ports.ts";
import { RecoveredGroups } from "./recovered_groups.ts";
import type { RaftTransport } from "./transport.ts";
import type { SegmentedLog } from "./wal.ts";

const DEFAULT_CACHE_BYTES = 8 * 1024 * 1024;
const DEFAULT_TICK_MS = 100;

/** How to open a host. */
export interface RaftHostOptions {
  /** Opened, not yet replayed; the caller closes it after the host. */
  readonly wal: SegmentedLog;
  readonly logger: Logger;
  readonly clock?: Clock;
  /** Needed by groups with more than one member. */
  readonly transport?: RaftTransport;
  /** Data of applied entries kept in memory for followers, all groups together. Default 8 MiB. */
  readonly cacheBytes?: number;
  /** One tick of groups with peers. Default 100 ms: elections after 1 to 2 s. */
  readonly tickMs?: number;
  /** Numbers in [0, 1) for election timeouts. */
  readonly random?: () => number;
}

/** What makes a group. */
export interface GroupOptions {
  readonly shard: ShardId;
  readonly nodeId: NodeId;
  /** Voters as of the state machine's snapshot; at first, the founding members. */
  readonly voters: readonly NodeId[];
  readonly stateMachine: StateMachine;
}

/** The groups of one isolate. */
export interface RaftHost {
  /**
   * Starts a group with what the log has of it. A group of one resolves when this node leads it
   * and everything that was in its log is applied; one with peers when what it knows to be
   * committed is applied.
   *
   * @throws KisekiError `common.already_exists`, `log.torn`, `raft.stopped`.
   */
  createGroup(options: GroupOptions): Promise<RaftGroup>;
  group(shard: ShardId): RaftGroup | undefined;
  /** Ends all groups: waits for writes under way, rejects what is not committed. */
  close(): Promise<void>;
}

/**
 * Replays the log and opens a host over it.
 *
 * @throws KisekiError `log.torn`, `block.io`.
 */
export async function openRaftHost(options: RaftHostOptions): Promise<RaftHost> {
  const recovered = new RecoveredGroups(options.cacheBytes ?? DEFAULT_CACHE_BYTES);
  await options.wal.replay((record) => recovered.visit(record));
  return new Host(options, recovered);
}

class Host implements RaftHost {
  readonly #o: RaftHostOptions;
  readonly #clock: Clock;
  readonly #recovered: RecoveredGroups;
  readonly #groups = new Map<ShardId, GroupRunner>();
  readonly #cacheBytes: number;
  #memoryBytes = 0;
  #dirty = new Set<GroupRunner>();
  #flushQueued = false;
  #lastWrite: Promise<void> = Promise.resolve();
  #cancelTick: (() => void) | undefined;
  #closed = false;

  constructor(options: RaftHostOptions, recovered: RecoveredGroups) {
    this.#o = options;
    this.#clock = options.clock ?? SYSTEM_CLOCK;
    this.#recovered = recovered;
    this.#cacheBytes = options.cacheBytes ?? DEFAULT_CACHE_BYTES;
    options.transport?.onMessage((shard, message) => this.#groups.get(shard)?.receive(message));
  }

  async createGroup(options: GroupOptions): Promise<RaftGroup> {
    const { shard } = options;
    if (this.#closed) throw new KisekiError("raft.stopped", "the host is closed");
    if (this.#groups.has(shard)) {
      throw new KisekiError("common.already_exists", `shard ${shard} runs here already`);
    }
    if (options.voters.length > 1 && this.#o.transport === undefined) {
      throw new KisekiError(
        "common.failed_precondition",
        `shard ${shard} has ${options.voters.length} voters, but this host has no transport`,
      );
    }
    const group = new GroupRunner(options, this.#recovered.take(shard), {
      logger: this.#o.logger.with({ shard }),
      random: this.#o.random ?? Math.random,
      wal: this.#o.wal,
      wake: (runner) => this.#wake(runner),
      compact: (record, index) => this.#compact(group, record, index),
      memoryChanged: (bytes) => this.#memoryChanged(group, bytes),
    });
    this.#groups.set(shard, group);
    try {
      await group.start();
    } catch (error) {
      this.#groups.delete(shard);
      throw error;
    }
    if (group.hasPeers) this.#armTick();
    return group;
  }

  group(shard: ShardId): RaftGroup | undefined {
    return this.#groups.get(shard);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelTick?.();
    this.#cancelTick = undefined;
    while (this.#flushQueued || this.#dirty.size > 0) await Promise.resolve();
    await this.#lastWrite;
    for (const group of this.#groups.values()) {
      group.stop(new KisekiError("raft.stopped", "the node is stopping", { retriable: true }));
    }
    this.#groups.clear();
  }

  #wake(group: GroupRunner): void {
    this.#dirty.add(group);
    if (this.#flushQueued) return;
    this.#flushQueued = true;
    queueMicrotask(() => this.#flush());
  }

  /** Hands what all dirty groups have to the log, as one append. */
  #flush(): void {
    this.#flushQueued = false;
    const groups = this.#dirty;
    this.#dirty = new Set();
    const records: LogRecord[] = [];
    const taken: { readonly group: GroupRunner; readonly ready: Ready }[] = [];
    for (const group of groups) {
      const ready = group.takeReady();
      if (ready === undefined) continue;
      taken.push({ group, ready });
      for (const message of ready.messages) this.#o.transport?.send(group.shard, message);
      group.recordsOf(ready, records);
    }
    if (taken.length === 0) return;
    // An append of nothing still waits its turn: what it promises rests on earlier writes.
    const before = this.#lastWrite;
    const write = records.length > 0 ? this.#o.wal.append(records) : before;
    this.#lastWrite = write.then(
      () => this.#written(taken),
      (error) => this.#stopAll(error),
    );
  }

  #written(taken: readonly { readonly group: GroupRunner; readonly ready: Ready }[]): void {
    for (const { group, ready } of taken) {
      for (const message of ready.afterPersist) {
        if (message.to !== group.nodeId) this.#o.transport?.send(group.shard, message);
      }
      group.durable(ready);
    }
  }

  #stopAll(cause: unknown): void {
    const message = cause instanceof Error ? cause.message : String(cause);
    const error = new KisekiError("raft.stopped", `the log failed: ${message}`, { cause });
    for (const group of this.#groups.values()) group.stop(error);
  }

  #compact(group: GroupRunner, record: LogRecord, index: number): void {
    this.#o.wal.append([record]).then(
      () => this.#o.wal.release(group.shard, index),
      (error) => this.#stopAll(error),
    );
  }

  /** Keeps the entries in memory within the budget; `group` has just changed by `bytes`. */
  #memoryChanged(group: GroupRunner, bytes: number): void {
    this.#memoryBytes += bytes;
    const over = this.#memoryBytes - this.#cacheBytes;
    if (over > 0) this.#memoryBytes -= group.evict(over);
  }

  #armTick(): void {
    if (this.#cancelTick !== undefined || this.#closed) return;
    this.#cancelTick = this.#clock.after(this.#o.tickMs ?? DEFAULT_TICK_MS, () => {
      this.#cancelTick = undefined;
      for (const group of this.#groups.values()) if (group.hasPeers) group.tick();
      this.#armTick();
    });
  }
}
