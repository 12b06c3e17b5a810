import assert from "node:assert/strict";
import fc from "fast-check";
import { testRounds, testSeed } from "../../test/rounds.ts";
import { toHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { ChunkId, ShardId } from "../common/ids.ts";
import {
  advanceShardState,
  decodeLogEntryData,
  decodeMutations,
  decodeShardState,
  encodeDelta,
  encodeLogKey,
  encodeMutations,
  encodeShardState,
} from "./delta.ts";

const HEADER = {
  evaluator: 2,
  operation: 3,
  shard: 7 as ShardId,
  sequence: 9,
  timestamp: 0x0123_4567_89ab_cdefn,
  routingKey: new Uint8Array(8).fill(0x11),
  nameHash: new Uint8Array(32).fill(0x22),
  key: { term: 5, number: 6 },
  chunksAdded: ["33".repeat(32) as ChunkId],
  chunksDropped: ["44".repeat(32) as ChunkId],
};

Deno.test("a delta has its documented bytes", () => {
  const bytes = encodeDelta(HEADER, new Uint8Array([0xee, 0xff]));
  assert.equal(
    toHex(bytes),
    "0102" + "0300" + "0700000000000000" + "0900000000000000" + "efcdab8967452301" +
      "11".repeat(8) + "22".repeat(32) + "0500000000000000" + "06000000" + "01000000" + "01000000" +
      "02000000" + "33".repeat(32) + "44".repeat(32) + "eeff",
  );
  const back = decodeLogEntryData(bytes);
  assert.equal(back.type, "delta");
  if (back.type === "delta") {
    assert.deepEqual(back.header, HEADER);
    assert.equal(toHex(back.envelope), "eeff");
  }
});

Deno.test("a log key has its documented bytes", () => {
  const key = { term: 5, number: 1, wrapped: new Uint8Array(60).fill(9) };
  const bytes = encodeLogKey(key);
  assert.equal(toHex(bytes), "02000000" + "0500000000000000" + "01000000" + "09".repeat(60));
  assert.deepEqual(decodeLogEntryData(bytes), { type: "logKey", key });
});

Deno.test("mutations and shard states come back", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({
        key: fc.uint8Array({ maxLength: 50 }),
        value: fc.option(fc.uint8Array({ maxLength: 50 }), { nil: undefined }),
      }, { noNullPrototype: true })),
      (mutations) => assert.deepEqual(decodeMutations(encodeMutations(mutations)), mutations),
    ),
    { numRuns: testRounds(5_000), seed: testSeed("mutations") },
  );
  for (const key of [undefined, { term: 3, number: 4, wrapped: new Uint8Array(60).fill(1) }]) {
    const state = { sequence: 12, timestamp: 34n, key };
    assert.deepEqual(decodeShardState(encodeShardState(state)), state);
    assert.deepEqual(
      decodeShardState(advanceShardState(encodeShardState(state), 99, 77n)),
      { sequence: 99, timestamp: 77n, key },
    );
  }
});

Deno.test("damaged entries are refused, never misread as longer than they are", () => {
  const good = encodeDelta(HEADER, new Uint8Array(40));
  fc.assert(
    fc.property(
      fc.nat(good.length - 1),
      fc.nat(255),
      fc.nat(good.length),
      (at, value, length) => {
        const bad = good.slice(0, length);
        if (at < bad.length) bad[at] = value;
        for (const decode of [decodeLogEntryData, decodeMutations, decodeShardState]) {
          try {
            decode(bad);
          } catch (error) {
            assert.ok(error instanceof KisekiError, String(error));
          }
        }
      },
    ),
    { numRuns: testRounds(100_000), seed: testSeed("damaged entries") },
  );
});

Deno.test("a delta over its limit is refused with what to do", () => {
  assert.throws(() => encodeDelta(HEADER, new Uint8Array(1 << 20)), /stage the change in parts/);
});
