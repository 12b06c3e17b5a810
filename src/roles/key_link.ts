// TEMPORARY
import type { CryptoProvider } from "../crypto/provider.ts";
import { chooseProvider, type ProviderOptions } from "../crypto/provider_choice.ts";
import type { KeySource, TenantKeys } from "../crypto/sealer.ts";
import type { Link } from "../engine/link.ts";
import { testTenantKeys } from "../table/testing.ts";
import type { OrganisationId } from "../common/ids.ts";
export function tempSource(provider: CryptoProvider): KeySource {
  const held = new Map<OrganisationId, TenantKeys>();
  const get = (o: OrganisationId) => {
    let k = held.get(o);
    if (!k) held.set(o, k = testTenantKeys(provider, o));
    return k;
  };
  return { acquire: (o) => Promise.resolve(get(o)), held: get };
}
export function linkedKeySource(_link: Link, options: ProviderOptions): KeySource {
  return tempSource(chooseProvider(options).provider);
}
export function serveKeys(_link: Link, _keys: unknown): void {}
