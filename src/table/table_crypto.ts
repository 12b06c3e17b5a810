/**
 * The two primitives that a table needs beside its tenant's keys.
 *
 * Invariant: this is the one place of the room that touches a crypto library.
 */
import { createCipheriv, createDecipheriv, createHash, randomFillSync } from "node:crypto";
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import {
  type Aead,
  AEAD_KEY_SIZE,
  AEAD_NONCE_SIZE,
  AEAD_OVERHEAD,
  AEAD_TAG_SIZE,
} from "../crypto/provider.ts";

/** SHA-256 of parts in order. */
export function sha256(...parts: readonly Bytes[]): Bytes {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return new Uint8Array(hash.digest());
}

/** AES-256-GCM under a raw key that was handed over for one run. */
export function aeadOf(key: Bytes): Aead {
  if (key.length !== AEAD_KEY_SIZE) {
    throw new KisekiError("common.invalid_argument", `an AEAD key of ${key.length} bytes`);
  }
  const own = key.slice();
  return {
    seal(plaintext, associatedData, out) {
      const nonce = out.subarray(
        plaintext.length + AEAD_TAG_SIZE,
        plaintext.length + AEAD_OVERHEAD,
      );
      randomFillSync(nonce);
      const cipher = createCipheriv("aes-256-gcm", own, nonce);
      cipher.setAAD(associatedData);
      out.set(cipher.update(plaintext), 0);
      cipher.final();
      out.set(cipher.getAuthTag(), plaintext.length);
      return plaintext.length + AEAD_OVERHEAD;
    },
    open(sealed, associatedData, out) {
      const length = sealed.length - AEAD_OVERHEAD;
      const nonce = sealed.subarray(sealed.length - AEAD_NONCE_SIZE);
      const decipher = createDecipheriv("aes-256-gcm", own, nonce);
      decipher.setAAD(associatedData);
      decipher.setAuthTag(sealed.subarray(length, length + AEAD_TAG_SIZE));
      out.set(decipher.update(sealed.subarray(0, length)), 0);
      try {
        decipher.final();
      } catch (cause) {
        out.fill(0, 0, length);
        throw new KisekiError("crypto.open_failed", "sealed bytes do not open", { cause });
      }
      return length;
    },
    release() {
      own.fill(0);
    },
  };
}
