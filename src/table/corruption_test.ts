/**
 * Files changed behind the table's back: the right answer or an error by name, never wrong data.
 */
import assert from "node:assert/strict";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { concatBytes, fromHex, toHex, utf8 } from "../common/bytes.ts";
import { isKisekiError } from "../common/errors.ts";
import { newId128, type OrganisationId } from "../common/ids.ts";
import { EnvelopeKind } from "../crypto/envelope_format.ts";
import { openEnvelope } from "../crypto/envelope.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import { WRAPPED_DEK_SIZE } from "../crypto/sealer.ts";
import { inlineRunner } from "./inline_runner.ts";
import { openTable } from "./open_table.ts";
import { RUN_FOOTER_BYTES, RUN_HEADER_BYTES, WRAPPED_KEY_OFFSET } from "./run_format.ts";
import { BlockSealer } from "./sealed_block.ts";
import type { Table } from "./table.ts";
import { FaultyFiles, testTenantKeys } from "./testing.ts";

const provider = chooseProvider().provider;
const keys = testTenantKeys(provider);
const TABLE_ID = "00112233445566778899aabbccddeeff";

function open(files: FaultyFiles, tableId = TABLE_ID): Promise<Table> {
  const runner = inlineRunner(provider, 50);
  return openTable({ directory: "", tableId, keys, provider, runner, files, foldBytes: 50_000 });
}

interface Made {
  readonly files: FaultyFiles;
  readonly rows: string[];
  /** Name of the newest run: each of its rows is read. */
  readonly newest: string;
}

