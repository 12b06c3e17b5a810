/**
 * Makes `dist/kiseki`: with `deno compile` where denort can be had, otherwise with the stub inside
 * deno's ELF file (air-gapped build hosts).
 *
 *     deno run -A deploy/build/build.ts [--kind=auto|compile|elf] [--output=FILE] [--main=SOURCE]
 *
 * Invariant: the output appears by one rename; a failed build leaves the old file.
 */
import { type BuildRecord, VERSION } from "../../src/common/build_info.ts";
import { WORKER_SOURCES, type WorkerName } from "../../src/common/assets.ts";
import { bundlePrograms, collectAssets, isFile, mustRun, ROOT } from "./bundle.ts";
import { buildElfImage } from "./elf_image.ts";
import { contentHash, encodePayload, type PackagedFile } from "./payload.ts";

const ALL_WORKERS = Object.keys(WORKER_SOURCES) as WorkerName[];
const TARGET = "x86_64-unknown-linux-gnu";

/** What to build. */
export interface BuildOptions {
  /** `auto` takes `compile` where denort can be had and `elf` otherwise. */
  readonly kind: "auto" | "compile" | "elf";
  /** Absolute path of the result. */
  readonly output: string;
  /** The program, relative to the repository's root. */
  readonly main: string;
  /** The Workers to package. Default: all. */
  readonly workers?: readonly WorkerName[];
}

function parseOptions(args: readonly string[]): BuildOptions {
  let kind: BuildOptions["kind"] = "auto";
  let main = "src/main.ts";
  let output = `${ROOT}dist/kiseki`;
  for (const arg of args) {
    const [key, value = ""] = arg.split("=", 2);
    if (key === "--kind" && (value === "auto" || value === "compile" || value === "elf")) {
      kind = value;
    } else if (key === "--output" && value !== "") {
      output = value.startsWith("/") ? value : ROOT + value;
    } else if (key === "--main" && value !== "") {
      main = value;
    } else {
      throw new Error(
        `unknown argument "${arg}" (known: --kind=auto|compile|elf, --output, --main)`,
      );
    }
  }
  return { kind, output, main };
}

/** Where `deno compile` would take denort from; undefined when it cannot be had here. */
export function denortSource(): string | undefined {
  const fromEnvironment = Deno.env.get("DENORT_BIN");
  if (fromEnvironment !== undefined && isFile(fromEnvironment)) return fromEnvironment;
  const cache = Deno.env.get("DENO_DIR") ?? `${Deno.env.get("HOME") ?? "/root"}/.cache/deno`;
  const archive = `${cache}/dl/release/v${Deno.version.deno}/denort-${TARGET}.zip`;
  return isFile(archive) ? archive : undefined;
}

/** Everything that is packaged. What this host does not have is told, never skipped in silence. */
async function packagedFiles(
  kind: "compile" | "elf",
  options: BuildOptions,
  work: string,
): Promise<PackagedFile[]> {
  const programs = await bundlePrograms(options.main, options.workers ?? ALL_WORKERS, kind, work);
  const { files: assets, missing } = collectAssets();
  for (const name of missing) console.log(`build: NOT PACKAGED: ${name} (this host has none)`);
  const files = [...programs, ...assets];
  const record: BuildRecord = { version: VERSION, kind, payloadSha256: contentHash(files) };
  const bytes = new TextEncoder().encode(JSON.stringify(record));
  return [...files, { name: "build.json", bytes }];
}

async function buildElf(options: BuildOptions, work: string, output: string): Promise<void> {
  const stub = `${work}/stub.bin`;
  await mustRun("gcc", [
    ..."-std=gnu11 -O2 -Wall -Wextra -Werror -Wno-psabi -ffreestanding -nostdlib -fPIE -static"
      .split(" "),
    ..."-fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none".split(" "),
    ..."-fno-jump-tables -fvisibility=hidden -Wl,--oformat=binary -Wl,--build-id=none".split(" "),
    "-Wl,-T,deploy/build/stub.ld",
    "-o",
    stub,
    "deploy/build/stub.c",
  ]);
  const payload = encodePayload(await packagedFiles("elf", options, work));
  const image = buildElfImage(
    Deno.readFileSync(Deno.execPath()),
    Deno.readFileSync(stub),
    payload,
  );
  Deno.writeFileSync(output, image, { mode: 0o755 });
}

async function buildCompile(options: BuildOptions, work: string, output: string): Promise<void> {
  const stage = `${work}/stage`;
  const bundles = `${work}/bundles`;
  Deno.mkdirSync(bundles);
  for (const file of await packagedFiles("compile", options, bundles)) {
    const path = `${stage}/${file.name.endsWith(".js") ? "" : "assets/"}${file.name}`;
    Deno.mkdirSync(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    Deno.writeFileSync(path, file.bytes);
  }
  await mustRun(Deno.execPath(), [
    ..."compile -A --unstable-net --no-config --no-lock --no-npm --no-remote --quiet".split(" "),
    `--include=${stage}`,
    `--output=${output}`,
    `${stage}/main.js`,
  ]);
}

/**
 * Builds one file.
 *
 * @throws Error with the output of the tool that failed.
 */
export async function build(options: BuildOptions): Promise<void> {
  const denort = denortSource();
  const kind = options.kind !== "auto" ? options.kind : denort === undefined ? "elf" : "compile";
  if (denort === undefined) {
    console.log("build: SKIPPED kind compile: no denort (DENORT_BIN, or the Deno cache)");
  }
  const folder = options.output.slice(0, options.output.lastIndexOf("/"));
  Deno.mkdirSync(folder, { recursive: true });
  const work = Deno.makeTempDirSync({ prefix: "kiseki-build-" });
  const fresh = `${options.output}.new`;
  try {
    if (kind === "compile") await buildCompile(options, work, fresh);
    else await buildElf(options, work, fresh);
    Deno.renameSync(fresh, options.output);
  } finally {
    Deno.removeSync(work, { recursive: true });
    if (isFile(fresh)) Deno.removeSync(fresh);
  }
  const megabytes = Deno.statSync(options.output).size / 1e6;
  console.log(`build: ${options.output} (${kind}, ${VERSION}, ${megabytes.toFixed(1)} MB)`);
}

if (import.meta.main) {
  try {
    await build(parseOptions(Deno.args));
  } catch (error) {
    console.error(`build: ${error instanceof Error ? error.message : String(error)}`);
    Deno.exit(1);
  }
}
