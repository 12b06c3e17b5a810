/**
 * An open run: what a table reads of one immutable sorted file.
 *
 * Index and Bloom filter are resident: 1.25 MB per million rows (filter), and for each block of
 * 16 KiB 40 bytes and a separator without the prefix that all share (index). For a million rows of
 * 250 B (16,000 blocks) that is 1.25 MB + 0.7 to 1.6 MB. Blocks come through the shared cache, one
 * synchronous read each.
 *
 * Invariants: nothing is used that the root hash in the manifest does not cover; a block whose tag
 * is not the recorded one is `table.corrupt`, never data.
 */
import type { Bytes } from "../common/bytes.ts";
import { EMPTY_BYTES, equalBytes } from "../common/bytes.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { OrganisationId } from "../common/ids.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import { EnvelopeKind } from "../crypto/envelope_format.ts";
import type { CachedBlock, ClockBlockCache } from "./block_cache.ts";
import { BloomFilter, type KeyHash } from "./bloom_filter.ts";
import { RowBlockReader } from "./row_block.ts";
import { RowCursor, RowKind } from "./row_cursor.ts";
import { ROW_BLOCK_BYTES } from "./row_block.ts";
import {
  BLOOM_POSITION,
  decodeOverflowReference,
  decodeRunFooter,
  decodeRunHeader,
  encodeRunFooter,
  INDEX_POSITION,
  OVERFLOW_POSITION,
  ROOT_HASH_BYTES,
  RUN_FOOTER_BYTES,
  RUN_HEADER_BYTES,
  runFileName,
  type RunFooter,
  type RunHeader,
  RunIndex,
} from "./run_format.ts";
import { BLOCK_OVERHEAD, type BlockKey, BlockSealer, tagOf } from "./sealed_block.ts";
import { MAX_VALUE_BYTES } from "./table.ts";
import { rootHashOf } from "./root_hash.ts";
import type { FileReader, TableFiles } from "./table_files.ts";

/** What the manifest says of a run. */
export interface RunDescription {
  readonly runId: string;
  readonly tier: number;
  readonly rows: number;
  readonly tombstones: number;
  readonly fileBytes: number;
  readonly rootHash: Bytes;
}

/** Index and Bloom filter in plaintext, as the maker of a run hands them over. */
export interface ResidentParts {
  readonly index: Bytes;
  readonly bloom: Bytes;
}

/** Who a run must belong to. */
export interface RunOwner {
  readonly tableId: string;
  readonly organisation: OrganisationId;
}

/** How blocks of a run are read: through the cache, or in sequence for a merge. */
export type BlockLoader = (block: number) => Bytes;

const SEQUENTIAL_READ_BYTES = 256 * 1024;

export class Run {
  readonly description: RunDescription;
  readonly index: RunIndex;
  readonly bloom: BloomFilter;
  readonly #file: FileReader;
  readonly #sealer: BlockSealer;
  readonly #name: string;
  readonly #slots: (CachedBlock | undefined)[];
  readonly #sealed = new Uint8Array(ROW_BLOCK_BYTES + BLOCK_OVERHEAD);
  readonly #finder = new RowBlockReader();
  #cache: ClockBlockCache | undefined;
  #closed = false;

  private constructor(
    description: RunDescription,
    file: FileReader,
    name: string,
    sealer: BlockSealer,
    parts: ResidentParts,
    cache: ClockBlockCache | undefined,
  ) {
    this.description = description;
    this.#file = file;
    this.#name = name;
    this.#sealer = sealer;
    this.index = new RunIndex(parts.index, description.fileBytes - RUN_FOOTER_BYTES);
    this.bloom = BloomFilter.parse(parts.bloom);
    this.#cache = cache;
    this.#slots = cache === undefined ? [] : new Array(this.index.blocks).fill(undefined);
  }

  /**
   * Opens a run file and proves it against its description.
   *
   * @param openKey Called once with the wrapped DEK of the header.
   * @param parts What the maker handed over; the file's own are then not read again.
   * @throws KisekiError `table.corrupt`, `common.unsupported_version`, `block.io`, and what
   *   `openKey` throws.
   */
  static open(
    provider: CryptoProvider,
    files: TableFiles,
    description: RunDescription,
    owner: RunOwner,
    openKey: (wrapped: Bytes) => BlockKey,
    cache: ClockBlockCache | undefined,
    parts?: ResidentParts,
  ): Run {
    const name = runFileName(description.runId);
    const path = `${files.path}/${name}`;
    let file: FileReader;
    try {
      file = files.open(name);
    } catch (cause) {
      if (!isKisekiError(cause, "common.not_found")) throw cause;
      throw new KisekiError("table.corrupt", `run ${path} is missing`, { cause });
    }
    let key: BlockKey | undefined;
    try {
      return asCorrupt(path, () => {
        const header = readHeader(file, description, owner);
        const opened = openKey(header.header.wrappedKey);
        key = opened;
        const sealer = new BlockSealer(
          EnvelopeKind.runBlock,
          opened,
          owner.organisation,
          description.runId,
        );
        const resident = parts ?? readParts(provider, file, description, header, sealer);
        return new Run(description, file, path, sealer, resident, cache);
      });
    } catch (error) {
      key?.release();
      file.close();
      throw error;
    }
  }

