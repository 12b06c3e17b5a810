import assert from "node:assert/strict";
import { type Bytes, utf8 } from "../../common/bytes.ts";
import { type ErrorCode, KisekiError } from "../../common/errors.ts";
import type { ObjectHandle } from "../../namespace/api.ts";
import { toBase64 } from "./checksums.ts";
import { S3_ERRORS, toS3Error } from "./errors.ts";
import {
  ask,
  OTHER_ACCESS_KEY,
  rawRequest,
  send,
  signedHeaders,
  type TestGateway,
  testGateway,
} from "./testing_client.ts";

async function withBucket(): Promise<TestGateway> {
  const gateway = testGateway();
  assert.equal((await ask(gateway, "PUT", "/bucket")).status, 200);
  return gateway;
}

Deno.test("an object comes back as it was put", async () => {
  const gateway = await withBucket();
  const put = await ask(gateway, "PUT", "/bucket/key", "content", {
    "content-type": "text/x",
    "x-amz-meta-a": "1",
    "content-encoding": "aws-chunked,gzip",
  });
  assert.equal(put.status, 200);
  assert.equal(put.headers.get("etag"), '"9a0364b9e99bb480dd25e1f0284c8555"');
  const got = await ask(gateway, "GET", "/bucket/key");
  assert.equal(got.text, "content");
  assert.equal(got.headers.get("content-type"), "text/x");
  assert.equal(got.headers.get("content-encoding"), "gzip");
  assert.equal(got.headers.get("x-amz-meta-a"), "1");
  assert.equal(got.headers.get("content-length"), "7");
  assert.equal(got.headers.get("x-amz-version-id"), null);
  assert.match(got.headers.get("x-amz-request-id") ?? "", /^[0-9A-F]{16}$/);
  const head = await ask(gateway, "HEAD", "/bucket/key");
  assert.equal(head.headers.get("content-length"), "7");
  assert.equal(head.text, "");
});

Deno.test("keys are taken from the raw path: dots, slashes and escapes stay", async () => {
  const gateway = await withBucket();
  const cases: readonly (readonly [string, string])[] = [
    ["a/../b", "a/../b"],
    ["./x", "./x"],
    ["a//b", "a//b"],
    ["/lead", "/lead"],
    ["a%2Fb+c", "a/b+c"],
    ["%2e%2E/d", "../d"],
    ["%C3%BC%20%F0%9F%99%82", "ü 🙂"],
    ["100%25", "100%"],
    ["q%3Fx%23y", "q?x#y"],
    ["dir/", "dir/"],
  ];
  for (const [raw, key] of cases) {
    assert.equal((await ask(gateway, "PUT", `/bucket/${raw}`, key)).status, 200, raw);
    assert.equal((await ask(gateway, "GET", `/bucket/${raw}`)).text, key);
    assert.equal((await gateway.namespaces.headObject(gateway.identity, "bucket", key)).key, key);
  }
  for (const broken of ["%zz", "%C3", "%"]) {
    assert.equal(
      (await gateway.handler(
        rawRequest("GET", "localhost:9000", `/bucket/${broken}`, {}),
      )).status,
      400,
      broken,
    );
  }
});

Deno.test("virtual-host style names the same objects as path style", async () => {
  const gateway = await withBucket();
  const put = await send(gateway, {
    method: "PUT",
    target: "/dir//key",
    host: "bucket.s3.test:9000",
    body: "by host",
  });
  assert.equal(put.status, 200);
  assert.equal((await ask(gateway, "GET", "/bucket/dir//key")).text, "by host");
  const list = await send(gateway, { method: "GET", target: "/", host: "BUCKET.s3.test" });
  assert.match(await list.text(), /<Key>dir\/\/key<\/Key>/);
  const service = await send(gateway, { method: "GET", target: "/", host: "s3.test" });
  assert.match(await service.text(), /ListAllMyBucketsResult/);
});

