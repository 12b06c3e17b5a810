import assert from "node:assert/strict";
import { join } from "node:path";
import { openLibc } from "../../ffi/libc.ts";
import { type Bytes, utf8 } from "../common/bytes.ts";
import { type ErrorCode, isKisekiError, KisekiError } from "../common/errors.ts";
import { type ClusterId, type DeviceId, newId128 } from "../common/ids.ts";
import { formatDevice, identifyDevice, openBlockDevice } from "./block_device.ts";
import { createDeviceFile, openFileBlockFile } from "./file_block_file.ts";
import { GroupSync } from "./group_sync.ts";
import { MemoryBlockFile } from "./memory_block_file.ts";
import type { BlockFile } from "./ports.ts";
import { HEAD_BYTES } from "./superblock.ts";

const CLUSTER = newId128<ClusterId>();
const DEVICE = newId128<DeviceId>();
const SIZE = 16 << 20;

const code = (wanted: ErrorCode) => (error: unknown): boolean => isKisekiError(error, wanted);

async function formatted(file: BlockFile = new MemoryBlockFile(SIZE)) {
  const superblock = await formatDevice(file, { cluster: CLUSTER, device: DEVICE, nowMs: 1 });
  return { file, superblock };
}

const FOREIGN: readonly (readonly [string, number, Bytes])[] = [
  ["XFS", 0, utf8("XFSB")],
  ["ext4", 0x438, new Uint8Array([0x53, 0xef])],
  ["GPT", 512, utf8("EFI PART")],
  ["LVM", 512, utf8("LABELONE")],
  ["LUKS", 0, new Uint8Array([0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe])],
  ["Btrfs", 0x10040, utf8("_BHRfS_M")],
  ["RAID", 4096, new Uint8Array([0xfc, 0x4e, 0x2b, 0xa9])],
  ["unknown kind", 1_000_000, new Uint8Array([1])],
  ["backup GPT", SIZE - 512, utf8("EFI PART")],
];

for (const [name, offset, magic] of FOREIGN) {
  Deno.test(`a device with ${name} is formatted by force alone`, async () => {
    const image = new Uint8Array(SIZE);
    image.set(magic, offset);
    const file = new MemoryBlockFile(image);
    const options = { cluster: CLUSTER, device: DEVICE, nowMs: 1 };
    await assert.rejects(formatDevice(file, options), (error: Error) => {
      return code("block.foreign_device")(error) && error.message.includes(name);
    });
    await formatDevice(file, { ...options, force: true });
    assert.equal((await identifyDevice(file, CLUSTER)).device, DEVICE);
  });
}

Deno.test("a device of another cluster is neither opened nor formatted", async () => {
  const { file } = await formatted();
  const other = newId128<ClusterId>();
  await assert.rejects(identifyDevice(file, other), code("block.foreign_device"));
  await assert.rejects(
    formatDevice(file, { cluster: other, device: DEVICE, nowMs: 1 }),
    code("block.foreign_device"),
  );
});

Deno.test("an empty device is not opened, a small one not formatted, a shrunken one refused", async () => {
  await assert.rejects(
    identifyDevice(new MemoryBlockFile(SIZE), CLUSTER),
    code("block.foreign_device"),
  );
  await assert.rejects(
    formatted(new MemoryBlockFile(8 << 20)),
    code("common.invalid_argument"),
  );
  const image = new Uint8Array(SIZE + 4096);
  const { file } = await formatted(new MemoryBlockFile(image));
  const head = new Uint8Array(SIZE);
  await file.read(0, head);
  await assert.rejects(identifyDevice(new MemoryBlockFile(head), CLUSTER), code("block.io"));
});

Deno.test("extents come back byte for byte, in every range, padded to whole blocks", async () => {
  const { file, superblock } = await formatted();
  const device = openBlockDevice(file, superblock, []);
  const data = Uint8Array.from({ length: 10_000 }, (_, i) => i * 7);
  const extent = device.allocate(data.length);
  await device.write(extent, data);
  await device.sync();
  assert.equal(device.capacityBytes - device.freeBytes, 3 * 4096);
  for (const [from, to] of [[0, 10_000], [1, 2], [4095, 4097], [8192, 10_000], [5000, 5000]]) {
    assert.ok(from !== undefined && to !== undefined);
    const wanted = data.subarray(from, to);
    assert.deepEqual(await device.read(extent, from, to - from), wanted);
    const into = new Uint8Array(to - from);
    await device.read(extent, from, to - from, into);
    assert.deepEqual(into, wanted);
  }
  await assert.rejects(device.read(extent, 9999, 2), code("common.invalid_argument"));
});

