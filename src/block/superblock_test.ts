import assert from "node:assert/strict";
import { type Bytes, toHex } from "../common/bytes.ts";
import { crc32c } from "../common/crc32c.ts";
import { isKisekiError } from "../common/errors.ts";
import type { ClusterId, DeviceId } from "../common/ids.ts";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { MemoryBlockFile } from "./memory_block_file.ts";
import { BLOCK_BYTES } from "./ports.ts";
import {
  decodeSuperblock,
  encodeSuperblock,
  readSuperblock,
  type Superblock,
  SUPERBLOCK_OFFSETS,
  writeSuperblock,
} from "./superblock.ts";

const SAMPLE: Superblock = {
  cluster: "000102030405060708090a0b0c0d0e0f" as ClusterId,
  device: "101112131415161718191a1b1c1d1e1f" as DeviceId,
  generation: 7,
  capacityBytes: 64 << 20,
  formattedMs: 1_700_000_000_123,
};

function withChecksum(block: Bytes): Bytes {
  const view = new DataView(block.buffer, block.byteOffset);
  view.setUint32(4092, crc32c(block.subarray(0, 4092)), true);
  return block;
}

Deno.test("a superblock has the bytes that the format says", () => {
  const block = encodeSuperblock(SAMPLE);
  assert.equal(block.length, BLOCK_BYTES);
  assert.equal(
    toHex(block.subarray(0, 72)),
    "4b4953454b494244" + "0100" + "0000" + "00001000" + "000102030405060708090a0b0c0d0e0f" +
      "101112131415161718191a1b1c1d1e1f" + "0700000000000000" + "0000000400000000" +
      "7b68e5cf8b010000",
  );
  assert.equal(toHex(block.subarray(4092)), "a837904b");
  assert.deepEqual(decodeSuperblock(block), SAMPLE);
});

Deno.test("a version that is not known is refused by name", () => {
  const block = encodeSuperblock(SAMPLE);
  block[8] = 9;
  assert.throws(() => decodeSuperblock(block), (e) => isKisekiError(e, "common.corrupt_format"));
  assert.throws(
    () => decodeSuperblock(withChecksum(block)),
    (e) => isKisekiError(e, "common.unsupported_version") && e.message.includes("version 9"),
  );
});

Deno.test("one damaged copy does no harm; two are an error that says so", async () => {
  const file = new MemoryBlockFile(16 << 20);
  await writeSuperblock(file, SAMPLE);
  await file.write(SUPERBLOCK_OFFSETS[0], new Uint8Array(BLOCK_BYTES).fill(1));
  assert.deepEqual(await readSuperblock(file), SAMPLE);
  const broken = encodeSuperblock(SAMPLE);
  broken[100] = 1;
  await file.write(SUPERBLOCK_OFFSETS[1], broken);
  await assert.rejects(readSuperblock(file), (e) => isKisekiError(e, "common.corrupt_format"));
});

Deno.test("the copy with the higher generation counts", async () => {
  const file = new MemoryBlockFile(16 << 20);
  await writeSuperblock(file, SAMPLE);
  await file.write(SUPERBLOCK_OFFSETS[1], encodeSuperblock({ ...SAMPLE, generation: 8 }));
  assert.equal((await readSuperblock(file))?.generation, 8);
});

Deno.test("copies that name two devices are refused", async () => {
  const file = new MemoryBlockFile(16 << 20);
  await writeSuperblock(file, SAMPLE);
  const other = { ...SAMPLE, device: "f".repeat(32) as DeviceId };
  await file.write(SUPERBLOCK_OFFSETS[1], encodeSuperblock(other));
  await assert.rejects(readSuperblock(file), (e) => isKisekiError(e, "common.corrupt_format"));
});

Deno.test("after a power cut at any moment of an update, with any sectors lost or torn, one of the two superblocks is there", async () => {
  const next: Superblock = { ...SAMPLE, generation: 8 };
  let images = 0;
  for (let cut = 1; cut <= 5; cut++) {
    const file = new MemoryBlockFile(16 << 20);
    await writeSuperblock(file, SAMPLE);
    file.power.cutAfter(cut);
    const done = await writeSuperblock(file, next).then(() => true, () => false);
    assert.equal(done, cut === 5);
    for (const image of file.images(1000, Math.random)) {
      const found = await readSuperblock(new MemoryBlockFile(image));
      assert.ok(found?.generation === 7 || found?.generation === 8);
      if (done) assert.equal(found.generation, 8);
      images++;
    }
  }
  assert.ok(images >= 15, `${images} images were tried`);
});

Deno.test("random and mutated superblocks give a superblock or an error, never anything else", () => {
  const random = seededRandom(testSeed("superblock fuzz"));
  const good = encodeSuperblock(SAMPLE);
  for (let round = 0; round < testRounds(100_000); round++) {
    const block = good.slice();
    for (let i = 0; i <= random() * 4; i++) block[Math.floor(random() * 80)] = random() * 256;
    if (random() < 0.5) withChecksum(block);
    const cut = random() < 0.1 ? block.subarray(0, Math.floor(random() * 4096)) : block;
    try {
      decodeSuperblock(cut);
    } catch (error) {
      if (!isKisekiError(error)) throw error;
    }
  }
});