Deno.test("another organisation's bucket is one that does not exist", async () => {
  const gateway = await withBucket();
  await ask(gateway, "PUT", "/bucket/key", "secret");
  const calls: readonly (readonly [string, string])[] = [
    ["GET", "/bucket/key"],
    ["HEAD", "/bucket/key"],
    ["GET", "/bucket"],
    ["GET", "/bucket?acl"],
    ["GET", "/bucket?uploads"],
    ["PUT", "/bucket/key"],
    ["DELETE", "/bucket/key"],
    ["DELETE", "/bucket"],
  ];
  for (const [method, target] of calls) {
    const theirs = await send(gateway, { method, target, accessKey: OTHER_ACCESS_KEY });
    const nobodys = await send(gateway, {
      method,
      target: target.replace("/bucket", "/nobody"),
      accessKey: OTHER_ACCESS_KEY,
    });
    assert.equal(theirs.status, 404, `${method} ${target}`);
    assert.equal(nobodys.status, 404);
    const strip = (text: string): string =>
      text.replaceAll("nobody", "bucket").replace(/<RequestId>.*/, "");
    assert.equal(strip(await theirs.text()), strip(await nobodys.text()));
  }
  const created = await send(gateway, {
    method: "PUT",
    target: "/bucket",
    accessKey: OTHER_ACCESS_KEY,
  });
  assert.equal(created.status, 200, "names are unique inside an organisation, not beyond");
});

Deno.test("each refusal of a bucket or key has its code", async () => {
  const gateway = await withBucket();
  await ask(gateway, "PUT", "/bucket/key", "x");
  const cases: readonly (readonly [
    string,
    string,
    string,
    (string | undefined)?,
    Record<string, string>?,
  ])[] = [
    ["BucketAlreadyOwnedByYou", "PUT", "/bucket"],
    ["BucketNotEmpty", "DELETE", "/bucket"],
    ["NoSuchBucket", "GET", "/absent"],
    ["NoSuchBucket", "PUT", "/absent/key", "x"],
    ["NoSuchKey", "GET", "/bucket/absent"],
    ["InvalidBucketName", "PUT", "/Bucket"],
    ["InvalidBucketName", "PUT", "/ab"],
    ["InvalidBucketName", "PUT", "/a..b"],
    ["InvalidBucketName", "PUT", "/192.168.1.1"],
    ["InvalidBucketName", "PUT", "/xn--abc"],
    ["InvalidBucketName", "PUT", "/abc-s3alias"],
    ["InvalidBucketName", "GET", "/under_score/key"],
    ["KeyTooLongError", "GET", `/bucket/${"k".repeat(1025)}`],
    ["KeyTooLongError", "PUT", `/bucket/${"%C3%BC".repeat(513)}`, "x"],
    ["MethodNotAllowed", "PATCH", "/bucket/key"],
    ["MethodNotAllowed", "PUT", "/"],
    ["MethodNotAllowed", "POST", "/bucket/key"],
    ["InvalidArgument", "GET", "/bucket?max-keys=-1"],
    ["InvalidArgument", "GET", "/bucket?max-keys=x"],
    ["InvalidArgument", "GET", "/bucket?encoding-type=base64"],
    ["InvalidArgument", "GET", "/bucket?list-type=2&continuation-token=!"],
    ["InvalidArgument", "GET", "/bucket?versions&version-id-marker=x"],
    ["InvalidArgument", "GET", "/bucket/key?versionId="],
    ["InvalidArgument", "GET", "/bucket/key?versionId=nonsense"],
    ["NoSuchVersion", "GET", `/bucket/key?versionId=${"0".repeat(32)}`],
    ["InvalidArgument", "GET", "/bucket/key?partNumber=0"],
    ["InvalidPartNumber", "GET", "/bucket/key?partNumber=2"],
    ["InvalidRange", "GET", "/bucket/key", undefined, { range: "bytes=1-" }],
    ["InvalidRequest", "GET", "/bucket/key?partNumber=1", undefined, { range: "bytes=0-" }],
    ["PreconditionFailed", "GET", "/bucket/key", undefined, { "if-match": '"x"' }],
    ["PreconditionFailed", "PUT", "/bucket/key", "x", { "if-none-match": "*" }],
    ["NotImplemented", "PUT", "/bucket/key", "x", { "if-none-match": '"etag"' }],
    ["NoSuchKey", "PUT", "/bucket/absent", "x", { "if-match": '"etag"' }],
    ["NoSuchUpload", "PUT", "/bucket/key?partNumber=1&uploadId=x", "x"],
    ["InvalidArgument", "PUT", `/bucket/key?partNumber=0&uploadId=${"0".repeat(32)}`, "x"],
    ["NoSuchUpload", "GET", `/bucket/key?uploadId=${"0".repeat(32)}`],
    ["NoSuchCORSConfiguration", "GET", "/bucket?cors"],
    ["NoSuchTagSet", "GET", "/bucket?tagging"],
    ["MissingRequestBodyError", "PUT", "/bucket?tagging", ""],
    ["MalformedXML", "PUT", "/bucket?tagging", "<Tagging>"],
    ["MalformedXML", "PUT", "/bucket?versioning", "<!DOCTYPE a><VersioningConfiguration/>"],
    [
      "IllegalVersioningConfigurationException",
      "PUT",
      "/bucket?versioning",
      "<VersioningConfiguration/>",
    ],
    ["InvalidRequest", "POST", "/bucket?delete", "<Delete><Object><Key>a</Key></Object></Delete>"],
    ["NotImplemented", "POST", "/bucket", "x"],
    ["NotImplemented", "PUT", "/bucket/key", "x", { "x-amz-server-side-encryption": "aws:kms" }],
    ["NotImplemented", "GET", "/bucket/key", undefined, {
      "x-amz-server-side-encryption-customer-algorithm": "AES256",
    }],
    ["NotImplemented", "PUT", "/bucket/key", "x", { "x-amz-storage-class": "GLACIER" }],
    ["AccessControlListNotSupported", "PUT", "/bucket/key", "x", { "x-amz-acl": "public-read" }],
    ["AccessDenied", "GET", "/bucket/key", undefined, { "x-amz-expected-bucket-owner": "1" }],
    ["MetadataTooLarge", "PUT", "/bucket/key", "x", { "x-amz-meta-a": "x".repeat(2048) }],
    ["InvalidArgument", "PUT", "/bucket/key", undefined, { "x-amz-copy-source": "nothing" }],
    ["NoSuchKey", "PUT", "/bucket/key", undefined, { "x-amz-copy-source": "bucket/absent" }],
    ["InvalidRequest", "PUT", "/bucket/key", undefined, { "x-amz-copy-source": "/bucket/key" }],
    ["InvalidTag", "PUT", "/bucket/key", "x", { "x-amz-tagging": "a=1&a=2" }],
    ["InvalidTag", "PUT", "/bucket/key", "x", { "x-amz-tagging": "=1" }],
    ["InvalidArgument", "PUT", "/bucket/key", "x", { "x-amz-tagging": "a=%zz" }],
    [
      "InvalidLocationConstraint",
      "PUT",
      "/fresh",
      "<CreateBucketConfiguration><LocationConstraint>mars</LocationConstraint></CreateBucketConfiguration>",
    ],
  ];
  for (const [code, method, target, body, headers] of cases) {
    const answer = await ask(gateway, method, target, body, headers);
    const shown = `${method} ${target.slice(0, 60)} ${JSON.stringify(headers ?? {})}`;
    assert.equal(answer.code, code, shown + answer.text);
    assert.equal(answer.status, S3_ERRORS[code as keyof typeof S3_ERRORS].status, shown);
    assert.equal(answer.headers.get("content-type"), "application/xml");
  }
  assert.equal((await ask(gateway, "GET", "/bucket/key")).text, "x", "nothing was changed");
});

