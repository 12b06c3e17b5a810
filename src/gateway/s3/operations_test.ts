/** Operations end to end over the fake: listing, multipart, copy, tags, ranges, conditions. */
import assert from "node:assert/strict";
import { XMLParser } from "fast-xml-parser";
import { utf8 } from "../../common/bytes.ts";
import { computeChecksum, toBase64 } from "./checksums.ts";
import { ask, type TestGateway, testGateway } from "./testing_client.ts";

const MIB = 1 << 20;

async function withBucket(): Promise<TestGateway> {
  const gateway = testGateway();
  await ask(gateway, "PUT", "/bucket");
  return gateway;
}

function all(text: string, element: string): string[] {
  return [...text.matchAll(new RegExp(`<${element}>([^<]*)</${element}>`, "g"))]
    .map((match) => match[1] ?? "");
}

function one(text: string, element: string): string | undefined {
  return all(text, element)[0];
}

Deno.test("answers are XML that another parser reads", async () => {
  const gateway = await withBucket();
  await ask(gateway, "PUT", "/bucket/a%26%3C%22'key", "x");
  const parser = new XMLParser();
  const list = parser.parse((await ask(gateway, "GET", "/bucket")).text) as {
    ListBucketResult: { Contents: { Key: string; Size: number } };
  };
  assert.equal(list.ListBucketResult.Contents.Key, `a&<"'key`);
  const error = parser.parse((await ask(gateway, "GET", "/bucket/%3Cnone%3E")).text) as {
    Error: { Code: string; Key: string };
  };
  assert.equal(error.Error.Code, "NoSuchKey");
  assert.equal(error.Error.Key, "<none>");
});

Deno.test("listings page through keys and prefixes without loss, in both versions", async () => {
  const gateway = await withBucket();
  const keys = ["a", "a/1", "a/2", "b", "c/x/1", "c/y", "d é", "z"];
  for (const key of keys) await ask(gateway, "PUT", `/bucket/${encodeURI(key)}`, key);
  for (const limit of [1, 2, 3, 100]) {
    const seen: string[] = [];
    let token: string | undefined;
    do {
      const page = await ask(
        gateway,
        "GET",
        `/bucket?list-type=2&delimiter=%2F&max-keys=${limit}` +
          (token === undefined ? "" : `&continuation-token=${token}`),
      );
      seen.push(...all(page.text, "Key"), ...all(page.text, "Prefix").filter((p) => p !== ""));
      assert.equal(
        one(page.text, "IsTruncated"),
        String(one(page.text, "NextContinuationToken") !== undefined),
      );
      token = one(page.text, "NextContinuationToken");
    } while (token !== undefined);
    assert.deepEqual(seen.sort(), ["a", "a/", "b", "c/", "d é", "z"]);
    const first: string[] = [];
    let marker = "";
    let truncated = true;
    while (truncated) {
      const page = await ask(
        gateway,
        "GET",
        `/bucket?max-keys=${limit}&marker=${encodeURIComponent(marker)}`,
      );
      first.push(...all(page.text, "Key"));
      marker = first.at(-1) ?? "";
      truncated = one(page.text, "IsTruncated") === "true";
      assert.equal(one(page.text, "NextMarker"), undefined, "only with a delimiter");
    }
    assert.deepEqual(first, keys);
  }
  const owner = await ask(gateway, "GET", "/bucket?list-type=2&fetch-owner=true&max-keys=1");
  assert.equal(one(owner.text, "ID"), gateway.identity.organisation);
  const none = await ask(gateway, "GET", "/bucket?list-type=2&max-keys=0");
  assert.equal(one(none.text, "IsTruncated"), "false");
});

