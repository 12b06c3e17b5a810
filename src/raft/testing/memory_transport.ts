/**
 * Connects hosts of one process: messages are delivered in order, a turn later; nodes can be cut off.
 */
import { setImmediate } from "node:timers";
import type { NodeId, ShardId } from "../../common/ids.ts";
import type { Message } from "../core/messages.ts";
import type { RaftTransport } from "../transport.ts";

export class MemoryNetwork {
  readonly #handlers = new Map<NodeId, (shard: ShardId, message: Message) => void>();
  /** Nodes that neither hear nor speak. */
  readonly cut = new Set<NodeId>();
  delivered = 0;

  /** The transport of one node. */
  transport(node: NodeId): RaftTransport {
    return {
      send: (shard, message) => {
        if (this.cut.has(node)) return;
        setImmediate(() => {
          if (this.cut.has(message.to)) return;
          this.delivered++;
          this.#handlers.get(message.to)?.(shard, message);
        });
      },
      onMessage: (handler) => void this.#handlers.set(node, handler),
    };
  }
}
