/**
 * The table against a plain sorted map: random operations, power cuts at every change that reaches
 * the disk, failing calls.
 */
import assert from "node:assert/strict";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { type Bytes, toHex, utf8 } from "../common/bytes.ts";
import { isKisekiError } from "../common/errors.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import { inlineRunner } from "./inline_runner.ts";
import { openTable } from "./open_table.ts";
import type { Mutation, Table, TableSnapshot } from "./table.ts";
import { FaultyFiles, PowerLost, testTenantKeys } from "./testing.ts";

const provider = chooseProvider().provider;
const TABLE_ID = "00112233445566778899aabbccddeeff";

/** Rows by hex key; values are runs of one byte, described in short. */
type Model = ReadonlyMap<string, string>;

/** One table under test, with the model of every index that was applied. */
class Subject {
  readonly #random: () => number;
  readonly keys = testTenantKeys(provider);
  models = new Map<number, Model>([[0, new Map()]]);
  files: FaultyFiles;
  index = 0;
  /** Least applied index that must be durable. */
  acknowledged = 0;
  table: Table | undefined;
  background: Promise<void>[] = [];
  snapshots: TableSnapshot[] = [];

  constructor(seed: number, files = new FaultyFiles()) {
    this.#random = seededRandom(seed);
    this.files = files;
  }

