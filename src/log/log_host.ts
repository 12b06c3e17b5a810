/**
 * All shards of one isolate: opens their tables, runs their groups, folds what grows, and lets the
 * write-ahead log forget.
 *
 * Invariants: a shard answers only once its group leads and the log before is applied; at most one
 * fold and one merge of a shard run at a time, side by side; an idle shard with rows in memory is folded after a
 * while, so that it pins no old segment.
 */
import type { Bytes } from "../common/bytes.ts";
import { type Clock, HybridClock } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import type { OrganisationId, ShardId } from "../common/ids.ts";
import type { Logger } from "../common/logging.ts";
import type { TenantKeys } from "../crypto/sealer.ts";
import type { RaftGroup, StateMachine } from "../raft/ports.ts";
import type { Table } from "../table/table.ts";
import type { CommandEvaluator, ShardPort } from "./ports.ts";
import { Shard } from "./shard.ts";

/** How often shards are looked at for folding. */
const MAINTENANCE_INTERVAL_MS = 5_000;
/** Rows in memory of a shard without changes for this long are folded. */
const IDLE_FOLD_MS = 60_000;

export interface LogHostOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly evaluators: readonly CommandEvaluator[];
  /** Opens the table of a shard under its own directory. */
  openTable(shard: ShardId, organisation: OrganisationId, keys: TenantKeys): Promise<Table>;
  /** Starts or resumes the group of a shard over the isolate's write-ahead log. */
  startGroup(shard: ShardId, stateMachine: StateMachine): Promise<RaftGroup>;
}

export interface ShardStatus {
  readonly shard: ShardId;
  readonly organisation: OrganisationId;
  readonly leading: boolean;
  readonly term: number;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  readonly sequence: number;
  readonly rowsInMemory: number;
  readonly memoryBytes: number;
  readonly runs: number;
  readonly runBytes: number;
  /** Why the last fold or merge failed, until one succeeds. */
  readonly maintenanceError: string | undefined;
}

interface Hosted {
  readonly shard: Shard;
  readonly group: RaftGroup;
  /** The running fold. */
  maintenance: Promise<void> | undefined;
  /** The running merge. */
  compaction: Promise<void> | undefined;
  maintenanceError: string | undefined;
  lastSequence: number;
  lastChangeMs: number;
}

export class LogHost implements ShardPort {
  readonly #options: LogHostOptions;
  readonly #hybridClock: HybridClock;
  readonly #shards = new Map<ShardId, Hosted>();
  readonly #opening = new Map<ShardId, Promise<Shard>>();
  #stopTimer: () => void;
  #closed = false;

  constructor(options: LogHostOptions) {
    this.#options = options;
    this.#hybridClock = new HybridClock(options.clock);
    this.#stopTimer = options.clock.after(MAINTENANCE_INTERVAL_MS, () => this.#tick());
  }

  /** Opens a shard and waits until it serves. Idempotent. */
  open(shard: ShardId, organisation: OrganisationId, keys: TenantKeys): Promise<Shard> {
    const there = this.#shards.get(shard);
    if (there !== undefined) return Promise.resolve(there.shard);
    let opening = this.#opening.get(shard);
    if (opening === undefined) {
      opening = this.#open(shard, organisation, keys).finally(() => this.#opening.delete(shard));
      this.#opening.set(shard, opening);
    }
    return opening;
  }

  execute(shard: ShardId, request: Bytes): Promise<Bytes> {
    return this.#hosted(shard).shard.execute(request);
  }

  query(shard: ShardId, request: Bytes): Promise<Bytes> {
    return this.#hosted(shard).shard.query(request);
  }

