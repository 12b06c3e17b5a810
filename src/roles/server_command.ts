/**
 * Arguments of `kiseki server`, and the configuration that they mean.
 */
import {
  devConfig,
  type DevOptions,
  type Environment,
  loadServerConfig,
  type ServerConfig,
} from "../common/config.ts";
import { LISTEN_FORM, parseListenAddress } from "../common/config_values.ts";
import type { GivenCredential } from "../control/tenancy.ts";
import { type CommandSpec, parseArguments, UsageError } from "./command_line.ts";

const LISTEN_FLAGS = ["s3", "admin", "fabric", "nfs"] as const;

export const SERVER_COMMAND: CommandSpec = {
  path: ["server"],
  summary: "Storage node: log, chunks, S3 gateway, admin service. SIGTERM drains and ends it.",
  flags: [
    { name: "config", value: "FILE", help: "configuration, TOML", environment: "KISEKI_CONFIG" },
    { name: "dev", help: "a whole node on 127.0.0.1 with nothing to configure" },
    { name: "data-dir", value: "DIR", help: "directory of --dev, default kiseki-data" },
    ...LISTEN_FLAGS.map((name) => ({
      name: `${name}-listen`,
      value: "HOST:PORT",
      help: `${name} address of --dev; port 0 picks a free one`,
    })),
    { name: "force", help: "format devices that hold something else" },
  ],
  example: "kiseki server --dev --data-dir /tmp/kiseki",
};

export interface ServerArguments {
  readonly config: ServerConfig;
  readonly force: boolean;
  /** From KISEKI_DEV_ACCESS_KEY and KISEKI_DEV_SECRET_KEY; `--dev` alone. */
  readonly devCredential?: GivenCredential;
}

/**
 * Reads arguments, file and environment.
 *
 * @param args From "server" on.
 * @throws UsageError, HelpRequest, KisekiError `config.invalid`.
 */
export async function parseServerArguments(
  args: readonly string[],
  environment: Environment,
): Promise<ServerArguments> {
  const parsed = parseArguments(args, [SERVER_COMMAND], (name) => environment[name]);
  const force = parsed.has("force");
  if (!parsed.has("dev")) {
    for (const name of ["data-dir", ...LISTEN_FLAGS.map((flag) => `${flag}-listen`)]) {
      if (parsed.has(name)) {
        throw new UsageError(parsed.spec, `--${name} goes with --dev; else it stands in the file`);
      }
    }
    const file = parsed.text("config");
    if (file === undefined) throw new UsageError(parsed.spec, "one of --config FILE, --dev");
    return { config: await loadServerConfig(file, environment), force };
  }
  if (parsed.has("config") && environment["KISEKI_CONFIG"] === undefined) {
    throw new UsageError(parsed.spec, "--dev takes no --config");
  }
  const listen = (flag: string) =>
    parsed.parsed(`${flag}-listen`, LISTEN_FORM, (text) => parseListenAddress(text));
  const [s3Listen, adminListen, fabricListen, nfsListen] = LISTEN_FLAGS.map(listen);
  const options: DevOptions = {
    dataDir: parsed.text("data-dir") ?? "kiseki-data",
    ...(s3Listen === undefined ? {} : { s3Listen }),
    ...(adminListen === undefined ? {} : { adminListen }),
    ...(fabricListen === undefined ? {} : { fabricListen }),
    ...(nfsListen === undefined ? {} : { nfsListen }),
  };
  const accessKeyId = environment["KISEKI_DEV_ACCESS_KEY"];
  const secretAccessKey = environment["KISEKI_DEV_SECRET_KEY"];
  if ((accessKeyId === undefined) !== (secretAccessKey === undefined)) {
    throw new UsageError(
      parsed.spec,
      "KISEKI_DEV_ACCESS_KEY and KISEKI_DEV_SECRET_KEY go together",
    );
  }
  return {
    config: devConfig(options, environment),
    force,
    ...(accessKeyId === undefined || secretAccessKey === undefined
      ? {}
      : { devCredential: { accessKeyId, secretAccessKey } }),
  };
}
