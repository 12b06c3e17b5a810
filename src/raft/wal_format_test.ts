/**
 * The bytes of segments: golden vectors, and what damaged ones do.
 */
import assert from "node:assert/strict";
import { crc32 as zlibCrc32 } from "node:zlib";
import fc from "fast-check";
import { testRounds, testSeed } from "../../test/rounds.ts";
import { toHex, utf8 } from "../common/bytes.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { NodeId, ShardId } from "../common/ids.ts";
import { SILENT_LOGGER } from "../common/logging.ts";
import { decodeConfigurationChange, encodeConfigurationChange } from "./core/configuration.ts";
import { crc32c } from "../common/crc32c.ts";
import { EntryKind, type LogRecord } from "./ports.ts";
import { FakeDisk } from "./testing/fake_disk.ts";
import { openWriteAheadLog } from "./wal.ts";
import {
  BATCH_HEADER_BYTES,
  BatchEncoder,
  BLOCK_BYTES,
  decodeBatchHeader,
  decodeBatchRecords,
  decodeRecord,
  decodeSegmentHeader,
  encodeSegmentHeader,
} from "./wal_format.ts";

const LOG_ID = "000102030405060708090a0b0c0d0e0f";
const RECORDS: LogRecord[] = [
  {
    type: "entry",
    shard: 2 as ShardId,
    entry: { index: 3, term: 4, kind: EntryKind.normal, data: utf8("delta") },
  },
  { type: "hardState", shard: 2 as ShardId, hardState: { term: 4, vote: 1 as NodeId, commit: 2 } },
  { type: "truncate", shard: 5 as ShardId, index: 9 },
  { type: "compact", shard: 5 as ShardId, index: 8, term: 3 },
];

function encodeBatch(): Uint8Array {
  const encoder = new BatchEncoder(8192, LOG_ID, crc32c);
  encoder.begin(1, 4096);
  for (const record of RECORDS) encoder.add(record);
  return encoder.finish(7).slice();
}

Deno.test("CRC-32C: RFC 3720 appendix B.4 vectors, any split gives the same", () => {
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
  assert.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43);
  assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e);
  assert.equal(crc32c(utf8("123456789")), 0xe3069283);
  const bytes = Uint8Array.from({ length: 100 }, (_, i) => i * 31);
  for (let at = 0; at < 100; at++) {
    assert.equal(crc32c(bytes.subarray(at), crc32c(bytes.subarray(0, at))), crc32c(bytes));
  }
  assert.notEqual(crc32c(bytes), zlibCrc32(bytes));
});

Deno.test("golden segment header", () => {
  const header = {
    segment: 1,
    logId: LOG_ID,
    firstBatch: 2,
    previousEnd: 8192,
    capacityBytes: 67108864,
  };
  const block = encodeSegmentHeader(header, crc32c);
  assert.equal(block.length, 4096);
  assert.equal(toHex(block.subarray(0, 64)), GOLDEN_SEGMENT);
  assert.deepEqual(decodeSegmentHeader(block, crc32c), header);
});

Deno.test("golden batch with a record of each type", () => {
  const bytes = encodeBatch();
  assert.equal(bytes.length, 4096);
  assert.equal(toHex(bytes.subarray(0, 64)), GOLDEN_BATCH);
  assert.equal(toHex(bytes.subarray(64, 112)), GOLDEN_ENTRY);
  const header = decodeBatchHeader(bytes, LOG_ID, 1, 4096, crc32c);
  assert.ok(header !== undefined);
  assert.deepEqual(decodeBatchRecords(bytes, header, crc32c).map((p) => p.record), RECORDS);
});

Deno.test("a batch is refused in another place, segment or log", () => {
  const bytes = encodeBatch();
  assert.equal(decodeBatchHeader(bytes, LOG_ID, 1, 8192, crc32c), undefined);
  assert.equal(decodeBatchHeader(bytes, LOG_ID, 2, 4096, crc32c), undefined);
  assert.equal(decodeBatchHeader(bytes, "ff".repeat(16), 1, 4096, crc32c), undefined);
  assert.throws(
    () => decodeRecord(bytes.subarray(64), 1, 4096 + 64 + 8, crc32c),
    (e) => isKisekiError(e, "common.corrupt_format"),
  );
});

Deno.test("an unknown segment version is refused by name", () => {
  const header = { segment: 1, logId: LOG_ID, firstBatch: 1, previousEnd: 0, capacityBytes: 8192 };
  const block = encodeSegmentHeader(header, crc32c);
  block[8] = 2;
  block.fill(0, 12, 16);
  new DataView(block.buffer).setUint32(12, crc32c(block), true);
  assert.throws(
    () => decodeSegmentHeader(block, crc32c),
    (e) => isKisekiError(e, "common.unsupported_version") && e.message.includes("version 2"),
  );
});

