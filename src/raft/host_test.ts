/**
 * Groups of one over a real log: start, restart, order, limits, failure.
 */
import assert from "node:assert/strict";
import { utf8, utf8ToString } from "../common/bytes.ts";
import { isKisekiError } from "../common/errors.ts";
import type { NodeId, ShardId } from "../common/ids.ts";
import { SILENT_LOGGER } from "../common/logging.ts";
import { openRaftHost, type RaftHost } from "./host.ts";
import { EntryKind } from "./ports.ts";
import { FakeDisk } from "./testing/fake_disk.ts";
import { RecordingStateMachine } from "./testing/recording_state_machine.ts";
import { openWriteAheadLog, type SegmentedLog } from "./wal.ts";

const SHARD = 7 as ShardId;
const NODE = 1 as NodeId;

interface Node {
  readonly wal: SegmentedLog;
  readonly host: RaftHost;
}

async function boot(disk: FakeDisk, cacheBytes?: number, segmentBytes = 1 << 20): Promise<Node> {
  const wal = await openWriteAheadLog({
    directory: "/wal",
    disk,
    logger: SILENT_LOGGER,
    segmentBytes,
    idleMs: 1e9,
  });
  const host = await openRaftHost({
    wal,
    logger: SILENT_LOGGER,
    ...(cacheBytes === undefined ? {} : { cacheBytes }),
  });
  return { wal, host };
}

async function shutDown(node: Node): Promise<void> {
  await node.host.close();
  await node.wal.close();
}

function create(node: Node, stateMachine: RecordingStateMachine, shard = SHARD) {
  return node.host.createGroup({ shard, nodeId: NODE, voters: [NODE], stateMachine });
}

function texts(machine: RecordingStateMachine): string[] {
  return machine.applied.filter((e) => e.kind === EntryKind.normal)
    .map((e) => utf8ToString(e.data));
}

Deno.test("a group of one leads at once, its term on disk before its first entry", async () => {
  const disk = new FakeDisk();
  const node = await boot(disk);
  const machine = new RecordingStateMachine();
  const group = await create(node, machine);
  assert.equal(group.isLeader, true);
  assert.equal(group.leader, NODE);
  assert.equal(group.term, 1);
  assert.deepEqual(machine.terms, [1]);
  assert.deepEqual(machine.applied.map((e) => e.kind), [EntryKind.termStart]);
  await shutDown(node);
});

Deno.test("proposals are applied in order and their tickets resolve after that", async () => {
  const node = await boot(new FakeDisk());
  const machine = new RecordingStateMachine();
  const group = await create(node, machine);
  const tickets = Array.from({ length: 100 }, (_, i) => group.propose(utf8(`p${i}`)));
  assert.deepEqual(tickets.map((t) => t.index), tickets.map((_, i) => i + 2));
  assert.equal(machine.applied.length, 1, "nothing is applied before it is durable");
  await tickets[99]?.applied;
  assert.deepEqual(texts(machine), tickets.map((_, i) => `p${i}`));
  assert.equal(await group.readIndex(), 101);
  await shutDown(node);
});

Deno.test("a restart applies what the state machine has not, and begins a new term", async () => {
  const disk = new FakeDisk();
  const first = await boot(disk);
  const group = await create(first, new RecordingStateMachine());
  for (let i = 0; i < 20; i++) await group.propose(utf8(`p${i}`)).applied;
  await shutDown(first);
  const second = await boot(disk);
  const machine = new RecordingStateMachine(11);
  const again = await create(second, machine);
  assert.deepEqual(texts(machine), Array.from({ length: 10 }, (_, i) => `p${i + 10}`));
  assert.equal(again.term, 2);
  assert.equal(again.lastIndex, 22);
  await shutDown(second);
});

