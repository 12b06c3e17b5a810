/**
 * The write-ahead log: one append stream for all groups of an isolate, with group commit.
 *
 * `append` queues; one writer takes all that is pending, writes it as one batch and syncs once,
 * while the next batch gathers. At most one batch is ever not synced (see wal_recovery.ts for what
 * that buys). Any failure to write or sync stops the log for good: after a failed fdatasync the
 * kernel may have dropped the dirty pages and a second call would lie. What was acknowledged stays.
 */
import { setImmediate } from "node:timers";
import { type Bytes, EMPTY_BYTES } from "../common/bytes.ts";
import { type Clock, SYSTEM_CLOCK } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import { type Id128, newId128, type ShardId } from "../common/ids.ts";
import type { Logger } from "../common/logging.ts";
import { type Crc32c, crc32c as portableCrc32c } from "../common/crc32c.ts";
import { EntryPositions } from "./entry_positions.ts";
import type { LogDisk } from "./log_disk.ts";
import { firstSegmentHeader, type Segment, SegmentFiles, segmentName } from "./log_segments.ts";
import type { Entry, LogRecord, LogStatistics, WriteAheadLog } from "./ports.ts";
import {
  BATCH_HEADER_BYTES,
  BatchEncoder,
  BLOCK_BYTES,
  blocksUp,
  decodeRecord,
  decodeSegmentHeader,
  MAX_BATCH_BYTES,
  MAX_DATA_BYTES,
  RECORD_HEADER_BYTES,
  recordBytes,
  type SegmentHeader,
} from "./wal_format.ts";
import { findBatchHeader, scanSegment } from "./wal_recovery.ts";

const DEFAULT_SEGMENT_BYTES = 64 * 1024 * 1024;
const DEFAULT_IDLE_MS = 1000;

/** How to open a log. */
export interface WriteAheadLogOptions {
  readonly directory: string;
  readonly disk: LogDisk;
  readonly logger: Logger;
  /** Whole blocks, at least two, at most 1 GiB. Default 64 MiB. */
  readonly segmentBytes?: number;
  readonly clock?: Clock;
  readonly crc32c?: Crc32c;
  /** A watermark is written after this long without an append. Default 1,000 ms. */
  readonly idleMs?: number;
}

/** The log with what the host needs beside the port. */
export interface SegmentedLog extends WriteAheadLog {
  /**
   * Reads durable entries `from` to `to` (inclusive) back, at least one, then up to `maxBytes`.
   *
   * @throws KisekiError `common.not_found` when `from` is not in the log (collected or not yet
   * durable), `log.torn` when a record does not check, `block.io`.
   */
  readEntries(
    shard: ShardId,
    from: number,
    to: number,
    maxBytes: number,
  ): Promise<readonly Entry[]>;
}

