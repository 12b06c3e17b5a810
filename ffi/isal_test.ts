/** ISA-L: encode, lose rows, decode. */
import assert from "node:assert/strict";
import { BufferTable, type Isal, openIsal } from "./isal.ts";
import { NativeLibraryError } from "./native_library.ts";

function probe(): Isal | undefined {
  try {
    return openIsal();
  } catch (error) {
    if (!(error instanceof NativeLibraryError)) throw error;
    console.warn(`SKIPPED: tests of ISA-L: ${error.message}`);
    return undefined;
  }
}

const isal = probe();

Deno.test("a missing library is named with the loader's reason", () => {
  assert.throws(
    () => openIsal("libno-such-thing.so.9"),
    (error: unknown) =>
      error instanceof NativeLibraryError && error.library === "libno-such-thing.so.9" &&
      error.reason.length > 0,
  );
});

Deno.test({
  name: "any k of k+m rows give the data back, in whole and by update",
  ignore: isal === undefined,
  fn: async () => {
    if (isal === undefined) return;
    for (const [k, m] of [[2, 1], [4, 2], [8, 3]] as const) {
      const length = 5000;
      const matrix = isal.cauchyMatrix(k + m, k);
      const rows = Array.from(
        { length: k + m },
        (_, r) => new Uint8Array(length).map((_, i) => r < k ? (i * (r + 3)) >> 2 : 0),
      );
      const data = new BufferTable(rows.slice(0, k));
      const tables = isal.tables(k, m, matrix.subarray(k * k));
      isal.encode(length, tables, data, new BufferTable(rows.slice(k)));

      const again = Array.from({ length: m }, () => new Uint8Array(length));
      await isal.encodeAsync(length, tables, data, new BufferTable(again));
      assert.deepEqual(again, rows.slice(k));
      const updated = Array.from({ length: m }, () => new Uint8Array(length));
      const target = new BufferTable(updated);
      for (let i = 0; i < k; i++) {
        isal.encodeUpdate(length, k, i, tables, rows[i] ?? new Uint8Array(0), target);
      }
      assert.deepEqual(updated, rows.slice(k));

      // Lose the first m rows; decode from the last k.
      const have = Array.from({ length: k }, (_, i) => m + i);
      const part = new Uint8Array(k * k);
      have.forEach((row, i) => part.set(matrix.subarray(row * k, (row + 1) * k), i * k));
      const inverse = isal.invert(part, k);
      assert.ok(inverse !== undefined);
      const lost = Math.min(m, k);
      const decode = isal.tables(k, lost, inverse.subarray(0, lost * k));
      const out = Array.from({ length: lost }, () => new Uint8Array(length));
      const survivors = new BufferTable(have.map((row) => rows[row] ?? new Uint8Array(0)));
      isal.encode(length, decode, survivors, new BufferTable(out));
      assert.deepEqual(out, rows.slice(0, lost));
    }
  },
});

Deno.test({
  name: "a matrix without inverse and wrong sizes are refused",
  ignore: isal === undefined,
  fn: () => {
    if (isal === undefined) return;
    assert.equal(isal.invert(new Uint8Array(4), 2), undefined);
    assert.throws(() => isal.cauchyMatrix(4, 4), RangeError);
    assert.throws(() => isal.cauchyMatrix(256, 4), RangeError);
    assert.throws(() => isal.tables(2, 1, new Uint8Array(3)), RangeError);
    const short = new BufferTable([new Uint8Array(4), new Uint8Array(3)]);
    const out = new BufferTable([new Uint8Array(4)]);
    const tables = isal.tables(2, 1, new Uint8Array([1, 1]));
    assert.throws(() => isal.encode(4, tables, short, out), RangeError);
    assert.throws(() => new BufferTable([new Uint8Array(0)]), RangeError);
  },
});