  below(n: number): number {
    return Math.floor(this.#random() * n);
  }

  get model(): Model {
    return this.models.get(this.index) ?? new Map();
  }

  async open(): Promise<Table> {
    this.table = await openTable({
      directory: "",
      tableId: TABLE_ID,
      keys: this.keys,
      provider,
      foldBytes: 6000,
      files: this.files,
      runner: inlineRunner(provider, 0),
    });
    return this.table;
  }

  randomKey(): Bytes {
    const prefix =
      ["", "routing/directory-0001/", "routing/directory-0002/\xff\x00"][this.below(3)];
    const n = this.below(40);
    return n === 0 ? utf8(prefix ?? "") : utf8(`${prefix}${n.toString(3)}`);
  }

  randomValue(): Bytes {
    const kind = this.below(20);
    const size = kind === 0 ? 0 : kind === 1 ? 8193 + this.below(3000) : this.below(1500);
    return new Uint8Array(size).fill(this.below(256));
  }

  applyRandom(table: Table): void {
    const mutations: Mutation[] = [];
    const next = new Map(this.model);
    for (let i = this.below(12); i > 0; i--) {
      const key = this.randomKey();
      const value = this.below(4) === 0 ? undefined : this.randomValue();
      mutations.push({ key, value });
      if (value === undefined) next.delete(toHex(key));
      else next.set(toHex(key), describe(value));
    }
    this.index += 1 + this.below(3);
    table.apply(this.index, mutations, utf8(`state ${this.index}`));
    this.models.set(this.index, next);
  }

  async step(table: Table): Promise<void> {
    const what = this.below(20);
    if (what < 10) {
      this.applyRandom(table);
    } else if (what < 13) {
      const index = this.index;
      await table.fold();
      this.acknowledged = Math.max(this.acknowledged, index);
    } else if (what < 15) {
      await table.compact();
    } else if (what === 15) {
      for (const going of [table.fold(), table.compact()]) {
        // Awaited later: a failure until then must not count as nobody's.
        going.catch(() => undefined);
        this.background.push(going);
      }
    } else if (what === 16) {
      this.snapshots.push(await table.snapshot());
    } else if (what === 17) {
      this.snapshots.splice(this.below(3), 1)[0]?.release();
    } else if (what === 18) {
      await Promise.all(this.background.splice(0));
      // Pins end with the table: what they held is removed by the next open.
      for (const snapshot of this.snapshots.splice(0)) snapshot.release();
      this.table = undefined;
      await table.close();
      this.index = (await this.open()).appliedIndex;
    } else {
      this.check(table);
    }
  }

  check(table: Table): void {
    checkAgainst(table, this.model, () => this.randomKey(), (n) => this.below(n));
  }

  /** Stops whatever is under way, after the power was lost or at the end. */
  async settle(): Promise<void> {
    await Promise.allSettled(this.background.splice(0));
    await Promise.allSettled([this.table?.close()]);
    for (const snapshot of this.snapshots.splice(0)) snapshot.release();
  }
}

function sortedRows(model: Model): [string, string][] {
  // Hex keeps the order of bytes, a prefix first.
  return [...model].sort(([a], [b]) => (a < b ? -1 : 1));
}

function checkAgainst(
  table: Table,
  model: Model,
  randomKey: () => Bytes,
  below: (n: number) => number,
): void {
  for (let i = 0; i < 5; i++) {
    const key = randomKey();
    assert.deepEqual(describe(table.get(key)), model.get(toHex(key)), `get ${toHex(key)}`);
  }
  const from = below(2) === 0 ? new Uint8Array(0) : randomKey();
  const to = below(2) === 0 ? undefined : randomKey();
  const wanted = sortedRows(model).filter(([key]) =>
    key >= toHex(from) && (to === undefined || key < toHex(to))
  );
  const limit = below(3) === 0 ? below(10) : Infinity;
  const rows = (reverse: boolean) => {
    const out: [string, string][] = [];
    if (limit === 0) return out;
    for (const row of table.scan(from, to, { reverse })) {
      out.push([toHex(row.key), describe(row.value)]);
      if (out.length === limit) break;
    }
    return out;
  };
  assert.deepEqual(rows(false), wanted.slice(0, limit));
  assert.deepEqual(rows(true), wanted.reverse().slice(0, limit));
}

function describe(bytes: Bytes): string;
function describe(bytes: Bytes | undefined): string | undefined;
function describe(bytes: Bytes | undefined): string | undefined {
  if (bytes === undefined) return undefined;
  assert.ok(bytes.every((byte) => byte === bytes[0]), "a value of one byte repeated");
  return `${bytes.length} of ${bytes[0] ?? "nothing"}`;
}

function checkAll(table: Table, model: Model): void {
  const rows = [...table.scan(new Uint8Array(0), undefined)].map((row) => [
    toHex(row.key),
    describe(row.value),
  ]);
  assert.deepEqual(rows, sortedRows(model));
  for (const [key, value] of model) {
    assert.deepEqual(
      describe(table.get(Uint8Array.from(key.match(/../g) ?? [], (h) => parseInt(h, 16)))),
      value,
    );
  }
}

Deno.test("random operations give what a sorted map gives", async () => {
  const seed = testSeed("table model");
  for (let round = 0; round < testRounds(300); round++) {
    const subject = new Subject(seed + round);
    await subject.open();
    try {
      for (let i = 0; i < 120; i++) {
        if (subject.table !== undefined) await subject.step(subject.table);
      }
      assert.ok(subject.table);
      await Promise.all(subject.background.splice(0));
      checkAll(subject.table, subject.model);
      const names = new Set(subject.files.list());
      for (const snapshot of subject.snapshots) {
        for (const path of snapshot.runFiles) {
          assert.ok(names.has(path.slice(path.lastIndexOf("/") + 1)), `${path} is pinned`);
        }
      }
    } catch (error) {
      console.error(`round ${round} of seed ${seed}`);
      throw error;
    } finally {
      await subject.settle();
    }
    assert.equal(subject.keys.outstanding, 0, "every data key was released");
  }
});

Deno.test("a power cut at every write leaves the last durable state or a later one", async () => {
  const seed = testSeed("table power cuts");
  for (let round = 0; round < testRounds(60); round++) {
    let total = Infinity;
    for (let cut = 0; cut < total; cut++) {
      const subject = new Subject(seed + round);
      subject.files.fault = (call) => call === cut ? "power" : "none";
      try {
        await subject.open();
        for (let i = 0; i < 40; i++) {
          if (subject.table !== undefined) await subject.step(subject.table);
        }
        await Promise.all(subject.background.splice(0));
        total = Math.min(total, cut);
      } catch (error) {
        if (!(error instanceof PowerLost)) throw error;
      }
      await subject.settle();
      const after = subject.files.afterPowerCut(seededRandom(seed ^ cut));
      const again = new Subject(seed + cut, after);
      try {
        const table = await again.open();
        const { appliedIndex, ownerState } = table.durableState();
        assert.ok(appliedIndex >= subject.acknowledged, `${appliedIndex} is durable`);
        if (appliedIndex > 0) assert.deepEqual(ownerState, utf8(`state ${appliedIndex}`));
        const model = subject.models.get(appliedIndex);
        assert.ok(model, `state of entry ${appliedIndex}`);
        checkAll(table, model);
        assert.equal(table.appliedIndex, appliedIndex);
        again.index = appliedIndex;
        again.models.set(appliedIndex, model);
        for (let i = 0; i < 5; i++) again.applyRandom(table);
        await table.fold();
        await table.compact();
        checkAll(table, again.model);
      } catch (error) {
        console.error(`round ${round}, cut ${cut} of seed ${seed}`);
        throw error;
      } finally {
        await again.settle();
      }
    }
  }
});

Deno.test("failing calls surface as errors, lose nothing and can be tried again", async () => {
  const seed = testSeed("table faults");
  for (let round = 0; round < testRounds(300); round++) {
    const subject = new Subject(seed + round);
    await subject.open();
    const chance = seededRandom(seed ^ round);
    subject.files.fault = () => chance() < 0.03 ? (chance() < 0.5 ? "before" : "after") : "none";
    try {
      for (let i = 0; i < 60; i++) {
        try {
          if (subject.table === undefined) subject.index = (await subject.open()).appliedIndex;
          else await subject.step(subject.table);
          await Promise.allSettled(subject.background.splice(0));
        } catch (error) {
          if (!isKisekiError(error, "block.io")) throw error;
        }
      }
      subject.files.fault = () => "none";
      if (subject.table === undefined) subject.index = (await subject.open()).appliedIndex;
      const table = subject.table;
      assert.ok(table);
      checkAll(table, subject.model);
      await table.fold();
      await table.compact();
      for (const snapshot of subject.snapshots.splice(0)) snapshot.release();
      await table.close();
      checkAll(await subject.open(), subject.model);
    } catch (error) {
      console.error(`round ${round} of seed ${seed}`);
      throw error;
    } finally {
      await subject.settle();
    }
  }
});
