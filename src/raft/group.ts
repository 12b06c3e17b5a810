/**
 * One group on this node: the core, its state machine, its tickets and its reads.
 *
 * Invariants: entries are applied in order, once, after they are durable and committed; a ticket
 * resolves after its entry was applied in the term in which it was proposed.
 */
import { KisekiError } from "../common/errors.ts";
import type { NodeId, ShardId } from "../common/ids.ts";
import type { Logger } from "../common/logging.ts";
import { plainConfiguration } from "./core/configuration.ts";
import type { Message } from "./core/messages.ts";
import { RaftCore } from "./core/raft_core.ts";
import type { Ready } from "./core/ready.ts";
import type { GroupOptions } from "./host.ts";
import {
  type Entry,
  EntryKind,
  type LogRecord,
  type ProposalTicket,
  type RaftGroup,
} from "./ports.ts";
import type { RecoveredGroup } from "./recovered_groups.ts";
import type { SegmentedLog } from "./wal.ts";
import { MAX_DATA_BYTES } from "./wal_format.ts";

const ELECTION_TICKS = 10;
const HEARTBEAT_TICKS = 1;
const MAX_APPEND_BYTES = 1024 * 1024;
const MAX_IN_FLIGHT = 64;
const LOAD_BYTES = 1024 * 1024;

/** What a group asks of its host. */
export interface GroupHost {
  readonly logger: Logger;
  readonly random: () => number;
  readonly wal: SegmentedLog;
  /** The group has news for the next flush. */
  wake(group: GroupRunner): void;
  compact(record: LogRecord, index: number): void;
  memoryChanged(bytes: number): void;
}

interface WaitingTicket {
  readonly term: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

interface WaitingRead {
  index: number | undefined;
  readonly resolve: (index: number) => void;
  readonly reject: (error: unknown) => void;
}

export class GroupRunner implements RaftGroup {
  readonly shard: ShardId;
  readonly nodeId: NodeId;
  readonly #o: GroupOptions;
  readonly #host: GroupHost;
  readonly #core: RaftCore;
  readonly #tickets = new Map<number, WaitingTicket>();
  readonly #reads = new Map<number, WaitingRead>();
  #nextRead = 1;
  #ledBefore = false;
  #applying = false;
  #loading = false;
  #stopped: KisekiError | undefined;
  #started: { resolve(): void; reject(error: unknown): void } | undefined;
  #startIndex = 0;
  #knownMemory = 0;

