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
    if (place === undefined) continue;
    assert.equal((place.offset + 16) % 4096, 0);
    for (const other of held) {
      const apart = place.offset + place.length <= other.byteOffset ||
        other.byteOffset + other.length <= place.offset;
      assert.ok(apart, "two buffers share bytes");
    }
    held.push(buffer);
  }
  for (const buffer of held) bulk.release(buffer);
  assert.equal(bulk.takenBytes, 0);
  const whole = Array.from({ length: 4 }, () => bulk.acquire(SLAB_BYTES));
  assert.ok(whole.every((buffer) => bulk.placeOf(buffer) !== undefined), "slabs are whole again");
});

Deno.test("a shortage gives private memory and is counted", () => {
  const bulk = new SharedBulkMemory(new SharedArrayBuffer(SLAB_BYTES));
  assert.ok(bulk.placeOf(bulk.acquire(SLAB_BYTES)) !== undefined);
  assert.equal(bulk.placeOf(bulk.acquire(100)), undefined);
  assert.equal(bulk.shortages, 1);
});
