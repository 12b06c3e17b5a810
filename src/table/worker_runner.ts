/**
 * Does table jobs in a Worker, so that folds, merges and syncs never hold up this isolate.
 *
 * One Worker serves all tables of an isolate: a fold and merges take turns in it. It starts with
 * the first job. If it dies every job under way fails with a retriable error and the next job starts
 * another: tables stay readable from what they hold.
 *
 * Invariant: raw keys are transferred, never cloned; the Worker zeroes them after the job.
 */
import { workerUrl } from "../common/assets.ts";
import { errorFromRecord, type ErrorRecord, KisekiError } from "../common/errors.ts";
import type { ProviderOptions } from "../crypto/provider_choice.ts";
import { type JobResult, type JobRunner, rawKeysOf, type TableJob } from "./run_jobs.ts";

/** What goes to the Worker. */
export type WorkerRequest =
  | { readonly type: "start"; readonly provider: ProviderOptions }
  | {
    readonly type: "job";
    readonly id: number;
    readonly directory: string;
    readonly job: TableJob;
  }
  | { readonly type: "cancel"; readonly id: number };

/** What comes back for each job, once. */
export type WorkerReply =
  | { readonly id: number; readonly ok: true; readonly result: JobResult }
  | { readonly id: number; readonly ok: false; readonly error: ErrorRecord };

/** A runner that holds a Worker. */
export interface WorkerRunner extends JobRunner {
  /** Ends the Worker; jobs under way fail. Call it after the tables were closed. */
  close(): void;
}

/** @param url The Worker's module. */
export function workerRunner(
  provider: ProviderOptions,
  url: string | URL = workerUrl("table"),
): WorkerRunner {
  let worker: Worker | undefined;
  let nextId = 1;
  const pending = new Map<number, {
    readonly resolve: (result: JobResult) => void;
    readonly reject: (error: KisekiError) => void;
  }>();

  const fail = (reason: string) => {
    worker?.terminate();
    worker = undefined;
    const waiting = [...pending.values()];
    pending.clear();
    for (const { reject } of waiting) {
      reject(
        new KisekiError("common.unavailable", `the table worker ended: ${reason}`, {
          retriable: true,
        }),
      );
    }
  };

  const start = (): Worker => {
    const started = new Worker(url, { type: "module", name: "table" });
    started.onmessage = (event: MessageEvent<WorkerReply>) => {
      const reply = event.data;
      const waiting = pending.get(reply.id);
      pending.delete(reply.id);
      if (waiting === undefined) return;
      if (reply.ok) waiting.resolve(reply.result);
      else waiting.reject(errorFromRecord(reply.error));
    };
    started.onerror = (event) => {
      event.preventDefault();
      if (worker === started) fail(event.message);
    };
    started.onmessageerror = () => {
      if (worker === started) fail("a message that cannot be read");
    };
    const request: WorkerRequest = { type: "start", provider };
    started.postMessage(request);
    return started;
  };

  return {
    run(files, job, signal) {
      if (signal.aborted) {
        for (const key of rawKeysOf(job)) key.fill(0);
        return Promise.reject(new KisekiError("common.cancelled", "the table is being closed"));
      }
      worker ??= start();
      const target = worker;
      const id = nextId++;
      const result = new Promise<JobResult>((resolve, reject) => {
        pending.set(id, { resolve, reject });
      });
      const cancel = () => {
        const request: WorkerRequest = { type: "cancel", id };
        if (pending.has(id) && worker === target) target.postMessage(request);
      };
      signal.addEventListener("abort", cancel, { once: true });
      const request: WorkerRequest = { type: "job", id, directory: files.path, job };
      target.postMessage(request, movedBuffers(job));
      return result.finally(() => signal.removeEventListener("abort", cancel));
    },
    close() {
      fail("it was closed");
    },
  };
}

/** What is moved instead of copied: raw keys, and the order of a frozen table's rows. */
function movedBuffers(job: TableJob): Transferable[] {
  const moved: Transferable[] = rawKeysOf(job).map((key) => key.buffer as ArrayBuffer);
  if (job.kind === "fold") moved.push(job.rows.references);
  return moved;
}
