/**
 * Does table jobs in this isolate, a slice at a time.
 *
 * Syncs and the last step of a run block the event loop: tools and tests use it; a server hands its
 * tables a Worker (`worker_runner.ts`).
 */
import { setImmediate } from "node:timers";
import type { CryptoProvider } from "../crypto/provider.ts";
import { KisekiError } from "../common/errors.ts";
import { type JobResult, type JobRunner, jobSteps, rawKeysOf, type TableJob } from "./run_jobs.ts";
import type { TableFiles } from "./table_files.ts";

/**
 * @param provider Seals and hashes.
 * @param sliceMs A job gives way to the event loop after so many milliseconds.
 */
export function inlineRunner(provider: CryptoProvider, sliceMs = 3): JobRunner {
  return { run: (files, job, signal) => runInSlices(provider, files, job, signal, sliceMs) };
}

/**
 * Runs a job to its end, giving way to other work of this isolate.
 *
 * @throws KisekiError `common.cancelled` when `signal` fires first, and what the job throws.
 */
export async function runInSlices(
  provider: CryptoProvider,
  files: TableFiles,
  job: TableJob,
  signal: AbortSignal,
  sliceMs: number,
): Promise<JobResult> {
  const steps = jobSteps(provider, files, job);
  try {
    while (true) {
      if (signal.aborted) throw new KisekiError("common.cancelled", "the table is being closed");
      const until = performance.now() + sliceMs;
      do {
        const step = steps.next();
        if (step.done) return step.value;
      } while (performance.now() < until);
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
  } finally {
    steps.return(undefined);
    for (const key of rawKeysOf(job)) key.fill(0);
  }
}
