import assert from "node:assert/strict";
import { VirtualClock } from "../common/clock.ts";
import { isKisekiError } from "../common/errors.ts";
import { type DeviceId, newId128, type NodeId } from "../common/ids.ts";
import { DeviceState, SystemRecords } from "./system_records.ts";
import { TenancyEvaluator } from "./tenancy_evaluator.ts";
import { MemoryShard, protoText } from "./testing.ts";

function records(): SystemRecords {
  const proto = protoText("tenancy.proto");
  return new SystemRecords(new MemoryShard(new TenancyEvaluator(proto)), new VirtualClock(), proto);
}

Deno.test("nodes, pools and devices are read back as they were recorded", async () => {
  const system = records();
  const node = await system.registerNode("node1", 1);
  assert.deepEqual(await system.listNodes(), [node]);
  const device = {
    device: newId128<DeviceId>(),
    node: node.node,
    path: "/dev/nvme0n1",
    class: "fast-nvme",
    capacityBytes: 2 ** 40,
    state: DeviceState.inUse,
  };
  await system.putDevice(device);
  assert.deepEqual(await system.listDevices(), [{ ...device, seenMs: 1_700_000_000_000 }]);
  const fast = {
    name: "fast",
    class: "fast-nvme",
    devices: [],
    durability: { scheme: "copies", copies: 2 } as const,
    fullPercent: 95,
  };
  const wide = {
    name: "wide",
    devices: [device.device],
    durability: { scheme: "erasure", data: 4, parity: 2 } as const,
    fullPercent: 90,
  };
  await system.putPool(fast);
  await system.putPool(wide);
  const createdMs = 1_700_000_000_000;
  assert.deepEqual(await system.listPools(), [{ ...fast, createdMs }, { ...wide, createdMs }]);
  await system.removePool("fast");
  await system.removeDevice(device.device);
  assert.deepEqual(await system.listDevices(), []);
  assert.equal((await system.listPools()).length, 1);
  assert.deepEqual(await system.listShards(), []);
});

Deno.test("a pool or device that makes no sense is refused", async () => {
  const system = records();
  const durability = { scheme: "copies", copies: 6 } as const;
  const pool = { name: "p", class: "ssd", devices: [], durability, fullPercent: 95 };
  const invalid = (error: unknown) => isKisekiError(error, "common.invalid_argument");
  await assert.rejects(system.putPool(pool), invalid);
  const copies = { scheme: "copies", copies: 1 } as const;
  await assert.rejects(system.putPool({ ...pool, durability: copies, fullPercent: 100 }), invalid);
  await assert.rejects(system.putPool({ ...pool, durability: copies, name: "A" }), invalid);
  const device = {
    device: newId128<DeviceId>(),
    node: 1 as NodeId,
    path: "/d",
    class: "no class",
    capacityBytes: 1,
    state: DeviceState.inUse,
  };
  await assert.rejects(system.putDevice(device), invalid);
  await assert.rejects(
    system.removePool("none"),
    (error) => isKisekiError(error, "common.not_found"),
  );
});
