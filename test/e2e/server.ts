/**
 * Starts and stops the real binary for end-to-end tests.
 *
 * `KISEKI_BINARY` names the file under test; without it `dist/kiseki` is used, and a missing file
 * is an error: these tests never fall back to the sources.
 */

/** A running `kiseki server --dev`. */
export interface TestServer {
  readonly s3: string;
  readonly admin: string;
  readonly fabric: string;
  /** "" where the server was not started with `--dev`. */
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly dataDir: string;
  readonly pid: number;
  /** Milliseconds from spawn to the ready line. */
  readonly startMs: number;
  /** What it wrote to stderr so far. */
  log(): string;
  /** SIGTERM; resolves with the exit code. */
  stop(): Promise<number>;
  /** SIGKILL; resolves when the process is gone. */
  kill(): Promise<void>;
  /** Resident memory now, in bytes. */
  residentBytes(): Promise<number>;
}

export interface TestServerOptions {
  /** Kept when given; otherwise a fresh temporary directory that `removeData` deletes. */
  readonly dataDir?: string;
  /** Starts with `--config` and this file instead of `--dev`; `dataDir` is then its data_dir. */
  readonly configFile?: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** How long the ready line may take. Default 20,000. */
  readonly readyTimeoutMs?: number;
}

export const DEV_ACCESS_KEY = "KSDEVTESTACCESSKEY01";
export const DEV_SECRET_KEY = "dev-test-secret-key-0123456789abcdefghij";

/** Path of the binary under test. @throws when it is not there. */
export function binaryUnderTest(): string {
  const path = Deno.env.get("KISEKI_BINARY") ??
    new URL("../../dist/kiseki", import.meta.url).pathname;
  try {
    Deno.statSync(path);
  } catch (cause) {
    throw new Error(`${path} is missing: run "make build" first`, { cause });
  }
  return path;
}

/** Starts the server and waits for its ready line. @throws with its log when it does not come. */
export async function startServer(options: TestServerOptions = {}): Promise<TestServer> {
  const dataDir = options.dataDir ?? await Deno.makeTempDir({ prefix: "kiseki-e2e-" });
  const started = performance.now();
  const child = new Deno.Command(binaryUnderTest(), {
    args: [
      "server",
      ...options.configFile === undefined
        ? devArguments(dataDir)
        : ["--config", options.configFile],
      ...options.args ?? [],
    ],
    env: {
      KISEKI_DEV_ACCESS_KEY: DEV_ACCESS_KEY,
      KISEKI_DEV_SECRET_KEY: DEV_SECRET_KEY,
      ...options.env,
    },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();

  let log = "";
  const logDone = readAll(child.stderr, (text) => {
    log += text;
    if (log.length > 4_000_000) log = log.slice(-2_000_000);
  });
  const first = Promise.withResolvers<string>();
  let out = "";
  const outDone = readAll(child.stdout, (text) => {
    out += text;
    const end = out.indexOf("\n");
    if (end >= 0) first.resolve(out.slice(0, end));
  }).finally(() => first.reject(new Error("the server ended without a ready line")));
  first.promise.catch(() => undefined);

  const timeout = options.readyTimeoutMs ?? 20_000;
  const timer = setTimeout(() => first.reject(new Error(`not ready in ${timeout} ms`)), timeout);
  let ready: Record<string, unknown>;
  try {
    ready = JSON.parse(await first.promise);
  } catch (cause) {
    try {
      child.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // already gone
    }
    await child.status;
    await Promise.all([logDone, outDone]);
    throw new Error(`kiseki server did not start; its log:\n${log}`, { cause });
  } finally {
    clearTimeout(timer);
  }
  const startMs = performance.now() - started;

  const end = async (signal: Deno.Signal): Promise<number> => {
    try {
      child.kill(signal);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // already gone
    }
    const status = await child.status;
    await Promise.all([logDone, outDone]);
    return status.code;
  };
  return {
    s3: String(ready.s3),
    admin: String(ready.admin),
    fabric: String(ready.fabric),
    accessKeyId: String(ready.accessKeyId ?? ""),
    secretAccessKey: String(ready.secretAccessKey ?? ""),
    dataDir,
    pid: child.pid,
    startMs,
    log: () => log,
    stop: () => end("SIGTERM"),
    kill: async () => void await end("SIGKILL"),
    residentBytes: () => residentBytes(child.pid),
  };
}

/** `--dev` on free ports of 127.0.0.1. */
export function devArguments(dataDir: string): readonly string[] {
  const listen = ["s3", "admin", "fabric"].flatMap((name) => [`--${name}-listen`, "127.0.0.1:0"]);
  return ["--dev", "--data-dir", dataDir, ...listen];
}

/** Removes a data directory. */
export async function removeData(dataDir: string): Promise<void> {
  await Deno.remove(dataDir, { recursive: true });
}

async function readAll(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  visit: (text: string) => void,
): Promise<void> {
  for await (const text of stream.pipeThrough(new TextDecoderStream())) visit(text);
}

async function residentBytes(pid: number): Promise<number> {
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  const match = /^VmRSS:\s+(\d+) kB$/m.exec(status);
  if (match === null) throw new Error(`no VmRSS of process ${pid}`);
  return Number(match[1]) * 1024;
}
