/**
 * The key manager as nodes see it: the embedded one and the replicated keyserver implement the same.
 *
 * It holds system masters and tenant key records; what it hands out is a lease: the per-organisation
 * derived keys, the tenant's wrapping keys and identifier keys, for {@link LEASE_MS}. A master never
 * leaves it.
 */
import type { Bytes } from "../common/bytes.ts";
import type { OrganisationId } from "../common/ids.ts";

/** How long a lease holds without renewal. */
export const LEASE_MS = 25_000;

/** One key of an epoch. */
export interface EpochKey {
  readonly epoch: number;
  readonly key: Bytes;
}

/** The keys of one organisation for a while. Whoever receives it zeroes what it does not keep. */
export interface TenantKeyLease {
  readonly organisation: OrganisationId;
  /** HKDF(system master of the epoch, organisation); the newest epoch wraps new DEKs. */
  readonly systemKeys: readonly EpochKey[];
  /** Tenant wrapping keys by tenant epoch. */
  readonly wrappingKeys: readonly EpochKey[];
  readonly chunkIdKey: Bytes;
  readonly nameHashKey: Bytes;
  /** Milliseconds that it holds from when it was asked for. */
  readonly validMs: number;
}

export interface KeyManagerHealth {
  readonly manager: string;
  readonly systemEpoch: number;
  readonly organisations: number;
  /** What protects keys in memory is missing, one line each. */
  readonly warnings: readonly string[];
}

export interface KeyManager {
  /**
   * @throws KisekiError `keys.unavailable` for an organisation that is unknown or destroyed.
   */
  lease(organisation: OrganisationId): Promise<TenantKeyLease>;
  /** Makes the keys of an organisation. Idempotent. @throws after its keys were destroyed. */
  createOrganisation(organisation: OrganisationId): Promise<void>;
  /** Overwrites every key of an organisation, for good. Idempotent. */
  destroyOrganisation(organisation: OrganisationId): Promise<void>;
  /** A new system master for all organisations. @returns its epoch. */
  rotateSystem(): Promise<number>;
  /** A new tenant wrapping key. @returns its epoch. */
  rotateTenant(organisation: OrganisationId): Promise<number>;
  health(): KeyManagerHealth;
  close(): void;
}
