/**
 * The write-ahead log on a disk that forgets, rots and fills up.
 */
import assert from "node:assert/strict";
import { setImmediate } from "node:timers";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { VirtualClock } from "../common/clock.ts";
import { isKisekiError } from "../common/errors.ts";
import type { NodeId, ShardId } from "../common/ids.ts";
import { SILENT_LOGGER } from "../common/logging.ts";
import { NODE_LOG_DISK } from "./node_log_disk.ts";
import type { LogDisk } from "./log_disk.ts";
import { EntryKind, type LogRecord } from "./ports.ts";
import { FakeDisk, SECTOR_BYTES } from "./testing/fake_disk.ts";
import { openWriteAheadLog, type SegmentedLog } from "./wal.ts";
import { BLOCK_BYTES } from "./wal_format.ts";

const SHARD = 3 as ShardId;
const OTHER = 4 as ShardId;
const FIRST = "/wal/wal-0000000000000001.log";

function entry(index: number, size = 20, shard = SHARD): LogRecord {
  const data = new Uint8Array(size).fill((index * 7 + 1) & 0xff);
  return { type: "entry", shard, entry: { index, term: 1, kind: EntryKind.normal, data } };
}

function hardState(term: number, shard = SHARD): LogRecord {
  return { type: "hardState", shard, hardState: { term, vote: 9 as NodeId, commit: 0 } };
}

function open(disk: LogDisk, segmentBytes = 1 << 20, clock = new VirtualClock()) {
  return openWriteAheadLog({
    directory: "/wal",
    disk,
    logger: SILENT_LOGGER,
    segmentBytes,
    clock,
  });
}

async function start(disk: LogDisk, segmentBytes?: number): Promise<SegmentedLog> {
  const log = await open(disk, segmentBytes);
  await log.replay(() => undefined);
  return log;
}

/** The next batch is written, and its sync fails. (Zeros come in larger pieces.) */
function failSyncOfNextBatch(disk: FakeDisk): void {
  disk.onWrite = (_path, _offset, length) => {
    if (length < 100_000) disk.failSync = "block.io";
  };
}

/** What a fresh start finds. The log is closed again. */
async function recover(disk: LogDisk, segmentBytes?: number): Promise<LogRecord[]> {
  const log = await open(disk, segmentBytes);
  const records: LogRecord[] = [];
  try {
    await log.replay((record) => records.push(record));
  } finally {
    await log.close();
  }
  return records;
}

Deno.test("what was appended is replayed in order, over restarts", async () => {
  const disk = new FakeDisk();
  const records = [hardState(1), entry(1), entry(2, 5000), entry(3, 0)];
  const log = await start(disk);
  await log.append(records);
  await log.close();
  const again = await start(disk);
  await again.append([entry(4)]);
  await again.close();
  assert.deepEqual(await recover(disk), [...records, entry(4)]);
});

Deno.test("all record types come back as they were", async () => {
  const disk = new FakeDisk();
  const records: LogRecord[] = [
    { type: "hardState", shard: SHARD, hardState: { term: 2 ** 50, vote: 5 as NodeId, commit: 9 } },
    entry(10, 100),
    entry(11, 100),
    { type: "truncate", shard: SHARD, index: 11 },
    entry(11, 7),
    { type: "compact", shard: SHARD, index: 10, term: 1 },
  ];
  const log = await start(disk);
  await log.append(records);
  await log.close();
  assert.deepEqual(await recover(disk), records);
});

Deno.test("appends that wait together share one sync", async () => {
  const disk = new FakeDisk();
  const log = await start(disk);
  const before = log.statistics().syncs;
  await Promise.all(Array.from({ length: 100 }, (_, i) => log.append([entry(i + 1)])));
  assert.ok(log.statistics().syncs - before <= 2, `${log.statistics().syncs - before} syncs`);
  assert.equal(log.statistics().appends, 100);
  await log.close();
});

Deno.test("an append resolves after its bytes are durable, not before", async () => {
  const disk = new FakeDisk();
  const log = await start(disk);
  await log.append([entry(1)]);
  assert.deepEqual(await recover(disk.crash(() => false)), [entry(1)]);
});