Deno.test("a full device says so; what is freed is discarded and can be used again", async () => {
  const { file, superblock } = await formatted();
  const device = openBlockDevice(file, superblock, []);
  const all = device.allocate(device.capacityBytes);
  assert.throws(() => device.allocate(1), code("block.no_space"));
  const data = new Uint8Array(all.length).fill(9);
  await device.write(all, data);
  device.free(all);
  await device.close();
  assert.equal(device.freeBytes, device.capacityBytes);
  const block = new Uint8Array(4096);
  await file.read(HEAD_BYTES, block);
  assert.deepEqual(block, new Uint8Array(4096));
});

Deno.test("the free list is rebuilt from the extents that the index names", async () => {
  const { file, superblock } = await formatted();
  const used = [{ offset: HEAD_BYTES + 4096, length: 5000 }];
  const device = openBlockDevice(file, superblock, used);
  assert.equal(device.allocate(4096).offset, HEAD_BYTES);
  assert.equal(device.allocate(4096).offset, HEAD_BYTES + 3 * 4096);
  assert.throws(
    () => openBlockDevice(file, superblock, [...used, { offset: HEAD_BYTES + 8192, length: 1 }]),
    code("common.corrupt_format"),
  );
});

Deno.test("waiters of one moment share a sync, and none is covered by one that began before", async () => {
  const syncs: (() => void)[] = [];
  const group = new GroupSync(() => new Promise((resolve) => syncs.push(resolve)));
  const first = group.wait();
  const later = [group.wait(), group.wait(), group.wait()];
  assert.equal(syncs.length, 1);
  syncs[0]?.();
  await first;
  await Promise.resolve();
  assert.equal(syncs.length, 2);
  syncs[1]?.();
  await Promise.all(later);
  assert.equal(group.rounds, 2);
});

Deno.test("after a failed sync nothing is promised any more", async () => {
  let calls = 0;
  const group = new GroupSync(async () => {
    calls++;
    throw new KisekiError("block.io", "no");
  });
  const waits = [group.wait(), group.wait()];
  for (const wait of waits) await assert.rejects(wait, code("block.io"));
  await assert.rejects(group.wait(), code("block.io"));
  assert.equal(calls, 1);
});

Deno.test("a device file is locked, comes back after closing, and gives freed blocks back", async () => {
  const directory = await Deno.makeTempDir();
  const libc = openLibc();
  try {
    const path = join(directory, "d");
    await createDeviceFile(path, SIZE + 100);
    await assert.rejects(createDeviceFile(path, SIZE), code("common.already_exists"));
    const file = await openFileBlockFile(path, { libc });
    await assert.rejects(openFileBlockFile(path, { libc }), code("block.locked"));
    assert.equal(file.sizeBytes, SIZE);
    const { superblock } = await formatted(file);
    const device = openBlockDevice(file, superblock, []);
    const data = crypto.getRandomValues(new Uint8Array(60_000));
    const big = new Uint8Array(3_000_001).fill(5);
    const [a, b] = [device.allocate(data.length), device.allocate(big.length)];
    await Promise.all([device.write(a, data), device.write(b, big)]);
    await device.sync();
    const full = (await Deno.stat(path)).blocks ?? 0;
    device.free(b);
    await device.close();
    assert.ok(((await Deno.stat(path)).blocks ?? 0) < full - 5000);
    for (const direct of [false, true]) {
      const again = await openFileBlockFile(path, { libc, direct });
      const reopened = openBlockDevice(again, await identifyDevice(again, CLUSTER), [a]);
      assert.deepEqual(await reopened.read(a, 0, a.length), data);
      const shared = new Uint8Array(new SharedArrayBuffer(8192), 0, 8192);
      await reopened.read(a, 4096, 8192, shared);
      assert.deepEqual(new Uint8Array(shared), data.slice(4096, 4096 + 8192));
      const c = reopened.allocate(100_000);
      await reopened.write(c, big.subarray(1, 100_001));
      await reopened.sync();
      assert.deepEqual(await reopened.read(c, 0, 100_000), big.subarray(0, 100_000));
      await reopened.close();
    }
  } finally {
    libc.unload();
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("a missing device and a directory are refused", async () => {
  const directory = await Deno.makeTempDir();
  const libc = openLibc();
  try {
    await assert.rejects(
      openFileBlockFile(join(directory, "x"), { libc }),
      code("common.not_found"),
    );
    await assert.rejects(openFileBlockFile(directory, { libc }), code("block.io"));
  } finally {
    libc.unload();
    await Deno.remove(directory);
  }
});
