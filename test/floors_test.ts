/**
 * Holds the floors of the house: a file imports from its own folder and from lower floors only,
 * never upwards, never sideways.
 *
 * The table is DESIGN's; `src/main.ts` stands above `src/roles/`, because it wires roles to the
 * first argument. Beside files of the house a file may import `node:` modules and the packages
 * that deno.json names; a unit test may also import from `test/`.
 */
import assert from "node:assert/strict";

/** Folder (or file) -> floor. The longest matching entry counts; what matches none is refused. */
const FLOORS: Readonly<Record<string, number>> = {
  "src/main.ts": 9,
  "src/roles/": 8,
  "src/engine/": 7,
  "src/gateway/s3/": 7,
  "src/gateway/nfs/": 7,
  "src/client/": 7,
  "src/control/": 7,
  "src/advisory/": 7,
  "src/audit/": 7,
  "src/namespace/": 6,
  "src/view/": 6,
  "src/log/": 5,
  "src/chunk/": 5,
  "src/keyserver/": 5,
  "src/raft/": 4,
  "src/table/": 4,
  "src/keys/": 4,
  "src/transport/": 3,
  "src/block/": 3,
  "src/crypto/": 3,
  "src/common/": 2,
  "ffi/": 1,
  "proto/": 1,
};

const ROOT = new URL("../", import.meta.url).pathname;

interface Room {
  readonly name: string;
  readonly floor: number;
}

function roomOf(path: string): Room | undefined {
  const name = Object.keys(FLOORS)
    .filter((folder) => path === folder || (folder.endsWith("/") && path.startsWith(folder)))
    .sort((a, b) => b.length - a.length)[0];
  const floor = name === undefined ? undefined : FLOORS[name];
  return name === undefined || floor === undefined ? undefined : { name, floor };
}