Deno.test("a multipart upload becomes one object with its parts", async () => {
  const gateway = await withBucket();
  const created = await ask(gateway, "POST", "/bucket/multi?uploads", "", {
    "content-type": "text/m",
    "x-amz-checksum-algorithm": "CRC32",
    "x-amz-checksum-type": "FULL_OBJECT",
  });
  assert.equal(created.headers.get("x-amz-checksum-type"), "FULL_OBJECT");
  const upload = one(created.text, "UploadId") ?? "";
  const data = new Uint8Array(5 * MIB + 10).map((_, i) => i >> 3);
  const parts = [data.subarray(0, 5 * MIB), data.subarray(5 * MIB)];
  const etags: string[] = [];
  for (const [i, part] of parts.entries()) {
    const put = await ask(
      gateway,
      "PUT",
      `/bucket/multi?partNumber=${i + 1}&uploadId=${upload}`,
      part,
    );
    assert.equal(
      put.headers.get("x-amz-checksum-crc32"),
      toBase64(computeChecksum(gateway.crypto, "CRC32", part)),
      "a part without a checksum gets the upload's",
    );
    etags.push(put.headers.get("etag") ?? "");
  }
  const wrong = await ask(
    gateway,
    "PUT",
    `/bucket/multi?partNumber=3&uploadId=${upload}`,
    "x",
    { "x-amz-sdk-checksum-algorithm": "SHA1" },
  );
  assert.equal(wrong.code, "InvalidRequest");
  assert.deepEqual(
    all((await ask(gateway, "GET", `/bucket/multi?uploadId=${upload}`)).text, "PartNumber"),
    ["1", "2"],
  );
  assert.equal(one((await ask(gateway, "GET", "/bucket?uploads")).text, "UploadId"), upload);
  const document = (order: readonly number[]): string =>
    `<CompleteMultipartUpload>${
      order.map((n) =>
        `<Part><PartNumber>${n}</PartNumber><ETag>${
          (etags[n - 1] ?? "").replaceAll('"', "&quot;")
        }</ETag></Part>`
      ).join("")
    }</CompleteMultipartUpload>`;
  const target = `/bucket/multi?uploadId=${upload}`;
  assert.equal((await ask(gateway, "POST", target, document([2, 1]))).code, "InvalidPartOrder");
  assert.equal((await ask(gateway, "POST", target, document([1, 3]))).code, "InvalidPart");
  const full = toBase64(computeChecksum(gateway.crypto, "CRC32", data));
  assert.equal(
    (await ask(gateway, "POST", target, document([1, 2]), {
      "x-amz-checksum-crc32": toBase64(new Uint8Array(4)),
    })).code,
    "BadDigest",
  );
  assert.equal(
    (await ask(gateway, "POST", target, document([1, 2]), { "x-amz-mp-object-size": "5" })).code,
    "InvalidRequest",
  );
  const complete = await ask(gateway, "POST", target, document([1, 2]), {
    "x-amz-checksum-crc32": full,
  });
  assert.equal(complete.status, 200);
  assert.equal(one(complete.text, "ChecksumCRC32"), full);
  const second = await ask(gateway, "GET", "/bucket/multi?partNumber=2");
  assert.equal(second.status, 206);
  assert.equal(second.headers.get("x-amz-mp-parts-count"), "2");
  assert.equal(
    second.headers.get("content-range"),
    `bytes ${5 * MIB}-${5 * MIB + 9}/${5 * MIB + 10}`,
  );
  const attributes = await ask(gateway, "GET", "/bucket/multi?attributes", undefined, {
    "x-amz-object-attributes": "ETag,Checksum,ObjectParts,ObjectSize,StorageClass",
    "x-amz-max-parts": "1",
  });
  assert.equal(one(attributes.text, "PartsCount"), "2");
  assert.equal(one(attributes.text, "IsTruncated"), "true");
  assert.equal(one(attributes.text, "ObjectSize"), String(data.length));
});

Deno.test("SHA checksums of multipart uploads are composite, CRC64NVME never", async () => {
  const gateway = await withBucket();
  for (
    const [algorithm, type, status] of [
      ["SHA256", "FULL_OBJECT", 400],
      ["SHA1", "COMPOSITE", 200],
      ["CRC64NVME", "COMPOSITE", 400],
      ["CRC32", "FULL_OBJECT", 200],
      ["CRC32C", "SOMETHING", 400],
    ] as const
  ) {
    const answer = await ask(gateway, "POST", "/bucket/key?uploads", "", {
      "x-amz-checksum-algorithm": algorithm,
      "x-amz-checksum-type": type,
    });
    assert.equal(answer.status, status, `${algorithm} ${type}`);
  }
  const alone = await ask(gateway, "POST", "/bucket/key?uploads", "", {
    "x-amz-checksum-type": "COMPOSITE",
  });
  assert.equal(alone.code, "InvalidRequest");
});

