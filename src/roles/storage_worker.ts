/**
 * Entry of the storage Worker: the first message starts the isolate, the rest goes over links.
 */
import type { StorageStart } from "./isolates.ts";
import { startStorage } from "./storage_isolate.ts";

/** What this module needs of its global scope. */
interface WorkerScope {
  onmessage: ((event: MessageEvent<StorageStart>) => void) | null;
}

const scope = globalThis as unknown as WorkerScope;
scope.onmessage = ({ data }) => {
  scope.onmessage = null;
  startStorage(data);
};
