import assert from "node:assert/strict";
import fc from "fast-check";
import { testRounds, testSeed } from "../../test/rounds.ts";
import type { Mutation } from "../table/table.ts";
import { Overlay } from "./overlay.ts";
import { SortedRows } from "./sorted_rows.ts";

const key = fc.uint8Array({ minLength: 1, maxLength: 2, max: 3 });
const mutation: fc.Arbitrary<Mutation> = fc.record({
  key,
  value: fc.option(fc.uint8Array({ maxLength: 2 }), { nil: undefined }),
});

Deno.test("an overlay reads as if every proposal were applied, at every point of their life", () => {
  fc.assert(
    fc.property(
      fc.array(fc.array(mutation, { maxLength: 4 }), { maxLength: 12 }),
      fc.nat(6),
      key,
      fc.option(key, { nil: undefined }),
      fc.boolean(),
      (proposals, lag, from, to, reverse) => {
        const applied = new SortedRows();
        const model = new SortedRows();
        const overlay = new Overlay(applied);
        const settle = (index: number): void => {
          const mutations = proposals[index];
          if (mutations === undefined) return;
          applied.apply(mutations);
          overlay.settle(index, mutations);
        };
        const check = (): void => {
          assert.deepEqual(overlay.get(from), model.get(from));
          assert.deepEqual(
            [...overlay.scan(from, to, { reverse })],
            [...model.scan(from, to, { reverse })],
          );
        };
        proposals.forEach((mutations, index) => {
          overlay.add(index, mutations);
          model.apply(mutations);
          check();
          settle(index - lag);
          check();
        });
        for (let i = proposals.length - lag; i < proposals.length; i++) settle(i);
        assert.equal(overlay.size, 0);
        check();
      },
    ),
    { numRuns: testRounds(10_000), seed: testSeed("overlay") },
  );
});
