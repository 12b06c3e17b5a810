/**
 * Who belongs to a group, and how that changes.
 *
 * Invariants (after etcd's confchange): a node is in one role per set; a learner of the future
 * (`learnersNext`) still votes in the outgoing set; at most one change is in flight; outside a
 * joint configuration one change moves at most one voter, so that majorities overlap
 * (Raft thesis 4.1).
 *
 * Fixed encoding of a change, the data of a configuration entry: u8 version = 1, u8 transition
 * (0 simple or automatic joint, 1 leave joint), u16 count, then per change u8 action
 * (1 add voter, 2 add learner, 3 remove) and u64 node.
 */
import { ByteReader, type Bytes, ByteWriter } from "../../common/bytes.ts";
import { KisekiError } from "../../common/errors.ts";
import type { NodeId } from "../../common/ids.ts";
import type { Quorum } from "./quorum.ts";

/** The members of a group. */
export interface Configuration extends Quorum {
  readonly learners: ReadonlySet<NodeId>;
  /** Voters of the outgoing set that become learners when the joint phase ends. */
  readonly learnersNext: ReadonlySet<NodeId>;
}

export type MemberAction = "addVoter" | "addLearner" | "remove";

/** One step for one node. */
export interface MemberChange {
  readonly action: MemberAction;
  readonly node: NodeId;
}

/** What a configuration entry says. */
export type ConfigurationChange =
  | { readonly type: "change"; readonly changes: readonly MemberChange[] }
  | { readonly type: "leaveJoint" };

const VERSION = 1;
const MAX_CHANGES = 64;
const ACTIONS: readonly MemberAction[] = ["addVoter", "addLearner", "remove"];

/** A configuration of voters and learners without a change under way. */
export function plainConfiguration(
  voters: Iterable<NodeId>,
  learners: Iterable<NodeId> = [],
): Configuration {
  return {
    voters: new Set(voters),
    outgoing: new Set(),
    learners: new Set(learners),
    learnersNext: new Set(),
  };
}

export function isJoint(configuration: Configuration): boolean {
  return configuration.outgoing.size > 0;
}

/** Every node that is sent entries. */
export function membersOf(configuration: Configuration): ReadonlySet<NodeId> {
  return new Set([
    ...configuration.voters,
    ...configuration.outgoing,
    ...configuration.learners,
    ...configuration.learnersNext,
  ]);
}

export function isVoter(configuration: Configuration, node: NodeId): boolean {
  return configuration.voters.has(node) || configuration.outgoing.has(node);
}

/** The data of a configuration entry. */
export function encodeConfigurationChange(change: ConfigurationChange): Bytes {
  const writer = new ByteWriter(16).u8(VERSION);
  if (change.type === "leaveJoint") return writer.u8(1).u16(0).finish();
  writer.u8(0).u16(change.changes.length);
  for (const { action, node } of change.changes) writer.u8(ACTIONS.indexOf(action) + 1).int(node);
  return writer.finish();
}

/** @throws KisekiError `common.corrupt_format`, `common.unsupported_version`. */
export function decodeConfigurationChange(data: Bytes): ConfigurationChange {
  const reader = new ByteReader(data, "configuration change");
  const version = reader.u8();
  if (version !== VERSION) {
    throw new KisekiError(
      "common.unsupported_version",
      `a configuration change of version ${version} (this build reads ${VERSION})`,
    );
  }
  const transition = reader.u8();
  const count = reader.u16();
  if (transition > 1 || count > MAX_CHANGES || (transition === 1) !== (count === 0)) {
    throw reader.corrupt("a malformed change");
  }
  const changes: MemberChange[] = [];
  for (let i = 0; i < count; i++) {
    const action = ACTIONS[reader.u8() - 1];
    const node = reader.int() as NodeId;
    if (action === undefined || node === 0) throw reader.corrupt("a malformed change");
    changes.push({ action, node });
  }
  reader.end();
  return transition === 1 ? { type: "leaveJoint" } : { type: "change", changes };
}

/**
 * The configuration after a change. Several changes at once enter a joint configuration.
 *
 * @throws KisekiError `common.failed_precondition` when it may not be made now.
 */
export function applyConfigurationChange(
  before: Configuration,
  change: ConfigurationChange,
): Configuration {
  if (change.type === "leaveJoint") {
    if (!isJoint(before)) throw refused("there is no joint configuration to leave");
    return plainConfiguration(before.voters, [...before.learners, ...before.learnersNext]);
  }
  if (isJoint(before)) throw refused("a joint configuration is under way");
  const joint = change.changes.length > 1;
  const voters = new Set(before.voters);
  const learners = new Set(before.learners);
  const outgoing = new Set(joint ? before.voters : []);
  const learnersNext = new Set<NodeId>();
  for (const { action, node } of change.changes) {
    voters.delete(node);
    learners.delete(node);
    learnersNext.delete(node);
    if (action === "addVoter") voters.add(node);
    else if (action === "addLearner") (outgoing.has(node) ? learnersNext : learners).add(node);
  }
  if (voters.size === 0) throw refused("a group needs a voter");
  return { voters, outgoing, learners, learnersNext };
}

function refused(why: string): KisekiError {
  return new KisekiError("common.failed_precondition", `membership change refused: ${why}`);
}

/** Configurations by the index from which they hold: a snapshot names the one of its index. */
export class ConfigurationHistory {
  #held: { readonly index: number; readonly configuration: Configuration }[];

  constructor(index: number, configuration: Configuration) {
    this.#held = [{ index, configuration }];
  }

  add(index: number, configuration: Configuration): void {
    this.#held.push({ index, configuration });
  }

  /** The configuration that held after entry `index`. */
  at(index: number): Configuration {
    let [found] = this.#held;
    for (const held of this.#held) if (held.index <= index) found = held;
    if (found === undefined) throw new KisekiError("common.internal", "no configuration is held");
    return found.configuration;
  }

  everVoted(node: NodeId): boolean {
    return this.#held.some((held) => isVoter(held.configuration, node));
  }

  /** Forgets what held only before entry `index`. */
  compactTo(index: number): void {
    const configuration = this.at(index);
    this.#held = [{ index, configuration }, ...this.#held.filter((held) => held.index > index)];
  }
}
