import assert from "node:assert/strict";
import { type Bytes, fromHex, toHex } from "../common/bytes.ts";
import { crc32c } from "../common/crc32c.ts";
import { isKisekiError } from "../common/errors.ts";
import type { ChunkId, DeviceId, OrganisationId } from "../common/ids.ts";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { decodeChunkRecord, encodeChunkRecord } from "./chunk_record.ts";
import {
  decodeFragmentRow,
  encodeFragmentRow,
  fragmentKey,
  type FragmentRow,
} from "./fragment_record.ts";
import type { ChunkRecord } from "./ports.ts";

const CHUNK = Array.from({ length: 32 }, (_, i) => i.toString(16).padStart(2, "0")).join(
  "",
) as ChunkId;

const RECORD: ChunkRecord = {
  incarnation: "a0a1a2a3a4a5a6a7",
  plaintextBytes: 4 << 20,
  envelopeBytes: 4_196_108,
  pool: "fast-nvme",
  scheme: { scheme: "erasure", data: 2, parity: 1 },
  placement: ["11", "22", "33"].map((byte) => byte.repeat(16) as DeviceId),
};

const ROW: FragmentRow = {
  header: {
    chunk: CHUNK,
    incarnation: "a0a1a2a3a4a5a6a7",
    organisation: "44".repeat(16) as OrganisationId,
    fragment: 2,
    scheme: { scheme: "copies", copies: 3 },
    envelopeBytes: 65_576,
    plaintextBytes: 65_536,
    placementVersion: 5,
    writtenMs: 1_700_000_000_123,
    wrappedDek: fromHex("55".repeat(60)),
  },
  extent: { offset: 300 * 4096, length: 65_576 },
  pieces: new Uint32Array([0x01020304, 0xfffefdfc]),
};

Deno.test("a chunk record has the bytes that the format says", () => {
  assert.equal(
    toHex(encodeChunkRecord(RECORD)),
    "01" + "a0a1a2a3a4a5a6a7" + "020201" + "80808002" + "8c8e8002" + "09" + "666173742d6e766d65" +
      "11".repeat(16) + "22".repeat(16) + "33".repeat(16),
  );
  assert.deepEqual(decodeChunkRecord(encodeChunkRecord(RECORD)), RECORD);
  const copies: ChunkRecord = { ...RECORD, scheme: { scheme: "copies", copies: 3 } };
  assert.deepEqual(decodeChunkRecord(encodeChunkRecord(copies)), copies);
});

Deno.test("a chunk record whose placement does not fit its scheme is not written", () => {
  const short = { ...RECORD, placement: RECORD.placement.slice(1) };
  assert.throws(() => encodeChunkRecord(short), (e) => isKisekiError(e, "common.invalid_argument"));
});

Deno.test("a fragment row has the bytes that the format says", () => {
  const key = fragmentKey(CHUNK, "a0a1a2a3a4a5a6a7", 2);
  assert.equal(toHex(key), CHUNK + "a0a1a2a3a4a5a6a7" + "02");
  const record = encodeFragmentRow(ROW);
  assert.equal(
    toHex(record.subarray(0, record.length - 4)),
    "01" + "010300" + "44".repeat(16) + "a88004" + "808004" + "05" + "fbd095ffbc31" + "ac02" +
      "a88004" + "3c" + "55".repeat(60) + "04030201" + "fcfdfeff",
  );
  assert.equal(toHex(record.subarray(record.length - 4)), "812c9bd7");
  assert.deepEqual(decodeFragmentRow(key, record), ROW);
});

Deno.test("a fragment row moved to another key is refused", () => {
  const record = encodeFragmentRow(ROW);
  for (
    const key of [fragmentKey(CHUNK, "a0a1a2a3a4a5a6a7", 1), fragmentKey(CHUNK, "b".repeat(16), 2)]
  ) {
    assert.throws(
      () => decodeFragmentRow(key, record),
      (e) => isKisekiError(e, "common.corrupt_format"),
    );
  }
});

Deno.test("random and mutated records give a record or an error, never anything else", () => {
  const random = seededRandom(testSeed("record fuzz"));
  const key = fragmentKey(CHUNK, "a0a1a2a3a4a5a6a7", 2);
  const samples: readonly (readonly [Bytes, (bytes: Bytes) => unknown])[] = [
    [encodeChunkRecord(RECORD), decodeChunkRecord],
    [encodeFragmentRow(ROW), (bytes) => decodeFragmentRow(key, bytes)],
  ];
  for (let round = 0; round < testRounds(100_000); round++) {
    for (const [good, decode] of samples) {
      const bytes = mutate(good, random);
      // Half of the rows get their checksum mended, so that the fields behind it are reached.
      if (random() < 0.5 && bytes.length > 4) mend(key, bytes);
      try {
        decode(bytes);
      } catch (error) {
        if (!isKisekiError(error)) throw error;
      }
    }
  }
});

function mutate(good: Bytes, random: () => number): Bytes {
  if (random() < 0.1) {
    return Uint8Array.from({ length: random() * 200 }, () => random() * 256);
  }
  const bytes = good.slice(0, random() < 0.2 ? random() * good.length : good.length);
  for (let i = 0; i <= random() * 4; i++) {
    bytes[Math.floor(random() * bytes.length)] = random() * 256;
  }
  return bytes;
}

function mend(key: Bytes, bytes: Bytes): void {
  const body = bytes.subarray(0, bytes.length - 4);
  new DataView(bytes.buffer).setUint32(body.length, crc32c(body, crc32c(key)), true);
}
