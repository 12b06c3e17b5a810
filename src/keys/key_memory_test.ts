import assert from "node:assert/strict";
import { openLibc } from "../../ffi/libc.ts";
import { KeyMemory, type SecretKey } from "./key_memory.ts";

const libc = openLibc();
const KEY = Uint8Array.from({ length: 32 }, (_, i) => i + 1);

Deno.test("a released key is zeroed, refused, and its place is used again", () => {
  const memory = new KeyMemory(libc);
  const first = memory.hold(KEY);
  const view = first.bytes;
  assert.deepEqual(view, KEY);
  first.release();
  first.release();
  assert.ok(view.every((byte) => byte === 0));
  assert.throws(() => first.bytes, { code: "keys.unavailable" });
  const second = memory.hold(KEY);
  assert.equal(second.bytes.byteOffset, view.byteOffset);
  first.release();
  assert.deepEqual(second.bytes, KEY, "a late second release wiped another's key");
  assert.equal(memory.report().keys, 1);
  memory.close();
});

Deno.test("keys do not overlap when the memory grows", () => {
  const memory = new KeyMemory(libc);
  const held = Array.from({ length: 1100 }, (_, i): readonly [number, SecretKey] => {
    const byte = i % 251 + 1;
    return [byte, memory.hold(new Uint8Array(32).fill(byte))];
  });
  for (const [byte, { bytes }] of held) assert.ok(bytes.every((found) => found === byte));
  assert.equal(memory.report().keys, 1100);
  memory.close();
});

Deno.test("closing revokes keys in use: no late holder touches freed memory", () => {
  const memory = new KeyMemory(libc);
  const held = memory.hold(KEY);
  memory.close();
  assert.throws(() => held.bytes, { code: "keys.unavailable" });
  held.release();
  memory.close();
  assert.throws(() => memory.hold(KEY), { code: "keys.unavailable" });
  assert.equal(memory.report().keys, 0);
});

Deno.test("a key of another size is refused", () => {
  const memory = new KeyMemory(libc);
  for (const size of [0, 31, 33]) {
    assert.throws(() => memory.hold(new Uint8Array(size)), { code: "common.invalid_argument" });
  }
  memory.close();
});
