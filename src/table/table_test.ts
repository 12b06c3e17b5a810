/** What the interface promises, one promise a test. */
import assert from "node:assert/strict";
import { setImmediate } from "node:timers";
import { type Bytes, utf8, utf8ToString } from "../common/bytes.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import type { TenantKeys } from "../crypto/sealer.ts";
import { inlineRunner } from "./inline_runner.ts";
import { createBlockCache, openTable, type OpenTableOptions } from "./open_table.ts";
import type { JobRunner } from "./run_jobs.ts";
import { MAX_KEY_BYTES, MAX_VALUE_BYTES, type Table } from "./table.ts";
import { FaultyFiles, testTenantKeys } from "./testing.ts";

const provider = chooseProvider().provider;
const EMPTY = new Uint8Array(0);

async function opened(
  test: (table: Table, files: FaultyFiles) => Promise<void> | void,
  options: Partial<OpenTableOptions> = {},
  files = new FaultyFiles(),
): Promise<void> {
  const table = await openTable({
    directory: "",
    tableId: "00112233445566778899aabbccddeeff",
    keys: testTenantKeys(provider),
    provider,
    runner: inlineRunner(provider, 0),
    files,
    ...options,
  });
  try {
    await test(table, files);
  } finally {
    await table.close();
  }
}

function put(table: Table, rows: Readonly<Record<string, string | undefined>>): void {
  const mutations = Object.entries(rows).map(([key, value]) => ({
    key: utf8(key),
    value: value === undefined ? undefined : utf8(value),
  }));
  table.apply(table.appliedIndex + 1, mutations, utf8("state"));
}

function text(bytes: Bytes | undefined): string | undefined {
  return bytes === undefined ? undefined : utf8ToString(bytes);
}

function names(table: Table): string[] {
  return [...table.scan(EMPTY, undefined)].map((row) => utf8ToString(row.key));
}

function numbered(from: number, to: number, value: string | undefined): Record<
  string,
  string | undefined
> {
  const rows: Record<string, string | undefined> = {};
  for (let i = from; i < to; i++) rows[`row/${i.toString().padStart(6, "0")}`] = value;
  return rows;
}

