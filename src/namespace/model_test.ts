/**
 * Random operations against a model of S3, with housekeeping between, and the invariants of rows
 * checked from scratch: counts of directories, references of visible content.
 */
import assert from "node:assert/strict";
import fc from "fast-check";
import { type Bytes, compareBytes, concatBytes, toHex, utf8 } from "../common/bytes.ts";
import { isKisekiError } from "../common/errors.ts";
import { KEY_PREFIX_BYTES, RecordType, unescapeName } from "../log/row_key.ts";
import { testProvider } from "../../test/providers.ts";
import { testRounds, testSeed } from "../../test/rounds.ts";
import type { ListItem, ObjectVersion, Tags } from "./api.ts";
import { distinctChunks, referenceRowKey } from "./change.ts";
import {
  CompositionPartRow,
  type Content,
  ContentKind,
  DirectoryRecord,
  Entry,
  EntryKind,
  ExtentRow,
  UploadPartRecord,
  UploadRecord,
  VersionRecord,
} from "./records.ts";
import { keyOf, Routing } from "./rows.ts";
import { type TestNamespace, testNamespace } from "./testing.ts";

const crypto = testProvider();
const routing = new Routing((bytes) => crypto.digest("sha256", bytes));
const DAY_MS = 24 * 3600 * 1000;

const KEYS = [
  "a",
  "a/",
  "a/b",
  "a//b",
  "a0",
  "a/\u0000b",
  "a\u0000",
  "/",
  "//",
  "b/c/d",
  "b/c/e",
  "b/c",
  "b.c",
  "\u{10000}x",
  "\uffffy",
  "é/ü",
];
const PREFIXES = ["", "a", "a/", "a//", "b/", "b/c/", "/", "é", "z", "b"];
const DELIMITERS = ["", "/", "/", "c", "\u0000", "c/"];
const SIZES = [0, 3, 512, 513, 4096, 4097, 70_000];

