/**
 * The texts of the protocol files, wherever this build keeps them.
 */
import { assetPath } from "../common/assets.ts";

/** Text of `proto/kiseki/v1/NAME.proto`. @throws KisekiError `common.not_found`. */
export function readProto(name: string): string {
  return Deno.readTextFileSync(assetPath(`proto/kiseki/v1/${name}.proto`));
}
