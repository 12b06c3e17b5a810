/**
 * Libraries that a build may carry or not.
 */
import { assetPath } from "../common/assets.ts";
import type { ServerConfig } from "../common/config.ts";
import { isKisekiError } from "../common/errors.ts";
import type { ProviderOptions } from "../crypto/provider_choice.ts";

/** Path of an asset, or undefined when this build carries none: the provider's choice says so. */
export function assetOrUndefined(name: string): string | undefined {
  try {
    return assetPath(name);
  } catch (error) {
    if (isKisekiError(error, "common.not_found")) return undefined;
    throw error;
  }
}

/** Where this build's libraries are, and whether a FIPS module is a must. */
export function providerOptions(config: Pick<ServerConfig, "fips">): ProviderOptions {
  const required = config.fips === "require";
  return {
    awsLcPath: assetOrUndefined(required ? "libcrypto-fips.so" : "libcrypto.so"),
    isalPath: assetOrUndefined("libisal.so.2"),
    fips: required ? "require" : "allow",
  };
}
