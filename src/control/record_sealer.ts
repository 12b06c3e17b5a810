/**
 * Sealed part of a tenant's row: the DEK wrapped twice (60 bytes), then an envelope of kind
 * `record` whose identity is the row's lookup hash. So no record opens in another's place.
 */
import { type Bytes, concatBytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { openEnvelope, sealedSize, sealEnvelope } from "../crypto/envelope.ts";
import { EnvelopeKind } from "../crypto/envelope_format.ts";
import { recordIdentity } from "../crypto/envelope_identity.ts";
import { type TenantKeys, WRAPPED_DEK_SIZE } from "../crypto/sealer.ts";

/** Seals a record under a fresh DEK of the tenant. */
export function sealRecord(keys: TenantKeys, lookupHash: Bytes, plaintext: Bytes): Bytes {
  const dataKey = keys.generateDataKey();
  try {
    const envelope = new Uint8Array(sealedSize(plaintext.length, 0));
    const identity = recordIdentity(lookupHash);
    sealEnvelope(
      dataKey,
      EnvelopeKind.record,
      keys.organisation,
      identity,
      plaintext,
      0,
      envelope,
    );
    return concatBytes(dataKey.wrapped, envelope);
  } finally {
    dataKey.release();
  }
}

/** @throws KisekiError `crypto.open_failed`, `common.corrupt_format`, `keys.unavailable`. */
export function openRecord(keys: TenantKeys, lookupHash: Bytes, sealed: Bytes): Bytes {
  if (sealed.length < WRAPPED_DEK_SIZE) {
    throw new KisekiError("common.corrupt_format", `a sealed record of ${sealed.length} bytes`);
  }
  const dataKey = keys.openDataKey(sealed.subarray(0, WRAPPED_DEK_SIZE));
  try {
    const envelope = sealed.subarray(WRAPPED_DEK_SIZE);
    const out = new Uint8Array(envelope.length);
    const size = openEnvelope(
      dataKey,
      EnvelopeKind.record,
      keys.organisation,
      recordIdentity(lookupHash),
      envelope,
      out,
    );
    return out.subarray(0, size);
  } finally {
    dataKey.release();
  }
}
