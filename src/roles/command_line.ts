/**
 * The command-line contract of every role: arguments, `--help` with an example, `--json`, tables
 * for people, exit codes, colours only on a terminal.
 *
 * Invariants: a refusal of arguments names the argument and what is allowed and exits 2; machine
 * output is one JSON value on stdout and nothing else; errors go to stderr.
 */
import { isKisekiError, KisekiError } from "../common/errors.ts";

/** Exit codes of every command. */
export const ExitCode = { ok: 0, failed: 1, usage: 2, unreachable: 3, unauthorised: 4 } as const;
export type ExitCode = typeof ExitCode[keyof typeof ExitCode];

export interface FlagSpec {
  /** Without dashes. */
  readonly name: string;
  readonly help: string;
  /** Placeholder of its value; absent for a switch. */
  readonly value?: string;
  /** Environment variable that gives the value when the flag is absent. */
  readonly environment?: string;
  readonly default?: string;
  readonly required?: boolean;
  /** May stand several times. */
  readonly repeated?: boolean;
}

export interface CommandSpec {
  /** Words after `kiseki`, e.g. ["control", "org", "create"]. */
  readonly path: readonly string[];
  readonly summary: string;
  /** Positional arguments in order, e.g. ["NAME"]; a trailing "?" makes the last ones optional. */
  readonly positionals?: readonly string[];
  readonly flags?: readonly FlagSpec[];
  /** A whole line that works. */
  readonly example: string;
}

/** Arguments of one command, checked against its spec. */
export class Arguments {
  readonly spec: CommandSpec;
  readonly positionals: readonly string[];
  readonly #values: ReadonlyMap<string, readonly string[]>;

  constructor(
    spec: CommandSpec,
    positionals: readonly string[],
    values: ReadonlyMap<string, readonly string[]>,
  ) {
    this.spec = spec;
    this.positionals = positionals;
    this.#values = values;
  }

  get json(): boolean {
    return this.has("json");
  }

  /** The positional argument of that place; the spec says that it is there. */
  at(index: number): string {
    const value = this.positionals[index];
    if (value === undefined) throw new UsageError(this.spec, `argument ${index + 1} is missing`);
    return value;
  }

  has(flag: string): boolean {
    return this.#values.has(flag);
  }

  text(flag: string): string | undefined {
    return this.#values.get(flag)?.at(-1);
  }

  required(flag: string): string {
    const value = this.text(flag);
    if (value === undefined) throw new UsageError(this.spec, `--${flag} is missing`);
    return value;
  }

  all(flag: string): readonly string[] {
    return this.#values.get(flag) ?? [];
  }

  /** A value read by `parse`; undefined when the flag is absent. */
  parsed<T>(flag: string, allowed: string, parse: (text: string) => T | undefined): T | undefined {
    const text = this.text(flag);
    if (text === undefined) return undefined;
    const value = parse(text);
    if (value === undefined) {
      throw new UsageError(
        this.spec,
        `--${flag}: found ${JSON.stringify(text)}; allowed: ${allowed}`,
      );
    }
    return value;
  }

  whole(flag: string, minimum: number, maximum: number): number | undefined {
    return this.parsed(flag, `a whole number, ${minimum} to ${maximum}`, (text) => {
      const number = /^[0-9]{1,15}$/.test(text) ? Number(text) : NaN;
      return number >= minimum && number <= maximum ? number : undefined;
    });
  }
}

/** Wrong arguments: exit code 2, with the command's usage line. */
export class UsageError extends Error {
  readonly spec: CommandSpec | undefined;

  constructor(spec: CommandSpec | undefined, message: string) {
    super(message);
    this.name = "UsageError";
    this.spec = spec;
  }
}

/** `--help` was asked for: its text, exit code 0. */
export class HelpRequest extends Error {
  constructor(text: string) {
    super(text);
    this.name = "HelpRequest";
  }
}

const COMMON_FLAGS: readonly FlagSpec[] = [
  { name: "json", help: "print one JSON value for machines" },
  { name: "help", help: "print this text" },
];

/**
 * Finds the command that the arguments name and checks the rest.
 *
 * @param args Everything after `kiseki`.
 * @param commands All commands of the role.
 * @throws UsageError, HelpRequest.
 */
export function parseArguments(
  args: readonly string[],
  commands: readonly CommandSpec[],
  environment: (name: string) => string | undefined = () => undefined,
): Arguments {
  const wantsHelp = args.includes("--help") || args.includes("-h");
  const spec = findCommand(args, commands);
  if (spec === undefined) {
    const prefix = longestPrefix(args, commands);
    const matching = commands.filter((command) => startsWith(command.path, prefix));
    const listing = formatCommandList(prefix, matching);
    if (wantsHelp) throw new HelpRequest(listing);
    const unknown = args[prefix.length];
    throw new UsageError(
      undefined,
      (unknown === undefined
        ? `kiseki ${prefix.join(" ")}: a command is missing`
        : `kiseki ${[...prefix, unknown].join(" ")}: no such command`) + `\n\n${listing}`,
    );
  }
  if (wantsHelp) throw new HelpRequest(formatHelp(spec));
  return parseFlags(args.slice(spec.path.length), spec, environment);
}