interface QueuedAppend {
  readonly records: readonly LogRecord[];
  next: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** What the log keeps of one shard. */
interface ShardTrack {
  readonly positions: EntryPositions;
  released: number;
  hardState: LogRecord | undefined;
  hardStateSegment: number;
  compact: LogRecord | undefined;
  compactSegment: number;
}

/** Opens or creates the log in `directory`; {@link WriteAheadLog.replay} must be called next. */
export async function openWriteAheadLog(options: WriteAheadLogOptions): Promise<SegmentedLog> {
  const segmentBytes = options.segmentBytes ?? DEFAULT_SEGMENT_BYTES;
  if (
    segmentBytes % BLOCK_BYTES !== 0 || segmentBytes < 2 * BLOCK_BYTES || segmentBytes > 2 ** 30
  ) {
    throw new KisekiError(
      "common.invalid_argument",
      `a log segment of ${segmentBytes} bytes: whole blocks of ${BLOCK_BYTES} up to 1 GiB are wanted`,
    );
  }
  const crc32c = options.crc32c ?? portableCrc32c;
  const files = new SegmentFiles({ ...options, segmentBytes, crc32c });
  const numbers = await files.list();
  return new SegmentWriter({ ...options, segmentBytes, crc32c }, files, numbers);
}

type State = "opened" | "replaying" | "running" | "stopped" | "closed";

class SegmentWriter implements SegmentedLog {
  readonly #o: WriteAheadLogOptions & { readonly segmentBytes: number; readonly crc32c: Crc32c };
  readonly #clock: Clock;
  readonly #files: SegmentFiles;
  readonly #numbers: readonly number[];
  readonly #segments: Segment[] = [];
  /** Highest entry index of each shard in each segment. */
  readonly #highest = new Map<number, Map<ShardId, number>>();
  readonly #shards = new Map<ShardId, ShardTrack>();
  readonly #queue: QueuedAppend[] = [];
  readonly #maxBatchBytes: number;
  #encoder: BatchEncoder | undefined;
  #state: State = "opened";
  #stopError: KisekiError | undefined;
  /** Appends whose last record is in the batch being written. */
  #inFlight: readonly QueuedAppend[] = [];
  #nextBatch = 1;
  #lastBatchEmpty = true;
  #writer: Promise<void> | undefined;
  #collectWanted = false;
  #cancelIdle: (() => void) | undefined;
  #appends = 0;
  #syncs = 0;
  #lastSyncSeconds = 0;

  constructor(
    options: WriteAheadLogOptions & { readonly segmentBytes: number; readonly crc32c: Crc32c },
    files: SegmentFiles,
    numbers: readonly number[],
  ) {
    this.#o = options;
    this.#clock = options.clock ?? SYSTEM_CLOCK;
    this.#files = files;
    this.#numbers = numbers;
    this.#maxBatchBytes = Math.min(MAX_BATCH_BYTES, options.segmentBytes - BLOCK_BYTES);
  }

  // ---- replay

