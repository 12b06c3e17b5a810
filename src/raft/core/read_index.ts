/**
 * Reads that wait for a majority to confirm the leader (Raft thesis 6.4).
 *
 * Invariant: an acknowledgement of context c confirms all reads up to c, because heartbeats carry
 * the newest context and contexts grow.
 */
import type { NodeId } from "../../common/ids.ts";

interface WaitingRead {
  readonly context: number;
  readonly from: NodeId;
  readonly request: number;
  readonly index: number;
  readonly acks: Set<NodeId>;
}

export class ReadIndexQueue {
  #waiting: WaitingRead[] = [];
  #nextContext = 1;

  /** Context for heartbeats: that of the newest read that waits, 0 for none. */
  get lastContext(): number {
    return this.#waiting.at(-1)?.context ?? 0;
  }

  /** Queues a read. @returns its context. */
  add(self: NodeId, from: NodeId, request: number, index: number): number {
    const context = this.#nextContext++;
    this.#waiting.push({ context, from, request, index, acks: new Set([self]) });
    return context;
  }

  /** `node` answered a heartbeat with `context`. @returns reads that are confirmed now. */
  acknowledge(
    node: NodeId,
    context: number,
    isQuorum: (acks: ReadonlySet<NodeId>) => boolean,
  ): readonly WaitingRead[] {
    let confirmed = 0;
    for (const [i, read] of this.#waiting.entries()) {
      if (read.context > context) break;
      read.acks.add(node);
      if (isQuorum(read.acks)) confirmed = i + 1;
    }
    return this.#waiting.splice(0, confirmed);
  }

  /** Leadership ended: askers try again. Contexts go on, so that old answers confirm nothing. */
  clear(): void {
    this.#waiting = [];
  }
}