/** The specifiers that a source imports or re-exports, statically or by `import("...")`. */
function importsOf(source: string): string[] {
  const code = withoutComments(source);
  const patterns = [
    /(?:^|[;}\s])(?:import|export)\s+(?:type\s+)?[\w*{][^"';]*?\sfrom\s*["']([^"']+)["']/g,
    /(?:^|[;}\s])import\s*["']([^"']+)["']/g,
    /\bimport\s*\(\s*["'`]([^"'`]+)["'`]/g,
    /\bnew\s+URL\(\s*["'`](\.[^"'`]+\.ts)["'`]\s*,\s*import\.meta\.url/g,
  ];
  return patterns.flatMap((pattern) => [...code.matchAll(pattern)].map((match) => match[1] ?? ""));
}

/** Removes comments; strings stay, so that `"https://"` does not start one. */
function withoutComments(source: string): string {
  return source.replace(
    /("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g,
    (_, text: string | undefined) => text ?? " ",
  );
}

/** What is wrong with the imports of one file. `path` starts at the repository's root. */
function violations(path: string, source: string, packages: ReadonlySet<string>): string[] {
  const room = roomOf(path);
  if (room === undefined) return [`${path}: is in no folder of the floor table`];
  const found: string[] = [];
  for (const specifier of importsOf(source)) {
    if (specifier.startsWith("node:")) continue;
    if (!specifier.startsWith(".")) {
      if (!packages.has(specifier)) {
        found.push(`${path}: imports "${specifier}", which deno.json does not name`);
      }
      continue;
    }
    const target = new URL(specifier, `file:///${path}`).pathname.slice(1);
    if (path.endsWith("_test.ts") && target.startsWith("test/")) continue;
    const other = roomOf(target);
    if (other === undefined) {
      found.push(`${path}: imports ${target}, which is in no folder of the floor table`);
    } else if (other.name !== room.name && other.floor >= room.floor) {
      const way = other.floor === room.floor ? "sideways" : "upwards";
      found.push(
        `${path} (floor ${room.floor}) imports ${way}: ${target} (floor ${other.floor})`,
      );
    }
  }
  return found;
}

function sourcesUnder(folder: string): string[] {
  const found: string[] = [];
  for (const entry of Deno.readDirSync(ROOT + folder)) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) found.push(...sourcesUnder(path));
    else if (entry.name.endsWith(".ts")) found.push(path);
  }
  return found;
}

function packagesOfDenoJson(): Set<string> {
  const config: unknown = JSON.parse(Deno.readTextFileSync(`${ROOT}deno.json`));
  assert.ok(typeof config === "object" && config !== null && "imports" in config);
  assert.ok(typeof config.imports === "object" && config.imports !== null);
  return new Set(Object.keys(config.imports));
}

Deno.test("every file imports from its own folder and from lower floors only", () => {
  const packages = packagesOfDenoJson();
  const files = [...sourcesUnder("src"), ...sourcesUnder("ffi")];
  assert.ok(files.length > 10, "the sources were found");
  const found = files.flatMap((path) =>
    violations(path, Deno.readTextFileSync(ROOT + path), packages)
  );
  assert.deepEqual(found, []);
});

Deno.test("planted violations are found, in every way an import can be written", () => {
  const packages = new Set(["zod"]);
  const check = (path: string, source: string) => violations(path, source, packages).length;
  const upwards = [
    `import { a } from "../log/shard.ts";`,
    `import type { A } from "../log/shard.ts";`,
    `import * as shard from '../log/shard.ts';`,
    `import shard from "../log/shard.ts";`,
    `import {\n  a, // one\n  type B,\n} from "../log/shard.ts";`,
    `export { a } from "../log/shard.ts";`,
    `export * from "../log/shard.ts";`,
    `export type { A } from "../log/shard.ts";`,
    `import "../log/shard.ts";`,
    `const a = await import("../log/shard.ts");`,
    `type A = import("../log/shard.ts").A;`,
    `new Worker(new URL("../log/shard.ts", import.meta.url));`,
  ];
  for (const source of upwards) assert.equal(check("src/table/run.ts", source), 1, source);
  assert.equal(check("src/table/run.ts", `import { a } from "../raft/core.ts";`), 1, "sideways");
  assert.equal(check("src/gateway/s3/put.ts", `import { a } from "../nfs/xdr.ts";`), 1);
  assert.equal(check("ffi/libc.ts", `import { a } from "../src/common/bytes.ts";`), 1);
  assert.equal(check("src/log/shard.ts", `import { a } from "../nowhere/x.ts";`), 1);
  assert.equal(check("src/unknown/x.ts", ``), 1);
  assert.equal(check("src/log/shard.ts", `import { a } from "left-pad";`), 1);
  assert.equal(check("src/log/shard.ts", `import { a } from "npm:zod";`), 1);
  assert.equal(check("src/log/shard.ts", `import { a } from "../../test/rounds.ts";`), 1);
});

Deno.test("what is allowed is not reported", () => {
  const packages = new Set(["zod"]);
  const allowed: [string, string][] = [
    ["src/log/shard.ts", `import { a } from "../table/table.ts";`],
    ["src/log/shard.ts", `import { a } from "./delta.ts";`],
    ["src/keys/kms/vault.ts", `import { a } from "../hierarchy.ts";`],
    ["src/keys/hierarchy.ts", `import { a } from "./kms/vault.ts";`],
    ["src/crypto/aead.ts", `import { a } from "../../ffi/evp.ts";`],
    ["src/main.ts", `import { a } from "./roles/server.ts";`],
    ["src/log/shard.ts", `import { z } from "zod"; import { join } from "node:path";`],
    ["src/log/shard_test.ts", `import { testSeed } from "../../test/rounds.ts";`],
    ["src/log/shard.ts", `// import { a } from "../roles/server.ts";`],
    ["src/log/shard.ts", `/* import { a } from "../roles/server.ts"; */`],
    ["src/log/shard.ts", `const url = "http://x"; import { a } from "../table/table.ts";`],
  ];
  for (const [path, source] of allowed) assert.deepEqual(violations(path, source, packages), []);
});
