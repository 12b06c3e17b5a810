/**
 * Writes one run from rows in order: blocks, index, Bloom filter, footer (see `run_format.ts`).
 *
 * Invariant: when `finish` returns the file and its name are durable; until a manifest names it,
 * the file is an orphan that the next open removes.
 */
import type { Bytes } from "../common/bytes.ts";
import { concatBytes, unshared } from "../common/bytes.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import { BloomFilter, KeyHash } from "./bloom_filter.ts";
import { copyBytes } from "./key_order.ts";
import { MAX_INLINE_VALUE_BYTES, RowBlockBuilder } from "./row_block.ts";
import { type RowCursor, RowKind } from "./row_cursor.ts";
import {
  BLOOM_POSITION,
  encodeOverflowReference,
  encodeRunFooter,
  INDEX_POSITION,
  OVERFLOW_POSITION,
  RUN_FOOTER_BYTES,
  RunIndexBuilder,
  separatorOf,
} from "./run_format.ts";
import { BLOCK_OVERHEAD, type BlockSealer, tagOf } from "./sealed_block.ts";
import { MAX_KEY_BYTES } from "./table.ts";
import { rootHashOf } from "./root_hash.ts";
import type { FileWriter } from "./table_files.ts";

const WRITE_BUFFER_BYTES = 512 * 1024;
/** Dirty pages are pushed out this often, so that the last sync is short. */
const SYNC_EVERY_BYTES = 32 * 1024 * 1024;

/** A finished run, with what a reader keeps resident. */
export interface RunResult {
  readonly rows: number;
  readonly tombstones: number;
  readonly fileBytes: number;
  readonly rootHash: Bytes;
  readonly index: Bytes;
  readonly bloom: Bytes;
}

export class RunWriter {
  readonly #provider: CryptoProvider;
  readonly #file: FileWriter;
  readonly #sealer: BlockSealer;
  readonly #runId: string;
  readonly #header: Bytes;
  readonly #builder = new RowBlockBuilder();
  readonly #index = new RunIndexBuilder();
  readonly #bloom: BloomFilter;
  readonly #hash = new KeyHash();
  readonly #out = new Uint8Array(WRITE_BUFFER_BYTES);
  readonly #lastKey = new Uint8Array(MAX_KEY_BYTES);
  #lastKeyLength = -1;
  #separator: Bytes = new Uint8Array(0);
  #buffered = 0;
  #offset = 0;
  #synced = 0;
  #rows = 0;
  #tombstones = 0;
  #overflowBlocks = 0;

  /** @param expectedRows Upper bound, for the size of the Bloom filter. */
  constructor(
    provider: CryptoProvider,
    file: FileWriter,
    sealer: BlockSealer,
    runId: string,
    header: Bytes,
    expectedRows: number,
  ) {
    this.#provider = provider;
    this.#file = file;
    this.#sealer = sealer;
    this.#runId = runId;
    this.#header = header;
    this.#bloom = BloomFilter.forKeys(expectedRows);
    this.#emit(header);
  }

  get rows(): number {
    return this.#rows;
  }

  /** Adds a row, greater than the one before. */
  add(row: RowCursor): void {
    let kind = row.kind;
    let value = row.valueBuffer;
    let start = row.valueStart;
    let end = row.valueEnd;
    if (kind === RowKind.tombstone) {
      this.#tombstones++;
    } else if (kind === RowKind.overflow || end - start > MAX_INLINE_VALUE_BYTES) {
      value = this.#addOverflow(unshared(row.value()));
      kind = RowKind.overflow;
      start = 0;
      end = value.length;
    }
    if (this.#builder.rows === 0) this.#startBlock(row);
    if (!this.#builder.add(row, kind, value, start, end)) {
      this.#flushBlock();
      this.#startBlock(row);
      this.#builder.add(row, kind, value, start, end);
    }
    this.#bloom.add(this.#hash.of(row.keyBuffer, row.keyStart, row.keyEnd));
    this.#rows++;
  }

  /** Completes the file and makes its content durable. */
  finish(): RunResult {
    this.#flushBlock();
    const index = this.#index.finish();
    const indexSealed = this.#seal(INDEX_POSITION, index);
    const bloomSealed = this.#seal(BLOOM_POSITION, this.#bloom.bytes);
    const footer = encodeRunFooter({
      runId: this.#runId,
      rows: this.#rows,
      tombstones: this.#tombstones,
      rowBlocks: this.#index.blocks,
      overflowBlocks: this.#overflowBlocks,
      indexOffset: this.#offset,
      bloomOffset: this.#offset + indexSealed.length,
    });
    const rootHash = rootHashOf(this.#provider, this.#header, [indexSealed, bloomSealed, footer]);
    this.#emit(indexSealed);
    this.#emit(bloomSealed);
    this.#emit(concatBytes(footer, rootHash).subarray(0, RUN_FOOTER_BYTES));
    this.#flush();
    this.#file.sync();
    return {
      rows: this.#rows,
      tombstones: this.#tombstones,
      fileBytes: this.#offset,
      rootHash,
      index,
      bloom: this.#bloom.bytes,
    };
  }

  #startBlock(row: RowCursor): void {
    this.#separator = this.#lastKeyLength < 0 ? new Uint8Array(0) : separatorOf(
      this.#lastKey.subarray(0, this.#lastKeyLength),
      row.keyBuffer.subarray(row.keyStart, row.keyEnd),
    );
  }

  #flushBlock(): void {
    if (this.#builder.rows === 0) return;
    copyBytes(this.#builder.lastKey, 0, this.#builder.lastKeyLength, this.#lastKey, 0);
    this.#lastKeyLength = this.#builder.lastKeyLength;
    const plaintext = this.#builder.finish();
    const length = plaintext.length + BLOCK_OVERHEAD;
    if (this.#buffered + length > this.#out.length) this.#flush();
    const sealed = this.#out.subarray(this.#buffered, this.#buffered + length);
    this.#sealer.seal(BigInt(this.#index.blocks), plaintext, sealed);
    this.#index.add(this.#separator, this.#offset, length, tagOf(sealed));
    this.#buffered += length;
    this.#offset += length;
  }

  #addOverflow(value: Bytes): Bytes {
    const number = this.#overflowBlocks++;
    const offset = this.#offset;
    const sealed = this.#seal(OVERFLOW_POSITION + BigInt(number), value);
    this.#emit(sealed);
    return encodeOverflowReference({ number, offset, length: value.length, tag: tagOf(sealed) });
  }

  #seal(position: bigint, plaintext: Bytes): Bytes {
    const sealed = new Uint8Array(plaintext.length + BLOCK_OVERHEAD);
    this.#sealer.seal(position, plaintext, sealed);
    return sealed;
  }

  #emit(bytes: Bytes): void {
    if (this.#buffered + bytes.length > this.#out.length) this.#flush();
    if (bytes.length > this.#out.length) {
      this.#file.write(bytes);
    } else {
      this.#out.set(bytes, this.#buffered);
      this.#buffered += bytes.length;
    }
    this.#offset += bytes.length;
  }

  #flush(): void {
    if (this.#buffered === 0) return;
    this.#file.write(this.#out.subarray(0, this.#buffered));
    this.#buffered = 0;
    if (this.#offset - this.#synced >= SYNC_EVERY_BYTES) {
      this.#file.sync();
      this.#synced = this.#offset;
    }
  }
}