  status(): readonly ShardStatus[] {
    return [...this.#shards.values()].map(({ shard, group, maintenanceError }) => {
      const table = shard.table.statistics();
      return {
        shard: shard.shard,
        organisation: shard.organisation,
        leading: group.isLeader,
        term: group.term,
        commitIndex: group.commitIndex,
        appliedIndex: shard.appliedIndex,
        sequence: shard.sequence,
        rowsInMemory: table.rowsInMemory,
        memoryBytes: table.memoryBytes,
        runs: table.runs,
        runBytes: table.runBytes,
        maintenanceError,
      };
    });
  }

  /** Folds every shard that has rows in memory: before a planned stop, so that the start is quick. */
  async foldAll(): Promise<void> {
    for (const hosted of this.#shards.values()) {
      await hosted.maintenance;
      if (hosted.shard.table.statistics().rowsInMemory > 0) this.#maintain(hosted);
      await hosted.maintenance;
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#stopTimer();
    await Promise.allSettled(this.#opening.values());
    for (const hosted of this.#shards.values()) {
      await hosted.maintenance;
      await hosted.shard.close();
      await hosted.compaction;
    }
    this.#shards.clear();
  }

  async #open(shard: ShardId, organisation: OrganisationId, keys: TenantKeys): Promise<Shard> {
    const table = await this.#options.openTable(shard, organisation, keys);
    const machine = new Shard({
      shard,
      organisation,
      table,
      keys,
      evaluators: this.#options.evaluators,
      clock: this.#hybridClock,
      logger: this.#options.logger,
      onWantsFold: () => {
        const hosted = this.#shards.get(shard);
        if (hosted !== undefined) this.#maintain(hosted);
      },
    });
    const group = await this.#options.startGroup(shard, machine);
    machine.attach(group);
    this.#shards.set(shard, {
      shard: machine,
      group,
      maintenance: undefined,
      compaction: undefined,
      maintenanceError: undefined,
      lastSequence: machine.sequence,
      lastChangeMs: this.#options.clock.monotonicMs(),
    });
    return machine;
  }

  #hosted(shard: ShardId): Hosted {
    const hosted = this.#shards.get(shard);
    if (hosted === undefined) {
      throw new KisekiError("log.no_shard", `shard ${shard} is not on this node`, {
        retriable: true,
      });
    }
    return hosted;
  }

  #maintain(hosted: Hosted): void {
    if (hosted.maintenance !== undefined || this.#closed) return;
    const { shard } = hosted;
    hosted.maintenance = shard.fold().then(() => {
      hosted.maintenanceError = undefined;
      this.#compact(hosted);
    }).catch((error: unknown) => this.#failed(hosted, "fold failed", error)).finally(() => {
      hosted.maintenance = undefined;
      if (shard.table.wantsFold && hosted.maintenanceError === undefined) this.#maintain(hosted);
    });
  }

  /** Merges beside folds: a long merge holds up no fold. */
  #compact(hosted: Hosted): void {
    if (hosted.compaction !== undefined || this.#closed) return;
    hosted.compaction = hosted.shard.table.compact()
      .catch((error: unknown) => this.#failed(hosted, "merge failed", error))
      .finally(() => {
        hosted.compaction = undefined;
      });
  }

  #failed(hosted: Hosted, event: string, error: unknown): void {
    if (this.#closed) return;
    hosted.maintenanceError = error instanceof Error ? error.message : String(error);
    this.#options.logger.error(event, {
      shard: hosted.shard.shard,
      error: hosted.maintenanceError,
    });
  }

  #tick(): void {
    if (this.#closed) return;
    const now = this.#options.clock.monotonicMs();
    for (const hosted of this.#shards.values()) {
      const { shard } = hosted;
      if (shard.sequence !== hosted.lastSequence) {
        hosted.lastSequence = shard.sequence;
        hosted.lastChangeMs = now;
      }
      const idle = now - hosted.lastChangeMs >= IDLE_FOLD_MS &&
        shard.table.statistics().rowsInMemory > 0;
      if (shard.table.wantsFold || idle) this.#maintain(hosted);
    }
    this.#stopTimer = this.#options.clock.after(MAINTENANCE_INTERVAL_MS, () => this.#tick());
  }
}
