/**
 * Access key id -> identity and secret, for gateways.
 *
 * Invariants: only an active credential resolves; a change made elsewhere is seen within
 * {@link DEFAULT_CACHE_MS}, one made here at once (`invalidate`); the cache holds at most
 * {@link CACHE_ENTRIES}, known and unknown ids alike, and an unknown id costs the same opening of
 * an envelope as a known one, so that time does not tell which ids exist.
 */
import { toHex } from "../common/bytes.ts";
import type { Clock } from "../common/clock.ts";
import type { OrganisationId, ProjectId, WorkloadId } from "../common/ids.ts";
import { type KeySource, SYSTEM_ORGANISATION } from "../crypto/sealer.ts";
import type { ShardPort } from "../log/ports.ts";
import type { CredentialResolver, ResolvedCredential } from "../namespace/identity.ts";
import { openRecord, sealRecord } from "./record_sealer.ts";
import { lookupName, TenantClass, TenantState, ZERO_ID } from "./tenancy_rows.ts";
import { TenancyStore } from "./tenancy_store.ts";

export const CACHE_ENTRIES = 4096;
export const DEFAULT_CACHE_MS = 5_000;
/** Longest access key id that is looked up at all. */
export const MAX_ACCESS_KEY_ID = 128;

export interface CredentialResolverOptions {
  readonly shards: ShardPort;
  readonly keys: KeySource;
  readonly clock: Clock;
  /** Text of `proto/kiseki/v1/tenancy.proto`. */
  readonly protoText: string;
  /** How long an answer is kept. Default {@link DEFAULT_CACHE_MS}. */
  readonly cacheMs?: number;
}

interface Cached {
  readonly result: ResolvedCredential | undefined;
  readonly untilMs: number;
}

export class CachingCredentialResolver implements CredentialResolver {
  readonly #store: TenancyStore;
  readonly #options: CredentialResolverOptions;
  readonly #cacheMs: number;
  readonly #cache = new Map<string, Cached>();
  readonly #pending = new Map<string, Promise<ResolvedCredential | undefined>>();
  #generation = 0;
  #decoy: Uint8Array | undefined;

  constructor(options: CredentialResolverOptions) {
    this.#options = options;
    this.#cacheMs = options.cacheMs ?? DEFAULT_CACHE_MS;
    this.#store = new TenancyStore(options.shards, options.protoText);
  }

  /** @throws KisekiError when the control shard or a key cannot be reached: refuse the caller. */
  resolve(accessKeyId: string): Promise<ResolvedCredential | undefined> {
    if (accessKeyId.length === 0 || accessKeyId.length > MAX_ACCESS_KEY_ID) {
      return Promise.resolve(undefined);
    }
    const cached = this.#cache.get(accessKeyId);
    if (cached !== undefined) {
      if (cached.untilMs > this.#options.clock.monotonicMs()) {
        return Promise.resolve(cached.result);
      }
      this.#cache.delete(accessKeyId);
    }
    const pending = this.#pending.get(accessKeyId);
    if (pending !== undefined) return pending;
    const generation = this.#generation;
    const lookup = this.#lookUp(accessKeyId).then((result) => {
      if (generation === this.#generation) this.#keep(accessKeyId, result);
      return result;
    }).finally(() => {
      if (this.#pending.get(accessKeyId) === lookup) this.#pending.delete(accessKeyId);
    });
    this.#pending.set(accessKeyId, lookup);
    return lookup;
  }

  /** Forgets one id, or all of them. */
  invalidate(accessKeyId?: string): void {
    // A look-up under way may have read the old state: it is neither kept nor shared.
    this.#generation++;
    this.#pending.clear();
    if (accessKeyId === undefined) this.#cache.clear();
    else this.#cache.delete(accessKeyId);
  }

  #keep(accessKeyId: string, result: ResolvedCredential | undefined): void {
    const oldest = this.#cache.size >= CACHE_ENTRIES ? this.#cache.keys().next() : undefined;
    if (oldest !== undefined && oldest.done !== true) this.#cache.delete(oldest.value);
    const untilMs = this.#options.clock.monotonicMs() + this.#cacheMs;
    this.#cache.set(accessKeyId, { result, untilMs });
  }

  async #lookUp(accessKeyId: string): Promise<ResolvedCredential | undefined> {
    const { keys } = this.#options;
    const system = await keys.acquire(SYSTEM_ORGANISATION);
    const hash = system.nameHash(lookupName(TenantClass.credential, ZERO_ID, accessKeyId));
    const row = await this.#store.find(TenantClass.credential, hash);
    if (row === undefined) {
      this.#decoy ??= sealRecord(
        system,
        hash.map(() => 0),
        this.#store.messages.tenantSecret.encode({
          name: "A".repeat(20),
          secret: "A".repeat(40),
          comment: "",
        }),
      );
      this.#store.messages.tenantSecret.decode(
        openRecord(system, hash.map(() => 0), this.#decoy),
      );
      return undefined;
    }
    const organisation = toHex(row.organisation) as OrganisationId;
    const tenant = await keys.acquire(organisation);
    const secret = this.#store.messages.tenantSecret.decode(
      openRecord(tenant, hash, row.sealed),
    );
    if (row.state !== TenantState.active || secret.name !== accessKeyId) return undefined;
    return {
      identity: {
        organisation,
        project: toHex(row.project) as ProjectId,
        workload: toHex(row.parent) as WorkloadId,
        principal: accessKeyId,
      },
      secretAccessKey: secret.secret,
    };
  }
}
