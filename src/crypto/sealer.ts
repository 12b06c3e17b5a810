/**
 * Ports to the key hierarchy: declared here, implemented by `src/keys`.
 *
 * A data encryption key (DEK) is random, has one writer and one purpose (a chunk, a run, a term of
 * a shard's log) and is stored only wrapped twice: first under the tenant's wrapping key (TWK, by
 * epoch), then under HKDF(system master of an epoch, organisation). All calls are synchronous on
 * keys that a lease already brought here; a lease that ran out throws `keys.unavailable`.
 *
 * Wrapped DEK, 60 bytes:
 *
 * | offset | size | field                                             |
 * |-------:|-----:|---------------------------------------------------|
 * |      0 |    1 | version, 1                                        |
 * |      1 |    1 | wrap algorithm, 1 = AES-256-KW twice (RFC 3394)   |
 * |      2 |    2 | reserved, 0                                       |
 * |      4 |    4 | system epoch, u32 little-endian, from 1           |
 * |      8 |    4 | tenant epoch (of the TWK), u32, from 1            |
 * |     12 |   48 | KW(system key, KW(TWK, DEK)): 32 + 8 + 8 bytes    |
 *
 * Re-wrapping the outer layer changes offsets 4..8 and 12..60 alone and needs no tenant key.
 */
import type { Bytes } from "../common/bytes.ts";
import type { ChunkId, OrganisationId } from "../common/ids.ts";
import type { Aead } from "./provider.ts";

export const WRAPPED_DEK_SIZE = 60;

/** The organisation of the system's own records (control shard): all zero. */
export const SYSTEM_ORGANISATION = "00000000000000000000000000000000" as OrganisationId;

/** A DEK in use. `release` frees the key schedule; the holder calls it once. */
export interface DataKey {
  /** {@link WRAPPED_DEK_SIZE} bytes, to be stored beside what it sealed. */
  readonly wrapped: Bytes;
  readonly aead: Aead;
  /** Epochs at the time of generation, bound into every envelope it seals. */
  readonly systemEpoch: number;
  readonly tenantEpoch: number;
  /**
   * A copy of the raw 32 bytes, for hand-over to another isolate of this process that does the
   * sealing (folds and merges in a Worker). Transfer it, never clone it; who holds it zeroes it.
   */
  exportKey(): Bytes;
  release(): void;
}

/** The keys of one organisation, held by lease. */
export interface TenantKeys {
  readonly organisation: OrganisationId;
  /** A fresh random DEK. @throws KisekiError `keys.unavailable`. */
  generateDataKey(): DataKey;
  /**
   * Opens a stored DEK. The implementation may cache; each result is released by its caller.
   *
   * @throws KisekiError `keys.unavailable`, `keys.unknown_epoch`, `crypto.open_failed`,
   *   `common.corrupt_format`, `common.unsupported_version`.
   */
  openDataKey(wrapped: Bytes): DataKey;
  /** HMAC-SHA256(chunk-id key, SHA-256 of the plaintext), as hex. */
  chunkId(plaintextSha256: Bytes): ChunkId;
  /** HMAC-SHA256(name-hash key, name), 32 bytes. */
  nameHash(name: Bytes): Bytes;
}

/** Where an isolate gets keys from. */
export interface KeySource {
  /** Acquires or renews the lease. @throws KisekiError `keys.unavailable`. */
  acquire(organisation: OrganisationId): Promise<TenantKeys>;
  /** The keys already held. @throws KisekiError `keys.unavailable`. */
  held(organisation: OrganisationId): TenantKeys;
}

/** Makes envelopes that only open in their own place. Layout: see `envelope.ts`. */
export type { Aead };