/** A table of three runs with overflow values and tombstones, closed. */
async function made(tableId = TABLE_ID): Promise<Made> {
  const files = new FaultyFiles();
  const table = await open(files, tableId);
  for (let run = 0; run < 3; run++) {
    const mutations = [];
    for (let i = 0; i < 400; i++) {
      const n = (i * 7 + run * 3) % 600;
      const value = i % 11 === run
        ? undefined
        : new Uint8Array(i === 50 + run ? 20_000 : 60 + (i % 90)).fill(n);
      mutations.push({ key: utf8(`dir/${n.toString().padStart(5, "0")}`), value });
    }
    table.apply(run + 1, mutations, utf8(`state ${run}`));
    await table.fold();
  }
  const rows = rowsOf(table);
  const snapshot = await table.snapshot();
  snapshot.release();
  await table.close();
  return { files, rows, newest: snapshot.runFiles[0]?.replace(/.*\//, "") ?? "" };
}

function rowsOf(table: Table): string[] {
  const rows: string[] = [];
  for (const { key, value } of table.scan(new Uint8Array(0), undefined)) {
    const found = table.get(key);
    assert.ok(found !== undefined && toHex(found) === toHex(value), "get and scan agree");
    rows.push(`${toHex(key)} ${toHex(value)}`);
  }
  const reverse = [...table.scan(new Uint8Array(0), undefined, { reverse: true })];
  assert.equal(reverse.length, rows.length);
  return rows;
}

const REFUSALS = ["table.corrupt", "common.unsupported_version"] as const;

/** The right rows, or a refusal by name; true when it was refused. */
async function refusedOrRight(files: FaultyFiles, rows: readonly string[]): Promise<boolean> {
  let table: Table | undefined;
  try {
    table = await open(files);
    assert.deepEqual(rowsOf(table), rows);
    return false;
  } catch (error) {
    if (!REFUSALS.some((code) => isKisekiError(error, code))) throw error;
    return true;
  } finally {
    await table?.close();
  }
}

function runNames(files: FaultyFiles): string[] {
  return files.list().filter((name) => name.endsWith(".run")).sort();
}

function contentOf(files: FaultyFiles, name: string): Uint8Array {
  const bytes = files.read(name);
  assert.ok(bytes);
  return bytes;
}

Deno.test("flipped, cut and moved bytes of any file are refused or harmless", async () => {
  const seed = testSeed("table corruption");
  const random = seededRandom(seed);
  const below = (n: number) => Math.floor(random() * n);
  const { files, rows } = await made();
  const names = files.list();
  let refused = 0;
  const rounds = testRounds(3000);
  for (let round = 0; round < rounds; round++) {
    const copy = files.copy();
    const name = names[below(names.length)] ?? "";
    let bytes = contentOf(copy, name).slice();
    const kind = below(6);
    const at = below(bytes.length);
    if (kind <= 1) bytes[at] = (bytes[at] ?? 0) ^ (1 << below(8));
    else if (kind === 2) bytes = bytes.slice(0, at);
    else if (kind === 3) bytes = new Uint8Array(concatBytes(bytes, bytes.subarray(at)));
    else if (kind === 4) bytes.copyWithin(below(bytes.length), at, at + 1 + below(500));
    else for (let i = below(40); i >= 0; i--) bytes[below(bytes.length)] = below(256);
    copy.overwrite(name, bytes);
    try {
      if (await refusedOrRight(copy, rows)) refused++;
    } catch (error) {
      console.error(`round ${round} of seed ${seed}, ${name}, kind ${kind}`);
      throw error;
    }
  }
  assert.ok(refused > rounds * 0.8, `${refused} of ${rounds} refused`);
  assert.equal(keys.outstanding, 0, "every data key was released");
});

Deno.test("every byte of a run but the wrapped key is refused once it is changed", async () => {
  const { files, rows, newest: name } = await made();
  const original = contentOf(files, name);
  const step = Math.max(1, Math.floor(original.length / testRounds(4000)));
  const clear = (at: number) => at < RUN_HEADER_BYTES || at >= original.length - RUN_FOOTER_BYTES;
  for (let at = 0; at < original.length; at += clear(at) || clear(at + step) ? 1 : step) {
    if (at >= WRAPPED_KEY_OFFSET && at < WRAPPED_KEY_OFFSET + WRAPPED_DEK_SIZE) continue;
    const copy = files.copy();
    const bytes = original.slice();
    bytes[at] = (bytes[at] ?? 0) ^ 0x10;
    copy.overwrite(name, bytes);
    assert.ok(await refusedOrRight(copy, rows), `byte ${at}`);
  }
});

Deno.test("two blocks of a run that change places are refused", async () => {
  const { files, rows, newest: name } = await made();
  const bytes = contentOf(files, name).slice();
  // Blocks lie one after another from the header on; these two are cut where both are whole enough.
  const length = 2000;
  const first = bytes.slice(RUN_HEADER_BYTES, RUN_HEADER_BYTES + length);
  const second = bytes.slice(RUN_HEADER_BYTES + length, RUN_HEADER_BYTES + 2 * length);
  bytes.set(second, RUN_HEADER_BYTES);
  bytes.set(first, RUN_HEADER_BYTES + length);
  const copy = files.copy();
  copy.overwrite(name, bytes);
  assert.ok(await refusedOrRight(copy, rows));
});

Deno.test("runs that change names, old runs and runs of other tables are refused", async () => {
  const { files, rows } = await made();
  const [a = "", b = ""] = runNames(files);
  const swapped = files.copy();
  swapped.overwrite(a, contentOf(files, b));
  swapped.overwrite(b, contentOf(files, a));
  assert.ok(await refusedOrRight(swapped, rows));
  const other = await made(newId128());
  const foreign = files.copy();
  foreign.overwrite(a, contentOf(other.files, runNames(other.files)[0] ?? ""));
  assert.ok(await refusedOrRight(foreign, rows));
  const missing = files.copy();
  missing.remove(b);
  assert.ok(await refusedOrRight(missing, rows));
});

Deno.test("a manifest of another table, and runs without a manifest, are refused", async () => {
  const { files, rows } = await made();
  const other = await made(newId128());
  const foreign = files.copy();
  foreign.overwrite("manifest", contentOf(other.files, "manifest"));
  assert.ok(await refusedOrRight(foreign, rows));
  const lost = files.copy();
  lost.remove("manifest");
  assert.ok(await refusedOrRight(lost, rows));
});

Deno.test("unknown versions are refused by name", async () => {
  const { files } = await made();
  const [run = ""] = runNames(files);
  for (const [name, at] of [[run, 8], ["manifest", 8]] as const) {
    const copy = files.copy();
    const bytes = contentOf(copy, name).slice();
    bytes[at] = 9;
    copy.overwrite(name, bytes);
    await assert.rejects(open(copy), /version 9 \(this build reads 1\)/);
  }
});

Deno.test("no plaintext of keys, values or owner state is in any file", async () => {
  const { files } = await made();
  for (const name of files.list()) {
    const text = String.fromCharCode(...contentOf(files, name).subarray(0, 60_000));
    assert.ok(!text.includes("dir/") && !text.includes("state"), name);
  }
});

Deno.test("a block sealed here is an envelope of kind runBlock", () => {
  const organisation = "0123456789abcdef0123456789abcdef" as OrganisationId;
  const runId = "ffeeddccbbaa99887766554433221100";
  const key = keys.generateDataKey();
  const sealer = new BlockSealer(EnvelopeKind.runBlock, key, organisation, runId);
  const plaintext = utf8("rows of some kind");
  const envelope = new Uint8Array(plaintext.length + 40);
  assert.equal(sealer.seal(5n, plaintext, envelope), envelope.length);
  const identity = concatBytes(fromHex(runId), Uint8Array.of(5, 0, 0, 0, 0, 0, 0, 0));
  const out = new Uint8Array(plaintext.length);
  openEnvelope(key, EnvelopeKind.runBlock, organisation, identity, envelope, out);
  assert.deepEqual(out, plaintext);
  assert.throws(
    () => sealer.open(6n, envelope, out),
    (error) => isKisekiError(error, "crypto.open_failed"),
  );
  sealer.release();
});

Deno.test("a key that was wrapped anew in place leaves the run readable", async () => {
  const { files, rows } = await made();
  for (const name of runNames(files)) {
    const bytes = contentOf(files, name).slice();
    const wrapped = bytes.slice(WRAPPED_KEY_OFFSET, WRAPPED_KEY_OFFSET + WRAPPED_DEK_SIZE);
    bytes.set(keys.rewrap(wrapped, 9), WRAPPED_KEY_OFFSET);
    files.overwrite(name, bytes);
  }
  assert.equal(await refusedOrRight(files, rows), false);
});
