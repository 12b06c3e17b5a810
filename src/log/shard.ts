/**
 * A shard: the state machine of one Raft group of one organisation, and the leader's side of it.
 *
 * The leader evaluates commands one after the other against applied and proposed rows, seals the
 * mutations as a delta and proposes it; every replica applies the same bytes to its table.
 *
 * Invariants:
 * - nothing is evaluated before the first entry of this leader's term is applied, so that all of
 *   the log before it is in the rows;
 * - a refusal or a result without mutations is answered only after every proposal that it may have
 *   seen is applied: no caller learns of what could still be lost;
 * - a DEK seals in one term of one leader and is never taken up again;
 * - `sequence` counts deltas without gap in the order of the log.
 */
import type { Bytes } from "../common/bytes.ts";
import type { HybridClock, HybridTimestamp } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import { newId128, type OrganisationId, type ShardId } from "../common/ids.ts";
import type { Logger } from "../common/logging.ts";
import { openEnvelope, plaintextSize, sealedSize, sealEnvelope } from "../crypto/envelope.ts";
import { EnvelopeKind } from "../crypto/envelope_format.ts";
import type { DataKey, TenantKeys } from "../crypto/sealer.ts";
import { type Entry, EntryKind, type RaftGroup, type StateMachine } from "../raft/ports.ts";
import type { Mutation, Table } from "../table/table.ts";
import {
  advanceShardState,
  beginDelta,
  decodeLogEntryData,
  decodeMutations,
  decodeShardState,
  deltaIdentity,
  encodeLogKey,
  encodeMutations,
  encodeShardState,
  type LogKey,
  NO_NAME_HASH,
} from "./delta.ts";
import { Overlay } from "./overlay.ts";
import type { CommandEvaluator, EvaluationContext, QueryContext } from "./ports.ts";

/** Seals of one DEK before a fresh one is taken (NIST SP 800-38D 8.3 bounds random nonces at 2^32). */
const MAX_SEALS_PER_KEY = 2 ** 30;
/** Deltas proposed but not yet applied, above which commands wait. */
const MAX_PENDING_DELTAS = 1024;
const MAX_PENDING_BYTES = 32 << 20;
/** Memory table above which commands wait for the fold that is under way. */
const MAX_TABLE_MEMORY_BYTES = 128 << 20;

export interface ShardOptions {
  readonly shard: ShardId;
  readonly organisation: OrganisationId;
  readonly table: Table;
  readonly keys: TenantKeys;
  readonly evaluators: readonly CommandEvaluator[];
  readonly clock: HybridClock;
  readonly logger: Logger;
  /** Called when the memory table wants folding; applies go on meanwhile. */
  readonly onWantsFold: (shard: Shard) => void;
}

interface PendingDelta {
  readonly mutations: readonly Mutation[];
  readonly sequence: number;
  readonly timestamp: HybridTimestamp;
  readonly bytes: number;
}

export class Shard implements StateMachine {
  readonly shard: ShardId;
  readonly organisation: OrganisationId;
  readonly table: Table;
  readonly #keys: TenantKeys;
  readonly #evaluators = new Map<number, CommandEvaluator>();
  readonly #clock: HybridClock;
  readonly #logger: Logger;
  readonly #onWantsFold: (shard: Shard) => void;
  readonly #overlay: Overlay;
  readonly #pending = new Map<number, PendingDelta>();
  #pendingBytes = 0;
  #group: RaftGroup | undefined;
  /** The last proposal's outcome: what a refusal waits for. */
  #barrier: Promise<void> = Promise.resolve();
  #waiters: (() => void)[] = [];

  // as applied
  #sequence: number;
  #timestamp: HybridTimestamp;
  #currentKey: LogKey | undefined;
  #openKey: { readonly key: LogKey; readonly dataKey: DataKey } | undefined;
  /** The last encoded state, and the key that it names. */
  #state: Bytes | undefined;
  #stateKey: LogKey | undefined;

  // as proposed by this leader
  #leader:
    | {
      readonly term: number;
      dataKey: DataKey;
      key: LogKey;
      seals: number;
      sequence: number;
      timestamp: HybridTimestamp;
      /** True once the term's first entry is applied. */
      started: boolean;
    }
    | undefined;

  constructor(options: ShardOptions) {
    this.shard = options.shard;
    this.organisation = options.organisation;
    this.table = options.table;
    this.#keys = options.keys;
    for (const evaluator of options.evaluators) this.#evaluators.set(evaluator.tag, evaluator);
    this.#clock = options.clock;
    this.#logger = options.logger.with({ shard: options.shard });
    this.#onWantsFold = options.onWantsFold;
    this.#overlay = new Overlay(options.table);
    const state = decodeShardState(options.table.durableState().ownerState);
    this.#sequence = state.sequence;
    this.#timestamp = state.timestamp;
    this.#currentKey = state.key;
  }

