import assert from "node:assert/strict";
import { openFileBlockFile } from "../block/file_block_file.ts";
import { VirtualClock } from "../common/clock.ts";
import type { CompositionId, DeviceId, OperationId } from "../common/ids.ts";
import { isKisekiError } from "../common/errors.ts";
import { DeviceChunkStore, PRIVATE_MEMORY } from "./chunk_store.ts";
import { COLLECTION_GRACE_MS, Collector } from "./collector.ts";
import { DeviceRig, indexPath, type RigDevice } from "./device_rig.ts";
import { PORTABLE_CODER } from "./erasure_code.ts";
import type { Finding } from "./finding.ts";
import { formatLocalDevice } from "./local_device.ts";
import { MemoryLedger } from "./memory_ledger.ts";
import type { ChunkRecord, Durability, Reference, SealedChunk } from "./ports.ts";
import { ChunkRepair } from "./repair.ts";
import { scrub, type ScrubCursor, type ScrubReport } from "./scrub.ts";

const CODE_2_2: Durability = { scheme: "erasure", data: 2, parity: 2 };

class House {
  readonly clock = new VirtualClock();
  readonly ledger = new MemoryLedger();
  readonly findings: Finding[] = [];
  readonly store: DeviceChunkStore;
  readonly repair: ChunkRepair;
  readonly collector: Collector;
  readonly chunks: SealedChunk[] = [];

  constructor(readonly rig: DeviceRig, durability: Durability) {
    this.store = new DeviceChunkStore({
      pools: [{ name: "p", durability, devices: rig.placement(), placementVersion: 1 }],
      stores: rig.stores,
      coder: PORTABLE_CODER,
      clock: this.clock,
      report: (finding) => this.findings.push(finding),
    });
    this.repair = new ChunkRepair({
      stores: rig.stores,
      pool: (name) => this.store.pool(name),
      coder: PORTABLE_CODER,
      memory: PRIVATE_MEMORY,
      ledger: this.ledger,
      placements: this.ledger,
    });
    this.collector = new Collector({
      ledger: this.ledger,
      chunks: this.store,
      stores: rig.stores,
      clock: this.clock,
    });
  }

  async fill(count: number): Promise<void> {
    for (let seed = 0; seed < count; seed++) {
      const chunk = this.rig.chunk(seed, 20_000 + seed * 1000);
      const record = await this.store.put(chunk, "p");
      await this.ledger.record(chunk.organisation, [{ reference: referenceOf(chunk), record }]);
      this.chunks.push(chunk);
    }
  }

  recordOf(chunk: SealedChunk): ChunkRecord {
    const record = this.ledger.entries.get(chunk.chunk)?.record;
    assert.ok(record !== undefined);
    return record;
  }

  async checkAll(): Promise<void> {
    for (const chunk of this.chunks) {
      const read = await this.store.get(chunk.chunk, this.recordOf(chunk), 0);
      assert.deepEqual(read.data, chunk.envelope);
    }
  }

  async scrub(cursor?: ScrubCursor, stop = () => false): Promise<ScrubReport> {
    return await scrub(
      {
        stores: this.rig.stores,
        pool: (name) => this.store.pool(name),
        ledger: this.ledger,
        clock: this.clock,
        report: (finding) => this.findings.push(finding),
        bytesPerSecond: Number.POSITIVE_INFINITY,
      },
      cursor,
      stop,
    );
  }

  /** Flips a bit of every 4 KiB behind the device's head, in the file. */
  async spoil(device: RigDevice): Promise<void> {
    await this.rig.close(device);
    const file = await openFileBlockFile(device.path, { libc: this.rig.libc });
    const bytes = new Uint8Array(4 << 20);
    await file.read(1 << 20, bytes);
    for (let at = 0; at < bytes.length; at += 4096) bytes[at] = (bytes[at] ?? 0) ^ 1;
    await file.write(1 << 20, bytes);
    await file.close();
    await this.rig.open(device);
  }

  /** Puts an empty device of the same id in the place of one. */
  async replace(device: RigDevice): Promise<void> {
    await this.rig.close(device);
    const file = await openFileBlockFile(device.path, { libc: this.rig.libc });
    await formatLocalDevice(file, {
      cluster: this.rig.cluster,
      indexPath: indexPath(device),
      device: device.id,
      nowMs: 1,
      force: true,
    });
    await file.close();
    await this.rig.open(device);
  }
}

function referenceOf({ chunk }: SealedChunk): Reference {
  return {
    chunk,
    composition: "a".repeat(32) as CompositionId,
    operation: "b".repeat(32) as OperationId,
  };
}

function first(rig: DeviceRig): RigDevice {
  const [device] = rig.devices;
  assert.ok(device !== undefined);
  return device;
}

