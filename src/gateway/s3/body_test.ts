import assert from "node:assert/strict";
import { type Bytes, utf8 } from "../../common/bytes.ts";
import type { ObjectChecksumAlgorithm } from "../../namespace/api.ts";
import {
  CHECKSUM_ALGORITHMS,
  checksumOfParts,
  CHECKSUMS,
  computeChecksum,
  toBase64,
} from "./checksums.ts";
import { testCrypto } from "./testing.ts";
import {
  ask,
  chunkedBody,
  rawRequest,
  send,
  signedHeaders,
  type TestGateway,
  testGateway,
} from "./testing_client.ts";

const DATA = utf8("the quick brown fox ".repeat(9000));

async function withBucket(): Promise<TestGateway> {
  const gateway = testGateway();
  await ask(gateway, "PUT", "/bucket");
  return gateway;
}

/** All writers that were begun were given up. */
function assertAborted(gateway: TestGateway): void {
  for (const writer of gateway.namespaces.writers) assert.ok(writer.aborted);
}

interface Chunked {
  readonly signed: boolean;
  readonly trailer?: readonly [string, string];
  readonly announced?: string;
  readonly change?: (body: Bytes) => Bytes;
  readonly decodedBytes?: number;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Sends a PUT with an aws-chunked body; the seed is the request's own signature. */
async function putChunked(gateway: TestGateway, options: Chunked): Promise<string> {
  const chunks = [DATA.subarray(0, 65536), DATA.subarray(65536, 131072), DATA.subarray(131072)];
  const mode = options.signed
    ? options.trailer === undefined
      ? "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
      : "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
    : "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
  const announced = options.announced ?? options.trailer?.[0];
  const headers = signedHeaders(gateway, {
    method: "PUT",
    target: "/bucket/chunked",
    payloadHash: mode,
    headers: {
      "content-encoding": "aws-chunked",
      "x-amz-decoded-content-length": String(options.decodedBytes ?? DATA.length),
      ...(announced === undefined ? {} : { "x-amz-trailer": announced }),
      ...options.headers,
    },
  });
  const seed = /Signature=(.*)$/.exec(headers.authorization ?? "")?.[1] ?? "";
  const made = chunkedBody(gateway, chunks, options.signed ? seed : undefined, options.trailer);
  const body = options.change?.(made.bytes) ?? made.bytes;
  const response = await gateway.handler(
    rawRequest("PUT", "localhost:9000", "/bucket/chunked", {
      ...headers,
      "content-length": String(body.length),
    }, body),
  );
  const text = await response.text();
  return response.status === 200 ? "200" : /<Code>([^<]*)</.exec(text)?.[1] ?? text;
}

Deno.test("aws-chunked bodies of all three kinds are stored unwrapped", async () => {
  const crypto = testCrypto();
  for (const algorithm of CHECKSUM_ALGORITHMS) {
    const trailer = [
      CHECKSUMS[algorithm].header,
      toBase64(computeChecksum(crypto, algorithm, DATA)),
    ] as const;
    for (
      const options of [{ signed: true }, { signed: true, trailer }, { signed: false, trailer }]
    ) {
      const gateway = await withBucket();
      assert.equal(await putChunked(gateway, options), "200");
      const got = await ask(gateway, "GET", "/bucket/chunked", undefined, {
        "x-amz-checksum-mode": "ENABLED",
      });
      assert.equal(got.text, new TextDecoder().decode(DATA));
      assert.equal(got.headers.get("content-encoding"), null);
      assert.equal(
        got.headers.get(CHECKSUMS[algorithm].header),
        options.trailer === undefined ? null : trailer[1],
      );
    }
  }
});

Deno.test("broken aws-chunked bodies are refused and leave nothing", async () => {
  const crc = toBase64(computeChecksum(testCrypto(), "CRC32", DATA));
  const trailer = ["x-amz-checksum-crc32", crc] as const;
  const flip = (at: number) => (body: Bytes): Bytes => {
    const out = body.slice();
    out[at] = (out[at] ?? 0) ^ 1;
    return out;
  };
  const cases: readonly (readonly [string, Chunked])[] = [
    ["SignatureDoesNotMatch", { signed: true, change: flip(1000) }],
    ["SignatureDoesNotMatch", { signed: true, change: flip(DATA.length) }],
    ["BadDigest", { signed: false, trailer, change: flip(1000) }],
    ["BadDigest", { signed: true, trailer: ["x-amz-checksum-crc32", "AAAAAA=="] }],
    ["InvalidRequest", { signed: false, trailer: ["x-amz-checksum-crc32", "?"] }],
    ["InvalidRequest", { signed: false, trailer: ["x-a", "b"], announced: "x-amz-checksum-crc32" }],
    ["InvalidRequest", { signed: false, trailer, announced: "x-amz-checksum-md5" }],
    ["InvalidRequest", { signed: false, trailer, change: flip(0) }],
    ["IncompleteBody", { signed: true, change: (body) => body.subarray(0, 100_000) }],
    ["IncompleteBody", { signed: true, change: (body) => body.subarray(0, body.length - 1) }],
    ["InvalidRequest", { signed: true, change: (body) => new Uint8Array([...body, 65]) }],
    ["InvalidRequest", { signed: true, decodedBytes: DATA.length - 1 }],
    ["IncompleteBody", { signed: true, decodedBytes: DATA.length + 1 }],
    ["EntityTooLarge", { signed: true, decodedBytes: 5 * 2 ** 30 + 1 }],
    ["InvalidArgument", { signed: true, headers: { "x-amz-decoded-content-length": "-5" } }],
  ];
  for (const [code, options] of cases) {
    const gateway = await withBucket();
    assert.equal(await putChunked(gateway, options), code, JSON.stringify(options));
    assertAborted(gateway);
    assert.equal((await ask(gateway, "GET", "/bucket/chunked")).code, "NoSuchKey");
  }
});

Deno.test("every digest that a request names is checked, and a wrong one leaves nothing", async () => {
  const crypto = testCrypto();
  const wrong = (size: number): string => toBase64(new Uint8Array(size));
  const cases: (readonly [string, Record<string, string>])[] = [
    ["BadDigest", { "content-md5": wrong(16) }],
    ["InvalidDigest", { "content-md5": "AAAA" }],
    ["XAmzContentSHA256Mismatch", { "x-amz-content-sha256": "0".repeat(64) }],
    ["InvalidRequest", { "x-amz-checksum-crc32": wrong(4), "x-amz-checksum-sha1": wrong(20) }],
    ["InvalidRequest", { "x-amz-sdk-checksum-algorithm": "MD5" }],
    ["InvalidRequest", {
      "x-amz-sdk-checksum-algorithm": "SHA1",
      "x-amz-checksum-crc32": wrong(4),
    }],
    ["InvalidRequest", { "x-amz-trailer": "x-amz-checksum-crc32" }],
  ];
  for (const algorithm of CHECKSUM_ALGORITHMS) {
    cases.push(["BadDigest", { [CHECKSUMS[algorithm].header]: wrong(CHECKSUMS[algorithm].bytes) }]);
    cases.push(["InvalidRequest", { [CHECKSUMS[algorithm].header]: "AA" }]);
  }
  for (const [code, headers] of cases) {
    const gateway = await withBucket();
    const { "x-amz-content-sha256": payloadHash, ...others } = headers;
    const response = await send(gateway, {
      method: "PUT",
      target: "/bucket/key",
      body: DATA,
      headers: others,
      ...(payloadHash === undefined ? {} : { payloadHash }),
    });
    assert.match(await response.text(), new RegExp(`<Code>${code}<`), JSON.stringify(headers));
    assertAborted(gateway);
  }
  for (const algorithm of CHECKSUM_ALGORITHMS) {
    const gateway = await withBucket();
    const value = toBase64(computeChecksum(crypto, algorithm, DATA));
    const header = CHECKSUMS[algorithm].header;
    const put = await ask(gateway, "PUT", "/bucket/key", DATA, { [header]: value });
    assert.equal(put.headers.get(header), value);
    assert.equal(put.headers.get("x-amz-checksum-type"), "FULL_OBJECT");
    const computed = await ask(gateway, "PUT", "/bucket/key2", DATA, {
      "x-amz-sdk-checksum-algorithm": algorithm,
    });
    assert.equal(computed.headers.get(header), value);
  }
});

function streamOf(pieces: readonly Bytes[], failure?: Error): ReadableStream<Uint8Array> {
  let next = 0;
  return new ReadableStream({
    pull(controller) {
      const piece = pieces[next++];
      if (piece !== undefined) controller.enqueue(piece);
      else if (failure !== undefined) controller.error(failure);
      else controller.close();
    },
  });
}

Deno.test("a client that goes away in the middle leaves nothing", async () => {
  for (const failure of [undefined, new Error("connection reset")]) {
    const gateway = await withBucket();
    const response = await send(gateway, {
      method: "PUT",
      target: "/bucket/key",
      payloadHash: "UNSIGNED-PAYLOAD",
      headers: { "content-length": "3000000" },
      stream: streamOf([DATA, DATA], failure),
    });
    assert.match(await response.text(), /IncompleteBody/);
    assert.equal(gateway.namespaces.writers.length, 1);
    assertAborted(gateway);
  }
});

Deno.test("a body without a length is refused, a longer one than announced as well", async () => {
  const gateway = await withBucket();
  const without = await send(gateway, {
    method: "PUT",
    target: "/bucket/key",
    payloadHash: "UNSIGNED-PAYLOAD",
    headers: { "transfer-encoding": "chunked" },
    stream: streamOf([DATA]),
  });
  assert.match(await without.text(), /MissingContentLength/);
  const longer = await send(gateway, {
    method: "PUT",
    target: "/bucket/key",
    payloadHash: "UNSIGNED-PAYLOAD",
    headers: { "content-length": String(DATA.length * 10 - 1) },
    stream: streamOf(Array.from({ length: 10 }, () => DATA)),
  });
  assert.match(await longer.text(), /IncompleteBody/);
  assertAborted(gateway);
});

Deno.test("documents beyond their limit are refused", async () => {
  const gateway = await withBucket();
  const answer = await ask(gateway, "PUT", "/bucket?cors", new Uint8Array((2 << 20) + 1));
  assert.equal(answer.code, "MaxMessageLengthExceeded");
});

Deno.test("a full-object CRC made from parts is the CRC of the whole", () => {
  const crypto = testCrypto();
  const whole = new Uint8Array(10_000).map((_, i) => i * 31 + (i >> 5));
  for (const algorithm of ["CRC32", "CRC32C", "CRC64NVME"] as ObjectChecksumAlgorithm[]) {
    for (const cuts of [[0], [1], [9999], [3000, 6000], [17, 17, 5000, 9000]]) {
      const edges = [0, ...cuts, whole.length];
      const parts = edges.slice(1).map((end, i) => {
        const part = whole.subarray(edges[i] ?? 0, end);
        return { value: computeChecksum(crypto, algorithm, part), sizeBytes: part.length };
      });
      assert.deepEqual(
        checksumOfParts(crypto, algorithm, "FULL_OBJECT", parts).value,
        computeChecksum(crypto, algorithm, whole),
        `${algorithm} ${cuts}`,
      );
    }
  }
});

Deno.test("checksums of '123456789' are those of the CRC catalogue", () => {
  const crypto = testCrypto();
  const bytes = utf8("123456789");
  const hex = (algorithm: ObjectChecksumAlgorithm): string =>
    [...computeChecksum(crypto, algorithm, bytes)].map((b) => b.toString(16).padStart(2, "0"))
      .join("");
  assert.equal(hex("CRC32"), "cbf43926");
  assert.equal(hex("CRC32C"), "e3069283");
  assert.equal(hex("CRC64NVME"), "ae8b14860a799888");
});