Deno.test("configuration changes: golden vector, and only KisekiErrors out of noise", () => {
  const bytes = encodeConfigurationChange({
    type: "change",
    changes: [{ action: "addVoter", node: 4 as NodeId }, { action: "remove", node: 1 as NodeId }],
  });
  assert.equal(toHex(bytes), "01000200" + "010400000000000000" + "030100000000000000");
  assert.equal(toHex(encodeConfigurationChange({ type: "leaveJoint" })), "01010000");
  assert.equal(decodeConfigurationChange(bytes).type, "change");
  const seed = testSeed("configuration noise");
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (noise) =>
      onlyOurErrors(() => {
        decodeConfigurationChange(noise);
      })),
    { seed, numRuns: testRounds(100_000) },
  );
});

function onlyOurErrors(action: () => void): void {
  try {
    action();
  } catch (error) {
    assert.ok(error instanceof KisekiError, String(error));
  }
}

Deno.test("damaged batches: never another record, never a foreign error", () => {
  const whole = encodeBatch();
  const seed = testSeed("damaged batches");
  const change = fc.record({
    at: fc.nat({ max: 64 + 200 }),
    value: fc.integer({ min: 1, max: 255 }),
  });
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
      const bytes = whole.slice();
      for (const { at, value } of changes) bytes[at] = (bytes[at] ?? 0) ^ value;
      if (changes.every(({ at }) => bytes[at] === whole[at])) return;
      onlyOurErrors(() => {
        const header = decodeBatchHeader(bytes, LOG_ID, 1, 4096, crc32c);
        if (header === undefined) return;
        const records = decodeBatchRecords(bytes, header, crc32c);
        assert.fail(`damage was accepted: ${JSON.stringify(records)}`);
      });
    }),
    { seed, numRuns: testRounds(60_000) },
  );
});

Deno.test("noise in whole segments: a prefix, or log.torn", async () => {
  const seed = testSeed("segment noise");
  const disk = new FakeDisk();
  const options = { directory: "/w", disk, logger: SILENT_LOGGER, segmentBytes: 16 * 4096 };
  const log = await openWriteAheadLog(options);
  await log.replay(() => undefined);
  const all: LogRecord[] = [];
  for (let i = 1; i <= 4; i++) {
    const data = new Uint8Array(i * 900);
    all.push({
      type: "entry",
      shard: 1 as ShardId,
      entry: { index: i, term: 1, kind: EntryKind.normal, data },
    });
    await log.append(all.slice(-1));
  }
  const path = "/w/wal-0000000000000001.log";
  const end = log.statistics().bytes;
  const whole = disk.bytesOf(path).slice();
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat({ max: end - 1 }), fc.uint8Array({ minLength: 1, maxLength: 64 })), {
        minLength: 1,
        maxLength: 3,
      }),
      async (noise) => {
        const after = disk.copy();
        const bytes = after.bytesOf(path);
        for (const [at, values] of noise) {
          for (let i = 0; i < values.length && at + i < end; i++) bytes[at + i] = values[i] ?? 0;
        }
        const again = await openWriteAheadLog({ ...options, disk: after });
        const found: LogRecord[] = [];
        try {
          await again.replay((record) => found.push(record));
        } catch (error) {
          assert.ok(
            isKisekiError(error, "log.torn") || isKisekiError(error, "common.unsupported_version"),
            String(error),
          );
          return;
        } finally {
          await again.close();
        }
        // The last batch may go missing: nothing after it proves that it was synced. More may only
        // when the damage also took the header that would have proved it.
        const lastHeader = end - BLOCK_BYTES;
        const proofLost = bytes.subarray(lastHeader, lastHeader + BATCH_HEADER_BYTES)
          .some((byte, i) => byte !== whole[lastHeader + i]);
        assert.ok(found.length >= all.length - 1 || proofLost, `${found.length} entries`);
        assert.deepEqual(found, all.slice(0, found.length));
      },
    ),
    { seed, numRuns: testRounds(40_000) },
  );
  await log.close();
});

const GOLDEN_SEGMENT =
  "4b534b57414c0d0a01000000e6a4f2400100000000000000000102030405060708090a0b0c0d0e0f" +
  "020000000000000000200000000000000000000400000000";
const GOLDEN_BATCH =
  "4b574231eb42a9270100000000000000070000000000000000100000b000000004000000bcbf12c4" +
  "000102030405060708090a0b0c0d0e0f0000000000000000";
const GOLDEN_ENTRY = "e077004e05000000010100000000000002000000000000000300000000000000" +
  "040000000000000064656c7461000000";
