/**
 * How fast a sealed table is: random puts with folds and merges going on, what they write, how long
 * they hold up the event loop, lookups and scans.
 *
 * 1 million entries of some 250 bytes; 5 million with `KISEKI_BENCH_FULL=1`. Alone:
 * `deno run -A --unstable-net test/bench/table_bench.ts`.
 */
import { setImmediate } from "node:timers/promises";
import { chooseProvider } from "../../src/crypto/provider_choice.ts";
import { createBlockCache, openTable } from "../../src/table/open_table.ts";
import type { Table } from "../../src/table/table.ts";
import { testTenantKeys } from "../../src/table/testing.ts";
import { workerRunner } from "../../src/table/worker_runner.ts";
import { seededRandom } from "../rounds.ts";
import { type BenchLine, formatBenchLines } from "./report.ts";

const VALUE_BYTES = 190;
const BATCH = 16;
const BATCHES_A_TURN = 16;

/** Measures a table in a temporary directory. */
export async function tableBench(): Promise<BenchLine[]> {
  const entries = Deno.env.get("KISEKI_BENCH_FULL") === "1" ? 5_000_000 : 1_000_000;
  const directory = await Deno.makeTempDir({ prefix: "kiseki-table-bench-" });
  const provider = chooseProvider().provider;
  const runner = workerRunner({});
  const blockCache = createBlockCache(64 * 1024 * 1024);
  const keys = testTenantKeys(provider);
  const tableId = "0f0e0d0c0b0a09080706050403020100";
  const table = await openTable({ directory, tableId, keys, provider, runner, blockCache });
  try {
    const lines = await puts(table, entries);
    lines.push(...lookups(table, entries), ...scans(table, entries));
    lines.push({
      name: "resident memory",
      value: Deno.memoryUsage().rss / 1e6,
      unit: "MB",
      note: "whole process, with a block cache of 67 MB",
    });
    return lines;
  } finally {
    await table.close();
    runner.close();
    await Deno.remove(directory, { recursive: true });
  }
}

const KEY_PREFIX = new TextEncoder().encode(
  "f3a1c2d4e5b60718/0000000000000042/entry/dataset-0001/shard-",
);
const KEY_BYTES = KEY_PREFIX.length + 8;

/** Key of row `n` of `entries`, in an order that is none; most of its bytes are shared by all. */
function writeKey(n: number, entries: number, out: Uint8Array): void {
  out.set(KEY_PREFIX);
  let rest = (n * 1_000_000_007) % entries;
  for (let i = KEY_BYTES - 1; i >= KEY_PREFIX.length; i--) {
    out[i] = 0x30 + rest % 10;
    rest = Math.floor(rest / 10);
  }
}

function keyOf(n: number, entries: number): Uint8Array {
  const key = new Uint8Array(KEY_BYTES);
  writeKey(n, entries, key);
  return key;
}

async function puts(table: Table, entries: number): Promise<BenchLine[]> {
  const random = seededRandom(1);
  const pool = new Uint8Array(1 << 20);
  for (let i = 0; i < pool.length; i++) pool[i] = random() * 256;
  const ownerState = new Uint8Array(64);
  // A turn is the table's own calls, or one round of the event loop with what came from the Worker.
  const cpu = threadCpuClock();
  const wallMs: number[] = [];
  const cpuMs: number[] = [];
  const turn = async (work: () => void | Promise<void>) => {
    const cpuBefore = cpu.nowMs();
    const before = performance.now();
    const going = work();
    if (going !== undefined) await going;
    const took = performance.now() - before;
    wallMs.push(took);
    cpuMs.push(cpu.nowMs() - cpuBefore);
    return took;
  };
  let folding: Promise<void> | undefined;
  let compacting: Promise<void> | undefined;
  let putMs = 0;
  let waited = 0;
  // The same buffers again and again: the table keeps none of them, and garbage of the benchmark
  // would count as pauses of the table.
  const batches = Array.from(
    { length: BATCHES_A_TURN },
    () =>
      Array.from({ length: BATCH }, () => ({
        key: new Uint8Array(KEY_BYTES),
        value: new Uint8Array(VALUE_BYTES),
      })),
  );
  const started = performance.now();
  for (let n = 0; n < entries;) {
    // The work of one turn is made first, so that only the table's share is timed.
    for (const mutations of batches) {
      for (const { key, value } of mutations) {
        writeKey(n++ % entries, entries, key);
        const at = Math.floor(random() * (pool.length - VALUE_BYTES));
        value.set(pool.subarray(at, at + VALUE_BYTES));
      }
    }
    putMs += await turn(() => {
      for (const mutations of batches) table.apply(table.appliedIndex + 1, mutations, ownerState);
      if (!table.wantsFold || folding !== undefined) return;
      folding = table.fold().finally(() => folding = undefined);
      compacting ??= folding.then(() => table.compact()).finally(() => compacting = undefined);
    });
    // Two memory tables full: the owner waits, as a shard does.
    if (folding !== undefined && table.statistics().memoryBytes > 48 * 1024 * 1024) {
      const from = performance.now();
      await folding;
      waited += performance.now() - from;
    }
    await turn(async () => void await setImmediate());
  }
  await folding;
  const loaded = performance.now() - started;
  await table.fold();
  while (compacting !== undefined) await compacting;
  await table.compact();
  const whole = performance.now() - started;
  cpu.close();
  const { writtenBytes, putBytes, runs, runBytes } = table.statistics();
  const quantile = (times: number[], q: number) =>
    times.sort((a, b) => a - b)[Math.min(times.length - 1, Math.floor(times.length * q))] ?? 0;
  return [
    {
      name: "random put, sustained",
      value: entries / (loaded / 1000),
      unit: "put/s",
      target: ">= 60000",
      note: `${entries} entries, ${runs} runs, ${Math.round(runBytes / 1e6)} MB, waited ${
        Math.round(waited)
      } ms for folds; key making included`,
    },
    {
      name: "random put, until merged",
      value: entries / (whole / 1000),
      unit: "put/s",
      note: "until the last merge ended",
    },
    { name: "apply", value: putMs * 1000 / entries, unit: "us/put" },
    {
      name: "written per byte put",
      value: writtenBytes / putBytes,
      unit: "B/B",
      target: "<= 8",
    },
    {
      name: "pause p99.9, thread CPU",
      value: quantile(cpuMs, 0.999),
      unit: "ms",
      target: "< 5",
      note: "what table code and garbage collection put on the loop",
    },
    { name: "pause max, thread CPU", value: quantile(cpuMs, 1), unit: "ms" },
    {
      name: "pause p99.9, wall",
      value: quantile(wallMs, 0.999),
      unit: "ms",
      note: "with what other threads and processes took from the core",
    },
  ];
}

