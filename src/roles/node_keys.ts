/**
 * The embedded key manager of this node, opened from its slot file and root key.
 */
import { openLibc } from "../../ffi/libc.ts";
import { SYSTEM_CLOCK } from "../common/clock.ts";
import type { ServerConfig } from "../common/config.ts";
import { KisekiError } from "../common/errors.ts";
import type { Logger } from "../common/logging.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import { createKeySlots, openEmbeddedKeyManager } from "../keys/embedded_key_manager.ts";
import type { KeyManager } from "../keys/key_manager.ts";
import { hardenProcess, KeyMemory } from "../keys/key_memory.ts";
import { KEY_SLOT_FILE_NAME } from "../keys/key_slot_format.ts";
import { readRootKey, ROOT_KEY_VARIABLE } from "../keys/root_key.ts";
import { openSlotStorage } from "../keys/slot_storage.ts";
import { LeasedKeySource } from "../keys/tenant_keys.ts";
import { bootClock } from "./boot_clock.ts";

export interface NodeKeys {
  readonly manager: KeyManager;
  /** For the main isolate's own use. */
  readonly source: LeasedKeySource;
  close(): void;
}

/**
 * Opens the keys; on the first start of a data directory it makes them.
 *
 * @throws KisekiError `keys.unavailable`, `common.corrupt_format`.
 */
export async function openNodeKeys(
  config: ServerConfig,
  provider: CryptoProvider,
  logger: Logger,
): Promise<NodeKeys> {
  const libc = openLibc();
  for (const missing of hardenProcess(libc)) logger.warn("process not hardened", { missing });
  const path = `${config.dataDir}/${KEY_SLOT_FILE_NAME}`;
  const first = !await isFile(path);
  if (first && await exists(`${config.dataDir}/shards`)) {
    throw new KisekiError(
      "keys.unavailable",
      `${path} is missing, but ${config.dataDir}/shards holds data that it seals: restore it`,
    );
  }
  const rootKey = await readRootKey({
    libc,
    provider,
    path: config.keys.rootKeyFile,
    environment: Deno.env.get(ROOT_KEY_VARIABLE),
    create: first,
  });
  // Not for children; /proc of this process was closed to others above.
  Deno.env.delete(ROOT_KEY_VARIABLE);
  try {
    if (first) await createKeySlots(libc, provider, path, rootKey, SYSTEM_CLOCK.wallMs());
    const manager = await openEmbeddedKeyManager({
      libc,
      provider,
      clock: SYSTEM_CLOCK,
      storage: openSlotStorage(libc, path),
      rootKey,
    });
    for (const warning of manager.health().warnings) logger.warn("keys in memory", { warning });
    const source = new LeasedKeySource({
      provider,
      clock: bootClock(libc),
      memory: new KeyMemory(libc),
      fetch: (organisation) => manager.lease(organisation),
    });
    return {
      manager,
      source,
      close: () => {
        source.close();
        manager.close();
      },
    };
  } finally {
    rootKey.fill(0);
  }
}

async function isFile(path: string): Promise<boolean> {
  return (await exists(path)) && (await Deno.stat(path)).isFile;
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
