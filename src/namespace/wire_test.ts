/** The wire codec against protobufjs, the .proto text against the schemas, and bad input. */
import assert from "node:assert/strict";
import fc from "fast-check";
import protobuf from "protobufjs";
import { assetPath } from "../common/assets.ts";
import { type Bytes, fromHex, toHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import * as messages from "./messages.ts";
import * as records from "./records.ts";
import type { Codec, Field } from "./wire.ts";

const text = Deno.readTextFileSync(assetPath("proto/kiseki/v1/namespace.proto"));
const root = protobuf.parse(text).root;

function isCodec(value: unknown): value is Codec<unknown> {
  return typeof value === "object" && value !== null && "encode" in value && "fields" in value;
}

const codecs = new Map<string, Codec<unknown>>();
function collect(codec: Codec<unknown>): void {
  if (codecs.has(codec.name)) return;
  codecs.set(codec.name, codec);
  for (const field of Object.values(codec.fields)) {
    if (field.codec !== undefined) collect(field.codec);
  }
}
for (const value of [...Object.values(records), ...Object.values(messages)]) {
  if (isCodec(value)) collect(value);
}

const typeOf = (name: string): protobuf.Type => root.lookupType(`kiseki.v1.namespace.${name}`);

Deno.test("the .proto text says what the schemas say", () => {
  const requests = { Command: messages.CommandNumber, Query: messages.QueryNumber };
  for (const [name, numbers] of Object.entries(requests)) {
    const fields = typeOf(name).fields;
    assert.deepEqual(
      Object.fromEntries(Object.values(fields).map((field) => [field.name, field.id])),
      numbers,
    );
  }
  const inText = (root.lookup("kiseki.v1.namespace") as protobuf.Namespace).nestedArray
    .map((one) => one.name).filter((name) => !(name in requests));
  assert.deepEqual(inText.sort(), [...codecs.keys()].sort());
  for (const codec of codecs.values()) {
    const fields = Object.values(typeOf(codec.name).fields).map((field) => [
      field.name,
      field.id,
      field.type,
      field.repeated,
      field.options?.["proto3_optional"] === true,
    ]);
    const ours = Object.entries(codec.fields).map(([name, field]) => [
      name,
      field.number,
      field.type,
      field.repeated,
      field.optional === true,
    ]);
    assert.deepEqual(fields, ours, codec.name);
  }
});

/** A random value of a field, in memory. */
function randomValue(field: Field<unknown>, random: () => number, depth: number): unknown {
  const one = (): unknown => {
    if (field.codec !== undefined) return randomMessage(field.codec, random, depth + 1);
    switch (field.type) {
      case "uint64":
        return Math.floor(random() * 2 ** Math.floor(random() * 53));
      case "fixed64":
        return BigInt.asUintN(64, BigInt(Math.floor(random() * 2 ** 53)) * 4099n);
      case "bool":
        return random() < 0.5;
      case "string":
        return ["", "a", "é", "x".repeat(60), "\u{1f600}\u0000"][Math.floor(random() * 5)];
      default:
        return new Uint8Array(Math.floor(random() * 200)).map(() => Math.floor(random() * 256));
    }
  };
  if (field.repeated) return Array.from({ length: Math.floor(random() * 3) }, one);
  if ((field.codec !== undefined || field.optional === true) && random() < 0.4) return undefined;
  return one();
}

function randomMessage(codec: Codec<unknown>, random: () => number, depth = 0): unknown {
  const out: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(codec.fields)) {
    out[name] = randomValue(field, random, depth);
  }
  return out;
}

Deno.test("every message is read and written alike by protobufjs", () => {
  const random = seededRandom(testSeed("wire"));
  for (let round = 0; round < testRounds(300); round++) {
    for (const codec of codecs.values()) {
      const value = randomMessage(codec, random);
      const bytes = codec.encode(value as Partial<unknown>);
      assert.deepEqual(codec.decode(bytes), value, codec.name);
      const type = typeOf(codec.name);
      const theirs = new Uint8Array(type.encode(type.decode(bytes)).finish());
      assert.deepEqual(codec.decode(theirs), value, codec.name);
    }
  }
});

