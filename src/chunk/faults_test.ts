/**
 * Faults below the block layer: what comes back is right or an error, and a pool bears what its
 * durability promises.
 */
import assert from "node:assert/strict";
import { type FaultyBlockFile, faultyBlockFile, parseFaultPlan } from "../block/fault_injection.ts";
import { VirtualClock } from "../common/clock.ts";
import { type ErrorCode, isKisekiError } from "../common/errors.ts";
import type { DeviceId } from "../common/ids.ts";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { DeviceChunkStore, PRIVATE_MEMORY } from "./chunk_store.ts";
import type { PoolConfig } from "./device_pool.ts";
import { DeviceRig } from "./device_rig.ts";
import { PORTABLE_CODER } from "./erasure_code.ts";
import type { Finding } from "./finding.ts";
import { MemoryLedger } from "./memory_ledger.ts";
import type { ChunkRecord, Durability, SealedChunk } from "./ports.ts";
import { ChunkRepair } from "./repair.ts";

const COPIES_2: Durability = { scheme: "copies", copies: 2 };
const CODE_2_2: Durability = { scheme: "erasure", data: 2, parity: 2 };
const code = (wanted: ErrorCode) => (error: unknown): boolean => isKisekiError(error, wanted);

interface House {
  readonly store: DeviceChunkStore;
  readonly clock: VirtualClock;
  readonly findings: Finding[];
}

function houseOf(rig: DeviceRig, durability: Durability, more: Partial<PoolConfig> = {}): House {
  const clock = new VirtualClock();
  const findings: Finding[] = [];
  const store = new DeviceChunkStore({
    pools: [{ name: "p", durability, devices: rig.placement(), placementVersion: 1, ...more }],
    stores: rig.stores,
    coder: PORTABLE_CODER,
    clock,
    report: (finding) => findings.push(finding),
  });
  return { store, clock, findings };
}

/** Gives devices a fault plan; they are armed once open. */
async function sabotage(
  rig: DeviceRig,
  planOf: (device: number) => string | undefined,
): Promise<Map<DeviceId, FaultyBlockFile>> {
  const faulty = new Map<DeviceId, FaultyBlockFile>();
  rig.wrap = (file, device) => {
    const plan = planOf(rig.devices.indexOf(device));
    if (plan === undefined) return file;
    const wrapped = faultyBlockFile(file, parseFaultPlan(plan));
    wrapped.armed = false;
    faulty.set(device.id, wrapped);
    return wrapped;
  };
  await rig.restart();
  for (const file of faulty.values()) file.armed = true;
  return faulty;
}

Deno.test("a pool refuses data with its devices at the threshold, and takes it again after a removal", async () => {
  await using rig = await DeviceRig.create(3, 16 << 20);
  const { store, clock } = houseOf(rig, COPIES_2, { warnPercent: 30, fullPercent: 50 });
  const held: { chunk: SealedChunk; record: ChunkRecord }[] = [];
  let refused: unknown;
  for (let seed = 0; refused === undefined; seed++) {
    const chunk = rig.chunk(seed, 500_000);
    try {
      held.push({ chunk, record: await store.put(chunk, "p") });
    } catch (error) {
      refused = error;
    }
  }
  assert.ok(code("chunk.no_space")(refused));
  const [usage] = await store.usage();
  assert.equal(usage?.state, "full");
  for (const device of usage?.devices ?? []) {
    assert.ok(device.usedBytes / device.capacityBytes < 0.55, "far over the threshold");
  }
  for (const { chunk, record } of held.splice(0)) await store.remove(chunk.chunk, record);
  clock.advance(2000);
  await store.put(rig.chunk(1000, 500_000), "p");
  assert.equal((await store.usage())[0]?.state, "ok");
});

Deno.test("a device that fails or is full is left out for a spare; without a spare the put is undone", async () => {
  for (const fault of ["eio", "enospc"]) {
    await using rig = await DeviceRig.create(3, 16 << 20);
    const { store, clock } = houseOf(rig, COPIES_2);
    await sabotage(rig, (i) => i === 0 ? `write:${fault}@1` : undefined);
    for (let seed = 0; seed < 6; seed++) {
      const chunk = rig.chunk(seed, 10_000);
      const record = await store.put(chunk, "p");
      assert.ok(record.placement.every((device) => device !== rig.devices[0]?.id));
      clock.advance(20_000);
    }
    await sabotage(rig, (i) => i < 2 ? `write:${fault}@1` : undefined);
    await store.usage();
    const before = (await store.usage())[0]?.fragments;
    await assert.rejects(
      store.put(rig.chunk(50, 10_000), "p"),
      code(fault === "eio" ? "chunk.too_few_devices" : "chunk.no_space"),
    );
    assert.equal((await store.usage())[0]?.fragments, before);
  }
});

