/**
 * Random S3 operations against the real binary and the model, with restarts between: after every
 * step the answer agrees, and at the end every read and every listing does.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import fc from "fast-check";
import { testRounds, testSeed } from "../rounds.ts";
import { S3Client, type S3Reply } from "./s3_client.ts";
import { compareKeys, ModelBucket } from "./s3_model.ts";
import { removeData, startServer, type TestServer } from "./server.ts";

const KEYS = [
  "a",
  "a/",
  "a/b",
  "a/b/c",
  "a0",
  "a//b",
  "a/./b",
  "b/../x",
  "ü/\u{1f600}",
  "ü/\uffee",
  "sp ace+%41",
  "q?&=#",
] as const;

type Operation =
  | { readonly op: "put"; readonly key: string; readonly size: number; readonly fill: number }
  | { readonly op: "copy"; readonly from: string; readonly key: string }
  | { readonly op: "multipart"; readonly key: string; readonly fill: number; readonly tail: number }
  | { readonly op: "remove"; readonly key: string }
  | { readonly op: "removeVersion"; readonly key: string; readonly which: number }
  | { readonly op: "versioning"; readonly enabled: boolean }
  | { readonly op: "get"; readonly key: string; readonly first: number; readonly length: number }
  | { readonly op: "getVersion"; readonly key: string; readonly which: number }
  | { readonly op: "putIf"; readonly key: string; readonly absent: boolean; readonly fill: number }
  | {
    readonly op: "list";
    readonly prefix: string;
    readonly delimiter: string;
    readonly after: string;
    readonly page: number;
  }
  | { readonly op: "listVersions"; readonly page: number }
  | { readonly op: "restart"; readonly hard: boolean };

const key = fc.constantFrom(...KEYS);
const size = fc.constantFrom(0, 1, 511, 513, 4_096, 4_097, 65_536, 65_537, 200_000, 4_194_305);
const fill = fc.nat(255);
const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ op: fc.constant("put" as const), key, size, fill }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("copy" as const), from: key, key }) },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant("multipart" as const),
      key,
      fill,
      tail: fc.nat(70_000),
    }),
  },
  { weight: 4, arbitrary: fc.record({ op: fc.constant("remove" as const), key }) },
  {
    weight: 2,
    arbitrary: fc.record({ op: fc.constant("removeVersion" as const), key, which: fc.nat(5) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ op: fc.constant("versioning" as const), enabled: fc.boolean() }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      op: fc.constant("get" as const),
      key,
      first: fc.nat(70_000),
      length: fc.integer({ min: 1, max: 70_000 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ op: fc.constant("getVersion" as const), key, which: fc.nat(5) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ op: fc.constant("putIf" as const), key, absent: fc.boolean(), fill }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      op: fc.constant("list" as const),
      prefix: fc.constantFrom("", "a", "a/", "a/b", "ü", "a//", "b/", "zz"),
      delimiter: fc.constantFrom("", "/", "b", "//"),
      after: fc.oneof(fc.constant(""), key, fc.constantFrom("a/b/", "a1", "ü")),
      page: fc.integer({ min: 1, max: 4 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant("listVersions" as const),
      page: fc.integer({ min: 1, max: 4 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("restart" as const), hard: fc.boolean() }) },
);

const etagOf = (body: Uint8Array): string => createHash("md5").update(body).digest("hex");
const bodyOf = (length: number, value: number): Uint8Array<ArrayBuffer> =>
  new Uint8Array(length).map((_, i) => (value + i * 7 + (i >> 9)) & 0xff);
const unquoted = (etag: string | null): string => (etag ?? "").replaceAll('"', "");
const versionIn = (reply: S3Reply): string | undefined =>
  reply.headers.get("x-amz-version-id") ?? undefined;

class Run {
  readonly model = new ModelBucket();
  server: TestServer;
  client: S3Client;
  readonly bucket: string;

  constructor(server: TestServer, bucket: string) {
    this.server = server;
    this.client = new S3Client(server);
    this.bucket = bucket;
  }

  async step(step: Operation): Promise<void> {
    const { model, client, bucket } = this;
    switch (step.op) {
      case "put": {
        const body = bodyOf(step.size, step.fill);
        this.#written(step.key, body, etagOf(body), await client.put(bucket, step.key, body));
        return;
      }
      case "putIf": {
        const body = bodyOf(20, step.fill);
        const there = model.current(step.key);
        const headers: Record<string, string> = step.absent
          ? { "if-none-match": "*" }
          : { "if-match": `"${there?.etag ?? "0".repeat(32)}"` };
        const reply = await client.put(bucket, step.key, body, headers);
        if (step.absent && there !== undefined) assert.equal(reply.status, 412, reply.text());
        else if (!step.absent && there === undefined) assert.equal(reply.status, 404, reply.text());
        else this.#written(step.key, body, etagOf(body), reply);
        return;
      }
      case "copy": {
        const from = model.current(step.from);
        const reply = await client.copy(bucket, step.from, step.key);
        if (from?.body === undefined) assert.equal(reply.status, 404, reply.text());
        else if (step.from === step.key) assert.equal(reply.code(), "InvalidRequest");
        else {
          assert.equal(reply.status, 200, reply.text());
          const etag = unquoted(
            /<ETag>(.*)<\/ETag>/.exec(reply.text())?.[1]?.replaceAll("&quot;", '"').replaceAll(
              "&#34;",
              '"',
            ) ?? null,
          );
          model.put(step.key, from.body, etag, versionIn(reply));
        }
        return;
      }
      case "multipart": {
        const parts = [bodyOf(5 << 20, step.fill), bodyOf(step.tail + 1, step.fill + 1)];
        const whole = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
        whole.set(parts[0] as Uint8Array);
        whole.set(parts[1] as Uint8Array, 5 << 20);
        const digests = parts.map((part) => createHash("md5").update(part).digest());
        const etag = `${etagOf(new Uint8Array(digests.flatMap((d) => [...d])))}-2`;
        const reply = await client.multipart(bucket, step.key, parts);
        assert.equal(reply.status, 200, reply.text());
        model.put(step.key, whole, etag, versionIn(reply));
        return;
      }
      case "remove": {
        const reply = await client.remove(bucket, step.key);
        assert.equal(reply.status, 204, reply.text());
        model.remove(step.key, versionIn(reply));
        return;
      }
      case "removeVersion": {
        const version = model.versions(step.key)[step.which];
        if (version === undefined) return;
        const reply = await client.remove(bucket, step.key, { versionId: version.versionId });
        assert.equal(reply.status, 204, reply.text());
        model.removeVersion(step.key, version.versionId);
        return;
      }
      case "versioning": {
        const reply = await client.send({
          method: "PUT",
          bucket,
          query: { versioning: "" },
          body: `<VersioningConfiguration><Status>${
            step.enabled ? "Enabled" : "Suspended"
          }</Status></VersioningConfiguration>`,
        });
        assert.equal(reply.status, 200, reply.text());
        model.versioning = step.enabled ? "enabled" : "suspended";
        return;
      }
      case "get":
        return await this.#get(step.key, step.first, step.length);
      case "getVersion": {
        const version = model.versions(step.key)[step.which];
        if (version === undefined) return;
        const reply = await client.get(bucket, step.key, { versionId: version.versionId });
        if (version.body === undefined) assert.equal(reply.status, 405, reply.text());
        else assert.deepEqual(etagOf(reply.body), etagOf(version.body));
        return;
      }
      case "list":
        return await this.#list(step.prefix, step.delimiter, step.after, step.page);
      case "listVersions":
        return await this.#listVersions(step.page);
      case "restart": {
        const { dataDir } = this.server;
        if (step.hard) await this.server.kill();
        else assert.equal(await this.server.stop(), 0);
        this.server = await startServer({ dataDir });
        this.client = new S3Client(this.server);
        return;
      }
    }
  }

  async verifyAll(): Promise<void> {
    for (const key of KEYS) await this.#get(key, 0, 10_000_000);
    for (const delimiter of ["", "/"]) await this.#list("", delimiter, "", 3);
    await this.#listVersions(5);
  }

  #written(key: string, body: Uint8Array<ArrayBuffer>, etag: string, reply: S3Reply): void {
    assert.equal(reply.status, 200, reply.text());
    assert.equal(unquoted(reply.headers.get("etag")), etag);
    this.model.put(key, body, etag, versionIn(reply));
  }

  async #get(key: string, first: number, length: number): Promise<void> {
    const version = this.model.current(key);
    const reply = await this.client.send({
      method: "GET",
      bucket: this.bucket,
      key,
      headers: { range: `bytes=${first}-${first + length - 1}` },
    });
    if (version?.body === undefined) {
      assert.equal(reply.status, 404, reply.text());
      assert.equal(reply.code(), "NoSuchKey");
      return;
    }
    if (first >= version.body.length) {
      assert.equal(reply.status, 416, reply.text());
      return;
    }
    assert.equal(reply.status, 206, reply.text());
    assert.equal(unquoted(reply.headers.get("etag")), version.etag);
    const expected = version.body.slice(first, first + length);
    assert.equal(reply.body.length, expected.length);
    assert.equal(etagOf(reply.body), etagOf(expected), `${key} ${first}+${length}`);
  }

  async #list(prefix: string, delimiter: string, after: string, page: number): Promise<void> {
    const found: string[] = [];
    let token: string | undefined;
    do {
      const query: Record<string, string> = {
        "list-type": "2",
        "max-keys": String(page),
        "encoding-type": "url",
        prefix,
        delimiter,
      };
      if (token !== undefined) query["continuation-token"] = token;
      else if (after !== "") query["start-after"] = after;
      const reply = await this.client.send({ method: "GET", bucket: this.bucket, query });
      assert.equal(reply.status, 200, reply.text());
      const text = reply.text();
      const items = [
        ...[...text.matchAll(/<Contents>.*?<Key>(.*?)<\/Key>/gs)].map((m) =>
          ["key", m[1]] as const
        ),
        ...[...text.matchAll(/<CommonPrefixes>\s*<Prefix>(.*?)<\/Prefix>/gs)].map((m) =>
          ["prefix", m[1]] as const
        ),
      ].map(([kind, name]) =>
        [kind, decodeURIComponent((name ?? "").replaceAll("+", " "))] as const
      );
      assert.ok(items.length <= page, `${items.length} items in a page of ${page}`);
      items.sort(([, a], [, b]) => compareKeys(a, b));
      for (const [kind, name] of items) found.push(`${kind} ${name}`);
      token = /<NextContinuationToken>([^<]*)</.exec(text)?.[1];
      assert.equal(token !== undefined, text.includes("<IsTruncated>true</IsTruncated>"));
    } while (token !== undefined);
    assert.deepEqual(
      found,
      this.model.list(prefix, delimiter, after),
      JSON.stringify({ prefix, delimiter, after }),
    );
  }

  async #listVersions(page: number): Promise<void> {
    const found: string[] = [];
    let marker: Record<string, string> = {};
    while (true) {
      const reply = await this.client.send({
        method: "GET",
        bucket: this.bucket,
        query: { versions: "", "max-keys": String(page), "encoding-type": "url", ...marker },
      });
      assert.equal(reply.status, 200, reply.text());
      const text = reply.text();
      for (const match of text.matchAll(/<(Version|DeleteMarker)>(.*?)<\/\1>/gs)) {
        const field = (name: string): string =>
          new RegExp(`<${name}>(.*?)</${name}>`, "s").exec(match[2] ?? "")?.[1] ?? "";
        const etag = field("ETag").replaceAll(/&quot;|&#34;|"/g, "");
        found.push(
          `${decodeURIComponent(field("Key").replaceAll("+", " "))} ${field("VersionId")} ${
            match[1] === "Version" ? etag : "marker"
          } ${field("IsLatest") === "true" ? "latest" : ""}`,
        );
      }
      if (!text.includes("<IsTruncated>true</IsTruncated>")) break;
      marker = {
        "key-marker": decodeURIComponent(
          (/<NextKeyMarker>(.*?)</s.exec(text)?.[1] ?? "").replaceAll("+", " "),
        ),
        "version-id-marker": /<NextVersionIdMarker>(.*?)</s.exec(text)?.[1] ?? "",
      };
    }
    assert.deepEqual(found, this.model.listVersions());
  }
}

Deno.test("random operations agree with the model, restarts between", async () => {
  let server = await startServer();
  let buckets = 0;
  try {
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { minLength: 10, maxLength: 60 }), async (steps) => {
        const run = new Run(server, `model-${buckets++}`);
        try {
          assert.equal((await run.client.createBucket(run.bucket)).status, 200);
          for (const step of steps) await run.step(step);
          await run.verifyAll();
        } finally {
          server = run.server;
        }
      }),
      { numRuns: testRounds(300), seed: testSeed("model test"), endOnFailure: false },
    );
    assert.equal(await server.stop(), 0);
  } finally {
    await server.kill();
    await removeData(server.dataDir);
  }
});