/** CPU time of this thread: clock_gettime(CLOCK_THREAD_CPUTIME_ID = 3), see time.h. */
function threadCpuClock(): { nowMs(): number; close(): void } {
  const libc = Deno.dlopen("libc.so.6", {
    clock_gettime: { parameters: ["i32", "buffer"], result: "i32" },
  });
  const time = new BigInt64Array(2);
  const bytes = new Uint8Array(time.buffer);
  return {
    nowMs() {
      libc.symbols.clock_gettime(3, bytes);
      return Number(time[0]) * 1000 + Number(time[1]) / 1e6;
    },
    close: () => libc.close(),
  };
}

function lookups(table: Table, entries: number): BenchLine[] {
  const random = seededRandom(2);
  const timed = (name: string, count: number, keys: Uint8Array[], target: string): BenchLine => {
    const before = table.statistics();
    const started = performance.now();
    for (let i = 0; i < count; i++) {
      if (table.get(keys[i % keys.length] as Uint8Array) === undefined) {
        throw new Error("a row is missing");
      }
    }
    const us = (performance.now() - started) * 1000 / count;
    const after = table.statistics();
    const misses = (after.blockCacheMisses - before.blockCacheMisses) / count;
    return { name, value: us, unit: "us", target, note: `${misses.toFixed(2)} blocks read each` };
  };
  const spread = Array.from(
    { length: 50_000 },
    () => keyOf(Math.floor(random() * entries), entries),
  );
  const near = spread.slice(0, 1000);
  const absent = near.map((key) => Uint8Array.from([...key, 0x21]));
  const uncached = timed("get, any row", 50_000, spread, "<= 25");
  timed("warm up", 10_000, near, "");
  const cached = timed("get, cached", 200_000, near, "<= 2");
  const started = performance.now();
  for (let i = 0; i < 100_000; i++) table.get(absent[i % absent.length] as Uint8Array);
  const us = (performance.now() - started) * 1000 / 100_000;
  return [uncached, cached, { name: "get, absent", value: us, unit: "us" }];
}

function scans(table: Table, entries: number): BenchLine[] {
  const random = seededRandom(3);
  return [false, true].map((reverse) => {
    const rounds = 200;
    const started = performance.now();
    let rows = 0;
    for (let i = 0; i < rounds; i++) {
      const key = keyOf(Math.floor(random() * entries), entries);
      const scan = reverse
        ? table.scan(new Uint8Array(0), key, { reverse })
        : table.scan(key, undefined);
      let left = 1000;
      for (const row of scan) {
        rows += row.key.length > 0 ? 1 : 0;
        if (--left === 0) break;
      }
    }
    return {
      name: reverse ? "scan of 1,000 rows, reverse" : "scan of 1,000 rows",
      value: (performance.now() - started) / (rows / 1000),
      unit: "ms",
    };
  });
}

if (import.meta.main) console.log(formatBenchLines(await tableBench()));