Deno.test("what is not there is refused by name", async () => {
  const gateway = await withBucket();
  const cases: readonly (readonly [string, string, string])[] = [
    ["GET", "/bucket?lifecycle", "GetBucketLifecycleConfiguration"],
    ["PUT", "/bucket?policy", "PutBucketPolicy"],
    ["DELETE", "/bucket?website", "DeleteBucketWebsite"],
    ["GET", "/bucket?object-lock", "GetObjectLockConfiguration"],
    ["GET", "/bucket?session", "CreateSession"],
    ["GET", "/bucket/key?torrent", "GetObjectTorrent"],
    ["PUT", "/bucket/key?retention", "PutObjectRetention"],
    ["POST", "/bucket/key?restore", "RestoreObject"],
    ["POST", "/bucket/key?select&select-type=2", "SelectObjectContent"],
    ["PUT", "/bucket/key?renameObject", "RenameObject"],
    ["POST", "/bucket", "PostObject"],
  ];
  for (const [method, target, name] of cases) {
    const answer = await ask(gateway, method, target, method === "GET" ? undefined : "");
    assert.equal(answer.status, 501, target);
    assert.match(answer.text, new RegExp(`<Message>${name} is not implemented.</Message>`));
  }
});

Deno.test("every KisekiError has an answer, and internals are not told", async () => {
  const codes: readonly (readonly [ErrorCode, number])[] = [
    ["common.unauthenticated", 403],
    ["common.unavailable", 503],
    ["common.internal", 500],
    ["chunk.no_space", 507],
    ["block.no_space", 507],
    ["keys.unavailable", 503],
    ["raft.not_leader", 503],
    ["table.corrupt", 500],
    ["namespace.quota_exceeded", 403],
    ["namespace.conflict", 409],
    ["namespace.bad_digest", 400],
    ["chunk.unreadable", 500],
  ];
  const gateway = await withBucket();
  for (const [code, status] of codes) {
    gateway.namespaces.failNext = new KisekiError(code, "device /dev/secret9 said so");
    const answer = await ask(gateway, "GET", "/bucket");
    assert.equal(answer.status, status, code);
    assert.doesNotMatch(answer.text, /secret9/);
  }
  gateway.namespaces.failNext = new TypeError("a defect");
  assert.equal((await ask(gateway, "GET", "/bucket")).code, "InternalError");
  const retriable = toS3Error(new KisekiError("common.internal", "", { retriable: true }));
  assert.equal(retriable.status, 503);
});

