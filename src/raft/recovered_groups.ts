/**
 * What a replay of the write-ahead log says about each group.
 *
 * Entries follow each other without a gap from the last `compact` record on; what is older was
 * collected in part and is dropped. Data is kept in memory within a budget; the rest is read back
 * when it is applied.
 */
import { KisekiError } from "../common/errors.ts";
import type { NodeId, ShardId } from "../common/ids.ts";
import { RaftLog } from "./core/raft_log.ts";
import type { Entry, HardState, LogRecord } from "./ports.ts";

/** One group as the log has it. */
export interface RecoveredGroup {
  readonly hardState: HardState;
  readonly log: RaftLog;
}

interface Building {
  log: RaftLog | undefined;
  hardState: HardState;
  compactIndex: number;
  compactTerm: number;
}

export const EMPTY_HARD_STATE: HardState = { term: 0, vote: 0 as NodeId, commit: 0 };

/** Collects the records of a replay. */
export class RecoveredGroups {
  readonly #groups = new Map<ShardId, Building>();
  readonly #maxBytes: number;
  #bytes = 0;

  /** @param maxBytes Entry data kept in memory over all groups. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  visit(record: LogRecord): void {
    const group = this.#group(record.shard);
    switch (record.type) {
      case "hardState":
        group.hardState = record.hardState;
        break;
      case "entry":
        this.#entry(group, record.entry);
        break;
      case "truncate":
        this.#truncate(group, record.index);
        break;
      case "compact":
        group.compactIndex = record.index;
        group.compactTerm = record.term;
        this.#compact(group);
        break;
    }
  }

  /**
   * The group of `shard`, an empty one when the log has nothing of it. Taken once.
   *
   * @throws KisekiError `log.torn` when entries between the snapshot and the log are missing.
   */
  take(shard: ShardId): RecoveredGroup {
    const group = this.#groups.get(shard);
    if (group === undefined) return { hardState: EMPTY_HARD_STATE, log: new RaftLog() };
    this.#groups.delete(shard);
    const log = group.log ?? new RaftLog(group.compactIndex, group.compactTerm);
    if (log.compactIndex > group.compactIndex) {
      throw torn(
        shard,
        `it starts with entry ${log.firstIndex}, the snapshot ends with ${group.compactIndex}`,
      );
    }
    if (group.hardState.commit > log.lastIndex) {
      throw torn(
        shard,
        `entry ${group.hardState.commit} was committed, the last one is ${log.lastIndex}`,
      );
    }
    return { hardState: group.hardState, log };
  }

  #group(shard: ShardId): Building {
    let group = this.#groups.get(shard);
    if (group === undefined) {
      group = { log: undefined, hardState: EMPTY_HARD_STATE, compactIndex: 0, compactTerm: 0 };
      this.#groups.set(shard, group);
    }
    return group;
  }

  #entry(group: Building, entry: Entry): void {
    group.log ??= new RaftLog(entry.index - 1, 0);
    const before = group.log.memoryBytes;
    group.log.restoreEntry(entry);
    if (this.#bytes + entry.data.length > this.#maxBytes) {
      group.log.evict(Math.max(0, this.#maxBytes - this.#bytes), entry.index);
    }
    this.#bytes += group.log.memoryBytes - before;
  }

  #truncate(group: Building, index: number): void {
    const log = group.log;
    if (log === undefined) return;
    const before = log.memoryBytes;
    if (index <= log.compactIndex) {
      group.log = undefined;
      this.#bytes -= before;
      return;
    }
    log.truncateFrom(index);
    // Already in the file: not to be written again.
    log.takeUnwritten();
    this.#bytes += log.memoryBytes - before;
  }

  #compact(group: Building): void {
    const { log, compactIndex, compactTerm } = group;
    if (log === undefined || compactIndex <= log.compactIndex) return;
    const before = log.memoryBytes;
    if (log.matches(compactIndex, compactTerm)) {
      log.commitTo(compactIndex);
      log.appliedTo(compactIndex);
      log.compactTo(compactIndex);
      this.#bytes += log.memoryBytes - before;
    } else {
      group.log = new RaftLog(compactIndex, compactTerm);
      this.#bytes -= before;
    }
  }
}

function torn(shard: ShardId, what: string): KisekiError {
  return new KisekiError(
    "log.torn",
    `the log of shard ${shard} is incomplete: ${what}. Restore this node from its peers or a backup`,
  );
}
