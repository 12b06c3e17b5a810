/**
 * The write-ahead log on this machine's disk, beside a bare pwrite and fdatasync.
 */
import fs from "node:fs";
import type { ShardId } from "../../src/common/ids.ts";
import { SILENT_LOGGER } from "../../src/common/logging.ts";
import { NODE_LOG_DISK } from "../../src/raft/node_log_disk.ts";
import { EntryKind } from "../../src/raft/ports.ts";
import { openWriteAheadLog, type SegmentedLog } from "../../src/raft/wal.ts";
import type { BenchLine } from "./report.ts";

const ENTRY_BYTES = 4300;
const SHARD = 1 as ShardId;

function percentile(times: number[], p: number): number {
  times.sort((a, b) => a - b);
  return times[Math.min(times.length - 1, Math.floor(times.length * p))] ?? 0;
}

/** Milliseconds of single 8 KiB pwrite + fdatasync over written blocks. */
async function bareSyncs(directory: string, rounds: number): Promise<number[]> {
  const fd = fs.openSync(`${directory}/bare`, "w+");
  const bytes = new Uint8Array(8192).fill(7);
  const times: number[] = [];
  for (let i = 0; i < rounds; i++) fs.writeSync(fd, bytes, 0, bytes.length, i * bytes.length);
  fs.fsyncSync(fd);
  for (let i = 0; i < rounds; i++) {
    const before = performance.now();
    fs.writeSync(fd, bytes, 0, bytes.length, i * bytes.length);
    await new Promise<void>((resolve, reject) =>
      fs.fdatasync(fd, (error) => error ? reject(error) : resolve())
    );
    times.push(performance.now() - before);
  }
  fs.closeSync(fd);
  return times;
}

async function appendAlone(log: SegmentedLog, from: number, rounds: number): Promise<number[]> {
  const data = new Uint8Array(ENTRY_BYTES);
  const times: number[] = [];
  for (let i = 0; i < rounds; i++) {
    const before = performance.now();
    const entry = { index: from + i, term: 1, kind: EntryKind.normal, data };
    await log.append([{ type: "entry", shard: SHARD, entry }]);
    times.push(performance.now() - before);
  }
  return times;
}

async function appendTogether(
  log: SegmentedLog,
  from: number,
  writers: number,
  total: number,
): Promise<{ readonly perSecond: number; readonly times: number[] }> {
  const data = new Uint8Array(ENTRY_BYTES);
  const times: number[] = [];
  let next = from;
  const start = performance.now();
  await Promise.all(Array.from({ length: writers }, async () => {
    while (next < from + total) {
      const entry = { index: next++, term: 1, kind: EntryKind.normal, data };
      const before = performance.now();
      await log.append([{ type: "entry", shard: SHARD, entry }]);
      times.push(performance.now() - before);
      if (entry.index % 4096 === 0) log.release(SHARD, entry.index);
    }
  }));
  return { perSecond: total / ((performance.now() - start) / 1000), times };
}

/** Runs in about three seconds in a temporary directory. */
export async function walBench(): Promise<BenchLine[]> {
  const directory = await Deno.makeTempDir({ prefix: "kiseki_wal_bench_" });
  try {
    const bare = await bareSyncs(directory, 500);
    const log = await openWriteAheadLog({
      directory: `${directory}/wal`,
      disk: NODE_LOG_DISK,
      logger: SILENT_LOGGER,
    });
    await log.replay(() => undefined);
    await appendTogether(log, 1, 64, 10_000);
    const alone = await appendAlone(log, 10_001, 1000);
    const together = await appendTogether(log, 11_001, 64, 60_000);
    await log.close();
    const bareP50 = percentile(bare, 0.5);
    return [
      { name: "bare pwrite + fdatasync, 8 KiB, p50", value: bareP50, unit: "ms" },
      {
        name: "wal append alone, 4.2 KiB, p50",
        value: percentile(alone, 0.5),
        unit: "ms",
        target: `<= ${(2 * bareP50).toFixed(3)}`,
        note: "at most twice the bare call",
      },
      { name: "wal append alone, 4.2 KiB, p99", value: percentile(alone, 0.99), unit: "ms" },
      {
        name: "wal appends, 64 writers, 4.2 KiB",
        value: together.perSecond,
        unit: "appends/s",
        target: ">= 20000",
      },
      { name: "wal appends, 64 writers, p50", value: percentile(together.times, 0.5), unit: "ms" },
      { name: "wal appends, 64 writers, p99", value: percentile(together.times, 0.99), unit: "ms" },
    ];
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

if (import.meta.main) console.table(await walBench());
