/**
 * A program that tells what it finds about itself; the packaging tests build it with the same tool
 * and stub as `dist/kiseki` and ask it.
 *
 *     probe report            one JSON line about this process
 *     probe exit CODE         exits with CODE
 *     probe wait [graceful]   prints "waiting"; graceful: exits 5 on SIGTERM
 */
import { assetPath, workerUrl } from "../../src/common/assets.ts";
import { buildInfo } from "../../src/common/build_info.ts";
import { isKisekiError } from "../../src/common/errors.ts";

const LIBRARIES: Readonly<Record<string, string>> = {
  "libcrypto.so": "EVP_aead_aes_256_gcm",
  "libcrypto-fips.so": "FIPS_mode",
  "libisal.so.2": "ec_init_tables",
};

/** What `probe report` prints. */
export interface ProbeReport {
  readonly args: readonly string[];
  readonly kind: string;
  readonly pid: number;
  readonly execPath: string;
  readonly comm: string;
  readonly commandLine: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly childEnvironment: string;
  readonly childDescriptors: string;
  readonly libraries: Readonly<Record<string, boolean>>;
  readonly libraryErrors: readonly string[];
  readonly inWorker: Readonly<Record<string, boolean>>;
  readonly workerBundles: boolean;
  readonly memfdWrite: string;
}

/** What a Worker has and the main isolate has not. */
type WorkerScope = { postMessage(message: Readonly<Record<string, boolean>>): void };
const inWorker = "WorkerGlobalScope" in globalThis;

/** Opens every packaged library; true where it is packaged and gives its symbol. */
function openLibraries(errors: string[]): Record<string, boolean> {
  const found: Record<string, boolean> = {};
  for (const [name, symbol] of Object.entries(LIBRARIES)) {
    try {
      // AWS-LC's destructors run when a thread ends, after the library was closed.
      Deno.dlopen(assetPath(name), { [symbol]: { parameters: [], result: "pointer" } }).close();
      found[name] = true;
    } catch (error) {
      if (!isKisekiError(error, "common.not_found")) errors.push(`${name}: ${String(error)}`);
      found[name] = false;
    }
  }
  return found;
}

async function output(command: string, args: readonly string[]): Promise<string> {
  const { stdout } = await new Deno.Command(command, { args: [...args], stderr: "null" }).output();
  return new TextDecoder().decode(stdout);
}

function askWorker(): Promise<Record<string, boolean>> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL(`file://${assetPath("main.js")}`), {
      type: "module",
      name: "probe",
    });
    worker.onmessage = (event: MessageEvent<Record<string, boolean>>) => {
      worker.terminate();
      resolve(event.data);
    };
    worker.onerror = (event) => reject(new Error(event.message));
  });
}

/** Tries to change the packaged build.json; a sealed memfd answers EPERM. */
function tryToWrite(): string {
  try {
    Deno.writeTextFileSync(assetPath("build.json"), "{}", { create: false });
    return "written";
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

async function report(): Promise<ProbeReport> {
  const libraryErrors: string[] = [];
  return {
    args: Deno.args.slice(1),
    kind: buildInfo().kind,
    pid: Deno.pid,
    execPath: Deno.execPath(),
    comm: Deno.readTextFileSync("/proc/self/comm").trim(),
    commandLine: Deno.readTextFileSync("/proc/self/cmdline").split("\0").slice(0, -1),
    environment: Deno.env.toObject(),
    childEnvironment: await output("/usr/bin/env", []),
    childDescriptors: await output("/bin/ls", ["-l", "/proc/self/fd"]),
    libraries: openLibraries(libraryErrors),
    libraryErrors,
    inWorker: await askWorker(),
    workerBundles: Deno.statSync(workerUrl("table")).isFile,
    memfdWrite: tryToWrite(),
  };
}

async function main(): Promise<void> {
  const [verb, argument] = Deno.args;
  if (verb === "exit") Deno.exit(Number(argument));
  if (verb === "wait") {
    if (argument === "graceful") Deno.addSignalListener("SIGTERM", () => Deno.exit(5));
    console.log("waiting");
    await new Promise((resolve) => setTimeout(resolve, 30_000));
  } else if (verb === "echo") {
    console.log(JSON.stringify(Deno.args));
  } else {
    console.log(JSON.stringify(await report()));
  }
}

if (inWorker) {
  (globalThis as unknown as WorkerScope).postMessage(openLibraries([]));
} else {
  main();
}
