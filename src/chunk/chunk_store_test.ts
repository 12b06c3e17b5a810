import assert from "node:assert/strict";
import { VirtualClock } from "../common/clock.ts";
import { isKisekiError } from "../common/errors.ts";
import { DeviceChunkStore } from "./chunk_store.ts";
import type { PoolConfig } from "./device_pool.ts";
import { DeviceRig } from "./device_rig.ts";
import { PORTABLE_CODER } from "./erasure_code.ts";
import type { Finding } from "./finding.ts";
import type { Durability } from "./ports.ts";

const COPIES_2: Durability = { scheme: "copies", copies: 2 };
const CODE_4_2: Durability = { scheme: "erasure", data: 4, parity: 2 };

function storeOf(
  rig: DeviceRig,
  durability: Durability,
  more: Partial<PoolConfig> = {},
): { store: DeviceChunkStore; findings: Finding[]; clock: VirtualClock } {
  const findings: Finding[] = [];
  const clock = new VirtualClock();
  const store = new DeviceChunkStore({
    pools: [{
      name: "p",
      durability,
      devices: rig.placement(),
      placementVersion: 1,
      ...more,
    }],
    stores: rig.stores,
    coder: PORTABLE_CODER,
    clock,
    report: (finding) => findings.push(finding),
  });
  return { store, findings, clock };
}

function rangesOf(size: number): readonly (readonly [number, number])[] {
  return [[0, 1], [size - 1, size], [size >> 2, size >> 1], [size, size]];
}

for (const durability of [{ scheme: "copies", copies: 1 } as const, COPIES_2, CODE_4_2]) {
  const name = JSON.stringify(durability);
  Deno.test(`chunks of many sizes come back, whole and in ranges, also after a restart: ${name}`, async () => {
    await using rig = await DeviceRig.create(6);
    const { store } = storeOf(rig, durability);
    const sizes = [1, 63, 64, 4096, 4097, 65_576, 300_001, 4_196_108];
    const put = [];
    for (const [i, size] of sizes.entries()) {
      const chunk = rig.chunk(i, size);
      put.push({ chunk, record: await store.put(chunk, "p") });
    }
    for (let round = 0; round < 2; round++) {
      for (const { chunk, record } of put) {
        assert.equal(new Set(record.placement).size, record.placement.length);
        const whole = await store.get(chunk.chunk, record, 0);
        assert.deepEqual(whole.data, chunk.envelope);
        assert.deepEqual(whole.wrappedDek, chunk.wrappedDek);
        for (const [from, to] of rangesOf(chunk.envelope.length)) {
          const part = await store.get(chunk.chunk, record, from, to - from);
          assert.deepEqual(part.data, chunk.envelope.subarray(from, to));
        }
      }
      await rig.restart();
    }
    for (const { chunk, record } of put) {
      await store.remove(chunk.chunk, record);
      await store.remove(chunk.chunk, record);
      await assert.rejects(
        store.get(chunk.chunk, record, 0),
        (e) => isKisekiError(e, "chunk.not_found"),
      );
    }
    for (const device of rig.stores.values()) {
      const usage = await device.usage();
      assert.deepEqual([usage.fragments, usage.usedBytes], [0, 0]);
    }
  });
}

Deno.test("a code of 4+2 is read with any two devices gone, and reports them", async () => {
  await using rig = await DeviceRig.create(6);
  const { store, findings } = storeOf(rig, CODE_4_2);
  const chunk = rig.chunk(1, 1_000_003);
  const record = await store.put(chunk, "p");
  for (let a = 0; a < 6; a++) {
    for (let b = a + 1; b < 6; b++) {
      const lost = [a, b].map((i) => record.placement[i]);
      const devices = rig.devices.filter((device) => lost.includes(device.id));
      for (const device of devices) await rig.close(device);
      findings.length = 0;
      assert.deepEqual((await store.get(chunk.chunk, record, 0)).data, chunk.envelope);
      const part = await store.get(chunk.chunk, record, 200_000, 400_000);
      assert.deepEqual(part.data, chunk.envelope.subarray(200_000, 600_000));
      assert.equal(findings.length > 0, a < 4);
      for (const device of devices) await rig.open(device);
    }
  }
});

Deno.test("a read is refused when more devices are gone than the code bears", async () => {
  await using rig = await DeviceRig.create(6);
  const { store } = storeOf(rig, CODE_4_2);
  const chunk = rig.chunk(1, 1000);
  const record = await store.put(chunk, "p");
  for (const device of rig.devices.slice(0, 3)) await rig.close(device);
  await assert.rejects(
    store.get(chunk.chunk, record, 0),
    (e) => isKisekiError(e, "chunk.unreadable"),
  );
});

Deno.test("a pool that acknowledges at its minimum does not wait for a slow device, nor for its buffer", async () => {
  await using rig = await DeviceRig.create(4);
  const [slow] = rig.devices;
  assert.ok(slow !== undefined);
  const gate = Promise.withResolvers<void>();
  await rig.close(slow);
  rig.wrap = (file, device) =>
    device !== slow ? file : {
      name: file.name,
      sizeBytes: file.sizeBytes,
      read: (offset, into) => file.read(offset, into),
      async write(offset, bytes) {
        if (offset >= 1 << 20) await gate.promise;
        await file.write(offset, bytes);
      },
      sync: () => file.sync(),
      discard: (offset, length) => file.discard(offset, length),
      close: () => file.close(),
    };
  await rig.open(slow);
  const scheme: Durability = { scheme: "erasure", data: 2, parity: 2 };
  const { store } = storeOf(rig, scheme, { acknowledge: "minimum" });
  const chunk = rig.chunk(3, 100_000);
  const wanted = chunk.envelope.slice();
  const record = await store.put(chunk, "p");
  chunk.envelope.fill(0);
  assert.equal((await rig.stores.get(slow.id)?.usage())?.fragments, 0);
  assert.deepEqual((await store.get(chunk.chunk, record, 0)).data, wanted);
  gate.resolve();
  await store.idle();
  assert.equal((await rig.stores.get(slow.id)?.usage())?.fragments, 1);
  // Its fragment is good, though it was written after the caller's buffer was used again.
  for (const device of rig.devices.slice(1, 3)) await rig.close(device);
  assert.deepEqual((await store.get(chunk.chunk, record, 0)).data, wanted);
});
