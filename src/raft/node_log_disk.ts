/**
 * The log's disk over the machine's file system, through node:fs.
 *
 * Writes and reads are short synchronous positional calls (a copy to or from the page cache: one
 * hop to a thread costs more); the sync alone, which waits for the device, leaves the event loop.
 * Reads go through a descriptor of their own.
 */
import fs from "node:fs";
import { type Bytes, unshared } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { LogDisk, LogFile } from "./log_disk.ts";

const FULL = new Set(["ENOSPC", "EDQUOT", "EFBIG"]);

/** Turns a failure of the file system into the family's error. */
function diskError(what: string, path: string, cause: unknown): KisekiError {
  const errno = cause instanceof Error && "code" in cause ? String(cause.code) : "unknown";
  const full = FULL.has(errno);
  return new KisekiError(
    full ? "block.no_space" : "block.io",
    full
      ? `${path}: no space to ${what} (${errno}): make room and restart`
      : `${path}: cannot ${what} (${errno})`,
    { cause, details: { errno } },
  );
}

function attempt<T>(what: string, path: string, action: () => T): T {
  try {
    return action();
  } catch (cause) {
    throw diskError(what, path, cause);
  }
}

class NodeLogFile implements LogFile {
  readonly #path: string;
  readonly #writer: number;
  readonly #reader: number;

  constructor(path: string, writer: number, reader: number) {
    this.#path = path;
    this.#writer = writer;
    this.#reader = reader;
  }

  size(): Promise<number> {
    return Promise.resolve(
      attempt("stat", this.#path, () => fs.fstatSync(this.#reader).size),
    );
  }

  async read(into: Bytes, offset: number): Promise<number> {
    const target = unshared(into);
    let done = 0;
    while (done < into.length) {
      const n = attempt(
        "read",
        this.#path,
        () => fs.readSync(this.#reader, target, done, target.length - done, offset + done),
      );
      if (n === 0) break;
      done += n;
    }
    if (target !== into) into.set(target);
    return done;
  }

  async write(bytes: Bytes, offset: number): Promise<void> {
    const source = unshared(bytes);
    let done = 0;
    while (done < source.length) {
      const n = attempt(
        "write",
        this.#path,
        () => fs.writeSync(this.#writer, source, done, source.length - done, offset + done),
      );
      if (n === 0) throw new KisekiError("block.io", `${this.#path}: a write of nothing`);
      done += n;
    }
  }

  sync(): Promise<void> {
    return new Promise((resolve, reject) => {
      fs.fdatasync(this.#writer, (error) => {
        if (error === null || error === undefined) resolve();
        else reject(diskError("sync", this.#path, error));
      });
    });
  }

  async close(): Promise<void> {
    attempt("close", this.#path, () => fs.closeSync(this.#reader));
    attempt("close", this.#path, () => fs.closeSync(this.#writer));
  }
}

/** The machine's own file system. */
export const NODE_LOG_DISK: LogDisk = {
  async makeDirectory(path) {
    attempt(
      "create the directory",
      path,
      () => fs.mkdirSync(path, { recursive: true, mode: 0o700 }),
    );
  },
  async list(directory) {
    return attempt("list", directory, () => fs.readdirSync(directory));
  },
  async open(path, create) {
    const flags = fs.constants.O_RDWR | (create ? fs.constants.O_CREAT : 0);
    const writer = attempt("open", path, () => fs.openSync(path, flags, 0o600));
    try {
      const reader = attempt("open", path, () => fs.openSync(path, "r"));
      return new NodeLogFile(path, writer, reader);
    } catch (error) {
      fs.closeSync(writer);
      throw error;
    }
  },
  async rename(from, to) {
    attempt("rename", from, () => fs.renameSync(from, to));
  },
  async unlink(path) {
    attempt("remove", path, () => fs.unlinkSync(path));
  },
  async syncDirectory(directory) {
    const fd = attempt("open", directory, () => fs.openSync(directory, "r"));
    try {
      attempt("sync", directory, () => fs.fsyncSync(fd));
    } finally {
      fs.closeSync(fd);
    }
  },
};
