import assert from "node:assert/strict";
import { utf8 } from "./bytes.ts";
import { crc32c } from "./crc32c.ts";

Deno.test("CRC-32C gives the values of RFC 3720 B.4", () => {
  assert.equal(crc32c(new Uint8Array(32)), 0x8a91_36aa);
  assert.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8_ab43);
  assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)), 0x46dd_794e);
  assert.equal(crc32c(utf8("123456789")), 0xe306_9283);
  assert.equal(crc32c(new Uint8Array(0)), 0);
});

Deno.test("CRC-32C of a whole equals that of its parts in turn, at every cut", () => {
  const bytes = Uint8Array.from({ length: 67 }, (_, i) => (i * 37) & 0xff);
  for (let cut = 0; cut <= bytes.length; cut++) {
    assert.equal(crc32c(bytes.subarray(cut), crc32c(bytes.subarray(0, cut))), crc32c(bytes));
  }
});