const key = fc.constantFrom(...KEYS);
const operation = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant("put" as const),
      key,
      size: fc.nat(6),
      content: fc.nat(2),
      condition: fc.nat(5),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant("delete" as const),
      key,
      which: fc.integer({ min: -1, max: 3 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("copy" as const),
      key,
      to: key,
      which: fc.integer({ min: -1, max: 2 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("tags" as const),
      key,
      which: fc.integer({ min: -1, max: 2 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("versioning" as const), enable: fc.boolean() }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("list" as const),
      prefix: fc.constantFrom(...PREFIXES),
      delimiter: fc.constantFrom(...DELIMITERS),
      limit: fc.integer({ min: 1, max: 4 }),
      after: fc.constantFrom("", "", ...KEYS),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("versions" as const),
      prefix: fc.constantFrom(...PREFIXES),
      delimiter: fc.constantFrom(...DELIMITERS),
      limit: fc.integer({ min: 1, max: 3 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("begin" as const), key }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("part" as const),
      upload: fc.nat(3),
      number: fc.integer({ min: 1, max: 3 }),
      size: fc.nat(6),
      content: fc.nat(2),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("complete" as const),
      upload: fc.nat(3),
      take: fc.nat(3),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("abort" as const), upload: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("lost" as const), size: fc.nat(6) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("maintain" as const), days: fc.nat(2) }) },
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

/** Few keys at a time, so that operations meet. */
const history = fc.record({
  keys: fc.shuffledSubarray(KEYS, { minLength: 2, maxLength: 6 }),
  operations: fc.array(operation, { minLength: 10, maxLength: 80, size: "max" }),
});

function within(op: Operation, keys: readonly string[]): Operation {
  const pick = (key: string): string => keys[KEYS.indexOf(key) % keys.length] as string;
  if (op.do === "copy") return { ...op, key: pick(op.key), to: pick(op.to) };
  return "key" in op ? { ...op, key: pick(op.key) } : op;
}

interface ModelVersion {
  readonly versionId: string;
  readonly deleteMarker: boolean;
  readonly content: Bytes;
  readonly etag: string;
  tags: Tags;
}

interface ModelUpload {
  readonly key: string;
  readonly uploadId: string;
  readonly parts: Map<number, Bytes>;
}

class Model {
  versioning: "unversioned" | "enabled" | "suspended" = "unversioned";
  /** Newest first. */
  readonly keys = new Map<string, ModelVersion[]>();
  readonly uploads: ModelUpload[] = [];

  publish(key: string, version: ModelVersion): void {
    const line = this.keys.get(key) ?? [];
    const kept = this.versioning === "enabled"
      ? line
      : line.filter((one) => one.versionId !== "null");
    this.keys.set(key, [version, ...kept]);
  }

  remove(key: string, versionId: string): void {
    const kept = (this.keys.get(key) ?? []).filter((one) => one.versionId !== versionId);
    if (kept.length === 0) this.keys.delete(key);
    else this.keys.set(key, kept);
  }

  sorted(): string[] {
    return [...this.keys.keys()].sort((a, b) => compareBytes(utf8(a), utf8(b)));
  }

  /** Rolled-up items strictly after `after`. */
  list(prefix: string, delimiter: string, after: string): string[] {
    const items: string[] = [];
    for (const key of this.sorted()) {
      const current = this.keys.get(key)?.[0];
      if (current === undefined || current.deleteMarker || !key.startsWith(prefix)) continue;
      const item = rolled(key, prefix, delimiter) ?? key;
      if (compareBytes(utf8(item), utf8(after)) > 0 && items.at(-1) !== item) items.push(item);
    }
    return items;
  }

  versions(prefix: string, delimiter: string): string[] {
    const items: string[] = [];
    for (const key of this.sorted()) {
      if (!key.startsWith(prefix)) continue;
      const item = rolled(key, prefix, delimiter);
      if (item === undefined) {
        for (const [i, one] of (this.keys.get(key) ?? []).entries()) {
          items.push(`${key}|${one.versionId}|${i === 0}|${one.deleteMarker}`);
        }
      } else if (items.at(-1) !== item) items.push(item);
    }
    return items;
  }
}

function rolled(key: string, prefix: string, delimiter: string): string | undefined {
  const at = delimiter === "" ? -1 : key.indexOf(delimiter, prefix.length);
  return at < 0 ? undefined : key.slice(0, at + delimiter.length);
}

function contentOf(size: number, variant: number): Bytes {
  const out = new Uint8Array(size).fill(variant + 1);
  if (size > 2) out[2] = size & 0xff;
  return out;
}

async function write(store: TestNamespace, bytes: Bytes) {
  const content = await store.service.beginContent(store.caller, "b", { checksums: [] });
  await content.write(bytes);
  await content.finish();
  return content;
}

async function read(store: TestNamespace, key: string, versionId?: string): Promise<Bytes> {
  const handle = await store.service.openObject(store.caller, "b", key, versionId);
  const pieces: Bytes[] = [];
  for await (const piece of handle.read(0, handle.version.sizeBytes)) pieces.push(piece.slice());
  return concatBytes(...pieces);
}

function pick(line: readonly ModelVersion[] | undefined, which: number): ModelVersion | undefined {
  return which < 0 ? undefined : line?.[which];
}

async function run(store: TestNamespace, model: Model, op: Operation): Promise<void> {
  const { service, caller } = store;
  store.clock.advance(1);
  switch (op.do) {
    case "put": {
      const bytes = contentOf(SIZES[op.size] as number, op.content);
      const content = await write(store, bytes);
      const current = model.keys.get(op.key)?.[0];
      const exists = current !== undefined && !current.deleteMarker;
      const condition = op.condition === 0
        ? { ifNoneMatch: ["*"] }
        : op.condition === 1
        ? { ifMatch: [current?.etag ?? "x"] }
        : {};
      const refused = (op.condition === 0 && exists) || (op.condition === 1 && !exists);
      const tags: Tags = [["t", op.key]];
      const putting = service.putObject(
        caller,
        "b",
        op.key,
        content,
        { headers: { contentType: "x/y" }, userMetadata: { m: op.key }, tags },
        condition,
      );
      if (refused) {
        await assert.rejects(
          putting,
          (error) =>
            isKisekiError(error, "namespace.precondition_failed") ||
            isKisekiError(error, "namespace.no_such_entry"),
        );
      } else {
        const { version } = await putting;
        assert.equal(version.versionId === "null", model.versioning !== "enabled");
        assert.equal(version.etag, toHex(crypto.digest("md5", bytes)));
        const { versionId, etag } = version;
        model.publish(op.key, { versionId, deleteMarker: false, content: bytes, etag, tags });
      }
      await content.abort();
      return;
    }
    case "delete": {
      const named = pick(model.keys.get(op.key), op.which);
      const result = await service.deleteObject(caller, "b", op.key, named?.versionId, {});
      if (named !== undefined) {
        assert.deepEqual(result, {
          versionId: named.versionId,
          deleteMarker: named.deleteMarker,
        });
        model.remove(op.key, named.versionId);
      } else if (model.versioning === "unversioned") {
        model.keys.delete(op.key);
      } else {
        assert.equal(result.deleteMarker, true);
        model.publish(op.key, {
          versionId: result.versionId ?? "",
          deleteMarker: true,
          content: new Uint8Array(0),
          etag: "",
          tags: [],
        });
      }
      return;
    }
    case "copy": {
      const line = model.keys.get(op.key);
      const source = pick(line, op.which) ?? line?.[0];
      if (source === undefined || source.deleteMarker) return;
      const from = { namespace: "b", key: op.key, versionId: source.versionId };
      const expected = await service.headObject(caller, "b", op.key, source.versionId);
      const to = { namespace: "b", key: op.to };
      const { version } = await service.copyObject(caller, from, to, expected, undefined, {});
      assert.equal(version.etag, source.etag);
      model.publish(op.to, { ...source, versionId: version.versionId });
      return;
    }
    case "tags": {
      const line = model.keys.get(op.key);
      const target = pick(line, op.which) ?? line?.[0];
      if (target === undefined || target.deleteMarker) return;
      target.tags = [["new", String(op.which)]];
      await service.setTags(caller, "b", op.key, target.versionId, target.tags);
      return;
    }
    case "versioning":
      if (!op.enable && model.versioning === "unversioned") return;
      model.versioning = op.enable ? "enabled" : "suspended";
      await service.updateNamespace(caller, "b", { versioning: model.versioning });
      return;
    case "list": {
      const expected = model.list(op.prefix, op.delimiter, op.after);
      const found: string[] = [];
      let after = op.after;
      for (;;) {
        const page = await service.listObjects(caller, "b", { ...op, after });
        assert.ok(page.items.length <= op.limit);
        for (const item of page.items) {
          found.push(item.type === "object" ? item.object.key : item.prefix);
        }
        if (page.next === undefined) break;
        assert.equal(page.items.length, op.limit);
        after = page.next;
      }
      assert.deepEqual(found, expected);
      return;
    }
    case "versions":
      return await checkVersions(store, model, op.prefix, op.delimiter, op.limit);
    case "begin": {
      const info = await service.createUpload(caller, "b", op.key, {
        headers: {},
        userMetadata: {},
        tags: [],
      });
      model.uploads.push({ key: op.key, uploadId: info.uploadId, parts: new Map() });
      return;
    }
    case "part": {
      const upload = model.uploads[op.upload % Math.max(1, model.uploads.length)];
      if (upload === undefined) return;
      // The first two parts are big enough to be followed by others.
      const size = op.number < 3 && op.content === 0 ? 5 << 20 : SIZES[op.size] as number;
      const bytes = contentOf(size, op.content);
      const content = await write(store, bytes);
      const { key, uploadId } = upload;
      await service.putPart(caller, "b", key, uploadId, op.number, content, undefined);
      upload.parts.set(op.number, bytes);
      return;
    }
    case "complete": {
      const upload = model.uploads[op.upload % Math.max(1, model.uploads.length)];
      if (upload === undefined) return;
      const numbers = [...upload.parts.keys()].sort().slice(0, op.take + 1);
      if (numbers.length === 0) return;
      const named = numbers.map((partNumber) => ({
        partNumber,
        etag: toHex(crypto.digest("md5", upload.parts.get(partNumber) as Bytes)),
      }));
      const small = numbers.slice(0, -1).some((n) =>
        (upload.parts.get(n) as Bytes).length < 5 << 20
      );
      const complete = () =>
        service.completeUpload(caller, "b", upload.key, upload.uploadId, named, undefined, {});
      if (small) {
        await assert.rejects(complete(), (e) => isKisekiError(e, "namespace.part_too_small"));
        return;
      }
      const { version } = await complete();
      assert.deepEqual((await complete()).version.versionId, version.versionId);
      const bytes = concatBytes(...numbers.map((n) => upload.parts.get(n) as Bytes));
      model.uploads.splice(model.uploads.indexOf(upload), 1);
      assert.match(version.etag, new RegExp(`-${numbers.length}$`));
      const { versionId, etag } = version;
      model.publish(upload.key, {
        versionId,
        deleteMarker: false,
        content: bytes,
        etag,
        tags: [],
      });
      return;
    }
    case "abort": {
      const upload = model.uploads[op.upload % Math.max(1, model.uploads.length)];
      if (upload === undefined) return;
      await service.abortUpload(caller, "b", upload.key, upload.uploadId);
      model.uploads.splice(model.uploads.indexOf(upload), 1);
      return;
    }
    case "lost":
      // A writer that dies before it publishes.
      await write(store, contentOf(SIZES[op.size] as number, 9));
      return;
    case "maintain":
      store.clock.advance(op.days * DAY_MS);
      await service.maintain(caller.organisation);
      return;
  }
}

async function checkVersions(
  store: TestNamespace,
  model: Model,
  prefix: string,
  delimiter: string,
  limit: number,
): Promise<void> {
  const found: string[] = [];
  let keyMarker = "";
  let versionIdMarker = "";
  for (;;) {
    const page = await store.service.listVersions(store.caller, "b", {
      prefix,
      delimiter,
      keyMarker,
      versionIdMarker,
      limit,
    });
    found.push(...page.items.map(versionItem));
    if (page.next === undefined) break;
    ({ keyMarker, versionIdMarker } = page.next);
  }
  assert.deepEqual(found, model.versions(prefix, delimiter));
}

function versionItem(item: ListItem): string {
  if (item.type === "prefix") return item.prefix;
  const one: ObjectVersion = item.object;
  return `${one.key}|${one.versionId}|${one.isLatest}|${one.deleteMarker}`;
}

/** Counts and references, from the rows alone. */
function checkRows(store: TestNamespace): void {
  const rows = [...store.shards.tenantRows.scan(new Uint8Array(0), undefined)];
  const live = new Map<string, number>();
  const entries = new Map<string, number>();
  const directories = new Map<string, DirectoryRecord>();
  const nonempty = new Map<string, boolean>();
  const wanted = new Set<string>();
  const references = new Set<string>();
  const want = (content: Content | undefined): void => {
    for (const reference of referencesOf(store, content)) wanted.add(reference);
  };
  for (const { key, value } of rows) {
    const owner = toHex(key.subarray(8, 24));
    switch (key[KEY_PREFIX_BYTES - 1]) {
      case RecordType.directory:
        directories.set(owner, DirectoryRecord.decode(value));
        break;
      case RecordType.entry: {
        const entry = Entry.decode(value);
        entries.set(owner, (entries.get(owner) ?? 0) + 1);
        const seen = entry.kind === EntryKind.directory ? entry.nonempty : !entry.deleteMarker;
        if (seen) live.set(owner, (live.get(owner) ?? 0) + 1);
        if (entry.kind === EntryKind.directory) nonempty.set(toHex(entry.fileId), entry.nonempty);
        else want(VersionRecord.decode(entry.current).content);
        break;
      }
      case RecordType.version:
        want(VersionRecord.decode(value).content);
        break;
      case RecordType.uploadPart:
        want(UploadPartRecord.decode(value).content);
        break;
      case RecordType.reference:
        references.add(toHex(key));
        break;
      case RecordType.staged:
        assert.fail("a staged row is left");
    }
  }
  for (const [id, record] of directories) {
    assert.equal(record.entries, entries.get(id) ?? 0, "entries");
    assert.equal(record.live, live.get(id) ?? 0, "live");
    if (record.parent.length > 0) {
      assert.ok(record.entries > 0, "an empty directory");
      assert.equal(nonempty.get(id), record.live > 0, "nonempty");
    }
  }
  assert.deepEqual([...references].sort(), [...wanted].sort());
}

function referencesOf(store: TestNamespace, content: Content | undefined): readonly string[] {
  if (content === undefined) return [];
  const key = routing.of(content.placement.length > 0 ? content.placement : new Uint8Array(16));
  const extents = content.oneExtent === undefined ? [] : [content.oneExtent];
  const out: string[] = [];
  const scan = (type: RecordType) => {
    const from = keyOf(key, content.composition, type);
    return [
      ...store.shards.tenantRows.scan(
        from,
        keyOf(key, content.composition, (type + 1) as RecordType),
      ),
    ];
  };
  if (content.kind === ContentKind.extents) {
    for (const row of scan(RecordType.extent)) extents.push(...ExtentRow.decode(row.value).extents);
  }
  if (content.kind === ContentKind.parts) {
    let count = 0;
    for (const row of scan(RecordType.compositionPart)) {
      for (const part of CompositionPartRow.decode(row.value).parts) {
        count++;
        out.push(...referencesOf(store, part.content));
      }
    }
    assert.equal(count, content.count);
  }
  for (const chunk of distinctChunks(extents)) {
    out.push(toHex(referenceRowKey(chunk, content.composition, content.operation)));
  }
  return out;
}

Deno.test("random operations do what the model does, and nothing leaks", async () => {
  await fc.assert(
    fc.asyncProperty(history, async ({ keys, operations }) => {
      const store = testNamespace(crypto);
      await store.service.createNamespace(store.caller, "b");
      const model = new Model();
      for (const op of operations) await run(store, model, within(op, keys));
      for (const [key, line] of model.keys) {
        for (const version of line) {
          if (version.deleteMarker) continue;
          assert.deepEqual(await read(store, key, version.versionId), version.content);
          const head = await store.service.headObject(store.caller, "b", key, version.versionId);
          assert.deepEqual(head.tags, version.tags);
          assert.equal(head.etag, version.etag);
        }
        const reading = read(store, key);
        if (line[0]?.deleteMarker === true) {
          await assert.rejects(reading, (e) => isKisekiError(e, "namespace.no_such_entry"));
        } else assert.deepEqual(await reading, line[0]?.content);
      }
      await checkVersions(store, model, "", "", 1000);
      store.clock.advance(2 * DAY_MS);
      await store.service.maintain(store.caller.organisation);
      checkRows(store);
      for (const [key, line] of [...model.keys]) {
        for (const { versionId } of line) {
          await store.service.deleteObject(store.caller, "b", key, versionId, {});
        }
      }
      await store.service.deleteNamespace(store.caller, "b");
      const report = await store.service.maintain(store.caller.organisation);
      await store.service.maintain(store.caller.organisation);
      assert.equal(report.removed, 1);
      const left = [...store.shards.tenantRows.scan(new Uint8Array(0), undefined)];
      assert.deepEqual(
        left.filter(({ key }) => key[KEY_PREFIX_BYTES - 1] !== RecordType.chunk).map(describeRow),
        [],
      );
      assert.equal(store.chunks.reading, 0);
    }),
    { numRuns: testRounds(600), seed: testSeed("namespace model") },
  );
});

function describeRow(row: { readonly key: Bytes; readonly value: Bytes }): string {
  const type = row.key[KEY_PREFIX_BYTES - 1];
  if (type === RecordType.upload) {
    const { name } = unescapeName(row.key.subarray(KEY_PREFIX_BYTES));
    return `upload ${new TextDecoder().decode(name)} ${UploadRecord.decode(row.value).state}`;
  }
  return `row of type ${type}`;
}
