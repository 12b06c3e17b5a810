/** libc: results and errno, aligned memory, offsets of structures. */
import assert from "node:assert/strict";
import { openLibc } from "./libc.ts";
import {
  AllocateMode,
  Errno,
  errnoName,
  FileMode,
  LockMode,
  OpenFlag,
  ResourceLimit,
} from "./libc_constants.ts";

const libc = openLibc();

async function withFolder(body: (folder: string) => void | Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "kiseki-libc-" });
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("files are written, read, synced, sized and renamed by descriptor", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/a`;
    const fd = libc.open(path, OpenFlag.readWrite | OpenFlag.create | OpenFlag.exclusive, 0o640);
    assert.ok(fd >= 0);
    assert.equal(libc.open(path, OpenFlag.create | OpenFlag.exclusive), -Errno.EEXIST);
    const data = new Uint8Array(10_000).map((_, i) => i);
    assert.equal(libc.pwrite(fd, data, 4096), 10_000);
    assert.equal(libc.fdatasync(fd), 0);
    assert.equal(await libc.fdatasyncAsync(fd), 0);
    assert.equal(libc.fsync(fd), 0);
    const back = new Uint8Array(20_000);
    assert.equal(libc.pread(fd, back, 4096), 10_000);
    assert.deepEqual(back.subarray(0, 10_000), data);
    assert.equal(libc.pread(fd, back, 1 << 20), 0);
    const status = libc.fstat(fd);
    assert.ok(typeof status !== "number");
    assert.equal(status.sizeBytes, 14_096);
    assert.equal(status.mode & FileMode.typeMask, FileMode.regular);
    assert.equal(status.mode, (await Deno.stat(path)).mode);
    assert.equal(Number(status.inode), (await Deno.stat(path)).ino);
    assert.equal(libc.ftruncate(fd, 100), 0);
    assert.equal((await Deno.stat(path)).size, 100);
    assert.equal(libc.rename(path, `${folder}/b`), 0);
    assert.equal((await Deno.stat(`${folder}/b`)).size, 100);
    assert.equal(libc.rename(path, `${folder}/c`), -Errno.ENOENT);
    assert.equal(libc.close(fd), 0);
    assert.equal(libc.close(fd), -Errno.EBADF);
  });
});

Deno.test("calls off this thread move the same bytes and report errno", async () => {
  await withFolder(async (folder) => {
    const fd = libc.open(`${folder}/a`, OpenFlag.readWrite | OpenFlag.create);
    const data = new Uint8Array(1 << 20).map((_, i) => i >> 7);
    assert.equal(await libc.pwriteAsync(fd, data, 0), data.length);
    const back = new Uint8Array(1 << 20);
    assert.equal(await libc.preadAsync(fd, back, 0), data.length);
    assert.deepEqual(back, data);
    libc.close(fd);
    assert.equal(await libc.preadAsync(-1, back, 0), -Errno.EBADF);
    assert.equal(await libc.pwriteAsync(-1, back, 0), -Errno.EBADF);
    assert.equal(await libc.fdatasyncAsync(-1), -Errno.EIO);
  });
});

Deno.test("vectors, allocation and direct I/O", async () => {
  await withFolder((folder) => {
    const fd = libc.open(`${folder}/a`, OpenFlag.readWrite | OpenFlag.create);
    assert.equal(libc.pwritev(fd, [new Uint8Array([1, 2]), new Uint8Array([3])], 5), 3);
    const [a, b] = [new Uint8Array(1), new Uint8Array(2)];
    assert.equal(libc.preadv(fd, [a, b], 5), 3);
    assert.deepEqual([...a, ...b], [1, 2, 3]);
    assert.equal(libc.fallocate(fd, AllocateMode.keepSize, 0, 1 << 16), 0);
    const status = libc.fstat(fd);
    assert.ok(typeof status !== "number" && status.sizeBytes === 8 && status.blocks512 >= 128);
    libc.close(fd);
    const direct = libc.open(`${folder}/b`, OpenFlag.readWrite | OpenFlag.create | OpenFlag.direct);
    if (direct === -Errno.EINVAL) return; // tmpfs before Linux 6.6 knows no O_DIRECT
    const buffer = libc.allocateAligned(8192);
    assert.equal(Deno.UnsafePointer.value(buffer.pointer) % 4096n, 0n);
    buffer.bytes.fill(7);
    assert.equal(libc.pwrite(direct, buffer.bytes, 4096), 8192);
    buffer.free();
    buffer.free();
    libc.close(direct);
  });
});

Deno.test("a second holder of a lock is refused", async () => {
  await withFolder((folder) => {
    const first = libc.open(`${folder}/a`, OpenFlag.readWrite | OpenFlag.create);
    const second = libc.open(`${folder}/a`, OpenFlag.readWrite);
    const mode = LockMode.exclusive | LockMode.nonBlocking;
    assert.equal(libc.flock(first, mode), 0);
    assert.equal(libc.flock(second, mode), -Errno.EAGAIN);
    libc.close(first);
    assert.equal(libc.flock(second, mode), 0);
    libc.close(second);
  });
});

Deno.test("file systems, limits, clocks and key memory answer", () => {
  const status = libc.statfs("/");
  assert.ok(typeof status !== "number");
  assert.ok(status.totalBytes > 0 && status.availableBytes <= status.totalBytes);
  assert.equal(libc.statfs("/no/such/place"), -Errno.ENOENT);
  const core = libc.getLimit(ResourceLimit.core);
  assert.ok(typeof core !== "number");
  assert.equal(libc.setLimit(ResourceLimit.core, core), 0);
  const now = libc.bootTimeMs();
  assert.ok(now > 0 && libc.bootTimeMs() >= now);
  const buffer = libc.allocateAligned(4096);
  assert.equal(libc.excludeFromCoreDump(buffer), 0);
  const locked = libc.mlock(buffer);
  assert.ok(locked === 0 || locked === -Errno.ENOMEM || locked === -Errno.EPERM);
  if (locked === 0) assert.equal(libc.munlock(buffer), 0);
  buffer.free();
});

Deno.test("errno has names, and a path with a NUL never reaches C", () => {
  assert.equal(errnoName(-28), "ENOSPC");
  assert.equal(errnoName(9999), "errno 9999");
  assert.throws(() => libc.open("a\0b", 0), RangeError);
  assert.throws(() => libc.allocateAligned(0), RangeError);
  assert.equal(libc.blockDeviceSize(-1), -Errno.EBADF);
});
