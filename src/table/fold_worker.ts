/**
 * The Worker of `worker_runner.ts`: does jobs of many tables, a slice of each at a time.
 *
 * Invariant: one merge at a time, whatever the number of tables, so that folds and commits get at
 * least half of this thread and memory stays bounded; merges wait in the order of their coming.
 */
import { errorToRecord, KisekiError } from "../common/errors.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import { runInSlices } from "./inline_runner.ts";
import type { JobResult, TableJob } from "./run_jobs.ts";
import { directoryFiles } from "./table_files.ts";
import type { WorkerReply, WorkerRequest } from "./worker_runner.ts";

/** A merge gives way to folds and commits after so long. */
const SLICE_MS = 5;

/** What this module needs of its global scope. */
interface WorkerScope {
  onmessage: ((event: MessageEvent<WorkerRequest>) => void) | null;
  postMessage(reply: WorkerReply, transfer: Transferable[]): void;
}

const scope = globalThis as unknown as WorkerScope;
const running = new Map<number, AbortController>();
let provider: CryptoProvider | undefined;
let merging: Promise<unknown> = Promise.resolve();

scope.onmessage = ({ data: request }) => {
  switch (request.type) {
    case "start":
      provider = chooseProvider(request.provider).provider;
      break;
    case "job":
      void answer(request.id, request.directory, request.job);
      break;
    case "cancel":
      running.get(request.id)?.abort();
      break;
  }
};

async function answer(id: number, directory: string, job: TableJob): Promise<void> {
  const aborter = new AbortController();
  running.set(id, aborter);
  try {
    if (provider === undefined) {
      throw new KisekiError("common.internal", "a table worker was given work before its start");
    }
    const result = await run(provider, directory, job, aborter.signal);
    scope.postMessage({ id, ok: true, result }, residentBuffers(result));
  } catch (error) {
    scope.postMessage({ id, ok: false, error: errorToRecord(error) }, []);
  } finally {
    running.delete(id);
  }
}

function run(
  sealing: CryptoProvider,
  directory: string,
  job: TableJob,
  signal: AbortSignal,
): Promise<JobResult> {
  const files = directoryFiles(directory);
  const start = () => runInSlices(sealing, files, job, signal, SLICE_MS);
  if (job.kind !== "merge") return start();
  const merge = merging.then(start, start);
  merging = merge;
  return merge;
}

/** Index and Bloom filter move to the table; they are not copied. */
function residentBuffers(result: JobResult): Transferable[] {
  if (result === undefined) return [];
  return [result.index.buffer as ArrayBuffer, result.bloom.buffer as ArrayBuffer];
}
