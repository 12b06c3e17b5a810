/**
 * `kiseki server`: one storage node, or with `--dev` a whole one on this machine.
 *
 * Prints one JSON line on stdout once it serves; logs go to stderr. SIGTERM and SIGINT drain the
 * gateways, then storage, and end with 0; a second signal ends at once.
 */
import { stderrLogger } from "../common/logging.ts";
import type { ServerConfig } from "../common/config.ts";
import { type ExitCode, PROCESS_TERMINAL, runCommand } from "./command_line.ts";
import { Node } from "./node.ts";
import { parseServerArguments } from "./server_command.ts";

/** How long a drain may take before the process ends anyway. */
const DRAIN_LIMIT_MS = 9_500;

/** @param args From "server" on. */
export async function main(args: readonly string[]): Promise<number> {
  return await runCommand(PROCESS_TERMINAL, false, async (): Promise<ExitCode> => {
    const { config, force, devCredential } = await parseServerArguments(args, Deno.env.toObject());
    const logger = stderrLogger(config.logging.level).with({ isolate: "main" });
    const node = await Node.start({ config, force, devCredential, logger });
    const signalled = Promise.withResolvers<string>();
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      Deno.addSignalListener(signal, () => {
        if (node.stopping) Deno.exit(1);
        signalled.resolve(signal);
      });
    }
    PROCESS_TERMINAL.out(JSON.stringify(readyLine(config, node)));
    const signal = await signalled.promise;
    logger.info("draining", { signal });
    const limit = setTimeout(() => {
      logger.error("drain took too long", { limitMs: DRAIN_LIMIT_MS });
      Deno.exit(0);
    }, DRAIN_LIMIT_MS);
    await node.stop();
    clearTimeout(limit);
    logger.info("stopped");
    return 0;
  });
}

/** What a script needs to use this node. The secret is printed under `--dev` alone. */
function readyLine(config: ServerConfig, node: Node): Record<string, unknown> {
  const { addresses, devCredential } = node;
  return {
    ready: true,
    s3: addresses.s3,
    admin: addresses.admin,
    fabric: addresses.fabric,
    ...(addresses.nfs === undefined ? {} : { nfs: addresses.nfs }),
    ...(config.dev && devCredential !== undefined
      ? {
        accessKeyId: devCredential.accessKeyId,
        secretAccessKey: devCredential.secretAccessKey,
      }
      : {}),
  };
}
