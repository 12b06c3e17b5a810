import assert from "node:assert/strict";
import fc from "fast-check";
import { fromHex, toHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { OrganisationId } from "../common/ids.ts";
import { testProvider } from "../../test/providers.ts";
import { testRounds, testSeed } from "../../test/rounds.ts";
import {
  decodeKeyRecord,
  decodeSlot,
  decodeSlotFileHeader,
  encodeKeyRecord,
  encodeSlot,
  encodeSlotFileHeader,
  KEY_FIELD_SIZE,
  KEY_RECORD_SIZE,
  KeyRecordType,
  SLOT_PAGE_SIZE,
  SLOT_SIZE,
  slotOffsets,
  slotsOfFile,
} from "./key_slot_format.ts";

const provider = testProvider();
const crc32c = (bytes: Uint8Array): number => provider.crc32c(bytes);
const range = (from: number, to: number): Uint8Array =>
  Uint8Array.from({ length: to - from }, (_, i) => from + i);

/** Head and checksum as written by another program from the layout tables. */
function golden(bytes: Uint8Array, head: string, checksum: string): void {
  const want = new Uint8Array(bytes.length);
  want.set(fromHex(head));
  want.set(fromHex(checksum), 508);
  assert.equal(toHex(bytes), toHex(want));
}

Deno.test("the header's bytes are those of the layout table", () => {
  const header = { fileId: range(0, 16), keyCheck: range(0x40, 0x50), createdMs: 1700000000123 };
  const page = encodeSlotFileHeader(header, crc32c);
  assert.equal(page.length, SLOT_PAGE_SIZE);
  golden(
    page,
    "4b4953454b494b530100000000020000000102030405060708090a0b0c0d0e0f" +
      "404142434445464748494a4b4c4d4e4f7b68e5cf8b010000",
    "971eeb51",
  );
  assert.deepEqual(decodeSlotFileHeader(page, crc32c), header);
});

Deno.test("a slot's bytes are those of the layout table, used and destroyed", () => {
  const used = encodeSlot(9, 7n, range(1, 11), crc32c);
  golden(used, "4b534c5401010a00070000000000000009000000000000000102030405060708090a", "50a48494");
  assert.deepEqual(decodeSlot(used, 9, crc32c), {
    state: "used",
    generation: 7n,
    payload: range(1, 11),
  });
  const destroyed = encodeSlot(9, 8n, undefined, crc32c);
  golden(destroyed, "4b534c540102000008000000000000000900000000000000", "4399ad6d");
  assert.deepEqual(decodeSlot(destroyed, 9, crc32c), { state: "destroyed", generation: 8n });
});

Deno.test("a record's bytes are those of the layout table", () => {
  const record = {
    type: KeyRecordType.tenantWrappingKey,
    number: 5,
    wrappedBy: 2,
    organisation: "aa".repeat(16) as OrganisationId,
    createdMs: 1700000000123,
    key: range(0, 40),
  };
  const bytes = encodeKeyRecord(record);
  const want = new Uint8Array(KEY_RECORD_SIZE);
  want.set(fromHex(
    "01032800050000000200000000000000aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa7b68e5cf8b010000" +
      "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324252627",
  ));
  assert.equal(toHex(bytes), toHex(want));
  assert.deepEqual(decodeKeyRecord(bytes), record);
});

Deno.test("the copies of a slot lie in two pages, and no two slots overlap", () => {
  assert.deepEqual(slotOffsets(0), [8192, 12288]);
  assert.deepEqual(slotOffsets(7), [8192 + 7 * 512, 12288 + 7 * 512]);
  assert.deepEqual(slotOffsets(8), [16384, 20480]);
  const taken = new Set(Array.from({ length: 100 }, (_, i) => slotOffsets(i)).flat());
  assert.equal(taken.size, 200);
  assert.deepEqual([0, 8192, 8193, 8192 + 512, 16384, 16385].map(slotsOfFile), [0, 0, 8, 8, 8, 16]);
});

Deno.test("whole headers, slots and records of another version are refused by name", () => {
  const refused = (change: () => unknown): void =>
    assert.throws(change, { code: "common.unsupported_version" });
  const resum = (bytes: Uint8Array): Uint8Array => {
    new DataView(bytes.buffer).setUint32(508, crc32c(bytes.subarray(0, 508)), true);
    return bytes;
  };
  const header = { fileId: range(0, 16), keyCheck: range(0, 16), createdMs: 1 };
  const page = encodeSlotFileHeader(header, crc32c);
  page[8] = 2;
  refused(() => decodeSlotFileHeader(resum(page), crc32c));
  const slot = encodeSlot(1, 1n, range(0, 4), crc32c);
  slot[4] = 2;
  refused(() => decodeSlot(resum(slot), 1, crc32c));
  const record = new Uint8Array(KEY_RECORD_SIZE);
  record[0] = 2;
  refused(() => decodeKeyRecord(record));
});

Deno.test("a slot in another's place, or of generation 0, counts as torn", () => {
  const slot = encodeSlot(3, 1n, range(0, 4), crc32c);
  assert.deepEqual(decodeSlot(slot, 4, crc32c), { state: "torn" });
  assert.deepEqual(decodeSlot(encodeSlot(3, 0n, undefined, crc32c), 3, crc32c), { state: "torn" });
  assert.deepEqual(decodeSlot(slot.subarray(0, 511), 3, crc32c), { state: "torn" });
  assert.deepEqual(decodeSlot(new Uint8Array(SLOT_SIZE), 3, crc32c), { state: "unused" });
});

Deno.test("a master, KEK or TWK numbered 0 is refused: epochs start at 1", () => {
  for (const type of [1, 2, 3] as const) {
    const bytes = encodeKeyRecord({
      type,
      number: 0,
      wrappedBy: 0,
      organisation: "00".repeat(16) as OrganisationId,
      createdMs: 1,
      key: new Uint8Array(KEY_FIELD_SIZE[type]),
    });
    assert.throws(() => decodeKeyRecord(bytes), { code: "common.corrupt_format" });
  }
});

/** Random bytes, or a good one with a few bytes changed, perhaps cut short. */
function mutated(good: Uint8Array): fc.Arbitrary<Uint8Array> {
  const change = fc.tuple(fc.nat(good.length - 1), fc.nat(255));
  return fc.oneof(
    fc.uint8Array({ maxLength: good.length + 8 }),
    fc.tuple(fc.array(change, { maxLength: 4 }), fc.nat(good.length)).map(([changes, cut]) => {
      const bytes = good.slice();
      for (const [at, value] of changes) bytes[at] = value;
      return cut % 4 === 0 ? bytes.subarray(0, cut) : bytes;
    }),
  );
}

/** Only KisekiError may come out. */
function tame(decode: () => unknown): void {
  try {
    decode();
  } catch (error) {
    if (!(error instanceof KisekiError)) throw error;
  }
}

Deno.test("decoders answer random and changed bytes with a value or a KisekiError", () => {
  const seed = testSeed("key slot format fuzz");
  const header = { fileId: range(0, 16), keyCheck: range(0, 16), createdMs: 1 };
  const page = encodeSlotFileHeader(header, crc32c).slice(0, SLOT_SIZE);
  const slot = encodeSlot(1, 1n, range(0, 100), crc32c);
  const record = encodeKeyRecord({
    type: KeyRecordType.master,
    number: 1,
    wrappedBy: 0,
    organisation: "00".repeat(16) as OrganisationId,
    createdMs: 1,
    key: range(0, 32),
  });
  // Every checksum holds, so that the checks behind it are reached too.
  const anySum = (bytes: Uint8Array): number =>
    bytes.length < 508 ? 0 : new DataView(bytes.buffer, bytes.byteOffset).getUint32(508, true);
  const property = fc.property(mutated(page), mutated(slot), mutated(record), (h, s, r) => {
    for (const sum of [crc32c, anySum]) {
      tame(() => decodeSlotFileHeader(h, sum));
      tame(() => decodeSlot(s, 1, sum));
    }
    tame(() => decodeKeyRecord(r));
  });
  fc.assert(property, { seed, numRuns: testRounds(100_000) });
});
