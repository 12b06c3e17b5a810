/**
 * A device's fragment index: (chunk id, incarnation, fragment number) -> place, checksums, header.
 *
 * One SQLite database in write-ahead mode beside the device file (or, for a raw device, in the data
 * directory under the device's id). SQLite commits without waiting for the disk (`synchronous =
 * NORMAL`: every commit appends checksummed frames to the write-ahead file); durability comes from
 * one asynchronous fdatasync of that file for all commits that wait, so that the event loop never
 * stands still for a disk. A torn tail of the file is cut off by SQLite at opening. Checkpoints are
 * ours too: pages are copied into the database without a sync, then synced asynchronously while
 * commits wait, so that the write-ahead file is never begun anew before its content is safe.
 *
 * Invariants: `commit` resolves after its changes are durable, all of them or none; what `get`
 * returns may not be durable yet; the index is the truth about extents: what it does not name is
 * free. After a failed sync it takes no more changes.
 *
 * An old copy of either side is refused: the index is stamped with the device id and with the
 * generation of the superblock, which grows at each opening in three steps (index: next generation
 * announced; superblock: written; index: taken over).
 */
import { DatabaseSync, type StatementSync } from "node:sqlite";
import { open as openFile } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { type Bytes, fromHex, toHex } from "../common/bytes.ts";
import { type ErrorCode, isKisekiError, KisekiError } from "../common/errors.ts";
import type { ChunkId, DeviceId } from "../common/ids.ts";
import { GroupSync } from "../block/group_sync.ts";
import { BLOCK_BYTES, type Extent } from "../block/ports.ts";
import {
  decodeFragmentRow,
  encodeFragmentRow,
  FRAGMENT_KEY_BYTES,
  fragmentKey,
  type FragmentRow,
} from "./fragment_record.ts";

/** One change of a row. */
export type IndexChange =
  | { readonly kind: "put"; readonly row: FragmentRow }
  | {
    readonly kind: "remove";
    readonly chunk: ChunkId;
    readonly incarnation: string;
    readonly fragment: number;
  };

/** What a fragment store asks of its index. */
export interface FragmentIndex {
  /** How many fragments it names. */
  readonly count: number;
  /** True once it can take no more changes. */
  readonly failed: boolean;
  /** @throws KisekiError `common.corrupt_format` when the row is damaged. */
  get(chunk: ChunkId, incarnation: string, fragment: number): FragmentRow | undefined;
  /**
   * All changes in one transaction with those of concurrent callers; resolves when durable.
   *
   * @throws KisekiError `block.io`, `block.no_space`.
   */
  commit(changes: readonly IndexChange[]): Promise<void>;
  /** See `FragmentStore.list`. A damaged row comes with the error instead of the row. */
  scan(after: ChunkId | undefined, limit: number): readonly ScannedRow[];
  /** All extents in order of offset. */
  extents(): Iterable<Extent>;
  close(): Promise<void>;
}

/** A row met by a scan. */
export interface ScannedRow {
  readonly chunk: ChunkId;
  readonly incarnation: string;
  readonly fragment: number;
  readonly row: FragmentRow | KisekiError;
}

/** The generations that an index knows: the one that counts, and the one that was announced. */
export interface IndexGeneration {
  readonly device: DeviceId;
  readonly current: number;
  readonly announced: number | undefined;
}

const FORMAT_VERSION = 1;
/** A checkpoint is made after some so many pages of 4 KiB were written. */
const CHECKPOINT_PAGES = 1000;
/** Pages that a change is taken to write: a leaf of the table and one of the index by place. */
const PAGES_PER_CHANGE = 2;
/** Pages that a transaction is taken to write beside its changes. */
const PAGES_PER_COMMIT = 2;

const SCHEMA = `
  CREATE TABLE identity (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    format INTEGER NOT NULL, device BLOB NOT NULL,
    generation INTEGER NOT NULL, announced INTEGER
  ) STRICT;
  CREATE TABLE fragments (
    key BLOB NOT NULL PRIMARY KEY,
    unit INTEGER NOT NULL, length INTEGER NOT NULL, record BLOB NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE UNIQUE INDEX fragments_by_place ON fragments (unit, length);
`;

