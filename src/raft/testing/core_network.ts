/**
 * Several cores in one process, on a network that loses, repeats and reorders, and on disks that
 * write late: for tests of the core alone. Deterministic in its random source.
 *
 * Each turn one thing happens. After each, the four safety properties of the Raft paper (figure 3)
 * are checked over everything that was ever seen.
 */
import assert from "node:assert/strict";
import type { NodeId } from "../../common/ids.ts";
import { type Configuration, plainConfiguration } from "../core/configuration.ts";
import type { Message } from "../core/messages.ts";
import { RaftCore } from "../core/raft_core.ts";
import type { Ready } from "../core/ready.ts";
import { RaftLog } from "../core/raft_log.ts";
import { type Entry, EntryKind, type HardState } from "../ports.ts";

/** How bad the network and the machines are, as probabilities a turn or a message. */
export interface Weather {
  readonly loss: number;
  readonly duplication: number;
  readonly crash: number;
  /** Probability that an outstanding write of a node becomes durable in its turn. */
  readonly write: number;
}

export const CALM: Weather = { loss: 0, duplication: 0, crash: 0, write: 1 };

interface Disk {
  hardState: HardState;
  entries: Entry[];
}

/** One machine: what is durable, what is under way, and the core while it is up. */
export class SimulatedNode {
  core: RaftCore;
  readonly disk: Disk = { hardState: { term: 0, vote: 0 as NodeId, commit: 0 }, entries: [] };
  readonly applied: Entry[] = [];
  readonly reads: number[] = [];
  up = true;
  pending: Ready[] = [];
  readonly id: NodeId;
  readonly #configuration: Configuration;
  readonly #random: () => number;

  constructor(id: NodeId, configuration: Configuration, random: () => number) {
    this.id = id;
    this.#configuration = configuration;
    this.#random = random;
    this.core = this.#boot();
  }

  #boot(): RaftCore {
    const log = new RaftLog();
    for (const entry of this.disk.entries) log.restoreEntry(entry);
    return new RaftCore({
      id: this.id,
      configuration: this.#configuration,
      hardState: this.disk.hardState,
      log,
      electionTicks: 10,
      heartbeatTicks: 2,
      randomElectionTicks: () => 10 + Math.floor(this.#random() * 10),
      maxAppendBytes: 64,
      maxInFlight: 4,
      becomeLeader: () => new Uint8Array(0),
    });
  }

  crash(): void {
    this.up = false;
    this.pending = [];
  }

  restart(): void {
    this.up = true;
    this.applied.length = 0;
    this.core = this.#boot();
  }

  /** Makes the oldest outstanding write durable. */
  write(ready: Ready): void {
    if (ready.truncateFrom !== undefined) this.disk.entries.length = ready.truncateFrom - 1;
    for (const entry of ready.entries) {
      assert.equal(entry.index, this.disk.entries.length + 1, "the disk's log has no gap");
      this.disk.entries.push(entry);
    }
    if (ready.hardState !== undefined) this.disk.hardState = ready.hardState;
  }
}

export class CoreNetwork {
  readonly nodes = new Map<NodeId, SimulatedNode>();
  weather: Weather = CALM;
  /** Pairs "from>to" that nothing passes. */
  readonly cut = new Set<string>();
  readonly #random: () => number;
  #inFlight: Message[] = [];
  readonly #leaders = new Map<number, NodeId>();
  /** What was applied anywhere, by index. */
  readonly committed: Entry[] = [];

  constructor(ids: readonly number[], voters: readonly number[], random: () => number) {
    this.#random = random;
    const configuration = plainConfiguration(voters as readonly NodeId[]);
    for (const id of ids as readonly NodeId[]) {
      this.nodes.set(id, new SimulatedNode(id, configuration, random));
    }
  }

  node(id: number): SimulatedNode {
    const node = this.nodes.get(id as NodeId);
    if (node === undefined) throw new RangeError(`no node ${id}`);
    return node;
  }

  /** The leader of the highest term among those that are up. */
  get leader(): SimulatedNode | undefined {
    let best: SimulatedNode | undefined;
    for (const node of this.nodes.values()) {
      if (!node.up || node.core.role !== "leader") continue;
      if (best === undefined || node.core.term > best.core.term) best = node;
    }
    return best;
  }

  isolate(id: number): void {
    for (const other of this.nodes.keys()) {
      this.cut.add(`${id}>${other}`);
      this.cut.add(`${other}>${id}`);
    }
  }

  heal(): void {
    this.cut.clear();
  }

