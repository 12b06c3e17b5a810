/**
 * What the Raft paper and thesis demand of one member, section by section.
 */
import assert from "node:assert/strict";
import { seededRandom } from "../../../test/rounds.ts";
import { utf8 } from "../../common/bytes.ts";
import { isKisekiError } from "../../common/errors.ts";
import type { NodeId } from "../../common/ids.ts";
import { type Entry, EntryKind } from "../ports.ts";
import { CoreNetwork, type SimulatedNode } from "../testing/core_network.ts";
import { plainConfiguration } from "./configuration.ts";
import type { Message } from "./messages.ts";
import { RaftCore } from "./raft_core.ts";
import { RaftLog } from "./raft_log.ts";

const ids = (...numbers: number[]): NodeId[] => numbers as NodeId[];
const id = (number: number): NodeId => number as NodeId;

function entry(index: number, term: number): Entry {
  return { index, term, kind: EntryKind.normal, data: utf8(`${term}.${index}`) };
}

/** A member whose durable log has entries of these terms. */
function member(terms: number[], term: number, voters = ids(1, 2, 3), vote = 0): RaftCore {
  const log = new RaftLog();
  for (const [i, t] of terms.entries()) log.restoreEntry(entry(i + 1, t));
  return new RaftCore({
    id: id(1),
    configuration: plainConfiguration(voters),
    hardState: { term, vote: id(vote), commit: 0 },
    log,
    electionTicks: 10,
    heartbeatTicks: 1,
    randomElectionTicks: () => 10,
    maxAppendBytes: 1 << 20,
    maxInFlight: 3,
    becomeLeader: () => utf8("key"),
  });
}

/** Takes all output, makes it durable, and gives the messages to others. */
function flush(core: RaftCore): Message[] {
  const out: Message[] = [];
  while (core.hasReady) {
    const ready = core.ready();
    core.advance(ready);
    const last = ready.entries.at(-1);
    if (last !== undefined) core.persisted(last.index, last.term);
    out.push(...ready.messages, ...ready.afterPersist.filter((m) => m.to !== core.id));
    for (const m of ready.afterPersist) if (m.to === core.id) core.step(m);
  }
  return out;
}

function vote(term: number, from: number, lastIndex: number, lastTerm: number, pre = false) {
  return {
    type: "vote" as const,
    from: id(from),
    to: id(1),
    term,
    pre,
    lastIndex,
    lastTerm,
    transfer: false,
  };
}

function granted(messages: Message[]): boolean | undefined {
  const reply = messages.find((m) => m.type === "voteReply");
  return reply?.type === "voteReply" ? reply.granted : undefined;
}

/** Makes member 1 of three the leader. */
function lead(core: RaftCore): Message[] {
  core.campaign();
  flush(core);
  const reply = (pre: boolean, term: number): Message => ({
    type: "voteReply",
    from: id(2),
    to: id(1),
    term,
    pre,
    granted: true,
  });
  core.step(reply(true, core.term + 1));
  flush(core);
  core.step(reply(false, core.term));
  assert.equal(core.role, "leader");
  return flush(core);
}

/** Lets time pass until there is a leader. */
function elect(network: CoreNetwork): SimulatedNode {
  for (let tick = 0; tick < 200; tick++) {
    const leader = network.leader;
    if (leader !== undefined) return leader;
    network.tick();
  }
  throw new RangeError("no leader in 200 ticks");
}

function acknowledge(core: RaftCore, from: number, index: number): void {
  core.step({
    type: "appendReply",
    from: id(from),
    to: id(1),
    term: core.term,
    index,
    rejected: false,
    hintIndex: 0,
    hintTerm: 0,
  });
}

Deno.test("paper 5.1: a message of a newer term makes any role a follower of that term", () => {
  const core = member([], 1);
  lead(core);
  const term = core.term + 3;
  core.step({ type: "heartbeat", from: id(3), to: id(1), term, commit: 0, context: 0 });
  assert.equal(core.role, "follower");
  assert.equal(core.term, term);
  assert.equal(core.leader, 3);
});

Deno.test("paper 5.1: a message of an old term changes nothing but tells its sender the term", () => {
  const core = member([1, 1], 5);
  core.step({
    type: "append",
    from: id(2),
    to: id(1),
    term: 4,
    previousIndex: 0,
    previousTerm: 0,
    entries: [entry(1, 4)],
    commit: 1,
  });
  assert.equal(core.log.termAt(1), 1);
  assert.deepEqual(flush(core).map((m) => [m.type, m.term]), [["appendReply", 5]]);
});

Deno.test("paper 5.2: one vote a term, first come first served, and kept over a restart", () => {
  const core = member([], 2);
  core.step(vote(3, 2, 0, 0));
  const ready = core.ready();
  assert.deepEqual(ready.hardState, { term: 3, vote: 2, commit: 0 });
  assert.equal(granted([...ready.afterPersist]), true, "the vote leaves after it is durable");
  assert.equal(granted([...ready.messages]), undefined);
  core.advance(ready);
  core.step(vote(3, 3, 9, 2));
  assert.equal(granted(flush(core)), false);
  const again = member([], 3, ids(1, 2, 3), 2);
  again.step(vote(3, 3, 9, 2));
  assert.equal(granted(flush(again)), false);
  again.step(vote(3, 2, 0, 0));
  assert.equal(granted(flush(again)), true);
});

