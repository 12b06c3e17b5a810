/**
 * Files as version 1 wrote them: what is on disks today must open for ever.
 *
 * The table files were made once by this code and opened by the independent reader below, which
 * follows the layout tables of `run_format.ts`, `row_block.ts` and `manifest.ts` by hand.
 */
import assert from "node:assert/strict";
import { createDecipheriv, createHash } from "node:crypto";
import { concatBytes, equalBytes, fromHex, toHex, utf8, utf8ToString } from "../common/bytes.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import { BloomFilter, KeyHash } from "./bloom_filter.ts";
import { inlineRunner } from "./inline_runner.ts";
import { openTable } from "./open_table.ts";
import { RowBlockBuilder } from "./row_block.ts";
import { RowCursor, RowKind } from "./row_cursor.ts";
import { encodeOverflowReference, encodeRunFooter, RunIndexBuilder } from "./run_format.ts";
import { FaultyFiles, testTenantKeys } from "./testing.ts";

const provider = chooseProvider().provider;
const TABLE_ID = "00112233445566778899aabbccddeeff";
const ORGANISATION = "0123456789abcdef0123456789abcdef";

/** Secret of the tenant: 32 bytes of 7 (see `testTenantKeys`). */
const FILES: readonly (readonly [string, string])[] = [
  [
    "manifest",
    "4b4953454b4d414e0100000000112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef" +
    "0300000000000000010100000300000005000000f45f0dc9571d902fb82c44319b6c48721a268ddede4062b2" +
    "9c1db54faf25852ae16df22a1602e52b47c284b48ac4a0bc0101050003000000050000005dd243b8aa562869" +
    "43c4ec75ea9a58e90011dd8138d2b75f2bea34c0c03859f81e1ac9f45fcfcac096ccf89ec2f1072beaff374b" +
    "cbd7fac2ca94b4abc87520ef1d157998948e49888f24a3f270f051ef30cc590add04488b7596f8cff7f8bb7b" +
    "869ea546a641139c7c7c6f9d7c3e78271510afb0c6488b17838db43c0600ae62b3792940f232754b785fd1ba" +
    "81a261312d9a327964a162b736398c",
  ],
  [
    "c0252581d91d609b33eb32e6eaabd932.run",
    "4b4953454b52554e0100000090000000c0252581d91d609b33eb32e6eaabd93200112233445566778899aabb" +
    "ccddeeff0123456789abcdef0123456789abcdef010100000300000005000000da2eb44c967fe4fa97edeef6" +
    "b7de7677222c863fc6607b53b12c1af671fbd56da96788d570fcd8273af867592e2af97f0000000000000000" +
    "000000000000000000000000010102000300000005000000142b8757623e7ed9609c3d020ae3f95e6e025b33" +
    "f3c6c0180f15ccad0dc3f0173a0aad9455ed8b93b4bc250101020003000000050000000549959a4c07301407" +
    "d502a5680fe37295f7e3761a4b23c02eca6dfe23f15657272a7faf6b994b8547b12a857ae53daf10502bbc0f" +
    "ffc429902241e697663a8c62b6cd2b553d79ca421c22ac0101020003000000050000005b1c267734a2ea0ee4" +
    "6c72e879c2da01378250807e35dc4bac14ce6bd1f2318bae6104a0c915a765da0aa4254b4953454b454e4401" +
    "00000000000000c0252581d91d609b33eb32e6eaabd932010000000000000000000000000000000100000000" +
    "0000000000000000000000c7000000000000001f0100000000000000000000000000000000000000000000a5" +
    "e509c5fdc81a89f84cd1a3c131e11f2c252e1f43235b97139ca6ab970e4b82",
  ],
  [
    "691431f9d5a0b1630a30d04fcac1f58c.run",
    "4b4953454b52554e0100000090000000691431f9d5a0b1630a30d04fcac1f58c00112233445566778899aabb" +
    "ccddeeff0123456789abcdef0123456789abcdef01010000030000000500000041258e70fc3fb326694591c1" +
    "6991302c923f786b04736d201958225a5f20d64a7b61c694148169575a5fe2f0f7347ef80000000000000000" +
    "000000000000000000000000010102000300000005000000122c34e009052c841a0b49158e9ddb6de568c68a" +
    "fa87fb4790569464af3a3cdcdd535c9c5aabbfd2489b663eea8fd9579fabf9b4670101020003000000050000" +
    "0001c5a03b0e29cbc39a001f13a994bb773b906261bb186ef778c908f652b63e3bdb262a4b8f81a0de2bf9ca" +
    "5edec76d5d13346fe23d0e57c393d450fc1f4df981c01168639368c2cf50b1c8470101020003000000050000" +
    "00e94db0257731a16333537541804ea3fa3c3f45513ead6f353e98284daeb6c939c8853b271760416af7b33f" +
    "154b4953454b454e440100000000000000691431f9d5a0b1630a30d04fcac1f58c0300000000000000010000" +
    "000000000001000000000000000000000000000000d100000000000000290100000000000000000000000000" +
    "000000000000000000203e7b5f4a0e91125feb8ff245ee0fc0f9163187543a4d4629ea19b0b9184bd6",
  ],
];

