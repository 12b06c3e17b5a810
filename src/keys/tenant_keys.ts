/**
 * Keys in use: what a lease brought, and the DEKs that were opened with it.
 *
 * Invariants: past the lease's end nothing is sealed, opened or exported (`keys.unavailable`), and
 * the lease's keys and the DEKs that nobody holds are zeroed then; a DEK is opened by unwrapping both
 * layers; opened DEKs are shared by reference count, kept for a while in a bounded cache, and their
 * AEAD contexts released when the last holder is done and the cache let go; a holder that released
 * its DEK can use it no more, whoever else holds it; no key is in an error.
 */
import { ByteReader, type Bytes, ByteWriter, toHex } from "../common/bytes.ts";
import type { Clock } from "../common/clock.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
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
import { released, secretBytes, secretCopy } from "../crypto/provider_checks.ts";
import { KEY_SIZE, type KeyMemory, type SecretKey } from "./key_memory.ts";
import { type EpochKey, LEASE_MS, type TenantKeyLease } from "./key_manager.ts";

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
   * Takes a lease in; the message's copies are zeroed, also when it is refused.
   *
   * @param askedMs Monotonic time before the lease was asked for: it counts from there.
   * @throws KisekiError `common.invalid_argument` for a lease of somebody else, without keys, with
   *   an epoch twice, or for longer than {@link LEASE_MS}; the lease before stays.
   */
  renew(lease: TenantKeyLease, askedMs: number): void {
    try {
      checkLease(lease, this.organisation);
      const before = this.#lease;
      this.#lease = {
        system: this.#hold(lease.systemKeys),
        wrapping: this.#hold(lease.wrappingKeys),
        chunkId: this.#memory.hold(lease.chunkIdKey),
        nameHash: this.#memory.hold(lease.nameHashKey),
        systemEpoch: newest(lease.systemKeys),
        tenantEpoch: newest(lease.wrappingKeys),
      };
      this.#untilMs = askedMs + lease.validMs;
      if (before !== undefined) releaseLease(before);
    } finally {
      zeroLease(lease);
    }
  }

  generateDataKey(): DataKey {
    const lease = this.#valid();
    const raw = secretBytes(AEAD_KEY_SIZE);
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
    if (wrapped.length !== WRAPPED_DEK_SIZE) {
      throw new KisekiError(
        "common.corrupt_format",
        `a wrapped data key of ${wrapped.length} bytes (${WRAPPED_DEK_SIZE} wanted)`,
      );
    }
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

  /** Forgets when the lease has ended: a late call does no harm. */
  forgetIfEnded(): void {
    if (this.#clock.monotonicMs() >= this.#untilMs) this.forget();
  }

  /**
   * Forgets and zeroes the lease and what nobody holds. DEKs in use are refused until the next
   * {@link renew} and stay until their holders release them.
   */
  forget(): void {
    for (const opened of this.#opened.values()) {
      opened.cached = false;
      releaseUnused(opened);
    }
    this.#opened.clear();
    if (this.#lease !== undefined) releaseLease(this.#lease);
    this.#lease = undefined;
    this.#untilMs = 0;
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

  #hold(keys: readonly EpochKey[]): ReadonlyMap<number, SecretKey> {
    return new Map(keys.map(({ epoch, key }) => [epoch, this.#memory.hold(key)]));
  }

  #wrap(lease: HeldLease, raw: Bytes): Bytes {
    const { systemEpoch, tenantEpoch } = lease;
    const inner = this.#provider.wrapKey(keyOf(lease.wrapping, tenantEpoch, "tenant"), raw);
    const outer = this.#provider.wrapKey(keyOf(lease.system, systemEpoch, "system"), inner);
    inner.fill(0);
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
    try {
      return this.#provider.unwrapKey(wrappingKey, inner);
    } finally {
      inner.fill(0);
    }
  }

  #keep(wrapped: Bytes, raw: Bytes): OpenedKey {
    const held = this.#memory.hold(raw);
    let aead: Aead;
    try {
      aead = this.#provider.aead(raw);
    } catch (error) {
      held.release();
      throw error;
    }
    const opened: OpenedKey = { aead, raw: held, holders: 0, cached: true };
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
    const check = (): void => {
      if (!held) throw released("a data key");
      this.#valid();
    };
    const release = (): void => {
      if (!held) return;
      held = false;
      opened.holders--;
      releaseUnused(opened);
    };
    const view = new DataView(wrapped.buffer, wrapped.byteOffset, wrapped.byteLength);
    return {
      wrapped: wrapped.slice(),
      // The context is shared: each holder's view ends with its own release.
      aead: {
        seal: (plaintext, associatedData, out) => {
          check();
          return opened.aead.seal(plaintext, associatedData, out);
        },
        open: (sealed, associatedData, out) => {
          check();
          return opened.aead.open(sealed, associatedData, out);
        },
        release,
      },
      systemEpoch: view.getUint32(4, true),
      tenantEpoch: view.getUint32(8, true),
      exportKey: () => {
        check();
        return secretCopy(opened.raw.bytes);
      },
      release,
    };
  }
}

/**
 * Gets leases from a key manager, near or far, and renews those in use.
 *
 * A manager that says for good that there are no keys (`keys.unavailable`, not retriable: destroyed)
 * ends the lease at once and renewals with it; any other failure is tried again while the lease
 * runs out.
 */
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
    /** Of this source alone: closed with it. */
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
    for (const keys of this.#held.values()) keys.forget();
    this.#held.clear();
    this.#memory.close();
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
    this.#checkOpen();
    const askedMs = this.#clock.monotonicMs();
    let lease: TenantKeyLease;
    try {
      lease = await this.#fetch(organisation);
    } catch (error) {
      if (isKisekiError(error, "keys.unavailable") && !error.retriable) this.#end(organisation);
      throw error;
    }
    if (this.#closed) {
      zeroLease(lease);
      this.#checkOpen();
    }
    const keys = this.#held.get(organisation) ??
      new LeasedTenantKeys(organisation, this.#provider, this.#memory, this.#clock);
    keys.renew(lease, askedMs);
    this.#held.set(organisation, keys);
    this.#schedule(organisation, keys, lease.validMs / 3);
    return keys;
  }

  #checkOpen(): void {
    if (this.#closed) throw new KisekiError("keys.unavailable", "the key source was closed");
  }

  /** The manager took the keys back. */
  #end(organisation: OrganisationId): void {
    this.#timers.get(organisation)?.();
    this.#timers.delete(organisation);
    this.#held.get(organisation)?.forget();
  }

  /** Renews at a third of the lease; a failure is tried again soon, and the lease runs out alone. */
  #schedule(organisation: OrganisationId, keys: LeasedTenantKeys, delayMs: number): void {
    if (this.#closed) return;
    this.#timers.get(organisation)?.();
    const cancelEnd = this.#clock.after(
      Math.max(0, keys.untilMs - this.#clock.monotonicMs()),
      () => keys.forgetIfEnded(),
    );
    const cancelRenewal = this.#clock.after(delayMs, () => {
      // An end that came with the failure has cancelled these timers: nothing is tried again.
      const timers = this.#timers.get(organisation);
      this.#ask(organisation).catch(() => {
        if (timers === this.#timers.get(organisation)) this.#schedule(organisation, keys, RETRY_MS);
      });
    });
    this.#timers.set(organisation, () => {
      cancelEnd();
      cancelRenewal();
    });
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

