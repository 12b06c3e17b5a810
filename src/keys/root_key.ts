/**
 * The key that seals the slot file at rest: from the environment, or from a file of mode 0600.
 *
 * Invariants: never a constant, nor one byte repeated (what a lost write or a careless hand
 * leaves); a file that others may read, or of a wrong size, is refused; the environment wins over the file, and then no file is made.
 */
import type { Libc } from "../../ffi/libc.ts";
import { Errno, FileMode, OpenFlag } from "../../ffi/libc_constants.ts";
import { type Bytes, fromHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import { secretBytes, secretCopy } from "../crypto/provider_checks.ts";
import { createSlotFile } from "./slot_storage.ts";

/** Environment variable with the root key: 64 hex digits, or base64 of 32 bytes. */
export const ROOT_KEY_VARIABLE = "KISEKI_ROOT_KEY";
const ROOT_KEY_SIZE = 32;

/**
 * The root key; the caller zeroes it.
 *
 * @param create Makes a random file where there is none: on the first start alone.
 * @throws KisekiError `keys.unavailable` with what to do.
 */
export async function readRootKey(options: {
  readonly libc: Libc;
  readonly provider: CryptoProvider;
  readonly path: string;
  readonly environment: string | undefined;
  readonly create: boolean;
}): Promise<Bytes> {
  const { libc, path, environment } = options;
  if (environment !== undefined) return parseRootKey(environment);
  if (!exists(libc, path)) {
    if (!options.create) {
      throw new KisekiError(
        "keys.unavailable",
        `${path}: the root key file is missing; restore it, or set ${ROOT_KEY_VARIABLE}`,
      );
    }
    const key = secretBytes(ROOT_KEY_SIZE);
    options.provider.random(key);
    try {
      await createSlotFile(libc, path, key);
    } catch (error) {
      key.fill(0);
      throw error;
    }
    return key;
  }
  const fd = libc.open(path, OpenFlag.readOnly | OpenFlag.noFollow);
  if (fd < 0) throw refused(path, "cannot be opened");
  try {
    const status = libc.fstat(fd);
    if (typeof status === "number") throw refused(path, "cannot be examined");
    if ((status.mode & FileMode.typeMask) !== FileMode.regular) throw refused(path, "is no file");
    if ((status.mode & 0o077) !== 0) {
      throw refused(path, `may be read by others: chmod 600 ${path}`);
    }
    if (status.sizeBytes !== ROOT_KEY_SIZE) {
      throw refused(path, `has ${status.sizeBytes} bytes (${ROOT_KEY_SIZE} wanted)`);
    }
    const key = secretBytes(ROOT_KEY_SIZE);
    if (libc.pread(fd, key, 0) !== ROOT_KEY_SIZE) throw refused(path, "cannot be read");
    if (isOneByteRepeated(key)) throw refused(path, "is one byte repeated: no key");
    return key;
  } finally {
    libc.close(fd);
  }
}

/** @throws KisekiError `keys.unavailable`; the text never holds what was given. */
export function parseRootKey(text: string): Bytes {
  const read = decodeText(text);
  if (read?.length === ROOT_KEY_SIZE && !isOneByteRepeated(read)) {
    const key = secretCopy(read);
    read.fill(0);
    return key;
  }
  throw new KisekiError(
    "keys.unavailable",
    `${ROOT_KEY_VARIABLE}: 64 hex digits or base64 of 32 random bytes are wanted`,
  );
}

function decodeText(text: string): Bytes | undefined {
  if (/^[0-9a-fA-F]{64}$/.test(text)) return fromHex(text);
  return /^[A-Za-z0-9+/]{43}=$/.test(text) ? Uint8Array.fromBase64(text) : undefined;
}

function isOneByteRepeated(key: Bytes): boolean {
  return key.every((byte) => byte === key[0]);
}

function exists(libc: Libc, path: string): boolean {
  const fd = libc.open(path, OpenFlag.readOnly | OpenFlag.noFollow);
  if (fd < 0) return fd !== -Errno.ENOENT;
  libc.close(fd);
  return true;
}

function refused(path: string, why: string): KisekiError {
  return new KisekiError("keys.unavailable", `root key ${path} ${why}`);
}
