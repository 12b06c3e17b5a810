/**
 * The control shard in memory, and keys for it, for tests of what stands on tenancy.
 *
 * Commands run through the real evaluator over sorted rows in memory; keys are wrapped twice by a
 * real provider, but masters live in this process alone.
 */
import { toHex } from "../common/bytes.ts";
import { type Bytes, utf8 } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import {
  type ChunkId,
  CONTROL_SHARD,
  newId128,
  type OrganisationId,
  type ShardId,
} from "../common/ids.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import {
  type DataKey,
  type KeySource,
  SYSTEM_ORGANISATION,
  type TenantKeys,
  WRAPPED_DEK_SIZE,
} from "../crypto/sealer.ts";
import type { CommandEvaluator, ShardPort } from "../log/ports.ts";
import { SortedRows } from "../log/sorted_rows.ts";
import type { OrganisationKeys } from "./tenancy.ts";

/** One shard over rows in memory: applies at once what the evaluator decides. */
export class MemoryShard implements ShardPort {
  readonly rows = new SortedRows();
  readonly #evaluator: CommandEvaluator;
  readonly #shard: ShardId;
  #timestamp = 1n;
  /** Set to fail the next calls, as an unreachable leader does. */
  failure: KisekiError | undefined;
  calls = 0;

  constructor(evaluator: CommandEvaluator, shard: ShardId = CONTROL_SHARD) {
    this.#evaluator = evaluator;
    this.#shard = shard;
  }

  async execute(shard: ShardId, request: Bytes): Promise<Bytes> {
    this.#check(shard, request);
    const evaluation = this.#evaluator.evaluate({
      shard,
      organisation: SYSTEM_ORGANISATION,
      rows: this.rows,
      timestamp: this.#timestamp++,
      newId: () => newId128(),
    }, request.subarray(1));
    this.rows.apply(evaluation.mutations);
    return evaluation.result;
  }

  async query(shard: ShardId, request: Bytes): Promise<Bytes> {
    this.#check(shard, request);
    return this.#evaluator.query({
      shard,
      organisation: SYSTEM_ORGANISATION,
      rows: this.rows,
      nowMs: 0,
    }, request.subarray(1));
  }

  #check(shard: ShardId, request: Bytes): void {
    this.calls++;
    if (this.failure !== undefined) throw this.failure;
    if (shard !== this.#shard || request[0] !== this.#evaluator.tag) {
      throw new KisekiError("log.no_shard", `shard ${shard} with tag ${request[0]}`);
    }
  }
}

/** Keys of organisations in memory; the system's own are there from the start. */
export class MemoryKeys implements KeySource, OrganisationKeys {
  readonly #crypto: CryptoProvider;
  readonly #held = new Map<OrganisationId, TenantKeys>();
  readonly #system = new Uint8Array(32);

  constructor(crypto: CryptoProvider) {
    this.#crypto = crypto;
    crypto.random(this.#system);
    this.#add(SYSTEM_ORGANISATION);
  }

  async create(organisation: OrganisationId): Promise<void> {
    if (!this.#held.has(organisation)) this.#add(organisation);
  }

  async destroy(organisation: OrganisationId): Promise<void> {
    this.#held.delete(organisation);
  }

  has(organisation: OrganisationId): boolean {
    return this.#held.has(organisation);
  }

  async acquire(organisation: OrganisationId): Promise<TenantKeys> {
    return this.held(organisation);
  }

  held(organisation: OrganisationId): TenantKeys {
    const keys = this.#held.get(organisation);
    if (keys === undefined) {
      throw new KisekiError("keys.unavailable", `no keys of organisation ${organisation}`);
    }
    return keys;
  }

  #add(organisation: OrganisationId): void {
    const random = (): Uint8Array => {
      const key = new Uint8Array(32);
      this.#crypto.random(key);
      return key;
    };
    const [twk, chunkKey, nameKey] = [random(), random(), random()];
    const crypto = this.#crypto;
    const outer = crypto.hkdfSha256(this.#system, new Uint8Array(0), utf8(organisation), 32);
    this.#held.set(organisation, {
      organisation,
      generateDataKey(): DataKey {
        const dek = random();
        const wrapped = new Uint8Array(WRAPPED_DEK_SIZE);
        wrapped.set([1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        wrapped.set(crypto.wrapKey(outer, crypto.wrapKey(twk, dek)), 12);
        return dataKey(crypto, dek, wrapped);
      },
      openDataKey: (wrapped) =>
        dataKey(
          crypto,
          crypto.unwrapKey(twk, crypto.unwrapKey(outer, wrapped.subarray(12))),
          wrapped.slice(),
        ),
      chunkId: (hash) => toHex(crypto.hmacSha256(chunkKey, hash)) as ChunkId,
      nameHash: (name) => crypto.hmacSha256(nameKey, name),
    });
  }
}

function dataKey(crypto: CryptoProvider, dek: Bytes, wrapped: Bytes): DataKey {
  const aead = crypto.aead(dek);
  return {
    wrapped,
    aead,
    systemEpoch: 1,
    tenantEpoch: 1,
    exportKey: () => dek.slice(),
    release: () => aead.release(),
  };
}

/** Text of a protobuf file of this source tree. */
export function protoText(name: string): string {
  return Deno.readTextFileSync(new URL(`../../proto/kiseki/v1/${name}`, import.meta.url));
}
