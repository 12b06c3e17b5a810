/**
 * A device file or raw block device over libc.
 *
 * Through the page cache by default: short transfers are made at once on this thread (some 10 to
 * 20 us for 64 KiB), long ones and all syncs on other threads, so that the event loop never waits
 * for megabytes or for a disk. With `direct` the page cache is left out: every transfer is made on
 * another thread, and memory that is not aligned goes through an aligned buffer. Shared memory is
 * read and written where it lies.
 *
 * Invariants: one opener at a time (flock); a short read or write is continued until it is done or
 * an error is raised; ENOSPC and EDQUOT become `block.no_space`, all others `block.io`.
 */
import type { AlignedBuffer, Libc } from "../../ffi/libc.ts";
import {
  AllocateMode,
  Errno,
  errnoName,
  FileMode,
  LockMode,
  OpenFlag,
} from "../../ffi/libc_constants.ts";
import { asBuffer } from "../../ffi/native_library.ts";
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { BLOCK_BYTES, type BlockFile } from "./ports.ts";

/** Transfers of fewer bytes than this are made on this thread. */
export const INLINE_TRANSFER_BYTES = 512 << 10;
/** Size of an aligned buffer for O_DIRECT. */
const STAGING_BYTES = 1 << 20;
/** Aligned buffers that are kept for the next transfer. */
const MAX_IDLE_STAGING = 8;

export interface OpenFileOptions {
  /** The isolate's binding. */
  readonly libc: Libc;
  /** Past the page cache (O_DIRECT). Default false. */
  readonly direct?: boolean;
  /** False for slow disks: reads never wait on this thread. Default true. */
  readonly inlineReads?: boolean;
  /** Whether freed ranges are given back (punch hole, TRIM). Default true. */
  readonly discard?: boolean;
}

/**
 * Makes a sparse file of `sizeBytes` for a device.
 *
 * @param sizeBytes Rounded down to 4 KiB.
 * @throws KisekiError `common.already_exists`, `block.io`.
 */
export async function createDeviceFile(path: string, sizeBytes: number): Promise<void> {
  try {
    using file = await Deno.open(path, { write: true, createNew: true, mode: 0o600 });
    await file.truncate(sizeBytes - (sizeBytes % BLOCK_BYTES));
    await file.sync();
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) {
      throw new KisekiError("common.already_exists", `${path} exists already`, { cause: error });
    }
    const reason = error instanceof Error ? error.message : String(error);
    throw new KisekiError("block.io", `${path}: making the device file failed: ${reason}`, {
      cause: error,
    });
  }
}

/**
 * Opens and locks a device.
 *
 * @throws KisekiError `block.locked` when another process or opener holds it, `common.not_found`,
 *   `common.invalid_argument` when it is neither a file nor a block device, `block.io`.
 */
export async function openFileBlockFile(
  path: string,
  options: OpenFileOptions,
): Promise<BlockFile> {
  const { libc } = options;
  const flags = OpenFlag.readWrite | (options.direct === true ? OpenFlag.direct : 0);
  const descriptor = libc.open(path, flags);
  if (descriptor === -Errno.ENOENT) {
    throw new KisekiError("common.not_found", `${path}: no such device`);
  }
  if (descriptor < 0) throw failure(path, "opening", descriptor);
  try {
    const locked = libc.flock(descriptor, LockMode.exclusive | LockMode.nonBlocking);
    if (locked === -Errno.EAGAIN) {
      throw new KisekiError(
        "block.locked",
        `${path} is in use by another process: stop it, or use another device`,
      );
    }
    if (locked < 0) throw failure(path, "locking", locked);
    const status = libc.fstat(descriptor);
    if (typeof status === "number") throw failure(path, "looking at", status);
    const type = status.mode & FileMode.typeMask;
    if (type !== FileMode.regular && type !== FileMode.blockDevice) {
      throw new KisekiError(
        "common.invalid_argument",
        `${path} is neither a file nor a block device`,
      );
    }
    const raw = type === FileMode.blockDevice;
    const size = raw ? libc.blockDeviceSize(descriptor) : status.sizeBytes;
    if (size < 0) throw failure(path, "measuring", size);
    return new FileBlockFile(path, size - (size % BLOCK_BYTES), descriptor, raw, options);
  } catch (error) {
    libc.close(descriptor);
    throw error;
  }
}

class FileBlockFile implements BlockFile {
  readonly #libc: Libc;
  readonly #direct: boolean;
  readonly #inlineReads: boolean;
  readonly #discards: boolean;
  readonly #staging: AlignedBuffer[] = [];
  #closed = false;

