import assert from "node:assert/strict";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { SharedBulkMemory, SLAB_BYTES } from "./bulk_memory.ts";

Deno.test("buffers never overlap and everything comes back", () => {
  const random = seededRandom(testSeed("bulk memory"));
  const bulk = new SharedBulkMemory(new SharedArrayBuffer(4 * SLAB_BYTES + 4096), 16);
  const held: Uint8Array[] = [];
  for (let round = 0; round < testRounds(20_000); round++) {
    if (held.length > 0 && random() < 0.5) {
      const [buffer] = held.splice(Math.floor(random() * held.length), 1);
      bulk.release(buffer as Uint8Array);
      continue;
    }
    const buffer = bulk.acquire(1 + Math.floor(random() ** 3 * SLAB_BYTES));
    const place = bulk.placeOf(buffer);
    if (place === undefined || !(place.length > 0)) continue;
    assert.equal((place.offset + 16) % 4096, 0);
    for (const other of held) {
      const apart: boolean = place.offset + place.length <= other.byteOffset ||
        other.byteOffset + other.length <= place.offset;
      assert.ok(apart, "two buffers share bytes");
    }
    held.push(buffer);
  }
  for (const buffer of held) bulk.release(buffer);
  assert.equal(bulk.takenBytes, 0);
  for (let i = 0; i < 4; i++) {
    assert.ok(bulk.acquireShared(SLAB_BYTES) instanceof Uint8Array, "slabs are whole again");
  }
});

Deno.test("slow holders leave room for those who give back soon", () => {
  const bulk = new SharedBulkMemory(new SharedArrayBuffer(4 * SLAB_BYTES));
  const held = Array.from({ length: 4 }, () => bulk.acquire(SLAB_BYTES));
  assert.equal(held.filter((buffer) => bulk.placeOf(buffer) !== undefined).length, 3);
  assert.ok(bulk.acquireShared(SLAB_BYTES) instanceof Uint8Array);
});

Deno.test("a shortage gives private memory and is counted", () => {
  const bulk = new SharedBulkMemory(new SharedArrayBuffer(SLAB_BYTES));
  assert.ok(bulk.placeOf(bulk.acquire(SLAB_BYTES)) !== undefined);
  assert.equal(bulk.placeOf(bulk.acquire(100)), undefined);
  assert.equal(bulk.shortages, 1);
});

Deno.test("who needs shared memory waits for it in order", async () => {
  const bulk = new SharedBulkMemory(new SharedArrayBuffer(SLAB_BYTES));
  const whole = await bulk.acquireShared(SLAB_BYTES);
  const order: number[] = [];
  const waiting = [1, 2].map(async (n) => {
    const buffer = await bulk.acquireShared(SLAB_BYTES);
    order.push(n);
    bulk.release(buffer);
  });
  await Promise.resolve();
  assert.deepEqual(order, []);
  bulk.release(whole);
  await Promise.all(waiting);
  assert.deepEqual(order, [1, 2]);
  assert.equal(bulk.takenBytes, 0);
});
