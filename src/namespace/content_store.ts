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
  /** Chunks of one stream in flight. */
  readonly window: number;
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
