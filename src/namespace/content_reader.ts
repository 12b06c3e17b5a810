/**
 * Streams verified content from chunks: resolves offsets to extents page by page, fetches sealed
 * ranges ahead, opens the segments that a range touches, and yields pieces of at most 1 MiB.
 *
 * Invariants: at most `window` fetches are in flight; every byte yielded was authenticated in its
 * place; what ends early gives back all that it fetched.
 */
import { type Bytes, toHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { ChunkId } from "../common/ids.ts";
import { decodeChunkRecord } from "../chunk/chunk_record.ts";
import type { ChunkRead, ChunkRecord } from "../chunk/ports.ts";
import { openEnvelopeRange, segmentRange } from "../crypto/envelope.ts";
import {
  CHUNK_SEGMENT_LOG2,
  ENVELOPE_HEADER_SIZE,
  EnvelopeKind,
} from "../crypto/envelope_format.ts";
import { chunkIdentity } from "../crypto/envelope_identity.ts";
import { AEAD_OVERHEAD } from "../crypto/provider.ts";
import type { ContentParts, ContentScope, PieceBuffers } from "./content_store.ts";
import * as m from "./messages.ts";
import {
  CompositionPartRow,
  type Content,
  ContentKind,
  type Extent,
  MAX_PER_ROW,
  type PartReference,
} from "./records.ts";

const PIECE_BYTES = 1 << 20;
const SEGMENT_BYTES = 1 << CHUNK_SEGMENT_LOG2;
const SEALED_SEGMENT_BYTES = SEGMENT_BYTES + AEAD_OVERHEAD;
const EXTENT_ROWS_AHEAD = 1;

/** What an Open query brought along. */
export interface FirstContent {
  readonly inline: Bytes;
  readonly extents: readonly Extent[];
  /** Records of the first chunks, encoded; empty where they are not known. */
  readonly chunkRecords: readonly Bytes[];
}

/** Chunk records remembered by one reader. */
const MAX_KNOWN_RECORDS = 64;

/** A range of content: bytes at hand, or part of a chunk. */
export type Span =
  | { readonly bytes: Bytes }
  | { readonly extent: Extent; readonly offset: number; readonly length: number };

interface Fetched {
  readonly extent: Extent;
  readonly offset: number;
  readonly length: number;
  readonly header: Bytes;
  readonly read: ChunkRead;
  /** Sealed bytes of the segments that hold the range. */
  readonly sealed: Bytes;
}

export class ContentReader {
  readonly #parts: ContentParts;
  readonly #scope: ContentScope;
  readonly #content: Content;
  readonly #first: FirstContent;
  readonly #records = new Map<ChunkId, ChunkRecord>();

  constructor(parts: ContentParts, scope: ContentScope, content: Content, first: FirstContent) {
    this.#parts = parts;
    this.#scope = scope;
    this.#content = content;
    this.#first = first;
    const extents = content.oneExtent === undefined ? first.extents : [content.oneExtent];
    this.#learn(extents, first.chunkRecords);
  }

  /** @throws KisekiError `common.invalid_argument` on a range beyond the content. */
  async *read(
    offset: number,
    length: number,
    keep = false,
  ): AsyncGenerator<Bytes, undefined, undefined> {
    const size = this.#content.sizeBytes;
    if (!(offset >= 0 && length >= 0 && offset + length <= size)) {
      throw new KisekiError(
        "common.invalid_argument",
        `range ${offset}+${length} of content of ${size} bytes`,
      );
    }
    if (length === 0) return undefined;
    const piece = new PieceMemory(this.#parts.pieces, keep);
    const ahead: Promise<Fetched | Bytes>[] = [];
    const spans = this.#spans(this.#content, offset, length, this.#first);
    try {
      let done = false;
      for (;;) {
        while (!done && ahead.length < this.#parts.inFlight.window) {
          const next = await spans.next();
          if (next.done === true) {
            done = true;
            break;
          }
          this.#parts.inFlight.begin();
          const fetched = this.#fetch(next.value);
          fetched.catch(ignore);
          ahead.push(fetched);
        }
        const fetched = await ahead[0];
        if (fetched === undefined) return undefined;
        // From here on the read is given back by whoever opens it.
        ahead.shift();
        try {
          if (fetched instanceof Uint8Array) yield fetched;
          else yield* this.#open(fetched, piece);
        } finally {
          this.#parts.inFlight.end();
        }
      }
    } finally {
      piece.release();
      for (const one of ahead) {
        this.#parts.inFlight.end();
        one.then(releaseRead, ignore);
      }
      await spans.return(undefined);
    }
  }

  /** Parts of a multipart composition; none of any other. */
  async *parts(): AsyncGenerator<PartReference, undefined, undefined> {
    if (this.#content.kind !== ContentKind.parts) return undefined;
    for (let first = 0; first < this.#content.count; first += MAX_PER_ROW) {
      yield* await this.#partRow(this.#content, first);
    }
    return undefined;
  }

  /** Extents of the whole content, and what lies inline, in order: for copies by reference. */
  async *spans(): AsyncGenerator<Span, undefined, undefined> {
    if (this.#content.sizeBytes > 0) {
      yield* this.#spans(this.#content, 0, this.#content.sizeBytes, this.#first);
    }
    return undefined;
  }

  async *#spans(
    content: Content,
    offset: number,
    length: number,
    first: FirstContent | undefined,
  ): AsyncGenerator<Span, undefined, undefined> {
    const end = offset + length;
    switch (content.kind) {
      case ContentKind.embedded:
        yield { bytes: content.embedded.subarray(offset, end) };
        return undefined;
      case ContentKind.inlineRow: {
        const inline = first?.inline ?? await this.#inline(content);
        yield { bytes: inline.subarray(offset, end) };
        return undefined;
      }
      case ContentKind.oneExtent:
        if (content.oneExtent !== undefined) {
          yield* cut([content.oneExtent], offset, end);
        }
        return undefined;
      case ContentKind.extents: {
        let extents = first?.extents ?? [];
        let at = offset;
        while (at < end) {
          const last = extents[extents.length - 1];
          const start = extents[0];
          if (
            start === undefined || last === undefined || at < start.offset ||
            at >= last.offset + last.length
          ) {
            extents = await this.#extents(content, at);
            continue;
          }
          const stop = Math.min(end, last.offset + last.length);
          yield* cut(extents, at, stop);
          at = stop;
        }
        return undefined;
      }
      case ContentKind.parts:
        yield* this.#partSpans(content, offset, end);
        return undefined;
      default:
        throw new KisekiError("common.unsupported_version", `content of kind ${content.kind}`);
    }
  }

  async *#partSpans(
    content: Content,
    offset: number,
    end: number,
  ): AsyncGenerator<Span, undefined, undefined> {
    let row = 0;
    while (
      row + 1 < content.rowOffsets.length && (content.rowOffsets[row + 1] as number) <= offset
    ) {
      row++;
    }
    let at = content.rowOffsets[row] ?? 0;
    for (; at < end && row * MAX_PER_ROW < content.count; row++) {
      for (const part of await this.#partRow(content, row * MAX_PER_ROW)) {
        const from = Math.max(offset, at);
        const to = Math.min(end, at + part.sizeBytes);
        if (from < to && part.content !== undefined) {
          yield* this.#spans(part.content, from - at, to - from, undefined);
        }
        at += part.sizeBytes;
      }
    }
    if (at < end) throw new KisekiError("common.internal", "a composition misses parts");
    return undefined;
  }

  async #partRow(content: Content, firstIndex: number): Promise<readonly PartReference[]> {
    const row = await this.#parts.link.query(
      this.#scope.organisation,
      content.placement,
      m.QueryNumber.readParts,
      m.ReadParts,
      { placement: content.placement, composition: content.composition, firstIndex },
      CompositionPartRow,
    );
    return row.parts;
  }

  async #inline(content: Content): Promise<Bytes> {
    const answer = await this.#parts.link.query(
      this.#scope.organisation,
      content.placement,
      m.QueryNumber.readInline,
      m.ReadInline,
      { placement: content.placement, composition: content.composition },
      m.InlineAnswer,
    );
    return answer.inline;
  }

  async #extents(content: Content, offset: number): Promise<readonly Extent[]> {
    const answer = await this.#parts.link.query(
      this.#scope.organisation,
      content.placement,
      m.QueryNumber.readExtents,
      m.ReadExtents,
      {
        placement: content.placement,
        composition: content.composition,
        offset,
        rows: EXTENT_ROWS_AHEAD,
      },
      m.ExtentsAnswer,
    );
    const last = answer.extents[answer.extents.length - 1];
    if (last === undefined || last.offset + last.length <= offset) {
      throw new KisekiError("common.internal", "a composition misses extents");
    }
    const ahead = answer.extents.filter((one) => one.offset + one.length > offset);
    this.#learn(ahead, answer.chunkRecords);
    return answer.extents;
  }

  /** Takes note of chunk records that an answer brought along. */
  #learn(extents: readonly Extent[], encoded: readonly Bytes[]): void {
    for (const [i, bytes] of encoded.entries()) {
      const extent = extents[i];
      if (extent === undefined || bytes.length === 0) continue;
      if (this.#records.size >= MAX_KNOWN_RECORDS) this.#records.clear();
      this.#records.set(toHex(extent.chunk) as ChunkId, decodeChunkRecord(bytes));
    }
  }

  async #fetch(span: Span): Promise<Fetched | Bytes> {
    if ("bytes" in span) return span.bytes;
    const { extent, offset, length } = span;
    const chunk = toHex(extent.chunk) as ChunkId;
    const record = this.#records.get(chunk) ??
      (await this.#parts.ledger.lookup(this.#scope.organisation, [chunk]))[0];
    if (record === undefined) {
      throw new KisekiError("chunk.not_found", "a chunk of the content is gone");
    }
    const range = segmentRange(extent.chunkBytes, CHUNK_SEGMENT_LOG2, offset, length);
    // The first segments come with the header in one read; others need it beside.
    if (range.firstSegment === 0) {
      const size = ENVELOPE_HEADER_SIZE + range.sealedLength;
      const read = await this.#get(chunk, record, 0, size);
      return {
        ...span,
        header: read.data.subarray(0, ENVELOPE_HEADER_SIZE),
        sealed: read.data.subarray(ENVELOPE_HEADER_SIZE),
        read,
      };
    }
    const head = await this.#get(chunk, record, 0, ENVELOPE_HEADER_SIZE);
    const header = head.data.slice();
    head.release();
    const read = await this.#get(chunk, record, range.sealedOffset, range.sealedLength);
    return { ...span, header, sealed: read.data, read };
  }

  async #get(
    chunk: ChunkId,
    record: ChunkRecord,
    offset: number,
    length: number,
  ): Promise<ChunkRead> {
    const read = await this.#parts.chunks.get(chunk, record, offset, length);
    if (read.data.length === length) return read;
    read.release();
    throw new KisekiError("chunk.unreadable", `${read.data.length} bytes read of ${length}`);
  }

  *#open(fetched: Fetched, piece: PieceMemory): Generator<Bytes, undefined, undefined> {
    const { extent, offset, length, header, sealed, read } = fetched;
    const identity = chunkIdentity(toHex(extent.chunk) as ChunkId, extent.chunkBytes);
    const dataKey = this.#scope.keys.openDataKey(read.wrappedDek);
    try {
      const firstOfRange = Math.floor(offset / SEGMENT_BYTES);
      const stepBytes = PIECE_BYTES;
      for (let at = offset; at < offset + length;) {
        const segment = Math.floor(at / SEGMENT_BYTES);
        const stop = Math.min(offset + length, segment * SEGMENT_BYTES + stepBytes);
        const range = segmentRange(extent.chunkBytes, CHUNK_SEGMENT_LOG2, at, stop - at);
        const from = (segment - firstOfRange) * SEALED_SEGMENT_BYTES;
        const out = piece.of(range.plaintextLength);
        openEnvelopeRange(
          dataKey,
          EnvelopeKind.chunk,
          this.#scope.organisation,
          identity,
          header,
          sealed.subarray(from, from + range.sealedLength),
          segment,
          range.count,
          extent.chunkBytes,
          out,
        );
        yield out.subarray(at - range.plaintextOffset, stop - range.plaintextOffset);
        at = stop;
      }
    } finally {
      dataKey.release();
      read.release();
    }
    return undefined;
  }
}