function findCommand(
  args: readonly string[],
  commands: readonly CommandSpec[],
): CommandSpec | undefined {
  let best: CommandSpec | undefined;
  for (const command of commands) {
    if (!startsWith(args, command.path)) continue;
    if (best === undefined || command.path.length > best.path.length) best = command;
  }
  return best;
}

function startsWith(words: readonly string[], prefix: readonly string[]): boolean {
  return prefix.every((word, i) => words[i] === word);
}

function longestPrefix(
  args: readonly string[],
  commands: readonly CommandSpec[],
): readonly string[] {
  let length = 0;
  while (
    length < args.length &&
    commands.some((command) => startsWith(command.path, args.slice(0, length + 1)))
  ) length++;
  return args.slice(0, length);
}

function parseFlags(
  words: readonly string[],
  spec: CommandSpec,
  environment: (name: string) => string | undefined,
): Arguments {
  const flags = [...spec.flags ?? [], ...COMMON_FLAGS];
  const values = new Map<string, string[]>();
  const positionals: string[] = [];
  for (let i = 0; i < words.length; i++) {
    const word = words[i] as string;
    if (word === "--") {
      positionals.push(...words.slice(i + 1));
      break;
    }
    if (!word.startsWith("--")) {
      positionals.push(word);
      continue;
    }
    const equals = word.indexOf("=");
    const name = word.slice(2, equals < 0 ? undefined : equals);
    const flag = flags.find((candidate) => candidate.name === name);
    if (flag === undefined) throw new UsageError(spec, `--${name}: no such option`);
    let value: string;
    if (flag.value === undefined) {
      if (equals >= 0) throw new UsageError(spec, `--${name} takes no value`);
      value = "true";
    } else if (equals >= 0) value = word.slice(equals + 1);
    else {
      const next = words[++i];
      if (next === undefined) throw new UsageError(spec, `--${name} wants ${flag.value}`);
      value = next;
    }
    const before = values.get(name);
    if (before !== undefined && flag.repeated !== true) {
      throw new UsageError(spec, `--${name} stands twice`);
    }
    values.set(name, [...before ?? [], value]);
  }
  for (const flag of flags) {
    if (values.has(flag.name)) continue;
    const given = flag.environment === undefined ? undefined : environment(flag.environment);
    const value = given ?? flag.default;
    if (value !== undefined) values.set(flag.name, [value]);
    else if (flag.required === true) {
      throw new UsageError(
        spec,
        `--${flag.name} is missing` +
          (flag.environment === undefined ? "" : ` (or ${flag.environment} in the environment)`),
      );
    }
  }
  checkPositionals(positionals, spec);
  return new Arguments(spec, positionals, values);
}

function checkPositionals(found: readonly string[], spec: CommandSpec): void {
  const wanted = spec.positionals ?? [];
  const missing = wanted.find((name, i) => !name.endsWith("?") && i >= found.length);
  if (missing !== undefined) throw new UsageError(spec, `${missing} is missing`);
  if (found.length > wanted.length) {
    throw new UsageError(spec, `too many arguments: ${found.slice(wanted.length).join(" ")}`);
  }
}

/** One usage line. */
export function formatUsage(spec: CommandSpec): string {
  const words = ["kiseki", ...spec.path];
  for (const name of spec.positionals ?? []) {
    words.push(name.endsWith("?") ? `[${name.slice(0, -1)}]` : name);
  }
  for (const flag of spec.flags ?? []) {
    const text = flag.value === undefined ? `--${flag.name}` : `--${flag.name} ${flag.value}`;
    words.push(flag.required === true ? text : `[${text}]`);
  }
  return words.join(" ");
}

/** The text of `--help`. */
export function formatHelp(spec: CommandSpec): string {
  const flags = [...spec.flags ?? [], ...COMMON_FLAGS].map((flag) => {
    const head = flag.value === undefined ? `--${flag.name}` : `--${flag.name} ${flag.value}`;
    const extras = [
      flag.default === undefined ? "" : `default ${flag.default}`,
      flag.environment === undefined ? "" : `or ${flag.environment}`,
    ].filter((text) => text !== "").join(", ");
    return [`  ${head}`, extras === "" ? flag.help : `${flag.help} (${extras})`] as const;
  });
  const width = Math.max(...flags.map(([head]) => head.length)) + 2;
  return [
    spec.summary,
    "",
    `usage: ${formatUsage(spec)}`,
    "",
    "options:",
    ...flags.map(([head, help]) => head.padEnd(width) + help),
    "",
    "example:",
    `  ${spec.example}`,
  ].join("\n");
}

