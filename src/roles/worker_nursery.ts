/**
 * Workers made before they are needed: loading a module takes longer than opening a store.
 *
 * Invariants: a Worker waits for its start message and does nothing before it; one that dies while
 * it waits is told of when it is taken.
 */
import { type WorkerName, workerUrl } from "../common/assets.ts";

interface Prepared {
  readonly worker: Worker;
  /** Told of a death; replaced by whoever takes the Worker. */
  onDeath: (reason: string) => void;
}

export class WorkerNursery {
  readonly #prepared = new Map<WorkerName, Prepared[]>();

  /** Makes one Worker of each kind. */
  prepare(kinds: readonly WorkerName[]): void {
    for (const kind of kinds) {
      const waiting = this.#prepared.get(kind) ?? [];
      waiting.push(make(kind));
      this.#prepared.set(kind, waiting);
    }
  }

  /** A prepared Worker, or a new one. `onDeath` hears of an uncaught error in it. */
  take(kind: WorkerName, onDeath: (reason: string) => void): Worker {
    const prepared = this.#prepared.get(kind)?.pop() ?? make(kind);
    prepared.onDeath = onDeath;
    return prepared.worker;
  }
}

function make(kind: WorkerName): Prepared {
  let early: string | undefined;
  const worker = new Worker(workerUrl(kind), { type: "module", name: kind });
  const prepared: Prepared = {
    worker,
    get onDeath() {
      return hear;
    },
    set onDeath(listener) {
      hear = listener;
      if (early !== undefined) listener(early);
    },
  };
  let hear = (reason: string): void => {
    early = reason;
  };
  worker.addEventListener("error", (event) => {
    event.preventDefault();
    hear(event.message);
  });
  return prepared;
}