  /** @throws KisekiError `log.torn` when log and state machine do not fit. */
  constructor(options: GroupOptions, recovered: RecoveredGroup, host: GroupHost) {
    this.#o = options;
    this.shard = options.shard;
    this.nodeId = options.nodeId;
    this.#host = host;
    const { log, hardState } = recovered;
    const applied = options.stateMachine.appliedIndex;
    if (applied > log.lastIndex || applied < log.compactIndex) {
      throw new KisekiError(
        "log.torn",
        `shard ${options.shard}: its state holds entry ${applied}, its log entries ` +
          `${log.firstIndex} to ${log.lastIndex}: one of them is of another time`,
      );
    }
    this.#core = new RaftCore({
      id: options.nodeId,
      configuration: plainConfiguration(options.voters),
      hardState,
      log,
      electionTicks: ELECTION_TICKS,
      heartbeatTicks: HEARTBEAT_TICKS,
      randomElectionTicks: () => ELECTION_TICKS + Math.floor(host.random() * ELECTION_TICKS),
      maxAppendBytes: MAX_APPEND_BYTES,
      maxInFlight: MAX_IN_FLIGHT,
      becomeLeader: (term) => options.stateMachine.becomeLeader(term),
    });
    // What was applied was committed, whatever commit index reached the disk.
    if (applied > log.committed) log.commitTo(applied);
    log.appliedTo(applied);
  }

  // ---- RaftGroup

  get isLeader(): boolean {
    return this.#stopped === undefined && this.#core.role === "leader";
  }
  get leader(): NodeId | undefined {
    return this.#core.leader;
  }
  get term(): number {
    return this.#core.term;
  }
  get commitIndex(): number {
    return this.#core.log.committed;
  }
  get lastIndex(): number {
    return this.#core.log.lastIndex;
  }
  /** True when other nodes belong to the group. */
  get hasPeers(): boolean {
    const { voters, outgoing, learners } = this.#core.configuration;
    return voters.size + outgoing.size + learners.size > 1;
  }

  propose(data: Uint8Array): ProposalTicket {
    if (this.#stopped !== undefined) throw this.#stopped;
    if (data.length > MAX_DATA_BYTES) {
      throw new KisekiError(
        "common.limit_exceeded",
        `an entry of ${data.length} bytes (max ${MAX_DATA_BYTES})`,
      );
    }
    const index = this.#core.propose(data);
    const term = this.#core.term;
    const applied = new Promise<void>((resolve, reject) => {
      this.#tickets.set(index, { term, resolve, reject });
    });
    // A caller may well not wait; whoever does hears of the failure all the same.
    applied.catch(() => undefined);
    this.#noteMemory();
    this.#host.wake(this);
    return { index, term, applied };
  }

  readIndex(): Promise<number> {
    if (this.#stopped !== undefined) return Promise.reject(this.#stopped);
    const { log } = this.#core;
    // The only voter needs to ask nobody (thesis 6.4 with a majority of one): once an entry of its
    // term is committed, whatever was acknowledged before this call is applied.
    if (
      this.isLeader && !this.hasPeers && log.applied >= log.committed &&
      log.committed >= this.#startIndex && this.#started === undefined
    ) {
      return Promise.resolve(log.committed);
    }
    return new Promise((resolve, reject) => {
      const request = this.#nextRead++;
      this.#reads.set(request, { index: undefined, resolve, reject });
      try {
        this.#core.readIndex(request);
      } catch (error) {
        this.#reads.delete(request);
        reject(error);
        return;
      }
      this.#host.wake(this);
    });
  }

  compactTo(index: number): void {
    const { log } = this.#core;
    if (this.#stopped !== undefined || index <= log.compactIndex) return;
    this.#core.compactTo(index);
    this.#noteMemory();
    this.#host.compact(
      { type: "compact", shard: this.shard, index, term: log.compactTerm },
      index,
    );
  }

  /** Asks a voter to take over (Raft thesis 3.10). @throws KisekiError `raft.not_leader`. */
  transferLeadership(to: NodeId): void {
    this.#core.transferLeadership(to);
    this.#host.wake(this);
  }

  // ---- what the host calls

  /** Applies what is known to be committed; a lone voter stands for election at once. */
  start(): Promise<void> {
    // Replay counted this memory in its own budget; from here on the host does.
    this.#noteMemory();
    return new Promise((resolve, reject) => {
      this.#started = { resolve, reject };
      const alone = this.#core.configuration.voters.size === 1 &&
        this.#core.configuration.voters.has(this.nodeId);
      // The term's first entry comes after all that is there.
      this.#startIndex = alone ? this.#core.log.lastIndex + 1 : this.#core.log.committed;
      if (alone) this.#core.campaign();
      this.#afterStep();
    });
  }

  tick(): void {
    if (this.#stopped !== undefined) return;
    this.#core.tick();
    this.#afterStep();
  }

  receive(message: Message): void {
    if (this.#stopped !== undefined) return;
    if (message.type === "snapshot") {
      this.#host.logger.warn("raft.snapshot_refused", { from: message.from });
      return;
    }
    this.#guarded(() => this.#core.step(message));
    this.#afterStep();
  }

  /** What is to be written and sent now. */
  takeReady(): Ready | undefined {
    if (this.#stopped !== undefined || !this.#core.hasReady) return undefined;
    const ready = this.#core.ready();
    this.#core.advance(ready);
    for (const load of ready.loads) this.#loadFor(load.node, load.from, load.to);
    for (const { request, index } of ready.readStates) {
      const read = this.#reads.get(request);
      if (read !== undefined) read.index = index;
    }
    if (ready.readStates.length > 0) this.#answerReads();
    return ready;
  }

  /** The log records of `ready`, in the order in which they must become durable. */
  recordsOf(ready: Ready, into: LogRecord[]): void {
    const { shard } = this;
    if (ready.truncateFrom !== undefined) {
      into.push({ type: "truncate", shard, index: ready.truncateFrom });
    }
    const first = ready.entries[0];
    if (
      first !== undefined && ready.hardState !== undefined &&
      ready.entries.some((entry) => entry.kind === EntryKind.configuration)
    ) {
      // A member must not come back with a change in its log and without the commit of the one
      // before: it would count majorities of two configurations ago.
      const commit = Math.min(ready.hardState.commit, first.index - 1);
      into.push({ type: "hardState", shard, hardState: { ...ready.hardState, commit } });
    }
    for (const entry of ready.entries) into.push({ type: "entry", shard, entry });
    if (ready.hardState !== undefined) {
      into.push({ type: "hardState", shard, hardState: ready.hardState });
    }
  }

  /** All of `ready` is durable. */
  durable(ready: Ready): void {
    if (this.#stopped !== undefined) return;
    this.#guarded(() => {
      const last = ready.entries.at(-1);
      if (last !== undefined) this.#core.persisted(last.index, last.term);
      for (const message of ready.afterPersist) {
        if (message.to === this.nodeId) this.#core.step(message);
      }
    });
    this.#afterStep();
  }

  /** Drops the data of applied entries. @returns the bytes freed, of about `bytes` asked. */
  evict(bytes: number): number {
    const { log } = this.#core;
    const before = log.memoryBytes;
    log.evict(Math.max(0, before - bytes));
    this.#knownMemory = log.memoryBytes;
    return before - log.memoryBytes;
  }

  /** Ends the group: what waits is rejected. */
  stop(error: KisekiError): void {
    if (this.#stopped !== undefined) return;
    this.#stopped = error;
    this.#host.logger.info("raft.group_stopped", { reason: error.message });
    for (const ticket of this.#tickets.values()) ticket.reject(error);
    this.#tickets.clear();
    this.#rejectReads(error);
    this.#started?.reject(error);
    this.#started = undefined;
    if (this.#ledBefore) this.#o.stateMachine.loseLeadership();
    this.#ledBefore = false;
    this.#host.memoryChanged(-this.#knownMemory);
    this.#knownMemory = 0;
  }

  // ---- after each change of the core

  #guarded(action: () => void): void {
    try {
      action();
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      this.#host.logger.error("raft.group_failed", { message });
      this.stop(
        new KisekiError("raft.stopped", `shard ${this.shard} stopped: ${message}`, { cause }),
      );
    }
  }

  #afterStep(): void {
    if (this.#stopped !== undefined) return;
    const leads = this.#core.role === "leader";
    if (leads !== this.#ledBefore) {
      this.#ledBefore = leads;
      this.#host.logger.info("raft.role", { role: this.#core.role, term: this.#core.term });
      if (!leads) {
        this.#o.stateMachine.loseLeadership();
        this.#rejectReads(
          new KisekiError("raft.not_leader", "leadership ended while a read waited", {
            retriable: true,
            details: { leader: this.#core.leader ?? 0 },
          }),
        );
      }
    }
    this.#apply();
    if (this.#stopped === undefined && this.#core.hasReady) this.#host.wake(this);
  }

  /** Applies committed, durable entries that are in memory; fetches the others first. */
  #apply(): void {
    if (this.#applying || this.#loading) return;
    this.#applying = true;
    try {
      const { log } = this.#core;
      while (this.#stopped === undefined && log.applied < this.#applyLimit()) {
        const entry = log.entryInMemory(log.applied + 1);
        if (entry === undefined) {
          this.#loadAndApply(log.applied + 1, this.#applyLimit());
          return;
        }
        this.#guarded(() => this.#applyOne(entry));
      }
    } finally {
      this.#applying = false;
    }
    this.#noteMemory();
    this.#answerReads();
    if (this.#started !== undefined && this.#core.log.applied >= this.#startIndex) {
      this.#started.resolve();
      this.#started = undefined;
    }
  }

  /** A follower may know a commit index ahead of its own disk. */
  #applyLimit(): number {
    return Math.min(this.#core.log.committed, this.#core.log.stable);
  }

  #applyOne(entry: Entry): void {
    if (entry.kind === EntryKind.configuration) this.#core.applyConfiguration(entry);
    this.#o.stateMachine.apply(entry);
    this.#core.appliedTo(entry.index);
    const ticket = this.#tickets.get(entry.index);
    if (ticket === undefined) return;
    this.#tickets.delete(entry.index);
    if (ticket.term === entry.term) ticket.resolve();
    else {
      ticket.reject(
        new KisekiError(
          "raft.proposal_dropped",
          `entry ${entry.index} of term ${ticket.term} was replaced by another leader: propose again`,
          { retriable: true },
        ),
      );
    }
  }

  #loadAndApply(from: number, to: number): void {
    this.#loading = true;
    this.#host.wal.readEntries(this.shard, from, to, LOAD_BYTES).then((entries) => {
      this.#loading = false;
      for (const entry of entries) {
        if (this.#stopped !== undefined) return;
        this.#guarded(() => this.#applyOne(entry));
      }
      this.#afterStep();
    }).catch((error) => {
      this.#loading = false;
      this.#guarded(() => {
        throw error;
      });
    });
  }

  /** Reads old entries back for a member that lags. */
  #loadFor(node: NodeId, from: number, to: number): void {
    this.#host.wal.readEntries(this.shard, from, to, MAX_APPEND_BYTES).then((entries) => {
      if (this.#stopped !== undefined) return;
      this.#core.loaded(node, entries);
      this.#afterStep();
    }).catch((error) => {
      this.#guarded(() => {
        throw error;
      });
    });
  }

  #answerReads(): void {
    if (this.#reads.size === 0) return;
    const { applied } = this.#core.log;
    for (const [request, read] of this.#reads) {
      if (read.index === undefined || read.index > applied) continue;
      this.#reads.delete(request);
      read.resolve(read.index);
    }
  }

  #rejectReads(error: KisekiError): void {
    for (const read of this.#reads.values()) read.reject(error);
    this.#reads.clear();
  }

  #noteMemory(): void {
    const bytes = this.#core.log.memoryBytes;
    const change = bytes - this.#knownMemory;
    this.#knownMemory = bytes;
    if (change !== 0) this.#host.memoryChanged(change);
  }
}