function formatCommandList(prefix: readonly string[], commands: readonly CommandSpec[]): string {
  const rows = commands.map((command) => [
    `  kiseki ${[...command.path, ...command.positionals ?? []].join(" ")}`.replaceAll("?", ""),
    command.summary,
  ]);
  const width = Math.max(0, ...rows.map(([head]) => (head ?? "").length)) + 2;
  const lines = rows.map(([head, summary]) => (head ?? "").padEnd(width) + summary);
  const example = commands[0]?.example ?? "";
  return [
    `usage: kiseki ${[...prefix, "COMMAND"].join(" ")}`,
    "",
    ...lines,
    "",
    "example:",
    `  ${example}`,
  ].join("\n");
}

/** Where a command writes; a test gives its own. */
export interface Terminal {
  readonly isTerminal: boolean;
  out(text: string): void;
  error(text: string): void;
}

/** The process's own stdout and stderr. */
export const PROCESS_TERMINAL: Terminal = {
  get isTerminal() {
    return Deno.stdout.isTerminal() && Deno.env.get("NO_COLOR") === undefined;
  },
  out: (text) => writeAll(Deno.stdout, text + "\n"),
  error: (text) => writeAll(Deno.stderr, text + "\n"),
};

function writeAll(stream: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += stream.writeSync(bytes.subarray(at));
}

/** Bold on a terminal, plain elsewhere. */
export function bold(terminal: Terminal, text: string): string {
  return terminal.isTerminal ? `\x1b[1m${text}\x1b[0m` : text;
}

/** Green, yellow or red on a terminal. */
export function coloured(terminal: Terminal, colour: "good" | "warn" | "bad", text: string) {
  const code = { good: 32, warn: 33, bad: 31 }[colour];
  return terminal.isTerminal ? `\x1b[${code}m${text}\x1b[0m` : text;
}

/** Columns of text, left-aligned; numbers right-aligned. */
export function formatTable(
  headers: readonly string[],
  rows: readonly (readonly string[])[],
  terminal?: Terminal,
): string {
  const all = [headers, ...rows];
  const widths = headers.map((_, i) => Math.max(...all.map((row) => width(row[i] ?? ""))));
  const numeric = headers.map((_, i) =>
    rows.length > 0 && rows.every((row) => /^-?[0-9][0-9.,]*( ?[a-zA-Z%/]+)?$/.test(row[i] ?? ""))
  );
  const line = (row: readonly string[]) =>
    headers.map((_, i) => {
      const cell = row[i] ?? "";
      const padding = " ".repeat((widths[i] ?? 0) - width(cell));
      return numeric[i] === true ? padding + cell : cell + padding;
    }).join("  ").trimEnd();
  const head = line(headers);
  return [terminal === undefined ? head : bold(terminal, head), ...rows.map(line)].join("\n");
}

/** Characters that show: colour codes take no room. */
function width(text: string): number {
  // deno-lint-ignore no-control-regex -- escape codes are control characters
  return text.replaceAll(/\x1b\[[0-9]+m/g, "").length;
}

/** Prints for a machine or for people. */
export function show(
  args: Arguments,
  terminal: Terminal,
  value: unknown,
  text: () => string,
): void {
  terminal.out(args.json ? JSON.stringify(value) : text());
}

/** The exit code that an error means. */
export function exitCodeOf(error: unknown): ExitCode {
  if (error instanceof HelpRequest) return ExitCode.ok;
  if (error instanceof UsageError || isKisekiError(error, "config.invalid")) return ExitCode.usage;
  if (error instanceof KisekiError) {
    switch (error.code) {
      case "common.unavailable":
      case "common.deadline_exceeded":
        return ExitCode.unreachable;
      case "common.unauthenticated":
      case "common.permission_denied":
        return ExitCode.unauthorised;
      case "common.invalid_argument":
        return ExitCode.usage;
      default:
        return ExitCode.failed;
    }
  }
  return ExitCode.failed;
}

/**
 * Runs a command and answers its exit code; every error becomes one clear text on stderr.
 *
 * @param json True to print the error as JSON too, on stderr.
 */
export async function runCommand(
  terminal: Terminal,
  json: boolean,
  command: () => Promise<ExitCode>,
): Promise<ExitCode> {
  try {
    return await command();
  } catch (error) {
    if (error instanceof HelpRequest) {
      terminal.out(error.message);
      return ExitCode.ok;
    }
    const exitCode = exitCodeOf(error);
    const message = error instanceof Error ? error.message : String(error);
    if (json) {
      const code = error instanceof KisekiError ? error.code : "common.internal";
      terminal.error(JSON.stringify({ error: { code, message }, exitCode }));
      return exitCode;
    }
    terminal.error(`${coloured(terminal, "bad", "error:")} ${message}`);
    if (error instanceof UsageError && error.spec !== undefined) {
      terminal.error(`usage: ${formatUsage(error.spec)}`);
    }
    return exitCode;
  }
}
