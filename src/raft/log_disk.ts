/**
 * The disk as the write-ahead log sees it: a port, so that tests and the simulation can lose, tear
 * and reorder what was not synced.
 *
 * Guarantees that the log leans on: `write` is visible to later reads; after `sync` resolved, all
 * writes of that file which resolved before it are durable, its length included; after
 * `syncDirectory` the creations, renames and removals in it are. Nothing else is assumed.
 */
import type { Bytes } from "../common/bytes.ts";

/** One open file. */
export interface LogFile {
  /** Length in bytes. */
  size(): Promise<number>;
  /**
   * Fills `into` from `offset`. Resolves to the bytes read: fewer only at the end of the file.
   * @throws KisekiError `block.io`.
   */
  read(into: Bytes, offset: number): Promise<number>;
  /**
   * Writes all of `bytes` at `offset`; the caller leaves them unchanged until it resolves.
   * @throws KisekiError `block.io`, `block.no_space`.
   */
  write(bytes: Bytes, offset: number): Promise<void>;
  /** fdatasync. @throws KisekiError `block.io`; what is on disk is then not known. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** A file system. All failures are KisekiErrors `block.io` or `block.no_space`. */
export interface LogDisk {
  /** Creates a directory and its parents; an existing one is fine. */
  makeDirectory(path: string): Promise<void>;
  /** Names of the files in a directory, in no order. */
  list(directory: string): Promise<readonly string[]>;
  /** Opens for reading and writing. @param create makes an empty file where there is none. */
  open(path: string, create: boolean): Promise<LogFile>;
  /** Atomically gives a file another name in the same directory. */
  rename(from: string, to: string): Promise<void>;
  unlink(path: string): Promise<void>;
  syncDirectory(directory: string): Promise<void>;
}
