/**
 * Opens a table: finds its manifest, proves and opens its runs, removes what no manifest names.
 */
import { KisekiError } from "../common/errors.ts";
import { parseId128 } from "../common/ids.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import type { DataKey } from "../crypto/sealer.ts";
import { ClockBlockCache } from "./block_cache.ts";
import { inlineRunner } from "./inline_runner.ts";
import {
  type Manifest,
  ManifestSealer,
  NEW_MANIFEST_NAME,
  openManifest,
  readManifest,
  writeManifest,
} from "./manifest.ts";
import { Run } from "./run.ts";
import { runFileName } from "./run_format.ts";
import type { JobRunner } from "./run_jobs.ts";
import { EMPTY_STATE, type OpenRun, SealedTable } from "./sealed_table.ts";
import type { BlockCache, Table, TableOptions } from "./table.ts";
import { directoryFiles, type TableFiles } from "./table_files.ts";

/** Fold when the memory table holds this many bytes. */
export const DEFAULT_FOLD_BYTES = 12 * 1024 * 1024;

/** Options for tests and for composition roots, beside those of every table. */
export interface OpenTableOptions extends TableOptions {
  /** Seals and hashes in this isolate. Default: the best one found, opened for this table alone. */
  readonly provider?: CryptoProvider;
  /** Does folds and merges. Default: in this isolate, in slices. */
  readonly runner?: JobRunner;
  /** Where files lie. Default: the operating system's `directory`. */
  readonly files?: TableFiles;
}

/** A cache for the option `blockCache`, shared by the tables of an isolate. */
export function createBlockCache(capacityBytes?: number): BlockCache {
  return new ClockBlockCache(capacityBytes);
}

/**
 * Opens the table in `options.directory`, or makes an empty one.
 *
 * @throws KisekiError `table.corrupt` when manifest or runs are not what was written,
 *   `common.unsupported_version`, `keys.unavailable`, `block.io`, `block.no_space`.
 */
export async function openTable(options: OpenTableOptions): Promise<Table> {
  const tableId = parseId128(options.tableId, "table id");
  const provider = options.provider ?? chooseProvider().provider;
  const files = options.files ?? directoryFiles(options.directory);
  const runner = options.runner ?? inlineRunner(provider);
  const cache = options.blockCache ?? new ClockBlockCache();
  if (!(cache instanceof ClockBlockCache)) {
    throw new KisekiError("common.invalid_argument", "blockCache: not made by createBlockCache");
  }
  const { keys } = options;
  const organisation = keys.organisation;
  files.make();
  const manifestKey = keys.generateDataKey();
  const runs: OpenRun[] = [];
  try {
    const manifestBytes = readManifest(files) ?? createManifest(files, options, manifestKey);
    const manifest = openManifest(
      manifestBytes,
      tableId,
      organisation,
      (wrapped) => keys.openDataKey(wrapped),
    );
    for (const description of manifest.runs) {
      let key: DataKey | undefined;
      const owner = { tableId, organisation };
      const run = Run.open(provider, files, description, owner, (wrapped) => {
        key = keys.openDataKey(wrapped);
        return key;
      }, cache);
      if (key === undefined) throw new KisekiError("common.internal", "a run without its key");
      runs.push({ run, key });
    }
    removeOrphans(files, manifest);
    return new SealedTable({
      options,
      provider,
      files,
      runner,
      cache,
      foldBytes: options.foldBytes ?? DEFAULT_FOLD_BYTES,
      manifest,
      manifestBytes,
      runs,
      manifestKey,
    });
  } catch (error) {
    for (const { run } of runs) run.close();
    manifestKey.release();
    throw error;
  }
}

/** The first manifest of a directory that holds no table yet. */
function createManifest(files: TableFiles, options: TableOptions, key: DataKey): Uint8Array {
  if (files.list().some(isRunFile)) {
    throw new KisekiError(
      "table.corrupt",
      `${files.path} holds runs but no manifest: the manifest was lost`,
    );
  }
  const { tableId, keys } = options;
  const sealer = new ManifestSealer(key, key.wrapped, tableId, keys.organisation);
  const bytes = sealer.seal({ version: 1, state: EMPTY_STATE, runs: [] });
  writeManifest(files, bytes);
  return bytes;
}

/** Leftovers of folds, merges and commits that a crash cut short. Other files are left alone. */
function removeOrphans(files: TableFiles, manifest: Manifest): void {
  const named = new Set(manifest.runs.map((run) => runFileName(run.runId)));
  for (const name of files.list()) {
    if (name === NEW_MANIFEST_NAME || (isRunFile(name) && !named.has(name))) files.remove(name);
  }
}

function isRunFile(name: string): boolean {
  return /^[0-9a-f]{32}\.run$/.test(name);
}

/**
 * Puts a snapshot's manifest in place in a directory that already holds its run files (under their
 * own names, durable), replacing the table there. Open the table afterwards.
 *
 * @throws KisekiError `block.io`, `block.no_space`.
 */
export function installSnapshot(directory: string, manifest: Uint8Array): void {
  const files = directoryFiles(directory);
  files.make();
  files.syncDirectory();
  writeManifest(files, manifest);
}
