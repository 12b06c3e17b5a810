/**
 * Keys in use: what a lease brought, and the DEKs that were opened with it.
 *
 * Invariants: past the lease's end nothing is sealed or opened (`keys.unavailable`); a DEK is opened
 * by unwrapping both layers; opened DEKs are shared by reference count, kept for a while in a bounded
 * cache, and their AEAD contexts released when the last holder is done and the cache let go; no key
 * is in an error.
 */
import { ByteReader, type Bytes, ByteWriter, toHex } from "../common/bytes.ts";
import type { Clock } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import type { ChunkId, OrganisationId } from "../common/ids.ts";
import { chunkIdFromBytes } from "../common/ids.ts";
import type { Aead, CryptoProvider } from "../crypto/provider.ts";
import { AEAD_KEY_SIZE } from "../crypto/provider.ts";
import {
  type DataKey,
  type KeySource,
  type TenantKeys,
  WRAPPED_DEK_SIZE,
} from "../crypto/sealer.ts";
import type { KeyMemory, SecretKey } from "./key_memory.ts";
import type { TenantKeyLease } from "./key_manager.ts";

/** Opened DEKs of one organisation that are kept while nobody holds them. */
export const MAX_CACHED_DATA_KEYS = 4096;
const WRAPPED_VERSION = 1;
const WRAP_ALGORITHM_KW_TWICE = 1;
const DOUBLE_WRAPPED_SIZE = 48;

interface OpenedKey {
  readonly aead: Aead;
  readonly raw: SecretKey;
  holders: number;
  cached: boolean;
}

/** A lease in locked memory. */
interface HeldLease {
  readonly system: ReadonlyMap<number, SecretKey>;
  readonly wrapping: ReadonlyMap<number, SecretKey>;
  readonly chunkId: SecretKey;
  readonly nameHash: SecretKey;
  readonly systemEpoch: number;
  readonly tenantEpoch: number;
}

/** {@link TenantKeys} over a lease that is renewed from outside. */
export class LeasedTenantKeys implements TenantKeys {
  readonly organisation: OrganisationId;
  readonly #provider: CryptoProvider;
  readonly #memory: KeyMemory;
  readonly #clock: Clock;
  #lease: HeldLease | undefined;
  #untilMs = 0;
  /** Opened DEKs by wrapped bytes, oldest use first. */
  readonly #opened = new Map<string, OpenedKey>();

  constructor(
    organisation: OrganisationId,
    provider: CryptoProvider,
    memory: KeyMemory,
    clock: Clock,
  ) {
    this.organisation = organisation;
    this.#provider = provider;
    this.#memory = memory;
    this.#clock = clock;
  }

  /** Monotonic time at which the lease ends. */
  get untilMs(): number {
    return this.#untilMs;
  }

