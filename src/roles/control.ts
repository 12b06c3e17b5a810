/**
 * `kiseki control NOUN VERB`: administration over gRPC.
 */
import { assetPath } from "../common/assets.ts";
import { LISTEN_FORM, parseListenAddress } from "../common/config_values.ts";
import { KisekiError } from "../common/errors.ts";
import { AdminClient } from "../control/admin_client.ts";
import { readAdminToken } from "../control/admin_token.ts";
import {
  type Arguments,
  ExitCode,
  parseArguments,
  PROCESS_TERMINAL,
  runCommand,
  show,
  type Terminal,
  UsageError,
} from "./command_line.ts";
import { CONTROL_COMMANDS } from "./control_commands.ts";

/** @param args From "control" on. @returns the exit code. */
export function main(
  args: readonly string[],
  terminal: Terminal = PROCESS_TERMINAL,
  environment: (name: string) => string | undefined = (name) => Deno.env.get(name),
): Promise<ExitCode> {
  return runCommand(terminal, args.includes("--json"), async () => {
    const parsed = parseArguments(args, CONTROL_COMMANDS.map(({ spec }) => spec), environment);
    const command = CONTROL_COMMANDS.find(({ spec }) => spec === parsed.spec);
    if (command === undefined) throw new TypeError("a command without its table entry");
    const client = await connect(parsed, environment);
    try {
      const answer = await command.run(parsed, client, terminal);
      show(parsed, terminal, answer.value, () => answer.text);
    } finally {
      client.close();
    }
    return ExitCode.ok;
  });
}

async function connect(
  args: Arguments,
  environment: (name: string) => string | undefined,
): Promise<AdminClient> {
  const endpoint = args.required("endpoint");
  args.parsed("endpoint", LISTEN_FORM, parseListenAddress);
  const seconds = args.whole("timeout", 1, 3600) ?? 60;
  const [ca, certificate, key] = ["ca", "cert", "key"].map((flag) => args.text(flag));
  if ((certificate === undefined) !== (key === undefined)) {
    throw new UsageError(args.spec, "--cert and --key go together");
  }
  if (certificate !== undefined && ca === undefined) {
    throw new UsageError(args.spec, "--cert goes with --ca");
  }
  const token = await findToken(args, environment);
  return new AdminClient({
    endpoint,
    protoText: await Deno.readTextFile(assetPath("proto/kiseki/v1/control.proto")),
    timeoutMs: seconds * 1000,
    ...(token === undefined ? {} : { token }),
    ...(ca === undefined ? {} : {
      tls: {
        ca: await readText(ca),
        ...(certificate === undefined || key === undefined
          ? {}
          : { certificate: await readText(certificate), key: await readText(key) }),
      },
    }),
  });
}

/** A flag beats the environment; the token itself beats its file there. */
async function findToken(
  args: Arguments,
  environment: (name: string) => string | undefined,
): Promise<string | undefined> {
  const file = args.text("token-file");
  const fromEnvironment = environment("KISEKI_TOKEN");
  const fileIsFlag = file !== undefined && file !== environment("KISEKI_TOKEN_FILE");
  if (fromEnvironment !== undefined && !fileIsFlag) return fromEnvironment.trim();
  return file === undefined ? undefined : await readAdminToken(file);
}

async function readText(file: string): Promise<string> {
  try {
    return await Deno.readTextFile(file);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new KisekiError("common.invalid_argument", `${file}: cannot be read: ${reason}`, {
      cause,
    });
  }
}