  async replay(visit: (record: LogRecord) => void): Promise<void> {
    if (this.#state !== "opened") {
      throw new KisekiError("common.failed_precondition", "the log was replayed before");
    }
    this.#state = "replaying";
    try {
      const before = await this.#replaySegments(visit);
      if (before === undefined) await this.#createFirst();
      else await this.#takeUp(before);
    } catch (error) {
      for (const segment of this.#segments) await segment.file.close();
      this.#segments.length = 0;
      this.#state = "closed";
      throw error;
    }
    const logId = this.#current.header.logId;
    this.#encoder = new BatchEncoder(this.#maxBatchBytes, logId, this.#o.crc32c);
    this.#state = "running";
  }

  async #replaySegments(visit: (record: LogRecord) => void): Promise<Segment | undefined> {
    let before: Segment | undefined;
    for (const [i, number] of this.#numbers.entries()) {
      const last = i === this.#numbers.length - 1;
      const file = await this.#files.open(number);
      const block = new Uint8Array(BLOCK_BYTES);
      const header = await file.read(block, 0) === BLOCK_BYTES
        ? decodeSegmentHeader(block, this.#o.crc32c)
        : undefined;
      const name = segmentName(number);
      if (header === undefined) {
        await this.#refuseUnlessUnborn(file, number, last, before);
        continue;
      }
      const segment: Segment = { header, name, file, end: BLOCK_BYTES };
      this.#segments.push(segment);
      this.#checkChain(segment, number, before);
      const scan = await scanSegment(file, header, name, this.#o.crc32c, (batch) => {
        for (const placed of batch.records) {
          this.#track(placed.record, number, placed.offset, placed.bytes);
          visit(placed.record);
        }
        this.#lastBatchEmpty = batch.records.length === 0;
      });
      segment.end = scan.end;
      this.#nextBatch = scan.nextBatch;
      if (last && scan.torn !== undefined) {
        this.#o.logger.warn("wal.tail_cut", {
          segment: name,
          offset: scan.end,
          batch: scan.nextBatch,
          reason: scan.torn,
        });
      }
      before = segment;
    }
    return before;
  }

  /** A segment without a header is one whose creation was cut off, or it is damaged. */
  async #refuseUnlessUnborn(
    file: Awaited<ReturnType<SegmentFiles["open"]>>,
    number: number,
    last: boolean,
    before: Segment | undefined,
  ): Promise<void> {
    try {
      const logId = before?.header.logId;
      const used = logId === undefined ? await anyMagic(file) : await findBatchHeader(
        file,
        { logId, segment: number },
        BLOCK_BYTES,
        await file.size(),
        this.#o.crc32c,
      ) !== undefined;
      if (!last || used || (before === undefined && number !== 1)) {
        throw torn(segmentName(number), "its header is damaged");
      }
    } finally {
      await file.close();
    }
    this.#o.logger.warn("wal.unborn_segment_removed", { segment: segmentName(number) });
    await this.#files.discard(number);
  }

  #checkChain(segment: Segment, number: number, before: Segment | undefined): void {
    const { header, name } = segment;
    if (header.segment !== number) throw torn(name, `it calls itself segment ${header.segment}`);
    if (before === undefined) return;
    if (header.logId !== before.header.logId) throw torn(name, "it belongs to another log");
    if (header.firstBatch !== this.#nextBatch || header.previousEnd !== before.end) {
      throw torn(
        before.name,
        `it ends with batch ${this.#nextBatch - 1} at ${before.end}, but ${name} says ` +
          `${header.firstBatch - 1} at ${header.previousEnd}`,
      );
    }
  }

  async #createFirst(): Promise<void> {
    const logId: Id128 = newId128();
    this.#segments.push(await this.#files.create(firstSegmentHeader(logId, this.#o.segmentBytes)));
  }

  /** After a mere kill the tail is in the page cache alone: make it durable before it is served. */
  async #takeUp(last: Segment): Promise<void> {
    await last.file.sync();
    await this.#o.disk.syncDirectory(this.#o.directory);
    await this.#files.watch(last);
  }

  // ---- append

  append(records: readonly LogRecord[]): Promise<void> {
    if (this.#stopError !== undefined) return Promise.reject(this.#stopError);
    if (this.#state !== "running") {
      return Promise.reject(
        new KisekiError("common.failed_precondition", `the log is ${this.#state}, not running`),
      );
    }
    for (const record of records) {
      const data = record.type === "entry" ? record.entry.data.length : 0;
      if (
        data > MAX_DATA_BYTES ||
        blocksUp(BATCH_HEADER_BYTES + recordBytes(record)) > this.#maxBatchBytes
      ) {
        return Promise.reject(
          new KisekiError(
            "common.limit_exceeded",
            `a log entry of ${data} bytes (max ${MAX_DATA_BYTES}, segment ${this.#o.segmentBytes})`,
          ),
        );
      }
    }
    if (records.length === 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#queue.push({ records, next: 0, resolve, reject });
      this.#wake();
    });
  }

  #wake(): void {
    if (this.#writer !== undefined) return;
    this.#cancelIdle?.();
    this.#cancelIdle = undefined;
    this.#writer = this.#run().finally(() => {
      this.#writer = undefined;
      if (this.#state !== "running") return;
      if (this.#queue.length > 0 || this.#collectWanted) this.#wake();
      else this.#armIdle();
    });
  }

  async #run(): Promise<void> {
    try {
      // Lets appends of the same turn join the first batch.
      await Promise.resolve();
      while (this.#queue.length > 0 || this.#collectWanted) {
        if (this.#queue.length > 0) await this.#writeBatch(false);
        if (this.#collectWanted) await this.#collect();
        // Those that the last batch woke append now and join the next one.
        await new Promise<void>((resolve) => setImmediate(resolve));
      }
    } catch (error) {
      this.#stop(error);
    }
  }

  /** Writes and syncs one batch of what is queued. */
  async #writeBatch(watermark: boolean): Promise<void> {
    const encoder = this.#encoder;
    if (encoder === undefined) throw new KisekiError("common.internal", "no encoder");
    const first = this.#queue[0];
    const firstRecord = first?.records[first.next];
    const least = blocksUp(
      BATCH_HEADER_BYTES + (firstRecord === undefined ? 0 : recordBytes(firstRecord)),
    );
    if (this.#current.end + least > this.#current.header.capacityBytes) await this.#roll();
    const segment = this.#current;
    const room = Math.min(this.#maxBatchBytes, segment.header.capacityBytes - segment.end);
    encoder.begin(segment.header.segment, segment.end);
    const placed: { record: LogRecord; offset: number; bytes: number }[] = [];
    const done: QueuedAppend[] = [];
    if (!watermark) this.#gather(encoder, room, placed, done);
    const bytes = encoder.finish(this.#nextBatch);
    await this.#files.growTo(segment, segment.end + bytes.length);
    await segment.file.write(bytes, segment.end);
    const before = performance.now();
    await segment.file.sync();
    this.#lastSyncSeconds = (performance.now() - before) / 1000;
    this.#syncs++;
    this.#nextBatch++;
    this.#lastBatchEmpty = placed.length === 0;
    segment.end += bytes.length;
    for (const { record, offset, bytes } of placed) {
      this.#track(record, segment.header.segment, offset, bytes);
    }
    this.#inFlight = [];
    for (const append of done) append.resolve();
    this.#appends += done.length;
  }

  /** Moves records from the queue into the batch until it is full. */
  #gather(
    encoder: BatchEncoder,
    room: number,
    placed: { record: LogRecord; offset: number; bytes: number }[],
    done: QueuedAppend[],
  ): void {
    let taken = 0;
    outer: for (const append of this.#queue) {
      while (append.next < append.records.length) {
        const record = append.records[append.next] as LogRecord;
        if (encoder.length + recordBytes(record) > room) break outer;
        const offset = encoder.add(record);
        const bytes = RECORD_HEADER_BYTES +
          (record.type === "entry" ? record.entry.data.length : 8);
        placed.push({ record, offset, bytes });
        append.next++;
      }
      done.push(append);
      taken++;
    }
    this.#queue.splice(0, taken);
    this.#inFlight = done;
  }

  /** Goes on to a new segment. All batches so far are synced. */
  async #roll(): Promise<void> {
    const before = this.#current;
    const header: SegmentHeader = {
      segment: before.header.segment + 1,
      logId: before.header.logId,
      firstBatch: this.#nextBatch,
      previousEnd: before.end,
      capacityBytes: this.#o.segmentBytes,
    };
    this.#segments.push(await this.#files.create(header));
    this.#collectWanted = true;
  }

  #stop(cause: unknown): void {
    const message = cause instanceof Error ? cause.message : String(cause);
    const code = cause instanceof KisekiError && cause.code === "block.no_space"
      ? "block.no_space"
      : "block.io";
    this.#stopError = new KisekiError(
      code,
      `the write-ahead log stopped: ${message}. What was acknowledged is kept; restart the node ` +
        "after the disk was looked after",
      { cause },
    );
    this.#state = "stopped";
    this.#o.logger.error("wal.stopped", { code, message });
    const waiting = [...this.#inFlight, ...this.#queue];
    this.#queue.length = 0;
    this.#inFlight = [];
    // Those of the last batch that were resolved already do not hear this.
    for (const append of waiting) append.reject(this.#stopError);
  }

  get #current(): Segment {
    const segment = this.#segments.at(-1);
    if (segment === undefined) throw new KisekiError("common.internal", "the log has no segment");
    return segment;
  }

  // ---- watermark

  #armIdle(): void {
    if (this.#lastBatchEmpty || this.#cancelIdle !== undefined) return;
    this.#cancelIdle = this.#clock.after(this.#o.idleMs ?? DEFAULT_IDLE_MS, () => {
      this.#cancelIdle = undefined;
      if (this.#writer !== undefined || this.#state !== "running") return;
      this.#writer = this.#writeBatch(true)
        .catch((error) => this.#stop(error))
        .finally(() => {
          this.#writer = undefined;
          if (this.#state === "running" && this.#queue.length > 0) this.#wake();
        });
    });
  }

  // ---- positions and collection

  #shard(shard: ShardId): ShardTrack {
    let track = this.#shards.get(shard);
    if (track === undefined) {
      track = {
        positions: new EntryPositions(),
        released: 0,
        hardState: undefined,
        hardStateSegment: 0,
        compact: undefined,
        compactSegment: 0,
      };
      this.#shards.set(shard, track);
    }
    return track;
  }

  #track(record: LogRecord, segment: number, offset: number, bytes: number): void {
    const track = this.#shard(record.shard);
    switch (record.type) {
      case "entry": {
        const { index } = record.entry;
        if (!track.positions.accepts(index)) {
          throw torn(
            segmentName(segment),
            `entry ${index} of shard ${record.shard} follows ${track.positions.last}`,
          );
        }
        track.positions.push(index, segment, offset, bytes);
        let highest = this.#highest.get(segment);
        if (highest === undefined) this.#highest.set(segment, highest = new Map());
        highest.set(record.shard, Math.max(index, highest.get(record.shard) ?? 0));
        break;
      }
      case "hardState":
        track.hardState = record;
        track.hardStateSegment = segment;
        break;
      case "truncate":
        track.positions.truncateFrom(record.index);
        break;
      case "compact":
        track.compact = record;
        track.compactSegment = segment;
        track.released = Math.max(track.released, record.index);
        track.positions.dropThrough(record.index);
        break;
    }
  }

  release(shard: ShardId, index: number): void {
    const track = this.#shard(shard);
    // A durable `compact` record may have said so already.
    track.released = Math.max(track.released, index);
    track.positions.dropThrough(index);
    if (this.#segments.length > 1 && this.#state === "running" && this.#oldestIsFree()) {
      this.#collectWanted = true;
      this.#wake();
    }
  }

  #oldestIsFree(): boolean {
    const oldest = this.#segments[0];
    if (oldest === undefined || this.#segments.length < 2) return false;
    for (const [shard, highest] of this.#highest.get(oldest.header.segment) ?? []) {
      if (highest > this.#shard(shard).released) return false;
    }
    return true;
  }

  /** Removes oldest segments that nobody needs; first carries over what only they hold. */
  async #collect(): Promise<void> {
    this.#collectWanted = false;
    while (this.#oldestIsFree()) {
      const oldest = this.#segments[0] as Segment;
      const number = oldest.header.segment;
      const kept: LogRecord[] = [];
      for (const track of this.#shards.values()) {
        if (track.compact !== undefined && track.compactSegment <= number) kept.push(track.compact);
        if (track.hardState !== undefined && track.hardStateSegment <= number) {
          kept.push(track.hardState);
        }
      }
      if (kept.length > 0) {
        const carried = new Promise<void>((resolve, reject) => {
          this.#queue.unshift({ records: kept, next: 0, resolve, reject });
        });
        // A rejection is the stop of the log, told by #writeBatch itself.
        carried.catch(() => undefined);
        while (this.#queue[0]?.records === kept) await this.#writeBatch(false);
      }
      await this.#files.collect(oldest);
      this.#segments.shift();
      this.#highest.delete(number);
      this.#o.logger.debug("wal.segment_collected", { segment: oldest.name });
    }
  }

  // ---- reading back

  async readEntries(
    shard: ShardId,
    from: number,
    to: number,
    maxBytes: number,
  ): Promise<readonly Entry[]> {
    const positions = this.#shard(shard).positions;
    const entries: Entry[] = [];
    let total = 0;
    let window: ReadWindow = { segment: 0, start: 0, bytes: EMPTY_BYTES };
    for (let index = from; index <= to; index++) {
      const position = positions.get(index);
      if (position === undefined) break;
      if (entries.length > 0 && total + position.bytes > maxBytes) break;
      const segment = this.#segments.find((s) => s.header.segment === position.segment);
      if (segment === undefined) break;
      const padded = (position.bytes + 7) & ~7;
      let at = position.offset - window.start;
      if (window.segment !== position.segment || at < 0 || at + padded > window.bytes.length) {
        window = await readWindow(segment, position.offset, Math.max(padded, maxBytes - total));
        at = 0;
      }
      if (window.bytes.length < padded) {
        throw torn(segment.name, `entry ${index} of shard ${shard} is cut short`);
      }
      const bytes = window.bytes.subarray(at, at + padded);
      entries.push(this.#checkedEntry(bytes, position, shard, index, segment.name));
      total += position.bytes;
    }
    if (entries.length === 0) {
      throw new KisekiError(
        "common.not_found",
        `entry ${from} of shard ${shard} is not in the log`,
      );
    }
    return entries;
  }

  #checkedEntry(
    bytes: Uint8Array,
    position: { readonly segment: number; readonly offset: number },
    shard: ShardId,
    index: number,
    name: string,
  ): Entry {
    try {
      const { record } = decodeRecord(bytes, position.segment, position.offset, this.#o.crc32c);
      if (record.type === "entry" && record.shard === shard && record.entry.index === index) {
        return record.entry;
      }
    } catch (cause) {
      throw torn(name, `entry ${index} of shard ${shard} is damaged`, cause);
    }
    throw torn(name, `entry ${index} of shard ${shard} is another record`);
  }

  // ---- the rest

  statistics(): LogStatistics {
    let bytes = 0;
    for (const segment of this.#segments) bytes += segment.end;
    return {
      segments: this.#segments.length,
      bytes,
      appends: this.#appends,
      syncs: this.#syncs,
      lastSyncSeconds: this.#lastSyncSeconds,
    };
  }

  /** Writes what is queued, then a watermark, and closes the files. */
  async close(): Promise<void> {
    if (this.#state === "closed") return;
    while (this.#writer !== undefined) await this.#writer;
    this.#cancelIdle?.();
    this.#cancelIdle = undefined;
    if (this.#state === "running" && !this.#lastBatchEmpty) {
      await this.#writeBatch(true).catch((error) => this.#stop(error));
    }
    await this.#files.settle();
    this.#state = "closed";
    for (const segment of this.#segments) await segment.file.close();
    this.#segments.length = 0;
  }
}

/** A part of a segment in memory: entries of a shard lie close together. */
interface ReadWindow {
  readonly segment: number;
  readonly start: number;
  readonly bytes: Bytes;
}

const MAX_WINDOW_BYTES = 2 * 1024 * 1024;

async function readWindow(segment: Segment, start: number, wanted: number): Promise<ReadWindow> {
  const size = Math.min(wanted, MAX_WINDOW_BYTES, segment.end - start);
  const buffer = new Uint8Array(size);
  const length = await segment.file.read(buffer, start);
  return { segment: segment.header.segment, start, bytes: buffer.subarray(0, length) };
}

/** True when any block after the first is not zero. */
async function anyMagic(
  file: { size(): Promise<number>; read(b: Uint8Array, o: number): Promise<number> },
): Promise<boolean> {
  const size = await file.size();
  const block = new Uint8Array(BLOCK_BYTES);
  for (let offset = BLOCK_BYTES; offset < size; offset += BLOCK_BYTES) {
    await file.read(block, offset);
    if (block.some((byte) => byte !== 0)) return true;
  }
  return false;
}

function torn(name: string, what: string, cause?: unknown): KisekiError {
  return new KisekiError(
    "log.torn",
    `${name}: ${what}: the log cannot be trusted; restore this node from its peers or a backup`,
    cause === undefined ? {} : { cause },
  );
}
