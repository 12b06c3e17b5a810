/**
 * Shards across a link. Payload of a request: shard u64, then the request as it is.
 */
import { ByteReader, type Bytes } from "../common/bytes.ts";
import type { ShardId } from "../common/ids.ts";
import type { ShardPort } from "../log/ports.ts";
import type { Link } from "./link.ts";
import { Method } from "./messages.ts";

/** The caller's side. */
export class RemoteShardPort implements ShardPort {
  readonly #link: Link;

  constructor(link: Link) {
    this.#link = link;
  }

  execute(shard: ShardId, request: Bytes): Promise<Bytes> {
    return this.#link.call(Method.execute, withShard(shard, request));
  }

  query(shard: ShardId, request: Bytes): Promise<Bytes> {
    return this.#link.call(Method.query, withShard(shard, request));
  }
}

/** The log isolate's side. */
export function serveShards(link: Link, shards: ShardPort): void {
  link.handle(Method.execute, (payload) => {
    const reader = new ByteReader(payload, "shard request");
    return shards.execute(reader.int() as ShardId, reader.rest());
  });
  link.handle(Method.query, (payload) => {
    const reader = new ByteReader(payload, "shard query");
    return shards.query(reader.int() as ShardId, reader.rest());
  });
}

function withShard(shard: ShardId, request: Bytes): Bytes {
  const payload = new Uint8Array(8 + request.length);
  new DataView(payload.buffer).setBigUint64(0, BigInt(shard), true);
  payload.set(request, 8);
  return payload;
}
