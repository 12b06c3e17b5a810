/**
 * Libraries that a build may carry or not.
 */
import { assetPath } from "../common/assets.ts";
import { isKisekiError } from "../common/errors.ts";

/** Path of an asset, or undefined when this build carries none: the provider's choice says so. */
export function assetOrUndefined(name: string): string | undefined {
  try {
    return assetPath(name);
  } catch (error) {
    if (isKisekiError(error, "common.not_found")) return undefined;
    throw error;
  }
}
