import assert from "node:assert/strict";
import fc from "fast-check";
import { testRounds, testSeed } from "../../test/rounds.ts";
import { isKisekiError } from "../common/errors.ts";
import { ExtentAllocator } from "./extent_allocator.ts";

Deno.test("a fresh space is handed out from its start, without holes", () => {
  const space = ExtentAllocator.rebuild(10, []);
  assert.deepEqual([space.allocate(3), space.allocate(4), space.allocate(3)], [0, 3, 7]);
  assert.equal(space.allocate(1), undefined);
  assert.equal(space.freeUnits, 0);
});

Deno.test("freed neighbours join into one range", () => {
  const space = ExtentAllocator.rebuild(9, [{ start: 0, length: 3 }, { start: 3, length: 3 }, {
    start: 6,
    length: 3,
  }]);
  space.free(0, 3);
  space.free(6, 3);
  assert.equal(space.freeRanges, 2);
  space.free(3, 3);
  assert.deepEqual(space.ranges(), [{ start: 0, length: 9 }]);
});

Deno.test("freeing twice is refused", () => {
  const space = ExtentAllocator.rebuild(4, []);
  const start = space.allocate(2) as number;
  space.free(start, 2);
  assert.throws(() => space.free(start, 2), (e) => isKisekiError(e, "common.internal"));
});

Deno.test("a rebuild refuses extents that overlap or lie beyond the end", () => {
  for (
    const taken of [
      [{ start: 0, length: 2 }, { start: 1, length: 2 }],
      [{ start: 8, length: 3 }],
      [{ start: 2, length: 0 }],
    ]
  ) {
    assert.throws(
      () => ExtentAllocator.rebuild(10, taken),
      (e) => isKisekiError(e, "common.corrupt_format"),
    );
  }
});

Deno.test("random histories agree with a map of units, and with a rebuild from what is taken", () => {
  const seed = testSeed("allocator histories");
  fc.assert(
    fc.property(
      fc.array(
        fc.record({ free: fc.boolean(), size: fc.integer({ min: 1, max: 20 }), pick: fc.nat() }),
        {
          maxLength: 120,
        },
      ),
      (steps) => {
        const units = 128;
        const space = ExtentAllocator.rebuild(units, []);
        const used = new Uint8Array(units);
        const held: { start: number; length: number }[] = [];
        for (const step of steps) {
          if (step.free && held.length > 0) {
            const [range] = held.splice(step.pick % held.length, 1);
            assert.ok(range !== undefined);
            space.free(range.start, range.length);
            used.fill(0, range.start, range.start + range.length);
            continue;
          }
          const start = space.allocate(step.size);
          if (start === undefined) {
            let longest = 0;
            for (let i = 0, run = 0; i < units; i++) {
              run = used[i] === 0 ? run + 1 : 0;
              longest = Math.max(longest, run);
            }
            assert.ok(longest < step.size, "a range that fits was not found");
            continue;
          }
          for (let i = start; i < start + step.size; i++) {
            assert.equal(used[i], 0);
            used[i] = 1;
          }
          held.push({ start, length: step.size });
        }
        assert.equal(space.freeUnits, used.filter((u) => u === 0).length);
        const taken = held.toSorted((a, b) => a.start - b.start);
        assert.deepEqual(ExtentAllocator.rebuild(units, taken).ranges(), space.ranges());
      },
    ),
    { seed, numRuns: testRounds(2000) },
  );
});