Deno.test("copies keep or replace what their directives say", async () => {
  const gateway = await withBucket();
  await ask(gateway, "PUT", "/bucket/s%20rc%2B", "source", {
    "x-amz-meta-a": "1",
    "x-amz-tagging": "t=1",
    "content-type": "text/s",
  });
  const copy = (headers: Record<string, string>) =>
    ask(gateway, "PUT", "/bucket/dst", undefined, {
      "x-amz-copy-source": "bucket/s%20rc%2B",
      ...headers,
    });
  assert.equal((await copy({})).status, 200);
  let head = await ask(gateway, "HEAD", "/bucket/dst");
  assert.equal(head.headers.get("x-amz-meta-a"), "1");
  assert.equal(head.headers.get("x-amz-tagging-count"), "1");
  await copy({
    "x-amz-metadata-directive": "REPLACE",
    "x-amz-meta-b": "2",
    "x-amz-tagging-directive": "REPLACE",
  });
  head = await ask(gateway, "HEAD", "/bucket/dst");
  assert.equal(head.headers.get("x-amz-meta-a"), null);
  assert.equal(head.headers.get("x-amz-meta-b"), "2");
  assert.equal(head.headers.get("x-amz-tagging-count"), null);
  assert.equal(head.headers.get("content-type"), "binary/octet-stream");
  const summed = await copy({ "x-amz-checksum-algorithm": "SHA256" });
  assert.equal(
    one(summed.text, "ChecksumSHA256"),
    toBase64(computeChecksum(gateway.crypto, "SHA256", utf8("source"))),
    "a copy that must carry another checksum is made by writing",
  );
  assert.equal((await copy({ "x-amz-metadata-directive": "KEEP" })).code, "InvalidArgument");
  for (
    const [name, value] of [
      ["if-match", '"no"'],
      ["if-none-match", head.headers.get("etag") ?? ""],
      ["if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT"],
      ["if-unmodified-since", "Mon, 01 Jan 2001 00:00:00 GMT"],
    ]
  ) {
    assert.equal(
      (await copy({ [`x-amz-copy-source-${name}`]: value ?? "" })).code,
      "PreconditionFailed",
    );
  }
  const upload = one((await ask(gateway, "POST", "/bucket/p?uploads", "")).text, "UploadId");
  const part = (range: string) =>
    ask(gateway, "PUT", `/bucket/p?partNumber=1&uploadId=${upload}`, undefined, {
      "x-amz-copy-source": "/bucket/dst",
      "x-amz-copy-source-range": range,
    });
  assert.equal((await part("bytes=1-3")).status, 200);
  for (const range of ["bytes=1-6", "bytes=3-1", "bytes=1-", "0-1"]) {
    assert.equal((await part(range)).code, "InvalidArgument", range);
  }
});

Deno.test("ranges are cut as RFC 9110 says, several are answered whole", async () => {
  const gateway = await withBucket();
  await ask(gateway, "PUT", "/bucket/key", "0123456789");
  await ask(gateway, "PUT", "/bucket/empty", "");
  const cases: readonly (readonly [string, number, string])[] = [
    ["bytes=0-0", 206, "0"],
    ["bytes=3-5", 206, "345"],
    ["bytes=8-", 206, "89"],
    ["bytes=-3", 206, "789"],
    ["bytes=-30", 206, "0123456789"],
    ["bytes=5-99", 206, "56789"],
    ["bytes=0-1,3-4", 200, "0123456789"],
    ["bytes=5-3", 200, "0123456789"],
    ["lines=1-2", 200, "0123456789"],
    ["bytes=-", 200, "0123456789"],
  ];
  for (const [range, status, text] of cases) {
    const answer = await ask(gateway, "GET", "/bucket/key", undefined, { range });
    assert.equal(answer.status, status, range);
    assert.equal(answer.text, text, range);
    assert.equal(answer.headers.get("content-length"), String(text.length));
  }
  for (const range of ["bytes=10-", "bytes=-0", "bytes=99-100"]) {
    const answer = await ask(gateway, "GET", "/bucket/key", undefined, { range });
    assert.equal(answer.status, 416);
    assert.equal(answer.headers.get("content-range"), "bytes */10");
    assert.equal(one(answer.text, "ActualObjectSize"), "10");
  }
  assert.equal(
    (await ask(gateway, "GET", "/bucket/empty", undefined, { range: "bytes=0-" })).status,
    416,
  );
  const etag = (await ask(gateway, "HEAD", "/bucket/key")).headers.get("etag") ?? "";
  const fresh = { range: "bytes=0-1", "if-range": etag };
  assert.equal((await ask(gateway, "GET", "/bucket/key", undefined, fresh)).status, 206);
  const stale = { range: "bytes=0-1", "if-range": '"other"' };
  assert.equal((await ask(gateway, "GET", "/bucket/key", undefined, stale)).status, 200);
});