Deno.test("every subset of lost blocks of the last batch recovers to a prefix", async () => {
  const seed = testSeed("lost sectors");
  const random = seededRandom(seed);
  for (let round = 0; round < testRounds(300); round++) {
    const disk = new FakeDisk();
    const log = await start(disk);
    const acknowledged = [entry(1, 3000), entry(2, 9000)];
    for (const record of acknowledged) await log.append([record]);
    // The machine dies when the sync of this batch begins.
    const unsynced = [entry(3, Math.floor(random() * 30_000)), entry(4, 10), entry(5, 600)];
    failSyncOfNextBatch(disk);
    await assert.rejects(log.append(unsynced), (e) => isKisekiError(e, "block.io"));
    const probability = random();
    const all = [...acknowledged, ...unsynced];
    const after = disk.crash(() => random() < probability);
    const found = await recover(after);
    assert.ok(
      found.length === acknowledged.length || found.length === all.length,
      `${found.length} records`,
    );
    assert.deepEqual(found, all.slice(0, found.length));
    // And the log goes on, whatever the torn batch left behind.
    const next = await start(after);
    await next.append([entry(found.length + 1, 20_000), entry(found.length + 2)]);
    await next.close();
    assert.equal((await recover(after.crash(() => false))).length, found.length + 2);
  }
});

Deno.test("every prefix of the last batch recovers to what was acknowledged", async () => {
  const disk = new FakeDisk();
  const log = await start(disk);
  await log.append([entry(1)]);
  const end = log.statistics().bytes;
  failSyncOfNextBatch(disk);
  await assert.rejects(log.append([entry(2, 10_000), entry(3)]));
  disk.failSync = undefined;
  const sectors = 3 * BLOCK_BYTES / SECTOR_BYTES;
  for (let kept = 0; kept < sectors; kept++) {
    const after = disk.copy();
    const bytes = after.bytesOf(FIRST);
    bytes.fill(0, end + kept * SECTOR_BYTES);
    const found = await recover(after);
    assert.ok(found.length === 1 || found.length === 3);
    assert.equal(found.length === 3, kept * SECTOR_BYTES >= 64 + 40 + 10_000 + 40 + 20, `${kept}`);
  }
});

Deno.test("any flip in a synced batch before the last one is an error", async () => {
  const seed = testSeed("flips");
  const random = seededRandom(seed);
  const disk = new FakeDisk();
  const log = await start(disk);
  for (let i = 1; i <= 6; i++) await log.append([entry(i, 500 * i)]);
  const last = log.statistics().bytes - BLOCK_BYTES;
  await log.append([entry(7)]);
  for (let round = 0; round < testRounds(4000); round++) {
    const after = disk.copy();
    const bytes = after.bytesOf(FIRST);
    const at = Math.floor(random() * (last + BLOCK_BYTES));
    bytes[at] = (bytes[at] ?? 0) ^ (1 << Math.floor(random() * 8));
    await assert.rejects(
      recover(after),
      (e) => isKisekiError(e, "log.torn"),
      `a flip at ${at} was not seen`,
    );
  }
  await log.close();
});

