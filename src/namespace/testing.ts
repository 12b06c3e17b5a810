/**
 * A whole namespace in memory for tests: one shard of ordered rows that every evaluator shares, the
 * real ledger and evaluators, a chunk store of maps, and keys that really seal.
 */
import { type Bytes, concatBytes, fromHex } from "../common/bytes.ts";
import { HybridClock, VirtualClock } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import {
  type ChunkId,
  CONTROL_SHARD,
  type DeviceId,
  newId128,
  type OrganisationId,
  type ProjectId,
  type ShardId,
  type WorkloadId,
} from "../common/ids.ts";
import { decodeChunkRecord, encodeChunkRecord } from "../chunk/chunk_record.ts";
import type { ChunkRecord, ChunkStore, SealedChunk } from "../chunk/ports.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import {
  type DataKey,
  type KeySource,
  SYSTEM_ORGANISATION,
  type TenantKeys,
  WRAPPED_DEK_SIZE,
} from "../crypto/sealer.ts";
import { LedgerClient, LedgerEvaluator } from "../log/ledger.ts";
import { Overlay } from "../log/overlay.ts";
import type { CommandEvaluator, ShardPort, ShardRouter } from "../log/ports.ts";
import { SortedRows } from "../log/sorted_rows.ts";
import { NamespaceEvaluator } from "./evaluator.ts";
import type { Identity } from "./identity.ts";
import { createNamespaceService, type WiredNamespaceService } from "./service.ts";

const TENANT_SHARD = 2 as ShardId;
const MAX_DELTA = 1 << 20;

/** Keys whose wrapping is none: the DEK lies in the wrapped bytes. For tests alone. */
export function testKeys(crypto: CryptoProvider): KeySource {
  const held = new Map<OrganisationId, TenantKeys>();
  const of = (organisation: OrganisationId): TenantKeys => {
    let keys = held.get(organisation);
    if (keys === undefined) {
      keys = tenantKeys(crypto, organisation);
      held.set(organisation, keys);
    }
    return keys;
  };
  return { acquire: (organisation) => Promise.resolve(of(organisation)), held: of };
}

function tenantKeys(crypto: CryptoProvider, organisation: OrganisationId): TenantKeys {
  const dataKey = (wrapped: Bytes): DataKey => {
    const aead = crypto.aead(wrapped.subarray(12, 44));
    return {
      wrapped,
      aead,
      systemEpoch: 1,
      tenantEpoch: 1,
      exportKey: () => wrapped.slice(12, 44),
      release: () => aead.release(),
    };
  };
  const secret = crypto.digest("sha256", fromHex(organisation));
  return {
    organisation,
    generateDataKey() {
      const wrapped = new Uint8Array(WRAPPED_DEK_SIZE);
      crypto.random(wrapped.subarray(12, 44));
      return dataKey(wrapped);
    },
    openDataKey: (wrapped) => dataKey(wrapped.slice()),
    chunkId: (sha256) => {
      return Array.from(
        crypto.hmacSha256(secret, sha256),
        (byte) => byte.toString(16).padStart(2, "0"),
      ).join("") as ChunkId;
    },
    nameHash: (name) => crypto.hmacSha256(secret, concatBytes(Uint8Array.of(1), name)),
  };
}

/** Shards in memory. Commands run one after the other; every delta's size is checked. */
export class MemoryShards implements ShardPort, ShardRouter {
  readonly rows = new Map<ShardId, SortedRows>();
  readonly #evaluators = new Map<number, CommandEvaluator>();
  readonly #clock: HybridClock;
  readonly #organisation: OrganisationId;
  commands = 0;
  queries = 0;

  constructor(clock: VirtualClock, organisation: OrganisationId) {
    this.#clock = new HybridClock(clock);
    this.#organisation = organisation;
    this.rows.set(CONTROL_SHARD, new SortedRows());
    this.rows.set(TENANT_SHARD, new SortedRows());
  }

  add(evaluator: CommandEvaluator): void {
    this.#evaluators.set(evaluator.tag, evaluator);
  }

  get tenantRows(): SortedRows {
    return this.#rowsOf(TENANT_SHARD);
  }

  shardOf(): ShardId {
    return TENANT_SHARD;
  }

  shardsOf(): readonly ShardId[] {
    return [TENANT_SHARD];
  }

