/**
 * How the host's messages reach the hosts of other nodes: a port, implemented with the fabric.
 *
 * A transport may lose, delay, repeat and reorder messages; the core bears all of that. It must
 * not change them, and must know who sent them.
 */
import type { ShardId } from "../common/ids.ts";
import type { Message } from "./core/messages.ts";

export interface RaftTransport {
  /** Sends to `message.to`. Never blocks and never throws: what cannot be sent is dropped. */
  send(shard: ShardId, message: Message): void;
  /** Sets who takes messages for this node. */
  onMessage(handler: (shard: ShardId, message: Message) => void): void;
}