Deno.test("paper 5.2: an election starts after a timeout without a leader, with a new term", () => {
  const core = member([], 1);
  for (let i = 0; i < 10; i++) core.tick();
  assert.equal(core.role, "preCandidate");
  assert.equal(core.term, 1, "a pre-vote changes no term (thesis 9.6)");
  assert.deepEqual(flush(core).map((m) => [m.type, m.to, m.term]), [["vote", 2, 2], [
    "vote",
    3,
    2,
  ]]);
});

Deno.test("paper 5.3: entries that conflict with the leader's are cut and replaced", () => {
  const core = member([1, 1, 2, 2], 2);
  core.step({
    type: "append",
    from: id(2),
    to: id(1),
    term: 3,
    previousIndex: 2,
    previousTerm: 1,
    entries: [entry(3, 3)],
    commit: 2,
  });
  const ready = core.ready();
  assert.equal(ready.truncateFrom, 3);
  assert.deepEqual(ready.entries, [entry(3, 3)]);
  assert.equal(core.log.lastIndex, 3);
  assert.equal(core.log.committed, 2);
  assert.deepEqual(ready.messages, [], "the answer waits for the disk");
  assert.equal(ready.afterPersist.length, 1);
});

Deno.test("paper 5.3: an append whose previous entry does not match is refused with a hint", () => {
  const core = member([1, 1, 1, 4, 4], 5);
  core.step({
    type: "append",
    from: id(2),
    to: id(1),
    term: 6,
    previousIndex: 5,
    previousTerm: 3,
    entries: [],
    commit: 0,
  });
  const [reply] = flush(core);
  assert.ok(reply?.type === "appendReply" && reply.rejected);
  assert.deepEqual([reply.index, reply.hintIndex, reply.hintTerm], [5, 3, 1]);
});

Deno.test("paper 5.3: repeated and reordered appends do no harm", () => {
  const core = member([1, 1], 1);
  const append = (entries: Entry[]): Message => ({
    type: "append",
    from: id(2),
    to: id(1),
    term: 1,
    previousIndex: 2,
    previousTerm: 1,
    entries,
    commit: 0,
  });
  core.step(append([entry(3, 1), entry(4, 1)]));
  core.step(append([entry(3, 1)]));
  flush(core);
  assert.equal(core.log.lastIndex, 4, "an older append cuts nothing that matches");
});

Deno.test("paper 5.4.1: no vote for a candidate whose log is behind", () => {
  const cases: [number[], number, number, boolean][] = [
    [[1, 1], 2, 1, true],
    [[1, 1], 1, 1, false],
    [[1, 1], 1, 2, true],
    [[1, 2], 5, 1, false],
    [[], 0, 0, true],
  ];
  for (const [terms, lastIndex, lastTerm, expected] of cases) {
    const core = member(terms, 2);
    core.step(vote(3, 2, lastIndex, lastTerm));
    assert.equal(granted(flush(core)), expected, JSON.stringify([terms, lastIndex, lastTerm]));
  }
});

Deno.test("paper 5.4.2, figure 8: an entry of an old term is not committed by counting", () => {
  const core = member([1, 2], 2);
  lead(core);
  acknowledge(core, 2, 2);
  assert.equal(core.log.committed, 0, "on a majority, yet of an old term");
  acknowledge(core, 2, 3);
  assert.equal(core.log.committed, 3, "with one of the own term all before it is");
});

Deno.test("thesis 10.2.1: the leader's own copy counts only when it is durable", () => {
  const core = member([], 1, ids(1));
  core.campaign();
  let ready = core.ready();
  assert.deepEqual(ready.hardState, { term: 2, vote: 1, commit: 0 });
  assert.equal(core.role, "candidate", "the own vote waits for the disk");
  core.advance(ready);
  for (const message of ready.afterPersist) core.step(message);
  assert.equal(core.role, "leader");
  ready = core.ready();
  assert.deepEqual(ready.entries.map((e) => [e.kind, e.term]), [[EntryKind.termStart, 2]]);
  core.advance(ready);
  assert.equal(core.log.committed, 0);
  core.persisted(1, 2);
  assert.equal(core.log.committed, 1);
});

Deno.test("thesis 9.6: a returning member with an old log deposes nobody", () => {
  const core = member([1, 1], 3);
  core.step({ type: "heartbeat", from: id(2), to: id(1), term: 3, commit: 0, context: 0 });
  flush(core);
  core.step(vote(9, 3, 9, 9, true));
  assert.deepEqual(flush(core), [], "it hears from its leader (thesis 4.2.3)");
  for (let i = 0; i < 10; i++) core.tick();
  flush(core);
  core.step(vote(9, 3, 0, 0, true));
  assert.equal(granted(flush(core)), false);
  assert.equal(core.term, 3);
});

