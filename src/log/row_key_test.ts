import assert from "node:assert/strict";
import fc from "fast-check";
import { testRounds, testSeed } from "../../test/rounds.ts";
import { compareBytes, fromHex, toHex } from "../common/bytes.ts";
import { isKisekiError } from "../common/errors.ts";
import { escapeName, escapeNamePrefix, RecordType, rowKey, unescapeName } from "./row_key.ts";

const name = fc.uint8Array({ maxLength: 12, max: 3 });

Deno.test("escaped names come back and compare as the names do", () => {
  fc.assert(
    fc.property(name, name, (a, b) => {
      const escaped = escapeName(a);
      const back = unescapeName(escaped);
      assert.deepEqual([...back.name], [...a]);
      assert.equal(back.size, escaped.length);
      assert.equal(
        Math.sign(compareBytes(escaped, escapeName(b))),
        Math.sign(compareBytes(a, b)),
      );
      const isPrefix = toHex(b).startsWith(toHex(a));
      const escapedIsPrefix = toHex(escapeName(b)).startsWith(toHex(escapeNamePrefix(a)));
      if (isPrefix) assert.ok(escapedIsPrefix);
    }),
    { numRuns: testRounds(20_000), seed: testSeed("escaped names") },
  );
});

Deno.test("a row key has its documented bytes", () => {
  assert.equal(
    toHex(
      rowKey(
        fromHex("0102030405060708"),
        "aabbccddeeff00112233445566778899",
        RecordType.entry,
        escapeName(fromHex("6100")),
      ),
    ),
    "0102030405060708" + "aabbccddeeff00112233445566778899" + "02" + "6100ff0000",
  );
});

Deno.test("an escaped name without its end is refused", () => {
  for (const bytes of ["", "61", "6100", "610001"]) {
    assert.throws(
      () => unescapeName(fromHex(bytes)),
      (error) => isKisekiError(error, "common.corrupt_format"),
    );
  }
});
