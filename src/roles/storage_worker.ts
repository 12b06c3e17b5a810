/**
 * Entry of the storage Worker: the first message starts the isolate, the rest goes over links.
 */
import type { StorageStart } from "./isolates.ts";
import { startStorage } from "./storage_isolate.ts";

self.addEventListener("message", (event: MessageEvent<StorageStart>) => {
  startStorage(event.data);
}, { once: true });
