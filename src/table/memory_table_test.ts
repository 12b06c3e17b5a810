import assert from "node:assert/strict";
import fc from "fast-check";
import { testRounds, testSeed } from "../../test/rounds.ts";
import { type Bytes, compareBytes, toHex } from "../common/bytes.ts";
import { frozenCursor, MemoryTable } from "./memory_table.ts";
import { type RowCursor, RowKind } from "./row_cursor.ts";

type Shown = readonly [string, string | null];

function shown(cursor: RowCursor): Shown {
  return [
    toHex(cursor.keyBuffer.subarray(cursor.keyStart, cursor.keyEnd)),
    cursor.kind === RowKind.tombstone ? null : toHex(cursor.value()),
  ];
}

function forwards(cursor: RowCursor, from: Bytes): Shown[] {
  const rows: Shown[] = [];
  for (cursor.seek(from); !cursor.done; cursor.next()) rows.push(shown(cursor));
  return rows;
}

function backwards(cursor: RowCursor, before: Bytes | undefined): Shown[] {
  const rows: Shown[] = [];
  for (cursor.seekBefore(before); !cursor.done; cursor.previous()) rows.push(shown(cursor));
  return rows;
}

const key = fc.oneof(
  fc.uint8Array({ maxLength: 3 }),
  fc.uint8Array({ maxLength: 4 }).map((tail) => Uint8Array.from([...Array(40).fill(7), ...tail])),
);

Deno.test("a memory table holds what a sorted map holds, both ways and frozen", () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.tuple(key, fc.option(fc.uint8Array({ maxLength: 20 }), { nil: undefined })),
        { maxLength: 1500, size: "max" },
      ),
      key,
      (puts, probe) => {
        const table = new MemoryTable();
        const model = new Map<string, readonly [Bytes, string | null]>();
        for (const [k, v] of puts) {
          table.put(k, v);
          model.set(toHex(k), [k, v === undefined ? null : toHex(v)]);
        }
        const sorted = [...model.values()].sort(([a], [b]) => compareBytes(a, b));
        const rows = sorted.map(([k, v]): Shown => [toHex(k), v]);
        const above = sorted.findIndex(([k]) => compareBytes(k, probe) >= 0);
        const split = above < 0 ? rows.length : above;
        assert.equal(table.rows, rows.length);
        assert.deepEqual(forwards(table.cursor(), new Uint8Array(0)), rows);
        assert.deepEqual(forwards(table.cursor(), probe), rows.slice(split));
        assert.deepEqual(backwards(table.cursor(), probe), rows.slice(0, split).reverse());
        assert.deepEqual(backwards(table.cursor(), undefined), [...rows].reverse());
        assert.deepEqual(forwards(frozenCursor(table.freeze()), new Uint8Array(0)), rows);
        for (const [k, v] of sorted) {
          const found = table.get(k);
          assert.equal(found === undefined ? undefined : found && toHex(found), v);
        }
        if (!model.has(toHex(probe))) assert.equal(table.get(probe), undefined);
      },
    ),
    { numRuns: testRounds(200), seed: testSeed("memory table") },
  );
});

Deno.test("values of a megabyte and many segments keep their places", () => {
  const table = new MemoryTable();
  const name = (n: number) => Uint8Array.from([n]);
  for (let n = 0; n < 40; n++) table.put(name(n), new Uint8Array((n % 3) * 500_000 + n).fill(n));
  for (let n = 0; n < 40; n++) {
    const value = table.get(name(n));
    assert.equal(value?.length, (n % 3) * 500_000 + n);
    assert.ok(value?.every((byte) => byte === n));
  }
});

Deno.test("overwriting a row with as many bytes takes no more memory", () => {
  const table = new MemoryTable();
  table.put(Uint8Array.of(1), new Uint8Array(100));
  const before = table.bytes;
  for (let i = 0; i < 1000; i++) table.put(Uint8Array.of(1), new Uint8Array(100).fill(i));
  assert.equal(table.bytes, before);
});