  async execute(shard: ShardId, request: Bytes): Promise<Bytes> {
    if (request.length > MAX_DELTA + (64 << 10)) {
      throw new KisekiError("log.delta_too_large", `a request of ${request.length} bytes`);
    }
    await Promise.resolve();
    this.commands++;
    const rows = this.#rowsOf(shard);
    const evaluation = this.#evaluator(request).evaluate({
      shard,
      organisation: this.#organisationOf(shard),
      rows: new Overlay(rows),
      timestamp: this.#clock.now(),
      newId: () => newId128(),
    }, request.slice(1));
    let size = 0;
    for (const { key, value } of evaluation.mutations) size += key.length + (value?.length ?? 0);
    if (size > MAX_DELTA) throw new KisekiError("log.delta_too_large", `a delta of ${size} bytes`);
    rows.apply(evaluation.mutations);
    return evaluation.result;
  }

  async query(shard: ShardId, request: Bytes): Promise<Bytes> {
    await Promise.resolve();
    this.queries++;
    return this.#evaluator(request).query({
      shard,
      organisation: this.#organisationOf(shard),
      rows: this.#rowsOf(shard),
      nowMs: 0,
    }, request.slice(1));
  }

  #organisationOf(shard: ShardId): OrganisationId {
    return shard === CONTROL_SHARD ? SYSTEM_ORGANISATION : this.#organisation;
  }

  #rowsOf(shard: ShardId): SortedRows {
    const rows = this.rows.get(shard);
    if (rows === undefined) throw new KisekiError("log.no_shard", `no shard ${shard}`);
    return rows;
  }

  #evaluator(request: Bytes): CommandEvaluator {
    const evaluator = this.#evaluators.get(request[0] ?? 0);
    if (evaluator === undefined) {
      throw new KisekiError("common.invalid_argument", `no evaluator ${request[0]}`);
    }
    return evaluator;
  }
}

/** Sealed chunks in a map. */
export class MemoryChunks implements ChunkStore {
  readonly stored = new Map<string, SealedChunk>();
  /** Reads not given back. */
  reading = 0;
  #next = 1;

  async put(chunk: SealedChunk, pool: string): Promise<ChunkRecord> {
    const incarnation = (this.#next++).toString(16).padStart(16, "0");
    await Promise.resolve();
    this.stored.set(chunk.chunk + incarnation, { ...chunk, envelope: chunk.envelope.slice() });
    return {
      incarnation,
      plaintextBytes: chunk.plaintextBytes,
      envelopeBytes: chunk.envelope.length,
      pool,
      scheme: { scheme: "copies", copies: 1 },
      placement: ["00000000000000000000000000000001" as DeviceId],
    };
  }

  async get(chunk: ChunkId, record: ChunkRecord, offset: number, length?: number) {
    const stored = this.stored.get(chunk + record.incarnation);
    await Promise.resolve();
    if (stored === undefined) throw new KisekiError("chunk.not_found", "no such chunk");
    this.reading++;
    return {
      wrappedDek: stored.wrappedDek,
      data: stored.envelope.slice(offset, length === undefined ? undefined : offset + length),
      release: () => void this.reading--,
    };
  }

  remove(chunk: ChunkId, record: ChunkRecord): Promise<void> {
    this.stored.delete(chunk + record.incarnation);
    return Promise.resolve();
  }
}

const RECORD_CODEC = { encode: encodeChunkRecord, decode: decodeChunkRecord };

/** Everything of one organisation. */
export interface TestNamespace {
  readonly clock: VirtualClock;
  readonly shards: MemoryShards;
  readonly chunks: MemoryChunks;
  readonly service: WiredNamespaceService;
  readonly caller: Identity;
}

/** Opens an empty store. */
export function testNamespace(crypto: CryptoProvider): TestNamespace {
  const clock = new VirtualClock();
  const organisation = newId128<OrganisationId>();
  const shards = new MemoryShards(clock, organisation);
  const chunks = new MemoryChunks();
  shards.add(
    new LedgerEvaluator({ incarnationOf: (bytes) => decodeChunkRecord(bytes).incarnation }),
  );
  shards.add(
    new NamespaceEvaluator({ sha256: (bytes) => crypto.digest("sha256", bytes), router: shards }),
  );
  const service = createNamespaceService({
    shards,
    router: shards,
    ledger: new LedgerClient<ChunkRecord>(shards, shards, RECORD_CODEC),
    chunks,
    keys: testKeys(crypto),
    crypto,
    clock,
    pool: "default",
  });
  const caller: Identity = {
    organisation,
    project: newId128<ProjectId>(),
    workload: newId128<WorkloadId>(),
    principal: "test",
  };
  return { clock, shards, chunks, service, caller };
}
