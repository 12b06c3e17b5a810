/**
 * The sealed table: a log-structured merge of immutable sorted runs, every block sealed.
 *
 * It is the state of one shard. Recent changes sit in a memory table whose write-ahead log is the
 * shard's Raft log; a fold turns some 12 MB of them into a run; tiered compaction (fan-out 4)
 * merges runs of like size. Folds, merges and manifest commits run in a Worker.
 *
 * Invariants:
 * - `get` and `scan` see every applied mutation and nothing else, whatever fold or merge is going on;
 * - after a crash the table is at its last committed manifest: `state()` tells the applied index,
 *   and the caller applies again what the log holds after it;
 * - the same mutations applied in the same order give the same `get` and `scan`, whatever the folds;
 * - no plaintext key or value reaches a file.
 */
import type { Bytes } from "../common/bytes.ts";
import type { TenantKeys } from "../crypto/sealer.ts";

/** Longest key. */
export const MAX_KEY_BYTES = 4096;
/** Longest value in a row; the table keeps values over 8 KiB in overflow rows by itself. */
export const MAX_VALUE_BYTES = 1 << 20;

/** One change. An absent value deletes. */
export interface Mutation {
  readonly key: Bytes;
  readonly value: Bytes | undefined;
}

export interface Row {
  readonly key: Bytes;
  readonly value: Bytes;
}

/**
 * What evaluators and queries read. Views returned are valid until the next call into the table.
 * They may lie over shared memory: copy (`slice`) what is kept, posted to another isolate or handed
 * to a platform call that refuses shared memory.
 */
export interface RowReader {
  get(key: Bytes): Bytes | undefined;
  /**
   * Rows with `from <= key < to` in bytewise order (`to` undefined: to the end), or in reverse,
   * `to > key >= from`. Lazily read; stop at any time. A mutation applied while a scan is open
   * ends the scan's validity: the next step throws.
   */
  scan(from: Bytes, to: Bytes | undefined, options?: ScanOptions): Iterable<Row>;
}

export interface ScanOptions {
  readonly reverse?: boolean;
}

/** Opaque bytes of the owner, kept in the manifest beside the applied index (at most 64 KiB). */
export interface TableState {
  /** Raft index of the last mutation contained in runs; 0 for an empty table. */
  readonly appliedIndex: number;
  readonly ownerState: Bytes;
}

export interface TableStatistics {
  readonly rowsInMemory: number;
  readonly memoryBytes: number;
  readonly runs: number;
  readonly runBytes: number;
  /** Bytes written to run files since open, and bytes of keys and values put. */
  readonly writtenBytes: number;
  readonly putBytes: number;
  readonly blockCacheHits: number;
  readonly blockCacheMisses: number;
}

export interface Table extends RowReader {
  /**
   * Applies mutations of one log entry, in order. Synchronous and memory-only.
   *
   * @param index Raft index of the entry; must exceed every earlier one.
   * @param ownerState The owner's state as of this entry (kept by reference until folded).
   */
  apply(index: number, mutations: readonly Mutation[], ownerState: Bytes): void;
  /** Index of the last applied entry, folded or not. */
  readonly appliedIndex: number;
  /** What is durable: entries up to `appliedIndex` may leave the log. */
  durableState(): TableState;
  /** True when the memory table has outgrown its share and `fold` should be called. */
  readonly wantsFold: boolean;
  /** Folds the memory table into a run and commits the manifest. Applies may go on meanwhile. */
  fold(): Promise<void>;
  /** Merges runs until the tiers are in order. Called by the owner when idle or after a fold. */
  compact(): Promise<void>;
  /** Files and manifest of the durable state, pinned until `release`: a Raft snapshot. */
  snapshot(): Promise<TableSnapshot>;
  statistics(): TableStatistics;
  close(): Promise<void>;
}

export interface TableSnapshot {
  readonly state: TableState;
  /** Manifest bytes, sealed. */
  readonly manifest: Bytes;
  /** Paths of the run files, immutable while pinned. */
  readonly runFiles: readonly string[];
  release(): void;
}

export interface TableOptions {
  /** Directory of this table alone; made when missing. */
  readonly directory: string;
  /** 128-bit id, bound into every envelope. */
  readonly tableId: string;
  readonly keys: TenantKeys;
  /** Fold when the memory table holds this many bytes. Default 12 MiB. */
  readonly foldBytes?: number;
  /** Shared by all tables of an isolate. Default: a cache of its own of 64 MiB. */
  readonly blockCache?: BlockCache;
}

/** A bounded cache of opened blocks, shared by the tables of one isolate. */
export interface BlockCache {
  readonly capacityBytes: number;
  readonly usedBytes: number;
  /** Look-ups that it answered, and that it did not. */
  readonly hits: number;
  readonly misses: number;
}
