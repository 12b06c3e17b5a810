/**
 * Bad input: random and mutated requests, XML and chunk framing. Whatever comes in, the outcome is a
 * refusal in S3's own terms or a served request; never a crash, a hang or an InternalError. The
 * corpus under test/corpus/s3/ is run as well.
 */
import assert from "node:assert/strict";
import fc from "fast-check";
import { seededRandom, testRounds, testSeed } from "../../../test/rounds.ts";
import { type Bytes, utf8 } from "../../common/bytes.ts";
import { AwsChunkedDecoder } from "./chunked.ts";
import { S3Error } from "./errors.ts";
import { escapeXml, parseXml, xmlDocument } from "./xml.ts";
import { ask, chunkedBody, rawRequest, signedHeaders, testGateway } from "./testing_client.ts";

const CORPUS = new URL("../../../test/corpus/s3/", import.meta.url);

async function* corpus(kind: string): AsyncGenerator<{ name: string; bytes: Bytes }> {
  const dir = new URL(`${kind}/`, CORPUS);
  for await (const entry of Deno.readDir(dir)) {
    if (entry.isFile) {
      yield { name: entry.name, bytes: await Deno.readFile(new URL(entry.name, dir)) };
    }
  }
}

/** Changes, cuts, doubles or inserts some bytes. */
function mutate(random: () => number, seed: Bytes, spice: readonly string[]): Bytes {
  let bytes = seed;
  const below = (n: number): number => Math.floor(random() * n);
  for (let edits = 1 + below(4); edits > 0; edits--) {
    const at = below(bytes.length + 1);
    const choice = below(5);
    if (choice === 0 && bytes.length > 0) {
      bytes = bytes.slice();
      bytes[Math.min(at, bytes.length - 1)] = below(256);
    } else if (choice === 1) {
      bytes = bytes.slice(0, at);
    } else {
      const inserted = choice === 2
        ? utf8(spice[below(spice.length)] ?? "")
        : choice === 3
        ? bytes.slice(at, at + below(64))
        : new Uint8Array(below(8)).map(() => below(256));
      const out = new Uint8Array(bytes.length + inserted.length);
      out.set(bytes.subarray(0, at));
      out.set(inserted, at);
      out.set(bytes.subarray(at), at + inserted.length);
      bytes = out;
    }
  }
  return bytes;
}

/** Runs and lets only refusals out. */
function refusedOrServed(run: () => void, shown: Bytes): void {
  try {
    run();
  } catch (error) {
    if (!(error instanceof S3Error) || error.code === "InternalError") {
      console.error("input:", JSON.stringify(String.fromCharCode(...shown.subarray(0, 500))));
      throw error;
    }
  }
}

const XML_SPICE = [
  "<",
  "</",
  "/>",
  "<!--",
  "-->",
  "<![CDATA[",
  "]]>",
  "&amp;",
  "&#0;",
  "&#x110000;",
  "<?",
  "<!DOCTYPE",
  "<a:b>",
  ' x="y"',
];

Deno.test("XML of any kind is parsed or refused as MalformedXML", async () => {
  for await (const { name, bytes } of corpus("xml")) {
    refusedOrServed(() => parseXml(bytes), utf8(name));
  }
  const random = seededRandom(testSeed("xml fuzz"));
  const seeds = [
    "<Delete><Quiet>true</Quiet><Object><Key>a&amp;b</Key><VersionId>null</VersionId></Object></Delete>",
    '<?xml version="1.0" encoding="UTF-8"?>\n<Tagging xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>',
    "<a><!-- c --><b/><![CDATA[<x>]]>&#x20AC;</a>",
  ].map(utf8);
  for (let i = testRounds(100_000); i > 0; i--) {
    const input = mutate(random, seeds[i % seeds.length] as Bytes, XML_SPICE);
    refusedOrServed(() => parseXml(input), input);
  }
});

Deno.test("text of any kind survives writing and parsing", () => {
  const seed = testSeed("xml round trip");
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 200 }), (text) => {
      const element = parseXml(xmlDocument("R", escapeXml(text)));
      assert.equal(element.text, text);
    }),
    { seed, numRuns: testRounds(20_000) },
  );
});

const CHUNK_SPICE = ["\r\n", "0\r\n", "ffffffff\r\n", "\n", ";chunk-signature=", "x-amz-a:b\r\n"];

Deno.test("chunk framing of any kind is decoded or refused, in any cut", async () => {
  const gateway = testGateway();
  const signer = {
    crypto: gateway.crypto,
    signingKey: new Uint8Array(32),
    amzDate: "20240101T000000Z",
    scope: "20240101/us-east-1/s3/aws4_request",
    seedSignature: "0".repeat(64),
  };
  const random = seededRandom(testSeed("chunk framing fuzz"));
  const decode = (input: Bytes, variant: number): void => {
    const decoder = new AwsChunkedDecoder({
      ...(variant % 2 === 0 ? {} : { signer }),
      trailer: variant % 3 === 0,
      decodedBytes: 11,
    });
    try {
      let decoded = 0;
      for (let at = 0; at < input.length;) {
        const end = at + 1 + Math.floor(random() * 40);
        for (const view of decoder.feed(input.subarray(at, end))) decoded += view.length;
        at = end;
      }
      assert.ok(decoded <= 11, "never more than announced");
      decoder.finish();
      assert.equal(decoded, 11);
    } finally {
      decoder.release();
    }
  };
  for await (const { name, bytes } of corpus("chunked")) {
    for (const variant of [0, 1, 2, 3]) refusedOrServed(() => decode(bytes, variant), utf8(name));
  }
  const chunks = [utf8("hello "), utf8("world")];
  const seeds = [
    chunkedBody(gateway, chunks, undefined, ["x-amz-checksum-crc32", "AAAAAA=="]).bytes,
    chunkedBody(gateway, chunks, undefined).bytes,
    chunkedBody(gateway, chunks, "0".repeat(64)).bytes,
  ];
  for (let i = testRounds(100_000); i > 0; i--) {
    const input = mutate(random, seeds[i % seeds.length] as Bytes, CHUNK_SPICE);
    refusedOrServed(() => decode(input, i), input);
  }
});