Deno.test("entries beyond the memory budget are read back from the log", async () => {
  const disk = new FakeDisk();
  const first = await boot(disk, 1000);
  const group = await create(first, new RecordingStateMachine());
  const tickets = Array.from({ length: 50 }, (_, i) => group.propose(utf8(`${i}`.padEnd(200))));
  await tickets.at(-1)?.applied;
  await shutDown(first);
  const second = await boot(disk, 1000);
  const machine = new RecordingStateMachine();
  await create(second, machine);
  assert.deepEqual(texts(machine).map((t) => Number(t)), Array.from({ length: 50 }, (_, i) => i));
  await shutDown(second);
});

Deno.test("many groups share one log", async () => {
  const disk = new FakeDisk();
  const first = await boot(disk);
  const machines = Array.from({ length: 8 }, () => new RecordingStateMachine());
  const groups = await Promise.all(machines.map((m, i) => create(first, m, (i + 1) as ShardId)));
  const all = groups.flatMap((g, i) =>
    Array.from({ length: 10 }, (_, k) => g.propose(utf8(`g${i}.${k}`)).applied)
  );
  await Promise.all(all);
  await shutDown(first);
  const second = await boot(disk);
  const again = machines.map(() => new RecordingStateMachine());
  await Promise.all(again.map((m, i) => create(second, m, (i + 1) as ShardId)));
  assert.deepEqual(again.map(texts), machines.map(texts));
  await shutDown(second);
});

Deno.test("compaction lets whole segments go, and a restart goes on from the snapshot", async () => {
  const disk = new FakeDisk();
  const first = await boot(disk, undefined, 64 * 1024);
  const machine = new RecordingStateMachine();
  const group = await create(first, machine);
  for (let i = 0; i < 60; i++) {
    await group.propose(new Uint8Array(8000)).applied;
    if (i === 40) group.compactTo(machine.appliedIndex - 1);
  }
  assert.ok(first.wal.statistics().segments < 9, `${first.wal.statistics().segments} segments`);
  const applied = machine.appliedIndex;
  await shutDown(first);
  const second = await boot(disk, undefined, 64 * 1024);
  const again = new RecordingStateMachine(50);
  const group2 = await create(second, again);
  assert.equal(group2.term, 2);
  assert.equal(again.appliedIndex, applied + 1);
  await shutDown(second);
  const third = await boot(disk, undefined, 64 * 1024);
  await assert.rejects(
    create(third, new RecordingStateMachine(10)),
    (e) => isKisekiError(e, "log.torn"),
  );
  await shutDown(third);
});

Deno.test("a state machine ahead of the log is refused", async () => {
  const node = await boot(new FakeDisk());
  await assert.rejects(
    create(node, new RecordingStateMachine(5)),
    (e) => isKisekiError(e, "log.torn"),
  );
  await shutDown(node);
});

Deno.test("a failed sync stops all groups and rejects what waits", async () => {
  const disk = new FakeDisk();
  const node = await boot(disk);
  const group = await create(node, new RecordingStateMachine());
  disk.failSync = "block.io";
  await assert.rejects(
    group.propose(utf8("x")).applied,
    (e) => isKisekiError(e, "raft.stopped"),
  );
  disk.failSync = undefined;
  assert.throws(() => group.propose(utf8("y")), (e) => isKisekiError(e, "raft.stopped"));
  assert.equal(group.isLeader, false);
  await shutDown(node);
});

Deno.test("a state machine that throws stops its group alone", async () => {
  const node = await boot(new FakeDisk());
  const bad = new RecordingStateMachine();
  const good = new RecordingStateMachine();
  const badGroup = await create(node, bad);
  const goodGroup = await create(node, good, 8 as ShardId);
  bad.apply = () => {
    throw new RangeError("no");
  };
  await assert.rejects(
    badGroup.propose(utf8("x")).applied,
    (e) => isKisekiError(e, "raft.stopped"),
  );
  await goodGroup.propose(utf8("y")).applied;
  assert.deepEqual(texts(good), ["y"]);
  await shutDown(node);
});
