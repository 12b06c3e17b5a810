/**
 * The consensus core of one group: a pure state machine (Ongaro and Ousterhout 2014; Ongaro's
 * thesis; the shape follows etcd's raft).
 *
 * It has no clock, no I/O and no randomness: `tick` is time, `step` a message, `propose` a wish,
 * `ready` what must be written and sent now, `advance` says that it was taken, `persisted` and
 * `appliedTo` that it is done. Messages in `afterPersist` may leave only when everything handed
 * out up to and with them is durable: votes, and what a member acknowledges. Messages to oneself
 * come back through `step` like any other.
 */
import { KisekiError } from "../../common/errors.ts";
import type { NodeId } from "../../common/ids.ts";
import { type Entry, EntryKind, type HardState } from "../ports.ts";
import {
  applyConfigurationChange,
  type Configuration,
  type ConfigurationChange,
  ConfigurationHistory,
  decodeConfigurationChange,
  encodeConfigurationChange,
  isJoint,
  isVoter,
  membersOf,
} from "./configuration.ts";
import type {
  AppendReply,
  AppendRequest,
  Heartbeat,
  HeartbeatReply,
  InstallSnapshot,
  Message,
  SnapshotMeta,
  VoteReply,
  VoteRequest,
} from "./messages.ts";
import { Progress } from "./progress.ts";
import { committedIndex, voteOutcome } from "./quorum.ts";
import type { RaftLog } from "./raft_log.ts";
import type { RaftCoreOptions, ReadState, Ready, Role } from "./ready.ts";
import { ReadIndexQueue } from "./read_index.ts";

export const NO_NODE: NodeId = 0 as NodeId;

/** One member's core. */
export class RaftCore {
  readonly id: NodeId;
  readonly log: RaftLog;
  readonly #o: RaftCoreOptions;
  #configuration: Configuration;
  #history: ConfigurationHistory;
  #role: Role = "follower";
  #term: number;
  #vote: NodeId;
  #leader: NodeId = NO_NODE;
  #votes = new Map<NodeId, boolean>();
  readonly #progress = new Map<NodeId, Progress>();
  #electionElapsed = 0;
  #heartbeatElapsed = 0;
  #electionTimeout: number;
  #transferee: NodeId = NO_NODE;
  /** At most one change not yet applied: no other may be proposed up to this index. */
  #pendingConfigurationIndex = 0;
  readonly #reads = new ReadIndexQueue();
  /** Reads that wait for the first commit of the term (thesis 6.4 step 1). */
  #earlyReads: { readonly from: NodeId; readonly request: number }[] = [];
  #writtenState: HardState;
  #messages: Message[] = [];
  #afterPersist: Message[] = [];
  #readStates: ReadState[] = [];
  #loads: { from: number; to: number; node: NodeId }[] = [];
  #snapshot: SnapshotMeta | undefined;

  constructor(options: RaftCoreOptions) {
    this.#o = options;
    this.id = options.id;
    this.log = options.log;
    this.#configuration = options.configuration;
    this.#history = new ConfigurationHistory(options.log.compactIndex, options.configuration);
    this.#term = options.hardState.term;
    this.#vote = options.hardState.vote;
    this.#writtenState = options.hardState;
    if (options.hardState.commit > options.log.committed) {
      options.log.commitTo(options.hardState.commit);
    }
    this.#electionTimeout = options.randomElectionTicks();
  }

  get role(): Role {
    return this.#role;
  }
  get term(): number {
    return this.#term;
  }
  get vote(): NodeId {
    return this.#vote;
  }
  get leader(): NodeId | undefined {
    return this.#leader === NO_NODE ? undefined : this.#leader;
  }
  get configuration(): Configuration {
    return this.#configuration;
  }
  /** What the leader knows of a member. */
  progressOf(node: NodeId): Progress | undefined {
    return this.#progress.get(node);
  }