  /** One tick for all, then everything that follows from it in this weather. */
  tick(): void {
    for (const node of this.nodes.values()) {
      if (this.#random() < this.weather.crash) {
        if (node.up) node.crash();
        else node.restart();
      }
      if (node.up) node.core.tick();
    }
    this.settle();
  }

  /** Delivers and writes until nothing moves (in calm), or for a bounded number of turns. */
  settle(): void {
    for (let turn = 0; turn < 60; turn++) {
      let moved = false;
      for (const node of this.nodes.values()) moved = this.#turn(node) || moved;
      moved = this.#deliver() || moved;
      if (!moved) return;
    }
  }

  #turn(node: SimulatedNode): boolean {
    if (!node.up) return false;
    const { core } = node;
    let moved = false;
    if (core.hasReady) {
      const ready = core.ready();
      core.advance(ready);
      this.#send(ready.messages);
      for (const read of ready.readStates) node.reads.push(read.index);
      assert.equal(ready.snapshot, undefined);
      for (const load of ready.loads) {
        core.loaded(load.node, node.disk.entries.slice(load.from - 1, load.to));
      }
      node.pending.push(ready);
      moved = true;
    }
    const first = node.pending[0];
    if (first !== undefined && this.#random() < this.weather.write) {
      node.pending.shift();
      node.write(first);
      const last = first.entries.at(-1);
      if (last !== undefined) core.persisted(last.index, last.term);
      this.#send(first.afterPersist.filter((m) => m.to !== node.id));
      for (const message of first.afterPersist) if (message.to === node.id) core.step(message);
      moved = true;
    }
    moved = this.#apply(node) || moved;
    this.#check(node);
    return moved;
  }

  #apply(node: SimulatedNode): boolean {
    const { log } = node.core;
    const limit = Math.min(log.committed, log.stable);
    if (log.applied >= limit) return false;
    while (log.applied < limit) {
      const entry = log.entryInMemory(log.applied + 1);
      assert.ok(entry !== undefined);
      if (entry.kind === EntryKind.configuration) node.core.applyConfiguration(entry);
      node.applied.push(entry);
      node.core.appliedTo(entry.index);
      const known = this.committed[entry.index - 1];
      if (known === undefined) {
        assert.equal(entry.index, this.committed.length + 1);
        this.committed.push(entry);
      } else {
        assert.equal(entry.term, known.term, `state machine safety at ${entry.index}`);
        assert.deepEqual(entry.data, known.data, `state machine safety at ${entry.index}`);
      }
    }
    return true;
  }

  /** Election safety and leader completeness. */
  #check(node: SimulatedNode): void {
    const { core } = node;
    if (core.role !== "leader") return;
    const known = this.#leaders.get(core.term);
    if (known === node.id) return;
    assert.equal(known, undefined, `election safety: two leaders in term ${core.term}`);
    this.#leaders.set(core.term, node.id);
    for (const entry of this.committed) {
      if (entry.term >= core.term) continue;
      assert.equal(core.log.termAt(entry.index), entry.term, `leader completeness`);
    }
  }

  /** Log matching over all durable logs. */
  checkLogMatching(): void {
    const nodes = [...this.nodes.values()];
    for (const a of nodes) {
      for (const b of nodes) {
        let same = false;
        for (let i = Math.min(a.disk.entries.length, b.disk.entries.length) - 1; i >= 0; i--) {
          const [x, y] = [a.disk.entries[i], b.disk.entries[i]];
          if (x === undefined || y === undefined) continue;
          if (x.term === y.term) same = true;
          if (!same) continue;
          assert.equal(x.term, y.term, `log matching at ${i + 1}`);
          assert.deepEqual(x.data, y.data, `log matching at ${i + 1}`);
        }
      }
    }
  }

  #send(messages: readonly Message[]): void {
    for (const message of messages) {
      if (this.cut.has(`${message.from}>${message.to}`)) continue;
      if (this.#random() < this.weather.loss) continue;
      this.#inFlight.push(message);
      if (this.#random() < this.weather.duplication) this.#inFlight.push(message);
    }
  }

  #deliver(): boolean {
    const rough = this.weather !== CALM;
    const count = this.#inFlight.length;
    for (let i = 0; i < count; i++) {
      // In rough weather any message may come next, and some wait for another turn.
      if (rough && this.#random() < 0.3) continue;
      const at = rough ? Math.floor(this.#random() * this.#inFlight.length) : 0;
      const [message] = this.#inFlight.splice(at, 1);
      if (message === undefined) break;
      const target = this.nodes.get(message.to);
      if (target?.up !== true || this.cut.has(`${message.from}>${message.to}`)) continue;
      target.core.step(message);
    }
    return count > 0;
  }
}
