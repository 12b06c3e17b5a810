/** Multipart uploads, checksums of the whole, big part lists, and writers that meet. */
import assert from "node:assert/strict";
import { type Bytes, concatBytes, utf8 } from "../common/bytes.ts";
import { isKisekiError } from "../common/errors.ts";
import { KEY_PREFIX_BYTES, RecordType } from "../log/row_key.ts";
import { testProvider } from "../../test/providers.ts";
import { testRounds } from "../../test/rounds.ts";
import type { ObjectChecksum, ObjectChecksumAlgorithm } from "./api.ts";
import { type TestNamespace, testNamespace } from "./testing.ts";

const crypto = testProvider();
const PLAIN = { headers: {}, userMetadata: {}, tags: [] };
const PART = 5 << 20;

async function open(): Promise<TestNamespace> {
  const store = testNamespace(crypto);
  await store.service.createNamespace(store.caller, "b");
  return store;
}

async function write(store: TestNamespace, bytes: Bytes, algorithm?: ObjectChecksumAlgorithm) {
  const content = await store.service.beginContent(store.caller, "b", {
    checksums: algorithm === undefined ? [] : [algorithm],
  });
  await content.write(bytes);
  return { content, digests: await content.finish() };
}

function countRows(store: TestNamespace, type: RecordType): number {
  let count = 0;
  for (const row of store.shards.tenantRows.scan(new Uint8Array(0), undefined)) {
    if (row.key[KEY_PREFIX_BYTES - 1] === type) count++;
  }
  return count;
}

for (
  const [algorithm, type] of [
    ["CRC32", "FULL_OBJECT"],
    ["CRC32C", "FULL_OBJECT"],
    ["CRC64NVME", "FULL_OBJECT"],
    ["CRC32", "COMPOSITE"],
    ["SHA1", "COMPOSITE"],
    ["SHA256", "COMPOSITE"],
  ] as const
) {
  Deno.test(`an upload gets its ${type} ${algorithm}`, async () => {
    const store = await open();
    const { service, caller } = store;
    const upload = await service.createUpload(caller, "b", "k", {
      ...PLAIN,
      checksumAlgorithm: algorithm,
      checksumType: type,
    });
    const bodies = [new Uint8Array(PART).fill(1), new Uint8Array(PART).fill(2), utf8("end")];
    const parts = [];
    for (const [i, body] of bodies.entries()) {
      const { content, digests } = await write(store, body, algorithm);
      const value = digests.checksums[algorithm] as Bytes;
      const checksum: ObjectChecksum = { algorithm, type: "FULL_OBJECT", value };
      const info = await service.putPart(
        caller,
        "b",
        "k",
        upload.uploadId,
        i + 1,
        content,
        checksum,
      );
      parts.push({ partNumber: i + 1, etag: info.etag, checksum });
    }
    const whole = await write(store, concatBytes(...bodies), algorithm);
    const composite = await write(
      store,
      concatBytes(...parts.map((part) => part.checksum.value)),
      algorithm,
    );
    const expected = (type === "FULL_OBJECT" ? whole : composite).digests.checksums[algorithm];
    const claim = (value: Bytes): ObjectChecksum => ({ algorithm, type, value });
    const wrong = new Uint8Array((expected as Bytes).length);
    await assert.rejects(
      service.completeUpload(caller, "b", "k", upload.uploadId, parts, claim(wrong), {}),
      (error) => isKisekiError(error, "namespace.bad_digest"),
    );
    const { version } = await service.completeUpload(
      caller,
      "b",
      "k",
      upload.uploadId,
      parts,
      claim(expected as Bytes),
      {},
    );
    assert.deepEqual(version.checksum, claim(expected as Bytes));
    assert.equal(version.partCount, 3);
    const handle = await service.openObject(caller, "b", "k");
    const listed = await handle.parts();
    assert.deepEqual(listed.map((part) => part.sizeBytes), [PART, PART, 3]);
    const pieces: Bytes[] = [];
    for await (const piece of handle.read(PART - 2, PART + 5)) pieces.push(piece.slice());
    assert.deepEqual(concatBytes(...pieces), concatBytes(...bodies).slice(PART - 2, 2 * PART + 3));
    await whole.content.abort();
    await composite.content.abort();
  });
}

