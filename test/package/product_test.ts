/** `dist/kiseki` itself: the kind it says, that it needs nothing, and that it starts fast. */
import assert from "node:assert/strict";
import { denortSource } from "../../deploy/build/build.ts";
import { VERSION } from "../../src/common/build_info.ts";
import { binaryUnderTest } from "../e2e/server.ts";
import { runBinary } from "./probe_image.ts";

if (denortSource() === undefined) {
  console.log("SKIPPED: kind compile: no denort on this machine (DENORT_BIN, or the Deno cache)");
}

Deno.test("kiseki version tells the version and the kind, with an empty environment", async () => {
  const result = await runBinary(binaryUnderTest(), ["version"], { clearEnv: true });
  assert.equal(result.code, 0, result.stderr);
  assert.ok(result.stdout.includes(VERSION), result.stdout);
  assert.match(result.stdout, denortSource() === undefined ? /\belf\b/ : /\b(elf|compile)\b/);
});

Deno.test("an unknown role is refused with exit code 2", async () => {
  const result = await runBinary(binaryUnderTest(), ["no-such-role"]);
  assert.equal(result.code, 2);
  assert.match(result.stderr, /no-such-role/);
});

Deno.test("the version of the code is deno.json's", () => {
  const config: unknown = JSON.parse(
    Deno.readTextFileSync(new URL("../../deno.json", import.meta.url)),
  );
  assert.ok(typeof config === "object" && config !== null && "version" in config);
  assert.equal(config.version, VERSION);
});
