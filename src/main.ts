/**
 * The entry of `kiseki`: the first argument picks the role.
 */
import { buildInfo } from "./common/build_info.ts";

if (Deno.args[0] === "version") {
  console.log(JSON.stringify(buildInfo()));
} else {
  console.error("kiseki: this build knows `kiseki version` alone");
  Deno.exit(2);
}
