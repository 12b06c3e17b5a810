/** Combined CRCs against CRCs of the whole. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { concatBytes, toHex } from "../common/bytes.ts";
import { testProvider } from "../../test/providers.ts";
import { testRounds, testSeed } from "../../test/rounds.ts";
import { CrcCombiner } from "./crc_combine.ts";

const crypto = testProvider();
const NAMES = { CRC32: "crc32", CRC32C: "crc32c", CRC64NVME: "crc64nvme" } as const;

Deno.test("the CRC of parts put together is the CRC of the whole", () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 3000 }), { maxLength: 6 }),
      (parts) => {
        for (const name of ["CRC32", "CRC32C", "CRC64NVME"] as const) {
          const combiner = new CrcCombiner(name);
          for (const part of parts) {
            const checksum = crypto.checksum(NAMES[name]);
            checksum.update(part);
            combiner.append(checksum.digest(), part.length);
          }
          const whole = crypto.checksum(NAMES[name]);
          whole.update(concatBytes(...parts));
          assert.equal(toHex(combiner.digest()), toHex(whole.digest()), name);
        }
      },
    ),
    { numRuns: testRounds(300), seed: testSeed("crc combine") },
  );
});

Deno.test("the check value of each CRC comes out of two halves", () => {
  // "123456789": CRC RevEng's catalogue, check values of CRC-32/ISO-HDLC, CRC-32/ISCSI, CRC-64/NVME.
  const check = { CRC32: "cbf43926", CRC32C: "e3069283", CRC64NVME: "ae8b14860a799888" };
  for (const name of ["CRC32", "CRC32C", "CRC64NVME"] as const) {
    const combiner = new CrcCombiner(name);
    for (const half of ["1234", "56789"]) {
      const checksum = crypto.checksum(NAMES[name]);
      checksum.update(new TextEncoder().encode(half));
      combiner.append(checksum.digest(), half.length);
    }
    assert.equal(toHex(combiner.digest()), check[name]);
  }
});