  /** The value; null for a tombstone, undefined when the key is not in this run. */
  get(key: Bytes, hash: KeyHash): Bytes | null | undefined {
    if (this.index.blocks === 0 || !this.bloom.mayContain(hash)) return undefined;
    try {
      const finder = this.#finder;
      finder.load(this.cachedBlock(this.index.find(key)));
      if (!finder.find(key)) return undefined;
      const value = finder.block.subarray(finder.valueStart, finder.valueEnd);
      if (finder.kind === RowKind.value) return value;
      if (finder.kind === RowKind.tombstone) return null;
      return this.readOverflow(value);
    } catch (error) {
      throw corruptRun(this.#name, error);
    }
  }

  /** A cursor over all rows. It shares the cache, or reads on its own, in sequence. */
  cursor(sequential = false): RowCursor {
    return new RunCursor(this, sequential ? this.#sequential() : (b) => this.cachedBlock(b));
  }

  /** One row block, opened. */
  cachedBlock(block: number): Bytes {
    const cached = this.#cache?.get(this.#slots, block);
    if (cached !== undefined) return cached;
    const sealed = this.#sealed.subarray(0, this.index.sealedLength(block));
    this.#file.readAt(this.index.offset(block), sealed);
    const bytes = new Uint8Array(sealed.length - BLOCK_OVERHEAD);
    this.#openBlock(block, sealed, bytes);
    this.#cache?.put(this.#slots, block, bytes);
    return bytes;
  }

  /** The value behind an overflow row. */
  readOverflow(reference: Bytes): Bytes {
    const { number, offset, length, tag } = decodeOverflowReference(reference);
    if (length > MAX_VALUE_BYTES || offset + length > this.description.fileBytes) {
      throw new KisekiError("common.corrupt_format", "an overflow value out of bounds");
    }
    const sealed = new Uint8Array(length + BLOCK_OVERHEAD);
    this.#file.readAt(offset, sealed);
    if (!equalBytes(tagOf(sealed), tag)) {
      throw new KisekiError("common.corrupt_format", "an overflow block with another tag");
    }
    const value = new Uint8Array(length);
    this.#sealer.open(OVERFLOW_POSITION + BigInt(number), sealed, value);
    return value;
  }

  /** Names the file in errors of reads that a cursor makes. */
  guard<T>(read: () => T): T {
    return asCorrupt(this.#name, read);
  }

  /** Closes the file, forgets cached blocks, releases the key. Harmless twice. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#cache?.forget(this.#slots);
    this.#cache = undefined;
    this.#sealer.release();
    this.#file.close();
  }

  #openBlock(block: number, sealed: Bytes, into: Bytes): void {
    if (!this.index.hasTag(block, tagOf(sealed))) {
      throw new KisekiError("common.corrupt_format", `block ${block} with another tag`);
    }
    this.#sealer.open(BigInt(block), sealed, into);
  }

  /** Blocks in order through one read-ahead window, opened into one buffer. */
  #sequential(): BlockLoader {
    const end = this.description.fileBytes;
    const window = new Uint8Array(SEQUENTIAL_READ_BYTES);
    const opened = new Uint8Array(ROW_BLOCK_BYTES);
    let start = 0;
    let filled = 0;
    return (block) => {
      const offset = this.index.offset(block);
      const length = this.index.sealedLength(block);
      if (offset < start || offset + length > start + filled) {
        start = offset;
        filled = Math.min(window.length, end - offset);
        this.#file.readAt(start, window.subarray(0, filled));
      }
      const sealed = window.subarray(offset - start, offset - start + length);
      const into = opened.subarray(0, length - BLOCK_OVERHEAD);
      this.#openBlock(block, sealed, into);
      return into;
    };
  }
}

interface HeaderBytes {
  readonly header: RunHeader;
  readonly bytes: Bytes;
  readonly footer: RunFooter;
}

function readHeader(file: FileReader, description: RunDescription, owner: RunOwner): HeaderBytes {
  if (
    file.sizeBytes !== description.fileBytes ||
    file.sizeBytes < RUN_HEADER_BYTES + RUN_FOOTER_BYTES
  ) {
    throw new KisekiError(
      "common.corrupt_format",
      `${file.sizeBytes} bytes where the manifest records ${description.fileBytes}`,
    );
  }
  const bytes = new Uint8Array(RUN_HEADER_BYTES);
  file.readAt(0, bytes);
  const header = decodeRunHeader(bytes);
  const footerBytes = new Uint8Array(RUN_FOOTER_BYTES);
  file.readAt(file.sizeBytes - RUN_FOOTER_BYTES, footerBytes);
  const { footer, rootHash } = decodeRunFooter(footerBytes);
  if (
    header.runId !== description.runId || footer.runId !== description.runId ||
    header.tableId !== owner.tableId || header.organisation !== owner.organisation ||
    !equalBytes(rootHash, description.rootHash) || footer.rows !== description.rows ||
    footer.tombstones !== description.tombstones
  ) {
    throw new KisekiError("common.corrupt_format", "not the run that the manifest records");
  }
  return { header, bytes, footer };
}

function readParts(
  provider: CryptoProvider,
  file: FileReader,
  description: RunDescription,
  { bytes: header, footer }: HeaderBytes,
  sealer: BlockSealer,
): ResidentParts {
  const end = file.sizeBytes - RUN_FOOTER_BYTES;
  const { indexOffset, bloomOffset } = footer;
  if (
    indexOffset < RUN_HEADER_BYTES || bloomOffset < indexOffset + BLOCK_OVERHEAD ||
    end < bloomOffset + BLOCK_OVERHEAD
  ) throw new KisekiError("common.corrupt_format", "run footer: offsets out of order");
  const sealed = new Uint8Array(end - indexOffset);
  file.readAt(indexOffset, sealed);
  const root = rootHashOf(provider, header, [sealed, encodeRunFooter(footer)]);
  if (root.length !== ROOT_HASH_BYTES || !equalBytes(root, description.rootHash)) {
    throw new KisekiError("common.corrupt_format", "a root hash that does not match");
  }
  const indexSealed = sealed.subarray(0, bloomOffset - indexOffset);
  const bloomSealed = sealed.subarray(bloomOffset - indexOffset);
  const index = new Uint8Array(indexSealed.length - BLOCK_OVERHEAD);
  sealer.open(INDEX_POSITION, indexSealed, index);
  const bloom = new Uint8Array(bloomSealed.length - BLOCK_OVERHEAD);
  sealer.open(BLOOM_POSITION, bloomSealed, bloom);
  return { index, bloom };
}

function asCorrupt<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw corruptRun(path, error);
  }
}

