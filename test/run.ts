/**
 * Runs all tests in two steps and ends with one line `N passed, N failed`.
 *
 * 1. unit: everything beside the sources, the build's own tests and the files directly in test/;
 * 2. e2e: the folders under test/, against the binary that KISEKI_BINARY names (dist/kiseki).
 *
 *     deno run -A test/run.ts [unit|e2e]
 *
 * A step that ends badly without a countable failure (a file that does not load, a crash) counts
 * as one failure. Types are `make check`'s business.
 */
const ROOT = new URL("../", import.meta.url).pathname;
/** Folders under test/ that hold no tests to be run here. */
const NO_TESTS = new Set(["bench", "corpus", "rig"]);

interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly ignored: number;
}

function entries(folder: string): Deno.DirEntry[] {
  try {
    return [...Deno.readDirSync(ROOT + folder)].sort((a, b) => (a.name < b.name ? -1 : 1));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

function hasTests(folder: string): boolean {
  return entries(folder).some((entry) =>
    entry.isDirectory ? hasTests(`${folder}/${entry.name}`) : entry.name.endsWith("_test.ts")
  );
}

function steps(): ReadonlyMap<string, string[]> {
  const inTest = entries("test");
  const own = inTest.filter((entry) => entry.isFile && entry.name.endsWith("_test.ts"));
  const folders = inTest.filter((entry) => entry.isDirectory && !NO_TESTS.has(entry.name));
  return new Map([
    ["unit", ["src", "ffi", "deploy", "proto", ...own.map((entry) => `test/${entry.name}`)]],
    ["e2e", folders.map((entry) => `test/${entry.name}`)],
  ]);
}

/** Runs one step; its output goes through as it comes. */
async function runStep(name: string, paths: readonly string[]): Promise<Counts> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", "--unstable-net", "--no-check", ...paths],
    cwd: ROOT,
    env: {
      KISEKI_BINARY: Deno.env.get("KISEKI_BINARY") ?? `${ROOT}dist/kiseki`,
      KISEKI_ROUNDS_SCALE: Deno.env.get("KISEKI_ROUNDS_SCALE") ?? "0.1",
      NO_COLOR: "1",
    },
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const decoder = new TextDecoder();
  let last = "";
  for await (const piece of child.stdout) {
    await writeAll(piece);
    last = (last + decoder.decode(piece, { stream: true })).slice(-4096);
  }
  const { success, code } = await child.status;
  const summary = [...last.matchAll(/^(?:ok|FAILED) \| (.*)$/gm)].at(-1)?.[1] ?? "";
  const count = (what: string) => Number(new RegExp(`(\\d+) ${what}`).exec(summary)?.[1] ?? 0);
  const counts = { passed: count("passed"), failed: count("failed"), ignored: count("ignored") };
  if (success || counts.failed > 0) return counts;
  console.log(`step ${name} ended with code ${code} without a failed test: counted as one failure`);
  return { ...counts, failed: 1 };
}

async function writeAll(bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await Deno.stdout.write(bytes.subarray(at));
}

const wanted = new Set(Deno.args.length > 0 ? Deno.args : ["unit", "e2e"]);
let passed = 0;
let failed = 0;
let ignored = 0;
for (const [name, candidates] of steps()) {
  const paths = candidates.filter((path) => path.endsWith(".ts") || hasTests(path));
  if (!wanted.has(name) || paths.length === 0) continue;
  const started = performance.now();
  console.log(`\n== ${name}: ${paths.join(" ")}`);
  const counts = await runStep(name, paths);
  passed += counts.passed;
  failed += counts.failed;
  ignored += counts.ignored;
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`== ${name}: ${counts.passed} passed, ${counts.failed} failed, in ${seconds} s`);
}
if (passed + failed === 0) {
  console.log("no test was run");
  failed = 1;
}
console.log(`\n${passed} passed, ${failed} failed${ignored > 0 ? `, ${ignored} skipped` : ""}`);
Deno.exit(failed > 0 ? 1 : 0);
