/**
 * OpenSSL 3's libcrypto: the shared EVP part and EVP_CIPHER (openssl/evp.h).
 *
 * Algorithms are fetched once when the library is opened: OpenSSL 3 otherwise looks each one up
 * again at every init (crypto(7), "performance").
 */
import { EVP_SYMBOLS, type EvpDigests } from "./evp.ts";
import { cString, NativeLibraryError, openLibrary, stringAt } from "./native_library.ts";

const B = "buffer";
const I32 = "i32";
const PTR = "pointer";

const SYMBOLS = {
  ...EVP_SYMBOLS,
  OpenSSL_version_num: { parameters: [], result: "u64" },
  EVP_default_properties_is_fips_enabled: { parameters: [PTR], result: I32 },
  EVP_MD_fetch: { parameters: [PTR, B, PTR], result: PTR },
  EVP_CIPHER_fetch: { parameters: [PTR, B, PTR], result: PTR },
  EVP_CIPHER_CTX_new: { parameters: [], result: PTR },
  EVP_CIPHER_CTX_free: { parameters: [PTR], result: "void" },
  EVP_CIPHER_CTX_reset: { parameters: [PTR], result: I32 },
  EVP_CIPHER_CTX_ctrl: { parameters: [PTR, I32, I32, B], result: I32 },
  EVP_CIPHER_CTX_set_flags: { parameters: [PTR, I32], result: "void" },
  /** ctx, cipher, engine, key, iv: with key and without iv, then the other way round. */
  EVP_EncryptInit_key: {
    name: "EVP_EncryptInit_ex",
    parameters: [PTR, PTR, PTR, B, PTR],
    result: I32,
  },
  EVP_EncryptInit_iv: {
    name: "EVP_EncryptInit_ex",
    parameters: [PTR, PTR, PTR, PTR, B],
    result: I32,
  },
  EVP_EncryptUpdate: { parameters: [PTR, B, B, B, I32], result: I32 },
  EVP_EncryptUpdate_aad: {
    name: "EVP_EncryptUpdate",
    parameters: [PTR, PTR, B, B, I32],
    result: I32,
  },
  EVP_EncryptFinal_ex: { parameters: [PTR, B, B], result: I32 },
  EVP_DecryptInit_key: {
    name: "EVP_DecryptInit_ex",
    parameters: [PTR, PTR, PTR, B, PTR],
    result: I32,
  },
  EVP_DecryptInit_iv: {
    name: "EVP_DecryptInit_ex",
    parameters: [PTR, PTR, PTR, PTR, B],
    result: I32,
  },
  EVP_DecryptUpdate: { parameters: [PTR, B, B, B, I32], result: I32 },
  EVP_DecryptUpdate_aad: {
    name: "EVP_DecryptUpdate",
    parameters: [PTR, PTR, B, B, I32],
    result: I32,
  },
  EVP_DecryptFinal_ex: { parameters: [PTR, B, B], result: I32 },
} as const satisfies Deno.ForeignLibraryInterface;

/** EVP_CTRL_AEAD_GET_TAG and EVP_CTRL_AEAD_SET_TAG (openssl/evp.h). */
export const CTRL_GET_TAG = 0x10;
export const CTRL_SET_TAG = 0x11;
/** EVP_CIPHER_CTX_FLAG_WRAP_ALLOW (openssl/evp.h). */
export const FLAG_WRAP_ALLOW = 1;

/** The binding: raw symbols, what was probed and the fetched algorithms. */
export interface OpenSsl {
  readonly path: string;
  readonly version: string;
  /** True when the default properties ask for the FIPS provider. */
  readonly fips: boolean;
  readonly symbols: Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];
  readonly digests: EvpDigests;
  readonly aes256Gcm: Deno.PointerObject;
  /** A fetched wrap cipher by key size and padding. */
  wrapCipher(keyBits: 128 | 192 | 256, padded: boolean): Deno.PointerObject;
  /** Unloads the binding. For tests. */
  unload(): void;
}

/**
 * Opens OpenSSL 3 or newer.
 *
 * @throws NativeLibraryError when it is absent, older, or lacks an algorithm.
 */
export function openOpenSsl(path = "libcrypto.so.3"): OpenSsl {
  const library = openLibrary(path, SYMBOLS);
  const c = library.symbols;
  try {
    if (c.OpenSSL_version_num() < 0x3000_0000n) {
      throw new NativeLibraryError(path, `${stringAt(c.OpenSSL_version(0))} is older than 3.0`);
    }
    const fetchCipher = (name: string): Deno.PointerObject => {
      const cipher = c.EVP_CIPHER_fetch(null, cString(name), null);
      if (cipher === null) throw new NativeLibraryError(path, `cipher ${name} cannot be fetched`);
      return cipher;
    };
    const wraps = new Map<string, Deno.PointerObject>();
    const aes256Gcm = fetchCipher("AES-256-GCM");
    fetchCipher("AES-256-WRAP");
    const sha256 = c.EVP_MD_fetch(null, cString("SHA256"), null);
    if (sha256 === null) throw new NativeLibraryError(path, "SHA256 cannot be fetched");
    // MD5 and SHA-1 may be missing under a FIPS policy: said when they are asked for.
    const sha1 = c.EVP_MD_fetch(null, cString("SHA1"), null);
    const md5 = c.EVP_MD_fetch(null, cString("MD5"), null);
    c.ERR_clear_error();
    return {
      path,
      version: stringAt(c.OpenSSL_version(0)),
      fips: c.EVP_default_properties_is_fips_enabled(null) === 1,
      symbols: c,
      digests: { sha256, sha1, md5 },
      aes256Gcm,
      wrapCipher: (keyBits, padded) => {
        const name = `AES-${keyBits}-WRAP${padded ? "-PAD" : ""}`;
        let cipher = wraps.get(name);
        if (cipher === undefined) wraps.set(name, cipher = fetchCipher(name));
        return cipher;
      },
      unload: () => library.close(),
    };
  } catch (error) {
    library.close();
    throw error;
  }
}
