/**
 * The root hash of a run: what a manifest records of it. See `run_format.ts` for what it covers.
 */
import type { Bytes } from "../common/bytes.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import { WRAPPED_DEK_SIZE } from "../crypto/sealer.ts";
import { WRAPPED_KEY_OFFSET } from "./run_format.ts";

/** SHA-256 of the header, its wrapped DEK as zeros, and of `parts` in order. */
export function rootHashOf(
  provider: CryptoProvider,
  header: Bytes,
  parts: readonly Bytes[],
): Bytes {
  const hash = provider.hash("sha256");
  hash.update(header.slice().fill(0, WRAPPED_KEY_OFFSET, WRAPPED_KEY_OFFSET + WRAPPED_DEK_SIZE));
  for (const part of parts) hash.update(part);
  return hash.digest();
}