  get appliedIndex(): number {
    return this.table.appliedIndex;
  }

  /** Deltas applied so far. */
  get sequence(): number {
    return this.#sequence;
  }

  /** Called once, before the first command. */
  attach(group: RaftGroup): void {
    this.#group = group;
  }

  // ---- state machine ----

  apply(entry: Entry): void {
    if (entry.kind === EntryKind.configuration || entry.data.length === 0) {
      this.#applyRows(entry.index, []);
      return;
    }
    const data = decodeLogEntryData(entry.data);
    if (data.type === "logKey") {
      this.#currentKey = { ...data.key, wrapped: data.key.wrapped.slice() };
      this.#applyRows(entry.index, []);
      const leader = this.#leader;
      if (leader !== undefined && leader.term === data.key.term && !leader.started) {
        leader.started = true;
        leader.sequence = this.#sequence;
        leader.timestamp = this.#timestamp;
        this.#wake();
      }
      return;
    }
    const { header, envelope } = data;
    if (header.shard !== this.shard || header.sequence !== this.#sequence + 1) {
      throw new KisekiError(
        "log.torn",
        `shard ${this.shard}: entry ${entry.index} holds delta ${header.sequence} of shard ${header.shard}, ${
          this.#sequence + 1
        } was due: the log is damaged`,
      );
    }
    const pending = this.#pending.get(entry.index);
    const mine = pending !== undefined && pending.sequence === header.sequence &&
      this.#leader?.term === entry.term;
    const mutations = mine
      ? pending.mutations
      : decodeMutations(this.#openPayload(header.key, header.sequence, envelope));
    this.#sequence = header.sequence;
    if (header.timestamp > this.#timestamp) this.#timestamp = header.timestamp;
    this.#applyRows(entry.index, mutations);
    if (pending !== undefined) this.#settle(entry.index, pending);
  }

  becomeLeader(term: number): Bytes {
    this.#dropLeadership();
    const dataKey = this.#keys.generateDataKey();
    const key = { term, number: 0, wrapped: dataKey.wrapped };
    this.#leader = { term, dataKey, key, seals: 0, sequence: 0, timestamp: 0n, started: false };
    return encodeLogKey(key);
  }

  loseLeadership(): void {
    this.#dropLeadership();
    this.#wake();
  }

  // ---- commands and queries ----

  /**
   * Evaluates, proposes, and resolves with the result once the delta is applied.
   *
   * @throws KisekiError of the evaluator, `raft.not_leader`, `raft.proposal_dropped`,
   *   `keys.unavailable`, `log.delta_too_large`.
   */
  async execute(request: Bytes): Promise<Bytes> {
    const group = this.#attached();
    while (this.#mustWait()) await new Promise<void>((resolve) => this.#waiters.push(resolve));
    const leader = this.#leader;
    if (leader === undefined || !group.isLeader) throw notLeader(this.shard, group);
    const context: EvaluationContext = {
      shard: this.shard,
      organisation: this.organisation,
      rows: this.#overlay,
      timestamp: this.#nextTimestamp(leader),
      newId: newId128,
    };
    let evaluation;
    try {
      evaluation = this.#evaluator(request).evaluate(context, request.subarray(1));
    } catch (refusal) {
      await this.#barrier;
      throw refusal;
    }
    if (evaluation.mutations.length === 0) {
      await this.#barrier;
      return evaluation.result;
    }
    if (leader.seals >= MAX_SEALS_PER_KEY) this.#renewKey(group, leader);
    const sequence = leader.sequence + 1;
    const payload = encodeMutations(evaluation.mutations);
    const { delta, envelope } = beginDelta({
      evaluator: request[0] ?? 0,
      operation: evaluation.operation,
      shard: this.shard,
      sequence,
      timestamp: context.timestamp,
      routingKey: evaluation.routingKey,
      nameHash: evaluation.name === undefined ? NO_NAME_HASH : this.#keys.nameHash(evaluation.name),
      key: leader.key,
      chunksAdded: evaluation.chunksAdded ?? [],
      chunksDropped: evaluation.chunksDropped ?? [],
    }, sealedSize(payload.length, 0));
    sealEnvelope(
      leader.dataKey,
      EnvelopeKind.delta,
      this.organisation,
      deltaIdentity(this.shard, sequence),
      payload,
      0,
      envelope,
    );
    const ticket = group.propose(delta);
    leader.sequence = sequence;
    leader.seals += 1;
    const pending = {
      mutations: evaluation.mutations,
      sequence,
      timestamp: context.timestamp,
      bytes: delta.length,
    };
    this.#pending.set(ticket.index, pending);
    this.#pendingBytes += delta.length;
    this.#overlay.add(ticket.index, evaluation.mutations);
    this.#barrier = ticket.applied;
    await ticket.applied;
    return evaluation.result;
  }

  /** A linearizable read of applied rows. @throws KisekiError of the evaluator, `raft.not_leader`. */
  async query(request: Bytes): Promise<Bytes> {
    const group = this.#attached();
    while (this.#leader !== undefined && !this.#leader.started) {
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
    await group.readIndex();
    const context: QueryContext = {
      shard: this.shard,
      organisation: this.organisation,
      rows: this.table,
      nowMs: Number(this.#clock.now() >> 16n),
    };
    return this.#evaluator(request).query(context, request.subarray(1));
  }

  /** Folds the memory table and lets the log forget what is in runs. */
  async fold(): Promise<void> {
    await this.table.fold();
    this.#attached().compactTo(this.table.durableState().appliedIndex);
    this.#wake();
  }

  async close(): Promise<void> {
    this.#dropLeadership();
    this.#openKey?.dataKey.release();
    this.#openKey = undefined;
    await this.table.close();
  }

  // ---- private ----

  #attached(): RaftGroup {
    if (this.#group === undefined) {
      throw new KisekiError("raft.stopped", `shard ${this.shard} is not running`);
    }
    return this.#group;
  }

  #evaluator(request: Bytes): CommandEvaluator {
    const evaluator = this.#evaluators.get(request[0] ?? 0);
    if (evaluator === undefined) {
      throw new KisekiError(
        "common.unsupported_version",
        `request tag ${request[0] ?? "none"} is not known to this release`,
      );
    }
    return evaluator;
  }

  #mustWait(): boolean {
    return this.#leader?.started === false || this.#pending.size >= MAX_PENDING_DELTAS ||
      this.#pendingBytes >= MAX_PENDING_BYTES ||
      (this.table.wantsFold && this.table.statistics().memoryBytes > MAX_TABLE_MEMORY_BYTES);
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }

  #applyRows(index: number, mutations: readonly Mutation[]): void {
    if (this.#stateKey !== this.#currentKey || this.#state === undefined) {
      this.#stateKey = this.#currentKey;
      this.#state = encodeShardState({
        sequence: this.#sequence,
        timestamp: this.#timestamp,
        key: this.#currentKey,
      });
    }
    const state = advanceShardState(this.#state, this.#sequence, this.#timestamp);
    this.table.apply(index, mutations, state);
    if (this.table.wantsFold) this.#onWantsFold(this);
  }

