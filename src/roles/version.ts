/**
 * `kiseki version`: which build this is.
 */
import { buildInfo } from "../common/build_info.ts";
import {
  type CommandSpec,
  ExitCode,
  parseArguments,
  PROCESS_TERMINAL,
  runCommand,
  show,
  type Terminal,
} from "./command_line.ts";

export const VERSION_COMMAND: CommandSpec = {
  path: ["version"],
  summary: "Which build this is: version, how it was packaged, hash of its payload.",
  example: "kiseki version --json",
};

/** @param args From "version" on. @returns the exit code. */
export function main(
  args: readonly string[],
  terminal: Terminal = PROCESS_TERMINAL,
): Promise<ExitCode> {
  return runCommand(terminal, args.includes("--json"), async () => {
    const parsed = parseArguments(args, [VERSION_COMMAND]);
    const build = buildInfo();
    show(parsed, terminal, build, () => {
      const hash = build.payloadSha256 === undefined ? "" : `, payload ${build.payloadSha256}`;
      return `kiseki ${build.version} (${build.kind}, deno ${build.deno}${hash})`;
    });
    return ExitCode.ok;
  });
}
