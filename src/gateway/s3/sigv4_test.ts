/** Vectors printed in the Amazon S3 API Reference ("Authenticating Requests"). */
import assert from "node:assert/strict";
import { utf8 } from "../../common/bytes.ts";
import { AwsChunkedDecoder } from "./chunked.ts";
import type { QueryParameter } from "./request.ts";
import {
  canonicalPath,
  canonicalQuery,
  canonicalRequest,
  EMPTY_SHA256,
  formatAmzDate,
  parseAmzDate,
  sign,
  signingKey,
  stringToSign,
} from "./sigv4.ts";
import { testCrypto } from "./testing.ts";

const crypto = testCrypto();
const SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const DATE = "20130524T000000Z";
const SCOPE = "20130524/us-east-1/s3/aws4_request";
const KEY = signingKey(crypto, SECRET, "20130524", "us-east-1", "s3");

function signature(
  method: string,
  rawPath: string,
  query: readonly QueryParameter[],
  headers: Readonly<Record<string, string>>,
  payloadHash: string,
): string {
  const canonical = canonicalRequest({
    method,
    rawPath,
    query,
    signedHeaders: Object.keys(headers).sort(),
    header: (name) => headers[name],
    payloadHash,
  });
  return sign(crypto, KEY, stringToSign(crypto, DATE, SCOPE, canonical));
}

const HOST = "examplebucket.s3.amazonaws.com";

Deno.test("the documentation's GET Object signature is reproduced", () => {
  assert.equal(
    signature("GET", "/test.txt", [], {
      host: HOST,
      range: "bytes=0-9",
      "x-amz-content-sha256": EMPTY_SHA256,
      "x-amz-date": DATE,
    }, EMPTY_SHA256),
    "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
  );
});

Deno.test("the documentation's PUT Object signature is reproduced", () => {
  const hash = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
  assert.equal(
    signature("PUT", "/test$file.text", [], {
      date: "Fri, 24 May 2013 00:00:00 GMT",
      host: HOST,
      "x-amz-content-sha256": hash,
      "x-amz-date": DATE,
      "x-amz-storage-class": "REDUCED_REDUNDANCY",
    }, hash),
    "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
  );
});

Deno.test("the documentation's GET Bucket Lifecycle and List Objects signatures are reproduced", () => {
  const headers = { host: HOST, "x-amz-content-sha256": EMPTY_SHA256, "x-amz-date": DATE };
  assert.equal(
    signature("GET", "/", [{ name: "lifecycle", value: "" }], headers, EMPTY_SHA256),
    "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
  );
  assert.equal(
    signature(
      "GET",
      "/",
      [{ name: "prefix", value: "J" }, { name: "max-keys", value: "2" }],
      headers,
      EMPTY_SHA256,
    ),
    "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
  );
});

Deno.test("the documentation's presigned URL signature is reproduced", () => {
  const query = [
    { name: "X-Amz-Algorithm", value: "AWS4-HMAC-SHA256" },
    { name: "X-Amz-Credential", value: `AKIAIOSFODNN7EXAMPLE/${SCOPE}` },
    { name: "X-Amz-Date", value: DATE },
    { name: "X-Amz-Expires", value: "86400" },
    { name: "X-Amz-SignedHeaders", value: "host" },
  ];
  assert.equal(
    signature("GET", "/test.txt", query, { host: HOST }, "UNSIGNED-PAYLOAD"),
    "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
  );
});

const STREAM_HEADERS = {
  "content-encoding": "aws-chunked",
  "content-length": "66824",
  host: "s3.amazonaws.com",
  "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
  "x-amz-date": DATE,
  "x-amz-decoded-content-length": "66560",
  "x-amz-storage-class": "REDUCED_REDUNDANCY",
};
const SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
const CHUNK_SIGNATURES = [
  "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
  "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
  "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
];