/** A row that is not in any table. */
class FixedRow extends RowCursor {
  constructor(key: string, value: Uint8Array | undefined) {
    super();
    this.done = false;
    this.keyBuffer = utf8(key);
    this.keyEnd = this.keyBuffer.length;
    this.kind = value === undefined ? RowKind.tombstone : RowKind.value;
    this.valueBuffer = value ?? new Uint8Array(0);
    this.valueEnd = this.valueBuffer.length;
  }
  override seek(): void {}
  override seekBefore(): void {}
  override next(): void {}
  override previous(): void {}
  override value(): Uint8Array {
    return this.valueBuffer;
  }
}

Deno.test("a table of version 1 opens with its rows and state", async () => {
  const files = new FaultyFiles();
  for (const [name, hex] of FILES) files.overwrite(name, fromHex(hex));
  const keys = testTenantKeys(provider);
  const runner = inlineRunner(provider);
  const table = await openTable({
    directory: "",
    tableId: TABLE_ID,
    keys,
    provider,
    runner,
    files,
  });
  assert.deepEqual(table.durableState(), { appliedIndex: 41, ownerState: utf8("owner state") });
  const rows = [...table.scan(utf8(""), undefined)].map(({ key, value }) => [
    utf8ToString(key),
    utf8ToString(value),
  ]);
  assert.deepEqual(rows, [["dir/a", "first"], ["dir/c", ""]]);
  assert.equal(table.get(utf8("dir/b")), undefined);
  await table.close();
});

Deno.test("the layout tables alone suffice to read a run of version 1", () => {
  const keys = testTenantKeys(provider);
  const run = FILES.map(([, hex]) => fromHex(hex)).find((bytes) =>
    bytes.length > 144 && new DataView(bytes.buffer).getBigUint64(bytes.length - 96, true) === 3n
  );
  assert.ok(run);
  const view = new DataView(run.buffer);
  assert.equal(utf8ToString(run.subarray(0, 8)), "KISEKRUN");
  assert.equal(view.getUint32(8, true), 1);
  assert.equal(view.getUint32(12, true), 144);
  const runId = run.subarray(16, 32);
  assert.equal(toHex(run.subarray(32, 48)), TABLE_ID);
  assert.equal(toHex(run.subarray(48, 64)), ORGANISATION);
  const dek = keys.openDataKey(run.subarray(64, 124));
  const raw = dek.exportKey();
  dek.release();
  const footer = run.length - 128;
  assert.equal(utf8ToString(run.subarray(footer, footer + 8)), "KISEKEND");
  const [rows, tombstones, blocks, overflow, indexAt, bloomAt] = [0, 1, 2, 3, 4, 5].map((i) =>
    Number(view.getBigUint64(footer + 32 + 8 * i, true))
  );
  assert.deepEqual([rows, tombstones, blocks, overflow], [3, 1, 1, 0]);
  const open = (from: number, to: number, position: bigint): Uint8Array => {
    const envelope = run.subarray(from, to);
    const place = new Uint8Array(16);
    new DataView(place.buffer).setBigUint64(0, position, true);
    place[12] = 1;
    const nonce = envelope.subarray(envelope.length - 12);
    const cipher = createDecipheriv("aes-256-gcm", raw, nonce);
    cipher.setAAD(concatBytes(envelope.subarray(0, 12), fromHex(ORGANISATION), runId, place));
    cipher.setAuthTag(envelope.subarray(envelope.length - 28, envelope.length - 12));
    const plain = cipher.update(envelope.subarray(12, envelope.length - 28));
    cipher.final();
    return new Uint8Array(plain);
  };
  const index = open(indexAt ?? 0, bloomAt ?? 0, 0xffff_ffff_ffff_ffffn);
  const indexView = new DataView(index.buffer);
  const block = [indexView.getUint32(16, true), indexView.getUint32(24, true)] as const;
  assert.equal(
    toHex(open(block[0], block[0] + block[1], 0n)),
    // 0,5,5*4 "dir/a" "first" | 4,1,0*4+1 "b" | 4,1,0 "c" | restart 0 | 3 rows
    "0005146469722f61" + toHex(utf8("first")) + "04010162" + "04010063" + "0000" + "0300",
  );
  const bloom = BloomFilter.parse(open(bloomAt ?? 0, footer, 0xffff_ffff_ffff_fffen));
  assert.ok(bloom.mayContain(new KeyHash().of(utf8("dir/b"), 0, 5)));
  const header = run.slice(0, 144).fill(0, 64, 124);
  const root = createHash("sha256").update(header).update(run.subarray(indexAt, footer + 96))
    .digest();
  assert.ok(equalBytes(root, run.subarray(footer + 96)));
});