Deno.test("a delete marker tells of itself in headers", async () => {
  const gateway = await withBucket();
  await ask(
    gateway,
    "PUT",
    "/bucket?versioning",
    "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
  );
  await ask(gateway, "PUT", "/bucket/key", "x");
  const gone = await ask(gateway, "DELETE", "/bucket/key");
  assert.equal(gone.status, 204);
  assert.equal(gone.headers.get("x-amz-delete-marker"), "true");
  const marker = gone.headers.get("x-amz-version-id") ?? "";
  for (const method of ["GET", "HEAD"]) {
    const latest = await ask(gateway, method, "/bucket/key");
    assert.equal(latest.status, 404);
    assert.equal(latest.headers.get("x-amz-delete-marker"), "true");
    assert.equal(latest.headers.get("x-amz-version-id"), marker);
    const named = await ask(gateway, method, `/bucket/key?versionId=${marker}`);
    assert.equal(named.status, 405);
    assert.equal(named.headers.get("allow"), "DELETE");
    assert.equal(named.headers.get("x-amz-delete-marker"), "true");
  }
});

Deno.test("metadata that is not ASCII is kept and answered as encoded words", async () => {
  const gateway = await withBucket();
  const latin1 = String.fromCharCode(...utf8("grün 日本"));
  await ask(gateway, "PUT", "/bucket/key", "x", { "x-amz-meta-colour": latin1 });
  const version = await gateway.namespaces.headObject(gateway.identity, "bucket", "key");
  assert.equal(version.userMetadata.colour, "grün 日本");
  const word = (await ask(gateway, "HEAD", "/bucket/key")).headers.get("x-amz-meta-colour") ?? "";
  assert.equal(word, `=?UTF-8?B?${toBase64(utf8("grün 日本"))}?=`);
  await ask(gateway, "PUT", "/bucket/key2", "x", { "x-amz-meta-colour": word });
  const again = await gateway.namespaces.headObject(gateway.identity, "bucket", "key2");
  assert.equal(again.userMetadata.colour, "grün 日本");
});