Deno.test("conditions are judged in the order of RFC 9110", async () => {
  const gateway = await withBucket();
  await ask(gateway, "PUT", "/bucket/key", "x");
  const head = await ask(gateway, "HEAD", "/bucket/key");
  const etag = head.headers.get("etag") ?? "";
  const now = head.headers.get("last-modified") ?? "";
  const past = "Mon, 01 Jan 2001 00:00:00 GMT";
  const cases: readonly (readonly [Record<string, string>, number])[] = [
    [{ "if-match": etag }, 200],
    [{ "if-match": `"a", ${etag}` }, 200],
    [{ "if-match": "*" }, 200],
    [{ "if-match": '"a"' }, 412],
    [{ "if-match": etag, "if-unmodified-since": past }, 200],
    [{ "if-unmodified-since": now }, 200],
    [{ "if-unmodified-since": past }, 412],
    [{ "if-none-match": etag }, 304],
    [{ "if-none-match": `W/${etag}` }, 304],
    [{ "if-none-match": '"a"' }, 200],
    [{ "if-none-match": '"a"', "if-modified-since": now }, 200],
    [{ "if-modified-since": now }, 304],
    [{ "if-modified-since": past }, 200],
    [{ "if-modified-since": "rubbish" }, 200],
    [{ "if-match": '"a"', "if-none-match": etag }, 412],
  ];
  for (const [headers, status] of cases) {
    for (const method of ["GET", "HEAD"]) {
      const answer = await ask(gateway, method, "/bucket/key", undefined, headers);
      assert.equal(answer.status, status, JSON.stringify(headers));
      if (status === 304) assert.equal(answer.headers.get("etag"), etag);
    }
  }
});

Deno.test("DeleteObjects answers every key, quiet only failures", async () => {
  const gateway = await withBucket();
  for (const key of ["a", "b", "c"]) await ask(gateway, "PUT", `/bucket/${key}`, "x");
  const call = (document: string) =>
    ask(gateway, "POST", "/bucket?delete", document, {
      "x-amz-checksum-sha256": toBase64(computeChecksum(gateway.crypto, "SHA256", utf8(document))),
    });
  const object = (key: string, more = ""): string => `<Object><Key>${key}</Key>${more}</Object>`;
  const answer = await call(
    `<Delete>${object("a")}${object("never")}${object("k".repeat(1025))}${
      object("b", "<ETag>&quot;no&quot;</ETag>")
    }${object("b", "<Size>1</Size>")}${object("c", "<VersionId>x</VersionId>")}</Delete>`,
  );
  assert.deepEqual(all(answer.text, "Code"), [
    "KeyTooLongError",
    "PreconditionFailed",
    "NotImplemented",
    "InvalidArgument",
  ]);
  assert.equal([...answer.text.matchAll(/<Deleted>/g)].length, 2);
  const quiet = await call(`<Delete><Quiet>true</Quiet>${object("b")}${object("c")}</Delete>`);
  assert.doesNotMatch(quiet.text, /Deleted|Error/);
  assert.equal((await call(`<Delete>${object("x").repeat(1001)}</Delete>`)).code, "MalformedXML");
  assert.equal((await call("<Delete></Delete>")).code, "MalformedXML");
});

Deno.test("the canonical ACL may be set again, any other is refused", async () => {
  const gateway = await withBucket();
  await ask(gateway, "PUT", "/bucket/key", "x", { "x-amz-acl": "private" });
  for (const target of ["/bucket?acl", "/bucket/key?acl"]) {
    const acl = await ask(gateway, "GET", target);
    assert.equal(one(acl.text, "Permission"), "FULL_CONTROL");
    assert.equal((await ask(gateway, "PUT", target, acl.text)).status, 200);
    assert.equal(
      (await ask(gateway, "PUT", target, acl.text.replace("FULL_CONTROL", "READ"))).code,
      "AccessControlListNotSupported",
    );
    assert.equal((await ask(gateway, "PUT", target, "<X/>")).code, "MalformedACLError");
    assert.equal((await ask(gateway, "PUT", target, "")).code, "MissingSecurityHeader");
    assert.equal(
      (await ask(gateway, "PUT", target, "", { "x-amz-acl": "public-read" })).code,
      "AccessControlListNotSupported",
    );
  }
});
