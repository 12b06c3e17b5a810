import assert from "node:assert/strict";
import { isKisekiError } from "../common/errors.ts";
import { faultyBlockFile, parseFaultPlan } from "./fault_injection.ts";
import { MemoryBlockFile } from "./memory_block_file.ts";

Deno.test("a plan is read as its grammar says", () => {
  assert.deepEqual(parseFaultPlan(" seed=42; write:eio@0.25; read:flip@#3 ;sync:eio@#10+; "), {
    seed: 42,
    rules: [
      { operation: "write", fault: "eio", trigger: { kind: "chance", probability: 0.25 } },
      { operation: "read", fault: "flip", trigger: { kind: "count", at: 3, andLater: false } },
      { operation: "sync", fault: "eio", trigger: { kind: "count", at: 10, andLater: true } },
    ],
  });
  assert.deepEqual(parseFaultPlan(""), { seed: 1, rules: [] });
});

Deno.test("what is no plan is refused with the rule in the message", () => {
  for (
    const bad of [
      "write",
      "write:eio",
      "read:torn@0.1",
      "format:eio@1",
      "write:eio@1.5",
      "write:eio@#0",
      "seed=99999999999",
      "write:eio@-1",
    ]
  ) {
    assert.throws(
      () => parseFaultPlan(bad),
      (e) => isKisekiError(e, "config.invalid") && e.message.includes(bad),
    );
  }
});

Deno.test("faults strike at their count and do what they say", async () => {
  const inner = new MemoryBlockFile(16384);
  const file = faultyBlockFile(
    inner,
    parseFaultPlan("write:eio@#1; write:enospc@#2; write:lost@#3; write:torn@#4; read:flip@#2"),
  );
  const data = new Uint8Array(8192).fill(7);
  await assert.rejects(file.write(0, data), (e) => isKisekiError(e, "block.io"));
  await assert.rejects(file.write(0, data), (e) => isKisekiError(e, "block.no_space"));
  await file.write(0, data);
  const read = new Uint8Array(8192);
  await file.read(0, read);
  assert.deepEqual(read, new Uint8Array(8192));
  await assert.rejects(file.write(0, data), (e) => isKisekiError(e, "block.io"));
  await file.write(0, data);
  await file.read(0, read);
  const wrong = read.reduce((bits, byte) => bits + (byte === 7 ? 0 : 1), 0);
  assert.equal(wrong, 1);
  await file.read(0, read);
  assert.deepEqual(read, data);
  assert.equal([...file.struck.values()].reduce((a, b) => a + b), 5);
});

Deno.test("the same plan strikes in the same places", async () => {
  const pattern = async (): Promise<boolean[]> => {
    const file = faultyBlockFile(new MemoryBlockFile(4096), parseFaultPlan("seed=5;sync:eio@0.3"));
    return await Promise.all(
      Array.from({ length: 50 }, () => file.sync().then(() => true, () => false)),
    );
  };
  assert.deepEqual(await pattern(), await pattern());
});