  /** One tick of time. */
  tick(): void {
    this.#electionElapsed++;
    if (this.#role !== "leader") {
      if (this.#electionElapsed >= this.#electionTimeout) {
        this.#electionElapsed = 0;
        this.campaign();
      }
      return;
    }
    this.#heartbeatElapsed++;
    if (this.#electionElapsed >= this.#o.electionTicks) {
      this.#electionElapsed = 0;
      this.#checkQuorum();
      this.#transferee = NO_NODE;
      if (this.#role === "leader") this.#leaveIfRemoved();
    }
    if (this.#role === "leader" && this.#heartbeatElapsed >= this.#o.heartbeatTicks) {
      this.#heartbeatElapsed = 0;
      this.#broadcastHeartbeat(this.#reads.lastContext);
    }
  }

  /** Thesis 6.2: a leader that cannot reach a majority steps down. */
  #checkQuorum(): void {
    const outcome = voteOutcome(
      this.#configuration,
      (node) => node === this.id || (this.#progress.get(node)?.recentlyActive ?? false),
    );
    if (outcome !== "won") return this.#becomeFollower(this.#term, NO_NODE);
    for (const progress of this.#progress.values()) progress.recentlyActive = false;
  }

  // ---- elections

  /** Stands for election: pre-vote first (thesis 9.6). A lone voter wins at once. */
  campaign(): void {
    if (this.#role !== "leader" && this.#mayCampaign()) this.#poll(true, false);
  }

  /**
   * A voter may, unless a membership change that it knows to be committed is not applied yet. One
   * that was a voter may too (thesis 4.2.2): those left may not know yet that its removal is
   * committed, and need the entries or the vote of the one that was removed.
   */
  #mayCampaign(): boolean {
    const { voters } = this.#configuration;
    if (voters.size === 1 && voters.has(this.id) && !isJoint(this.#configuration)) return true;
    for (let index = this.log.applied + 1; index <= this.log.committed; index++) {
      const entry = this.log.entryInMemory(index);
      if (entry === undefined || entry.kind === EntryKind.configuration) return false;
    }
    return this.#history.everVoted(this.id);
  }

  #poll(pre: boolean, transfer: boolean): void {
    if (pre) {
      this.#role = "preCandidate";
      this.#leader = NO_NODE;
    } else {
      this.#reset(this.#term + 1);
      this.#role = "candidate";
      this.#vote = this.id;
    }
    this.#votes = new Map();
    const term = pre ? this.#term + 1 : this.#term;
    for (const to of new Set([...this.#configuration.voters, ...this.#configuration.outgoing])) {
      if (to === this.id) {
        const own = { from: to, to, term, pre, granted: true };
        const reply: VoteReply = { type: "voteReply", ...own };
        // The own vote counts once it is durable, like any other.
        if (pre) this.#stepVoteReply(reply);
        else this.#afterPersist.push(reply);
        if (this.#role !== (pre ? "preCandidate" : "candidate")) return;
        continue;
      }
      const request: VoteRequest = {
        type: "vote",
        from: this.id,
        to,
        term,
        pre,
        lastIndex: this.log.lastIndex,
        lastTerm: this.log.lastTerm,
        transfer,
      };
      // A request for votes is a promise too: the new term goes to disk first.
      this.#afterPersist.push(request);
    }
  }

  #stepVoteReply(message: VoteReply): void {
    const wanted = message.pre ? "preCandidate" : "candidate";
    if (this.#role !== wanted) return;
    if (!this.#votes.has(message.from)) this.#votes.set(message.from, message.granted);
    const outcome = voteOutcome(this.#configuration, (node) => this.#votes.get(node));
    if (outcome === "lost") this.#becomeFollower(this.#term, NO_NODE);
    else if (outcome === "won" && message.pre) this.#poll(false, false);
    else if (outcome === "won") this.#becomeLeader();
  }

  #stepVoteRequest(message: VoteRequest): void {
    const free = this.#vote === message.from ||
      (this.#vote === NO_NODE && this.#leader === NO_NODE) ||
      (message.pre && message.term > this.#term);
    const granted = free && this.log.isUpToDate(message.lastIndex, message.lastTerm);
    this.#afterPersist.push({
      type: "voteReply",
      from: this.id,
      to: message.from,
      term: granted && message.pre ? message.term : this.#term,
      pre: message.pre,
      granted,
    });
    if (granted && !message.pre) {
      this.#electionElapsed = 0;
      this.#vote = message.from;
    }
  }

  #reset(term: number): void {
    if (this.#term !== term) {
      this.#term = term;
      this.#vote = NO_NODE;
    }
    this.#leader = NO_NODE;
    this.#electionElapsed = 0;
    this.#heartbeatElapsed = 0;
    this.#electionTimeout = this.#o.randomElectionTicks();
    this.#transferee = NO_NODE;
    this.#votes = new Map();
    this.#progress.clear();
    this.#pendingConfigurationIndex = 0;
    this.#reads.clear();
    this.#earlyReads = [];
    this.#loads = [];
  }

  #becomeFollower(term: number, leader: NodeId): void {
    this.#reset(term);
    this.#role = "follower";
    this.#leader = leader;
  }

  #becomeLeader(): void {
    this.#reset(this.#term);
    this.#role = "leader";
    this.#leader = this.id;
    this.#syncProgress();
    // Changes of earlier terms may be in the log still: wait for all of them.
    this.#pendingConfigurationIndex = this.log.lastIndex;
    this.#appendOwn(EntryKind.termStart, this.#o.becomeLeader(this.#term));
    this.#broadcastAppend();
  }

  /** Has a progress for each member and for no one else. */
  #syncProgress(): void {
    const members = membersOf(this.#configuration);
    for (const node of members) {
      if (this.#progress.has(node)) continue;
      const progress = new Progress(0, this.log.lastIndex + 1, this.#o.maxInFlight);
      progress.recentlyActive = true;
      if (node === this.id) {
        progress.match = this.log.stable;
        progress.state = "replicate";
      }
      this.#progress.set(node, progress);
    }
    for (const node of [...this.#progress.keys()]) {
      if (!members.has(node)) this.#progress.delete(node);
    }
  }

  // ---- proposals

  /**
   * Appends an entry as the leader. @returns its index.
   * @throws KisekiError `raft.not_leader`.
   */
  propose(data: Uint8Array): number {
    this.#assertLeader();
    const index = this.#appendOwn(EntryKind.normal, data);
    this.#broadcastAppend();
    return index;
  }

  /**
   * Proposes a change of members; it holds once it is applied.
   * @throws KisekiError `raft.not_leader`, `common.failed_precondition` while another is under way.
   */
  proposeConfiguration(change: ConfigurationChange): number {
    this.#assertLeader();
    if (this.#pendingConfigurationIndex > this.log.applied) {
      throw new KisekiError(
        "common.failed_precondition",
        "another membership change is under way: try again later",
        { retriable: true },
      );
    }
    applyConfigurationChange(this.#configuration, change);
    const index = this.#appendOwn(EntryKind.configuration, encodeConfigurationChange(change));
    this.#pendingConfigurationIndex = index;
    this.#broadcastAppend();
    return index;
  }

  #assertLeader(): void {
    if (this.#role === "leader" && this.#transferee === NO_NODE) return;
    throw new KisekiError(
      "raft.not_leader",
      this.#role === "leader"
        ? "leadership is being handed over"
        : "this node does not lead the group",
      { retriable: true, details: { leader: this.#role === "leader" ? NO_NODE : this.#leader } },
    );
  }

  #appendOwn(kind: Entry["kind"], data: Uint8Array): number {
    const index = this.log.lastIndex + 1;
    this.log.append({ index, term: this.#term, kind, data });
    return index;
  }

  // ---- what comes in

  /** Takes a message. Messages of strangers and of old terms do no harm. */
  step(message: Message): void {
    if (message.term > this.#term) {
      if (message.type === "vote") {
        // Thesis 4.2.3: who hears from a leader does not help to depose it.
        const leased = this.#leader !== NO_NODE && this.#electionElapsed < this.#o.electionTicks;
        if (leased && !message.transfer) return;
      }
      const stays = (message.type === "vote" && message.pre) ||
        (message.type === "voteReply" && message.pre && message.granted);
      if (!stays) {
        const fromLeader = message.type === "append" || message.type === "heartbeat" ||
          message.type === "snapshot";
        this.#becomeFollower(message.term, fromLeader ? message.from : NO_NODE);
      }
    } else if (message.term < this.#term) {
      return this.#stepOldTerm(message);
    }
    switch (message.type) {
      case "vote":
        return this.#stepVoteRequest(message);
      case "voteReply":
        return this.#stepVoteReply(message);
      case "append":
        this.#followLeader(message.from);
        return this.#stepAppend(message);
      case "heartbeat":
        this.#followLeader(message.from);
        return this.#stepHeartbeat(message);
      case "snapshot":
        this.#followLeader(message.from);
        return this.#stepSnapshot(message);
      case "timeoutNow":
        if (this.#role === "follower" && this.#mayCampaign()) {
          this.#poll(false, true);
        }
        return;
      case "readIndexReply":
        this.#readStates.push({ request: message.request, index: message.index });
        return;
      case "readIndex":
        if (this.#role === "leader") this.#takeRead(message.from, message.request);
        return;
      case "appendReply":
      case "heartbeatReply": {
        const progress = this.#progress.get(message.from);
        if (this.#role !== "leader" || progress === undefined) return;
        progress.recentlyActive = true;
        if (message.type === "appendReply") this.#stepAppendReply(message, progress);
        else this.#stepHeartbeatReply(message, progress);
        return;
      }
    }
  }

  /** A deposed leader, or a candidate cut off for long, is told of the newer term. */
  #stepOldTerm(message: Message): void {
    const base = { from: this.id, to: message.from, term: this.#term };
    if (message.type === "append" || message.type === "heartbeat") {
      this.#replyAppend(message.from, 0);
    } else if (message.type === "vote" && message.pre) {
      this.#afterPersist.push({ type: "voteReply", ...base, pre: true, granted: false });
    }
  }

  #followLeader(leader: NodeId): void {
    if (this.#role === "leader") {
      throw new KisekiError("common.internal", `two leaders in term ${this.#term}`);
    }
    if (this.#role !== "follower") this.#becomeFollower(this.#term, leader);
    this.#electionElapsed = 0;
    this.#leader = leader;
  }

  #stepAppend(message: AppendRequest): void {
    if (message.previousIndex < this.log.committed) {
      return this.#replyAppend(message.from, this.log.committed);
    }
    const last = this.log.tryAppend(message.previousIndex, message.previousTerm, message.entries);
    if (last !== undefined) {
      this.log.commitTo(Math.min(message.commit, last));
      return this.#replyAppend(message.from, last);
    }
    const hint = this.log.findConflictByTerm(message.previousIndex, message.previousTerm);
    const hintTerm = this.log.termAt(hint) ?? 0;
    this.#replyAppend(message.from, message.previousIndex, true, hint, hintTerm);
  }

  #replyAppend(to: NodeId, index: number, rejected = false, hintIndex = 0, hintTerm = 0): void {
    this.#afterPersist.push({
      type: "appendReply",
      from: this.id,
      to,
      term: this.#term,
      index,
      rejected,
      hintIndex,
      hintTerm,
    });
  }

  #stepHeartbeat(message: Heartbeat): void {
    this.log.commitTo(Math.min(message.commit, this.log.lastIndex));
    this.#afterPersist.push({
      type: "heartbeatReply",
      from: this.id,
      to: message.from,
      term: this.#term,
      context: message.context,
    });
  }

  #stepSnapshot(message: InstallSnapshot): void {
    const { snapshot } = message;
    if (snapshot.index > this.log.committed) {
      if (this.log.matches(snapshot.index, snapshot.term)) this.log.commitTo(snapshot.index);
      else {
        this.log.restore(snapshot.index, snapshot.term);
        this.#configuration = snapshot.configuration;
        this.#history = new ConfigurationHistory(snapshot.index, snapshot.configuration);
        this.#snapshot = snapshot;
      }
    }
    this.#replyAppend(message.from, this.log.committed);
  }

  // ---- the leader's side

  #stepAppendReply(message: AppendReply, progress: Progress): void {
    if (message.rejected) {
      const hint = message.hintTerm > 0
        ? this.log.findConflictByTerm(message.hintIndex, message.hintTerm)
        : message.hintIndex;
      if (!progress.refused(message.index, hint)) return;
      if (progress.state === "replicate") progress.becomeProbe();
      this.#sendAppend(message.from, progress);
      return;
    }
    const wasPaused = progress.paused;
    if (progress.acknowledged(message.index)) {
      if (progress.state === "probe") progress.becomeReplicate();
      else if (progress.state === "snapshot" && progress.match >= this.log.compactIndex) {
        progress.becomeProbe();
        progress.becomeReplicate();
      }
      if (this.#advanceCommit()) this.#broadcastAppend();
      else if (wasPaused) this.#sendAppend(message.from, progress);
      this.#sendAllOf(message.from, progress);
      if (message.from === this.#transferee && progress.match === this.log.lastIndex) {
        this.#sendTimeoutNow(message.from);
      }
    }
  }

  #stepHeartbeatReply(message: HeartbeatReply, progress: Progress): void {
    progress.heartbeatReturned();
    if (progress.match < this.log.lastIndex) this.#sendAppend(message.from, progress);
    if (message.context === 0) return;
    const done = this.#reads.acknowledge(
      message.from,
      message.context,
      (acks) =>
        voteOutcome(this.#configuration, (node) => acks.has(node) ? true : undefined) === "won",
    );
    for (const read of done) this.#finishRead(read.from, read.request, read.index);
  }

  /** Raft paper 5.4.2: only an entry of the own term is committed by counting. */
  #advanceCommit(): boolean {
    const index = committedIndex(
      this.#configuration,
      (node) => this.#progress.get(node)?.match ?? 0,
    );
    if (index <= this.log.committed || this.log.termAt(index) !== this.#term) return false;
    this.log.commitTo(index);
    const early = this.#earlyReads;
    this.#earlyReads = [];
    for (const read of early) this.#takeRead(read.from, read.request);
    return true;
  }

  #broadcastAppend(): void {
    if (this.#progress.size === 1 && this.#progress.has(this.id)) return;
    for (const [node, progress] of this.#progress) {
      if (node !== this.id) this.#sendAppend(node, progress);
    }
  }

  /** Goes on sending until the window is full or nothing is left. */
  #sendAllOf(node: NodeId, progress: Progress): void {
    while (progress.state === "replicate" && progress.next <= this.log.lastIndex) {
      if (!this.#sendAppend(node, progress)) return;
    }
  }

  #sendAppend(node: NodeId, progress: Progress): boolean {
    if (progress.paused) return false;
    const previousIndex = progress.next - 1;
    const previousTerm = this.log.termAt(previousIndex);
    if (previousTerm === undefined) return this.#sendSnapshot(node, progress);
    const entries = this.log.entries(
      progress.next,
      this.log.lastIndex,
      this.#o.maxAppendBytes,
    );
    if (entries === undefined) {
      const to = Math.min(this.log.lastIndex, this.log.firstInMemory - 1);
      if (!this.#loads.some((load) => load.node === node)) {
        this.#loads.push({ from: progress.next, to, node });
      }
      return false;
    }
    this.#pushAppend(node, progress, previousTerm, entries);
    return true;
  }

  #pushAppend(
    node: NodeId,
    progress: Progress,
    previousTerm: number,
    entries: readonly Entry[],
  ): void {
    this.#messages.push({
      type: "append",
      from: this.id,
      to: node,
      term: this.#term,
      previousIndex: progress.next - 1,
      previousTerm,
      entries,
      commit: this.log.committed,
    });
    progress.sent(progress.next + entries.length - 1, entries.length);
  }

