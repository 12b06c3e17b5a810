/**
 * The chunk room's types and ports: what gateways and clients ask of chunk storage, and what it
 * asks of devices and of the reference ledger.
 *
 * A chunk is a sealed immutable envelope (kind `chunk`) of up to 4 MiB of plaintext. Its bytes are
 * stored as one fragment a copy, or cut into k data and m parity fragments. Each fragment lies on
 * one device, found by that device's fragment index.
 */
import type { Bytes } from "../common/bytes.ts";
import type {
  ChunkId,
  CompositionId,
  DeviceId,
  OperationId,
  OrganisationId,
} from "../common/ids.ts";

/** Plaintext of a chunk is 1 byte to this many. */
export const MAX_CHUNK_BYTES = 4 << 20;

/** How a pool keeps chunks. */
export type Durability =
  | { readonly scheme: "copies"; readonly copies: number } // 1 to 5
  | { readonly scheme: "erasure"; readonly data: number; readonly parity: number }; // 2-16, 1-8

/** What the fragment index says of a fragment beside its place; travels with the fragment. */
export interface FragmentHeader {
  readonly chunk: ChunkId;
  /**
   * 16 hex digits drawn by the writer (`ChunkStore.put`). Two uploads of the same chunk have
   * different DEKs: their fragments must never mix, so every place is keyed by
   * (chunk, incarnation, fragment).
   */
  readonly incarnation: string;
  readonly organisation: OrganisationId;
  /** 0 to k+m-1, or the copy's number. */
  readonly fragment: number;
  readonly scheme: Durability;
  /** Length of the whole envelope, so that padding is cut off after decoding. */
  readonly envelopeBytes: number;
  /** Length of the plaintext, bound into the envelope's associated data. */
  readonly plaintextBytes: number;
  /** Version of the placement map that chose the place. */
  readonly placementVersion: number;
  /** When the chunk was stored, wall milliseconds: fragments without a record go by age. */
  readonly writtenMs: number;
  /** The chunk's DEK, wrapped twice (`WRAPPED_DEK_SIZE` bytes). */
  readonly wrappedDek: Bytes;
}

/** One device as the chunk store sees it; lives in a device isolate, maybe on another node. */
export interface FragmentStore {
  readonly device: DeviceId;
  /**
   * Writes and makes durable (data, then index). Idempotent: a fragment already there with the
   * same header is left as it is.
   *
   * @throws KisekiError `block.io`, `block.no_space`.
   */
  put(header: FragmentHeader, data: Bytes): Promise<void>;
  /**
   * Reads `length` bytes of the fragment from `offset` (whole fragment: 0, undefined) into a fresh
   * or pooled buffer. The part read is checked against the extent's checksums (one per 64 KiB).
   *
   * @param into Where to read to, when the caller has memory for it (exactly `length` bytes).
   * @returns undefined when the device does not hold it.
   * @throws KisekiError `block.checksum`, `block.io`.
   */
  get(
    chunk: ChunkId,
    incarnation: string,
    fragment: number,
    offset: number,
    length?: number,
    into?: Bytes,
  ): Promise<FragmentRead | undefined>;
  head(chunk: ChunkId, incarnation: string, fragment: number): Promise<FragmentHeader | undefined>;
  /** Idempotent. */
  remove(chunk: ChunkId, incarnation: string, fragment: number): Promise<void>;
  /** Replaces the wrapped DEK of what is held. */
  rewrap(chunk: ChunkId, incarnation: string, fragment: number, wrappedDek: Bytes): Promise<void>;
  /**
   * All fragments in order of chunk id, from after `cursor`: some `limit` of them, never a part of
   * what the device holds of one chunk. Empty at the end.
   */
  list(cursor: ChunkId | undefined, limit: number): Promise<readonly FragmentHeader[]>;
  usage(): Promise<DeviceUsage>;
}

export interface FragmentRead {
  readonly header: FragmentHeader;
  readonly data: Bytes;
}

export interface DeviceUsage {
  readonly device: DeviceId;
  readonly capacityBytes: number;
  readonly usedBytes: number;
  readonly fragments: number;
  /** `ok`, `full` (over the pool's threshold), `failing` (errors seen), `lost`. */
  readonly state: "ok" | "full" | "failing" | "lost";
}

/** A row of the reference ledger: this composition uses this chunk, by this operation. */
export interface Reference {
  readonly chunk: ChunkId;
  readonly composition: CompositionId;
  readonly operation: OperationId;
}