/** What does not decode or does not open is a corrupt table; other errors stay what they are. */
function corruptRun(path: string, cause: unknown): unknown {
  if (isKisekiError(cause, "common.corrupt_format") || isKisekiError(cause, "crypto.open_failed")) {
    return new KisekiError("table.corrupt", `run ${path}: ${cause.message}`, { cause });
  }
  return cause;
}

class RunCursor extends RowCursor {
  readonly #run: Run;
  readonly #load: BlockLoader;
  readonly #reader = new RowBlockReader();
  #block = -1;

  constructor(run: Run, load: BlockLoader) {
    super();
    this.#run = run;
    this.#load = load;
    this.keyBuffer = this.#reader.key;
  }

  override seek(key: Bytes): void {
    this.#run.guard(() => {
      if (!this.#enter(key.length === 0 ? 0 : this.#run.index.find(key))) return;
      if (this.#reader.seek(key)) this.#show();
      else this.#nextBlock();
    });
  }

  override seekBefore(key: Bytes | undefined): void {
    this.#run.guard(() => {
      const last = this.#run.index.blocks - 1;
      if (!this.#enter(key === undefined ? last : this.#run.index.find(key))) return;
      if (key === undefined || !this.#reader.seek(key)) {
        this.#reader.goTo(this.#reader.rows - 1);
        this.#show();
      } else {
        this.#back();
      }
    });
  }

  override next(): void {
    if (this.#reader.row + 1 < this.#reader.rows) {
      this.#reader.next();
      this.unchanged = this.#reader.shared;
      this.#show();
    } else {
      this.#run.guard(() => this.#nextBlock());
    }
  }

  override previous(): void {
    this.#run.guard(() => this.#back());
  }

  override value(): Bytes {
    if (this.kind === RowKind.tombstone) return EMPTY_BYTES;
    const value = this.valueBuffer.subarray(this.valueStart, this.valueEnd);
    if (this.kind === RowKind.value) return value;
    return this.#run.guard(() => this.#run.readOverflow(value));
  }

  #nextBlock(): void {
    if (!this.#enter(this.#block + 1)) return;
    this.#reader.goTo(0);
    this.#show();
  }

  #back(): void {
    if (this.#reader.row > 0) {
      this.#reader.goTo(this.#reader.row - 1);
    } else {
      if (!this.#enter(this.#block - 1)) return;
      this.#reader.goTo(this.#reader.rows - 1);
    }
    this.#show();
  }

  /** Loads a block; false and `done` when there is none of that number. */
  #enter(block: number): boolean {
    if (block < 0 || block >= this.#run.index.blocks) {
      this.done = true;
      return false;
    }
    this.#reader.load(this.#load(block));
    this.#block = block;
    return true;
  }

  #show(): void {
    const reader = this.#reader;
    this.done = false;
    this.keyEnd = reader.keyLength;
    this.kind = reader.kind;
    this.valueBuffer = reader.block;
    this.valueStart = reader.valueStart;
    this.valueEnd = reader.valueEnd;
  }
}