/**
 * Opens an index, or makes one.
 *
 * @param create What to stamp a new one with; undefined: it must exist.
 * @throws KisekiError `common.not_found`, `common.already_exists`, `common.corrupt_format`,
 *   `common.unsupported_version`, `block.locked`, `block.io`.
 */
export async function openFragmentIndex(
  path: string,
  create?: { readonly device: DeviceId; readonly generation: number },
): Promise<SqliteFragmentIndex> {
  const exists = await isFile(path);
  if (exists === (create !== undefined)) {
    throw new KisekiError(
      exists ? "common.already_exists" : "common.not_found",
      exists ? `${path}: an index is there already` : `${path}: the device's index is missing`,
    );
  }
  const database = openDatabase(path, create);
  try {
    const wal = await openFile(`${path}-wal`, "r");
    try {
      const directory = await openFile(dirname(path), "r");
      await directory.sync();
      await directory.close();
      const main = await openFile(path, "r");
      return new SqliteFragmentIndex(path, database, main, wal);
    } catch (error) {
      await wal.close();
      throw error;
    }
  } catch (error) {
    database.close();
    throw databaseError(error, path);
  }
}

function openDatabase(
  path: string,
  create: { readonly device: DeviceId; readonly generation: number } | undefined,
): DatabaseSync {
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(path);
    database.exec(
      "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; " +
        "PRAGMA cache_size = -32768; PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 0;",
    );
    if (create !== undefined) {
      database.exec("BEGIN IMMEDIATE");
      database.exec(SCHEMA);
      database.prepare("INSERT INTO identity VALUES (1, ?, ?, ?, NULL)")
        .run(FORMAT_VERSION, fromHex(create.device), create.generation);
      database.exec("COMMIT");
    } else {
      const row = database.prepare("SELECT format FROM identity").get();
      if (row?.["format"] !== FORMAT_VERSION) {
        throw new KisekiError(
          "common.unsupported_version",
          `${path}: fragment index of format ${row?.["format"]}`,
        );
      }
      // A write makes the exclusive lock and the write-ahead file exist.
      database.exec("UPDATE identity SET format = format");
    }
    return database;
  } catch (error) {
    database?.close();
    throw databaseError(error, path);
  }
}

interface Waiting {
  readonly changes: readonly IndexChange[];
  readonly resolve: (durable: Promise<void>) => void;
  readonly reject: (error: unknown) => void;
}

/** The index on SQLite. */
export class SqliteFragmentIndex implements FragmentIndex {
  readonly #sync: GroupSync;
  readonly #get: StatementSync;
  readonly #put: StatementSync;
  readonly #remove: StatementSync;
  readonly #scan: StatementSync;
  #waiting: Waiting[] = [];
  #count: number;
  #pagesWritten = 0;
  /** The checkpoint under way; commits wait for it. */
  #checkpoint: Promise<void> | undefined;
  /** Why the database could not be synced; nothing is written any more. */
  #broken: KisekiError | undefined;

