/** Small parts: Bloom filter, block cache, compaction plan, index and separators. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { compareBytes, utf8 } from "../common/bytes.ts";
import { ClockBlockCache } from "./block_cache.ts";
import { BloomFilter, KeyHash } from "./bloom_filter.ts";
import { FAN_OUT, planCompaction } from "./compaction_plan.ts";
import type { RunDescription } from "./run.ts";
import { separatorOf } from "./run_format.ts";

Deno.test("a Bloom filter has no false negatives and under 1.5 % false positives", () => {
  const hash = new KeyHash();
  const filter = BloomFilter.forKeys(20_000);
  const of = (text: string) => {
    const key = utf8(text);
    return hash.of(key, 0, key.length);
  };
  for (let i = 0; i < 20_000; i++) filter.add(of(`some/long/prefix/${i}`));
  const again = BloomFilter.parse(filter.bytes.slice());
  for (let i = 0; i < 20_000; i++) assert.ok(again.mayContain(of(`some/long/prefix/${i}`)));
  let wrong = 0;
  for (let i = 0; i < 20_000; i++) if (again.mayContain(of(`some/long/prefix/x${i}`))) wrong++;
  assert.ok(wrong < 300, `${wrong} of 20000`);
});

Deno.test("a block cache never holds more than its capacity", () => {
  const random = seededRandom(testSeed("block cache"));
  const cache = new ClockBlockCache(10_000);
  const owners = [[], [], []].map(() => new Array(100).fill(undefined));
  for (let i = 0; i < testRounds(50_000); i++) {
    const slots = owners[Math.floor(random() * 3)] ?? [];
    const slot = Math.floor(random() * 100);
    const found = cache.get(slots, slot);
    if (found === undefined) {
      cache.put(slots, slot, new Uint8Array(1 + Math.floor(random() * 900)).fill(slot));
    } else assert.equal(found[0], slot);
    if (random() < 0.001) {
      cache.forget(slots);
      slots.length = 0;
    }
    assert.ok(cache.usedBytes <= 10_000);
    const held = owners.flat().reduce((sum, block) => sum + (block?.bytes.length ?? 0), 0);
    assert.equal(cache.usedBytes, held);
  }
});

Deno.test("merges keep tiers in order of age, end, and leave under four runs a tier", () => {
  const random = seededRandom(testSeed("compaction plan"));
  const rootHash = new Uint8Array(32);
  let runs: RunDescription[] = [];
  let written = 0;
  let folded = 0;
  for (let i = 0; i < 400; i++) {
    const fileBytes = random() < 0.2 ? 1000 : 1_000_000;
    folded += fileBytes;
    const run = { runId: `${i}`, tier: 0, rows: 1, tombstones: 0, fileBytes, rootHash };
    runs = [run, ...runs];
    for (let merges = 0;; merges++) {
      const plan = planCompaction(runs, 1_000_000);
      if (plan === undefined) break;
      assert.ok(merges < 10);
      const inputs = runs.slice(plan.start, plan.start + plan.count);
      const bytes = inputs.reduce((sum, input) => sum + input.fileBytes, 0);
      written += bytes;
      assert.equal(plan.dropTombstones, plan.start + plan.count === runs.length);
      runs.splice(plan.start, plan.count, { ...run, tier: plan.tier, fileBytes: bytes });
      for (let j = 1; j < runs.length; j++) {
        assert.ok((runs[j]?.tier ?? 0) >= (runs[j - 1]?.tier ?? 0), "tiers never fall");
      }
    }
    const perTier = Map.groupBy(runs, (r) => r.tier);
    for (const tier of perTier.values()) assert.ok(tier.length < FAN_OUT);
  }
  assert.ok(written / folded < 5, `${written / folded} bytes merged per byte folded`);
});

Deno.test("a separator lies above the last key and not above the first", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 6 }), fc.uint8Array({ maxLength: 6 }), (a, b) => {
      const order = compareBytes(a, b);
      fc.pre(order !== 0);
      const [last, first] = order < 0 ? [a, b] : [b, a];
      const separator = separatorOf(last, first);
      assert.ok(compareBytes(last, separator) < 0 && compareBytes(separator, first) <= 0);
    }),
    { seed: testSeed("separators"), numRuns: testRounds(5000) },
  );
});
