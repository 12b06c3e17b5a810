/**
 * `kiseki bench`: rates and latencies of an S3 endpoint, ours or another's.
 */
import { parseSize, SIZE_FORM } from "../common/config_values.ts";
import { S3Client } from "../client/s3_client.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import { type PhaseResult, runBench } from "./bench_load.ts";
import {
  type CommandSpec,
  ExitCode,
  formatTable,
  parseArguments,
  PROCESS_TERMINAL,
  runCommand,
  show,
  type Terminal,
} from "./command_line.ts";
import { providerOptions } from "./provider_assets.ts";

export const BENCH_COMMAND: CommandSpec = {
  path: ["bench"],
  summary: "Puts, gets and deletes small and large objects: rates and latencies.",
  flags: [
    {
      name: "endpoint",
      value: "URL",
      help: "S3 endpoint",
      environment: "KISEKI_S3_ENDPOINT",
      default: "http://127.0.0.1:9000",
    },
    {
      name: "access-key",
      value: "ID",
      help: "access key id",
      environment: "AWS_ACCESS_KEY_ID",
      required: true,
    },
    {
      name: "secret-key",
      value: "SECRET",
      help: "secret access key",
      environment: "AWS_SECRET_ACCESS_KEY",
      required: true,
    },
    { name: "region", value: "REGION", help: "signing region", default: "us-east-1" },
    { name: "bucket", value: "NAME", help: "made when missing", default: "kiseki-bench" },
    { name: "small", value: "SIZE", help: "small objects; 0 leaves them out", default: "4KiB" },
    { name: "large", value: "SIZE", help: "large objects; 0 leaves them out", default: "64MiB" },
    { name: "concurrency", value: "N", help: "requests at once, small", default: "64" },
    { name: "large-concurrency", value: "N", help: "requests at once, large", default: "4" },
    { name: "seconds", value: "S", help: "length of each phase", default: "10" },
    { name: "keep", help: "leave the objects" },
  ],
  example: "kiseki bench --endpoint http://127.0.0.1:9000 --access-key ID --secret-key SECRET",
};

/** Largest object of the bench: its body is held in memory once a request. */
const MAX_OBJECT_BYTES = 1 << 30;

/** @param args From "bench" on. @returns the exit code; 1 when a request failed. */
export function main(
  args: readonly string[],
  terminal: Terminal = PROCESS_TERMINAL,
  environment: (name: string) => string | undefined = (name) => Deno.env.get(name),
): Promise<ExitCode> {
  return runCommand(terminal, args.includes("--json"), async () => {
    const parsed = parseArguments(args, [BENCH_COMMAND], environment);
    const size = (flag: string) =>
      parsed.parsed(flag, `${SIZE_FORM}, at most 1GiB`, (text) => {
        const bytes = parseSize(text);
        return bytes !== undefined && bytes <= MAX_OBJECT_BYTES ? bytes : undefined;
      }) ?? 0;
    const concurrency = parsed.whole("concurrency", 1, 4096) ?? 64;
    const largeConcurrency = parsed.whole("large-concurrency", 1, 256) ?? 4;
    const client = new S3Client({
      endpoint: parsed.required("endpoint"),
      credential: {
        accessKeyId: parsed.required("access-key"),
        secretAccessKey: parsed.required("secret-key"),
      },
      region: parsed.required("region"),
      crypto: chooseProvider(providerOptions({ fips: "off" })).provider,
      connections: Math.max(concurrency, largeConcurrency),
    });
    try {
      const results = await runBench({
        client,
        bucket: parsed.required("bucket"),
        smallBytes: size("small"),
        largeBytes: size("large"),
        concurrency,
        largeConcurrency,
        seconds: parsed.whole("seconds", 1, 3600) ?? 10,
        keep: parsed.has("keep"),
        onProgress: progress(terminal),
      });
      if (terminal.isTerminal) Deno.stderr.writeSync(new TextEncoder().encode("\r\x1b[K"));
      show(
        parsed,
        terminal,
        { endpoint: parsed.text("endpoint"), phases: results },
        () => formatResults(results, terminal),
      );
      return results.some((phase) => phase.errors > 0) ? ExitCode.failed : ExitCode.ok;
    } finally {
      client.close();
    }
  });
}

/** One line that is written over, on a terminal alone. */
function progress(terminal: Terminal) {
  return (phase: string, operations: number, share: number): void => {
    if (!terminal.isTerminal || !Deno.stderr.isTerminal()) return;
    const text = `\r\x1b[K${phase}: ${operations} requests, ${Math.floor(share * 100)}%`;
    Deno.stderr.writeSync(new TextEncoder().encode(text));
  };
}

function formatResults(results: readonly PhaseResult[], terminal: Terminal): string {
  const rows = results.map((phase) => [
    phase.name,
    String(phase.concurrency),
    String(phase.operations),
    String(phase.errors),
    phase.operationsPerSecond.toFixed(1),
    (phase.bytesPerSecond / 1e6).toFixed(1),
    phase.p50Ms.toFixed(2),
    phase.p99Ms.toFixed(2),
    phase.p999Ms.toFixed(2),
    phase.maxMs.toFixed(2),
  ]);
  const headers = [
    "PHASE",
    "CLIENTS",
    "REQUESTS",
    "ERRORS",
    "PER SECOND",
    "MB/S",
    "P50 MS",
    "P99 MS",
    "P99.9 MS",
    "MAX MS",
  ];
  const errors = results.filter((phase) => phase.firstError !== "")
    .map((phase) => `\n${phase.name}: first error: ${phase.firstError}`);
  return formatTable(headers, rows, terminal) + errors.join("");
}
