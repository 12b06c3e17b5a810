/**
 * The work that is kept off event loops: folding a memory table into a run, merging runs,
 * committing a manifest, removing files. Each job is plain data, so that it can hop to a Worker.
 *
 * Jobs are generators that yield every few hundred rows: whoever drives them decides how long the
 * event loop waits. Keys come as raw bytes and are used for this job alone; who drives the steps
 * zeroes them at the end, however it ended.
 */
import type { Bytes } from "../common/bytes.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import { EnvelopeKind } from "../crypto/envelope_format.ts";
import { writeManifest } from "./manifest.ts";
import { frozenCursor, type FrozenRows } from "./memory_table.ts";
import { MergeCursor, type RowCursor, RowKind } from "./row_cursor.ts";
import { Run, type RunDescription } from "./run.ts";
import { decodeRunHeader, runFileName } from "./run_format.ts";
import { type RunResult, RunWriter } from "./run_writer.ts";
import { type BlockKey, BlockSealer } from "./sealed_block.ts";
import type { TableFiles } from "./table_files.ts";

/** A DEK handed over in the clear. */
export interface RawKey {
  readonly key: Bytes;
  readonly systemEpoch: number;
  readonly tenantEpoch: number;
}

/** The run to be written. */
export interface RunTarget {
  /** Encoded header, with the wrapped DEK. */
  readonly header: Bytes;
  readonly rawKey: RawKey;
}

export interface FoldJob {
  readonly kind: "fold";
  readonly target: RunTarget;
  readonly rows: FrozenRows;
  readonly dropTombstones: boolean;
}

export interface MergeInput {
  readonly description: RunDescription;
  readonly rawKey: RawKey;
}

export interface MergeJob {
  readonly kind: "merge";
  readonly target: RunTarget;
  /** Newest first. */
  readonly inputs: readonly MergeInput[];
  readonly dropTombstones: boolean;
}

/** Makes a manifest durable. */
export interface CommitJob {
  readonly kind: "commit";
  readonly manifest: Bytes;
}

/** Removes files that no manifest names any more. */
export interface RemoveJob {
  readonly kind: "remove";
  readonly names: readonly string[];
}

export type TableJob = FoldJob | MergeJob | CommitJob | RemoveJob;

/** A run when rows were left, nothing otherwise. */
export type JobResult = RunResult | undefined;

/** Does jobs of tables: in this isolate, or in a Worker. */
export interface JobRunner {
  /**
   * @param files The table's directory; a runner elsewhere uses its path alone.
   * @param signal Gives a fold or merge up between two steps; nothing is left behind.
   * @throws KisekiError `block.io`, `block.no_space`, `table.corrupt`, `common.cancelled`,
   *   `common.unavailable` when the Worker died (retriable).
   */
  run(files: TableFiles, job: TableJob, signal: AbortSignal): Promise<JobResult>;
}

const ROWS_PER_STEP = 256;

/** The raw keys of a job: to be transferred, and zeroed after it. */
export function rawKeysOf(job: TableJob): Bytes[] {
  if (job.kind !== "fold" && job.kind !== "merge") return [];
  const inputs = job.kind === "merge" ? job.inputs.map((input) => input.rawKey.key) : [];
  return [job.target.rawKey.key, ...inputs];
}

/** A job as steps. */
export function* jobSteps(
  provider: CryptoProvider,
  files: TableFiles,
  job: TableJob,
): Generator<void, JobResult> {
  switch (job.kind) {
    case "fold": {
      const cursor = frozenCursor(job.rows);
      cursor.seek(new Uint8Array(0));
      return yield* write(provider, files, job.target, [cursor], job.rows.rows, job.dropTombstones);
    }
    case "merge":
      return yield* merge(provider, files, job);
    case "commit":
      writeManifest(files, job.manifest);
      return undefined;
    case "remove":
      for (const name of job.names) {
        files.remove(name);
        yield;
      }
      return undefined;
  }
}

function* merge(
  provider: CryptoProvider,
  files: TableFiles,
  job: MergeJob,
): Generator<void, JobResult> {
  const header = decodeRunHeader(job.target.header);
  const inputs: Run[] = [];
  try {
    let rows = 0;
    const cursors: RowCursor[] = [];
    for (const { description, rawKey } of job.inputs) {
      const run = Run.open(
        provider,
        files,
        description,
        header,
        () => blockKeyOf(provider, rawKey),
        undefined,
      );
      inputs.push(run);
      const cursor = run.cursor(true);
      cursor.seek(new Uint8Array(0));
      cursors.push(cursor);
      rows += description.rows;
      yield;
    }
    return yield* write(provider, files, job.target, cursors, rows, job.dropTombstones);
  } finally {
    for (const run of inputs) run.close();
  }
}

/** Writes one run out of cursors, newest first. Leaves no file when there are no rows or it fails. */
function* write(
  provider: CryptoProvider,
  files: TableFiles,
  target: RunTarget,
  cursors: readonly RowCursor[],
  expectedRows: number,
  dropTombstones: boolean,
): Generator<void, JobResult> {
  const { runId, organisation } = decodeRunHeader(target.header);
  const key = blockKeyOf(provider, target.rawKey);
  const sealer = new BlockSealer(EnvelopeKind.runBlock, key, organisation, runId);
  const name = runFileName(runId);
  const file = files.create(name);
  let result: JobResult;
  try {
    const writer = new RunWriter(provider, file, sealer, runId, target.header, expectedRows);
    const rows = new MergeCursor(cursors, false);
    let left = ROWS_PER_STEP;
    for (let row = rows.current; row !== undefined; row = rows.current) {
      if (!(dropTombstones && row.kind === RowKind.tombstone)) writer.add(row);
      rows.advance();
      if (--left === 0) {
        left = ROWS_PER_STEP;
        yield;
      }
    }
    if (writer.rows > 0) result = writer.finish();
  } finally {
    sealer.release();
    file.close();
    if (result === undefined) files.remove(name);
  }
  if (result !== undefined) files.syncDirectory();
  return result;
}

function blockKeyOf(provider: CryptoProvider, rawKey: RawKey): BlockKey {
  const { key, systemEpoch, tenantEpoch } = rawKey;
  const aead = provider.aead(key);
  return { aead, systemEpoch, tenantEpoch, release: () => aead.release() };
}
