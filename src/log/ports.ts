/**
 * Ports of the log room: how a request reaches a shard's leader, and how the rooms above teach a
 * shard what a command means.
 *
 * A command is evaluated at the leader, in order, against applied rows overlaid with what is
 * proposed but not yet applied; its result is a list of row mutations that is sealed as a delta,
 * replicated, and applied everywhere without being evaluated again. So replicas of different
 * versions never disagree, and a delta's header can name the chunks that it adds and drops.
 */
import type { Bytes } from "../common/bytes.ts";
import type { HybridTimestamp } from "../common/clock.ts";
import type { ChunkId, OrganisationId, ShardId } from "../common/ids.ts";
import type { Mutation, RowReader } from "../table/table.ts";

/**
 * Carries requests to the leader of a shard, wherever it is. The request is one byte string
 * (see `proto/kiseki/v1/shard.proto` and {@link CommandEvaluator}), so that it crosses isolates and
 * nodes alike.
 */
export interface ShardPort {
  /** A change: resolves once it is committed and applied. At most 1 MiB + 64 KiB. */
  execute(shard: ShardId, request: Bytes): Promise<Bytes>;
  /** A linearizable read. */
  query(shard: ShardId, request: Bytes): Promise<Bytes>;
}

/** Which shard owns a routing key of an organisation. Versioned; cached by clients. */
export interface ShardRouter {
  /** @throws KisekiError `log.no_shard`. */
  shardOf(organisation: OrganisationId, routingKey: Bytes): ShardId;
  /** All shards of an organisation, in order of their ranges. */
  shardsOf(organisation: OrganisationId): readonly ShardId[];
}

/** Largest encoded delta, header and sealed payload. */
export const MAX_DELTA_BYTES = 1 << 20;

/** What an evaluator decided. */
export interface Evaluation {
  readonly mutations: readonly Mutation[];
  /** Encoded result for the caller. */
  readonly result: Bytes;
  /** For the delta's clear header. */
  readonly operation: number;
  readonly routingKey: Bytes;
  /** The name that the change is about, if any; only its keyed hash is stored in the clear. */
  readonly name?: Bytes;
  readonly chunksAdded?: readonly ChunkId[];
  readonly chunksDropped?: readonly ChunkId[];
}

/** What an evaluator may know. Everything else would make it impure. */
export interface EvaluationContext {
  readonly shard: ShardId;
  readonly organisation: OrganisationId;
  /** Rows applied and proposed. */
  readonly rows: RowReader;
  /** Strictly increasing within the shard. */
  readonly timestamp: HybridTimestamp;
  /** 128 random bits, as hex. */
  newId(): string;
}

/** What a query may know: applied rows alone. */
export interface QueryContext {
  readonly shard: ShardId;
  readonly organisation: OrganisationId;
  readonly rows: RowReader;
  readonly nowMs: number;
}

/**
 * One room's commands and queries. The first byte of a request selects the evaluator
 * ({@link EvaluatorTag}), the rest is the evaluator's own protobuf message.
 */
export interface CommandEvaluator {
  readonly tag: EvaluatorTag;
  /** @throws KisekiError for a refusal: nothing is proposed then. */
  evaluate(context: EvaluationContext, request: Bytes): Evaluation;
  /** @throws KisekiError */
  query(context: QueryContext, request: Bytes): Bytes;
}

export const EvaluatorTag = { ledger: 1, namespace: 2, tenancy: 3, system: 4 } as const;
export type EvaluatorTag = typeof EvaluatorTag[keyof typeof EvaluatorTag];
