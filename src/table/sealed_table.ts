/**
 * The table itself: memory tables above, runs below, the manifest beside them.
 *
 * Invariants:
 * - `runs` are newest first; the frozen memory table is newer than all of them, the active one is
 *   newer still; a lookup stops at the first row it meets;
 * - a run serves reads only after the manifest that names it is durable, a frozen memory table goes
 *   only then, and files are removed only after the manifest that drops them is durable;
 * - one commit at a time; every attempt has a version of its own.
 */
import type { Bytes } from "../common/bytes.ts";
import { EMPTY_BYTES } from "../common/bytes.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import { newId128 } from "../common/ids.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import type { DataKey } from "../crypto/sealer.ts";
import type { ClockBlockCache } from "./block_cache.ts";
import { KeyHash } from "./bloom_filter.ts";
import { planCompaction } from "./compaction_plan.ts";
import { compareRanges } from "./key_order.ts";
import { type Manifest, ManifestSealer, MAX_OWNER_STATE_BYTES, MAX_RUNS } from "./manifest.ts";
import { MemoryTable } from "./memory_table.ts";
import { MergeCursor, type RowCursor, RowKind } from "./row_cursor.ts";
import { Run, type RunDescription } from "./run.ts";
import { encodeRunHeader, runFileName } from "./run_format.ts";
import type { JobRunner, MergeInput, RawKey, RunTarget } from "./run_jobs.ts";
import type { RunResult } from "./run_writer.ts";
import {
  MAX_KEY_BYTES,
  MAX_VALUE_BYTES,
  type Mutation,
  type Row,
  type ScanOptions,
  type Table,
  type TableOptions,
  type TableSnapshot,
  type TableState,
  type TableStatistics,
} from "./table.ts";
import type { TableFiles } from "./table_files.ts";

/**
 * Past this `apply` refuses: folds are far behind. The owner slows down long before, by awaiting
 * `fold` when a second memory table has filled up behind the one being folded.
 */
export const MAX_MEMORY_TABLE_BYTES = 512 * 1024 * 1024;

/** What `openTable` found and made ready. */
export interface OpenedTable {
  readonly options: TableOptions;
  readonly provider: CryptoProvider;
  readonly files: TableFiles;
  readonly runner: JobRunner;
  readonly cache: ClockBlockCache;
  readonly foldBytes: number;
  readonly manifest: Manifest;
  readonly manifestBytes: Bytes;
  /** In the order of the manifest. */
  readonly runs: readonly OpenRun[];
  /** Key of this opening's manifests. */
  readonly manifestKey: DataKey;
}

/** A run with what the table must know to merge and to remove it. */
export interface OpenRun {
  readonly run: Run;
  readonly key: DataKey;
}

interface HeldRun extends OpenRun {
  pins: number;
  dropped: boolean;
}

interface FrozenTable {
  readonly memory: MemoryTable;
  readonly state: TableState;
}

export class SealedTable implements Table {
  readonly #options: TableOptions;
  readonly #provider: CryptoProvider;
  readonly #files: TableFiles;
  readonly #runner: JobRunner;
  readonly #cache: ClockBlockCache;
  readonly #foldBytes: number;
  readonly #manifestSealer: ManifestSealer;
  readonly #hash = new KeyHash();
  readonly #aborter = new AbortController();

  #active: MemoryTable;
  #frozen: FrozenTable | undefined;
  #runs: readonly HeldRun[];
  #applied: TableState;
  #durable: TableState;
  #manifestBytes: Bytes;
  #manifestVersion: number;

  /** Counts applies: a scan from before is void. */
  #mutations = 0;
  /** Counts changes of memory tables and runs: a scan from before seeks anew. */
  #structure = 0;
  #folding: Promise<void> = Promise.resolve();
  #compacting: Promise<void> = Promise.resolve();
  #committing: Promise<void> = Promise.resolve();
  #removing: Promise<void> = Promise.resolve();
  /** Files of attempts that failed: one of them may be in the manifest on disk. */
  #doubtful: string[] = [];
  #closed = false;

  #writtenBytes = 0;
  #putBytes = 0;

  constructor(opened: OpenedTable) {
    this.#options = opened.options;
    this.#provider = opened.provider;
    this.#files = opened.files;
    this.#runner = opened.runner;
    this.#cache = opened.cache;
    this.#foldBytes = opened.foldBytes;
    this.#active = new MemoryTable(opened.cache.segments);
    this.#runs = opened.runs.map((run) => ({ ...run, pins: 0, dropped: false }));
    this.#applied = opened.manifest.state;
    this.#durable = opened.manifest.state;
    this.#manifestVersion = opened.manifest.version;
    this.#manifestBytes = opened.manifestBytes;
    const { tableId, keys } = opened.options;
    const key = opened.manifestKey;
    this.#manifestSealer = new ManifestSealer(key, key.wrapped, tableId, keys.organisation);
  }

