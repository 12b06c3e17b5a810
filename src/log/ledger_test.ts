import assert from "node:assert/strict";
import { type Bytes, utf8, utf8ToString } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import {
  type ChunkId,
  type CompositionId,
  newId128,
  type OperationId,
  type OrganisationId,
  type ShardId,
} from "../common/ids.ts";
import { COLLECTION_GRACE_MS, LedgerClient, LedgerEvaluator } from "./ledger.ts";
import type { ShardPort } from "./ports.ts";
import { SortedRows } from "./sorted_rows.ts";

const ORGANISATION = "0a".repeat(16) as OrganisationId;
const SHARD = 2 as ShardId;

function harness(): {
  client: LedgerClient<string>;
  rows: SortedRows;
  pass: (ms: number) => void;
  collectAll: () => Promise<readonly ChunkId[]>;
} {
  const rows = new SortedRows();
  const evaluator = new LedgerEvaluator({
    incarnationOf: (record) => utf8ToString(record).slice(0, 1),
  });
  let nowMs = 1_700_000_000_000;
  const port: ShardPort = {
    execute: (shard, request) => {
      const evaluation = evaluator.evaluate({
        shard,
        organisation: ORGANISATION,
        rows,
        timestamp: BigInt(nowMs) << 16n,
        newId: newId128,
      }, request.subarray(1));
      rows.apply(evaluation.mutations);
      return Promise.resolve(evaluation.result);
    },
    query: (shard, request) =>
      Promise.resolve(
        evaluator.query({ shard, organisation: ORGANISATION, rows, nowMs }, request.subarray(1)),
      ),
  };
  const codec = { encode: (text: string): Bytes => utf8(text), decode: utf8ToString };
  const client = new LedgerClient(port, {
    shardOf: () => SHARD,
    shardsOf: () => [SHARD],
  }, codec);
  return {
    client,
    rows,
    pass: (ms) => nowMs += ms,
    collectAll: async () => {
      const found: ChunkId[] = [];
      let cursor: ChunkId | undefined;
      do {
        const page = await client.collectPage(SHARD, 2, cursor);
        found.push(...page.dying.map((d) => d.chunk));
        cursor = page.next;
      } while (cursor !== undefined);
      return found;
    },
  };
}

const chunk = (n: number): ChunkId => n.toString(16).padStart(2, "0").repeat(32) as ChunkId;
const reference = (n: number, operation = newId128<OperationId>()) => ({
  chunk: chunk(n),
  composition: newId128<CompositionId>(),
  operation,
});

Deno.test("a chunk is missing until recorded, held afterwards, and looked up as recorded", async () => {
  const { client, rows } = harness();
  const a = reference(1);
  assert.deepEqual(await client.acquire(ORGANISATION, [a]), ["missing"]);
  assert.equal(rows.size, 0, "a miss leaves no row");
  assert.deepEqual(await client.record(ORGANISATION, [{ reference: a, record: "first" }]), [
    "recorded",
  ]);
  assert.deepEqual(await client.acquire(ORGANISATION, [reference(1), reference(2)]), [
    "held",
    "missing",
  ]);
  assert.deepEqual(await client.lookup(ORGANISATION, [chunk(2), chunk(1)]), [undefined, "first"]);
});

Deno.test("the first upload recorded wins and the second is told", async () => {
  const { client } = harness();
  await client.record(ORGANISATION, [{ reference: reference(1), record: "first" }]);
  assert.deepEqual(
    await client.record(ORGANISATION, [{ reference: reference(1), record: "second" }]),
    ["superseded"],
  );
  assert.deepEqual(await client.lookup(ORGANISATION, [chunk(1)]), ["first"]);
});

Deno.test("a chunk dies only after the whole grace time without a reference", async () => {
  const { client, pass, collectAll } = harness();
  const a = reference(1);
  const b = reference(2);
  await client.record(ORGANISATION, [{ reference: a, record: "a" }, { reference: b, record: "b" }]);
  await client.release(ORGANISATION, [a]);
  assert.deepEqual(await collectAll(), []);
  pass(COLLECTION_GRACE_MS - 1);
  assert.deepEqual(await collectAll(), []);
  const again = reference(1);
  assert.deepEqual(await client.acquire(ORGANISATION, [again]), ["held"], "still revived");
  pass(COLLECTION_GRACE_MS);
  assert.deepEqual(await collectAll(), [], "the clock starts anew");
  await client.release(ORGANISATION, [again]);
  assert.deepEqual(await collectAll(), []);
  pass(COLLECTION_GRACE_MS);
  assert.deepEqual(await collectAll(), [chunk(1)]);
});

Deno.test("nothing revives a dying chunk; once forgotten it is uploaded again", async () => {
  const { client, pass, collectAll } = harness();
  const a = reference(1);
  await client.record(ORGANISATION, [{ reference: a, record: "a" }]);
  await client.release(ORGANISATION, [a]);
  await collectAll();
  pass(COLLECTION_GRACE_MS);
  await collectAll();
  assert.deepEqual(await client.acquire(ORGANISATION, [reference(1)]), ["dying"]);
  await assert.rejects(
    client.record(ORGANISATION, [{ reference: reference(1), record: "b" }]),
    (error) => error instanceof KisekiError && error.code === "chunk.upload_again",
  );
  await client.forget(ORGANISATION, [chunk(1)]);
  assert.deepEqual(await client.acquire(ORGANISATION, [reference(1)]), ["missing"]);
  assert.deepEqual(await client.record(ORGANISATION, [{ reference: reference(1), record: "b" }]), [
    "recorded",
  ]);
});

Deno.test("a chunk in use is never forgotten", async () => {
  const { client } = harness();
  await client.record(ORGANISATION, [{ reference: reference(1), record: "a" }]);
  await assert.rejects(client.forget(ORGANISATION, [chunk(1)]), /not dying/);
});

Deno.test("references inserted twice by the same operation are one", async () => {
  const { client, rows } = harness();
  const a = reference(1);
  await client.record(ORGANISATION, [{ reference: a, record: "a" }]);
  await client.acquire(ORGANISATION, [a]);
  assert.equal(rows.size, 2);
});

Deno.test("a repaired chunk's record is replaced, that of another upload is not", async () => {
  const { client } = harness();
  await client.record(ORGANISATION, [{ reference: reference(1), record: "a, here" }]);
  await client.replace(ORGANISATION, chunk(1), "a, there");
  assert.deepEqual(await client.lookup(ORGANISATION, [chunk(1)]), ["a, there"]);
  await client.replace(ORGANISATION, chunk(1), "b, elsewhere");
  await client.replace(ORGANISATION, chunk(2), "c");
  assert.deepEqual(await client.lookup(ORGANISATION, [chunk(1), chunk(2)]), [
    "a, there",
    undefined,
  ]);
});

Deno.test("collection walks on from page to page and starts again after the end", async () => {
  const { client, pass } = harness();
  const references = [1, 2, 3].map((n) => reference(n));
  await client.record(
    ORGANISATION,
    references.map((reference) => ({ reference, record: "r" })),
  );
  await client.release(ORGANISATION, references);
  assert.equal((await client.collect(ORGANISATION, 10)).length, 0);
  pass(COLLECTION_GRACE_MS);
  assert.equal((await client.collect(ORGANISATION, 10)).length, 3);
  assert.equal((await client.collect(ORGANISATION, 10)).length, 3, "until they are forgotten");
});
