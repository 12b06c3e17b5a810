/**
 * libc: files by descriptor, aligned memory, locks and limits.
 *
 * Every call that can fail returns a non-negative result or `-errno`, as the kernel does; nothing
 * here throws but opening the library. errno is read right after a synchronous call. A nonblocking
 * call ends on another thread and its errno cannot be read: reads and writes at an offset are
 * repeated synchronously to learn it (they are idempotent); a failed `fdatasyncAsync` is -EIO, for
 * a second sync after a failed one may report success over lost pages.
 *
 * Invariants: open one binding per isolate (errno belongs to the thread); nonblocking calls are for
 * 1 MiB and more, and for syncs: each costs some 50 us and one of the isolate's 32 threads.
 */
import {
  asBuffer,
  cString,
  type NativeBytes,
  NativeLibraryError,
  openLibrary,
  stringAt,
} from "./native_library.ts";
import {
  AT_WORKING_DIRECTORY,
  CLOCK_BOOTTIME,
  Errno,
  Ioctl,
  MADV_DONTDUMP,
  OpenFlag,
  PR_SET_DUMPABLE,
} from "./libc_constants.ts";

/** What one read or write moves at most (the kernel's MAX_RW_COUNT). */
export const MAX_TRANSFER_BYTES = 0x7fff_f000;
/** Most buffers of one vectored call (UIO_MAXIOV). */
export const MAX_VECTORS = 1024;

/** Memory from posix_memalign. `bytes` must not be touched after `free`. */
export interface AlignedBuffer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly pointer: Deno.PointerObject;
  /** Gives the memory back. A second call does nothing. */
  free(): void;
}

/** Part of `struct stat`. */
export interface FileStatus {
  readonly device: bigint;
  readonly inode: bigint;
  /** Type and permissions: see `FileMode`. */
  readonly mode: number;
  readonly userId: number;
  readonly sizeBytes: number;
  /** 512-byte units that are allocated. */
  readonly blocks512: number;
}

/** Part of `struct statfs`. */
export interface FileSystemStatus {
  readonly type: bigint;
  readonly blockSize: number;
  readonly totalBytes: number;
  readonly freeBytes: number;
  /** What an unprivileged user may still take. */
  readonly availableBytes: number;
}

/** Soft and hard value of a limit. */
export interface LimitPair {
  readonly soft: bigint;
  readonly hard: bigint;
}

const B = "buffer";
const I32 = "i32";
const I64 = "i64";
const SIZE = "usize";
const PTR = "pointer";

const SYMBOLS = {
  __errno_location: { parameters: [], result: PTR },
  gnu_get_libc_version: { parameters: [], result: PTR },
  posix_memalign: { parameters: [B, SIZE, SIZE], result: I32 },
  free: { parameters: [PTR], result: "void" },
  open: { parameters: [B, I32, "u32"], result: I32 },
  openat: { parameters: [I32, B, I32, "u32"], result: I32 },
  close: { parameters: [I32], result: I32 },
  pread: { parameters: [I32, B, SIZE, I64], result: I32 },
  preadAsync: { name: "pread", parameters: [I32, B, SIZE, I64], result: I32, nonblocking: true },
  pwrite: { parameters: [I32, B, SIZE, I64], result: I32 },
  pwriteAsync: { name: "pwrite", parameters: [I32, B, SIZE, I64], result: I32, nonblocking: true },
  preadv: { parameters: [I32, B, I32, I64], result: I32 },
  pwritev: { parameters: [I32, B, I32, I64], result: I32 },
  fsync: { parameters: [I32], result: I32 },
  fdatasync: { parameters: [I32], result: I32 },
  fdatasyncAsync: { name: "fdatasync", parameters: [I32], result: I32, nonblocking: true },
  fallocate: { parameters: [I32, I32, I64, I64], result: I32 },
  ftruncate: { parameters: [I32, I64], result: I32 },
  flock: { parameters: [I32, I32], result: I32 },
  renameat: { parameters: [I32, B, I32, B], result: I32 },
  ioctl: { parameters: [I32, "u64", B], result: I32 },
  fstatfs: { parameters: [I32, B], result: I32 },
  statfs: { parameters: [B, B], result: I32 },
  // glibc before 2.33 has fstat inline over __fxstat.
  fstat: { parameters: [I32, B], result: I32, optional: true },
  __fxstat: { parameters: [I32, I32, B], result: I32, optional: true },
  mlock: { parameters: [PTR, SIZE], result: I32 },
  munlock: { parameters: [PTR, SIZE], result: I32 },
  madvise: { parameters: [PTR, SIZE, I32], result: I32 },
  prctl: { parameters: [I32, "u64", "u64", "u64", "u64"], result: I32 },
  getrlimit: { parameters: [I32, B], result: I32 },
  setrlimit: { parameters: [I32, B], result: I32 },
  clock_gettime: { parameters: [I32, B], result: I32 },
} as const satisfies Deno.ForeignLibraryInterface;

