/**
 * Ports of the consensus host: what it asks of the disk, of its peers and of the state machine.
 *
 * `src/raft/core` is pure; the host (`host.ts`) drives many groups over one write-ahead log.
 */
import type { Bytes } from "../common/bytes.ts";
import type { NodeId, ShardId } from "../common/ids.ts";

/** Kinds of log entries. */
export const EntryKind = {
  /** Empty, or a leader's first entry of its term; `data` is the state machine's own (a log key). */
  termStart: 0,
  /** A sealed delta. */
  normal: 1,
  /** A membership change (protobuf-free fixed encoding, see core). */
  configuration: 2,
} as const;
export type EntryKind = typeof EntryKind[keyof typeof EntryKind];

/** One log entry. `data` is at most 1 MiB + 64 KiB and is never changed after it was proposed. */
export interface Entry {
  readonly index: number;
  readonly term: number;
  readonly kind: EntryKind;
  readonly data: Bytes;
}

/** What must survive a crash beside the entries (Raft paper, figure 2). */
export interface HardState {
  readonly term: number;
  /** 0 = none. */
  readonly vote: NodeId;
  readonly commit: number;
}

/** The state machine of one group: implemented by `src/log`. */
export interface StateMachine {
  /** Applied index found at start; entries up to it are never applied again. */
  readonly appliedIndex: number;
  /** Called in log order, once, for each committed entry. Synchronous: memory only. */
  apply(entry: Entry): void;
  /**
   * This node became leader in `term`: gives the data of the term's first entry (a fresh wrapped
   * log key). Called before any proposal of the term is accepted.
   */
  becomeLeader(term: number): Bytes;
  /** Leadership ended: in-flight evaluations are dropped. */
  loseLeadership(): void;
}

/** What the host offers to the shard above it. */
export interface RaftGroup {
  readonly shard: ShardId;
  readonly isLeader: boolean;
  readonly leader: NodeId | undefined;
  readonly term: number;
  readonly commitIndex: number;
  readonly lastIndex: number;
  /**
   * Appends one entry. Synchronous acceptance: the index it will have in this term.
   *
   * @throws KisekiError `raft.not_leader` (details.leader), `raft.stopped`.
   */
  propose(data: Bytes): ProposalTicket;
  /**
   * Resolves when a read that starts now is linearizable (read-index, Raft thesis 6.4).
   * @throws KisekiError `raft.not_leader`.
   */
  readIndex(): Promise<number>;
  /** Log entries up to this index are in a durable snapshot and may be collected. */
  compactTo(index: number): void;
}

export interface ProposalTicket {
  readonly index: number;
  readonly term: number;
  /**
   * Resolves once the entry is committed and applied here; rejects with
   * `raft.proposal_dropped` when another leader overwrote it.
   */
  readonly applied: Promise<void>;
}

/** Where records of all groups of an isolate go: one append stream, group commit. */
export interface WriteAheadLog {
  /** Replays everything that is durable, in order. Called once, before the first append. */
  replay(visit: (record: LogRecord) => void): Promise<void>;
  /**
   * Queues records; they become durable in order with the next group commit.
   * Resolves after fdatasync. Rejects with `block.io` when the disk failed: the log is then
   * stopped for good, because what is on disk is not known any more.
   */
  append(records: readonly LogRecord[]): Promise<void>;
  /** Entries of `shard` up to `index` are not needed any more; whole segments go when all agree. */
  release(shard: ShardId, index: number): void;
  statistics(): LogStatistics;
  close(): Promise<void>;
}

export type LogRecord =
  | { readonly type: "entry"; readonly shard: ShardId; readonly entry: Entry }
  | { readonly type: "hardState"; readonly shard: ShardId; readonly hardState: HardState }
  /** Entries from `index` on are void (a follower's conflict, Raft paper 5.3). */
  | { readonly type: "truncate"; readonly shard: ShardId; readonly index: number }
  /** The log of this shard starts after `index`/`term` (a snapshot is durable). */
  | {
    readonly type: "compact";
    readonly shard: ShardId;
    readonly index: number;
    readonly term: number;
  };

export interface LogStatistics {
  readonly segments: number;
  readonly bytes: number;
  readonly appends: number;
  readonly syncs: number;
  /** Seconds of the last sync. */
  readonly lastSyncSeconds: number;
}
