import assert from "node:assert/strict";
import { openIsal } from "../../ffi/isal.ts";
import { isKisekiError } from "../common/errors.ts";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { pattern } from "./device_rig.ts";
import { generatorMatrix, PORTABLE_CODER, rebuildMatrix } from "./erasure_code.ts";
import { chooseErasureCoder, IsalCoder } from "./isal_coder.ts";

function isalOrSkip(): { coder: IsalCoder; unload: () => void } | undefined {
  const { passedOver } = chooseErasureCoder();
  if (passedOver !== undefined) {
    console.log(`SKIPPED: ISA-L is not here: ${passedOver}`);
    return undefined;
  }
  const isal = openIsal();
  return { coder: new IsalCoder(isal), unload: () => isal.unload() };
}

Deno.test("the generator is ISA-L's Cauchy matrix, for every code that a pool may have", () => {
  const { passedOver } = chooseErasureCoder();
  if (passedOver !== undefined) return console.log(`SKIPPED: ${passedOver}`);
  const isal = openIsal();
  for (let data = 2; data <= 16; data++) {
    for (let parity = 1; parity <= 8; parity++) {
      assert.deepEqual(
        generatorMatrix({ data, parity }),
        isal.cauchyMatrix(data + parity, data),
      );
    }
  }
  isal.unload();
});

Deno.test("both coders give the same bytes, and any k fragments rebuild the others", () => {
  const random = seededRandom(testSeed("erasure codes"));
  const isal = isalOrSkip();
  const coders = isal === undefined ? [PORTABLE_CODER] : [PORTABLE_CODER, isal.coder];
  for (let round = 0; round < testRounds(400); round++) {
    const scheme = { data: 2 + Math.floor(random() * 15), parity: 1 + Math.floor(random() * 8) };
    const size = 1 + Math.floor(random() * 700);
    const data = Array.from({ length: scheme.data }, (_, i) => pattern(round * 100 + i, size));
    const all = coders.map((coder) => {
      const parity = Array.from({ length: scheme.parity }, () => new Uint8Array(size));
      coder.encode(scheme, data, parity);
      return [...data, ...parity];
    });
    const [fragments = []] = all;
    for (const other of all) assert.deepEqual(other, fragments);
    const order = fragments.map((_, i) => i).sort(() => random() - 0.5);
    const from = order.slice(0, scheme.data).map((fragment) => ({
      fragment,
      bytes: fragments[fragment] ?? new Uint8Array(0),
    }));
    for (const coder of coders) {
      const wanted = order.slice(scheme.data).map((fragment) => ({
        fragment,
        bytes: new Uint8Array(size),
      }));
      coder.rebuild(scheme, from, wanted);
      for (const { fragment, bytes } of wanted) assert.deepEqual(bytes, fragments[fragment]);
    }
  }
  isal?.unload();
});

Deno.test("too few, doubled or unknown fragments rebuild nothing", () => {
  const scheme = { data: 2, parity: 1 };
  for (const from of [[0], [0, 0], [0, 3], [0, 1, 2]]) {
    assert.throws(
      () => rebuildMatrix(scheme, from, [2]),
      (e) => isKisekiError(e, "common.invalid_argument"),
    );
  }
});