  get appliedIndex(): number {
    return this.#applied.appliedIndex;
  }

  get wantsFold(): boolean {
    return this.#active.bytes >= this.#foldBytes;
  }

  durableState(): TableState {
    return this.#durable;
  }

  apply(index: number, mutations: readonly Mutation[], ownerState: Bytes): void {
    this.#checkOpen();
    if (!Number.isSafeInteger(index) || index <= this.#applied.appliedIndex) {
      throw new KisekiError(
        "common.invalid_argument",
        `entry ${index} applied after entry ${this.#applied.appliedIndex}`,
      );
    }
    checkLength("owner state", ownerState.length, MAX_OWNER_STATE_BYTES);
    for (const { key, value } of mutations) {
      checkLength("key", key.length, MAX_KEY_BYTES);
      if (value !== undefined) checkLength("value", value.length, MAX_VALUE_BYTES);
    }
    if (this.#active.bytes > MAX_MEMORY_TABLE_BYTES) {
      throw new KisekiError(
        "common.limit_exceeded",
        `a memory table of over ${MAX_MEMORY_TABLE_BYTES} bytes waits to be folded`,
        { retriable: true },
      );
    }
    this.#mutations++;
    for (const { key, value } of mutations) {
      this.#active.put(key, value);
      this.#putBytes += key.length + (value === undefined ? 0 : value.length);
    }
    this.#applied = { appliedIndex: index, ownerState };
  }

  get(key: Bytes): Bytes | undefined {
    this.#checkOpen();
    let value = this.#active.get(key);
    if (value !== undefined) return value ?? undefined;
    if (this.#frozen !== undefined) {
      value = this.#frozen.memory.get(key);
      if (value !== undefined) return value ?? undefined;
    }
    const runs = this.#runs;
    if (runs.length === 0) return undefined;
    const hash = this.#hash.of(key, 0, key.length);
    for (let i = 0; i < runs.length; i++) {
      value = (runs[i] as HeldRun).run.get(key, hash);
      if (value !== undefined) return value ?? undefined;
    }
    return undefined;
  }

  scan(from: Bytes, to: Bytes | undefined, options: ScanOptions = {}): Iterable<Row> {
    this.#checkOpen();
    return this.#scan(from.slice(), to?.slice(), options.reverse ?? false, this.#mutations);
  }

