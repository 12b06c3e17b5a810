/**
 * Three hosts, each with its own log and disk, over an in-memory transport and a virtual clock.
 */
import assert from "node:assert/strict";
import { setImmediate } from "node:timers";
import { seededRandom } from "../../test/rounds.ts";
import { utf8, utf8ToString } from "../common/bytes.ts";
import { VirtualClock } from "../common/clock.ts";
import { isKisekiError } from "../common/errors.ts";
import type { NodeId, ShardId } from "../common/ids.ts";
import { SILENT_LOGGER } from "../common/logging.ts";
import { openRaftHost, type RaftHost } from "./host.ts";
import { EntryKind, type RaftGroup } from "./ports.ts";
import { FakeDisk } from "./testing/fake_disk.ts";
import { MemoryNetwork } from "./testing/memory_transport.ts";
import { RecordingStateMachine } from "./testing/recording_state_machine.ts";
import { openWriteAheadLog, type SegmentedLog } from "./wal.ts";

const SHARD = 5 as ShardId;
const NODES = [1, 2, 3] as NodeId[];

interface Member {
  readonly id: NodeId;
  readonly wal: SegmentedLog;
  readonly host: RaftHost;
  readonly machine: RecordingStateMachine;
  readonly group: RaftGroup;
}

class Cluster {
  readonly clock = new VirtualClock();
  readonly network = new MemoryNetwork();
  readonly disks = new Map<NodeId, FakeDisk>();
  readonly members = new Map<NodeId, Member>();

  async start(id: NodeId): Promise<void> {
    const disk = this.disks.get(id) ?? new FakeDisk();
    this.disks.set(id, disk);
    const wal = await openWriteAheadLog({
      directory: "/wal",
      disk,
      logger: SILENT_LOGGER,
      segmentBytes: 1 << 20,
      clock: this.clock,
      idleMs: 1e12,
    });
    const host = await openRaftHost({
      wal,
      logger: SILENT_LOGGER,
      clock: this.clock,
      transport: this.network.transport(id),
      random: seededRandom(id),
      cacheBytes: 2000,
    });
    const machine = new RecordingStateMachine();
    const group = await host.createGroup({
      shard: SHARD,
      nodeId: id,
      voters: NODES,
      stateMachine: machine,
    });
    this.network.cut.delete(id);
    this.members.set(id, { id, wal, host, machine, group });
  }

  /** The power of one node goes: what was not synced is lost. */
  async kill(id: NodeId): Promise<void> {
    const member = this.members.get(id);
    const disk = this.disks.get(id);
    if (member === undefined || disk === undefined) throw new RangeError(`node ${id} is down`);
    this.network.cut.add(id);
    this.members.delete(id);
    this.disks.set(id, disk.crash(() => false));
    await member.host.close();
    await member.wal.close();
  }

  /** Lets virtual time pass until `done`. */
  async until(done: () => boolean, what: string): Promise<void> {
    for (let turn = 0; turn < 5000; turn++) {
      if (done()) return;
      if (turn % 10 === 9) this.clock.advance(100);
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
    throw new RangeError(`in vain: ${what}`);
  }

  async leader(): Promise<Member> {
    let found: Member | undefined;
    await this.until(() => {
      for (const member of this.members.values()) if (member.group.isLeader) found = member;
      return found !== undefined;
    }, "a leader");
    if (found === undefined) throw new RangeError("no leader");
    return found;
  }

  async close(): Promise<void> {
    for (const member of this.members.values()) {
      await member.host.close();
      await member.wal.close();
    }
    // Messages under way arrive and find nobody.
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

function texts(machine: RecordingStateMachine): string[] {
  return machine.applied.filter((e) => e.kind === EntryKind.normal).map((e) =>
    utf8ToString(e.data).trim()
  );
}

Deno.test("three hosts elect, replicate, survive their leader's loss and catch up", async () => {
  const cluster = new Cluster();
  for (const id of NODES) await cluster.start(id);
  const first = await cluster.leader();
  const expected = Array.from({ length: 40 }, (_, i) => `p${i}`);
  const tickets = expected.map((text) => first.group.propose(utf8(text.padEnd(200))));
  let done = 0;
  for (const ticket of tickets) void ticket.applied.then(() => done++);
  await cluster.until(() => done === 40, "forty proposals");
  assert.ok((await first.group.readIndex()) >= 41);
  await cluster.kill(first.id);
  const second = await cluster.leader();
  assert.ok(second.group.term > first.group.term);
  let last = false;
  void second.group.propose(utf8("after")).applied.then(() => last = true);
  await cluster.until(() => last, "a proposal under the new leader");
  await cluster.start(first.id);
  const all = [...expected, "after"];
  await cluster.until(
    () => [...cluster.members.values()].every((m) => texts(m.machine).length === all.length),
    "everyone to catch up, from entries read back from the log",
  );
  for (const member of cluster.members.values()) assert.deepEqual(texts(member.machine), all);
  await cluster.close();
});

Deno.test("a cut-off leader's proposals are dropped, and it says so", async () => {
  const cluster = new Cluster();
  for (const id of NODES) await cluster.start(id);
  const old = await cluster.leader();
  cluster.network.cut.add(old.id);
  const lost = old.group.propose(utf8("lost"));
  let outcome: unknown;
  lost.applied.then(() => outcome = "applied", (error) => outcome = error);
  await cluster.until(() => !old.group.isLeader, "the old leader to step down");
  await cluster.until(
    () => [...cluster.members.values()].some((m) => m.id !== old.id && m.group.isLeader),
    "a new leader",
  );
  const fresh = [...cluster.members.values()].find((m) => m.id !== old.id && m.group.isLeader);
  fresh?.group.propose(utf8("kept"));
  cluster.network.cut.delete(old.id);
  await cluster.until(() => outcome !== undefined, "the verdict on the lost proposal");
  assert.ok(isKisekiError(outcome, "raft.proposal_dropped"));
  await cluster.until(() => texts(old.machine).length === 1, "the kept one");
  assert.deepEqual(texts(old.machine), ["kept"]);
  assert.equal(old.machine.lost, 1);
  await cluster.close();
});