/** Offsets in `struct stat` (asm/stat.h of each architecture). */
const STAT = Deno.build.arch === "aarch64"
  ? { size: 128, device: 0, inode: 8, mode: 16, userId: 24, fileSize: 48, blocks: 64, version: 0 }
  : { size: 144, device: 0, inode: 8, mode: 24, userId: 28, fileSize: 48, blocks: 64, version: 1 };
const STATFS_SIZE = 120;

/**
 * Opens libc for this isolate.
 *
 * @throws NativeLibraryError where it is not glibc or a symbol is missing.
 */
export function openLibc(path = "libc.so.6"): Libc {
  return new Libc(path);
}

/** The binding; see the module's comment for results and errno. */
export class Libc {
  readonly version: string;
  readonly #library: Deno.DynamicLibrary<typeof SYMBOLS>;
  readonly #c: Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];
  readonly #errno: Deno.UnsafePointerView;
  readonly #stat = new Uint8Array(STAT.size);

  constructor(path: string) {
    this.#library = openLibrary(path, SYMBOLS);
    this.#c = this.#library.symbols;
    const location = this.#c.__errno_location();
    if (location === null) throw new NativeLibraryError(path, "__errno_location gave no address");
    this.#errno = new Deno.UnsafePointerView(location);
    this.version = stringAt(this.#c.gnu_get_libc_version());
    if (this.#c.fstat === null && this.#c.__fxstat === null) {
      throw new NativeLibraryError(path, "neither fstat nor __fxstat is exported");
    }
  }

  /** Unloads the binding. For tests; a running node keeps it. */
  unload(): void {
    this.#library.close();
  }

  #result(value: number): number {
    return value >= 0 ? value : -this.#errno.getInt32();
  }