  /** Entries that were asked for in `Ready.loads`, read back from the write-ahead log. */
  loaded(node: NodeId, entries: readonly Entry[]): void {
    const progress = this.#progress.get(node);
    const first = entries[0];
    if (this.#role !== "leader" || progress === undefined || first === undefined) return;
    if (progress.paused || first.index !== progress.next) return;
    const previousTerm = this.log.termAt(first.index - 1);
    const valid = entries.every((entry) => this.log.matches(entry.index, entry.term));
    if (previousTerm !== undefined && valid) {
      this.#pushAppend(node, progress, previousTerm, entries);
    }
  }

  #sendSnapshot(node: NodeId, progress: Progress): boolean {
    if (!progress.recentlyActive) return false;
    const index = this.log.compactIndex;
    this.#messages.push({
      type: "snapshot",
      from: this.id,
      to: node,
      term: this.#term,
      snapshot: {
        index,
        term: this.log.compactTerm,
        configuration: this.#history.at(index),
      },
    });
    progress.becomeSnapshot(index);
    return true;
  }

  /** The transfer of a snapshot to `node` ended: sending goes on behind it, or it is tried again. */
  snapshotFinished(node: NodeId, installed: boolean): void {
    const progress = this.#progress.get(node);
    if (progress?.state !== "snapshot") return;
    if (!installed) progress.pendingSnapshot = 0;
    progress.becomeProbe();
    progress.probeSent = installed;
  }

  /** A message to `node` was lost: go back to what is known. */
  unreachable(node: NodeId): void {
    const progress = this.#progress.get(node);
    if (progress?.state === "replicate") progress.becomeProbe();
  }

  #broadcastHeartbeat(context: number): void {
    for (const [to, progress] of this.#progress) {
      if (to === this.id) continue;
      this.#messages.push({
        type: "heartbeat",
        from: this.id,
        to,
        term: this.#term,
        // Never beyond what that member has: it would commit what it cannot check.
        commit: Math.min(progress.match, this.log.committed),
        context,
      });
    }
  }

  // ---- linearizable reads (thesis 6.4)

  /**
   * Asks for a read index; the answer comes in `Ready.readStates` under `request`.
   * @throws KisekiError `raft.not_leader` when no leader is known.
   */
  readIndex(request: number): void {
    if (this.#role === "leader") return this.#takeRead(this.id, request);
    if (this.#leader === NO_NODE) this.#assertLeader();
    this.#messages.push({
      type: "readIndex",
      from: this.id,
      to: this.#leader,
      term: this.#term,
      request,
    });
  }

  #takeRead(from: NodeId, request: number): void {
    if (this.log.termAt(this.log.committed) !== this.#term) {
      this.#earlyReads.push({ from, request });
      return;
    }
    const own = (node: NodeId): true | undefined => node === this.id ? true : undefined;
    if (voteOutcome(this.#configuration, own) === "won") {
      return this.#finishRead(from, request, this.log.committed);
    }
    const context = this.#reads.add(this.id, from, request, this.log.committed);
    this.#broadcastHeartbeat(context);
  }

  #finishRead(from: NodeId, request: number, index: number): void {
    if (from === this.id) this.#readStates.push({ request, index });
    else {
      this.#messages.push({
        type: "readIndexReply",
        from: this.id,
        to: from,
        term: this.#term,
        request,
        index,
      });
    }
  }

  // ---- leadership transfer (thesis 3.10)

  /**
   * Hands leadership to a voter; proposals are refused until it is done or an election timeout ends it.
   * @throws KisekiError `raft.not_leader`, `common.invalid_argument`.
   */
  transferLeadership(to: NodeId): void {
    this.#assertLeader();
    if (to === this.id) return;
    const progress = this.#progress.get(to);
    if (progress === undefined || !this.#configuration.voters.has(to)) {
      throw new KisekiError("common.invalid_argument", `node ${to} is no voter of this group`);
    }
    this.#electionElapsed = 0;
    this.#transferee = to;
    if (progress.match === this.log.lastIndex) this.#sendTimeoutNow(to);
    else this.#sendAppend(to, progress);
  }

  /** A leader that is no voter any more hands over; until then it leads on without its own vote. */
  #leaveIfRemoved(): void {
    if (isVoter(this.#configuration, this.id) || this.#transferee !== NO_NODE) return;
    let best: NodeId | undefined;
    for (const node of this.#configuration.voters) {
      const match = this.#progress.get(node)?.match ?? 0;
      if (best === undefined || match > (this.#progress.get(best)?.match ?? 0)) best = node;
    }
    if (best !== undefined) this.transferLeadership(best);
  }

  #sendTimeoutNow(to: NodeId): void {
    this.#messages.push({ type: "timeoutNow", from: this.id, to, term: this.#term });
  }

  // ---- what goes out, what is done

  /** True when {@link ready} has something. */
  get hasReady(): boolean {
    return this.log.hasUnwritten || this.#messages.length > 0 || this.#afterPersist.length > 0 ||
      this.#readStates.length > 0 || this.#loads.length > 0 || this.#snapshot !== undefined ||
      this.#term !== this.#writtenState.term || this.#vote !== this.#writtenState.vote;
  }

  /**
   * Takes what is to be done. The hard state is given when term or vote changed, and with entries
   * when the commit index moved: a commit index alone may be lost.
   */
  ready(): Ready {
    const { truncateFrom, entries } = this.log.takeUnwritten();
    const written = this.#writtenState;
    const promised = this.#term !== written.term || this.#vote !== written.vote;
    const moved = this.log.committed !== written.commit;
    const writes = promised || this.#snapshot !== undefined ||
      (moved && (entries.length > 0 || truncateFrom !== undefined));
    const hardState = writes
      ? { term: this.#term, vote: this.#vote, commit: this.log.committed }
      : undefined;
    return {
      hardState,
      truncateFrom,
      entries,
      snapshot: this.#snapshot,
      messages: this.#messages,
      afterPersist: this.#afterPersist,
      readStates: this.#readStates,
      loads: this.#loads,
    };
  }

  /** `ready` was taken: its parts are not given again. */
  advance(ready: Ready): void {
    if (ready.hardState !== undefined) this.#writtenState = ready.hardState;
    this.#snapshot = undefined;
    this.#messages = [];
    this.#afterPersist = [];
    this.#readStates = [];
    this.#loads = [];
  }

  /** Entries up to `index` of `term` are durable here. */
  persisted(index: number, term: number): void {
    if (!this.log.stableTo(index, term) || this.#role !== "leader") return;
    const own = this.#progress.get(this.id);
    if (own === undefined) return;
    own.acknowledged(index);
    if (this.#advanceCommit()) this.#broadcastAppend();
  }

  /** All entries up to `index` are applied. Configuration entries go to {@link applyConfiguration}. */
  appliedTo(index: number): void {
    this.log.appliedTo(index);
    if (
      this.#role === "leader" && isJoint(this.#configuration) &&
      this.#pendingConfigurationIndex <= index && this.#transferee === NO_NODE
    ) {
      this.#pendingConfigurationIndex = this.#appendOwn(
        EntryKind.configuration,
        encodeConfigurationChange({ type: "leaveJoint" }),
      );
      this.#broadcastAppend();
    }
    if (this.#role === "leader") this.#leaveIfRemoved();
  }

  /** Makes a committed change of members hold. An unfit one (raced by another) changes nothing. */
  applyConfiguration(entry: Entry): void {
    if (entry.data.length === 0) return;
    const change = decodeConfigurationChange(entry.data);
    if ((change.type === "leaveJoint") !== isJoint(this.#configuration)) return;
    this.#configuration = applyConfigurationChange(this.#configuration, change);
    this.#history.add(entry.index, this.#configuration);
    if (this.#role !== "leader") return;
    this.#syncProgress();
    if (!this.#configuration.voters.has(this.#transferee)) this.#transferee = NO_NODE;
    this.#advanceCommit();
    this.#broadcastAppend();
  }

  /** A durable snapshot covers the entries up to `index`. */
  compactTo(index: number): void {
    this.log.compactTo(index);
    this.#history.compactTo(index);
  }
}
