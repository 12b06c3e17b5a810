/**
 * Where a slot file lies: reads and writes at offsets, and a sync. A port, so that tests can lose
 * power at any instant; the real one is a file by descriptor.
 */
import type { Libc } from "../../ffi/libc.ts";
import { Errno, errnoName, FileMode, LockMode, OpenFlag } from "../../ffi/libc_constants.ts";
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";

/** Random access to one small file. */
export interface SlotStorage {
  /** Bytes from `offset`; zeros stand for what lies beyond the end. */
  read(offset: number, length: number): Bytes;
  write(offset: number, bytes: Bytes): void;
  /** Returns when everything written is durable. */
  sync(): Promise<void>;
  size(): number;
  close(): void;
}

/** Puts a new file of mode 0600 in place in one step: whole or not at all. */
export async function createSlotFile(libc: Libc, path: string, content: Bytes): Promise<void> {
  const temporary = `${path}.new`;
  // What a crash left behind may have another mode or be open elsewhere: never written into.
  await removeIfThere(temporary);
  const fd = libc.open(
    temporary,
    OpenFlag.readWrite | OpenFlag.create | OpenFlag.exclusive | OpenFlag.noFollow,
    0o600,
  );
  if (fd < 0) throw failed("create", temporary, fd);
  try {
    writeWhole(libc, fd, temporary, 0, content);
    const synced = await libc.fdatasyncAsync(fd);
    if (synced < 0) throw failed("sync", temporary, synced);
  } finally {
    libc.close(fd);
  }
  const renamed = libc.rename(temporary, path);
  if (renamed < 0) throw failed("rename", path, renamed);
  syncFolder(libc, path);
}

/** Syncs the folder that holds `path`, so that its name survives a power cut. */
export function syncFolder(libc: Libc, path: string): void {
  const folder = path.includes("/") ? path.slice(0, path.lastIndexOf("/")) || "/" : ".";
  const fd = libc.open(folder, OpenFlag.readOnly | OpenFlag.directory);
  if (fd < 0) throw failed("open", folder, fd);
  const synced = libc.fsync(fd);
  libc.close(fd);
  if (synced < 0) throw failed("sync", folder, synced);
}

async function removeIfThere(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/**
 * Opens a slot file and locks it for this process.
 *
 * The descriptor lives until the last sync ends, also past `close`: its number must not become
 * another file's while a write is on its way.
 *
 * @throws KisekiError `keys.unavailable` when it cannot be opened, is no file, is readable by
 *   others or is in use.
 */
export function openSlotStorage(libc: Libc, path: string): SlotStorage {
  const fd = libc.open(path, OpenFlag.readWrite | OpenFlag.noFollow);
  if (fd < 0) throw failed("open", path, fd);
  try {
    const status = libc.fstat(fd);
    if (typeof status === "number") throw failed("stat", path, status);
    if ((status.mode & FileMode.typeMask) !== FileMode.regular) {
      throw new KisekiError("keys.unavailable", `${path}: not a regular file`);
    }
    if ((status.mode & 0o077) !== 0) {
      throw new KisekiError(
        "keys.unavailable",
        `${path}: may be read by others: chmod 600 ${path}`,
      );
    }
    const locked = libc.flock(fd, LockMode.exclusive | LockMode.nonBlocking);
    if (locked === -Errno.EAGAIN) {
      throw new KisekiError("keys.unavailable", `${path}: in use by another process`);
    }
    if (locked < 0) throw failed("lock", path, locked);
  } catch (error) {
    libc.close(fd);
    throw error;
  }
  let closed = false;
  let syncs = 0;
  const live = (): void => {
    if (closed) throw new KisekiError("keys.unavailable", `${path}: was closed`);
  };
  return {
    read(offset, length) {
      live();
      const out = new Uint8Array(length);
      let done = 0;
      while (done < length) {
        const n = libc.pread(fd, out.subarray(done), offset + done);
        if (n < 0) throw failed("read", path, n);
        if (n === 0) break;
        done += n;
      }
      return out;
    },
    write(offset, bytes) {
      live();
      writeWhole(libc, fd, path, offset, bytes);
    },
    async sync() {
      live();
      syncs++;
      try {
        const synced = await libc.fdatasyncAsync(fd);
        if (synced < 0) throw failed("sync", path, synced);
      } finally {
        syncs--;
        if (closed && syncs === 0) libc.close(fd);
      }
    },
    size() {
      live();
      const status = libc.fstat(fd);
      if (typeof status === "number") throw failed("stat", path, status);
      return status.sizeBytes;
    },
    close() {
      if (closed) return;
      closed = true;
      if (syncs === 0) libc.close(fd);
    },
  };
}

function writeWhole(libc: Libc, fd: number, path: string, offset: number, bytes: Bytes): void {
  let done = 0;
  while (done < bytes.length) {
    const n = libc.pwrite(fd, bytes.subarray(done), offset + done);
    if (n < 0) throw failed("write", path, n);
    if (n === 0) throw failed("write", path, -Errno.ENOSPC);
    done += n;
  }
}

/** An error with the file, what was tried and errno. */
function failed(action: string, path: string, result: number): KisekiError {
  return new KisekiError(
    "keys.unavailable",
    `key slots: cannot ${action} ${path}: ${errnoName(result)}`,
    { details: { errno: -result } },
  );
}
