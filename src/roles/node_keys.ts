// TEMPORARY
import type { CryptoProvider } from "../crypto/provider.ts";
import type { KeySource } from "../crypto/sealer.ts";
import type { ServerConfig } from "../common/config.ts";
import type { ClusterId } from "../common/ids.ts";
import { tempSource } from "./key_link.ts";
import type { OrganisationKeys } from "../control/tenancy.ts";
export interface NodeKeys {
  source: KeySource;
  organisations: OrganisationKeys;
  close(): void;
}
export async function openNodeKeys(
  _c: ServerConfig,
  p: CryptoProvider,
  _cl: ClusterId,
): Promise<NodeKeys> {
  return {
    source: tempSource(p),
    organisations: { create: async () => {}, destroy: async () => {} },
    close() {},
  };
}
