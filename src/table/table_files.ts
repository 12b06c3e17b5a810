/**
 * The port to a table's directory, and its implementation over the operating system.
 *
 * Calls are synchronous: a table reads one block of 16 KiB at a time, and everything that writes
 * or syncs runs in a Worker. Tests put a file system with power cuts behind the same port.
 */
import {
  closeSync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { dirname, resolve } from "node:path";
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";

/** A file being written from its start. */
export interface FileWriter {
  /** Appends all of `bytes`. */
  write(bytes: Bytes): void;
  /** What was written is durable when it returns; the name is not, see `syncDirectory`. */
  sync(): void;
  close(): void;
}

/** A file that does not change while it is open. */
export interface FileReader {
  readonly sizeBytes: number;
  /** Fills `into` from `offset`. @throws KisekiError `table.corrupt` when the file is shorter. */
  readAt(offset: number, into: Bytes): void;
  close(): void;
}

/** One directory. Every call throws KisekiError `block.io` or `block.no_space` on failure. */
export interface TableFiles {
  /** The directory's path, for paths handed to others. */
  readonly path: string;
  /** Makes the directory and its parents, durably; harmless when it exists. */
  make(): void;
  /** Names of the files in it. */
  list(): string[];
  /** Starts a file of this name; cuts it to nothing when it exists. */
  create(name: string): FileWriter;
  /** @throws KisekiError `common.not_found` when there is no such file. */
  open(name: string): FileReader;
  rename(from: string, to: string): void;
  /** Harmless when there is no such file. */
  remove(name: string): void;
  /** Names made, renamed and removed before are durable when it returns. */
  syncDirectory(): void;
}

/** A directory of the operating system. */
export function directoryFiles(path: string): TableFiles {
  const at = (name: string) => `${path}/${name}`;
  return {
    path,
    make() {
      attempt("make directory", path, () => {
        const first = mkdirSync(path, { recursive: true, mode: 0o700 });
        if (first === undefined) return;
        // Every directory that was made is a new name in its parent.
        const end = dirname(resolve(first));
        for (let at = resolve(path); at !== end && at !== dirname(at); at = dirname(at)) {
          syncDirectory(dirname(at));
        }
      });
    },
    list: () => attempt("list", path, () => readdirSync(path)),
    create: (name) => attempt("create", at(name), () => new SystemWriter(at(name))),
    open: (name) => attempt("open", at(name), () => new SystemReader(at(name))),
    rename(from, to) {
      attempt("rename", at(from), () => renameSync(at(from), at(to)));
    },
    remove(name) {
      attempt("remove", at(name), () => {
        try {
          unlinkSync(at(name));
        } catch (error) {
          if (errnoOf(error) !== "ENOENT") throw error;
        }
      });
    },
    syncDirectory() {
      attempt("sync directory", path, () => syncDirectory(path));
    },
  };
}

class SystemWriter implements FileWriter {
  readonly #path: string;
  readonly #descriptor: number;

  constructor(path: string) {
    this.#path = path;
    this.#descriptor = openSync(path, "w", 0o600);
  }

  write(bytes: Bytes): void {
    attempt("write", this.#path, () => {
      let at = 0;
      while (at < bytes.length) at += writeSync(this.#descriptor, bytes, at, bytes.length - at);
    });
  }

  sync(): void {
    attempt("sync", this.#path, () => fdatasyncSync(this.#descriptor));
  }

  close(): void {
    attempt("close", this.#path, () => closeSync(this.#descriptor));
  }
}

class SystemReader implements FileReader {
  readonly sizeBytes: number;
  readonly #path: string;
  readonly #descriptor: number;

  constructor(path: string) {
    this.#path = path;
    this.#descriptor = openSync(path, "r");
    this.sizeBytes = fstatSync(this.#descriptor).size;
  }

  readAt(offset: number, into: Bytes): void {
    let at = 0;
    while (at < into.length) {
      let read: number;
      try {
        read = readSync(this.#descriptor, into, at, into.length - at, offset + at);
      } catch (error) {
        throw ioError("read", this.#path, error);
      }
      if (read === 0) {
        throw new KisekiError(
          "table.corrupt",
          `${this.#path} ends at ${offset + at}, before byte ${offset + into.length}`,
        );
      }
      at += read;
    }
  }

  close(): void {
    attempt("close", this.#path, () => closeSync(this.#descriptor));
  }
}

function syncDirectory(path: string): void {
  const descriptor = openSync(path, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function attempt<T>(what: string, path: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw ioError(what, path, error);
  }
}

function ioError(what: string, path: string, error: unknown): KisekiError {
  if (error instanceof KisekiError) return error;
  const errno = errnoOf(error);
  const code = errno === "ENOENT"
    ? "common.not_found"
    : errno === "ENOSPC" || errno === "EDQUOT"
    ? "block.no_space"
    : "block.io";
  return new KisekiError(code, `${what} ${path}: ${errno ?? String(error)}`, {
    cause: error,
    retriable: code === "block.no_space",
  });
}

function errnoOf(error: unknown): string | undefined {
  if (error instanceof Error && "code" in error && typeof error.code === "string") {
    return error.code;
  }
  return undefined;
}
