/**
 * Speaks to the shards that hold a namespace: picks the shard of a path, follows a walk from shard
 * to shard, and unwraps answers.
 */
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { CONTROL_SHARD, type OrganisationId } from "../common/ids.ts";
import type { ShardPort, ShardRouter } from "../log/ports.ts";
import * as m from "./messages.ts";
import { Routing, type Sha256 } from "./rows.ts";
import type { Codec } from "./wire.ts";

/** Shards that one walk may pass. */
const MAX_HOPS = 1100;

export class ShardLink {
  readonly #shards: ShardPort;
  readonly #router: ShardRouter;
  readonly #routing: Routing;

  constructor(shards: ShardPort, router: ShardRouter, sha256: Sha256) {
    this.#shards = shards;
    this.#router = router;
    this.#routing = new Routing(sha256);
  }

  /** A command or query along a path, from shard to shard until it is done. */
  async walk<T extends { readonly path: m.Path | undefined }, A>(
    how: "execute" | "query",
    organisation: OrganisationId,
    number: number,
    codec: Codec<T>,
    path: m.Path,
    request: Partial<T>,
    answer: Codec<A>,
  ): Promise<A> {
    let at = path;
    for (let hop = 0; hop < MAX_HOPS; hop++) {
      const reply = m.Answer.decode(
        await this.#send(
          how,
          organisation,
          at.placement,
          m.encodeRequest<T>(number, codec, { ...request, path: at }),
        ),
      );
      if (reply.body !== undefined) return answer.decode(reply.body);
      if (reply.continueAt === undefined) break;
      at = reply.continueAt;
    }
    throw new KisekiError("common.internal", "a walk over shards did not end");
  }

  /** A command to the shard of a placement id. */
  async command<T, A>(
    organisation: OrganisationId,
    placement: Bytes,
    number: number,
    codec: Codec<T>,
    request: Partial<T>,
    answer: Codec<A>,
  ): Promise<A> {
    const message = m.encodeRequest(number, codec, request);
    return unwrap(await this.#send("execute", organisation, placement, message), answer);
  }

  /** A query to the shard of a placement id. */
  async query<T, A>(
    organisation: OrganisationId,
    placement: Bytes,
    number: number,
    codec: Codec<T>,
    request: Partial<T>,
    answer: Codec<A>,
  ): Promise<A> {
    const message = m.encodeRequest(number, codec, request);
    return answer.decode(await this.#send("query", organisation, placement, message));
  }

  /** A command to the control shard. */
  async controlCommand<T, A>(
    number: number,
    codec: Codec<T>,
    request: Partial<T>,
    answer: Codec<A>,
  ): Promise<A> {
    const message = m.encodeRequest(number, codec, request);
    return unwrap(await this.#shards.execute(CONTROL_SHARD, message), answer);
  }

  /** A query to the control shard. */
  async controlQuery<T, A>(
    number: number,
    codec: Codec<T>,
    request: Partial<T>,
    answer: Codec<A>,
  ): Promise<A> {
    const message = m.encodeRequest(number, codec, request);
    return answer.decode(await this.#shards.query(CONTROL_SHARD, message));
  }

  #send(
    how: "execute" | "query",
    organisation: OrganisationId,
    placement: Bytes,
    message: Bytes,
  ): Promise<Bytes> {
    const shard = this.#router.shardOf(organisation, this.#routing.of(placement));
    return how === "execute"
      ? this.#shards.execute(shard, message)
      : this.#shards.query(shard, message);
  }
}

function unwrap<A>(bytes: Bytes, answer: Codec<A>): A {
  const { body } = m.Answer.decode(bytes);
  if (body === undefined) throw new KisekiError("common.internal", "an answer without a body");
  return answer.decode(body);
}
