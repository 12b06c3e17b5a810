/** Checksums against the CRC catalogue's check values and a bitwise model. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { PRESENT_PROVIDERS } from "../../test/providers.ts";
import { testRounds, testSeed } from "../../test/rounds.ts";
import { type Bytes, concatBytes, toHex, utf8 } from "../common/bytes.ts";
import { Checksums } from "./checksums.ts";
import type { Checksum, ChecksumAlgorithm } from "./provider.ts";

/** Check values: the checksum of "123456789" (reveng's catalogue of parametrised CRCs). */
const CHECKS: Readonly<Record<ChecksumAlgorithm, string>> = {
  crc32: "cbf43926",
  crc32c: "e3069283",
  crc64nvme: "ae8b14860a799888",
};
const ALGORITHMS = ["crc32", "crc32c", "crc64nvme"] as const;
/** Reflected polynomial and width. */
const MODEL: Readonly<Record<ChecksumAlgorithm, readonly [bigint, number]>> = {
  crc32: [0xedb88320n, 4],
  crc32c: [0x82f63b78n, 4],
  crc64nvme: [0x9a6c9329ac4bc9b5n, 8],
};

function model(algorithm: ChecksumAlgorithm, bytes: Bytes): string {
  const [polynomial, width] = MODEL[algorithm];
  const ones = (1n << BigInt(8 * width)) - 1n;
  let crc = ones;
  for (const byte of bytes) {
    crc ^= BigInt(byte);
    for (let i = 0; i < 8; i++) crc = (crc & 1n) === 1n ? (crc >> 1n) ^ polynomial : crc >> 1n;
  }
  return (crc ^ ones).toString(16).padStart(2 * width, "0");
}

const SOURCES: readonly (readonly [string, (algorithm: ChecksumAlgorithm) => Checksum])[] = [
  ["without ISA-L", (algorithm) => new Checksums(undefined).start(algorithm)],
  ...PRESENT_PROVIDERS.map((provider) =>
    [provider.report.name, (algorithm: ChecksumAlgorithm) => provider.checksum(algorithm)] as const
  ),
];

for (const [name, start] of SOURCES) {
  Deno.test(`${name}: checksums give the catalogue's check values`, () => {
    for (const algorithm of ALGORITHMS) {
      const sum = start(algorithm);
      sum.update(utf8("123456789"));
      assert.equal(toHex(sum.digest()), CHECKS[algorithm]);
      assert.equal(toHex(start(algorithm).digest()), "00".repeat(MODEL[algorithm][1]));
    }
  });

  Deno.test(`${name}: checksums in pieces equal the bitwise model of the whole`, () => {
    const seed = testSeed(`checksums ${name}`);
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 5 }),
        fc.constantFrom(...ALGORITHMS),
        fc.nat(7),
        (pieces, algorithm, shift) => {
          const sum = start(algorithm);
          for (const piece of pieces) {
            const moved = new Uint8Array(piece.length + shift).subarray(shift);
            moved.set(piece);
            sum.update(moved);
          }
          assert.equal(toHex(sum.digest()), model(algorithm, concatBytes(...pieces)));
        },
      ),
      { seed, numRuns: testRounds(3000) },
    );
  });
}

Deno.test("long inputs agree between all implementations", () => {
  const bytes = new Uint8Array(200_003).map((_, i) => (i * i) >> 3);
  for (const algorithm of ALGORITHMS) {
    const values = SOURCES.map(([, start]) => {
      const sum = start(algorithm);
      sum.update(bytes.subarray(0, 99_999));
      sum.update(bytes.subarray(99_999));
      return toHex(sum.digest());
    });
    assert.equal(new Set(values).size, 1, `${algorithm}: ${values}`);
  }
});

Deno.test("crc32c continues from a seed", () => {
  for (const provider of PRESENT_PROVIDERS) {
    const bytes = utf8("123456789");
    const first = provider.crc32c(bytes.subarray(0, 4));
    assert.equal(provider.crc32c(bytes.subarray(4), first), 0xe3069283);
    assert.equal(provider.crc32c(new Uint8Array(0), first), first);
  }
});
