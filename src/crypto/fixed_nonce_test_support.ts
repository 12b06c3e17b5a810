/**
 * A data key with known nonces, for golden vectors.
 *
 * This is the only way to choose a nonce: providers take none from outside. The file is imported
 * by tests alone (a test reads the imports and holds that), and it uses Node's cipher, not a
 * provider, so that golden vectors also check providers against an independent implementation.
 */
import { createCipheriv, createDecipheriv } from "node:crypto";
import { type Bytes, unshared } from "../common/bytes.ts";
import { openFailed } from "./provider_checks.ts";
import { type Aead, AEAD_OVERHEAD, AEAD_TAG_SIZE } from "./provider.ts";
import { type DataKey, WRAPPED_DEK_SIZE } from "./sealer.ts";

/** A data key whose n-th seal uses nonce n (big-endian in the last four of twelve bytes). */
export function fixedNonceDataKey(
  key: Bytes,
  systemEpoch: number,
  tenantEpoch: number,
  firstNonce = 0,
): DataKey {
  const wrapped = new Uint8Array(WRAPPED_DEK_SIZE);
  return {
    wrapped,
    aead: fixedNonceAead(key, firstNonce),
    systemEpoch,
    tenantEpoch,
    exportKey: () => key.slice(),
    release() {},
  };
}

function fixedNonceAead(key: Bytes, firstNonce: number): Aead {
  let next = firstNonce;
  return {
    seal(plaintext, associatedData, out) {
      const nonce = new Uint8Array(12);
      new DataView(nonce.buffer).setUint32(8, next++);
      const cipher = createCipheriv("aes-256-gcm", unshared(key), nonce);
      cipher.setAAD(unshared(associatedData));
      if (plaintext.length > 0) out.set(cipher.update(unshared(plaintext)));
      cipher.final();
      out.set(cipher.getAuthTag(), plaintext.length);
      out.set(nonce, plaintext.length + AEAD_TAG_SIZE);
      return plaintext.length + AEAD_OVERHEAD;
    },
    open(sealed, associatedData, out) {
      const size = sealed.length - AEAD_OVERHEAD;
      const own = unshared(sealed);
      const nonce = own.subarray(size + AEAD_TAG_SIZE);
      const cipher = createDecipheriv("aes-256-gcm", unshared(key), nonce);
      cipher.setAuthTag(own.subarray(size, size + AEAD_TAG_SIZE));
      cipher.setAAD(unshared(associatedData));
      if (size > 0) out.set(cipher.update(own.subarray(0, size)));
      try {
        cipher.final();
      } catch {
        // Node's one reason is that the tag differs.
        throw openFailed();
      }
      return size;
    },
    release() {},
  };
}
