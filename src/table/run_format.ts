/**
 * A run file, byte by byte. Integers are little-endian.
 *
 * | part            | size    | content                                                        |
 * |-----------------|--------:|----------------------------------------------------------------|
 * | header          |     144 | in the clear, below                                            |
 * | blocks          |         | row blocks and overflow blocks in the order of their making,   |
 * |                 |         | each an envelope of kind runBlock (`crypto/envelope_format.ts`)|
 * | index           |         | envelope at position 2^64-1                                    |
 * | Bloom filter    |         | envelope at position 2^64-2 (`bloom_filter.ts`)                |
 * | footer          |     128 | in the clear, below                                            |
 *
 * Positions: row block i has position i; overflow block i has position 2^48 + i.
 *
 * Header: magic "KISEKRUN" 8 | version u32 | header size u32 | run id 16 | table id 16 |
 * organisation 16 | wrapped DEK 60 | zero 20.
 *
 * Footer: magic "KISEKEND" 8 | version u32 | zero 4 | run id 16 | rows u64 | tombstones u64 |
 * row blocks u64 | overflow blocks u64 | index offset u64 | Bloom filter offset u64 | zero 16 |
 * root hash 32.
 *
 * Index plaintext: row blocks n u32 | prefix length u32 | length of all keys u32 | zero 4 | n times
 * low u32 of the file offset | n times high u32 | n times sealed length u32 | n times end of the
 * key u32 | n times authentication tag 16 | prefix | keys. Key 0 is empty and never looked at. Key i
 * is the shortest string above the last key of block i-1 and not above the first key of block i,
 * without the prefix that keys 1 to n-1 share.
 *
 * Root hash = SHA-256(header with the wrapped DEK as zeros | sealed index | sealed Bloom filter |
 * footer up to the hash). The index holds the tag of every row block, a row with an overflow value
 * holds its tag: so the root hash, which the table's sealed manifest records, covers every byte of
 * the file but the wrapped DEK, which may be wrapped anew in place.
 */
