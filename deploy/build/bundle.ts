/**
 * Turns the sources into what is packaged: one bundle for main, one for each Worker, the native
 * libraries that this host has, and the protobuf files.
 */
import {
  LIBRARY_SOURCES,
  MEMFD_PREFIX,
  PROTO_FOLDER,
  WORKER_SOURCES,
  workerBundleName,
  type WorkerName,
} from "../../src/common/assets.ts";
import type { PackagedFile } from "./payload.ts";

/** Root of the repository, with a slash at its end. */
export const ROOT: string = new URL("../../", import.meta.url).pathname;

/** The bundler leaves `require("node:...")` of CommonJS packages to a `require` in scope. */
const REQUIRE_FOR_COMMONJS = 'import{createRequire as kisekiCreateRequire}from"node:module";' +
  'const require=kisekiCreateRequire("file:///");\n';

/**
 * The module that starts a packaged program of the `elf` kind. Deno parses every module before V8
 * does, to find its imports: some 190 ms for a bundle of 1.3 MB, at every start, because there is
 * no cache folder to rely on. So the bundle is packaged as a script, and this module evaluates it.
 */
function loaderOf(program: string): string {
  const link = `/memfd:${MEMFD_PREFIX}${program} (deleted)`;
  return `import{createRequire}from"node:module";
const link=${JSON.stringify(link)};
let path;
for(const entry of Deno.readDirSync("/proc/self/fd")){
  const candidate="/proc/self/fd/"+entry.name;
  try{if(Deno.readLinkSync(candidate)===link){path=candidate;break}}
  catch(error){if(!(error instanceof Deno.errors.NotFound))throw error}
}
if(path===undefined)throw new Error("the packaged file ${program} is not there");
const module={exports:{}};
const source=Deno.readTextFileSync(path)+"\\n//# sourceURL=kiseki:///${program}";
new Function("require","module","exports",source)(createRequire("file:///"),module,module.exports);
`;
}

/** Runs a command in the repository and fails with its output when it fails. */
export async function mustRun(
  command: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<string> {
  const output = await new Deno.Command(command, {
    args: [...args],
    cwd: ROOT,
    env,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = new TextDecoder().decode(output.stdout);
  if (!output.success) {
    const errors = new TextDecoder().decode(output.stderr);
    throw new Error(`${command} ${args.join(" ")} failed (${output.code}):\n${text}${errors}`);
  }
  return text;
}

/** Tells whether a file is there; relative paths start at the repository's root. */
export function isFile(path: string): boolean {
  try {
    return Deno.statSync(path.startsWith("/") ? path : ROOT + path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/**
 * Bundles main and the Workers.
 *
 * @param main The program's source, relative to the root.
 * @param workers Names from the list in src/common/assets.ts.
 * @param kind `elf`: each program is a script and a small module that evaluates it.
 * @param into An empty folder for the bundles.
 * @throws Error when a source is missing or does not bundle.
 */
export async function bundlePrograms(
  main: string,
  workers: readonly WorkerName[],
  kind: "compile" | "elf",
  into: string,
): Promise<PackagedFile[]> {
  const programs = [
    { name: "main.js", source: main },
    ...workers.map((name) => ({ name: workerBundleName(name), source: WORKER_SOURCES[name] })),
  ];
  const files: PackagedFile[] = [];
  const encoder = new TextEncoder();
  for (const { name, source } of programs) {
    if (!isFile(source)) {
      throw new Error(`${source} is missing: it is packaged as ${name} (src/common/assets.ts)`);
    }
    const output = `${into}/${name}`;
    await mustRun(Deno.execPath(), [
      "bundle",
      "--quiet",
      "--platform=deno",
      kind === "elf" ? "--format=cjs" : "--format=esm",
      "--packages=bundle",
      "--minify",
      "--keep-names",
      `--output=${output}`,
      source,
    ]);
    const text = Deno.readTextFileSync(output);
    if (kind === "elf") {
      const program = name.replace(/\.js$/, ".program.js");
      files.push({ name, bytes: encoder.encode(loaderOf(program)) });
      files.push({ name: program, bytes: encoder.encode(text) });
    } else {
      files.push({ name, bytes: encoder.encode(REQUIRE_FOR_COMMONJS + text) });
    }
  }
  return files;
}

/** Libraries and protobuf files; `missing` names the libraries that this host does not have. */
export function collectAssets(): { files: PackagedFile[]; missing: string[] } {
  const files: PackagedFile[] = [];
  const missing: string[] = [];
  for (const [name, places] of Object.entries(LIBRARY_SOURCES)) {
    const place = places.find(isFile);
    if (place === undefined) missing.push(name);
    else files.push({ name, bytes: Deno.readFileSync(new URL(place, `file://${ROOT}`)) });
  }
  for (const path of protoFiles(PROTO_FOLDER)) {
    files.push({ name: path, bytes: Deno.readFileSync(ROOT + path) });
  }
  return { files, missing };
}

function protoFiles(folder: string): string[] {
  const found: string[] = [];
  for (const entry of Deno.readDirSync(ROOT + folder)) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) found.push(...protoFiles(path));
    else if (entry.name.endsWith(".proto")) found.push(path);
  }
  return found.sort();
}
