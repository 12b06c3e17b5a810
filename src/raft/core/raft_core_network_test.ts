/**
 * The safety properties of the Raft paper (figure 3) under a seeded bad network, crashes and late
 * disks; and that the group comes back when the weather clears.
 */
import assert from "node:assert/strict";
import { seededRandom, testRounds, testSeed } from "../../../test/rounds.ts";
import { utf8 } from "../../common/bytes.ts";
import { isKisekiError } from "../../common/errors.ts";
import type { NodeId } from "../../common/ids.ts";
import { CALM, CoreNetwork } from "../testing/core_network.ts";
import type { MemberAction } from "./configuration.ts";

/** Runs `ticks` of bad weather; `act` may do something each tick. */
function storm(network: CoreNetwork, random: () => number, ticks: number, act: () => void): void {
  for (let tick = 0; tick < ticks; tick++) {
    if (random() < 0.05) network.isolate(1 + Math.floor(random() * network.nodes.size));
    if (random() < 0.1) network.heal();
    act();
    network.tick();
  }
  network.checkLogMatching();
}

/** A wish that a leader may refuse. */
function attempt(action: () => void): void {
  try {
    action();
  } catch (error) {
    if (!isKisekiError(error)) throw error;
    assert.ok(error.code === "raft.not_leader" || error.code === "common.failed_precondition");
  }
}

function calmDown(network: CoreNetwork): void {
  network.weather = CALM;
  network.heal();
  for (const node of network.nodes.values()) if (!node.up) node.restart();
  for (let tick = 0; tick < 200; tick++) network.tick();
}

Deno.test("three members stay safe in bad weather and agree when it clears", () => {
  const first = testSeed("core network");
  for (let round = 0; round < testRounds(300); round++) {
    const seed = (first + round) & 0x7fff_ffff;
    const random = seededRandom(seed);
    const network = new CoreNetwork([1, 2, 3], [1, 2, 3], random);
    network.weather = {
      loss: random() * 0.3,
      duplication: random() * 0.2,
      crash: random() * 0.02,
      write: 0.2 + random() * 0.8,
    };
    let proposed = 0;
    try {
      storm(network, random, 300, () => {
        for (const node of network.nodes.values()) {
          if (!node.up || node.core.role !== "leader") continue;
          if (random() < 0.5) attempt(() => void node.core.propose(utf8(`${proposed++}`)));
          if (random() < 0.02) {
            const to = (1 + Math.floor(random() * 3)) as NodeId;
            attempt(() => node.core.transferLeadership(to));
          }
        }
      });
      calmDown(network);
      const leader = network.leader;
      assert.ok(leader !== undefined, "a leader is found in calm weather");
      leader.core.propose(utf8("last"));
      for (let tick = 0; tick < 10; tick++) network.tick();
      assert.deepEqual(network.committed.at(-1)?.data, utf8("last"));
      for (const node of network.nodes.values()) {
        assert.equal(node.applied.length, network.committed.length, `node ${node.id} caught up`);
      }
      network.checkLogMatching();
    } catch (error) {
      throw new Error(`seed ${seed}, round ${round}`, { cause: error });
    }
  }
});

Deno.test("membership changes in bad weather keep every property", () => {
  const first = testSeed("core membership");
  for (let round = 0; round < testRounds(200); round++) {
    const seed = (first + round) & 0x7fff_ffff;
    const random = seededRandom(seed);
    const network = new CoreNetwork([1, 2, 3, 4, 5], [1, 2, 3], random);
    network.weather = {
      loss: random() * 0.2,
      duplication: random() * 0.1,
      crash: random() * 0.01,
      write: 0.3 + random() * 0.7,
    };
    const actions: MemberAction[] = ["addVoter", "addVoter", "addLearner", "remove"];
    try {
      storm(network, random, 400, () => {
        const leader = network.leader;
        if (leader === undefined) return;
        if (random() < 0.3) attempt(() => void leader.core.propose(utf8(`${random()}`)));
        if (random() < 0.1) {
          const nodes = [1, 2, 3, 4, 5].filter(() => random() < 0.4);
          const changes = nodes.map((node) => ({
            node: node as NodeId,
            action: actions[Math.floor(random() * actions.length)] ?? "addVoter",
          }));
          if (changes.length > 0) {
            attempt(() => void leader.core.proposeConfiguration({ type: "change", changes }));
          }
        }
      });
      calmDown(network);
      const leader = network.leader;
      assert.ok(leader !== undefined, "a leader is found in calm weather");
      assert.equal(leader.core.configuration.outgoing.size, 0, "the joint phase ended");
      leader.core.propose(utf8("last"));
      for (let tick = 0; tick < 10; tick++) network.tick();
      assert.deepEqual(network.committed.at(-1)?.data, utf8("last"));
      network.checkLogMatching();
    } catch (error) {
      throw new Error(`seed ${seed}, round ${round}`, { cause: error });
    }
  }
});