const TARGET_SPICE = [
  "%",
  "%zz",
  "%00",
  "/",
  "//",
  "..",
  "?",
  "&",
  "=",
  "+",
  "uploads",
  "uploadId=",
  "partNumber=10001",
  "versionId=null",
  "versions",
  "tagging",
  "delete",
  "list-type=2",
  "max-keys=99999999999",
  "X-Amz-Algorithm=AWS4-HMAC-SHA256",
  "__proto__",
];
const HEADER_NAMES = [
  "range",
  "if-match",
  "if-none-match",
  "if-modified-since",
  "if-range",
  "x-amz-copy-source",
  "x-amz-copy-source-range",
  "x-amz-tagging",
  "x-amz-meta-a",
  "x-amz-checksum-crc32",
  "x-amz-checksum-algorithm",
  "x-amz-object-attributes",
  "x-amz-decoded-content-length",
  "x-amz-trailer",
  "x-amz-acl",
  "content-md5",
  "content-encoding",
  "expires",
  "origin",
];
const HEADER_SEEDS = [
  "bytes=0-5",
  '"etag", W/"x", *',
  "Mon, 01 Jan 2001 00:00:00 GMT",
  "/bucket/key?versionId=null",
  "a=1&b=2",
  "AAAAAA==",
  "SHA256",
  "ETag,ObjectSize",
  "x-amz-checksum-crc32",
  "=?UTF-8?B?w7w=?=",
];

/** Header values may hold any byte but control characters. */
function headerText(bytes: Bytes): string {
  let text = "";
  for (const byte of bytes) if (byte >= 0x20 && byte !== 0x7f) text += String.fromCharCode(byte);
  return text.trim();
}

Deno.test("signed requests of any kind are served or refused in S3's terms", async () => {
  const gateway = testGateway();
  await ask(gateway, "PUT", "/bucket");
  await ask(gateway, "PUT", "/bucket/key", "content");
  const random = seededRandom(testSeed("request fuzz"));
  const below = (n: number): number => Math.floor(random() * n);
  const methods = ["GET", "PUT", "HEAD", "POST", "DELETE", "OPTIONS", "PATCH"];
  for (let i = testRounds(20_000); i > 0; i--) {
    const raw = mutate(
      random,
      utf8(below(2) ? "/bucket/key?list-type=2" : "/bucket?x=y"),
      TARGET_SPICE,
    );
    let target = "";
    for (const byte of raw) {
      target += byte > 0x20 && byte < 0x7f ? String.fromCharCode(byte) : `%${byte.toString(16)}`;
    }
    if (!target.startsWith("/")) target = "/" + target;
    const headers: Record<string, string> = {};
    for (let n = below(4); n > 0; n--) {
      const seed = HEADER_SEEDS[below(HEADER_SEEDS.length)] ?? "";
      headers[HEADER_NAMES[below(HEADER_NAMES.length)] ?? "range"] = headerText(
        mutate(random, utf8(seed), ["-", "=", "*", ",", "\u00ff", "0"]),
      );
    }
    const method = methods[below(methods.length)] ?? "GET";
    let signed: Record<string, string>;
    try {
      signed = signedHeaders(gateway, { method, target, headers, body: "<a/>" });
    } catch (error) {
      // A target that cannot be decoded cannot be signed either: send it as it is.
      if (!(error instanceof S3Error) && !(error instanceof URIError)) throw error;
      signed = headers;
    }
    const response = await gateway.handler(
      rawRequest(method, "localhost:9000", target, signed, utf8("<a/>")),
    );
    const text = await response.text();
    assert.ok(response.status < 500 || response.status === 501, `${method} ${target} ${text}`);
  }
});

Deno.test("unsigned and broken requests of any kind are refused", async () => {
  const gateway = testGateway();
  const random = seededRandom(testSeed("authorization fuzz"));
  const good = signedHeaders(gateway, { method: "GET", target: "/" });
  const seed = utf8(good.authorization ?? "");
  for (let i = testRounds(20_000); i > 0; i--) {
    const authorization = headerText(mutate(random, seed, ["=", ",", "/", ";", "Signature=", " "]));
    if (authorization === good.authorization) continue;
    const response = await gateway.handler(
      rawRequest("GET", "localhost:9000", "/", { ...good, authorization }),
    );
    const text = await response.text();
    // White space around the fields and repeated equal fields change nothing.
    if (response.status === 200) {
      const squeezed = authorization.replace(/[\s,]/g, "");
      assert.ok(squeezed.includes((good.authorization ?? "").slice(-64)), authorization);
    } else assert.ok(response.status < 500 || response.status === 501, text);
  }
  for await (const { name, bytes } of corpus("request")) {
    const [line = "", ...fields] = new TextDecoder("latin1").decode(bytes).split("\n");
    const [method = "GET", target = "/"] = line.split(" ");
    const headers = Object.fromEntries(fields.map((field) => {
      const colon = field.indexOf(":");
      return [field.slice(0, colon), field.slice(colon + 1).trim()];
    }));
    const response = await gateway.handler(
      rawRequest(method, "localhost:9000", target, headers),
    );
    await response.text();
    assert.ok(response.status >= 400 && response.status < 500, `${name}: ${response.status}`);
  }
});
