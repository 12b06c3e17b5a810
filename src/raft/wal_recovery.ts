/**
 * Reads a segment back and tells a torn tail from corruption.
 *
 * The writer writes batch n+1 only after the sync of batch n returned, and writes the header of a
 * segment only after the last batch of the one before was synced. Hence, when batch n does not
 * check:
 * - a later valid batch header in this segment, or a segment after it, proves that n had been
 *   synced: it is corrupt, and the log refuses to open (`log.torn`);
 * - with nothing after it, n was the one batch in flight: a crash may leave any part of it, and
 *   nobody was told that it is durable. It is cut.
 *
 * The one case that these bytes cannot tell apart is damage to the very last batch after its sync.
 * A watermark batch (no records), written when the log goes idle and at close, makes that last
 * batch an empty one.
 */
import type { Bytes } from "../common/bytes.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { Crc32c } from "../common/crc32c.ts";
import type { LogFile } from "./log_disk.ts";
import {
  BATCH_HEADER_BYTES,
  type BatchHeader,
  BLOCK_BYTES,
  blocksUp,
  decodeBatchHeader,
  decodeBatchRecords,
  MAX_BATCH_BYTES,
  type PlacedRecord,
  type SegmentHeader,
} from "./wal_format.ts";

const WINDOW_BYTES = 1024 * 1024;

/** Reads ranges of a file through one window, so that small batches cost no read each. */
class WindowReader {
  readonly #file: LogFile;
  #window: Uint8Array<ArrayBuffer> = new Uint8Array(WINDOW_BYTES);
  #start = 0;
  #length = 0;

  constructor(file: LogFile) {
    this.#file = file;
  }

  /** Bytes from `offset`, fewer at the end of the file; valid until the next call. */
  async read(offset: number, size: number): Promise<Bytes> {
    if (offset < this.#start || offset + size > this.#start + this.#length) {
      if (size > this.#window.length) this.#window = new Uint8Array(blocksUp(size));
      this.#start = offset;
      this.#length = await this.#file.read(this.#window, offset);
    }
    const from = offset - this.#start;
    return this.#window.subarray(from, Math.min(from + size, this.#length));
  }
}

/** What a scan found. */
export interface ScanResult {
  /** Offset after the last whole batch. */
  readonly end: number;
  /** Number that the next batch will have. */
  readonly nextBatch: number;
  /** Why the scan stopped where something was written after `end`. */
  readonly torn: string | undefined;
}

/** One whole batch. */
export interface ScannedBatch {
  readonly header: BatchHeader;
  readonly records: readonly PlacedRecord[];
}

/**
 * Visits the whole batches of a segment, in order.
 *
 * @throws KisekiError `log.torn` when a batch that had been synced is damaged.
 */
export async function scanSegment(
  file: LogFile,
  header: SegmentHeader,
  name: string,
  crc32c: Crc32c,
  visit: (batch: ScannedBatch) => void,
): Promise<ScanResult> {
  const reader = new WindowReader(file);
  const size = await file.size();
  let offset = BLOCK_BYTES;
  let batch = header.firstBatch;
  while (true) {
    const found = await readBatch(reader, header, offset, batch, crc32c);
    if (typeof found === "string") {
      const later = await findBatchHeader(reader, header, offset, size, crc32c, batch);
      if (later !== undefined) {
        throw new KisekiError(
          "log.torn",
          `${name}: ${found} at offset ${offset}, but batch ${later.batch} at offset ` +
            `${later.offset} shows that it had been durable: the disk lost data. ` +
            "Restore this node from its peers or from a backup",
          { details: { offset, batch } },
        );
      }
      return { end: offset, nextBatch: batch, torn: found === NOTHING ? undefined : found };
    }
    visit(found);
    offset += blocksUp(BATCH_HEADER_BYTES + found.header.recordBytes);
    batch++;
  }
}

const NOTHING = "no batch";

/** The whole batch at `offset`, or what is wrong with it. */
async function readBatch(
  reader: WindowReader,
  segment: SegmentHeader,
  offset: number,
  batch: number,
  crc32c: Crc32c,
): Promise<ScannedBatch | string> {
  const head = await reader.read(offset, BATCH_HEADER_BYTES);
  if (head.every((byte) => byte === 0)) return NOTHING;
  const header = decodeBatchHeader(head, segment.logId, segment.segment, offset, crc32c);
  if (header === undefined) return "a damaged batch header";
  if (header.batch !== batch) return `batch ${header.batch} where ${batch} belongs`;
  const bytes = blocksUp(BATCH_HEADER_BYTES + header.recordBytes);
  if (bytes > MAX_BATCH_BYTES) return `a batch of ${bytes} bytes`;
  const whole = await reader.read(offset, bytes);
  if (whole.length < bytes) return "a batch that ends after its file";
  try {
    return { header, records: decodeBatchRecords(whole, header, crc32c) };
  } catch (error) {
    if (isKisekiError(error, "common.corrupt_format")) return error.message;
    throw error;
  }
}

/** The first valid batch header at or after `from`, at any block, whose number is not `except`. */
export async function findBatchHeader(
  file: LogFile | WindowReader,
  segment: Pick<SegmentHeader, "logId" | "segment">,
  from: number,
  size: number,
  crc32c: Crc32c,
  except = 0,
): Promise<BatchHeader | undefined> {
  const reader = file instanceof WindowReader ? file : new WindowReader(file);
  for (let offset = from; offset + BATCH_HEADER_BYTES <= size; offset += BLOCK_BYTES) {
    const head = await reader.read(offset, BATCH_HEADER_BYTES);
    if (head[0] !== 0x4b) continue;
    const header = decodeBatchHeader(head, segment.logId, segment.segment, offset, crc32c);
    if (header !== undefined && header.batch !== except) return header;
  }
  return undefined;
}
