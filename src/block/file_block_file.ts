/**
 * A device file or raw block device through the kernel's page cache.
 *
 * Short transfers are made at once on this thread (12 to 25 us for 64 KiB), long ones on the
 * runtime's file threads, so that the event loop never waits for megabytes. Syncs are always
 * asynchronous.
 *
 * Invariants: one opener at a time (flock); a short read or write is continued until done or an
 * error is raised; errno ENOSPC and EDQUOT become `block.no_space`, all others `block.io`.
 */
import fs from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { type Bytes, unshared } from "../common/bytes.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import { BLOCK_BYTES, type BlockFile } from "./ports.ts";

/** Transfers of fewer bytes than this are made on this thread. */
export const INLINE_TRANSFER_BYTES = 256 << 10;

/** Frees a range of a file or device; false where the kernel or device cannot. */
export type DiscardCall = (fd: number, offset: number, length: number, raw: boolean) => boolean;

export interface OpenFileOptions {
  /** Called for freed ranges. None: nothing is given back to the file system. */
  readonly discard?: DiscardCall;
  /** False for slow disks: reads never wait on this thread. Default true. */
  readonly inlineReads?: boolean;
}

/**
 * Makes a sparse file of `sizeBytes` for a device.
 *
 * @param sizeBytes Rounded down to 4 KiB.
 * @throws KisekiError `common.already_exists`, `block.io`, `block.no_space`.
 */
export async function createDeviceFile(path: string, sizeBytes: number): Promise<void> {
  try {
    const handle = await open(path, "wx", 0o600);
    try {
      await handle.truncate(sizeBytes - (sizeBytes % BLOCK_BYTES));
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (errnoName(error) === "EEXIST") {
      throw new KisekiError("common.already_exists", `${path} exists already`, { cause: error });
    }
    throw fileError(error, path, "creating the device file");
  }
}

/**
 * Opens and locks a device.
 *
 * @throws KisekiError `block.locked` when another process or opener holds it, `common.not_found`,
 *   `block.io`.
 */
export async function openFileBlockFile(
  path: string,
  options: OpenFileOptions = {},
): Promise<BlockFile> {
  const lock = lockDevice(path);
  try {
    const handle = await open(path, "r+");
    try {
      const raw = (await handle.stat()).isBlockDevice();
      const size = lock.seekSync(0, Deno.SeekMode.End);
      return new FileBlockFile(path, size - (size % BLOCK_BYTES), raw, handle, lock, options);
    } catch (error) {
      await handle.close();
      throw error;
    }
  } catch (error) {
    lock.close();
    throw isKisekiError(error) ? error : fileError(error, path, "opening");
  }
}

function lockDevice(path: string): Deno.FsFile {
  let file: Deno.FsFile;
  try {
    file = Deno.openSync(path, { read: true, write: true });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new KisekiError("common.not_found", `${path}: no such device`, { cause: error });
    }
    throw fileError(error, path, "opening");
  }
  let locked: boolean;
  try {
    locked = file.tryLockSync(true);
  } catch (error) {
    file.close();
    throw fileError(error, path, "locking");
  }
  if (locked) return file;
  file.close();
  throw new KisekiError(
    "block.locked",
    `${path} is in use by another process: stop it, or use another device`,
  );
}

class FileBlockFile implements BlockFile {
  readonly #fd: number;
  readonly #inlineReads: boolean;
  #closed = false;

  constructor(
    readonly name: string,
    readonly sizeBytes: number,
    private readonly raw: boolean,
    private readonly handle: FileHandle,
    private readonly lock: Deno.FsFile,
    private readonly options: OpenFileOptions,
  ) {
    this.#fd = handle.fd;
    this.#inlineReads = options.inlineReads ?? true;
  }

  async read(offset: number, into: Bytes): Promise<void> {
    const inline = this.#inlineReads && into.length < INLINE_TRANSFER_BYTES;
    // A shared buffer cannot be handed to the kernel by the runtime: read beside it, then copy.
    const target = into.buffer instanceof ArrayBuffer ? into : new Uint8Array(into.length);
    let done = 0;
    while (done < target.length) {
      let got: number;
      const want = target.length - done;
      try {
        got = inline
          ? fs.readSync(this.#fd, target, done, want, offset + done)
          : (await this.handle.read(target, done, want, offset + done)).bytesRead;
      } catch (error) {
        throw fileError(error, this.name, `reading ${want} bytes at ${offset + done}`);
      }
      if (got === 0) {
        throw new KisekiError("block.io", `${this.name} ends before ${offset + target.length}`);
      }
      done += got;
    }
    if (target !== into) into.set(target);
  }

  async write(offset: number, bytes: Bytes): Promise<void> {
    const inline = bytes.length < INLINE_TRANSFER_BYTES;
    const source = unshared(bytes);
    let done = 0;
    while (done < source.length) {
      const want = source.length - done;
      try {
        done += inline
          ? fs.writeSync(this.#fd, source, done, want, offset + done)
          : (await this.handle.write(source, done, want, offset + done)).bytesWritten;
      } catch (error) {
        throw fileError(error, this.name, `writing ${want} bytes at ${offset + done}`);
      }
    }
  }

  async sync(): Promise<void> {
    try {
      await this.handle.datasync();
    } catch (error) {
      throw fileError(error, this.name, "making writes durable");
    }
  }

  async discard(offset: number, length: number): Promise<void> {
    this.options.discard?.(this.#fd, offset, length, this.raw);
  }

  /** What the file system below a sparse device file can still take; no limit for raw devices. */
  async hostFreeBytes(): Promise<number> {
    if (this.raw) return Number.POSITIVE_INFINITY;
    const { bavail, bsize } = await fs.promises.statfs(this.name);
    return bavail * bsize;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await this.handle.close();
    } finally {
      this.lock.close();
    }
  }
}

function errnoName(error: unknown): string {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return typeof code === "string" ? code : "unknown";
}

function fileError(error: unknown, path: string, doing: string): KisekiError {
  const errno = errnoName(error);
  const full = errno === "ENOSPC" || errno === "EDQUOT";
  const reason = error instanceof Error ? error.message : String(error);
  return new KisekiError(
    full ? "block.no_space" : "block.io",
    `${path}: ${doing} failed: ${reason}`,
    { cause: error, details: { errno } },
  );
}