  /**
   * Takes a lease in and zeroes the message's copies.
   *
   * @param askedMs Monotonic time before the lease was asked for: it counts from there.
   * @throws KisekiError `common.invalid_argument` for a lease of somebody else or without keys.
   */
  renew(lease: TenantKeyLease, askedMs: number): void {
    if (lease.organisation !== this.organisation) {
      throw new KisekiError("common.invalid_argument", "a lease of another organisation");
    }
    const before = this.#lease;
    const system = this.#hold(lease.systemKeys);
    const wrapping = this.#hold(lease.wrappingKeys);
    this.#lease = {
      system,
      wrapping,
      chunkId: this.#take(lease.chunkIdKey),
      nameHash: this.#take(lease.nameHashKey),
      systemEpoch: newest(system, "system"),
      tenantEpoch: newest(wrapping, "tenant"),
    };
    this.#untilMs = askedMs + lease.validMs;
    if (before !== undefined) releaseLease(before);
  }

  generateDataKey(): DataKey {
    const lease = this.#valid();
    const raw = new Uint8Array(AEAD_KEY_SIZE);
    this.#provider.random(raw);
    try {
      const wrapped = this.#wrap(lease, raw);
      return this.#dataKey(wrapped, this.#keep(wrapped, raw));
    } finally {
      raw.fill(0);
    }
  }

  openDataKey(wrapped: Bytes): DataKey {
    const lease = this.#valid();
    const name = toHex(wrapped);
    const cached = this.#opened.get(name);
    if (cached !== undefined) {
      this.#opened.delete(name);
      this.#opened.set(name, cached);
      return this.#dataKey(wrapped, cached);
    }
    const raw = this.#unwrap(lease, wrapped);
    try {
      return this.#dataKey(wrapped, this.#keep(wrapped, raw));
    } finally {
      raw.fill(0);
    }
  }

  chunkId(plaintextSha256: Bytes): ChunkId {
    const { chunkId } = this.#valid();
    return chunkIdFromBytes(this.#provider.hmacSha256(chunkId.bytes, plaintextSha256));
  }

  nameHash(name: Bytes): Bytes {
    return this.#provider.hmacSha256(this.#valid().nameHash.bytes, name);
  }

  /** Forgets and zeroes everything. DEKs in use stay until their holders release them. */
  close(): void {
    for (const opened of this.#opened.values()) {
      opened.cached = false;
      releaseUnused(opened);
    }
    this.#opened.clear();
    if (this.#lease !== undefined) releaseLease(this.#lease);
    this.#lease = undefined;
    this.#untilMs = 0;
  }

  /** The same AEAD, refused once the lease has ended. */
  #checked(aead: Aead): Aead {
    return {
      seal: (plaintext, associatedData, out) => {
        this.#valid();
        return aead.seal(plaintext, associatedData, out);
      },
      open: (sealed, associatedData, out) => {
        this.#valid();
        return aead.open(sealed, associatedData, out);
      },
      release: () => aead.release(),
    };
  }

  #valid(): HeldLease {
    if (this.#lease === undefined || this.#clock.monotonicMs() >= this.#untilMs) {
      throw new KisekiError(
        "keys.unavailable",
        `the keys of organisation ${this.organisation} are not leased to this node: the key manager did not answer`,
        { retriable: true },
      );
    }
    return this.#lease;
  }

  #hold(keys: TenantKeyLease["systemKeys"]): ReadonlyMap<number, SecretKey> {
    return new Map(keys.map(({ epoch, key }) => [epoch, this.#take(key)]));
  }

  #take(key: Bytes): SecretKey {
    const held = this.#memory.hold(key);
    key.fill(0);
    return held;
  }

  #wrap(lease: HeldLease, raw: Bytes): Bytes {
    const { systemEpoch, tenantEpoch } = lease;
    const inner = this.#provider.wrapKey(keyOf(lease.wrapping, tenantEpoch, "tenant"), raw);
    const outer = this.#provider.wrapKey(keyOf(lease.system, systemEpoch, "system"), inner);
    return new ByteWriter(WRAPPED_DEK_SIZE).u8(WRAPPED_VERSION).u8(WRAP_ALGORITHM_KW_TWICE).u16(0)
      .u32(systemEpoch).u32(tenantEpoch).raw(outer).finish();
  }

  #unwrap(lease: HeldLease, wrapped: Bytes): Bytes {
    const reader = new ByteReader(wrapped, "wrapped data key");
    const version = reader.u8();
    const algorithm = reader.u8();
    if (version !== WRAPPED_VERSION || algorithm !== WRAP_ALGORITHM_KW_TWICE) {
      throw new KisekiError(
        "common.unsupported_version",
        `wrapped data key version ${version}, algorithm ${algorithm}`,
      );
    }
    if (reader.u16() !== 0) throw reader.corrupt("reserved bytes in use");
    const systemKey = keyOf(lease.system, reader.u32(), "system");
    const wrappingKey = keyOf(lease.wrapping, reader.u32(), "tenant");
    const outer = reader.raw(DOUBLE_WRAPPED_SIZE);
    reader.end();
    const inner = this.#provider.unwrapKey(systemKey, outer);
    return this.#provider.unwrapKey(wrappingKey, inner);
  }

  #keep(wrapped: Bytes, raw: Bytes): OpenedKey {
    const opened: OpenedKey = {
      aead: this.#provider.aead(raw),
      raw: this.#memory.hold(raw),
      holders: 0,
      cached: true,
    };
    this.#opened.set(toHex(wrapped), opened);
    if (this.#opened.size > MAX_CACHED_DATA_KEYS) {
      const [oldest] = this.#opened;
      if (oldest !== undefined) {
        this.#opened.delete(oldest[0]);
        oldest[1].cached = false;
        releaseUnused(oldest[1]);
      }
    }
    return opened;
  }

  #dataKey(wrapped: Bytes, opened: OpenedKey): DataKey {
    opened.holders++;
    let held = true;
    const view = new DataView(wrapped.buffer, wrapped.byteOffset, wrapped.byteLength);
    return {
      wrapped: wrapped.slice(),
      aead: this.#checked(opened.aead),
      systemEpoch: view.getUint32(4, true),
      tenantEpoch: view.getUint32(8, true),
      exportKey: () => opened.raw.bytes.slice(),
      release: () => {
        if (!held) return;
        held = false;
        opened.holders--;
        releaseUnused(opened);
      },
    };
  }
}

