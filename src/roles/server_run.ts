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
import type { WorkerNursery } from "./worker_nursery.ts";

/** How long the rest of a stop may take once `limits.drain_ms` is over: then the process ends. */
const STOP_LIMIT_MS = 1_500;

/** @param args From "server" on. */
export async function serve(args: readonly string[], nursery: WorkerNursery): Promise<number> {
  return await runCommand(PROCESS_TERMINAL, false, async (): Promise<ExitCode> => {
    const { config, force, devCredential } = await parseServerArguments(args, Deno.env.toObject());
    const logger = stderrLogger(config.logging.level).with({ isolate: "main" });
    const node = await Node.start({ config, force, devCredential, logger, nursery });
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
    const limitMs = config.limits.drainMs + STOP_LIMIT_MS;
    const limit = setTimeout(() => {
      logger.error("stop took too long", { limitMs });
      Deno.exit(0);
    }, limitMs);
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
