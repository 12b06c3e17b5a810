/**
 * The part of libcrypto that AWS-LC and OpenSSL 3 share: digests, HMAC, random bytes.
 *
 * Calls return what the C function returns (1 = success). Lengths go as bigint because the C
 * parameter is size_t.
 */

const B = "buffer";
const I32 = "i32";
const SIZE = "usize";
const PTR = "pointer";

/** Symbols that both libraries export with one signature. */
export const EVP_SYMBOLS = {
  OpenSSL_version: { parameters: [I32], result: PTR },
  OPENSSL_cleanse: { parameters: [B, SIZE], result: "void" },
  ERR_clear_error: { parameters: [], result: "void" },
  RAND_bytes: { parameters: [B, I32], result: I32 },
  EVP_sha256: { parameters: [], result: PTR },
  EVP_sha1: { parameters: [], result: PTR },
  EVP_md5: { parameters: [], result: PTR },
  EVP_MD_CTX_new: { parameters: [], result: PTR },
  EVP_MD_CTX_free: { parameters: [PTR], result: "void" },
  EVP_DigestInit_ex: { parameters: [PTR, PTR, PTR], result: I32 },
  EVP_DigestUpdate: { parameters: [PTR, B, SIZE], result: I32 },
  EVP_DigestUpdate_async: {
    name: "EVP_DigestUpdate",
    parameters: [PTR, B, SIZE],
    result: I32,
    nonblocking: true,
  },
  EVP_DigestFinal_ex: { parameters: [PTR, B, B], result: I32 },
  EVP_Digest: { parameters: [B, SIZE, B, B, PTR, PTR], result: I32 },
  EVP_Digest_async: {
    name: "EVP_Digest",
    parameters: [B, SIZE, B, B, PTR, PTR],
    result: I32,
    nonblocking: true,
  },
  HMAC: { parameters: [PTR, B, I32, B, SIZE, B, B], result: PTR },
} as const satisfies Deno.ForeignLibraryInterface;

/** Typed calls of {@link EVP_SYMBOLS}. */
export type EvpSymbols = Deno.DynamicLibrary<typeof EVP_SYMBOLS>["symbols"];

/** EVP_MD pointers of the digests that the product uses. */
export interface EvpDigests {
  readonly sha256: Deno.PointerValue;
  readonly sha1: Deno.PointerValue;
  readonly md5: Deno.PointerValue;
}
