import assert from "node:assert/strict";
import type { DeviceId, NodeId } from "../common/ids.ts";
import { chunkIdOf } from "./device_rig.ts";
import { placementOrder } from "./placement.ts";

Deno.test("placement spreads over nodes first and moves little when a device is added", () => {
  const devices = Array.from({ length: 9 }, (_, i) => ({
    device: i.toString(16).repeat(32).slice(0, 32) as DeviceId,
    weight: i === 8 ? 2 : 1,
    node: (1 + Math.floor(i / 3)) as NodeId,
  }));
  const load = new Map<DeviceId, number>();
  let moved = 0;
  const chunks = 4000;
  for (let seed = 0; seed < chunks; seed++) {
    const order = placementOrder(chunkIdOf(seed), devices, 3);
    assert.equal(new Set(order.slice(0, 3).map((device) => device.node)).size, 3);
    const [winner] = placementOrder(chunkIdOf(seed), devices, 1);
    const [before] = placementOrder(chunkIdOf(seed), devices.slice(0, 8), 1);
    assert.ok(winner !== undefined && before !== undefined);
    load.set(winner.device, (load.get(winner.device) ?? 0) + 1);
    if (winner.device !== before.device) {
      moved++;
      assert.equal(winner.device, devices[8]?.device);
    }
  }
  for (const { device, weight } of devices) {
    const share = (load.get(device) ?? 0) / chunks;
    assert.ok(Math.abs(share - weight / 10) < 0.03, `${device} has ${share}`);
  }
  assert.ok(moved / chunks < 0.24);
});