/** @throws KisekiError `common.invalid_argument`; nothing of the lease is in the text but numbers. */
function checkLease(lease: TenantKeyLease, organisation: OrganisationId): void {
  if (lease.organisation !== organisation) throw invalidLease("of another organisation");
  if (!(lease.validMs > 0 && lease.validMs <= LEASE_MS)) {
    throw invalidLease(`for ${lease.validMs} ms (max ${LEASE_MS})`);
  }
  for (
    const [what, keys] of [["system", lease.systemKeys], ["tenant", lease.wrappingKeys]] as const
  ) {
    if (keys.length === 0) throw invalidLease(`without a ${what} key`);
    const epochs = new Set(keys.map(({ epoch }) => epoch));
    if (epochs.size !== keys.length) throw invalidLease(`with a ${what} epoch twice`);
  }
  if (keysOf(lease).some((key) => key.length !== KEY_SIZE)) throw invalidLease("with a short key");
}

function invalidLease(what: string): KisekiError {
  return new KisekiError("common.invalid_argument", `a lease ${what}`);
}

function keysOf(lease: TenantKeyLease): readonly Bytes[] {
  const epochKeys = [...lease.systemKeys, ...lease.wrappingKeys].map(({ key }) => key);
  return [...epochKeys, lease.chunkIdKey, lease.nameHashKey];
}

/** Zeroes a lease that crossed a boundary. */
export function zeroLease(lease: TenantKeyLease): void {
  for (const key of keysOf(lease)) key.fill(0);
}

function newest(keys: readonly EpochKey[]): number {
  return keys.reduce((highest, { epoch }) => Math.max(highest, epoch), 0);
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
