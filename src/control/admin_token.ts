/**
 * The bearer token of the admin service: 256 random bits in a file of mode 0600, made on first
 * start. Whoever may read the file may administer the node.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { isKisekiError, KisekiError } from "../common/errors.ts";

const TOKEN = /^[A-Za-z0-9_-]{32,128}$/;

/**
 * Reads the token, or makes it.
 *
 * @throws KisekiError `config.invalid` when the file is readable by others or holds no token.
 */
export async function loadOrCreateAdminToken(file: string): Promise<string> {
  try {
    return await readAdminToken(file);
  } catch (error) {
    if (!isKisekiError(error, "common.not_found")) throw error;
  }
  const token = crypto.getRandomValues(new Uint8Array(32)).toBase64({
    alphabet: "base64url",
    omitPadding: true,
  });
  // Whole or not at all: a crash between the two calls leaves no half token under the name.
  const temporary = `${file}.new`;
  await Deno.writeTextFile(temporary, token + "\n", { mode: 0o600 });
  await Deno.chmod(temporary, 0o600);
  const handle = await Deno.open(temporary, { read: true });
  await handle.sync();
  handle.close();
  await Deno.rename(temporary, file);
  return token;
}

/**
 * Reads a token file.
 *
 * @throws KisekiError `common.not_found`, `config.invalid`.
 */
export async function readAdminToken(file: string): Promise<string> {
  let text: string;
  try {
    const info = await Deno.stat(file);
    if (info.mode !== null && (info.mode & 0o077) !== 0) {
      throw new KisekiError(
        "config.invalid",
        `${file}: found mode ${(info.mode & 0o777).toString(8)}; allowed: 600 (chmod 600 ${file})`,
      );
    }
    text = (await Deno.readTextFile(file)).trim();
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound) {
      throw new KisekiError("common.not_found", `${file}: no such token file`, { cause });
    }
    if (cause instanceof Deno.errors.PermissionDenied) {
      throw new KisekiError("common.permission_denied", `${file}: may not be read`, { cause });
    }
    throw cause;
  }
  if (!TOKEN.test(text)) {
    throw new KisekiError(
      "config.invalid",
      `${file}: holds no token; allowed: 32 to 128 characters of A-Z a-z 0-9 _ -`,
    );
  }
  return text;
}

/** Compares in a time that depends on neither value. */
export function sameToken(found: string, expected: string): boolean {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(found), digest(expected));
}