  constructor(
    private readonly path: string,
    private readonly database: DatabaseSync,
    /** Not closed before the database: that would drop SQLite's locks (POSIX). */
    private readonly main: FileHandle,
    private readonly wal: FileHandle,
  ) {
    database.exec("PRAGMA synchronous = NORMAL");
    this.#sync = new GroupSync(() => this.wal.datasync());
    this.#get = database.prepare("SELECT record FROM fragments WHERE key = ?");
    this.#put = database.prepare("INSERT OR REPLACE INTO fragments VALUES (?, ?, ?, ?)");
    this.#remove = database.prepare("DELETE FROM fragments WHERE key = ?");
    this.#scan = database.prepare(
      "SELECT key, record FROM fragments WHERE key > ? ORDER BY key LIMIT ?",
    );
    this.#count = numberOf(database.prepare("SELECT count(*) AS n FROM fragments").get()?.["n"]);
  }

  get count(): number {
    return this.#count;
  }

  get failed(): boolean {
    return this.#sync.failed || this.#broken !== undefined;
  }

  /** Whose index it is. */
  generation(): IndexGeneration {
    const row = this.database.prepare("SELECT device, generation, announced FROM identity").get();
    const announced = row?.["announced"];
    return {
      device: toHex(blobOf(row?.["device"])) as DeviceId,
      current: numberOf(row?.["generation"]),
      announced: announced === null || announced === undefined ? undefined : numberOf(announced),
    };
  }

  /** Notes, durably, that the superblock is about to be of this generation. */
  async announce(generation: number): Promise<void> {
    this.database.prepare("UPDATE identity SET announced = ?").run(generation);
    await this.#sync.wait();
  }

  /** Notes, durably, that the superblock is of this generation. */
  async takeOver(generation: number): Promise<void> {
    this.database.prepare("UPDATE identity SET generation = ?, announced = NULL").run(generation);
    await this.#sync.wait();
  }

  get(chunk: ChunkId, incarnation: string, fragment: number): FragmentRow | undefined {
    const key = fragmentKey(chunk, incarnation, fragment);
    const row = this.#get.get(key);
    return row === undefined ? undefined : decodeFragmentRow(key, blobOf(row["record"]));
  }

  async commit(changes: readonly IndexChange[]): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#waiting.push({ changes, resolve, reject });
      if (this.#waiting.length === 1) queueMicrotask(() => this.#flush());
    });
  }

  #flush(): void {
    // The end of the checkpoint flushes what came meanwhile.
    if (this.#checkpoint !== undefined) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    if (this.#broken !== undefined) {
      for (const { reject } of waiting) reject(this.#broken);
      return;
    }
    if (this.#sync.failed) {
      for (const { resolve } of waiting) resolve(this.#sync.wait());
      return;
    }
    let added = 0;
    let pages = PAGES_PER_COMMIT;
    try {
      this.database.exec("BEGIN IMMEDIATE");
      for (const { changes } of waiting) {
        pages += changes.length * PAGES_PER_CHANGE;
        for (const change of changes) added += this.#apply(change);
      }
      this.database.exec("COMMIT");
    } catch (error) {
      if (this.database.isTransaction) this.database.exec("ROLLBACK");
      for (const { reject } of waiting) reject(databaseError(error, this.path));
      return;
    }
    this.#count += added;
    const durable = this.#sync.wait().catch((error) => {
      throw databaseError(error, `${this.path}-wal`);
    });
    for (const { resolve } of waiting) resolve(durable);
    this.#pagesWritten += pages;
    if (this.#pagesWritten >= CHECKPOINT_PAGES) this.#beginCheckpoint();
  }

  #beginCheckpoint(): void {
    this.#pagesWritten = 0;
    this.#checkpoint = this.#runCheckpoint().catch((error) => {
      this.#broken = databaseError(error, this.path);
    }).finally(() => {
      this.#checkpoint = undefined;
      if (this.#waiting.length > 0) this.#flush();
    });
  }

  async #runCheckpoint(): Promise<void> {
    await this.#sync.wait();
    this.database.exec("PRAGMA synchronous = OFF");
    try {
      this.database.prepare("PRAGMA wal_checkpoint(PASSIVE)").get();
    } finally {
      this.database.exec("PRAGMA synchronous = NORMAL");
    }
    await this.main.datasync();
  }

  #apply(change: IndexChange): number {
    if (change.kind === "remove") {
      const key = fragmentKey(change.chunk, change.incarnation, change.fragment);
      return -Number(this.#remove.run(key).changes);
    }
    const { header, extent } = change.row;
    const key = fragmentKey(header.chunk, header.incarnation, header.fragment);
    const known = this.#get.get(key) !== undefined;
    this.#put.run(
      key,
      extent.offset / BLOCK_BYTES,
      extent.length,
      encodeFragmentRow(change.row),
    );
    return known ? 0 : 1;
  }

  scan(after: ChunkId | undefined, limit: number): readonly ScannedRow[] {
    const found = this.#scanFrom(after === undefined ? FIRST_KEY : endOfChunk(after), limit);
    const last = found.at(-1);
    if (last === undefined || found.length < limit) return found;
    // The page may have cut the last chunk's fragments in two: leave them to the next page.
    const whole = found.filter((row) => row.chunk !== last.chunk);
    if (whole.length > 0) return whole;
    // One chunk fills the page: more than 13 fragments of it on one device are not normal, but true.
    return this.scan(after, 2 * limit);
  }

  #scanFrom(key: Bytes, limit: number): ScannedRow[] {
    return this.#scan.all(key, limit).map((found) => {
      const at = blobOf(found["key"]);
      return {
        chunk: toHex(at.subarray(0, 32)) as ChunkId,
        incarnation: toHex(at.subarray(32, 40)),
        fragment: at[FRAGMENT_KEY_BYTES - 1] ?? 0,
        row: decodeOrError(at, blobOf(found["record"])),
      };
    });
  }

  *extents(): Iterable<Extent> {
    const rows = this.database.prepare("SELECT unit, length FROM fragments ORDER BY unit");
    for (const row of rows.iterate()) {
      yield { offset: numberOf(row["unit"]) * BLOCK_BYTES, length: numberOf(row["length"]) };
    }
  }

  async close(): Promise<void> {
    try {
      await this.#checkpoint;
      if (!this.failed) await this.#sync.wait();
    } finally {
      await this.wal.close();
      this.database.close();
      await this.main.close();
    }
  }
}

