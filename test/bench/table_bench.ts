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
import type { Mutation, Table } from "../../src/table/table.ts";
import { testTenantKeys } from "../../src/table/testing.ts";
import { workerRunner } from "../../src/table/worker_runner.ts";
import { seededRandom } from "../rounds.ts";
import { type BenchLine, formatBenchLines } from "./report.ts";

const VALUE_BYTES = 190;
const BATCH = 16;
/** The loop is looked at this often; what it is late by is a pause. */
const TURN_BUDGET_MS = 1;

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
    return lines;
  } finally {
    await table.close();
    runner.close();
    await Deno.remove(directory, { recursive: true });
  }
}

const keyText = new TextEncoder();

/** Row number `n` of `entries`, in an order that is none; some 60 bytes, most of them shared. */
function keyOf(n: number, entries: number): Uint8Array {
  const scattered = (n * 1_000_000_007) % entries;
  return keyText.encode(
    `f3a1c2d4e5b60718/0000000000000042/entry/dataset-0001/shard-${
      scattered.toString(16).padStart(8, "0")
    }`,
  );
}

async function puts(table: Table, entries: number): Promise<BenchLine[]> {
  const random = seededRandom(1);
  const pool = new Uint8Array(1 << 20);
  for (let i = 0; i < pool.length; i++) pool[i] = random() * 256;
  const ownerState = new Uint8Array(64);
  const late: number[] = [];
  let folding: Promise<void> | undefined;
  let compacting: Promise<void> | undefined;
  let putMs = 0;
  let waited = 0;
  const started = performance.now();
  let turn = started;
  for (let n = 0; n < entries;) {
    // The work of one turn is made first, so that only the table's share is timed.
    const batches: Mutation[][] = [];
    for (let b = 0; b < 16 && n < entries; b++) {
      const mutations: Mutation[] = [];
      for (let i = 0; i < BATCH && n < entries; i++, n++) {
        const at = Math.floor(random() * (pool.length - VALUE_BYTES));
        mutations.push({ key: keyOf(n, entries), value: pool.subarray(at, at + VALUE_BYTES) });
      }
      batches.push(mutations);
    }
    const before = performance.now();
    for (const mutations of batches) table.apply(table.appliedIndex + 1, mutations, ownerState);
    if (table.wantsFold && folding === undefined) {
      folding = table.fold().finally(() => folding = undefined);
      compacting ??= folding.then(() => table.compact()).finally(() => compacting = undefined);
    }
    const after = performance.now();
    putMs += after - before;
    late.push(after - before);
    // Two memory tables full: the owner waits, as a shard does.
    if (folding !== undefined && table.statistics().memoryBytes > 48 * 1024 * 1024) {
      const from = performance.now();
      await folding;
      waited += performance.now() - from;
    }
    turn = performance.now();
    await setImmediate();
    late.push(performance.now() - turn);
  }
  await folding;
  const loaded = performance.now() - started;
  await table.fold();
  while (compacting !== undefined) await compacting;
  await table.compact();
  const whole = performance.now() - started;
  late.sort((a, b) => a - b);
  const { writtenBytes, putBytes, runs, runBytes } = table.statistics();
  const p = (q: number) => late[Math.min(late.length - 1, Math.floor(late.length * q))] ?? 0;
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
    { name: "pause p99.9", value: p(0.999), unit: "ms", target: "< 5" },
    { name: "pause max", value: p(1), unit: "ms", note: `turns of ${TURN_BUDGET_MS} ms aimed at` },
  ];
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
