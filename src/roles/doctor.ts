/**
 * `kiseki doctor`: what this node can really do, what is degraded and why, and what to do about
 * it. Exit code 1 when something that a server needs is missing.
 */
import {
  coloured,
  type CommandSpec,
  ExitCode,
  formatTable,
  parseArguments,
  PROCESS_TERMINAL,
  runCommand,
  show,
  type Terminal,
} from "./command_line.ts";
import { examine, type Finding, SYSTEM_PATHS, type SystemPaths } from "./doctor_probes.ts";

export const DOCTOR_COMMAND: CommandSpec = {
  path: ["doctor"],
  summary: "What this node can really do; exit code 1 when a server could not start here.",
  flags: [
    { name: "data-dir", value: "DIR", help: "where to measure the disk", default: "." },
    { name: "fips", help: 'a FIPS module is a must, as with fips = "require"' },
  ],
  example: "kiseki doctor --data-dir /var/lib/kiseki",
};

/** @param args From "doctor" on. @returns the exit code. */
export function main(
  args: readonly string[],
  terminal: Terminal = PROCESS_TERMINAL,
  paths: SystemPaths = SYSTEM_PATHS,
): Promise<ExitCode> {
  return runCommand(terminal, args.includes("--json"), async () => {
    const parsed = parseArguments(args, [DOCTOR_COMMAND]);
    const findings = await examine({
      dataDir: parsed.required("data-dir"),
      fips: parsed.has("fips") ? "require" : "off",
    }, paths);
    const missing = findings.some((finding) => finding.state === "missing");
    show(parsed, terminal, { ok: !missing, findings }, () => formatFindings(findings, terminal));
    return missing ? ExitCode.failed : ExitCode.ok;
  });
}

function formatFindings(findings: readonly Finding[], terminal: Terminal): string {
  const colours = { ok: "good", degraded: "warn", missing: "bad", info: undefined } as const;
  const rows = findings.map(({ area, state, found }) => {
    const colour = colours[state];
    return [area, colour === undefined ? state : coloured(terminal, colour, state), found];
  });
  const notes = findings
    .filter(({ state, reason, advice }) =>
      state !== "ok" && (reason !== undefined || advice !== undefined)
    )
    .map(({ area, reason, advice }) =>
      `${area}: ${[reason, advice].filter((text) => text !== undefined).join(" -> ")}`
    );
  const table = formatTable(["AREA", "STATE", "FOUND"], rows, terminal);
  return notes.length === 0 ? table : `${table}\n\n${notes.join("\n")}`;
}
