/** Builds the probe once for all packaging tests, and runs it. */
import { build } from "../../deploy/build/build.ts";

/** What a run of a binary gave. */
export interface RunResult {
  readonly code: number;
  readonly signal: Deno.Signal | null;
  readonly stdout: string;
  readonly stderr: string;
}

let built: Promise<string> | undefined;

/** Path of the probe, named `kiseki`, in a temporary folder that is removed at exit. */
export function probeImage(): Promise<string> {
  built ??= (async () => {
    const folder = Deno.makeTempDirSync({ prefix: "kiseki-package-" });
    addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
    const output = `${folder}/kiseki`;
    await build({ kind: "elf", output, main: "test/package/probe.ts", workers: ["table"] });
    return output;
  })();
  return built;
}

/** Runs a command to its end. */
export async function runBinary(
  command: string,
  args: readonly string[],
  options: Omit<Deno.CommandOptions, "args"> = {},
): Promise<RunResult> {
  const result = await new Deno.Command(command, {
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    ...options,
    args: [...args],
  }).output();
  const decoder = new TextDecoder();
  return {
    code: result.code,
    signal: result.signal,
    stdout: decoder.decode(result.stdout),
    stderr: decoder.decode(result.stderr),
  };
}