Deno.test("thesis 6.2: a leader that hears from no majority steps down", () => {
  const core = member([], 1);
  lead(core);
  for (let i = 0; i < 20; i++) core.tick();
  assert.equal(core.role, "follower");
  assert.throws(() => core.propose(utf8("x")), (e) => isKisekiError(e, "raft.not_leader"));
});

Deno.test("thesis 6.4: a read waits for a commit of the term and for a majority", () => {
  const core = member([], 1);
  lead(core);
  core.readIndex(7);
  assert.equal(core.hasReady, false, "nothing of this term is committed yet");
  acknowledge(core, 2, 1);
  const ready = core.ready();
  core.advance(ready);
  assert.deepEqual(ready.readStates, []);
  const beat = ready.messages.find((m) => m.type === "heartbeat");
  assert.ok(beat?.type === "heartbeat" && beat.context > 0);
  core.step({
    type: "heartbeatReply",
    from: id(3),
    to: id(1),
    term: core.term,
    context: beat.context,
  });
  assert.deepEqual(core.ready().readStates, [{ request: 7, index: 1 }]);
});

Deno.test("thesis 3.10: leadership is handed to a member that has the whole log", () => {
  const network = new CoreNetwork([1, 2, 3], [1, 2, 3], seededRandom(1));
  const old = elect(network);
  old.core.propose(utf8("x"));
  const to = [...network.nodes.keys()].find((n) => n !== old.id) ?? id(1);
  old.core.transferLeadership(to);
  assert.throws(() => old.core.propose(utf8("y")), (e) => isKisekiError(e, "raft.not_leader"));
  network.settle();
  assert.equal(network.leader?.id, to);
  assert.equal(old.core.role, "follower");
});

Deno.test("thesis 4.2.1: a learner gets the log and has no vote", () => {
  const network = new CoreNetwork([1, 2], [1], seededRandom(1));
  const leader = elect(network).core;
  leader.proposeConfiguration({ type: "change", changes: [{ action: "addLearner", node: id(2) }] });
  leader.propose(utf8("x"));
  network.settle();
  network.tick();
  network.tick();
  assert.equal(network.node(2).core.log.lastIndex, leader.log.lastIndex);
  network.node(1).crash();
  for (let i = 0; i < 100; i++) network.tick();
  assert.equal(network.leader, undefined);
});

Deno.test("thesis 4.3: a joint configuration needs both majorities and ends by itself", () => {
  const network = new CoreNetwork([1, 2, 3, 4, 5], [1, 2, 3], seededRandom(1));
  const leader = elect(network).core;
  const others = [1, 2, 3].filter((n) => n !== leader.id);
  leader.proposeConfiguration({
    type: "change",
    changes: [
      ...others.map((node) => ({ action: "remove" as const, node: id(node) })),
      { action: "addVoter", node: id(4) },
      { action: "addVoter", node: id(5) },
    ],
  });
  assert.throws(
    () =>
      leader.proposeConfiguration({ type: "change", changes: [{ action: "remove", node: id(4) }] }),
    (e) => isKisekiError(e, "common.failed_precondition"),
  );
  for (let i = 0; i < 30; i++) network.tick();
  assert.equal(leader.configuration.outgoing.size, 0);
  assert.deepEqual([...leader.configuration.voters].sort(), [leader.id, 4, 5]);
});

Deno.test("flow control: no more than the window of appends is under way", () => {
  const core = member([], 1);
  lead(core);
  acknowledge(core, 2, 1);
  flush(core);
  for (let i = 0; i < 10; i++) core.propose(utf8(`${i}`));
  const appends = flush(core).filter((m) => m.type === "append" && m.to === id(2));
  assert.equal(appends.length, 3);
  acknowledge(core, 2, 4);
  assert.ok(flush(core).some((m) => m.type === "append" && m.to === id(2)));
});

Deno.test("paper 7: a member behind the collected log is sent the snapshot", () => {
  const core = member([1, 1, 1], 1);
  lead(core);
  acknowledge(core, 2, 4);
  core.appliedTo(4);
  core.compactTo(3);
  core.step({
    type: "appendReply",
    from: id(3),
    to: id(1),
    term: core.term,
    index: 3,
    rejected: true,
    hintIndex: 0,
    hintTerm: 0,
  });
  const snapshot = flush(core).find((m) => m.type === "snapshot");
  assert.ok(snapshot?.type === "snapshot");
  assert.deepEqual([snapshot.snapshot.index, snapshot.snapshot.term], [3, 1]);
  assert.equal(core.progressOf(id(3))?.state, "snapshot");
  const follower = member([], 1);
  follower.step({ ...snapshot, to: id(1), from: id(2) });
  assert.deepEqual([follower.log.lastIndex, follower.log.committed], [3, 3]);
  acknowledge(core, 3, 3);
  assert.equal(core.progressOf(id(3))?.state, "replicate");
});