Deno.test("a synced block that was lost before the last batch is an error", async () => {
  const disk = new FakeDisk();
  const log = await start(disk);
  for (let i = 1; i <= 4; i++) await log.append([entry(i, 6000)]);
  for (let block = 1; block <= 6; block++) {
    const after = disk.copy();
    after.bytesOf(FIRST).fill(0, block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
    await assert.rejects(recover(after), (e) => isKisekiError(e, "log.torn"), `block ${block}`);
  }
  await log.close();
});

Deno.test("after a clean close even the last entry cannot rot unseen", async () => {
  const disk = new FakeDisk();
  const log = await start(disk);
  await log.append([entry(1, 3000)]);
  await log.close();
  const bytes = disk.bytesOf(FIRST);
  bytes[BLOCK_BYTES + 1000] = (bytes[BLOCK_BYTES + 1000] ?? 0) ^ 1;
  await assert.rejects(recover(disk), (e) => isKisekiError(e, "log.torn"));
});

Deno.test("an idle log writes a watermark once", async () => {
  const disk = new FakeDisk();
  const clock = new VirtualClock();
  const log = await open(disk, 1 << 20, clock);
  await log.replay(() => undefined);
  await log.append([entry(1)]);
  for (let turn = 0; turn < 100 && log.statistics().syncs < 2; turn++) {
    clock.advance(1000);
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  assert.equal(log.statistics().syncs, 2);
  clock.advance(10_000);
  await log.close();
  assert.equal(log.statistics().syncs, 2);
});

Deno.test("segments follow each other; a missing or damaged one is an error", async () => {
  const disk = new FakeDisk();
  const log = await start(disk, 64 * 1024);
  for (let i = 1; i <= 20; i++) await log.append([entry(i, 10_000)]);
  assert.ok(log.statistics().segments > 3);
  await log.close();
  assert.equal((await recover(disk, 64 * 1024)).length, 20);
  const missing = disk.copy();
  await missing.unlink("/wal/wal-0000000000000002.log");
  await assert.rejects(recover(missing), (e) => isKisekiError(e, "log.torn"));
  for (const at of [9, 100, 4000]) {
    const damaged = disk.copy();
    const bytes = damaged.bytesOf("/wal/wal-0000000000000002.log");
    bytes[at] = (bytes[at] ?? 0) ^ 4;
    await assert.rejects(recover(damaged), (e) => isKisekiError(e, "log.torn"));
  }
});

Deno.test("a crash while a segment is made loses nothing", async () => {
  const seed = testSeed("segment creation");
  const random = seededRandom(seed);
  for (let round = 0; round < testRounds(400); round++) {
    const disk = new FakeDisk();
    const log = await start(disk, 32 * 1024);
    let writes = Math.floor(random() * 40);
    disk.onWrite = () => {
      if (writes-- === 0) disk.failSync = "block.io";
    };
    let acknowledged = 0;
    try {
      for (let i = 1; i <= 12; i++) {
        await log.append([entry(i, 7000)]);
        acknowledged = i;
        if (i % 3 === 0) {
          await log.append([{ type: "compact", shard: SHARD, index: i - 2, term: 1 }]);
          log.release(SHARD, i - 2);
        }
      }
    } catch (error) {
      assert.ok(isKisekiError(error, "block.io"));
    }
    const after = disk.crash(() => random() < 0.5, random() < 0.5);
    const found = await recover(after, 32 * 1024);
    let highest = 0;
    for (const r of found) if (r.type === "entry") highest = Math.max(highest, r.entry.index);
    assert.ok(highest >= acknowledged, `entry ${acknowledged} of round ${round} is lost`);
  }
});

Deno.test("released segments go, and what only they held is carried over", async () => {
  const disk = new FakeDisk();
  const log = await start(disk, 64 * 1024);
  await log.append([hardState(5), hardState(6, OTHER), entry(1, 10, OTHER)]);
  for (let i = 1; i <= 30; i++) await log.append([entry(i, 10_000)]);
  const before = log.statistics().segments;
  log.release(SHARD, 25);
  await log.append([entry(31)]);
  assert.equal(log.statistics().segments, before, "another shard needs the first segment");
  await log.append([{ type: "compact", shard: OTHER, index: 1, term: 1 }]);
  log.release(OTHER, 1);
  await log.append([entry(32)]);
  await log.append([entry(33)]);
  assert.ok(log.statistics().segments < before);
  await log.close();
  const found = await recover(disk.crash(() => false), 64 * 1024);
  const entries = found.flatMap((r) =>
    r.type === "entry" && r.shard === SHARD ? [r.entry.index] : []
  );
  assert.deepEqual(entries.slice(-8), [26, 27, 28, 29, 30, 31, 32, 33]);
  assert.ok(found.some((r) => r.type === "hardState" && r.hardState.term === 5));
  assert.ok(found.some((r) => r.type === "hardState" && r.hardState.term === 6));
  assert.ok(found.some((r) => r.type === "compact" && r.shard === OTHER));
});

Deno.test("a reused file's old batches are never taken for new ones", async () => {
  const disk = new FakeDisk();
  const log = await start(disk, 64 * 1024);
  for (let i = 1; i <= 60; i++) {
    await log.append([entry(i, 10_000)]);
    log.release(SHARD, i - 8);
  }
  assert.ok(log.statistics().segments <= 5);
  const found = await recover(disk.crash(() => false), 64 * 1024);
  const entries = found.flatMap((r) => r.type === "entry" ? [r.entry.index] : []);
  assert.equal(entries.at(-1), 60);
  assert.deepEqual(entries, entries.map((_, i) => (entries[0] ?? 0) + i));
});

Deno.test("durable entries are read back one by one and in ranges", async () => {
  const disk = new FakeDisk();
  const log = await start(disk, 64 * 1024);
  for (let i = 1; i <= 30; i++) await log.append([entry(i, 3000), entry(i, 10, OTHER)]);
  const some = await log.readEntries(SHARD, 5, 12, 1e9);
  assert.deepEqual(some.map((e) => e.index), [5, 6, 7, 8, 9, 10, 11, 12]);
  assert.deepEqual(
    (await log.readEntries(SHARD, 5, 30, 7000)).map((e) => e.index),
    [5, 6],
  );
  await log.append([{ type: "truncate", shard: SHARD, index: 29 }]);
  assert.deepEqual((await log.readEntries(SHARD, 27, 30, 1e9)).map((e) => e.index), [27, 28]);
  log.release(SHARD, 27);
  await assert.rejects(
    log.readEntries(SHARD, 27, 28, 100),
    (e) => isKisekiError(e, "common.not_found"),
  );
  disk.bytesOf(FIRST).fill(1, 2 * BLOCK_BYTES);
  await assert.rejects(log.readEntries(OTHER, 5, 5, 100), (e) => isKisekiError(e, "log.torn"));
  await log.close();
});

for (const code of ["block.io", "block.no_space"] as const) {
  Deno.test(`a write that fails with ${code} stops the log; what was acknowledged stays`, async () => {
    const disk = new FakeDisk();
    const log = await start(disk);
    await log.append([entry(1)]);
    disk.failWrite = code;
    const waiting = [log.append([entry(2)]), log.append([entry(3)])];
    for (const append of waiting) await assert.rejects(append, (e) => isKisekiError(e, code));
    disk.failWrite = undefined;
    await assert.rejects(log.append([entry(2)]), (e) => isKisekiError(e, code), "no second try");
    await log.close();
    assert.deepEqual(await recover(disk.crash(() => false)), [entry(1)]);
  });
}

Deno.test("an entry over the limit is refused before it is queued", async () => {
  const log = await start(new FakeDisk());
  await assert.rejects(
    log.append([entry(1, 1024 * 1024 + 64 * 1024 + 1)]),
    (e) => isKisekiError(e, "common.limit_exceeded"),
  );
  await log.append([entry(1)]);
  await log.close();
});

Deno.test("the real disk keeps the log over a restart", async () => {
  const directory = await Deno.makeTempDir({ prefix: "kiseki_wal_test_" });
  try {
    const options = {
      directory,
      disk: NODE_LOG_DISK,
      logger: SILENT_LOGGER,
      segmentBytes: 1 << 18,
    };
    const log = await openWriteAheadLog(options);
    await log.replay(() => undefined);
    for (let i = 1; i <= 100; i++) await log.append([entry(i, 5000)]);
    log.release(SHARD, 50);
    await log.append([entry(101)]);
    assert.equal((await log.readEntries(SHARD, 60, 101, 1e9)).length, 42);
    await log.close();
    const again = await openWriteAheadLog(options);
    const found: LogRecord[] = [];
    await again.replay((record) => found.push(record));
    await again.close();
    assert.deepEqual(found.at(-1), entry(101));
    await assert.rejects(
      NODE_LOG_DISK.open(`${directory}/none`, false),
      (e) => isKisekiError(e, "block.io"),
    );
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
