/**
 * What a device holds before we format it: known signatures by name, or just "something".
 *
 * Offsets after util-linux' libblkid (libblkid/src/superblocks, /partitions). The answer names what
 * an operator is about to lose; a device is free only when its first MiB is all zero and its last
 * sector holds no backup partition table.
 */
import { type Bytes, equalBytes, utf8 } from "../common/bytes.ts";
import { BLOCK_BYTES, type BlockFile } from "./ports.ts";
import {
  decodeSuperblock,
  HEAD_BYTES,
  looksLikeSuperblock,
  SUPERBLOCK_OFFSETS,
} from "./superblock.ts";

interface Signature {
  readonly name: string;
  readonly offset: number;
  readonly magic: Bytes;
}

const SIGNATURES: readonly Signature[] = [
  { name: "a LUKS volume", offset: 0, magic: new Uint8Array([0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe]) },
  { name: "an XFS file system", offset: 0, magic: utf8("XFSB") },
  { name: "an ext2, ext3 or ext4 file system", offset: 0x438, magic: new Uint8Array([0x53, 0xef]) },
  { name: "a Btrfs file system", offset: 0x10040, magic: utf8("_BHRfS_M") },
  { name: "swap space", offset: 4086, magic: utf8("SWAPSPACE2") },
  { name: "a Linux RAID member", offset: 0, magic: new Uint8Array([0xfc, 0x4e, 0x2b, 0xa9]) },
  { name: "a Linux RAID member", offset: 4096, magic: new Uint8Array([0xfc, 0x4e, 0x2b, 0xa9]) },
  { name: "an LVM physical volume", offset: 0, magic: utf8("LABELONE") },
  { name: "an LVM physical volume", offset: 512, magic: utf8("LABELONE") },
  { name: "an LVM physical volume", offset: 1024, magic: utf8("LABELONE") },
  { name: "an LVM physical volume", offset: 1536, magic: utf8("LABELONE") },
  { name: "a Ceph BlueStore device", offset: 0, magic: utf8("bluestore block device") },
  { name: "an F2FS file system", offset: 0x400, magic: new Uint8Array([0x10, 0x20, 0xf5, 0xf2]) },
  { name: "a GPT partition table", offset: 512, magic: utf8("EFI PART") },
  { name: "a GPT partition table", offset: 4096, magic: utf8("EFI PART") },
  { name: "a partition table or boot sector", offset: 510, magic: new Uint8Array([0x55, 0xaa]) },
];

/**
 * Names what is on a device.
 *
 * @returns undefined when it is free: its first MiB is zero and it ends in no partition table.
 * @throws KisekiError `block.io`.
 */
export async function foreignContent(file: BlockFile): Promise<string | undefined> {
  const size = Math.min(HEAD_BYTES, file.sizeBytes - (file.sizeBytes % BLOCK_BYTES));
  const head = new Uint8Array(size);
  if (size > 0) await file.read(0, head);
  for (const offset of SUPERBLOCK_OFFSETS) {
    const block = head.subarray(offset, offset + BLOCK_BYTES);
    if (looksLikeSuperblock(block)) return describeOurs(block);
  }
  for (const { name, offset, magic } of SIGNATURES) {
    if (equalBytes(head.subarray(offset, offset + magic.length), magic)) return name;
  }
  if (!isZero(head)) return "data of unknown kind in its first MiB";
  if (file.sizeBytes >= HEAD_BYTES + BLOCK_BYTES) {
    const tail = new Uint8Array(BLOCK_BYTES);
    await file.read(file.sizeBytes - (file.sizeBytes % BLOCK_BYTES) - BLOCK_BYTES, tail);
    for (const at of [BLOCK_BYTES - 512, 0]) {
      if (equalBytes(tail.subarray(at, at + 8), utf8("EFI PART"))) {
        return "a backup GPT partition table at its end";
      }
    }
  }
  return undefined;
}

function describeOurs(block: Bytes): string {
  try {
    const { device, cluster } = decodeSuperblock(block);
    return `kiseki device ${device} of cluster ${cluster}`;
  } catch (error) {
    return `a kiseki device that cannot be read (${error instanceof Error ? error.message : ""})`;
  }
}

function isZero(bytes: Bytes): boolean {
  const words = new BigUint64Array(bytes.buffer, bytes.byteOffset, bytes.length >> 3);
  for (let i = 0; i < words.length; i++) if (words[i] !== 0n) return false;
  return true;
}