  #settle(index: number, pending: PendingDelta): void {
    this.#pending.delete(index);
    this.#pendingBytes -= pending.bytes;
    this.#overlay.settle(index, pending.mutations);
    if (this.#waiters.length > 0) this.#wake();
  }

  #nextTimestamp(leader: { timestamp: HybridTimestamp }): HybridTimestamp {
    const now = this.#clock.now();
    leader.timestamp = now > leader.timestamp ? now : leader.timestamp + 1n;
    return leader.timestamp;
  }

  #renewKey(
    group: RaftGroup,
    leader: { term: number; dataKey: DataKey; key: LogKey; seals: number },
  ): void {
    const dataKey = this.#keys.generateDataKey();
    const key = { term: leader.term, number: leader.key.number + 1, wrapped: dataKey.wrapped };
    group.propose(encodeLogKey(key)).applied.catch((error: unknown) =>
      this.#logger.warn("log key entry was dropped", { error: String(error) })
    );
    leader.dataKey.release();
    leader.dataKey = dataKey;
    leader.key = key;
    leader.seals = 0;
  }

  #openPayload(id: { term: number; number: number }, sequence: number, envelope: Bytes): Bytes {
    const current = this.#currentKey;
    if (current === undefined || current.term !== id.term || current.number !== id.number) {
      throw new KisekiError(
        "log.torn",
        `shard ${this.shard}: delta ${sequence} names log key ${id.term}.${id.number}, which the log does not hold`,
      );
    }
    if (this.#openKey?.key !== current) {
      this.#openKey?.dataKey.release();
      this.#openKey = { key: current, dataKey: this.#keys.openDataKey(current.wrapped) };
    }
    const size = plaintextSize(envelope.length, 0);
    if (size === undefined) {
      throw new KisekiError("log.torn", `shard ${this.shard}: delta ${sequence} is too short`);
    }
    const payload = new Uint8Array(size);
    openEnvelope(
      this.#openKey.dataKey,
      EnvelopeKind.delta,
      this.organisation,
      deltaIdentity(this.shard, sequence),
      envelope,
      payload,
    );
    return payload;
  }

  #dropLeadership(): void {
    this.#leader?.dataKey.release();
    this.#leader = undefined;
    this.#overlay.clear();
    this.#pending.clear();
    this.#pendingBytes = 0;
  }
}

function notLeader(shard: ShardId, group: RaftGroup): KisekiError {
  return new KisekiError(
    "raft.not_leader",
    `shard ${shard} is led by node ${group.leader ?? "none"}`,
    {
      retriable: true,
      details: { shard, leader: group.leader ?? 0 },
    },
  );
}
