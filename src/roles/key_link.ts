/**
 * Key leases from the main isolate, where the key manager is, to its Workers.
 *
 * Request: organisation (16). Answer: valid milliseconds u32, then counted lists of (epoch u32,
 * key 32): system keys, wrapping keys; then chunk-id key and name-hash key. The bytes cross rings
 * of this process's memory and are zeroed by the receiver once they are in locked memory.
 */
import { openLibc } from "../../ffi/libc.ts";
import { ByteReader, type Bytes, ByteWriter } from "../common/bytes.ts";
import { idFromBytes, idToBytes, type OrganisationId } from "../common/ids.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import { secretCopy } from "../crypto/provider_checks.ts";
import type { Link } from "../engine/link.ts";
import { Method } from "../engine/messages.ts";
import type { EpochKey, KeyManager, TenantKeyLease } from "../keys/key_manager.ts";
import { KEY_SIZE, KeyMemory } from "../keys/key_memory.ts";
import { LeasedKeySource, zeroLease } from "../keys/tenant_keys.ts";
import { bootClock } from "./boot_clock.ts";

/** Most epochs of one kind in a lease. */
const MAX_EPOCHS = 4096;

/** A key source whose leases come over the link. */
export function linkedKeySource(main: Link, provider: CryptoProvider): LeasedKeySource {
  const libc = openLibc();
  return new LeasedKeySource({
    provider,
    clock: bootClock(libc),
    memory: new KeyMemory(libc),
    fetch: async (organisation) => {
      const answer = await main.call(Method.keyLease, idToBytes(organisation));
      try {
        return decodeLease(organisation, answer);
      } finally {
        answer.fill(0);
      }
    },
  });
}

/** The manager's side. */
export function serveKeys(link: Link, manager: KeyManager): void {
  link.handle(Method.keyLease, async (payload) => {
    return encodeLease(await manager.lease(idFromBytes<OrganisationId>(payload)));
  });
}

/** Zeroes the lease's own copies; the answer is the only one left. */
export function encodeLease(lease: TenantKeyLease): Bytes {
  const { systemKeys, wrappingKeys } = lease;
  const epochs = systemKeys.length + wrappingKeys.length;
  // The exact size: a writer that grows leaves copies behind.
  const writer = new ByteWriter(12 + epochs * (4 + KEY_SIZE) + 2 * KEY_SIZE).u32(lease.validMs);
  for (const keys of [systemKeys, wrappingKeys]) {
    writer.u32(keys.length);
    for (const { epoch, key } of keys) writer.u32(epoch).raw(key);
  }
  writer.raw(lease.chunkIdKey).raw(lease.nameHashKey);
  zeroLease(lease);
  return writer.view();
}

/** The caller zeroes `bytes`. @throws KisekiError `common.corrupt_format`. */
export function decodeLease(organisation: OrganisationId, bytes: Bytes): TenantKeyLease {
  const reader = new ByteReader(bytes, "key lease");
  const validMs = reader.u32();
  // Views until all of it was read: nothing is copied of a lease that is refused.
  const keys = (): readonly EpochKey[] => {
    const count = reader.u32();
    if (count > MAX_EPOCHS) throw reader.corrupt(`${count} epochs (max ${MAX_EPOCHS})`);
    return Array.from({ length: count }, () => ({
      epoch: reader.u32(),
      key: reader.raw(KEY_SIZE),
    }));
  };
  const systemKeys = keys();
  const wrappingKeys = keys();
  const chunkIdKey = reader.raw(KEY_SIZE);
  const nameHashKey = reader.raw(KEY_SIZE);
  reader.end();
  const own = ({ epoch, key }: EpochKey): EpochKey => ({ epoch, key: secretCopy(key) });
  return {
    organisation,
    systemKeys: systemKeys.map(own),
    wrappingKeys: wrappingKeys.map(own),
    chunkIdKey: secretCopy(chunkIdKey),
    nameHashKey: secretCopy(nameHashKey),
    validMs,
  };
}