/** Gives way until what runs behind the calls (removal of files) is done. */
async function idle(): Promise<void> {
  for (let i = 0; i < 50; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}

function runFiles(files: FaultyFiles): string[] {
  return files.list().filter((name) => name.endsWith(".run"));
}

Deno.test("the next step of a scan throws after a mutation", () =>
  opened((table) => {
    put(table, { a: "1", b: "2" });
    const scan = table.scan(EMPTY, undefined)[Symbol.iterator]();
    assert.equal(text(scan.next().value?.key), "a");
    put(table, { c: "3" });
    assert.throws(() => scan.next(), (error) => isKisekiError(error, "common.failed_precondition"));
  }));

Deno.test("a scan goes on across folds and merges, either way", () =>
  opened(async (table) => {
    for (let i = 0; i < 4; i++) {
      put(table, numbered(i * 10, i * 10 + 25, `${i}`));
      if (i < 3) await table.fold();
    }
    const wanted = names(table);
    for (const reverse of [false, true]) {
      const seen: string[] = [];
      for (const row of table.scan(EMPTY, undefined, { reverse })) {
        seen.push(utf8ToString(row.key));
        if (seen.length === 10) await table.fold();
        if (seen.length === 20) await table.compact();
      }
      assert.deepEqual(reverse ? seen.reverse() : seen, wanted);
    }
  }));

Deno.test("entries out of order, keys, values and states beyond the limits change nothing", () =>
  opened((table) => {
    put(table, { a: "1" });
    const refused = (code: "common.invalid_argument" | "common.limit_exceeded") => (e: unknown) =>
      isKisekiError(e, code);
    const good = { key: utf8("b"), value: utf8("2") };
    assert.throws(() => table.apply(1, [good], EMPTY), refused("common.invalid_argument"));
    const longKey = { key: new Uint8Array(MAX_KEY_BYTES + 1), value: EMPTY };
    assert.throws(() => table.apply(2, [good, longKey], EMPTY), refused("common.limit_exceeded"));
    const longValue = { key: utf8("c"), value: new Uint8Array(MAX_VALUE_BYTES + 1) };
    assert.throws(() => table.apply(2, [good, longValue], EMPTY), refused("common.limit_exceeded"));
    const longState = new Uint8Array(65 * 1024);
    assert.throws(() => table.apply(2, [good], longState), refused("common.limit_exceeded"));
    assert.deepEqual(names(table), ["a"]);
    assert.equal(table.appliedIndex, 1);
  }));

Deno.test("the longest keys and values fold, merge and come back", () =>
  opened(async (table) => {
    const key = (n: number) => new Uint8Array(MAX_KEY_BYTES).fill(n);
    const value = (n: number, size: number) => new Uint8Array(size).fill(n);
    const sizes = [0, 1, 8191, 8192, 8193, MAX_VALUE_BYTES];
    for (const [n, size] of sizes.entries()) {
      table.apply(n + 1, [{ key: key(n), value: value(n, size) }], EMPTY);
      await table.fold();
    }
    await table.compact();
    assert.ok(table.statistics().runs < 4);
    for (const [n, size] of sizes.entries()) {
      assert.deepEqual(table.get(key(n)), value(n, size));
    }
    assert.deepEqual([...table.scan(EMPTY, undefined)].map((row) => row.value.length), sizes);
  }));

Deno.test("an entry without rows still moves the durable index and state", () =>
  opened(async (table, files) => {
    table.apply(7, [], utf8("seven"));
    assert.equal(table.durableState().appliedIndex, 0);
    await table.fold();
    assert.deepEqual(table.durableState(), { appliedIndex: 7, ownerState: utf8("seven") });
    assert.deepEqual(runFiles(files), []);
    const calls = files.calls;
    await table.fold();
    assert.equal(files.calls, calls, "a fold of nothing writes nothing");
  }));

Deno.test("tombstones hide older runs and are gone after the merge with the oldest", () =>
  opened(async (table, files) => {
    put(table, numbered(0, 100, "x"));
    await table.fold();
    put(table, numbered(0, 100, undefined));
    await table.fold();
    assert.deepEqual(names(table), []);
    assert.equal(table.get(utf8("row/000005")), undefined);
    for (let i = 0; i < 2; i++) {
      put(table, { [`other/${i}`]: "y" });
      await table.fold();
    }
    await table.compact();
    assert.deepEqual(names(table), ["other/0", "other/1"]);
    assert.equal(table.statistics().runs, 1);
    put(table, { "other/0": undefined, "other/1": undefined });
    for (let i = 0; i < 3; i++) {
      await table.fold();
      put(table, { [`other/${i}`]: undefined });
    }
    await table.fold();
    await table.compact();
    assert.equal(table.statistics().runs, 0, "no row is left, so no run is");
    await idle();
    assert.deepEqual(runFiles(files), []);
  }));

Deno.test("many tombstones are merged away though no tier is full", () =>
  opened(async (table) => {
    put(table, numbered(0, 3000, "x"));
    await table.fold();
    put(table, numbered(0, 2000, undefined));
    await table.fold();
    assert.equal(table.statistics().runs, 2);
    await table.compact();
    assert.equal(table.statistics().runs, 1);
    assert.equal(names(table).length, 1000);
  }));

Deno.test("merged runs stay until the snapshot that pins them is released", () =>
  opened(async (table, files) => {
    for (let i = 0; i < 4; i++) {
      put(table, numbered(i, i + 1, "x"));
      await table.fold();
    }
    const snapshot = await table.snapshot();
    const [first, second] = [await table.snapshot(), snapshot];
    await table.compact();
    assert.equal(table.statistics().runs, 1);
    first.release();
    first.release();
    await idle();
    assert.equal(runFiles(files).length, 4 + 1);
    second.release();
    await idle();
    assert.equal(runFiles(files).length, 1);
  }));

Deno.test("keys that are not available fail the fold and nothing else", async () => {
  const keys = testTenantKeys(provider);
  let available = true;
  const leased: TenantKeys = {
    organisation: keys.organisation,
    generateDataKey() {
      if (!available) throw new KisekiError("keys.unavailable", "the lease ran out");
      return keys.generateDataKey();
    },
    openDataKey: (wrapped) => keys.openDataKey(wrapped),
    chunkId: (digest) => keys.chunkId(digest),
    nameHash: (name) => keys.nameHash(name),
  };
  await opened(async (table) => {
    put(table, { a: "1" });
    available = false;
    await assert.rejects(table.fold(), (error) => isKisekiError(error, "keys.unavailable"));
    put(table, { b: "2" });
    assert.deepEqual(names(table), ["a", "b"]);
    available = true;
    await table.fold();
    assert.equal(table.durableState().appliedIndex, 2);
  }, { keys: leased });
  assert.equal(keys.outstanding, 0);
});

Deno.test("rows put while a fold is under way are in the next fold, not lost", async () => {
  const inline = inlineRunner(provider, 0);
  let release: (() => void) | undefined;
  const runner: JobRunner = {
    async run(files, job, signal) {
      if (job.kind === "fold") await new Promise<void>((resolve) => release = resolve);
      return await inline.run(files, job, signal);
    },
  };
  await opened(async (table) => {
    put(table, { a: "1", b: "1" });
    const folding = table.fold();
    await Promise.resolve();
    put(table, { b: "2", c: "2" });
    assert.deepEqual(names(table), ["a", "b", "c"]);
    assert.equal(text(table.get(utf8("b"))), "2");
    release?.();
    await folding;
    assert.equal(table.durableState().appliedIndex, 1);
    assert.equal(text(table.get(utf8("b"))), "2");
    assert.equal(table.statistics().rowsInMemory, 2);
    const again = table.fold();
    await Promise.resolve();
    release?.();
    await again;
    assert.equal(table.durableState().appliedIndex, 2);
    assert.deepEqual(names(table), ["a", "b", "c"]);
  }, { runner });
});

Deno.test("tables share one cache within its bound", async () => {
  const blockCache = createBlockCache(100_000);
  await opened(async (one) => {
    await opened(async (two) => {
      for (const table of [one, two]) {
        put(table, numbered(0, 5000, "x".repeat(50)));
        await table.fold();
      }
      for (let i = 0; i < 3; i++) {
        assert.equal(names(one).length, 5000);
        assert.equal(names(two).length, 5000);
        assert.ok(blockCache.usedBytes > 0 && blockCache.usedBytes <= 100_000);
      }
    }, { blockCache });
    assert.ok(one.statistics().blockCacheMisses > 0);
  }, { blockCache });
  assert.equal(blockCache.usedBytes, 0, "closed tables leave nothing in it");
});

Deno.test("leftovers of a crash are removed at open, other files are not touched", async () => {
  const files = new FaultyFiles();
  await opened(
    async (table) => {
      put(table, { a: "1" });
      await table.fold();
    },
    {},
    files,
  );
  const kept = runFiles(files);
  files.overwrite(`${"0".repeat(32)}.run`, new Uint8Array(10));
  files.overwrite("manifest.new", new Uint8Array(10));
  files.overwrite("notes.txt", new Uint8Array(10));
  await opened((table) => assert.deepEqual(names(table), ["a"]), {}, files);
  assert.deepEqual(files.list().sort(), [...kept, "manifest", "notes.txt"].sort());
});

Deno.test("raw keys handed to a job are zero after it, however it ended", async () => {
  const seen: Bytes[] = [];
  const keys = testTenantKeys(provider);
  const watched: TenantKeys = {
    ...keys,
    generateDataKey() {
      const key = keys.generateDataKey();
      return {
        ...key,
        exportKey() {
          const raw = key.exportKey();
          assert.ok(raw.some((byte) => byte !== 0));
          seen.push(raw);
          return raw;
        },
      };
    },
  };
  await opened(async (table, files) => {
    for (let i = 0; i < 4; i++) {
      put(table, numbered(0, 600, `${i}`));
      await table.fold();
    }
    put(table, { a: "1" });
    files.fault = () => "before";
    await assert.rejects(table.fold());
    files.fault = () => "none";
    const merging = table.compact();
    await new Promise<void>((resolve) => setImmediate(resolve));
    const closing = table.close();
    await merging.catch((error) => assert.ok(isKisekiError(error, "common.cancelled")));
    await closing;
  }, { keys: watched });
  assert.ok(seen.length >= 6);
  for (const raw of seen) assert.ok(raw.every((byte) => byte === 0));
});
