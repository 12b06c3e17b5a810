/**
 * Constants of the Linux kernel's interface, from the uapi headers named beside them.
 *
 * Invariant: values hold for x86-64 and aarch64; where the two differ the value is chosen by
 * `Deno.build.arch`.
 */

const ARM = Deno.build.arch === "aarch64";

/** open(2) flags: include/uapi/asm-generic/fcntl.h, arch/arm64/include/uapi/asm/fcntl.h. */
export const OpenFlag = {
  readOnly: 0,
  writeOnly: 1,
  readWrite: 2,
  create: 0o100,
  exclusive: 0o200,
  truncate: 0o1000,
  append: 0o2000,
  nonBlocking: 0o4000,
  dataSync: 0o10000,
  direct: ARM ? 0o200000 : 0o40000,
  directory: ARM ? 0o40000 : 0o200000,
  noFollow: ARM ? 0o100000 : 0o400000,
  noAccessTime: 0o1000000,
  closeOnExec: 0o2000000,
  sync: 0o4010000,
} as const;

/** The directory that relative paths of the *at calls start from: include/uapi/linux/fcntl.h. */
export const AT_WORKING_DIRECTORY = -100;

/** fallocate(2): include/uapi/linux/falloc.h. */
export const AllocateMode = { default: 0, keepSize: 1, punchHole: 2, zeroRange: 0x10 } as const;

/** flock(2): include/uapi/asm-generic/fcntl.h. */
export const LockMode = { shared: 1, exclusive: 2, nonBlocking: 4, unlock: 8 } as const;

/** getrlimit(2) resources: include/uapi/asm-generic/resource.h. */
export const ResourceLimit = { core: 4, openFiles: 7, lockedMemory: 8 } as const;
/** No limit. */
export const RLIM_INFINITY = 0xffff_ffff_ffff_ffffn;

/** Bits of st_mode: include/uapi/linux/stat.h. */
export const FileMode = {
  typeMask: 0o170000,
  regular: 0o100000,
  directory: 0o040000,
  blockDevice: 0o060000,
  permissionMask: 0o7777,
} as const;

/** include/uapi/linux/fs.h: _IOR(0x12, 114, size_t), _IO(0x12, n). */
export const Ioctl = {
  blockDeviceSize64: 0x8008_1272n,
  blockLogicalSectorSize: 0x1268n,
  blockPhysicalSectorSize: 0x127bn,
  blockDiscard: 0x1277n,
} as const;

/** madvise(2): include/uapi/asm-generic/mman-common.h. */
export const MADV_DONTDUMP = 16;
/** prctl(2): include/uapi/linux/prctl.h. */
export const PR_SET_DUMPABLE = 4;
/** clock_gettime(2): include/uapi/linux/time.h. */
export const CLOCK_BOOTTIME = 7;

/** Error numbers that callers tell apart: include/uapi/asm-generic/errno-base.h and errno.h. */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  EMLINK: 31,
  ERANGE: 34,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  EOPNOTSUPP: 95,
  EDQUOT: 122,
} as const;

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(Errno).map(([name, value]) => [value, name]),
);

/** The name of an error number, e.g. "ENOSPC"; "errno 999" for one not listed. */
export function errnoName(errno: number): string {
  const value = Math.abs(errno);
  return NAMES.get(value) ?? `errno ${value}`;
}