function documentedBody(signatures: readonly string[]): Uint8Array {
  const [first, second, last] = signatures;
  return utf8(
    `10000;chunk-signature=${first}\r\n${"a".repeat(65536)}\r\n` +
      `400;chunk-signature=${second}\r\n${"a".repeat(1024)}\r\n` +
      `0;chunk-signature=${last}\r\n\r\n`,
  );
}

Deno.test("the documentation's chunked upload is accepted, in pieces of any size", () => {
  assert.equal(
    signature(
      "PUT",
      "/examplebucket/chunkObject.txt",
      [],
      STREAM_HEADERS,
      "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    ),
    SEED,
  );
  const body = documentedBody(CHUNK_SIGNATURES);
  assert.equal(body.length, 66824);
  for (const step of [1, 7, 1000, 65536, body.length]) {
    const decoder = new AwsChunkedDecoder({
      signer: { crypto, signingKey: KEY, amzDate: DATE, scope: SCOPE, seedSignature: SEED },
      trailer: false,
      decodedBytes: 66560,
    });
    let decoded = 0;
    for (let at = 0; at < body.length; at += step) {
      for (const view of decoder.feed(body.subarray(at, at + step))) decoded += view.length;
    }
    decoder.finish();
    assert.equal(decoded, 66560);
  }
});

Deno.test("a chunk signature out of the chain is refused", () => {
  const [first = "", second = "", last = ""] = CHUNK_SIGNATURES;
  const decoder = new AwsChunkedDecoder({
    signer: { crypto, signingKey: KEY, amzDate: DATE, scope: SCOPE, seedSignature: SEED },
    trailer: false,
    decodedBytes: 66560,
  });
  assert.throws(
    () => decoder.feed(documentedBody([second, first, last])),
    { code: "SignatureDoesNotMatch" },
  );
  decoder.release();
});

Deno.test("dates of the basic form are read and written, others are none", () => {
  assert.equal(parseAmzDate(DATE), Date.UTC(2013, 4, 24));
  assert.equal(formatAmzDate(Date.UTC(2013, 4, 24)), DATE);
  for (const wrong of ["20130532T000000Z", "2013-05-24T00:00:00Z", "", "20130524T250000Z"]) {
    assert.equal(parseAmzDate(wrong), undefined);
  }
});

Deno.test("paths are encoded once and never normalised; queries are sorted by encoded name", () => {
  assert.equal(canonicalPath("/b/../a//./x"), "/b/../a//./x");
  assert.equal(canonicalPath("/b/%2e+%2F(é)"), "/b/.%2B/%28%C3%A9%29");
  assert.equal(
    canonicalQuery([{ name: "b", value: "x y" }, { name: "a", value: "/" }, {
      name: "B",
      value: "",
    }]),
    "B=&a=%2F&b=x%20y",
  );
});

Deno.test("the documentation's chunked upload with a signed trailer is accepted", () => {
  const payloadHash = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
  const { "content-length": _, ...headers } = STREAM_HEADERS;
  const seed = signature("PUT", "/examplebucket/chunkObject.txt", [], {
    ...headers,
    "x-amz-content-sha256": payloadHash,
    "x-amz-trailer": "x-amz-checksum-crc32c",
  }, payloadHash);
  assert.equal(seed, "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e");
  const chunks = documentedBody([
    "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
    "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
    "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
  ]);
  const trailer = utf8(
    "x-amz-checksum-crc32c:sOO8/Q==\r\n" +
      "x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n",
  );
  const decoder = new AwsChunkedDecoder({
    signer: { crypto, signingKey: KEY, amzDate: DATE, scope: SCOPE, seedSignature: seed },
    trailer: true,
    decodedBytes: 66560,
  });
  decoder.feed(chunks.subarray(0, chunks.length - 2));
  decoder.feed(trailer);
  decoder.finish();
  assert.equal(decoder.trailers.get("x-amz-checksum-crc32c"), "sOO8/Q==");
});
