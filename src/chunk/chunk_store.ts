/**
 * The chunk store: sealed chunks in pools of devices, as copies or erasure-coded fragments.
 *
 * Invariants: no two fragments of a chunk on one device; a put resolves only when at least the write
 * quorum is durable (all of them, unless devices failed); what a failed put left behind is removed,
 * and what cannot be removed is found later as a fragment without a record; a chunk's buffers are
 * bounded by its envelope and parity. Placement is chosen by hashing, the real one is recorded.
 */
import type { Bytes } from "../common/bytes.ts";
import { toHex } from "../common/bytes.ts";
import type { Clock } from "../common/clock.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { ChunkId, DeviceId } from "../common/ids.ts";
import { type Logger, SILENT_LOGGER } from "../common/logging.ts";
import { INCARNATION_BYTES, MAX_ENVELOPE_BYTES } from "./chunk_record.ts";
import { readChunk, type ReaderParts } from "./chunk_reader.ts";
import { DevicePool, type PoolConfig, type PoolUsage } from "./device_pool.ts";
import { fragmentBytes, fragmentCount, writeQuorum } from "./durability.ts";
import type { ErasureCoder } from "./erasure_code.ts";
import type { FindingSink } from "./finding.ts";
import {
  type BulkMemory,
  type ChunkRead,
  type ChunkRecord,
  type ChunkStore,
  type Durability,
  type FragmentHeader,
  type FragmentStore,
  MAX_CHUNK_BYTES,
  type SealedChunk,
} from "./ports.ts";

export interface ChunkStoreOptions {
  readonly pools: readonly PoolConfig[];
  /** Every device that can be reached, by id; those of pools and those of old records. */
  readonly stores: ReadonlyMap<DeviceId, FragmentStore>;
  readonly coder: ErasureCoder;
  /** Default: private memory. */
  readonly memory?: BulkMemory;
  readonly clock: Clock;
  readonly log?: Logger;
  /** Hears of every fragment that was not as it should be. */
  readonly report?: FindingSink;
  /** Fills with random bytes; default the runtime's. */
  readonly random?: (out: Uint8Array<ArrayBuffer>) => void;
}

/** Memory from the runtime, for one isolate alone. */
export const PRIVATE_MEMORY: BulkMemory = {
  acquire: (size) => new Uint8Array(size),
  release() {},
};

/** Fragments of an envelope, and the buffers that they needed. */
interface Cut {
  readonly fragments: readonly Bytes[];
  readonly buffers: readonly Bytes[];
}

/** The chunk store over devices that may be local or remote. */
export class DeviceChunkStore implements ChunkStore {
  readonly #pools: ReadonlyMap<string, DevicePool>;
  readonly #parts: ReaderParts;
  readonly #clock: Clock;
  readonly #random: (out: Uint8Array<ArrayBuffer>) => void;
  readonly #background = new Set<Promise<void>>();

