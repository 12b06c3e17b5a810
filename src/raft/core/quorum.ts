/**
 * Majorities of one or two sets of voters (joint consensus, Raft thesis 4.3).
 *
 * Invariant: in a joint configuration both majorities must agree. An empty outgoing set is no
 * second set.
 */
import type { NodeId } from "../../common/ids.ts";

export type VoteOutcome = "won" | "lost" | "pending";

/** The voters that decide: `outgoing` is empty outside a joint configuration. */
export interface Quorum {
  readonly voters: ReadonlySet<NodeId>;
  readonly outgoing: ReadonlySet<NodeId>;
}

/** The highest index that a majority of `voters` has. Infinity for no voters. */
function majorityIndex(voters: ReadonlySet<NodeId>, matched: (node: NodeId) => number): number {
  if (voters.size === 0) return Infinity;
  const indexes = [...voters].map(matched).sort((a, b) => b - a);
  return indexes[Math.floor(indexes.length / 2)] ?? 0;
}

/** The highest index durable on every majority. */
export function committedIndex(quorum: Quorum, matched: (node: NodeId) => number): number {
  const index = Math.min(
    majorityIndex(quorum.voters, matched),
    majorityIndex(quorum.outgoing, matched),
  );
  return index === Infinity ? 0 : index;
}

function majorityOutcome(
  voters: ReadonlySet<NodeId>,
  voteOf: (node: NodeId) => boolean | undefined,
): VoteOutcome {
  if (voters.size === 0) return "won";
  let yes = 0;
  let missing = 0;
  for (const voter of voters) {
    const vote = voteOf(voter);
    if (vote === undefined) missing++;
    else if (vote) yes++;
  }
  const needed = Math.floor(voters.size / 2) + 1;
  if (yes >= needed) return "won";
  return yes + missing >= needed ? "pending" : "lost";
}

/** How an election, or any other poll, stands. */
export function voteOutcome(
  quorum: Quorum,
  voteOf: (node: NodeId) => boolean | undefined,
): VoteOutcome {
  const incoming = majorityOutcome(quorum.voters, voteOf);
  const outgoing = majorityOutcome(quorum.outgoing, voteOf);
  if (incoming === outgoing) return incoming;
  if (incoming === "lost" || outgoing === "lost") return "lost";
  return "pending";
}
