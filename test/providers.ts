/**
 * Crypto providers for tests: every one that this machine has, opened once per test process.
 *
 * They are opened when this module loads, outside any test, so that the leak checks of Deno.test
 * see no library that a test opened and kept.
 */
import { chooseProvider } from "../src/crypto/provider_choice.ts";
import type { CryptoProvider, ProviderReport } from "../src/crypto/provider.ts";
import { isKisekiError } from "../src/common/errors.ts";

/** AWS-LC as `make aws-lc` builds it; `KISEKI_AWS_LC` names another. */
export const AWS_LC_PATH = Deno.env.get("KISEKI_AWS_LC") ??
  new URL("../.tools/aws-lc/libcrypto.so", import.meta.url).pathname;

const NAMES: readonly ProviderReport["name"][] = ["aws-lc", "openssl", "webcrypto"];

function open(): readonly CryptoProvider[] {
  const found: CryptoProvider[] = [];
  for (const only of NAMES) {
    try {
      found.push(chooseProvider({ awsLcPath: AWS_LC_PATH, only }).provider);
    } catch (error) {
      if (!isKisekiError(error, "crypto.provider_missing")) throw error;
      console.warn(`SKIPPED: tests of provider ${only}: ${error.message}`);
    }
  }
  return found;
}

/** Every provider present, best first; absent ones were named on the console. */
export const PRESENT_PROVIDERS: readonly CryptoProvider[] = open();

/** The best provider present. */
export function testProvider(): CryptoProvider {
  const first = PRESENT_PROVIDERS[0];
  if (first === undefined) throw new Error("no crypto provider at all");
  return first;
}