import { ByteReader, type Bytes, ByteWriter, compareBytes, equalBytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { idFromBytes, idToBytes, type OrganisationId } from "../common/ids.ts";
import { AEAD_TAG_SIZE } from "../crypto/provider.ts";
import { WRAPPED_DEK_SIZE } from "../crypto/sealer.ts";
import { ROW_BLOCK_BYTES } from "./row_block.ts";
import { BLOCK_OVERHEAD } from "./sealed_block.ts";
import { MAX_KEY_BYTES } from "./table.ts";

export const RUN_VERSION = 1;
export const RUN_HEADER_BYTES = 144;
export const RUN_FOOTER_BYTES = 128;
export const ROOT_HASH_BYTES = 32;
export const INDEX_POSITION = 0xffff_ffff_ffff_ffffn;
export const BLOOM_POSITION = 0xffff_ffff_ffff_fffen;
/** Position of the first overflow block. */
export const OVERFLOW_POSITION = 1n << 48n;
/** Bytes of an overflow row's reference. */
export const OVERFLOW_REFERENCE_BYTES = 8 + 8 + 4 + AEAD_TAG_SIZE;

/** Where the wrapped DEK lies in a header. */
export const WRAPPED_KEY_OFFSET = 64;

const HEADER_MAGIC = new TextEncoder().encode("KISEKRUN");
const FOOTER_MAGIC = new TextEncoder().encode("KISEKEND");

export interface RunHeader {
  readonly runId: string;
  readonly tableId: string;
  readonly organisation: OrganisationId;
  readonly wrappedKey: Bytes;
}

export interface RunFooter {
  readonly runId: string;
  readonly rows: number;
  readonly tombstones: number;
  readonly rowBlocks: number;
  readonly overflowBlocks: number;
  readonly indexOffset: number;
  readonly bloomOffset: number;
}

/** Name of a run's file in its table's directory. */
export function runFileName(runId: string): string {
  return `${runId}.run`;
}

export function encodeRunHeader(header: RunHeader): Bytes {
  return new ByteWriter(RUN_HEADER_BYTES)
    .raw(HEADER_MAGIC).u32(RUN_VERSION).u32(RUN_HEADER_BYTES)
    .raw(idToBytes(header.runId)).raw(idToBytes(header.tableId))
    .raw(idToBytes(header.organisation)).raw(header.wrappedKey)
    .raw(new Uint8Array(RUN_HEADER_BYTES - WRAPPED_KEY_OFFSET - WRAPPED_DEK_SIZE)).finish();
}

/** @throws KisekiError `common.corrupt_format`, `common.unsupported_version`. */
export function decodeRunHeader(bytes: Bytes): RunHeader {
  const reader = new ByteReader(bytes, "run header");
  if (!equalBytes(reader.raw(8), HEADER_MAGIC)) throw reader.corrupt("no run file's magic");
  checkVersion(reader.u32());
  if (reader.u32() !== RUN_HEADER_BYTES) throw reader.corrupt("a header of another size");
  const runId = idFromBytes(reader.raw(16));
  const tableId = idFromBytes(reader.raw(16));
  const organisation = idFromBytes<OrganisationId>(reader.raw(16));
  const wrappedKey = reader.raw(WRAPPED_DEK_SIZE).slice();
  if (reader.rest().some((byte) => byte !== 0)) throw reader.corrupt("reserved bytes in use");
  return { runId, tableId, organisation, wrappedKey };
}

/** The footer up to the root hash. */
export function encodeRunFooter(footer: RunFooter): Bytes {
  return new ByteWriter(RUN_FOOTER_BYTES)
    .raw(FOOTER_MAGIC).u32(RUN_VERSION).u32(0).raw(idToBytes(footer.runId))
    .int(footer.rows).int(footer.tombstones).int(footer.rowBlocks).int(footer.overflowBlocks)
    .int(footer.indexOffset).int(footer.bloomOffset)
    .raw(new Uint8Array(RUN_FOOTER_BYTES - ROOT_HASH_BYTES - 80)).finish();
}

/** @throws KisekiError `common.corrupt_format`, `common.unsupported_version`. */
export function decodeRunFooter(bytes: Bytes): { footer: RunFooter; rootHash: Bytes } {
  const reader = new ByteReader(bytes, "run footer");
  if (!equalBytes(reader.raw(8), FOOTER_MAGIC)) throw reader.corrupt("no run footer's magic");
  checkVersion(reader.u32());
  if (reader.u32() !== 0) throw reader.corrupt("reserved bytes in use");
  const footer: RunFooter = {
    runId: idFromBytes(reader.raw(16)),
    rows: reader.int(),
    tombstones: reader.int(),
    rowBlocks: reader.int(),
    overflowBlocks: reader.int(),
    indexOffset: reader.int(),
    bloomOffset: reader.int(),
  };
  if (reader.raw(RUN_FOOTER_BYTES - ROOT_HASH_BYTES - 80).some((byte) => byte !== 0)) {
    throw reader.corrupt("reserved bytes in use");
  }
  const rootHash = reader.raw(ROOT_HASH_BYTES).slice();
  reader.end();
  return { footer, rootHash };
}

function checkVersion(version: number): void {
  if (version !== RUN_VERSION) {
    throw new KisekiError(
      "common.unsupported_version",
      `run file version ${version} (this build reads ${RUN_VERSION})`,
    );
  }
}

const INDEX_HEADER_BYTES = 16;
const INDEX_ENTRY_BYTES = 16 + AEAD_TAG_SIZE;

/** Collects the index while a run is written. */
export class RunIndexBuilder {
  readonly #offsets: number[] = [];
  readonly #lengths: number[] = [];
  readonly #tags = new ByteWriter(4096);
  readonly #keys = new ByteWriter(4096);
  readonly #ends: number[] = [];
  #prefix: Bytes | undefined;

  get blocks(): number {
    return this.#offsets.length;
  }

  /** @param separator Empty for the first block. */
  add(separator: Bytes, offset: number, sealedLength: number, tag: Bytes): void {
    this.#offsets.push(offset);
    this.#lengths.push(sealedLength);
    this.#tags.raw(tag);
    this.#keys.raw(separator);
    this.#ends.push(this.#keys.length);
    if (this.blocks === 1) return;
    if (this.#prefix === undefined) {
      this.#prefix = separator.slice();
      return;
    }
    let n = 0;
    while (n < this.#prefix.length && this.#prefix[n] === separator[n]) n++;
    if (n < this.#prefix.length) this.#prefix = this.#prefix.slice(0, n);
  }

  finish(): Bytes {
    const prefix = this.#prefix ?? new Uint8Array(0);
    const count = this.#offsets.length;
    const keyBytes = this.#keys.length - Math.max(0, count - 1) * prefix.length;
    const out = new ByteWriter(
      INDEX_HEADER_BYTES + count * INDEX_ENTRY_BYTES + prefix.length + keyBytes,
    );
    out.u32(count).u32(prefix.length).u32(keyBytes).u32(0);
    for (const offset of this.#offsets) out.u32(offset % 0x1_0000_0000);
    for (const offset of this.#offsets) out.u32(Math.floor(offset / 0x1_0000_0000));
    for (const length of this.#lengths) out.u32(length);
    this.#ends.forEach((end, i) => out.u32(end - i * prefix.length));
    out.raw(this.#tags.view()).raw(prefix);
    const keys = this.#keys.view();
    for (let i = 1; i < count; i++) {
      out.raw(keys.subarray((this.#ends[i - 1] as number) + prefix.length, this.#ends[i]));
    }
    return out.finish();
  }
}

/** The resident index of a run: plaintext as it was opened, searched in place. */
export class RunIndex {
  readonly bytes: Bytes;
  readonly blocks: number;
  readonly #offsetLow: Uint32Array;
  readonly #offsetHigh: Uint32Array;
  readonly #lengths: Uint32Array;
  readonly #ends: Uint32Array;
  readonly #tags: number;
  readonly #prefix: Bytes;
  readonly #keys: Bytes;

  /**
   * @param bytes At offset 0 of its own buffer.
   * @param dataEnd No block may end after this file offset.
   * @throws KisekiError `common.corrupt_format`.
   */
  constructor(bytes: Bytes, dataEnd: number) {
    const reader = new ByteReader(bytes, "run index");
    const count = reader.u32();
    const prefixLength = reader.u32();
    const keyBytes = reader.u32();
    const size = INDEX_HEADER_BYTES + count * INDEX_ENTRY_BYTES + prefixLength + keyBytes;
    if (
      reader.u32() !== 0 || size !== bytes.length || prefixLength > MAX_KEY_BYTES ||
      bytes.byteOffset % 4 !== 0
    ) throw reader.corrupt("sizes that do not agree");
    this.bytes = bytes;
    this.blocks = count;
    const column = (i: number) =>
      new Uint32Array(bytes.buffer, bytes.byteOffset + INDEX_HEADER_BYTES + 4 * count * i, count);
    this.#offsetLow = column(0);
    this.#offsetHigh = column(1);
    this.#lengths = column(2);
    this.#ends = column(3);
    this.#tags = INDEX_HEADER_BYTES + 16 * count;
    const keysAt = INDEX_HEADER_BYTES + count * INDEX_ENTRY_BYTES + prefixLength;
    this.#prefix = bytes.subarray(keysAt - prefixLength, keysAt);
    this.#keys = bytes.subarray(keysAt);
    let position = RUN_HEADER_BYTES;
    let key = 0;
    for (let i = 0; i < count; i++) {
      const length = this.#lengths[i] as number;
      const end = this.#ends[i] as number;
      if (
        this.offset(i) < position || length <= BLOCK_OVERHEAD ||
        length > ROW_BLOCK_BYTES + BLOCK_OVERHEAD || end < key || end > keyBytes ||
        end - key + prefixLength > MAX_KEY_BYTES
      ) throw reader.corrupt("an entry out of order");
      position = this.offset(i) + length;
      key = end;
    }
    if (position > dataEnd || key !== keyBytes) throw reader.corrupt("entries out of bounds");
  }

  offset(block: number): number {
    return (this.#offsetHigh[block] as number) * 0x1_0000_0000 +
      (this.#offsetLow[block] as number);
  }

  sealedLength(block: number): number {
    return this.#lengths[block] as number;
  }

  /** True when a sealed block carries the tag that the index recorded for it. */
  hasTag(block: number, tag: Bytes): boolean {
    const at = this.#tags + AEAD_TAG_SIZE * block;
    for (let i = 0; i < AEAD_TAG_SIZE; i++) if (tag[i] !== this.bytes[at + i]) return false;
    return true;
  }

  /** The one block that may hold `key`: the last whose separator is at most `key`, or the first. */
  find(key: Bytes): number {
    const prefix = this.#prefix;
    const p = prefix.length;
    const n = p < key.length ? p : key.length;
    for (let i = 0; i < n; i++) {
      const d = (key[i] as number) - (prefix[i] as number);
      if (d !== 0) return d < 0 ? 0 : this.blocks - 1;
    }
    if (key.length < p) return 0;
    const keys = this.#keys;
    const ends = this.#ends;
    const rest = key.length - p;
    let low = 0;
    let high = this.blocks - 1;
    // What the separators at both ends are known to share with the key, and all between them too.
    let sharedLow = 0;
    let sharedHigh = 0;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      const start = ends[middle - 1] as number;
      const length = (ends[middle] as number) - start;
      const m = length < rest ? length : rest;
      let i = sharedLow < sharedHigh ? sharedLow : sharedHigh;
      while (i < m && keys[start + i] === key[p + i]) i++;
      const above = i === m ? length > rest : (keys[start + i] as number) > (key[p + i] as number);
      if (above) {
        high = middle - 1;
        sharedHigh = i;
      } else {
        low = middle;
        sharedLow = i;
      }
    }
    return low;
  }
}

/** The shortest string above `last` and not above `first`, given `last` < `first`. */
export function separatorOf(last: Bytes, first: Bytes): Bytes {
  let n = 0;
  while (n < last.length && last[n] === first[n]) n++;
  const separator = first.slice(0, n + 1);
  if (compareBytes(last, separator) >= 0) {
    throw new KisekiError("common.internal", "rows out of order while a run was written");
  }
  return separator;
}

/** What a row with an overflow value holds in its place. */
export interface OverflowReference {
  readonly number: number;
  readonly offset: number;
  readonly length: number;
  readonly tag: Bytes;
}

export function encodeOverflowReference(reference: OverflowReference): Bytes {
  return new ByteWriter(OVERFLOW_REFERENCE_BYTES)
    .int(reference.number).int(reference.offset).u32(reference.length).raw(reference.tag).finish();
}

/** @throws KisekiError `common.corrupt_format`. */
export function decodeOverflowReference(bytes: Bytes): OverflowReference {
  const reader = new ByteReader(bytes, "overflow reference");
  const reference = {
    number: reader.int(),
    offset: reader.int(),
    length: reader.u32(),
    tag: reader.raw(AEAD_TAG_SIZE),
  };
  reader.end();
  return reference;
}
