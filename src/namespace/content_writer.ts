/**
 * Takes a stream of content and makes chunks of it, in constant memory.
 *
 * Order of things, for each chunk: hash, announce (a staged row), ask the ledger whether the chunk
 * is held already, else seal and store it, then record it with its reference. So a crash at any
 * point leaves at most announced references, which maintenance finds by the staged rows; nothing
 * leaks and nothing is dropped that a publish made visible, because the publish takes the staged
 * rows away in the same delta.
 *
 * Memory: `window` chunks in flight and one being filled.
 */
import { type Bytes, concatBytes, fromHex, toHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { ChunkId, CompositionId, OperationId } from "../common/ids.ts";
import { newId128 } from "../common/ids.ts";
import { MAX_CHUNK_BYTES, type Reference } from "../chunk/ports.ts";
import { sealedSize, sealEnvelope } from "../crypto/envelope.ts";
import { CHUNK_SEGMENT_LOG2, EnvelopeKind } from "../crypto/envelope_format.ts";
import { chunkIdentity } from "../crypto/envelope_identity.ts";
import {
  type ContentDigests,
  type ContentOptions,
  type ContentWriter,
  INLINE_MAX_BYTES,
  MAX_PART_BYTES,
} from "./api.ts";
import type { ContentParts, ContentScope } from "./content_store.ts";
import { StreamDigests } from "./stream_digests.ts";
import * as m from "./messages.ts";
import { ContentKind, EMBEDDED_MAX_BYTES, type Extent, MAX_PER_ROW } from "./records.ts";
import { distinctChunks } from "./change.ts";
import type { Span } from "./content_reader.ts";

/** Announcements are collected after a day: a stream must be finished long before. */
const MAX_STREAM_MS = 12 * 3600 * 1000;
const MAX_DYING_RETRIES = 40;
const DYING_RETRY_MS = 250;
const FIRST_BUFFER_BYTES = 64 << 10;
const NO_BYTES = new Uint8Array(0);

export class StreamedContent implements ContentWriter {
  readonly #parts: ContentParts;
  readonly scope: ContentScope;
  readonly #digests: StreamDigests;
  readonly #composition = newId128<CompositionId>();
  readonly #operation = newId128<OperationId>();
  readonly #deadlineMs: number;
  readonly #tasks = new Set<Promise<void>>();
  readonly #extents: Extent[] = [];
  /** Rows staged; a chunk that is written has one, a batch of references has one. */
  #batches = 0;
  #buffer: Bytes;
  #filled = 0;
  #size = 0;
  #chunkCount = 0;
  #failure: unknown;
  #finished: m.NewContent | undefined;
  #state: "open" | "finished" | "published" | "aborted" = "open";

  constructor(parts: ContentParts, scope: ContentScope, options: ContentOptions) {
    this.#parts = parts;
    this.scope = scope;
    this.#digests = new StreamDigests(parts.crypto, options.checksums);
    this.#deadlineMs = parts.clock.monotonicMs() + MAX_STREAM_MS;
    const expected = options.expectedBytes;
    this.#buffer = expected === undefined
      ? new Uint8Array(FIRST_BUFFER_BYTES)
      : expected >= MAX_CHUNK_BYTES
      ? parts.buffers.acquire()
      : new Uint8Array(expected);
  }

  async write(bytes: Bytes): Promise<void> {
    if (this.#state !== "open") {
      throw new KisekiError("common.failed_precondition", "the content is finished");
    }
    this.#throwFailure();
    if (this.#size + bytes.length > MAX_PART_BYTES) {
      throw new KisekiError(
        "common.limit_exceeded",
        `content of more than ${MAX_PART_BYTES} bytes: use a multipart upload`,
      );
    }
    this.#size += bytes.length;
    let from = 0;
    while (from < bytes.length) {
      this.#makeRoom(bytes.length - from);
      const take = Math.min(bytes.length - from, this.#buffer.length - this.#filled);
      this.#buffer.set(
        take === bytes.length ? bytes : bytes.subarray(from, from + take),
        this.#filled,
      );
      this.#filled += take;
      from += take;
      if (this.#filled === MAX_CHUNK_BYTES) await this.#flush(from < bytes.length);
    }
  }

  async finish(): Promise<ContentDigests> {
    if (this.#state !== "open") {
      throw new KisekiError("common.failed_precondition", "the content is finished already");
    }
    this.#state = "finished";
    const inline = this.#size <= INLINE_MAX_BYTES;
    const rest = this.#buffer.subarray(0, this.#filled);
    if (inline) {
      this.#digests.updateSync(rest);
    } else if (this.#filled > 0) {
      this.#start(this.#buffer, this.#filled);
      this.#buffer = NO_BYTES;
    }
    while (this.#tasks.size > 0) await Promise.race(this.#tasks);
    this.#throwFailure();
    const digests = await this.#digests.finish(this.#size);
    this.#finished = this.#describe(digests.md5, inline ? rest.slice() : NO_BYTES);
    return digests;
  }

  /** Finished content, for the command that publishes it. */
  publishable(): m.NewContent {
    if (this.#finished === undefined || this.#state !== "finished") {
      throw new KisekiError("common.failed_precondition", "the content is not finished");
    }
    return this.#finished;
  }

  /**
   * Takes content over by reference, instead of `write` and `finish`.
   *
   * @param md5 What the publish says of the content; empty where it is not known.
   * @throws KisekiError `chunk.upload_again` when a chunk is being collected: read and write then.
   */
  async adopt(spans: AsyncIterable<Span>, sizeBytes: number, md5: Bytes): Promise<void> {
    let offset = 0;
    let pending: Extent[] = [];
    const inline: Bytes[] = [];
    for await (const span of spans) {
      if ("bytes" in span) {
        if (sizeBytes <= INLINE_MAX_BYTES) inline.push(span.bytes.slice());
        else if (span.bytes.length > 0) await this.#adoptBytes(span.bytes, offset);
        offset += span.bytes.length;
        continue;
      }
      const { extent, length } = span;
      const adopted = { ...extent, offset, length, chunkOffset: span.offset };
      offset += length;
      this.#extents[this.#chunkCount++] = adopted;
      pending.push(adopted);
      if (pending.length === MAX_PER_ROW) {
        await this.#hold(pending);
        pending = [];
      }
    }
    if (pending.length > 0) await this.#hold(pending);
    if (offset !== sizeBytes) throw new KisekiError("common.internal", "a source of another size");
    this.#size = sizeBytes;
    this.#digests.release();
    this.#state = "finished";
    this.#finished = this.#describe(md5, concatBytes(...inline));
  }

  /** A short piece that lay inline in the source becomes a chunk of its own. */
  async #adoptBytes(bytes: Bytes, offset: number): Promise<void> {
    const index = this.#chunkCount++;
    const chunk = this.scope.keys.chunkId(this.#parts.crypto.digest("sha256", bytes));
    const length = bytes.length;
    this.#extents[index] = {
      chunk: fromHex(chunk),
      offset,
      length,
      chunkOffset: 0,
      chunkBytes: length,
    };
    await this.#keep(chunk, bytes.slice(), this.#batches++);
  }

  /** References to chunks that are stored. */
  async #hold(extents: readonly Extent[]): Promise<void> {
    const chunks = distinctChunks(extents);
    await this.#stage(this.#batches++, chunks);
    const outcomes = await this.#parts.ledger.acquire(
      this.scope.organisation,
      chunks.map((chunk) => ({
        chunk: toHex(chunk) as ChunkId,
        composition: this.#composition,
        operation: this.#operation,
      })),
    );
    if (outcomes.some((outcome) => outcome !== "held")) {
      throw new KisekiError("chunk.upload_again", "a chunk of the source is being collected", {
        retriable: true,
      });
    }
  }

  /** The publish was committed. */
  published(): void {
    this.#state = "published";
  }

  async abort(): Promise<void> {
    if (this.#state === "published" || this.#state === "aborted") return;
    this.#state = "aborted";
    this.#failure ??= new KisekiError("common.cancelled", "the content was given up");
    while (this.#tasks.size > 0) await Promise.race(this.#tasks);
    this.#digests.release();
    this.#releaseBuffer(this.#buffer);
    this.#buffer = NO_BYTES;
    if (this.#batches === 0) return;
    // Drops references only where staged rows are still there: harmless after a publish whose
    // answer was lost.
    await this.#parts.link.command(
      this.scope.organisation,
      this.scope.placement,
      m.CommandNumber.unstage,
      m.Unstage,
      { staged: this.#staged() },
      m.EmptyAnswer,
    );
  }

  #staged(): m.StagedBatches {
    return {
      placement: this.scope.placement,
      composition: fromHex(this.#composition),
      operation: fromHex(this.#operation),
      count: this.#batches,
    };
  }

  #describe(md5: Bytes, inline: Bytes): m.NewContent {
    const base = m.NewContent.decode(NO_BYTES);
    const composition = fromHex(this.#composition);
    const common = {
      sizeBytes: this.#size,
      embedded: NO_BYTES,
      composition,
      placement: this.scope.placement,
      operation: fromHex(this.#operation),
      oneExtent: undefined,
      count: 0,
      rowOffsets: [],
    };
    if (this.#size <= EMBEDDED_MAX_BYTES) {
      return {
        ...base,
        md5,
        content: { ...common, kind: ContentKind.embedded, embedded: inline },
      };
    }
    if (this.#size <= INLINE_MAX_BYTES) {
      return { ...base, md5, inline, content: { ...common, kind: ContentKind.inlineRow } };
    }
    const one = this.#extents.length === 1 ? this.#extents[0] : undefined;
    return {
      ...base,
      md5,
      staged: this.#staged(),
      extents: one === undefined ? this.#extents : [],
      content: {
        ...common,
        kind: one === undefined ? ContentKind.extents : ContentKind.oneExtent,
        oneExtent: one,
        count: this.#extents.length,
      },
    };
  }

  #makeRoom(wanted: number): void {
    const needed = this.#filled + wanted;
    if (needed <= this.#buffer.length || this.#buffer.length === MAX_CHUNK_BYTES) return;
    const size = Math.max(needed, this.#buffer.length * 4, FIRST_BUFFER_BYTES);
    const grown = this.#chunkCount > 0 || size >= MAX_CHUNK_BYTES
      ? this.#parts.buffers.acquire()
      : new Uint8Array(size);
    grown.set(this.#buffer.subarray(0, this.#filled));
    this.#buffer = grown;
  }

  /** Hands the full buffer on and waits for room in the window. */
  async #flush(more: boolean): Promise<void> {
    this.#start(this.#buffer, this.#filled);
    this.#filled = 0;
    this.#buffer = NO_BYTES;
    while (this.#tasks.size >= this.#parts.inFlight.window) await Promise.race(this.#tasks);
    this.#throwFailure();
    if (more) this.#buffer = this.#parts.buffers.acquire();
  }

  #start(buffer: Bytes, length: number): void {
    const index = this.#chunkCount++;
    const batch = this.#batches++;
    this.#parts.inFlight.begin();
    const task: Promise<void> = this.#store(buffer, length, index, batch).catch((error) => {
      this.#failure ??= error;
    }).finally(() => {
      this.#parts.inFlight.end();
      this.#tasks.delete(task);
    });
    this.#tasks.add(task);
  }

  async #store(buffer: Bytes, length: number, index: number, batch: number): Promise<void> {
    const plaintext = buffer.subarray(0, length);
    // Digests of the stream run beside; the buffer goes back when both are done with it.
    const { sha256, streamed } = this.#digests.update(plaintext);
    try {
      const chunk = this.scope.keys.chunkId(await sha256);
      this.#extents[index] = {
        chunk: fromHex(chunk),
        offset: index * MAX_CHUNK_BYTES,
        length,
        chunkOffset: 0,
        chunkBytes: length,
      };
      await this.#keep(chunk, plaintext, batch);
    } finally {
      await streamed;
      this.#releaseBuffer(buffer);
    }
  }

  async #keep(chunk: ChunkId, plaintext: Bytes, batch: number): Promise<void> {
    const { ledger, clock } = this.#parts;
    const { organisation } = this.scope;
    if (clock.monotonicMs() > this.#deadlineMs) {
      throw new KisekiError("common.deadline_exceeded", "the upload took over 12 hours");
    }
    await this.#stage(batch, [fromHex(chunk)]);
    const reference: Reference = {
      chunk,
      composition: this.#composition,
      operation: this.#operation,
    };
    for (let attempt = 0; attempt < MAX_DYING_RETRIES; attempt++) {
      if (this.#failure !== undefined) return;
      const [outcome] = await ledger.acquire(organisation, [reference]);
      if (outcome === "held") return;
      if (outcome === "missing" && await this.#upload(reference, plaintext)) return;
      await new Promise<void>((resolve) => void clock.after(DYING_RETRY_MS, resolve));
    }
    throw new KisekiError("chunk.upload_again", "a chunk is being collected: try again", {
      retriable: true,
    });
  }

  /** Announces references, so that maintenance finds them if this writer dies. */
  async #stage(batch: number, chunks: readonly Bytes[]): Promise<void> {
    await this.#parts.link.command(
      this.scope.organisation,
      this.scope.placement,
      m.CommandNumber.stage,
      m.Stage,
      { ...this.#staged(), batch, chunks },
      m.EmptyAnswer,
    );
  }

  /** False when the chunk began to die meanwhile. */
  async #upload(reference: Reference, plaintext: Bytes): Promise<boolean> {
    const { chunks, ledger } = this.#parts;
    const { organisation, keys, pool } = this.scope;
    const envelope = new Uint8Array(sealedSize(plaintext.length, CHUNK_SEGMENT_LOG2));
    const dataKey = keys.generateDataKey();
    let wrappedDek: Bytes;
    try {
      wrappedDek = dataKey.wrapped.slice();
      sealEnvelope(
        dataKey,
        EnvelopeKind.chunk,
        organisation,
        chunkIdentity(reference.chunk, plaintext.length),
        plaintext,
        CHUNK_SEGMENT_LOG2,
        envelope,
      );
    } finally {
      dataKey.release();
    }
    const record = await chunks.put({
      chunk: reference.chunk,
      organisation,
      plaintextBytes: plaintext.length,
      wrappedDek,
      envelope,
    }, pool);
    try {
      const [outcome] = await ledger.record(organisation, [{ reference, record }]);
      if (outcome === "superseded") await chunks.remove(reference.chunk, record);
      return true;
    } catch (error) {
      if (!(error instanceof KisekiError) || error.code !== "chunk.upload_again") throw error;
      await chunks.remove(reference.chunk, record);
      return false;
    }
  }

  #releaseBuffer(buffer: Bytes): void {
    this.#parts.buffers.release(buffer);
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }
}
