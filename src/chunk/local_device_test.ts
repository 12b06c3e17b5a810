import assert from "node:assert/strict";
import { copyFile } from "node:fs/promises";
import { openFileBlockFile } from "../block/file_block_file.ts";
import { crc32c } from "../common/crc32c.ts";
import { type ErrorCode, isKisekiError } from "../common/errors.ts";
import { type DeviceId, newId128 } from "../common/ids.ts";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { chunkIdOf, DeviceRig, indexPath, pattern, type RigDevice } from "./device_rig.ts";
import { formatLocalDevice, openLocalDevice } from "./local_device.ts";
import type { LocalFragmentStore } from "./fragment_store.ts";
import type { FragmentHeader } from "./ports.ts";

const INCARNATION = "0123456789abcdef";
const code = (wanted: ErrorCode) => (error: unknown): boolean => isKisekiError(error, wanted);

function headerOf(rig: DeviceRig, seed: number, size: number): FragmentHeader {
  return {
    chunk: chunkIdOf(seed),
    incarnation: INCARNATION,
    organisation: rig.organisation,
    fragment: 0,
    scheme: { scheme: "copies", copies: 2 },
    envelopeBytes: size,
    plaintextBytes: 1,
    placementVersion: 1,
    writtenMs: 5,
    wrappedDek: pattern(seed, 60),
  };
}

async function putOne(rig: DeviceRig, store: LocalFragmentStore, seed: number, size = 5000) {
  await store.put(headerOf(rig, seed, size), pattern(seed + 9, size));
}

function only(rig: DeviceRig): { device: RigDevice; store: LocalFragmentStore } {
  const [device] = rig.devices;
  assert.ok(device !== undefined);
  const store = rig.stores.get(device.id);
  assert.ok(store !== undefined);
  return { device, store };
}

Deno.test("a fragment is put once, read in part, rewrapped, listed and removed", async () => {
  await using rig = await DeviceRig.create(1);
  const { store } = only(rig);
  await putOne(rig, store, 1, 200_000);
  const used = (await store.usage()).usedBytes;
  await putOne(rig, store, 1, 200_000);
  assert.equal((await store.usage()).usedBytes, used);
  const into = new Uint8Array(new SharedArrayBuffer(70_000));
  const part = await store.get(chunkIdOf(1), INCARNATION, 0, 65_536, 70_000, into);
  assert.equal(part?.data, into);
  assert.deepEqual(into.slice(), pattern(10, 200_000).slice(65_536, 135_536));
  assert.equal(await store.get(chunkIdOf(1), "f".repeat(16), 0, 0), undefined);
  await assert.rejects(
    store.get(chunkIdOf(1), INCARNATION, 0, 1, 200_000),
    code("common.invalid_argument"),
  );
  await store.rewrap(chunkIdOf(1), INCARNATION, 0, pattern(77, 60));
  assert.deepEqual((await store.head(chunkIdOf(1), INCARNATION, 0))?.wrappedDek, pattern(77, 60));
  assert.equal((await store.list(undefined, 10)).length, 1);
  await store.remove(chunkIdOf(1), INCARNATION, 0);
  assert.equal(await store.head(chunkIdOf(1), INCARNATION, 0), undefined);
});

Deno.test("a listing walks all fragments in order of chunk id and never cuts a chunk in two", async () => {
  await using rig = await DeviceRig.create(1);
  const { store } = only(rig);
  const wanted: string[] = [];
  for (let seed = 0; seed < 20; seed++) {
    for (let fragment = 0; fragment <= seed % 3; fragment++) {
      const scheme = { scheme: "copies", copies: 5 } as const;
      await store.put({ ...headerOf(rig, seed, 100), scheme, fragment }, pattern(seed, 100));
      wanted.push(`${chunkIdOf(seed)}:${fragment}`);
    }
  }
  for (const limit of [1, 2, 3, 7, 100]) {
    const seen: string[] = [];
    let cursor: FragmentHeader | undefined;
    do {
      const page = await store.list(cursor?.chunk, limit);
      cursor = page.at(-1);

      seen.push(...page.map((header) => `${header.chunk}:${header.fragment}`));
    } while (cursor !== undefined);
    assert.deepEqual(seen, wanted.toSorted());
  }
});

Deno.test("a device is locked against a second opener, and open again after closing", async () => {
  await using rig = await DeviceRig.create(1);
  const { device } = only(rig);
  await assert.rejects(rig.open(device), code("block.locked"));
  await rig.restart();
  assert.equal((await only(rig).store.usage()).state, "ok");
});