/** What is recorded of a chunk in the shard that owns its id. */
export interface ChunkRecord {
  /** Which upload of the chunk this is (see `FragmentHeader.incarnation`). */
  readonly incarnation: string;
  readonly plaintextBytes: number;
  readonly envelopeBytes: number;
  /** Pool's name. */
  readonly pool: string;
  readonly scheme: Durability;
  /** Device of each fragment, in order: the real placement. */
  readonly placement: readonly DeviceId[];
}

/**
 * Port: rows (chunk id, composition, operation id) in the shard that owns the chunk id.
 * Implemented by `src/log`. All calls are idempotent and return after they are committed.
 */
export interface ReferenceLedger {
  /**
   * For each reference: `held` when the chunk is stored and the row now exists (no upload needed);
   * `missing` when the chunk must be uploaded; `dying` likewise, once its collection has finished.
   * A chunk that is dying is never revived: the uploader writes it again after `forget`.
   */
  acquire(
    organisation: OrganisationId,
    references: readonly Reference[],
  ): Promise<readonly ("held" | "missing" | "dying")[]>;
  /**
   * Records stored chunks and their references in one step, after the fragments are durable.
   * `superseded` when another upload of the same chunk was recorded first: the reference is held on
   * that one, and the caller removes the fragments of its own incarnation.
   */
  record(
    organisation: OrganisationId,
    chunks: readonly { readonly reference: Reference; readonly record: ChunkRecord }[],
  ): Promise<readonly ("recorded" | "superseded")[]>;
  /** Deletes reference rows. */
  release(organisation: OrganisationId, references: readonly Reference[]): Promise<void>;
  lookup(
    organisation: OrganisationId,
    chunks: readonly ChunkId[],
  ): Promise<readonly (ChunkRecord | undefined)[]>;
  /** Chunks without references for longer than the grace time, now committed as dying. */
  collect(
    organisation: OrganisationId,
    limit: number,
  ): Promise<readonly { readonly chunk: ChunkId; readonly record: ChunkRecord }[]>;
  /** Fragments of a dying chunk are gone: its record may go. */
  forget(organisation: OrganisationId, chunks: readonly ChunkId[]): Promise<void>;
}

/** Port: repair moved fragments of a chunk. Implemented by `src/log`, beside the ledger. */
export interface PlacementLedger {
  /**
   * Replaces a chunk's record by one of the same incarnation. Idempotent; nothing happens when the
   * chunk is unknown, of another incarnation or dying. Until it is committed, readers find moved
   * fragments by asking every device of the pool.
   */
  replace(organisation: OrganisationId, chunk: ChunkId, record: ChunkRecord): Promise<void>;
}

/** What gateways and native clients use. Sealing happens on the caller's side of this interface. */
export interface ChunkStore {
  /**
   * Stores a sealed chunk on the pool's devices; resolves when it is durable on the pool's minimum.
   *
   * @throws KisekiError `chunk.no_space`, `chunk.too_few_devices`, `block.io`.
   */
  put(chunk: SealedChunk, pool: string): Promise<ChunkRecord>;
  /**
   * Envelope bytes `offset` to `offset + length` (whole: 0, undefined) from the nearest healthy
   * fragments; reads around and reports what fails; rebuilds from any k.
   *
   * @throws KisekiError `chunk.not_found`, `chunk.unreadable`.
   */
  get(chunk: ChunkId, record: ChunkRecord, offset: number, length?: number): Promise<ChunkRead>;
  remove(chunk: ChunkId, record: ChunkRecord): Promise<void>;
}

export interface SealedChunk {
  readonly chunk: ChunkId;
  readonly organisation: OrganisationId;
  readonly plaintextBytes: number;
  readonly wrappedDek: Bytes;
  /** The whole envelope. Not changed until `put` resolves. */
  readonly envelope: Bytes;
}

export interface ChunkRead {
  readonly wrappedDek: Bytes;
  readonly data: Bytes;
  /** Gives `data` back to the pool it came from; not calling it costs memory, not correctness. */
  release(): void;
}

/** Memory for bulk data that other isolates can reach; given to the chunk store by its wiring. */
export interface BulkMemory {
  /** A buffer of exactly `size` bytes (at most 8 MiB), zeroed or not. */
  acquire(size: number): Bytes;
  release(buffer: Bytes): void;
}
