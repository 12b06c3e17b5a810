import assert from "node:assert/strict";
import fc from "fast-check";
import { fromHex, toHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { OrganisationId } from "../common/ids.ts";
import type { TenantKeyLease } from "../keys/key_manager.ts";
import { testRounds, testSeed } from "../../test/rounds.ts";
import { decodeLease, encodeLease } from "./key_link.ts";

const ORGANISATION = "0123456789abcdef0123456789abcdef" as OrganisationId;

function lease(): TenantKeyLease {
  const key = (byte: number): Uint8Array => new Uint8Array(32).fill(byte);
  return {
    organisation: ORGANISATION,
    systemKeys: [{ epoch: 1, key: key(0x11) }, { epoch: 2, key: key(0x12) }],
    wrappingKeys: [{ epoch: 7, key: key(0x27) }],
    chunkIdKey: key(0x33),
    nameHashKey: key(0x44),
    validMs: 25_000,
  };
}

const GOLDEN = "a8610000" +
  "02000000" + "01000000" + "11".repeat(32) + "02000000" + "12".repeat(32) +
  "01000000" + "07000000" + "27".repeat(32) +
  "33".repeat(32) + "44".repeat(32);

Deno.test("a lease crosses in the layout of the module's comment, and its copies are zeroed", () => {
  const given = lease();
  const bytes = encodeLease(given);
  assert.equal(toHex(bytes), GOLDEN);
  assert.equal(bytes.byteLength, bytes.buffer.byteLength, "a copy lies beyond the answer");
  const keys = [...given.systemKeys, ...given.wrappingKeys].map(({ key }) => key);
  for (const key of [...keys, given.chunkIdKey, given.nameHashKey]) {
    assert.ok(key.every((byte) => byte === 0));
  }
  const decoded = decodeLease(ORGANISATION, bytes);
  bytes.fill(0);
  assert.deepEqual(decoded, lease(), "what was decoded shares memory with the message");
});

Deno.test("random, changed and cut leases answer with a lease or a KisekiError", () => {
  const seed = testSeed("key lease fuzz");
  const good = fromHex(GOLDEN);
  const changed = fc.tuple(fc.nat(11), fc.nat(255), fc.nat(good.length)).map(([at, by, cut]) => {
    const bytes = good.slice();
    bytes[at] = by;
    return cut % 3 === 0 ? bytes.subarray(0, cut) : bytes;
  });
  const property = fc.property(fc.oneof(changed, fc.uint8Array({ maxLength: 300 })), (bytes) => {
    try {
      assert.ok(decodeLease(ORGANISATION, bytes).systemKeys.length <= 4096);
    } catch (error) {
      if (!(error instanceof KisekiError)) throw error;
    }
  });
  fc.assert(property, { seed, numRuns: testRounds(100_000) });
  for (const bytes of [good.subarray(1), good.subarray(0, -1), Uint8Array.of(...good, 0)]) {
    assert.throws(() => decodeLease(ORGANISATION, bytes), { code: "common.corrupt_format" });
  }
});