  /** @throws KisekiError `config.invalid` when a pool cannot be. */
  constructor(options: ChunkStoreOptions) {
    const log = options.log ?? SILENT_LOGGER;
    this.#clock = options.clock;
    this.#random = options.random ?? ((out) => void crypto.getRandomValues(out));
    this.#parts = {
      stores: options.stores,
      coder: options.coder,
      memory: options.memory ?? PRIVATE_MEMORY,
      report: options.report ?? (() => {}),
    };
    this.#pools = new Map(
      options.pools.map((config) => [
        config.name,
        new DevicePool(config, options.stores, options.clock, log),
      ]),
    );
  }

  /** @throws KisekiError `common.not_found`. */
  pool(name: string): DevicePool {
    const pool = this.#pools.get(name);
    if (pool === undefined) throw new KisekiError("common.not_found", `there is no pool "${name}"`);
    return pool;
  }

  /** Usage and state of every pool. */
  async usage(): Promise<readonly PoolUsage[]> {
    return await Promise.all([...this.#pools.values()].map((pool) => pool.usage()));
  }

  async put(chunk: SealedChunk, poolName: string): Promise<ChunkRecord> {
    const pool = this.pool(poolName);
    requireSizes(chunk);
    await pool.refresh();
    const scheme = pool.durability;
    const order = pool.writable(chunk.chunk);
    const put = new ChunkPut(pool, this.#parts, chunk, this.#header(chunk, pool), order);
    const early = pool.config.acknowledge === "minimum";
    const cut = this.#cut(chunk.envelope, scheme, early);
    const finished = put.run(cut.fragments);
    const released = finished.catch(() => {}).then(() => {
      for (const buffer of cut.buffers) this.#parts.memory.release(buffer);
    });
    this.#inBackground(released);
    await (early ? Promise.race([put.quorum, finished]) : finished);
    return put.record();
  }

  async get(
    chunk: ChunkId,
    record: ChunkRecord,
    offset: number,
    length?: number,
  ): Promise<ChunkRead> {
    const size = length ?? record.envelopeBytes - offset;
    return await readChunk(
      this.#parts,
      this.#pools.get(record.pool),
      chunk,
      record,
      offset,
      size,
    );
  }

  async remove(chunk: ChunkId, record: ChunkRecord): Promise<void> {
    await Promise.all(record.placement.map(async (device, fragment) => {
      try {
        await this.#parts.stores.get(device)?.remove(chunk, record.incarnation, fragment);
      } catch (error) {
        // The device is lost or failing; once back, its fragments have no record and go by age.
        if (!isKisekiError(error)) throw error;
        this.#parts.report({ kind: "unreadable", chunk, record, fragment, device });
      }
    }));
  }

  /** Waits for what goes on in the background. */
  async idle(): Promise<void> {
    while (this.#background.size > 0) await Promise.all(this.#background);
  }

  #header(chunk: SealedChunk, pool: DevicePool): Omit<FragmentHeader, "fragment"> {
    const incarnation = new Uint8Array(INCARNATION_BYTES);
    this.#random(incarnation);
    return {
      chunk: chunk.chunk,
      incarnation: toHex(incarnation),
      organisation: chunk.organisation,
      scheme: pool.durability,
      envelopeBytes: chunk.envelope.length,
      plaintextBytes: chunk.plaintextBytes,
      placementVersion: pool.placementVersion,
      writtenMs: Math.floor(this.#clock.wallMs()),
      wrappedDek: chunk.wrappedDek,
    };
  }

  #cut(envelope: Bytes, scheme: Durability, ownCopy: boolean): Cut {
    const buffers: Bytes[] = [];
    const own = (size: number): Bytes => {
      const buffer = this.#parts.memory.acquire(size);
      buffers.push(buffer);
      return buffer;
    };
    let source = envelope;
    if (ownCopy) {
      source = own(envelope.length);
      source.set(envelope);
    }
    if (scheme.scheme === "copies") {
      return { fragments: Array.from({ length: scheme.copies }, () => source), buffers };
    }
    const size = fragmentBytes(scheme, envelope.length);
    const data = Array.from({ length: scheme.data }, (_, i) => {
      const part = source.subarray(i * size, (i + 1) * size);
      if (part.length === size) return part;
      const padded = own(size);
      padded.set(part);
      padded.fill(0, part.length);
      return padded;
    });
    const parity = Array.from({ length: scheme.parity }, () => own(size));
    this.#parts.coder.encode(scheme, data, parity);
    return { fragments: [...data, ...parity], buffers };
  }

  #inBackground(work: Promise<void>): void {
    const tracked: Promise<void> = work.finally(() => this.#background.delete(tracked));
    this.#background.add(tracked);
  }
}

/** One put: each fragment to its device, or to a spare. */
class ChunkPut {
  /** Resolves when the write quorum is durable; never rejects. */
  readonly quorum: Promise<void>;
  readonly #placement: (DeviceId | undefined)[];
  readonly #spares: DeviceId[];
  readonly #needed: number;
  #durable = 0;
  #reached: () => void = () => {};
  #firstError: KisekiError | undefined;
  #noSpace: KisekiError | undefined;

  constructor(
    private readonly pool: DevicePool,
    private readonly parts: ReaderParts,
    private readonly chunk: SealedChunk,
    private readonly header: Omit<FragmentHeader, "fragment">,
    order: readonly DeviceId[],
  ) {
    const count = fragmentCount(header.scheme);
    this.#placement = Array.from({ length: count }, (_, i) => order[i]);
    this.#spares = order.slice(count);
    this.#needed = writeQuorum(header.scheme);
    this.quorum = new Promise((resolve) => this.#reached = resolve);
  }

  /** Resolves when every fragment is durable or was given up. */
  async run(fragments: readonly Bytes[]): Promise<void> {
    const done = await Promise.all(fragments.map((bytes, i) => this.#write(i, bytes)));
    if (this.#durable < this.#needed) {
      await this.#undo(done);
      throw this.#noSpace === undefined ? this.#tooFew() : new KisekiError(
        "chunk.no_space",
        `pool ${this.pool.name} is full: ${this.#noSpace.message}`,
        { cause: this.#noSpace },
      );
    }
    const record = this.record();
    done.forEach((written, fragment) => {
      const device = record.placement[fragment];
      if (written || device === undefined) return;
      this.parts.report({ kind: "missing", chunk: this.chunk.chunk, record, fragment, device });
    });
  }

  async #write(fragment: number, bytes: Bytes): Promise<boolean> {
    let device = this.#placement[fragment];
    while (device !== undefined) {
      const store = this.parts.stores.get(device);
      try {
        if (store === undefined) throw new KisekiError("block.io", `device ${device} is away`);
        await store.put({ ...this.header, fragment }, bytes);
        this.pool.noteWritten(device, bytes.length);
        if (++this.#durable === this.#needed) this.#reached();
        return true;
      } catch (error) {
        if (!isKisekiError(error)) throw error;
        this.#firstError ??= error;
        if (error.code === "block.no_space") this.#noSpace ??= error;
        this.pool.noteFailedWrite(device, error);
      }
      const spare = this.#spares.shift();
      if (spare !== undefined) this.#placement[fragment] = spare;
      device = spare;
    }
    return false;
  }

  async #undo(done: readonly boolean[]): Promise<void> {
    await Promise.all(done.map(async (written, fragment) => {
      const device = this.#placement[fragment];
      if (!written || device === undefined) return;
      try {
        await this.parts.stores.get(device)?.remove(
          this.chunk.chunk,
          this.header.incarnation,
          fragment,
        );
      } catch (error) {
        // It has no record: collection finds it by age.
        if (!isKisekiError(error)) throw error;
      }
    }));
  }

  #tooFew(): KisekiError {
    return new KisekiError(
      "chunk.too_few_devices",
      `pool ${this.pool.name}: ${this.#durable} of at least ${this.#needed} fragments could be ` +
        `written: ${this.#firstError?.message ?? "no device works"}`,
      {
        retriable: true,
        ...(this.#firstError === undefined ? {} : { cause: this.#firstError }),
      },
    );
  }

  /** What is true of the chunk now. A fragment that nobody took is recorded where it belongs. */
  record(): ChunkRecord {
    const used = new Set(this.#placement.filter((device) => device !== undefined));
    const others = this.pool.order(this.chunk.chunk).filter((device) => !used.has(device));
    const placement = this.#placement.map((device) => device ?? others.shift());
    return {
      incarnation: this.header.incarnation,
      plaintextBytes: this.header.plaintextBytes,
      envelopeBytes: this.header.envelopeBytes,
      pool: this.pool.name,
      scheme: this.header.scheme,
      placement: placement.filter((device) => device !== undefined),
    };
  }
}

function requireSizes({ plaintextBytes, envelope }: SealedChunk): void {
  if (
    plaintextBytes >= 1 && plaintextBytes <= MAX_CHUNK_BYTES && envelope.length >= 1 &&
    envelope.length <= MAX_ENVELOPE_BYTES
  ) return;
  throw new KisekiError(
    "common.invalid_argument",
    `a chunk of ${plaintextBytes} bytes in an envelope of ${envelope.length}`,
  );
}
