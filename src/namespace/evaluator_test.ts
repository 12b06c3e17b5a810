/** The evaluator by itself: refuses bad requests, stays in order, stays quick. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { compareBytes, utf8 } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { CONTROL_SHARD, type ShardId } from "../common/ids.ts";
import { testProvider } from "../../test/providers.ts";
import { testRounds, testSeed } from "../../test/rounds.ts";
import * as m from "./messages.ts";
import { type TestNamespace, testNamespace } from "./testing.ts";

const crypto = testProvider();
const PLAIN = { headers: {}, userMetadata: {}, tags: [] };

async function putAll(store: TestNamespace, keys: readonly string[]): Promise<void> {
  for (const key of keys) {
    const content = await store.service.beginContent(store.caller, "b", { checksums: [] });
    await content.write(utf8("x"));
    await content.finish();
    await store.service.putObject(store.caller, "b", key, content, PLAIN, {});
  }
}

async function listAll(store: TestNamespace, limit: number): Promise<string[]> {
  const keys: string[] = [];
  let after = "";
  for (;;) {
    const page = await store.service.listObjects(store.caller, "b", {
      prefix: "",
      delimiter: "",
      after,
      limit,
    });
    for (const item of page.items) if (item.type === "object") keys.push(item.object.key);
    if (page.next === undefined) return keys;
    after = page.next;
  }
}

const piece = fc.constantFrom(
  "/",
  "/",
  "a",
  "b",
  "0",
  ".",
  "\u0000",
  "\u00ff",
  "é",
  "\uffff",
  "\u{10000}",
  "\u{10ffff}",
);
const anyKey = fc.array(piece, { minLength: 1, maxLength: 6 }).map((parts) => parts.join(""));

Deno.test("an in-order walk is the byte order of full keys", async () => {
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(anyKey, { maxLength: 30, size: "max" }), async (keys) => {
      const store = testNamespace(crypto);
      await store.service.createNamespace(store.caller, "b");
      await putAll(store, keys);
      const sorted = [...keys].sort((a, b) => compareBytes(utf8(a), utf8(b)));
      assert.deepEqual(await listAll(store, 1000), sorted);
      assert.deepEqual(await listAll(store, 3), sorted);
    }),
    { numRuns: testRounds(200), seed: testSeed("key order") },
  );
});

Deno.test("a key of 1,024 slashes fits one delta and vanishes without a trace", async () => {
  const store = testNamespace(crypto);
  await store.service.createNamespace(store.caller, "b");
  const rows = store.shards.tenantRows.size;
  const key = "/".repeat(1024);
  await putAll(store, [key]);
  assert.deepEqual(await listAll(store, 10), [key]);
  await store.service.deleteObject(store.caller, "b", key, undefined, {});
  assert.equal(store.shards.tenantRows.size, rows);
});

Deno.test("keys over 1,024 bytes, empty or with lone surrogates are refused", async () => {
  const store = testNamespace(crypto);
  await store.service.createNamespace(store.caller, "b");
  for (const key of ["", "a".repeat(1025), "é".repeat(513), "a\ud800"]) {
    await assert.rejects(putAll(store, [key]), (error) => error instanceof KisekiError);
  }
  await putAll(store, ["é".repeat(512)]);
});

Deno.test("a limit of 0 gives an empty page that is not truncated", async () => {
  const store = testNamespace(crypto);
  await store.service.createNamespace(store.caller, "b");
  await putAll(store, ["a"]);
  const page = await store.service.listObjects(store.caller, "b", {
    prefix: "",
    delimiter: "",
    after: "",
    limit: 0,
  });
  assert.deepEqual(page, { items: [] });
});

Deno.test("bad requests are refused with an error of the family and change nothing", async () => {
  const store = testNamespace(crypto);
  await store.service.createNamespace(store.caller, "b");
  await putAll(store, ["a", "b/c"]);
  const size = store.shards.tenantRows.size;
  const samples = [
    m.encodeRequest(m.CommandNumber.put, m.Put, {}),
    m.encodeRequest(m.CommandNumber.delete, m.Delete, { version: "null" }),
    m.encodeRequest(m.QueryNumber.list, m.List, { limit: 3, prefix: utf8("b") }),
  ];
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...samples),
      fc.uint8Array({ maxLength: 120 }),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 5 }),
      fc.nat(30),
      fc.boolean(),
      async (sample, noise, changes, number, mutate) => {
        let request = new Uint8Array([
          2,
          ...m.encodeRequest(number, m.Open, {}).slice(1),
          ...noise,
        ]);
        if (mutate) {
          request = sample.slice();
          for (const [at, value] of changes) request[1 + at % (request.length - 1)] = value;
        }
        request[0] = 2;
        for (const shard of [2 as ShardId, CONTROL_SHARD]) {
          for (const how of ["execute", "query"] as const) {
            try {
              await store.shards[how](shard, request);
            } catch (error) {
              assert.ok(error instanceof KisekiError, String(error));
            }
          }
        }
      },
    ),
    { numRuns: testRounds(10_000), seed: testSeed("evaluator fuzz") },
  );
  assert.ok(store.shards.tenantRows.size >= size);
  assert.deepEqual(await listAll(store, 10), ["a", "b/c"]);
});