Deno.test("after a failed sync a device takes no more writes until it is opened again", async () => {
  await using rig = await DeviceRig.create(3, 16 << 20);
  const { store, clock } = houseOf(rig, COPIES_2);
  await sabotage(rig, (i) => i === 0 ? "sync:eio@#1" : undefined);
  const chunks = Array.from({ length: 6 }, (_, seed) => rig.chunk(seed, 10_000));
  const records: ChunkRecord[] = [];
  for (const chunk of chunks) records.push(await store.put(chunk, "p"));
  const [usage] = await store.usage();
  assert.equal(usage?.state, "degraded");
  assert.equal(usage?.devices.find((device) => device.state === "failing")?.fragments, 0);
  rig.wrap = (file) => file;
  await rig.restart();
  clock.advance(20_000);
  assert.equal((await store.usage())[0]?.state, "ok");
  for (const [i, chunk] of chunks.entries()) {
    const record = records[i];
    assert.ok(record !== undefined);
    assert.deepEqual((await store.get(chunk.chunk, record, 0)).data, chunk.envelope);
  }
});

const EVERYTHING = "read:eio@0.05; read:flip@0.05; write:eio@0.05; write:torn@0.05; " +
  "write:flip@0.05; write:lost@0.05; write:enospc@0.02; sync:eio@0.01; discard:eio@0.1";

for (const durability of [COPIES_2, CODE_2_2]) {
  for (const bad of [1, 5]) {
    const where = bad === 1 ? "one device" : "every device";
    const promise = bad === 1 ? "every acknowledged chunk is right" : "never a wrong byte";
    Deno.test(`random histories with faults on ${where}: ${promise} (${durability.scheme})`, async () => {
      const seed = testSeed(`faults ${durability.scheme} ${where}`);
      const random = seededRandom(seed);
      for (let round = 0; round < testRounds(20); round++) {
        await using rig = await DeviceRig.create(5, 16 << 20);
        await history(rig, durability, bad, random, bad === 1);
      }
    });
  }
}

async function history(
  rig: DeviceRig,
  durability: Durability,
  bad: number,
  random: () => number,
  strict: boolean,
): Promise<void> {
  const { store, clock, findings } = houseOf(rig, durability);
  const ledger = new MemoryLedger();
  const repair = new ChunkRepair({
    stores: rig.stores,
    pool: (name) => store.pool(name),
    coder: PORTABLE_CODER,
    memory: PRIVATE_MEMORY,
    ledger,
    placements: ledger,
  });
  const plan = (device: number): string | undefined =>
    device < bad ? `seed=${Math.floor(random() * 1e9)}; ${EVERYTHING}` : undefined;
  await sabotage(rig, plan);
  const model = new Map<SealedChunk, ChunkRecord>();
  const pick = (): [SealedChunk, ChunkRecord] | undefined =>
    [...model][Math.floor(random() * model.size)];
  for (let step = 0; step < 60; step++) {
    const dice = random();
    const held = pick();
    clock.advance(random() * 5000);
    if (dice < 0.4 || held === undefined) {
      const chunk = rig.chunk(Math.floor(random() * 1e6), 1 + Math.floor(random() * 150_000));
      const record = await errorOr(() => store.put(chunk, "p"));
      if (record !== undefined) model.set(chunk, record);
    } else if (dice < 0.8) {
      const [chunk, record] = held;
      const from = Math.floor(random() * chunk.envelope.length);
      const length = Math.floor(random() * (chunk.envelope.length - from));
      const read = await errorOr(() => store.get(chunk.chunk, record, from, length), strict);
      if (read !== undefined) {
        assert.deepEqual(read.data, chunk.envelope.subarray(from, from + length));
      }
    } else if (dice < 0.88) {
      model.delete(held[0]);
      await errorOr(() => store.remove(held[0].chunk, held[1]));
    } else if (dice < 0.95) {
      const [chunk, record] = held;
      const done = await errorOr(() => repair.repairChunk(rig.organisation, chunk.chunk, record));
      if (done !== undefined) model.set(chunk, done.record);
    } else await sabotage(rig, plan);
    findings.length = 0;
  }
  rig.wrap = (file) => file;
  await rig.restart();
  clock.advance(20_000);
  await store.usage();
  for (const [chunk, record] of model) {
    const read = await errorOr(() => store.get(chunk.chunk, record, 0), strict);
    if (read === undefined) continue;
    assert.deepEqual(read.data, chunk.envelope);
    const done = await repair.repairChunk(rig.organisation, chunk.chunk, record);
    assert.deepEqual(done.unrepaired, []);
    findings.length = 0;
    assert.deepEqual((await store.get(chunk.chunk, done.record, 0)).data, chunk.envelope);
    assert.deepEqual(findings, []);
  }
}

/** @param strict An error is not allowed. */
async function errorOr<T>(work: () => Promise<T>, strict = false): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (strict || !isKisekiError(error)) throw error;
    return undefined;
  }
}