const FIRST_KEY: Bytes = new Uint8Array(0);

/** No key of the chunk is greater, every key of later chunks is. */
function endOfChunk(chunk: ChunkId): Bytes {
  const key = new Uint8Array(FRAGMENT_KEY_BYTES).fill(0xff);
  key.set(fromHex(chunk));
  return key;
}

function decodeOrError(key: Bytes, record: Bytes): FragmentRow | KisekiError {
  try {
    return decodeFragmentRow(key, record);
  } catch (error) {
    if (isKisekiError(error)) return error;
    throw error;
  }
}

async function isFile(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw databaseError(error, path);
  }
}

function blobOf(value: unknown): Bytes {
  if (value instanceof Uint8Array) return value;
  throw new KisekiError("common.corrupt_format", "fragment index: a blob was expected");
}

function numberOf(value: unknown): number {
  if (typeof value === "number") return value;
  throw new KisekiError("common.corrupt_format", "fragment index: a number was expected");
}

/** Texts of sqlite3ErrStr in sqlite's main.c: the runtime passes on no result codes. */
const SQLITE_TEXTS: readonly (readonly [string, ErrorCode])[] = [
  ["database is locked", "block.locked"],
  ["database disk image is malformed", "common.corrupt_format"],
  ["file is not a database", "common.corrupt_format"],
  ["no such table", "common.corrupt_format"],
  ["database or disk is full", "block.no_space"],
];

const ADVICE: Partial<Record<ErrorCode, string>> = {
  "block.locked": ": another process uses it",
  "common.corrupt_format": ": the index is damaged; format the device again, let it be repaired",
};

function databaseError(error: unknown, path: string): KisekiError {
  if (isKisekiError(error)) return error;
  const message = error instanceof Error ? error.message : String(error);
  const errno = error instanceof Error && "code" in error ? error.code : "";
  const known = SQLITE_TEXTS.find(([text]) => message.includes(text))?.[1];
  const full = errno === "ENOSPC" || errno === "EDQUOT";
  const code = known ?? (full ? "block.no_space" : "block.io");
  return new KisekiError(code, `${path}: ${message}${ADVICE[code] ?? ""}`, { cause: error });
}