// 10,000 in full rounds; enough for several slices of the part list otherwise.
const MANY = Math.max(2_600, testRounds(10_000));

Deno.test("thousands of parts are completed, read at any offset, overwritten and drained", async () => {
  const store = await open();
  const { service, caller } = store;
  const upload = await service.createUpload(caller, "b", "big", PLAIN);
  const body = new Uint8Array(PART).fill(3);
  const first = await write(store, body);
  const info = await service.putPart(
    caller,
    "b",
    "big",
    upload.uploadId,
    1,
    first.content,
    undefined,
  );
  const source = { namespace: "b", key: "src" };
  const copy = await write(store, body);
  const { version } = await service.putObject(caller, "b", "src", copy.content, PLAIN, {});
  for (let partNumber = 2; partNumber <= MANY; partNumber++) {
    await service.copyPart(caller, source, version, { offset: 0, length: PART }, {
      namespace: "b",
      key: "big",
      uploadId: upload.uploadId,
      partNumber,
    });
  }
  const parts = Array.from({ length: MANY }, (_, i) => ({ partNumber: i + 1, etag: info.etag }));
  const done = await service.completeUpload(
    caller,
    "b",
    "big",
    upload.uploadId,
    parts,
    undefined,
    {},
  );
  assert.equal(done.version.sizeBytes, PART * MANY);
  const handle = await service.openObject(caller, "b", "big");
  for await (const piece of handle.read(PART * 2_222 - 1, 2)) {
    assert.ok(piece.every((byte) => byte === 3));
  }
  assert.equal(countRows(store, RecordType.compositionPart), Math.ceil(MANY / 256));
  await service.maintain(caller.organisation);
  assert.equal(countRows(store, RecordType.uploadPart), 0);
  assert.equal(countRows(store, RecordType.reference), 2 * MANY + 2);
  const small = await write(store, utf8("x"));
  await service.putObject(caller, "b", "big", small.content, PLAIN, {});
  await service.maintain(caller.organisation);
  assert.equal(countRows(store, RecordType.compositionPart), 0);
  assert.equal(countRows(store, RecordType.reference), 2);
});

Deno.test("parts are refused by name: missing, wrong ETag, out of order, too small", async () => {
  const store = await open();
  const { service, caller } = store;
  const { uploadId } = await service.createUpload(caller, "b", "k", PLAIN);
  const etags: string[] = [];
  for (const [i, size] of [100, 200].entries()) {
    const { content } = await write(store, new Uint8Array(size));
    etags.push((await service.putPart(caller, "b", "k", uploadId, i + 1, content, undefined)).etag);
  }
  const [one, two] = etags as [string, string];
  const refused = async (
    list: readonly (readonly [number, string])[],
    code: Parameters<typeof isKisekiError>[1],
  ) => {
    const parts = list.map(([partNumber, etag]) => ({ partNumber, etag }));
    await assert.rejects(
      service.completeUpload(caller, "b", "k", uploadId, parts, undefined, {}),
      (error) => isKisekiError(error, code),
    );
  };
  await refused([[1, one], [3, two]], "namespace.invalid_part");
  await refused([[1, two]], "namespace.invalid_part");
  await refused([[1, `${one}-1`]], "namespace.invalid_part");
  await refused([[2, two], [1, one]], "namespace.invalid_part_order");
  await refused([[1, one], [2, two]], "namespace.part_too_small");
  await refused([], "common.invalid_argument");
  await service.abortUpload(caller, "b", "k", uploadId);
  await refused([[1, one]], "namespace.no_such_upload");
  const { content } = await write(store, utf8("x"));
  await assert.rejects(
    service.putPart(caller, "b", "k", uploadId, 1, content, undefined),
    (error) => isKisekiError(error, "namespace.no_such_upload"),
  );
});