Deno.test("golden vectors: records do not change", () => {
  const id = (byte: number): Bytes => new Uint8Array(16).fill(byte);
  const version = records.VersionRecord.encode({
    versionId: id(1),
    isNull: true,
    sizeBytes: 70_000,
    modifiedMs: 1_700_000_000_000,
    etag: id(2),
    checksum: { algorithm: 2, type: 1, value: Uint8Array.of(1, 2, 3, 4) },
    headers: {
      contentType: "text/plain",
      contentEncoding: undefined,
      contentLanguage: undefined,
      contentDisposition: undefined,
      cacheControl: undefined,
      expires: "",
    },
    userMetadata: [{ key: "k", value: "v" }],
    tags: [{ key: "t", value: "" }],
    content: {
      ...records.Content.decode(new Uint8Array(0)),
      kind: records.ContentKind.oneExtent,
      sizeBytes: 70_000,
      composition: id(3),
      placement: id(4),
      operation: id(5),
      oneExtent: {
        chunk: new Uint8Array(32).fill(6),
        offset: 0,
        length: 70_000,
        chunkOffset: 0,
        chunkBytes: 70_000,
      },
      count: 1,
    },
  });
  assert.equal(toHex(version), GOLDEN_VERSION);
  const entry = records.Entry.encode({
    kind: records.EntryKind.object,
    fileId: id(7),
    olderVersions: 2,
    nullVersion: id(8),
    current: Uint8Array.of(0x10, 0x01),
  });
  assert.equal(toHex(entry), GOLDEN_ENTRY);
  const directory = records.DirectoryRecord.encode({
    parent: id(1),
    parentPlacement: id(2),
    placement: id(2),
    name: Uint8Array.of(0x61, 0x2f),
    live: 3,
    entries: 4,
    incarnation: 1,
    createdMs: 1,
    modifiedMs: 300,
  });
  assert.equal(toHex(directory), GOLDEN_DIRECTORY);
});

const GOLDEN_VERSION =
  "0a1001010101010101010101010101010101100120f0a2042880d095ffbc3132100202020202020202020202" +
  "0202020202420a080210011a04010203044a0e0a0a746578742f706c61696e320052060a016b1201765a030a" +
  "0174626a080310f0a2042210030303030303030303030303030303032a100404040404040404040404040404" +
  "04043210050505050505050505050505050505053a2a0a200606060606060606060606060606060606060606" +
  "06060606060606060606060618f0a20428f0a2044001";
const GOLDEN_ENTRY =
  "080112100707070707070707070707070707070730023a10080808080808080808080808080808084a021001";
const GOLDEN_DIRECTORY =
  "0a10010101010101010101010101010101011210020202020202020202020202020202021a10020202020202" +
  "020202020202020202022202612f280330043801580160ac02";

Deno.test("malformed messages are refused, whatever they are", () => {
  const seed = testSeed("wire fuzz");
  const all = [...codecs.values()];
  const valid = seededRandom(seed);
  fc.assert(
    fc.property(
      fc.constantFrom(...all),
      fc.uint8Array({ maxLength: 200 }),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 }),
      fc.boolean(),
      (codec, noise, changes, mutate) => {
        let bytes: Uint8Array = noise;
        if (mutate) {
          bytes = codec.encode(randomMessage(codec, valid) as Partial<unknown>);
          for (const [at, value] of changes) if (bytes.length > 0) bytes[at % bytes.length] = value;
          if (noise.length % 3 === 0) bytes = bytes.subarray(0, noise.length);
        }
        try {
          codec.decode(bytes);
        } catch (error) {
          assert.ok(error instanceof KisekiError, String(error));
        }
      },
    ),
    { numRuns: testRounds(100_000), seed },
  );
});

Deno.test("integers beyond 2^53 and field number 0 are refused", () => {
  for (const hex of ["20ffffffffffffffff7f", "00", "0a05aa", "2000ff", "0d"]) {
    assert.throws(
      () => records.VersionRecord.decode(fromHex(hex)),
      (error) => error instanceof KisekiError && error.code === "common.corrupt_format",
      hex,
    );
  }
});