/** Memory for the pieces of one read: one buffer for all of them, or a fresh one for each. */
class PieceMemory {
  readonly #pool: PieceBuffers;
  readonly #keep: boolean;
  #buffer: Bytes | undefined;

  /** @param keep Pieces are the caller's to keep. */
  constructor(pool: PieceBuffers, keep: boolean) {
    this.#pool = pool;
    this.#keep = keep;
  }

  of(size: number): Bytes {
    if (this.#keep) return new Uint8Array(size);
    if (this.#buffer === undefined || this.#buffer.length < size) {
      this.release();
      this.#buffer = this.#pool.acquire(size);
    }
    return this.#buffer.subarray(0, size);
  }

  release(): void {
    if (this.#buffer !== undefined) this.#pool.release(this.#buffer);
    this.#buffer = undefined;
  }
}

/** The parts of extents in order that hold `from` to `end` of the composition. */
function* cut(extents: readonly Extent[], from: number, end: number): Generator<Span> {
  for (const extent of extents) {
    const start = Math.max(from, extent.offset);
    const stop = Math.min(end, extent.offset + extent.length);
    if (start >= stop) continue;
    yield {
      extent,
      offset: extent.chunkOffset + start - extent.offset,
      length: stop - start,
    };
  }
}

function releaseRead(fetched: Fetched | Bytes): void {
  if (!(fetched instanceof Uint8Array)) fetched.read.release();
}

function ignore(): void {}