Deno.test("uploads list in order of key, page by page, with common prefixes", async () => {
  const store = await open();
  const { service, caller } = store;
  for (const key of ["b/2", "a", "b/1", "a", "c"]) {
    await service.createUpload(caller, "b", key, PLAIN);
    store.clock.advance(1);
  }
  const page = async (delimiter: string, limit: number) => {
    const found: string[] = [];
    let after = "";
    let uploadIdMarker = "";
    for (;;) {
      const options = { prefix: "", delimiter, after, uploadIdMarker, limit };
      const answer = await service.listUploads(caller, "b", options);
      for (const item of answer.items) {
        found.push(item.type === "upload" ? item.upload.key : item.prefix);
      }
      if (answer.next === undefined) return found;
      after = answer.next.keyMarker;
      uploadIdMarker = answer.next.uploadIdMarker;
    }
  };
  for (const limit of [1, 2, 10]) {
    assert.deepEqual(await page("", limit), ["a", "a", "b/1", "b/2", "c"]);
    assert.deepEqual(await page("/", limit), ["a", "a", "b/", "c"]);
  }
});

Deno.test("of writers with If-None-Match:* exactly one wins", async () => {
  const store = await open();
  const contents = await Promise.all(
    Array.from({ length: 8 }, (_, i) => write(store, new Uint8Array(5000).fill(i))),
  );
  const results = await Promise.allSettled(
    contents.map(({ content }) =>
      store.service.putObject(store.caller, "b", "k", content, PLAIN, { ifNoneMatch: ["*"] })
    ),
  );
  assert.equal(results.filter((one) => one.status === "fulfilled").length, 1);
  await Promise.all(contents.map(({ content }) => content.abort()));
  assert.equal(countRows(store, RecordType.reference), 1);
  assert.equal(countRows(store, RecordType.staged), 0);
});

Deno.test("a publish that comes after its announcement was collected is refused", async () => {
  const store = await open();
  const { content } = await write(store, new Uint8Array(5000));
  store.clock.advance(25 * 3600 * 1000);
  await store.service.maintain(store.caller.organisation);
  assert.equal(countRows(store, RecordType.reference), 0);
  await assert.rejects(
    store.service.putObject(store.caller, "b", "k", content, PLAIN, {}),
    (error) => isKisekiError(error, "namespace.conflict"),
  );
});

Deno.test("giving up after a publish whose answer was lost drops nothing", async () => {
  const store = await open();
  const { content } = await write(store, new Uint8Array(5000).fill(1));
  const execute = store.shards.execute.bind(store.shards);
  store.shards.execute = async (shard, request) => {
    await execute(shard, request);
    throw new Error("the line went dead");
  };
  await assert.rejects(store.service.putObject(store.caller, "b", "k", content, PLAIN, {}));
  store.shards.execute = execute;
  await content.abort();
  assert.equal(countRows(store, RecordType.reference), 1);
  const handle = await store.service.openObject(store.caller, "b", "k");
  for await (const piece of handle.read(0, 5000)) assert.ok(piece.every((byte) => byte === 1));
});

Deno.test("a flipped bit in a stored chunk is an error, never wrong bytes", async () => {
  const store = await open();
  const { content } = await write(store, new Uint8Array(200_000).fill(1));
  await store.service.putObject(store.caller, "b", "k", content, PLAIN, {});
  const [stored] = [...store.chunks.stored.values()];
  const envelope = stored?.envelope as Uint8Array;
  envelope[150_000] = (envelope[150_000] as number) ^ 1;
  const handle = await store.service.openObject(store.caller, "b", "k");
  for await (const piece of handle.read(0, 1000)) assert.equal(piece.length, 1000);
  await assert.rejects(
    (async () => {
      for await (const _ of handle.read(140_000, 20_000));
    })(),
    (error) => isKisekiError(error, "crypto.open_failed"),
  );
  assert.equal(store.chunks.reading, 0);
});

Deno.test("a reader that stops early gives everything back", async () => {
  const store = await open();
  const { content } = await write(store, new Uint8Array(20 << 20).fill(1));
  await store.service.putObject(store.caller, "b", "k", content, PLAIN, {});
  const handle = await store.service.openObject(store.caller, "b", "k");
  for await (const _ of handle.read(0, 20 << 20)) break;
  for (let i = 0; i < 100; i++) await Promise.resolve();
  assert.equal(store.chunks.reading, 0);
});