/** Gets leases from a key manager, near or far, and renews those in use. */
export class LeasedKeySource implements KeySource {
  readonly #fetch: (organisation: OrganisationId) => Promise<TenantKeyLease>;
  readonly #provider: CryptoProvider;
  readonly #memory: KeyMemory;
  readonly #clock: Clock;
  readonly #held = new Map<OrganisationId, LeasedTenantKeys>();
  readonly #asking = new Map<OrganisationId, Promise<LeasedTenantKeys>>();
  readonly #timers = new Map<OrganisationId, () => void>();
  #closed = false;

  constructor(options: {
    readonly fetch: (organisation: OrganisationId) => Promise<TenantKeyLease>;
    readonly provider: CryptoProvider;
    readonly memory: KeyMemory;
    readonly clock: Clock;
  }) {
    this.#fetch = options.fetch;
    this.#provider = options.provider;
    this.#memory = options.memory;
    this.#clock = options.clock;
  }

  /** The keys, with a lease that holds now. @throws KisekiError `keys.unavailable`. */
  acquire(organisation: OrganisationId): Promise<TenantKeys> {
    const keys = this.#held.get(organisation);
    if (keys !== undefined && this.#clock.monotonicMs() < keys.untilMs) {
      return Promise.resolve(keys);
    }
    return this.#ask(organisation);
  }

  held(organisation: OrganisationId): TenantKeys {
    const keys = this.#held.get(organisation);
    if (keys !== undefined) return keys;
    throw new KisekiError("keys.unavailable", `no keys of organisation ${organisation} are here`, {
      retriable: true,
    });
  }

  /** Forgets and zeroes everything. */
  close(): void {
    this.#closed = true;
    for (const cancel of this.#timers.values()) cancel();
    this.#timers.clear();
    for (const keys of this.#held.values()) keys.close();
    this.#held.clear();
  }

  #ask(organisation: OrganisationId): Promise<LeasedTenantKeys> {
    let asking = this.#asking.get(organisation);
    if (asking === undefined) {
      asking = this.#renew(organisation).finally(() => this.#asking.delete(organisation));
      this.#asking.set(organisation, asking);
    }
    return asking;
  }

  async #renew(organisation: OrganisationId): Promise<LeasedTenantKeys> {
    const askedMs = this.#clock.monotonicMs();
    const lease = await this.#fetch(organisation);
    let keys = this.#held.get(organisation);
    if (keys === undefined) {
      keys = new LeasedTenantKeys(organisation, this.#provider, this.#memory, this.#clock);
      this.#held.set(organisation, keys);
    }
    keys.renew(lease, askedMs);
    this.#schedule(organisation, lease.validMs / 3);
    return keys;
  }

  /** Renews at a third of the lease; a failure is tried again soon, and the lease runs out alone. */
  #schedule(organisation: OrganisationId, delayMs: number): void {
    if (this.#closed) return;
    this.#timers.get(organisation)?.();
    this.#timers.set(
      organisation,
      this.#clock.after(delayMs, () => {
        this.#ask(organisation).catch(() => this.#schedule(organisation, RETRY_MS));
      }),
    );
  }
}

const RETRY_MS = 1_000;

function keyOf(keys: ReadonlyMap<number, SecretKey>, epoch: number, what: string): Bytes {
  const key = keys.get(epoch);
  if (key !== undefined) return key.bytes;
  throw new KisekiError(
    "keys.unknown_epoch",
    `${what} epoch ${epoch} is not among the leased keys`,
  );
}

function newest(keys: ReadonlyMap<number, SecretKey>, what: string): number {
  if (keys.size === 0) {
    throw new KisekiError("common.invalid_argument", `a lease without a ${what} key`);
  }
  return Math.max(...keys.keys());
}

function releaseUnused(opened: OpenedKey): void {
  if (opened.cached || opened.holders > 0) return;
  opened.aead.release();
  opened.raw.release();
}

function releaseLease(lease: HeldLease): void {
  for (const key of lease.system.values()) key.release();
  for (const key of lease.wrapping.values()) key.release();
  lease.chunkId.release();
  lease.nameHash.release();
}