Deno.test("row blocks, Bloom filters, indices and footers are made as on paper", () => {
  const builder = new RowBlockBuilder();
  for (let i = 0; i < 17; i++) {
    const row = new FixedRow(`k${i.toString().padStart(2, "0")}`, i === 1 ? undefined : utf8("v"));
    assert.ok(builder.add(row, row.kind, row.valueBuffer, 0, row.valueEnd));
  }
  const rows = Array.from({ length: 17 }, (_, i) => {
    const digit = (0x30 + i % 10).toString(16);
    if (i === 0 || i === 16) return `0003046b3${Math.floor(i / 10)}${digit}76`;
    if (i === 1) return `020101${digit}`;
    return i === 10 ? `0102043130` + "76" : `020104${digit}76`;
  });
  assert.equal(toHex(builder.finish()), rows.join("") + "0000" + "5200" + "1100");

  const filter = BloomFilter.forKeys(1);
  filter.add(new KeyHash().of(utf8("dir/a"), 0, 5));
  assert.equal(toHex(filter.bytes), "07000000400000000802000441100020");

  const index = new RunIndexBuilder();
  index.add(new Uint8Array(0), 144, 100, new Uint8Array(16).fill(1));
  index.add(utf8("dir/m"), 2 ** 33 + 5, 200, new Uint8Array(16).fill(2));
  index.add(utf8("dir/z"), 2 ** 33 + 400, 300, new Uint8Array(16).fill(3));
  assert.equal(
    toHex(index.finish()),
    "03000000" + "04000000" + "02000000" + "00000000" + "90000000" + "05000000" + "90010000" +
      "00000000" + "02000000" + "02000000" + "64000000" + "c8000000" + "2c010000" + "00000000" +
      "01000000" + "02000000" + "01".repeat(16) + "02".repeat(16) + "03".repeat(16) +
      toHex(utf8("dir/mz")),
  );

  const footer = { rows: 1, tombstones: 2, rowBlocks: 3, overflowBlocks: 4 };
  const runId = "ffeeddccbbaa99887766554433221100";
  const number = (n: number) => n.toString(16).padStart(2, "0") + "00".repeat(7);
  assert.equal(
    toHex(encodeRunFooter({ ...footer, runId, indexOffset: 5, bloomOffset: 6 })),
    toHex(utf8("KISEKEND")) + "01000000" + "00000000" + runId +
      [1, 2, 3, 4, 5, 6].map(number).join("") + "00".repeat(16),
  );
  const tag = new Uint8Array(16).fill(9);
  assert.equal(
    toHex(encodeOverflowReference({ number: 1, offset: 2, length: 3, tag })),
    number(1) + number(2) + "03000000" + "09".repeat(16),
  );
});
