/** One store from end to end: what a gateway does first. */
import assert from "node:assert/strict";
import { toHex } from "../common/bytes.ts";
import { isKisekiError } from "../common/errors.ts";
import { testProvider } from "../../test/providers.ts";
import type { ObjectHandle } from "./api.ts";
import { type TestNamespace, testNamespace } from "./testing.ts";

const crypto = testProvider();
const PLAIN = { headers: {}, userMetadata: {}, tags: [] };

async function put(
  store: TestNamespace,
  key: string,
  bytes: Uint8Array,
  extra: { readonly pieces?: number } = {},
): Promise<string> {
  const content = await store.service.beginContent(store.caller, "b", { checksums: [] });
  const step = extra.pieces ?? 65536;
  for (let at = 0; at < bytes.length; at += step) await content.write(bytes.slice(at, at + step));
  await content.finish();
  const { version } = await store.service.putObject(store.caller, "b", key, content, PLAIN, {});
  return version.etag;
}

async function readAll(handle: ObjectHandle, offset = 0, length?: number): Promise<Uint8Array> {
  const size = length ?? handle.version.sizeBytes - offset;
  const out = new Uint8Array(size);
  let at = 0;
  for await (const piece of handle.read(offset, size)) {
    assert.ok(piece.length <= 1 << 20);
    out.set(piece, at);
    at += piece.length;
  }
  assert.equal(at, size);
  return out;
}

function pattern(size: number, seed = 1): Uint8Array {
  const out = new Uint8Array(size);
  let state = seed;
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    out[i] = state >>> 16;
  }
  return out;
}

Deno.test("what was put is read back, of every kind of content", async () => {
  const store = testNamespace(crypto);
  await store.service.createNamespace(store.caller, "b");
  for (const size of [0, 1, 512, 513, 4096, 4097, 65536, 65537, 4 << 20, (4 << 20) + 1, 9 << 20]) {
    const bytes = pattern(size, size + 1);
    const etag = await put(store, `size/${size}`, bytes);
    assert.equal(etag, toHex(crypto.digest("md5", bytes)));
    const handle = await store.service.openObject(store.caller, "b", `size/${size}`);
    assert.equal(handle.version.sizeBytes, size);
    assert.deepEqual(await readAll(handle), bytes);
    if (size > 70_000) {
      for (const [from, length] of [[65_530, 20], [size - 7, 7], [1, size - 1]] as const) {
        assert.deepEqual(await readAll(handle, from, length), bytes.slice(from, from + length));
      }
    }
  }
  assert.equal(store.chunks.reading, 0);
});

Deno.test("the same content is stored once", async () => {
  const store = testNamespace(crypto);
  await store.service.createNamespace(store.caller, "b");
  await put(store, "x", pattern(100_000));
  await put(store, "y", pattern(100_000));
  assert.equal(store.chunks.stored.size, 1);
});

Deno.test("deleting the last key below a prefix takes its directories away", async () => {
  const store = testNamespace(crypto);
  await store.service.createNamespace(store.caller, "b");
  const before = store.shards.tenantRows.size;
  await put(store, "a/b/c", pattern(10));
  await put(store, "a", pattern(10));
  const list = async (delimiter: string) =>
    (await store.service.listObjects(store.caller, "b", {
      prefix: "",
      delimiter,
      after: "",
      limit: 10,
    })).items.map((item) => item.type === "object" ? item.object.key : item.prefix);
  assert.deepEqual(await list(""), ["a", "a/b/c"]);
  assert.deepEqual(await list("/"), ["a", "a/"]);
  await store.service.deleteObject(store.caller, "b", "a/b/c", undefined, {});
  assert.deepEqual(await list("/"), ["a"]);
  await store.service.deleteObject(store.caller, "b", "a", undefined, {});
  assert.equal(store.shards.tenantRows.size, before);
  await store.service.deleteNamespace(store.caller, "b");
  await assert.rejects(
    store.service.headObject(store.caller, "b", "a"),
    (error) => isKisekiError(error, "namespace.no_such_namespace"),
  );
});

Deno.test("another organisation does not see a namespace", async () => {
  const store = testNamespace(crypto);
  await store.service.createNamespace(store.caller, "b");
  const stranger = { ...store.caller, organisation: "1".repeat(32) } as typeof store.caller;
  await assert.rejects(
    store.service.getNamespace(stranger, "b"),
    (error) => isKisekiError(error, "namespace.no_such_namespace"),
  );
  assert.deepEqual(await store.service.listNamespaces(stranger), []);
});
