/**
 * The segment files of a log: names, creation, growth ahead of the writer, collection, reuse.
 *
 * Invariants: the header of a new segment is durable under its name before any batch goes into it;
 * segments are removed from the oldest on; a collected file may serve again under a new number
 * (its old bytes name the old one and are refused). Files grow by writing zeros, because a sync
 * over blocks that were written before does not have to commit file-system metadata (measured:
 * 0.10 ms against 0.15 for sparse and 0.18 for appended files).
 */
import { setImmediate } from "node:timers";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { Id128 } from "../common/ids.ts";
import type { Logger } from "../common/logging.ts";
import type { Crc32c } from "../common/crc32c.ts";
import type { LogDisk, LogFile } from "./log_disk.ts";
import { BLOCK_BYTES, encodeSegmentHeader, type SegmentHeader } from "./wal_format.ts";

const FILL_BYTES = 4 * 1024 * 1024;
const FILL_AHEAD_BYTES = 2 * 1024 * 1024;
const ZEROS = new Uint8Array(1024 * 1024);
/** Collected files kept for reuse. */
const MAX_SPARES = 1;

/** An open segment. */
export interface Segment {
  readonly header: SegmentHeader;
  readonly name: string;
  readonly file: LogFile;
  /** Offset after the last batch. */
  end: number;
}

/** Name of segment `number`: sorts as the number does. */
export function segmentName(number: number): string {
  return `wal-${String(number).padStart(16, "0")}.log`;
}

/** The number in a segment's name; undefined for another file. */
export function segmentNumber(name: string): number | undefined {
  const match = /^wal-(\d{16})\.log$/.exec(name);
  return match === null ? undefined : Number(match[1]);
}

function isSpare(name: string): boolean {
  return /^spare-\d{16}\.log$/.test(name);
}

/** What the segment files need. */
export interface SegmentFilesOptions {
  readonly directory: string;
  readonly disk: LogDisk;
  readonly segmentBytes: number;
  readonly crc32c: Crc32c;
  readonly logger: Logger;
}

/** The files of one log directory. */
export class SegmentFiles {
  readonly #o: SegmentFilesOptions;
  readonly #spares: string[] = [];
  /** The writer may write below this without waiting for a fill. */
  #filledBytes = 0;
  #filling: Promise<void> | undefined;
  #fillError: unknown;

  constructor(options: SegmentFilesOptions) {
    this.#o = options;
  }

  path(name: string): string {
    return `${this.#o.directory}/${name}`;
  }

  /**
   * Creates the directory and lists its segments, oldest first.
   *
   * @throws KisekiError `log.torn` when a number is missing between two others.
   */
  async list(): Promise<readonly number[]> {
    await this.#o.disk.makeDirectory(this.#o.directory);
    const numbers: number[] = [];
    for (const name of await this.#o.disk.list(this.#o.directory)) {
      const number = segmentNumber(name);
      if (number !== undefined) numbers.push(number);
      else if (isSpare(name)) this.#spares.push(name);
    }
    numbers.sort((a, b) => a - b);
    for (let i = 1; i < numbers.length; i++) {
      const before = numbers[i - 1] as number;
      if (numbers[i] !== before + 1) {
        throw new KisekiError("log.torn", `${this.path(segmentName(before + 1))} is missing`);
      }
    }
    if (numbers.length === 0 && this.#spares.length > 0) {
      throw new KisekiError("log.torn", `${this.#o.directory}: all log segments are missing`);
    }
    return numbers;
  }

  open(number: number): Promise<LogFile> {
    return this.#o.disk.open(this.path(segmentName(number)), false);
  }

  /** Makes the header of a new segment durable under its name, over a spare file where one is. */
  async create(header: SegmentHeader): Promise<Segment> {
    await this.settle();
    const { disk, directory } = this.#o;
    const name = segmentName(header.segment);
    const spare = this.#spares.pop();
    const before = spare ?? name;
    const file = await disk.open(this.path(before), true);
    try {
      await file.write(encodeSegmentHeader(header, this.#o.crc32c), 0);
      await file.sync();
      if (before !== name) await disk.rename(this.path(before), this.path(name));
      await disk.syncDirectory(directory);
    } catch (error) {
      await file.close();
      throw error;
    }
    const segment = { header, name, file, end: BLOCK_BYTES };
    await this.watch(segment);
    return segment;
  }

  /** Makes `segment` the one that grows ahead of the writer. */
  async watch(segment: Segment): Promise<void> {
    this.#filledBytes = await segment.file.size();
  }

  /**
   * Called before a batch is written up to `end`: waits for a fill that it would run into and
   * starts the next one in the background.
   *
   * @throws KisekiError `block.io` when a fill failed.
   */
  async growTo(segment: Segment, end: number): Promise<void> {
    if (end > this.#filledBytes) {
      await this.settle();
      if (end > this.#filledBytes) this.#filledBytes = end;
    }
    if (this.#fillError !== undefined) throw this.#fillError;
    const room = segment.header.capacityBytes - this.#filledBytes;
    if (this.#filling === undefined && room > 0 && this.#filledBytes - end < FILL_AHEAD_BYTES) {
      const from = this.#filledBytes;
      this.#filling = this.#fill(segment, from, from + Math.min(room, FILL_BYTES));
    }
  }

  /** Waits for a fill under way. */
  async settle(): Promise<void> {
    await this.#filling;
  }

  /** Removes the oldest segment, or keeps its file for reuse. The removal is durable at return. */
  async collect(segment: Segment): Promise<void> {
    const { disk, directory } = this.#o;
    await segment.file.close();
    if (this.#spares.length < MAX_SPARES && segment.header.capacityBytes === this.#o.segmentBytes) {
      const spare = segment.name.replace(/^wal-/, "spare-");
      await disk.rename(this.path(segment.name), this.path(spare));
      await disk.syncDirectory(directory);
      this.#spares.push(spare);
    } else {
      await disk.unlink(this.path(segment.name));
      await disk.syncDirectory(directory);
    }
  }

  /** Removes a segment whose creation a crash cut off. */
  async discard(number: number): Promise<void> {
    await this.#o.disk.unlink(this.path(segmentName(number)));
    await this.#o.disk.syncDirectory(this.#o.directory);
  }

  /**
   * Zeros a range in the background, through a descriptor of its own: the kernel reports a failed
   * writeback once per descriptor, and the writer must not miss it because the fill's sync heard
   * it first. A full disk is left for the writer to meet.
   */
  async #fill(segment: Segment, from: number, to: number): Promise<void> {
    try {
      const file = await this.#o.disk.open(this.path(segment.name), false);
      try {
        for (let at = from; at < to; at += ZEROS.length) {
          await file.write(ZEROS.subarray(0, Math.min(ZEROS.length, to - at)), at);
          this.#filledBytes = Math.min(to, at + ZEROS.length);
          await new Promise<void>((resolve) => setImmediate(resolve));
        }
        await file.sync();
      } finally {
        await file.close();
      }
    } catch (error) {
      if (isKisekiError(error, "block.no_space")) {
        this.#o.logger.warn("wal.fill_no_space", { segment: segment.name, message: error.message });
      } else {
        this.#fillError = error;
      }
    } finally {
      this.#filling = undefined;
    }
  }
}

/** The header of a log's first segment. */
export function firstSegmentHeader(logId: Id128, capacityBytes: number): SegmentHeader {
  return { segment: 1, logId, firstBatch: 1, previousEnd: 0, capacityBytes };
}
