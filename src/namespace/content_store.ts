/**
 * What content writers and readers share: the parts that they are wired with and bounds on memory.
 */
import type { Bytes } from "../common/bytes.ts";
import type { Clock } from "../common/clock.ts";
import type { OrganisationId } from "../common/ids.ts";
import type { ChunkStore, ReferenceLedger } from "../chunk/ports.ts";
import { MAX_CHUNK_BYTES } from "../chunk/ports.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import type { TenantKeys } from "../crypto/sealer.ts";
import type { ShardLink } from "./shard_link.ts";

/** What content needs of the ledger. */
export type ContentLedger = Pick<ReferenceLedger, "acquire" | "record" | "release" | "lookup">;

export interface ContentParts {
  readonly link: ShardLink;
  readonly ledger: ContentLedger;
  readonly chunks: ChunkStore;
  readonly crypto: CryptoProvider;
  readonly clock: Clock;
  readonly buffers: ChunkBuffers;
  readonly pieces: PieceBuffers;
  readonly inFlight: ChunksInFlight;
}

/**
 * Bounds the memory of all streams of an isolate together: while few chunks are in flight a stream
 * may have a whole window of them, beyond that one at a time, so that nobody waits for another.
 */
export class ChunksInFlight {
  readonly #window: number;
  readonly #most: number;
  #count = 0;

  /**
   * @param window Chunks of one stream.
   * @param most Chunks of all streams, above which each has one.
   */
  constructor(window: number, most: number) {
    this.#window = window;
    this.#most = most;
  }

  get count(): number {
    return this.#count;
  }

  /** How many chunks a stream may have in flight now. */
  get window(): number {
    return this.#count < this.#most ? this.#window : 1;
  }

  begin(): void {
    this.#count++;
  }

  end(): void {
    this.#count--;
  }
}

/** Whose content, and where its rows and chunks go. */
export interface ContentScope {
  readonly organisation: OrganisationId;
  readonly keys: TenantKeys;
  /** Placement id (16 bytes) of the composition's rows. */
  readonly placement: Bytes;
  readonly pool: string;
}

/** Whole-chunk plaintext buffers, kept for reuse up to a bound; others are left to the collector. */
export class ChunkBuffers {
  readonly #free: Bytes[] = [];
  readonly #keep: number;

  constructor(keep = 16) {
    this.#keep = keep;
  }

  acquire(): Bytes {
    return this.#free.pop() ?? new Uint8Array(MAX_CHUNK_BYTES);
  }

  release(buffer: Bytes): void {
    if (buffer.length === MAX_CHUNK_BYTES && this.#free.length < this.#keep) {
      this.#free.push(buffer);
    }
  }
}

/** Largest piece buffer that is kept for reuse, and how many of each size. */
const MAX_POOLED_PIECE = 256 << 10;
const KEPT_PIECES = 64;

/**
 * Buffers of small pieces, by size. A fresh buffer for each small read keeps the garbage collector
 * busier than the reads themselves.
 */
export class PieceBuffers {
  readonly #free = new Map<number, Bytes[]>();

  /** At least `size` bytes. */
  acquire(size: number): Bytes {
    const capacity = capacityOf(size);
    return this.#free.get(capacity)?.pop() ?? new Uint8Array(capacity);
  }

  /** Takes back what `acquire` gave; its bytes may be overwritten at once. */
  release(buffer: Bytes): void {
    if (buffer.length > MAX_POOLED_PIECE) return;
    const kept = this.#free.get(buffer.length);
    if (kept === undefined) this.#free.set(buffer.length, [buffer]);
    else if (kept.length < KEPT_PIECES) kept.push(buffer);
  }
}

/** Powers of two up to what is pooled; above that the size itself. */
function capacityOf(size: number): number {
  if (size > MAX_POOLED_PIECE) return size;
  let capacity = 4096;
  while (capacity < size) capacity *= 2;
  return capacity;
}