Deno.test("control characters in keys survive a listing", async () => {
  const gateway = await withBucket();
  await ask(gateway, "PUT", "/bucket/a%01%0D%0A%26%3Cb", "x");
  const plain = await ask(gateway, "GET", "/bucket");
  assert.match(plain.text, /<Key>a&#x1;&#xd;\n&amp;&lt;b<\/Key>/);
  const encoded = await ask(gateway, "GET", "/bucket?encoding-type=url");
  assert.match(encoded.text, /<Key>a%01%0D%0A%26%3Cb<\/Key>/);
});

Deno.test("large content streams, and a client that goes away releases the reader", async () => {
  const gateway = testGateway({}, undefined, 65536);
  await ask(gateway, "PUT", "/bucket");
  const data = new Uint8Array(600_000).map((_, i) => i * 7);
  await ask(gateway, "PUT", "/bucket/big", data);
  const whole = await send(gateway, { method: "GET", target: "/bucket/big" });
  assert.deepEqual(await whole.bytes(), data);
  let released = false;
  const open = gateway.namespaces.openObject.bind(gateway.namespaces);
  gateway.namespaces.openObject = async (...args): Promise<ObjectHandle> => {
    const handle = await open(...args);
    return {
      ...handle,
      read(offset, length): AsyncIterableIterator<Bytes> {
        const inner = handle.read(offset, length);
        return {
          next: () => inner.next(),
          return: () => {
            released = true;
            return Promise.resolve({ done: true, value: undefined });
          },
          [Symbol.asyncIterator]() {
            return this;
          },
        };
      },
    };
  };
  const response = await send(gateway, { method: "GET", target: "/bucket/big" });
  const reader = response.body?.getReader();
  assert.equal((await reader?.read())?.value?.length, 65536);
  await reader?.cancel();
  assert.ok(released);
});

Deno.test("a preflight request is answered by the rules of the bucket that its port names", async () => {
  const closed = await withBucket();
  const preflight = (gateway: TestGateway, bucket: string, origin: string): Promise<Response> =>
    gateway.handler(rawRequest("OPTIONS", "localhost:9000", `/${bucket}/key`, {
      origin,
      "access-control-request-method": "PUT",
      "access-control-request-headers": "Content-MD5, x-a",
    }));
  const refusal = await (await preflight(closed, "bucket", "https://a.example")).text();
  assert.match(refusal, /AccessForbidden/);

  const base = testGateway();
  const gateway = testGateway({
    namespaces: base.namespaces,
    preflight: { ownerOf: () => Promise.resolve(gateway.identity) },
  });
  await ask(gateway, "PUT", "/bucket");
  const rules = `<CORSConfiguration><CORSRule><AllowedOrigin>https://*.example</AllowedOrigin>
    <AllowedMethod>PUT</AllowedMethod><AllowedHeader>*</AllowedHeader>
    <MaxAgeSeconds>60</MaxAgeSeconds></CORSRule></CORSConfiguration>`;
  assert.equal((await ask(gateway, "PUT", "/bucket?cors", rules)).status, 200);
  const allowed = await preflight(gateway, "bucket", "https://a.example");
  assert.equal(allowed.status, 200);
  assert.equal(allowed.headers.get("access-control-allow-origin"), "https://a.example");
  assert.equal(allowed.headers.get("access-control-allow-headers"), "content-md5, x-a");
  assert.equal(allowed.headers.get("access-control-max-age"), "60");
  assert.equal((await preflight(gateway, "bucket", "https://a.test")).status, 403);
  assert.equal((await preflight(gateway, "absent", "https://a.example")).status, 403);
  const put = await ask(gateway, "PUT", "/bucket/key", "x", { origin: "https://a.example" });
  assert.equal(put.headers.get("access-control-allow-origin"), "https://a.example");
  const denied = await ask(gateway, "PUT", "/absent/key", "x", { origin: "https://a.example" });
  assert.equal(denied.code, "NoSuchBucket");
});

Deno.test("metrics name the operation, the status and the bytes of a streamed answer", async () => {
  const records: string[] = [];
  const gateway = testGateway({
    metrics: {
      request: (r) => records.push(`${r.operation} ${r.status} ${r.bytesIn} ${r.bytesOut}`),
    },
  });
  await ask(gateway, "PUT", "/bucket");
  await ask(gateway, "PUT", "/bucket/key", new Uint8Array(400_000));
  const response = await send(gateway, { method: "GET", target: "/bucket/key" });
  assert.equal(records.length, 2, "a stream is told when it is over");
  await response.bytes();
  assert.deepEqual(records, [
    "CreateBucket 200 0 0",
    "PutObject 200 400000 0",
    "GetObject 200 0 400000",
  ]);
});

Deno.test("a request that cannot be understood at all is still answered", async () => {
  const gateway = testGateway();
  for (const url of ["http://x", "nonsense", "http://x/%", "*", ""]) {
    const request = new Request("http://x/");
    Object.defineProperty(request, "url", { value: url });
    assert.ok((await gateway.handler(request)).status >= 400, url);
  }
  const headers = signedHeaders(gateway, { method: "DELETE", target: "/" });
  const response = await gateway.handler(rawRequest("DELETE", "localhost:9000", "/", headers));
  assert.equal(response.status, 405);
});
