/** Tables on a real directory, with folds and merges in a real Worker. */
import assert from "node:assert/strict";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { utf8 } from "../common/bytes.ts";
import { isKisekiError } from "../common/errors.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import {
  createBlockCache,
  installSnapshot,
  openTable,
  type OpenTableOptions,
} from "./open_table.ts";
import type { JobRunner } from "./run_jobs.ts";
import type { Table } from "./table.ts";
import { testTenantKeys } from "./testing.ts";
import { workerRunner } from "./worker_runner.ts";

const provider = chooseProvider().provider;
const TABLE_ID = "00112233445566778899aabbccddeeff";

async function inDirectory(test: (directory: string) => Promise<void>): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "kiseki-table-test-" });
  try {
    await test(directory);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

function options(directory: string, runner: JobRunner): OpenTableOptions {
  const keys = testTenantKeys(provider);
  return { directory, tableId: TABLE_ID, keys, provider, runner, foldBytes: 40_000 };
}

function put(table: Table, from: number, count: number, model: Map<string, string>): void {
  const mutations = [];
  for (let i = from; i < from + count; i++) {
    const key = `row/${(i * 37) % 1000}`;
    const value = i % 13 === 0 ? undefined : `value ${i} ${"x".repeat(i % 300)}`;
    mutations.push({ key: utf8(key), value: value === undefined ? undefined : utf8(value) });
    if (value === undefined) model.delete(key);
    else model.set(key, value);
  }
  table.apply(table.appliedIndex + 1, mutations, utf8("owner"));
}

function check(table: Table, model: ReadonlyMap<string, string>): void {
  const text = new TextDecoder();
  const rows = [...table.scan(utf8(""), undefined)].map(({ key, value }) => [
    text.decode(key),
    text.decode(value.slice()),
  ]);
  assert.deepEqual(rows, [...model].sort(([a], [b]) => (a < b ? -1 : 1)));
}

Deno.test("two tables fold and merge in one worker while rows are put", async () => {
  await inDirectory(async (root) => {
    const random = seededRandom(testSeed("worker runner"));
    const runner = workerRunner({});
    const blockCache = createBlockCache(200_000);
    const paths = [`${root}/deep/a`, `${root}/deep/b`];
    try {
      const tables = await Promise.all(
        paths.map((path) => openTable({ ...options(path, runner), blockCache })),
      );
      const models = tables.map(() => new Map<string, string>());
      let work: Promise<void>[] = [];
      for (let i = 0; i < testRounds(600); i++) {
        const which = Math.floor(random() * 2);
        const [table, model] = [tables[which], models[which]];
        assert.ok(table && model);
        put(table, i * 50, 50, model);
        if (table.wantsFold) work.push(table.fold().then(() => table.compact()));
        if (work.length > 3) {
          await Promise.all(work);
          work = [];
          check(table, model);
        }
      }
      await Promise.all(work);
      for (const [i, table] of tables.entries()) {
        const before = table.appliedIndex;
        await table.fold();
        await table.compact();
        check(table, models[i] ?? new Map());
        await table.close();
        const again = await openTable(options(paths[i] ?? "", runner));
        assert.equal(again.appliedIndex, before);
        check(again, models[i] ?? new Map());
        await again.close();
      }
    } finally {
      runner.close();
    }
  });
});

Deno.test("a worker that dies fails the fold; the table stays readable and folds again", async () => {
  await inDirectory(async (directory) => {
    const dying = workerRunner({}, "data:application/javascript,throw new Error('gone')");
    const living = workerRunner({});
    let alive = false;
    const runner: JobRunner = { run: (...job) => (alive ? living : dying).run(...job) };
    const model = new Map<string, string>();
    const table = await openTable(options(directory, runner));
    try {
      put(table, 0, 500, model);
      for (let attempt = 0; attempt < 2; attempt++) {
        await assert.rejects(
          table.fold(),
          (error) => isKisekiError(error, "common.unavailable") && error.retriable,
        );
        check(table, model);
        put(table, 500 + attempt * 300, 300, model);
      }
      alive = true;
      await table.fold();
      check(table, model);
      assert.equal(table.durableState().appliedIndex, table.appliedIndex);
      assert.equal(table.statistics().rowsInMemory, 0);
    } finally {
      await table.close();
      dying.close();
      living.close();
    }
  });
});

Deno.test("closing gives a merge up and leaves no file behind", async () => {
  await inDirectory(async (directory) => {
    const runner = workerRunner({});
    const model = new Map<string, string>();
    try {
      const table = await openTable(options(directory, runner));
      for (let i = 0; i < 5; i++) {
        put(table, i * 400, 400, model);
        await table.fold();
      }
      const merging = table.compact();
      const closed = table.close();
      await merging.catch((error) => assert.ok(isKisekiError(error, "common.cancelled")));
      await closed;
      assert.throws(() => table.get(utf8("row/1")), /is closed/);
      const again = await openTable(options(directory, runner));
      check(again, model);
      const runs = [...Deno.readDirSync(directory)].filter((entry) => entry.name.endsWith(".run"));
      assert.equal(runs.length, again.statistics().runs);
      await again.close();
    } finally {
      runner.close();
    }
  });
});

Deno.test("a snapshot opens elsewhere with the same rows, whatever was merged since", async () => {
  await inDirectory(async (root) => {
    const runner = workerRunner({});
    const model = new Map<string, string>();
    try {
      const table = await openTable(options(`${root}/a`, runner));
      for (let i = 0; i < 5; i++) {
        put(table, i * 200, 200, model);
        await table.fold();
      }
      const then = new Map(model);
      const snapshot = await table.snapshot();
      put(table, 5000, 300, model);
      await table.fold();
      await table.compact();
      Deno.mkdirSync(`${root}/b`);
      for (const path of snapshot.runFiles) {
        Deno.copyFileSync(path, `${root}/b/${path.slice(path.lastIndexOf("/") + 1)}`);
      }
      installSnapshot(`${root}/b`, snapshot.manifest);
      snapshot.release();
      const copy = await openTable(options(`${root}/b`, runner));
      assert.deepEqual(copy.durableState(), snapshot.state);
      check(copy, then);
      check(table, model);
      await copy.close();
      await table.close();
      const again = await openTable(options(`${root}/a`, runner));
      check(again, model);
      const runs = [...Deno.readDirSync(`${root}/a`)].filter((e) => e.name.endsWith(".run"));
      assert.equal(runs.length, again.statistics().runs, "released runs are gone");
      await again.close();
    } finally {
      runner.close();
    }
  });
});
