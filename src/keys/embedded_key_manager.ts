/**
 * The key manager of a single node, in its own process: keys at rest in the slot file.
 *
 * Every organisation has an *internal* KEK from its first day: KEK -> TWK (by tenant epoch) ->
 * chunk-id and name-hash keys. Creation writes KEK, TWK, identifiers in this order, so a crash
 * leaves at most keys that nothing uses; the next creation of the same organisation finishes it.
 *
 * Invariants: a lease is given only for a complete, living organisation; destruction writes the
 * marker first, zeroes the keys in memory and then overwrites every slot, so that a crash between is
 * finished at the next open and is never reported as done before; an id whose keys were destroyed
 * never gets keys again; no two keys of a kind share an epoch.
 */
import type { Libc } from "../../ffi/libc.ts";
import { type Bytes, concatBytes, EMPTY_BYTES, fromHex, utf8 } from "../common/bytes.ts";
import type { Clock } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import type { OrganisationId } from "../common/ids.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import { secretBytes, secretCopy } from "../crypto/provider_checks.ts";
import { SYSTEM_ORGANISATION } from "../crypto/sealer.ts";
import { KEY_SIZE, KeyMemory, type SecretKey } from "./key_memory.ts";
import {
  type EpochKey,
  type KeyManager,
  type KeyManagerHealth,
  LEASE_MS,
  type TenantKeyLease,
} from "./key_manager.ts";
import { type KeyRecord, KeyRecordType } from "./key_slot_format.ts";
import { KeySlots, newSlotFile } from "./key_slots.ts";
import { createSlotFile, type SlotStorage } from "./slot_storage.ts";

const DERIVE_LABEL = utf8("kiseki organisation key 1");

/** One key and where it is kept. */
interface KeptKey {
  readonly number: number;
  readonly slot: number;
  /** Plain for masters and KEKs; unwrapped for TWKs. */
  readonly key: SecretKey;
}

interface Tenant {
  readonly keks: KeptKey[];
  readonly wrapping: KeptKey[];
  identifiers:
    | { readonly slot: number; readonly chunkId: SecretKey; readonly nameHash: SecretKey }
    | undefined;
}

export interface EmbeddedKeyManagerOptions {
  readonly libc: Libc;
  readonly provider: CryptoProvider;
  readonly clock: Clock;
  /** Taken over: closed with the manager, and when it cannot be opened. */
  readonly storage: SlotStorage;
  /** 32 bytes; may be zeroed afterwards. */
  readonly rootKey: Bytes;
}

/** Puts a new slot file in place. */
export async function createKeySlots(
  libc: Libc,
  provider: CryptoProvider,
  path: string,
  rootKey: Bytes,
  nowMs: number,
): Promise<void> {
  await createSlotFile(libc, path, newSlotFile(provider, rootKey, nowMs));
}

/**
 * Opens the manager; on the first start it makes the first master and the system's own keys.
 *
 * @throws KisekiError `keys.unavailable`, `common.corrupt_format`, `common.unsupported_version`.
 */
export async function openEmbeddedKeyManager(
  options: EmbeddedKeyManagerOptions,
): Promise<KeyManager> {
  const { provider, storage, rootKey } = options;
  const { slots, records } = await openSlots(provider, storage, rootKey);
  const manager = new EmbeddedKeyManager(options, slots);
  try {
    await manager.load(records);
  } catch (error) {
    manager.close();
    throw error;
  } finally {
    for (const { record } of records) record.key.fill(0);
  }
  return manager;
}

async function openSlots(
  provider: CryptoProvider,
  storage: SlotStorage,
  rootKey: Bytes,
): ReturnType<typeof KeySlots.open> {
  try {
    return await KeySlots.open(provider, storage, rootKey);
  } catch (error) {
    storage.close();
    throw error;
  }
}

class EmbeddedKeyManager implements KeyManager {
  readonly #provider: CryptoProvider;
  readonly #clock: Clock;
  readonly #memory: KeyMemory;
  readonly #slots: KeySlots;
  readonly #masters: KeptKey[] = [];
  readonly #tenants = new Map<OrganisationId, Tenant>();
  readonly #destroyed = new Set<OrganisationId>();
  /** One change of the slots at a time. */
  #turn: Promise<unknown> = Promise.resolve();
  #changing = 0;
  #closed = false;

  constructor(options: EmbeddedKeyManagerOptions, slots: KeySlots) {
    this.#provider = options.provider;
    this.#clock = options.clock;
    this.#memory = new KeyMemory(options.libc);
    this.#slots = slots;
  }