for (const which of ["device", "index"] as const) {
  Deno.test(`an old copy of the ${which} is refused`, async () => {
    await using rig = await DeviceRig.create(1);
    const { device } = only(rig);
    await rig.close(device);
    const path = which === "device" ? device.path : indexPath(device);
    await copyFile(path, `${path}.old`);
    await rig.open(device);
    await putOne(rig, only(rig).store, 1);
    await rig.close(device);
    await copyFile(`${path}.old`, path);
    await assert.rejects(
      rig.open(device),
      (error: Error) =>
        code("common.failed_precondition")(error) &&
        error.message.includes(`the ${which} is an old`),
    );
  });
}

Deno.test("the index of another device, or none, is refused", async () => {
  await using rig = await DeviceRig.create(2);
  const [a, b] = rig.devices;
  assert.ok(a !== undefined && b !== undefined);
  await rig.close(a);
  await rig.close(b);
  await copyFile(indexPath(b), indexPath(a));
  await assert.rejects(rig.open(a), code("common.failed_precondition"));
  await Deno.remove(indexPath(a));
  await assert.rejects(rig.open(a), code("common.not_found"));
});

Deno.test("an index that is no database is refused as damaged", async () => {
  await using rig = await DeviceRig.create(1);
  const { device } = only(rig);
  await rig.close(device);
  await Deno.writeFile(indexPath(device), pattern(1, 8192));
  await assert.rejects(rig.open(device), code("common.corrupt_format"));
});

Deno.test("formatting by force forgets what was there", async () => {
  await using rig = await DeviceRig.create(1);
  const { device, store } = only(rig);
  await putOne(rig, store, 1);
  await rig.close(device);
  const file = await openFileBlockFile(device.path, { libc: rig.libc });
  const options = {
    cluster: rig.cluster,
    indexPath: indexPath(device),
    device: newId128<DeviceId>(),
    nowMs: 1,
  };
  await assert.rejects(formatLocalDevice(file, options), code("block.foreign_device"));
  await formatLocalDevice(file, { ...options, force: true });
  const fresh = await openLocalDevice(file, { ...options, crc32c });
  assert.deepEqual((await fresh.usage()).fragments, 0);
  await fresh.close();
});

Deno.test("wherever the tail of the write-ahead file is cut or torn, what was acknowledged before is there", async () => {
  const random = seededRandom(testSeed("index tail"));
  await using rig = await DeviceRig.create(1);
  const { device, store } = only(rig);
  await putOne(rig, store, 0);
  const wal = `${indexPath(device)}-wal`;
  const sizes: number[] = [];
  for (let seed = 1; seed <= 12; seed++) {
    await putOne(rig, store, seed);
    sizes.push((await Deno.stat(wal)).size);
  }
  // As after kill -9: the files as they are, without the closing checkpoint.
  const database = await Deno.readFile(indexPath(device));
  const log = await Deno.readFile(wal);
  const image = `${device.path}.image`;
  await copyFile(device.path, image);
  for (let round = 0; round < testRounds(150); round++) {
    const cut = Math.floor(random() * (log.length + 1));
    const tail = log.slice(0, cut);
    const from = Math.max(0, cut - 600);
    if (random() < 0.5) tail.subarray(from).forEach((_, i) => tail[from + i] = random() * 256);
    const whole = sizes.filter((size) => size <= from).length;
    await rig.close(device);
    await Deno.writeFile(indexPath(device), database);
    await Deno.writeFile(wal, tail);
    await copyFile(image, device.path);
    let again: LocalFragmentStore;
    try {
      again = await rig.open(device);
    } catch (error) {
      // So much was cut off that the tables themselves are gone: those were durable long before.
      assert.ok(isKisekiError(error) && cut < (sizes[0] ?? 0), String(error));
      continue;
    }
    let seed = 1;
    while (await again.head(chunkIdOf(seed), INCARNATION, 0) !== undefined) seed++;
    assert.ok(seed - 1 >= whole, `${seed - 1} of ${whole} fragments after a cut at ${cut}`);
    for (let s = 1; s < seed; s++) {
      const read = await again.get(chunkIdOf(s), INCARNATION, 0, 0);
      assert.deepEqual(read?.data, pattern(s + 9, 5000));
    }
  }
});