for (const durability of [{ scheme: "copies", copies: 2 } as const, CODE_2_2]) {
  const name = durability.scheme;
  Deno.test(`damaged fragments are read around, found by a scrub and repaired in place: ${name}`, async () => {
    await using rig = await DeviceRig.create(4, 16 << 20);
    const house = new House(rig, durability);
    await house.fill(6);
    assert.deepEqual(
      { ...await house.scrub(), offMap: 0, fragments: 0, bytes: 0 },
      {
        fragments: 0,
        bytes: 0,
        damaged: 0,
        unreadable: 0,
        missing: 0,
        misplaced: 0,
        unrecorded: 0,
        offMap: 0,
        cursor: undefined,
      },
    );
    await house.spoil(first(rig));
    await house.checkAll();
    house.findings.length = 0;
    const report = await house.scrub();
    assert.ok(report.damaged > 0);
    for (const { chunk, record, kind, device } of house.findings) {
      assert.deepEqual([kind, device], ["damaged", first(rig).id]);
      const done = await house.repair.repairChunk(rig.organisation, chunk, record);
      assert.deepEqual([done.rebuilt.length, done.unrepaired.length], [1, 0]);
      assert.deepEqual(done.record, record);
    }
    assert.equal((await house.scrub()).damaged, 0);
    await house.checkAll();
  });

  Deno.test(`everything that a replaced device held is rebuilt: ${name}`, async () => {
    await using rig = await DeviceRig.create(4, 16 << 20);
    const house = new House(rig, durability);
    await house.fill(8);
    const held = (await rig.stores.get(first(rig).id)?.usage())?.fragments ?? 0;
    await house.replace(first(rig));
    await house.store.usage();
    const report = await house.repair.rebuildDevices(new Set([first(rig).id]));
    assert.equal(report.rebuiltFragments, held);
    assert.equal(report.unrepaired, 0);
    const after = await house.scrub();
    assert.deepEqual([after.missing, after.damaged, after.misplaced], [0, 0, 0]);
  });

  Deno.test(`what a lost device held goes to others, recorded, and reads find it: ${name}`, async () => {
    await using rig = await DeviceRig.create(5, 16 << 20);
    const house = new House(rig, durability);
    await house.fill(8);
    const lost = first(rig);
    await rig.close(lost);
    await house.store.usage();
    const before = house.chunks.map((chunk) => house.recordOf(chunk));
    const report = await house.repair.rebuildDevices(new Set([lost.id]));
    assert.equal(report.unrepaired, 0);
    for (const [i, chunk] of house.chunks.entries()) {
      const record = house.recordOf(chunk);
      assert.ok(!record.placement.includes(lost.id));
      assert.equal(new Set(record.placement).size, record.placement.length);
      house.findings.length = 0;
      // The record of before still leads to every byte.
      const old = before[i];
      assert.ok(old !== undefined);
      assert.deepEqual((await house.store.get(chunk.chunk, old, 0)).data, chunk.envelope);
    }
    await house.checkAll();
    assert.equal((await house.scrub()).unreadable, 0);
    // The lost device comes back: what it holds is garbage once it is old.
    await rig.open(lost);
    assert.equal((await house.collector.sweep(lost.id)).removed, 0);
    house.clock.advance(COLLECTION_GRACE_MS);
    const swept = await house.collector.sweep(lost.id);
    assert.equal(swept.removed, swept.seen);
    await house.checkAll();
  });
}

Deno.test("a chunk that has lost too much is reported and left as it is", async () => {
  await using rig = await DeviceRig.create(4, 16 << 20);
  const house = new House(rig, CODE_2_2);
  await house.fill(1);
  for (const device of rig.devices.slice(0, 3)) await house.spoil(device);
  const [chunk] = house.chunks;
  assert.ok(chunk !== undefined);
  await assert.rejects(
    house.repair.repairChunk(rig.organisation, chunk.chunk, house.recordOf(chunk)),
    (e) => isKisekiError(e, "chunk.unreadable"),
  );
  await assert.rejects(house.checkAll(), (e) => isKisekiError(e, "chunk.unreadable"));
});

Deno.test("a scrub stops and goes on from its cursor, and keeps to its rate", async () => {
  await using rig = await DeviceRig.create(4, 16 << 20);
  const house = new House(rig, CODE_2_2);
  await house.fill(5);
  let cursor: ScrubCursor | undefined;
  let fragments = 0;
  let parts = 0;
  do {
    let pages = 0;
    const part = await house.scrub(cursor, () => pages++ > 0);
    fragments += part.fragments;
    cursor = part.cursor;
    parts++;
  } while (cursor !== undefined);
  assert.equal(fragments, 20);
  assert.ok(parts > 4);
  const start = house.clock.monotonicMs();
  let done = false;
  const slow = scrub(
    {
      stores: rig.stores,
      pool: () => undefined,
      ledger: house.ledger,
      clock: house.clock,
      report: () => {},
      bytesPerSecond: 100_000,
    },
    undefined,
    () => false,
  ).finally(() => done = true);
  while (!done) {
    house.clock.advance(10);
    await new Promise((resolve) => setImmediate(resolve));
  }
  const seconds = (house.clock.monotonicMs() - start) / 1000;
  const { bytes } = await slow;
  assert.ok(seconds > bytes / 100_000 - 0.5, `${bytes} bytes in ${seconds} s`);
});

Deno.test("chunks without references are removed, then forgotten; the rest stays", async () => {
  await using rig = await DeviceRig.create(4, 16 << 20);
  const house = new House(rig, CODE_2_2);
  await house.fill(6);
  const gone = house.chunks.splice(0, 4);
  await house.ledger.release(rig.organisation, gone.map(referenceOf));
  assert.equal(await house.collector.collect(rig.organisation), 4);
  assert.equal(house.ledger.entries.size, 2);
  for (const store of rig.stores.values()) assert.equal((await store.usage()).fragments, 2);
  await house.checkAll();
});

Deno.test("fragments that were never recorded go when they are old, not before", async () => {
  await using rig = await DeviceRig.create(4, 16 << 20);
  const house = new House(rig, CODE_2_2);
  await house.fill(2);
  await house.store.put(rig.chunk(99, 5000), "p");
  const device: DeviceId = first(rig).id;
  assert.deepEqual(await house.collector.sweep(device), { seen: 3, removed: 0, waiting: 1 });
  house.clock.advance(COLLECTION_GRACE_MS);
  assert.deepEqual(await house.collector.sweep(device), { seen: 3, removed: 1, waiting: 0 });
  await house.checkAll();
});