  constructor(
    readonly name: string,
    readonly sizeBytes: number,
    private readonly descriptor: number,
    private readonly raw: boolean,
    options: OpenFileOptions,
  ) {
    this.#libc = options.libc;
    this.#direct = options.direct ?? false;
    this.#inlineReads = options.inlineReads ?? true;
    this.#discards = options.discard ?? true;
  }

  async read(offset: number, into: Bytes): Promise<void> {
    if (!this.#direct || isAligned(into)) return await this.#read(offset, into);
    await this.#staged(into.length, async (buffer, at) => {
      await this.#read(offset + at, buffer);
      into.set(buffer, at);
    });
  }

  async write(offset: number, bytes: Bytes): Promise<void> {
    if (!this.#direct || isAligned(bytes)) return await this.#write(offset, bytes);
    await this.#staged(bytes.length, async (buffer, at) => {
      buffer.set(bytes.subarray(at, at + buffer.length));
      await this.#write(offset + at, buffer);
    });
  }

  async #read(offset: number, into: Bytes): Promise<void> {
    const inline = this.#inlineReads && !this.#direct && into.length < INLINE_TRANSFER_BYTES;
    for (let done = 0; done < into.length;) {
      const rest = done === 0 ? into : into.subarray(done);
      const read = inline
        ? this.#libc.pread(this.descriptor, rest, offset + done)
        : await this.#libc.preadAsync(this.descriptor, rest, offset + done);
      if (read === -Errno.EINTR) continue;
      if (read < 0) throw failure(this.name, `reading ${rest.length} bytes at ${offset}`, read);
      if (read === 0) {
        throw new KisekiError("block.io", `${this.name} ends before ${offset + into.length}`);
      }
      done += read;
    }
  }

  async #write(offset: number, bytes: Bytes): Promise<void> {
    const inline = !this.#direct && bytes.length < INLINE_TRANSFER_BYTES;
    for (let done = 0; done < bytes.length;) {
      const rest = done === 0 ? bytes : bytes.subarray(done);
      const written = inline
        ? this.#libc.pwrite(this.descriptor, rest, offset + done)
        : await this.#libc.pwriteAsync(this.descriptor, rest, offset + done);
      if (written === -Errno.EINTR) continue;
      if (written < 0) {
        throw failure(this.name, `writing ${rest.length} bytes at ${offset}`, written);
      }
      done += written;
    }
  }

  async #staged(
    length: number,
    transfer: (buffer: Bytes, at: number) => Promise<void>,
  ): Promise<void> {
    const staging = this.#staging.pop() ?? this.#libc.allocateAligned(STAGING_BYTES, BLOCK_BYTES);
    try {
      for (let at = 0; at < length; at += STAGING_BYTES) {
        await transfer(staging.bytes.subarray(0, Math.min(STAGING_BYTES, length - at)), at);
      }
    } finally {
      if (this.#staging.length < MAX_IDLE_STAGING && !this.#closed) this.#staging.push(staging);
      else staging.free();
    }
  }

  async sync(): Promise<void> {
    const rc = await this.#libc.fdatasyncAsync(this.descriptor);
    if (rc < 0) throw failure(this.name, "making writes durable", rc);
  }

  async discard(offset: number, length: number): Promise<void> {
    if (!this.#discards) return;
    const mode = AllocateMode.punchHole | AllocateMode.keepSize;
    const rc = this.raw
      ? this.#libc.blockDiscard(this.descriptor, offset, length)
      : this.#libc.fallocate(this.descriptor, mode, offset, length);
    if (rc < 0 && rc !== -Errno.EOPNOTSUPP) throw failure(this.name, "discarding", rc);
  }

  async hostFreeBytes(): Promise<number> {
    if (this.raw) return Number.POSITIVE_INFINITY;
    const status = this.#libc.fstatfs(this.descriptor);
    if (typeof status === "number") throw failure(this.name, "asking its file system", status);
    return status.availableBytes;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const buffer of this.#staging) buffer.free();
    // The lock goes with the descriptor.
    const rc = this.#libc.close(this.descriptor);
    if (rc < 0) throw failure(this.name, "closing", rc);
  }
}

function isAligned(bytes: Bytes): boolean {
  const address = Deno.UnsafePointer.value(Deno.UnsafePointer.of(asBuffer(bytes)));
  return address % BigInt(BLOCK_BYTES) === 0n && bytes.length % BLOCK_BYTES === 0;
}

function failure(path: string, doing: string, result: number): KisekiError {
  const errno = -result;
  const full = errno === Errno.ENOSPC || errno === Errno.EDQUOT;
  return new KisekiError(
    full ? "block.no_space" : "block.io",
    `${path}: ${doing} failed: ${errnoName(errno)}`,
    { details: { errno } },
  );
}
