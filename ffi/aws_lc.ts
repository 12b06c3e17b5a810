/**
 * AWS-LC's libcrypto: the shared EVP part, EVP_AEAD, AES key wrap, HKDF and the FIPS questions
 * (openssl/aead.h, openssl/aes.h, openssl/hkdf.h, openssl/service_indicator.h).
 */
import { EVP_SYMBOLS, type EvpDigests } from "./evp.ts";
import { NativeLibraryError, openLibrary, stringAt } from "./native_library.ts";

const B = "buffer";
const I32 = "i32";
const SIZE = "usize";
const PTR = "pointer";

const SYMBOLS = {
  ...EVP_SYMBOLS,
  awslc_version_string: { parameters: [], result: PTR },
  FIPS_mode: { parameters: [], result: I32 },
  FIPS_service_indicator_before_call: { parameters: [], result: "u64", optional: true },
  FIPS_service_indicator_after_call: { parameters: [], result: "u64", optional: true },
  EVP_aead_aes_256_gcm: { parameters: [], result: PTR },
  EVP_aead_aes_256_gcm_randnonce: { parameters: [], result: PTR },
  EVP_AEAD_CTX_new: { parameters: [PTR, B, SIZE, SIZE], result: PTR },
  EVP_AEAD_CTX_free: { parameters: [PTR], result: "void" },
  EVP_AEAD_CTX_seal: { parameters: [PTR, B, B, SIZE, B, SIZE, B, SIZE, B, SIZE], result: I32 },
  EVP_AEAD_CTX_open: { parameters: [PTR, B, B, SIZE, B, SIZE, B, SIZE, B, SIZE], result: I32 },
  AES_set_encrypt_key: { parameters: [B, "u32", B], result: I32 },
  AES_set_decrypt_key: { parameters: [B, "u32", B], result: I32 },
  AES_wrap_key: { parameters: [B, PTR, B, B, SIZE], result: I32 },
  AES_unwrap_key: { parameters: [B, PTR, B, B, SIZE], result: I32 },
  AES_wrap_key_padded: { parameters: [B, B, B, SIZE, B, SIZE], result: I32 },
  AES_unwrap_key_padded: { parameters: [B, B, B, SIZE, B, SIZE], result: I32 },
  HKDF: { parameters: [B, SIZE, PTR, B, SIZE, B, SIZE, B, SIZE], result: I32 },
} as const satisfies Deno.ForeignLibraryInterface;

/** Bytes of an AES_KEY (4 * 60 words of schedule and the rounds), rounded up. */
export const AES_KEY_STRUCT_SIZE = 256;

/** The binding: raw symbols and what was probed when it was opened. */
export interface AwsLc {
  readonly path: string;
  readonly version: string;
  /** True when the library is a FIPS module whose power-on self-test passed. */
  readonly fips: boolean;
  readonly symbols: Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];
  readonly digests: EvpDigests;
  /** EVP_AEAD whose nonce the caller gives. */
  readonly aes256Gcm: Deno.PointerValue;
  /** EVP_AEAD whose nonce the module draws; output is ciphertext, tag, nonce. */
  readonly aes256GcmRandomNonce: Deno.PointerValue;
  /** Unloads the binding. For tests. */
  unload(): void;
}

/**
 * Opens AWS-LC.
 *
 * @throws NativeLibraryError when it is absent, is another libcrypto or lacks a symbol.
 */
export function openAwsLc(path: string): AwsLc {
  const library = openLibrary(path, SYMBOLS);
  const c = library.symbols;
  const aes256Gcm = c.EVP_aead_aes_256_gcm();
  const aes256GcmRandomNonce = c.EVP_aead_aes_256_gcm_randnonce();
  if (aes256Gcm === null || aes256GcmRandomNonce === null) {
    library.close();
    throw new NativeLibraryError(path, "EVP_aead_aes_256_gcm is not there");
  }
  return {
    path,
    version: stringAt(c.awslc_version_string()),
    fips: c.FIPS_mode() === 1,
    symbols: c,
    digests: { sha256: c.EVP_sha256(), sha1: c.EVP_sha1(), md5: c.EVP_md5() },
    aes256Gcm,
    aes256GcmRandomNonce,
    unload: () => library.close(),
  };
}
