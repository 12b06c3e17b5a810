/**
 * Entry of `kiseki server`: Workers begin to load their modules on other cores before this isolate
 * evaluates its own.
 */
import { WorkerNursery } from "./worker_nursery.ts";

/** @param args From "server" on. */
export async function main(args: readonly string[]): Promise<number> {
  const nursery = new WorkerNursery();
  if (!args.includes("--help") && !args.includes("-h")) nursery.prepare(["storage", "gateway"]);
  const { serve } = await import("./server_run.ts");
  return await serve(args, nursery);
}