  /**
   * Memory aligned to `alignment` (a power of two, default 4096), not cleared.
   *
   * @throws RangeError on a size below 1 or when there is no memory.
   */
  allocateAligned(size: number, alignment = 4096): AlignedBuffer {
    if (!Number.isSafeInteger(size) || size < 1) throw new RangeError(`a buffer of ${size} bytes`);
    const slot = new BigUint64Array(1);
    const errno = this.#c.posix_memalign(
      new Uint8Array(slot.buffer),
      BigInt(alignment),
      BigInt(size),
    );
    const pointer = Deno.UnsafePointer.create(slot[0] ?? 0n);
    if (errno !== 0 || pointer === null) {
      throw new RangeError(`posix_memalign of ${size} bytes at ${alignment}: errno ${errno}`);
    }
    let freed = false;
    return {
      bytes: new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(pointer, size)),
      pointer,
      free: () => {
        if (freed) return;
        freed = true;
        this.#c.free(pointer);
      },
    };
  }

  /** open(2), always with O_CLOEXEC. @returns a descriptor or -errno. */
  open(path: string, flags: number, mode = 0o600): number {
    return this.#result(this.#c.open(cString(path), flags | OpenFlag.closeOnExec, mode));
  }

  /** openat(2), always with O_CLOEXEC. */
  openAt(directory: number, path: string, flags: number, mode = 0o600): number {
    return this.#result(
      this.#c.openat(directory, cString(path), flags | OpenFlag.closeOnExec, mode),
    );
  }

  /** close(2). The descriptor is gone even when this reports an error. */
  close(descriptor: number): number {
    return this.#result(this.#c.close(descriptor));
  }

  /** pread(2). @returns bytes read (0 at the end) or -errno. */
  pread(descriptor: number, into: NativeBytes, offset: number): number {
    if (into.length > MAX_TRANSFER_BYTES) return -Errno.EINVAL;
    return this.#result(
      this.#c.pread(descriptor, asBuffer(into), BigInt(into.length), BigInt(offset)),
    );
  }

  /** pread(2) on another thread; `into` must not be touched until it resolves. */
  async preadAsync(descriptor: number, into: NativeBytes, offset: number): Promise<number> {
    if (into.length > MAX_TRANSFER_BYTES) return -Errno.EINVAL;
    const size = BigInt(into.length);
    const read = await this.#c.preadAsync(descriptor, asBuffer(into), size, BigInt(offset));
    return read >= 0 ? read : this.pread(descriptor, into, offset);
  }

  /** pwrite(2). @returns bytes written, perhaps fewer than given, or -errno. */
  pwrite(descriptor: number, from: NativeBytes, offset: number): number {
    if (from.length > MAX_TRANSFER_BYTES) return -Errno.EINVAL;
    return this.#result(
      this.#c.pwrite(descriptor, asBuffer(from), BigInt(from.length), BigInt(offset)),
    );
  }

  /** pwrite(2) on another thread; `from` must not change until it resolves. */
  async pwriteAsync(descriptor: number, from: NativeBytes, offset: number): Promise<number> {
    if (from.length > MAX_TRANSFER_BYTES) return -Errno.EINVAL;
    const size = BigInt(from.length);
    const written = await this.#c.pwriteAsync(descriptor, asBuffer(from), size, BigInt(offset));
    return written >= 0 ? written : this.pwrite(descriptor, from, offset);
  }

  /** preadv(2) into at most {@link MAX_VECTORS} buffers. */
  preadv(descriptor: number, into: readonly NativeBytes[], offset: number): number {
    const vector = ioVector(into);
    if (vector === undefined) return -Errno.EINVAL;
    return this.#result(this.#c.preadv(descriptor, vector, into.length, BigInt(offset)));
  }

  /** pwritev(2) from at most {@link MAX_VECTORS} buffers; may write fewer bytes than given. */
  pwritev(descriptor: number, from: readonly NativeBytes[], offset: number): number {
    const vector = ioVector(from);
    if (vector === undefined) return -Errno.EINVAL;
    return this.#result(this.#c.pwritev(descriptor, vector, from.length, BigInt(offset)));
  }

  /** fsync(2): also for directories. */
  fsync(descriptor: number): number {
    return this.#result(this.#c.fsync(descriptor));
  }

  fdatasync(descriptor: number): number {
    return this.#result(this.#c.fdatasync(descriptor));
  }

  /** fdatasync(2) on another thread. @returns 0 or -EIO (whatever the reason). */
  async fdatasyncAsync(descriptor: number): Promise<number> {
    return await this.#c.fdatasyncAsync(descriptor) === 0 ? 0 : -Errno.EIO;
  }

  /** fallocate(2); modes in `AllocateMode`. */
  fallocate(descriptor: number, mode: number, offset: number, length: number): number {
    return this.#result(this.#c.fallocate(descriptor, mode, BigInt(offset), BigInt(length)));
  }

  ftruncate(descriptor: number, length: number): number {
    return this.#result(this.#c.ftruncate(descriptor, BigInt(length)));
  }

  /** flock(2); modes in `LockMode`. -EAGAIN when another holds it and nonBlocking was asked. */
  flock(descriptor: number, mode: number): number {
    return this.#result(this.#c.flock(descriptor, mode));
  }

  /** renameat(2) with paths relative to the working directory unless directories are given. */
  rename(
    from: string,
    to: string,
    fromDirectory = AT_WORKING_DIRECTORY,
    toDirectory = AT_WORKING_DIRECTORY,
  ): number {
    return this.#result(
      this.#c.renameat(fromDirectory, cString(from), toDirectory, cString(to)),
    );
  }

  /** fstat(2). @returns the status or -errno. */
  fstat(descriptor: number): FileStatus | number {
    const c = this.#c;
    const rc = c.fstat !== null
      ? c.fstat(descriptor, this.#stat)
      : c.__fxstat !== null
      ? c.__fxstat(STAT.version, descriptor, this.#stat)
      : -1;
    if (rc !== 0) return -this.#errno.getInt32();
    const view = new DataView(this.#stat.buffer);
    return {
      device: view.getBigUint64(STAT.device, true),
      inode: view.getBigUint64(STAT.inode, true),
      mode: view.getUint32(STAT.mode, true),
      userId: view.getUint32(STAT.userId, true),
      sizeBytes: Number(view.getBigInt64(STAT.fileSize, true)),
      blocks512: Number(view.getBigInt64(STAT.blocks, true)),
    };
  }

  /** statfs(2) of the file system that holds `path`. */
  statfs(path: string): FileSystemStatus | number {
    const buffer = new Uint8Array(STATFS_SIZE);
    const rc = this.#c.statfs(cString(path), buffer);
    return rc === 0 ? decodeStatfs(buffer) : -this.#errno.getInt32();
  }

  /** The same by descriptor. */
  fstatfs(descriptor: number): FileSystemStatus | number {
    const buffer = new Uint8Array(STATFS_SIZE);
    const rc = this.#c.fstatfs(descriptor, buffer);
    return rc === 0 ? decodeStatfs(buffer) : -this.#errno.getInt32();
  }

  /** Bytes of a block device. @returns the size or -errno (-ENOTTY for a plain file). */
  blockDeviceSize(descriptor: number): number {
    const out = new BigUint64Array(1);
    const rc = this.#c.ioctl(descriptor, Ioctl.blockDeviceSize64, new Uint8Array(out.buffer));
    return rc === 0 ? Number(out[0] ?? 0n) : -this.#errno.getInt32();
  }

  /** Logical sector size of a block device, the least alignment of O_DIRECT. */
  blockSectorSize(descriptor: number): number {
    const out = new Int32Array(1);
    const rc = this.#c.ioctl(descriptor, Ioctl.blockLogicalSectorSize, new Uint8Array(out.buffer));
    return rc === 0 ? out[0] ?? 0 : -this.#errno.getInt32();
  }

  /** TRIM of a range of a block device. */
  blockDiscard(descriptor: number, offset: number, length: number): number {
    const range = new BigUint64Array([BigInt(offset), BigInt(length)]);
    return this.#result(
      this.#c.ioctl(descriptor, Ioctl.blockDiscard, new Uint8Array(range.buffer)),
    );
  }

  /** Keeps pages of an aligned buffer in memory. -ENOMEM or -EPERM where the limit forbids it. */
  mlock(buffer: AlignedBuffer): number {
    return this.#result(this.#c.mlock(buffer.pointer, BigInt(buffer.bytes.length)));
  }

  munlock(buffer: AlignedBuffer): number {
    return this.#result(this.#c.munlock(buffer.pointer, BigInt(buffer.bytes.length)));
  }

  /** Leaves pages of an aligned buffer out of core dumps; it must be page-aligned. */
  excludeFromCoreDump(buffer: AlignedBuffer): number {
    return this.#result(
      this.#c.madvise(buffer.pointer, BigInt(buffer.bytes.length), MADV_DONTDUMP),
    );
  }

  /** prctl(PR_SET_DUMPABLE): no core dump and no ptrace by the same user when false. */
  setDumpable(dumpable: boolean): number {
    return this.#result(this.#c.prctl(PR_SET_DUMPABLE, dumpable ? 1n : 0n, 0n, 0n, 0n));
  }

  /** getrlimit(2); resources in `ResourceLimit`. */
  getLimit(resource: number): LimitPair | number {
    const pair = new BigUint64Array(2);
    const rc = this.#c.getrlimit(resource, new Uint8Array(pair.buffer));
    return rc === 0 ? { soft: pair[0] ?? 0n, hard: pair[1] ?? 0n } : -this.#errno.getInt32();
  }

  /** setrlimit(2). */
  setLimit(resource: number, limit: LimitPair): number {
    const pair = new BigUint64Array([limit.soft, limit.hard]);
    return this.#result(this.#c.setrlimit(resource, new Uint8Array(pair.buffer)));
  }

  /** CLOCK_BOOTTIME in milliseconds: never goes back, counts suspend. */
  bootTimeMs(): number {
    const out = new BigInt64Array(2);
    this.#c.clock_gettime(CLOCK_BOOTTIME, new Uint8Array(out.buffer));
    return Number(out[0] ?? 0n) * 1000 + Number(out[1] ?? 0n) / 1e6;
  }
}

function ioVector(buffers: readonly NativeBytes[]): Uint8Array<ArrayBuffer> | undefined {
  if (buffers.length > MAX_VECTORS) return undefined;
  const words = new BigUint64Array(2 * buffers.length);
  let total = 0;
  for (let i = 0; i < buffers.length; i++) {
    const buffer = buffers[i];
    if (buffer === undefined) return undefined;
    words[2 * i] = Deno.UnsafePointer.value(Deno.UnsafePointer.of(asBuffer(buffer)));
    words[2 * i + 1] = BigInt(buffer.length);
    total += buffer.length;
  }
  return total > MAX_TRANSFER_BYTES ? undefined : new Uint8Array(words.buffer);
}

function decodeStatfs(buffer: Uint8Array<ArrayBuffer>): FileSystemStatus {
  const view = new DataView(buffer.buffer);
  const blockSize = Number(view.getBigInt64(8, true));
  return {
    type: view.getBigUint64(0, true),
    blockSize,
    totalBytes: Number(view.getBigUint64(16, true)) * blockSize,
    freeBytes: Number(view.getBigUint64(24, true)) * blockSize,
    availableBytes: Number(view.getBigUint64(32, true)) * blockSize,
  };
}