  /** Takes the stored records in and finishes what a crash cut short. */
  async load(
    records: readonly { readonly slot: number; readonly record: KeyRecord }[],
  ): Promise<void> {
    for (const { record } of records) {
      if (record.type === KeyRecordType.destroyedOrganisation) {
        this.#destroyed.add(record.organisation);
      }
    }
    const order = [
      KeyRecordType.master,
      KeyRecordType.tenantKek,
      KeyRecordType.tenantWrappingKey,
      KeyRecordType.tenantIdentifiers,
    ];
    for (const type of order) {
      for (const { slot, record } of records) {
        if (record.type !== type) continue;
        if (this.#destroyed.has(record.organisation)) await this.#slots.destroy(slot);
        else this.#take(slot, record);
      }
    }
    if (this.#masters.length === 0) await this.#newMaster();
    await this.#createTenant(SYSTEM_ORGANISATION);
  }

  async lease(organisation: OrganisationId): Promise<TenantKeyLease> {
    await this.#turn;
    this.#checkOpen();
    const tenant = this.#tenants.get(organisation);
    const destroyed = this.#destroyed.has(organisation);
    if (destroyed || tenant?.identifiers === undefined) {
      const why = destroyed ? "were destroyed" : "do not exist";
      throw new KisekiError("keys.unavailable", `the keys of organisation ${organisation} ${why}`);
    }
    return {
      organisation,
      systemKeys: this.#masters.map(({ number, key }): EpochKey => ({
        epoch: number,
        key: this.#provider.hkdfSha256(
          key.bytes,
          EMPTY_BYTES,
          concatBytes(DERIVE_LABEL, fromHex(organisation)),
          KEY_SIZE,
        ),
      })),
      wrappingKeys: tenant.wrapping.map(({ number, key }): EpochKey => ({
        epoch: number,
        key: secretCopy(key.bytes),
      })),
      chunkIdKey: secretCopy(tenant.identifiers.chunkId.bytes),
      nameHashKey: secretCopy(tenant.identifiers.nameHash.bytes),
      validMs: LEASE_MS,
    };
  }

  createOrganisation(organisation: OrganisationId): Promise<void> {
    return this.#inTurn(() => this.#createTenant(organisation));
  }

  destroyOrganisation(organisation: OrganisationId): Promise<void> {
    return this.#inTurn(async () => {
      if (organisation === SYSTEM_ORGANISATION) {
        throw new KisekiError("common.permission_denied", "the system's own keys stay");
      }
      if (!this.#destroyed.has(organisation)) {
        await this.#slots.put(this.#record(KeyRecordType.destroyedOrganisation, organisation, 0));
        this.#destroyed.add(organisation);
      }
      const tenant = this.#tenants.get(organisation);
      if (tenant === undefined) return;
      const { keks, wrapping, identifiers } = tenant;
      for (const { key } of [...keks, ...wrapping]) key.release();
      identifiers?.chunkId.release();
      identifiers?.nameHash.release();
      // The KEK first: without it nothing below it opens. A failure leaves the tenant in the map,
      // so that a second call cannot report what is not done.
      for (const { slot } of [...keks, ...wrapping]) await this.#slots.destroy(slot);
      if (identifiers !== undefined) await this.#slots.destroy(identifiers.slot);
      this.#tenants.delete(organisation);
    });
  }

  rotateSystem(): Promise<number> {
    return this.#inTurn(() => this.#newMaster());
  }

  rotateTenant(organisation: OrganisationId): Promise<number> {
    return this.#inTurn(async () => {
      const tenant = this.#tenants.get(organisation);
      if (this.#destroyed.has(organisation) || tenant?.identifiers === undefined) {
        throw new KisekiError("keys.unavailable", `organisation ${organisation} has no keys`);
      }
      return await this.#newWrappingKey(organisation, tenant);
    });
  }

  health(): KeyManagerHealth {
    const { reason } = this.#memory.report();
    const warnings = reason === undefined ? [] : [reason];
    if (this.#slots.inDoubt && !this.#closed && this.#changing === 0) {
      warnings.push("a write of the key slots failed: no key is made or destroyed until a restart");
    }
    return {
      manager: "embedded",
      systemEpoch: this.#masters.at(-1)?.number ?? 0,
      organisations: this.#tenants.size - 1,
      warnings,
    };
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#slots.close();
    this.#tenants.clear();
    this.#masters.length = 0;
    this.#memory.close();
  }

  #checkOpen(): void {
    if (this.#closed) throw new KisekiError("keys.unavailable", "the key manager was closed");
  }

  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(async () => {
      this.#checkOpen();
      this.#changing++;
      try {
        return await change();
      } finally {
        this.#changing--;
      }
    });
    this.#turn = result.catch(() => undefined);
    return result;
  }

  async #createTenant(organisation: OrganisationId): Promise<void> {
    if (this.#destroyed.has(organisation)) {
      throw new KisekiError(
        "common.failed_precondition",
        `the keys of organisation ${organisation} were destroyed: its id is not used again`,
      );
    }
    let tenant = this.#tenants.get(organisation);
    if (tenant === undefined) {
      tenant = { keks: [], wrapping: [], identifiers: undefined };
      this.#tenants.set(organisation, tenant);
    }
    if (tenant.keks.length === 0) {
      const raw = this.#random();
      tenant.keks.push(
        await this.#store(KeyRecordType.tenantKek, organisation, 1, 0, raw, raw),
      );
    }
    if (tenant.wrapping.length === 0) await this.#newWrappingKey(organisation, tenant);
    if (tenant.identifiers === undefined) await this.#newIdentifiers(organisation, tenant);
  }

  async #newMaster(): Promise<number> {
    const number = (this.#masters.at(-1)?.number ?? 0) + 1;
    const raw = this.#random();
    this.#masters.push(
      await this.#store(KeyRecordType.master, SYSTEM_ORGANISATION, number, 0, raw, raw),
    );
    return number;
  }

  async #newWrappingKey(organisation: OrganisationId, tenant: Tenant): Promise<number> {
    const kek = newestOf(tenant.keks, "KEK");
    const number = (tenant.wrapping.at(-1)?.number ?? 0) + 1;
    const raw = this.#random();
    const wrapped = this.#provider.wrapKeyPadded(kek.key.bytes, raw);
    tenant.wrapping.push(
      await this.#store(
        KeyRecordType.tenantWrappingKey,
        organisation,
        number,
        kek.number,
        wrapped,
        raw,
      ),
    );
    return number;
  }

  async #newIdentifiers(organisation: OrganisationId, tenant: Tenant): Promise<void> {
    const twk = newestOf(tenant.wrapping, "wrapping key");
    const raw = secretBytes(2 * KEY_SIZE);
    this.#provider.random(raw);
    try {
      const wrapped = this.#provider.wrapKeyPadded(twk.key.bytes, raw);
      const slot = await this.#slots.put(
        this.#record(KeyRecordType.tenantIdentifiers, organisation, 0, twk.number, wrapped),
      );
      tenant.identifiers = this.#identifiers(slot, raw);
    } finally {
      raw.fill(0);
    }
  }

  /** Stores `field`, keeps `raw` in locked memory, and zeroes both. */
  async #store(
    type: KeyRecordType,
    organisation: OrganisationId,
    number: number,
    wrappedBy: number,
    field: Bytes,
    raw: Bytes,
  ): Promise<KeptKey> {
    try {
      const slot = await this.#slots.put(
        this.#record(type, organisation, number, wrappedBy, field),
      );
      return { number, slot, key: this.#memory.hold(raw) };
    } finally {
      raw.fill(0);
      field.fill(0);
    }
  }

  #record(
    type: KeyRecordType,
    organisation: OrganisationId,
    number: number,
    wrappedBy = 0,
    key: Bytes = new Uint8Array(0),
  ): KeyRecord {
    const createdMs = Math.floor(this.#clock.wallMs());
    return { type, number, wrappedBy, organisation, createdMs, key };
  }

  #take(slot: number, record: KeyRecord): void {
    const { type, number, organisation, key } = record;
    if (type === KeyRecordType.master) {
      insert(this.#masters, { number, slot, key: this.#memory.hold(key) });
      return;
    }
    let tenant = this.#tenants.get(organisation);
    if (tenant === undefined) {
      tenant = { keks: [], wrapping: [], identifiers: undefined };
      this.#tenants.set(organisation, tenant);
    }
    if (type === KeyRecordType.tenantKek) {
      insert(tenant.keks, { number, slot, key: this.#memory.hold(key) });
      return;
    }
    const outer = (type === KeyRecordType.tenantWrappingKey ? tenant.keks : tenant.wrapping)
      .find((kept) => kept.number === record.wrappedBy);
    if (outer === undefined) {
      throw new KisekiError(
        "common.corrupt_format",
        `key slot ${slot}: the key that wraps it (number ${record.wrappedBy}) is missing`,
      );
    }
    const raw = this.#provider.unwrapKeyPadded(outer.key.bytes, key);
    try {
      if (type === KeyRecordType.tenantIdentifiers) {
        if (tenant.identifiers !== undefined) throw twice(slot, number);
        tenant.identifiers = this.#identifiers(slot, raw);
      } else {
        insert(tenant.wrapping, { number, slot, key: this.#memory.hold(raw) });
      }
    } finally {
      raw.fill(0);
    }
  }

  #identifiers(slot: number, raw: Bytes): NonNullable<Tenant["identifiers"]> {
    const chunkId = this.#memory.hold(raw.subarray(0, KEY_SIZE));
    const nameHash = this.#memory.hold(raw.subarray(KEY_SIZE, 2 * KEY_SIZE));
    return { slot, chunkId, nameHash };
  }

  #random(): Bytes {
    const key = secretBytes(KEY_SIZE);
    this.#provider.random(key);
    return key;
  }
}

/** Takes a stored key in, in order of its number. */
function insert(keys: KeptKey[], key: KeptKey): void {
  if (keys.some(({ number }) => number === key.number)) throw twice(key.slot, key.number);
  keys.push(key);
  keys.sort((a, b) => a.number - b.number);
}

function twice(slot: number, number: number): KisekiError {
  return new KisekiError(
    "common.corrupt_format",
    `key slot ${slot}: another slot holds a key of its kind and number ${number} too`,
  );
}

function newestOf(keys: readonly KeptKey[], what: string): KeptKey {
  const newest = keys.at(-1);
  if (newest === undefined) throw new KisekiError("common.internal", `no ${what}`);
  return newest;
}