  async fold(): Promise<void> {
    this.#checkOpen();
    const target = this.#applied.appliedIndex;
    const run = async () => {
      while (this.#durable.appliedIndex < target) await this.#foldOnce();
    };
    const folding = this.#folding.then(run, run);
    this.#folding = folding;
    await folding;
  }

  async compact(): Promise<void> {
    this.#checkOpen();
    const run = async () => {
      while (!this.#closed && await this.#compactOnce());
    };
    const compacting = this.#compacting.then(run, run);
    this.#compacting = compacting;
    await compacting;
  }

  async snapshot(): Promise<TableSnapshot> {
    this.#checkOpen();
    const pinned = this.#runs;
    for (const held of pinned) held.pins++;
    let released = false;
    return {
      state: this.#durable,
      manifest: this.#manifestBytes.slice(),
      runFiles: pinned.map(({ run }) =>
        `${this.#files.path}/${runFileName(run.description.runId)}`
      ),
      release: () => {
        if (released) return;
        released = true;
        for (const held of pinned) held.pins--;
        this.#discard(pinned.filter((held) => held.dropped));
      },
    };
  }

  statistics(): TableStatistics {
    const frozen = this.#frozen?.memory;
    return {
      rowsInMemory: this.#active.rows + (frozen?.rows ?? 0),
      memoryBytes: this.#active.bytes + (frozen?.bytes ?? 0),
      runs: this.#runs.length,
      runBytes: this.#runs.reduce((sum, { run }) => sum + run.description.fileBytes, 0),
      writtenBytes: this.#writtenBytes,
      putBytes: this.#putBytes,
      blockCacheHits: this.#cache.hits,
      blockCacheMisses: this.#cache.misses,
    };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#aborter.abort();
    await Promise.allSettled([this.#folding, this.#compacting]);
    await Promise.allSettled([this.#committing]);
    const [removed] = await Promise.allSettled([this.#removing]);
    for (const held of this.#runs) closeRun(held);
    this.#manifestSealer.release();
    if (removed.status === "rejected") throw removed.reason;
  }

  /** One fold: of what an earlier attempt left frozen, or of the active memory table. */
  async #foldOnce(): Promise<void> {
    if (this.#frozen === undefined) {
      this.#frozen = { memory: this.#active, state: this.#applied };
      this.#active = new MemoryTable(this.#cache.segments);
      this.#structure++;
    }
    const frozen = this.#frozen;
    let made: HeldRun | undefined;
    if (frozen.memory.rows > 0) {
      if (this.#runs.length >= MAX_RUNS) {
        throw new KisekiError("common.limit_exceeded", `${MAX_RUNS} runs wait to be merged`, {
          retriable: true,
        });
      }
      const dropTombstones = this.#runs.length === 0;
      made = await this.#makeRun(0, (target) => ({
        kind: "fold",
        target,
        rows: frozen.memory.freeze(),
        dropTombstones,
      }));
    }
    await this.#commit(
      frozen.state,
      (runs) => made === undefined ? runs : [made, ...runs],
      made,
      () => {
        this.#frozen = undefined;
        frozen.memory.recycle();
      },
    );
  }

  /** One merge; false when the tiers are in order. */
  async #compactOnce(): Promise<boolean> {
    const plan = planCompaction(this.#runs.map(({ run }) => run.description), this.#foldBytes);
    if (plan === undefined) return false;
    const inputs = this.#runs.slice(plan.start, plan.start + plan.count);
    const made = await this.#makeRun(plan.tier, (target) => ({
      kind: "merge",
      target,
      inputs: inputs.map(({ run, key }): MergeInput => ({
        description: run.description,
        rawKey: exportRawKey(key),
      })),
      dropTombstones: plan.dropTombstones,
    }));
    const replace = (runs: readonly HeldRun[]): readonly HeldRun[] => {
      const out: HeldRun[] = [];
      for (const held of runs) {
        if (!inputs.includes(held)) out.push(held);
        else if (held === inputs[0] && made !== undefined) out.push(made);
      }
      return out;
    };
    await this.#commit(undefined, replace, made, () => {
      for (const held of inputs) held.dropped = true;
    });
    this.#discard(inputs);
    return true;
  }

  /** Has a run made and opens it; undefined when no row was left. */
  async #makeRun(
    tier: number,
    job: (target: RunTarget) => Parameters<JobRunner["run"]>[1],
  ): Promise<HeldRun | undefined> {
    const { tableId, keys } = this.#options;
    const runId = newId128();
    const key = keys.generateDataKey();
    let keyIsOurs = true;
    let result: RunResult | undefined;
    try {
      const header = encodeRunHeader({
        runId,
        tableId,
        organisation: keys.organisation,
        wrappedKey: key.wrapped,
      });
      const target = { header, rawKey: exportRawKey(key) };
      result = await this.#runner.run(this.#files, job(target), this.#aborter.signal);
      if (result === undefined) {
        key.release();
        return undefined;
      }
      keyIsOurs = false;
      this.#writtenBytes += result.fileBytes;
      const { rows, tombstones, fileBytes, rootHash, index, bloom } = result;
      const description: RunDescription = { runId, tier, rows, tombstones, fileBytes, rootHash };
      const owner = { tableId, organisation: keys.organisation };
      const run = Run.open(
        this.#provider,
        this.#files,
        description,
        owner,
        () => key,
        this.#cache,
        {
          index,
          bloom,
        },
      );
      return { run, key, pins: 0, dropped: false };
    } catch (error) {
      if (keyIsOurs) key.release();
      if (result !== undefined) this.#doubtful.push(runFileName(runId));
      throw error;
    }
  }

  /** Makes a new list of runs and a new state durable, then installs them. One at a time. */
  async #commit(
    state: TableState | undefined,
    edit: (runs: readonly HeldRun[]) => readonly HeldRun[],
    made: HeldRun | undefined,
    installed: () => void,
  ): Promise<void> {
    const run = async () => {
      const runs = edit(this.#runs);
      const next = state ?? this.#durable;
      const version = ++this.#manifestVersion;
      const bytes = this.#manifestSealer.seal({
        version,
        state: next,
        runs: runs.map((held) => held.run.description),
      });
      try {
        await this.#runner.run(
          this.#files,
          { kind: "commit", manifest: bytes },
          NEVER_ABORTED,
        );
      } catch (error) {
        // Whether the manifest is on disk is not known: its run stays until a later commit is.
        if (made !== undefined) {
          closeRun(made);
          this.#doubtful.push(runFileName(made.run.description.runId));
        }
        throw error;
      }
      this.#writtenBytes += bytes.length;
      this.#runs = runs;
      this.#durable = next;
      this.#manifestBytes = bytes;
      this.#structure++;
      installed();
      if (this.#doubtful.length > 0) this.#removeFiles(this.#doubtful.splice(0));
    };
    const committing = this.#committing.then(run, run);
    this.#committing = committing;
    await committing;
  }

  /** Closes and removes runs that no manifest names and no snapshot pins. */
  #discard(runs: readonly HeldRun[]): void {
    const names: string[] = [];
    for (const held of runs) {
      if (!held.dropped || held.pins > 0) continue;
      closeRun(held);
      names.push(runFileName(held.run.description.runId));
    }
    if (names.length > 0 && !this.#closed) this.#removeFiles(names);
  }

  /** Failure to remove is harmless: the next open removes what no manifest names. */
  #removeFiles(names: readonly string[]): void {
    const run = async () => {
      try {
        await this.#runner.run(this.#files, { kind: "remove", names }, NEVER_ABORTED);
      } catch (error) {
        this.#doubtful.push(...names);
        if (!isKisekiError(error)) throw error;
      }
    };
    this.#removing = this.#removing.then(run, run);
    // A defect, not a failing disk: `close` throws it.
    this.#removing.catch(() => undefined);
  }

  *#scan(
    from: Bytes,
    to: Bytes | undefined,
    reverse: boolean,
    mutations: number,
  ): Generator<Row, void, undefined> {
    // Where the scan stands: the last key given out; rows go on after it.
    let last: Bytes | undefined;
    let structure = -1;
    let rows: MergeCursor | undefined;
    while (true) {
      this.#checkOpen();
      if (mutations !== this.#mutations) {
        throw new KisekiError(
          "common.failed_precondition",
          "the table was changed while a scan was open: start the scan again",
        );
      }
      if (rows === undefined || structure !== this.#structure) {
        structure = this.#structure;
        rows = this.#position(from, to, last, reverse);
      } else {
        rows.advance();
      }
      let row = rows.current;
      while (row !== undefined && row.kind === RowKind.tombstone) {
        rows.advance();
        row = rows.current;
      }
      if (row === undefined) return;
      if (reverse) {
        if (isBelow(row, from)) return;
      } else if (to !== undefined && !isBelow(row, to)) {
        return;
      }
      last = row.keyBuffer.slice(row.keyStart, row.keyEnd);
      yield { key: last, value: row.value() };
    }
  }

  /** Cursors of everything, at the first row that a scan has not given out yet. */
  #position(
    from: Bytes,
    to: Bytes | undefined,
    last: Bytes | undefined,
    reverse: boolean,
  ): MergeCursor {
    const cursors: RowCursor[] = [this.#active.cursor()];
    if (this.#frozen !== undefined) cursors.push(this.#frozen.memory.cursor());
    for (const { run } of this.#runs) cursors.push(run.cursor());
    for (const cursor of cursors) {
      if (reverse) cursor.seekBefore(last ?? to);
      else cursor.seek(last ?? from);
    }
    const rows = new MergeCursor(cursors, reverse);
    const first = rows.current;
    if (!reverse && last !== undefined && first !== undefined && isEqual(first, last)) {
      rows.advance();
    }
    return rows;
  }

  #checkOpen(): void {
    if (this.#closed) {
      throw new KisekiError(
        "common.failed_precondition",
        `table ${this.#options.tableId} is closed`,
      );
    }
  }
}

const NEVER_ABORTED = new AbortController().signal;

function closeRun({ run }: HeldRun): void {
  run.close();
}

function exportRawKey(key: DataKey): RawKey {
  const { systemEpoch, tenantEpoch } = key;
  return { key: key.exportKey(), systemEpoch, tenantEpoch };
}

function checkLength(what: string, length: number, max: number): void {
  if (length > max) {
    throw new KisekiError("common.limit_exceeded", `a ${what} of ${length} bytes (max ${max})`);
  }
}

function isBelow(row: RowCursor, key: Bytes): boolean {
  return compareRanges(row.keyBuffer, row.keyStart, row.keyEnd, key, 0, key.length) < 0;
}

function isEqual(row: RowCursor, key: Bytes): boolean {
  return compareRanges(row.keyBuffer, row.keyStart, row.keyEnd, key, 0, key.length) === 0;
}

/** The state of a table that nothing was applied to. */
export const EMPTY_STATE: TableState = { appliedIndex: 0, ownerState: EMPTY_BYTES };
