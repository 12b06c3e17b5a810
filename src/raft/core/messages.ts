/**
 * What the members of a group say to each other (Raft paper, figure 2; thesis chapters 3, 4, 6).
 *
 * `term` is the sender's term, but a pre-vote request and a granted pre-vote carry the term that
 * the candidate would have.
 */
import type { NodeId } from "../../common/ids.ts";
import type { Entry } from "../ports.ts";
import type { Configuration } from "./configuration.ts";

interface Addressed {
  readonly from: NodeId;
  readonly to: NodeId;
  readonly term: number;
}

/** RequestVote. `pre`: would you vote for me (thesis 9.6). `transfer`: the leader asked for it. */
export interface VoteRequest extends Addressed {
  readonly type: "vote";
  readonly pre: boolean;
  readonly lastIndex: number;
  readonly lastTerm: number;
  readonly transfer: boolean;
}

export interface VoteReply extends Addressed {
  readonly type: "voteReply";
  readonly pre: boolean;
  readonly granted: boolean;
}

/** AppendEntries. */
export interface AppendRequest extends Addressed {
  readonly type: "append";
  readonly previousIndex: number;
  readonly previousTerm: number;
  readonly entries: readonly Entry[];
  readonly commit: number;
}

/** `index` = last index that matches, or the refused previous index; the hint shortens the search. */
export interface AppendReply extends Addressed {
  readonly type: "appendReply";
  readonly index: number;
  readonly rejected: boolean;
  readonly hintIndex: number;
  readonly hintTerm: number;
}

/** `context` numbers the round of a read-index (0 = none). */
export interface Heartbeat extends Addressed {
  readonly type: "heartbeat";
  readonly commit: number;
  readonly context: number;
}

export interface HeartbeatReply extends Addressed {
  readonly type: "heartbeatReply";
  readonly context: number;
}

/** What a snapshot stands for. The host moves its bytes before it steps the message. */
export interface SnapshotMeta {
  readonly index: number;
  readonly term: number;
  readonly configuration: Configuration;
}

export interface InstallSnapshot extends Addressed {
  readonly type: "snapshot";
  readonly snapshot: SnapshotMeta;
}

/** Stand for election now: leadership is handed over (thesis 3.10). */
export interface TimeoutNow extends Addressed {
  readonly type: "timeoutNow";
}

/** A follower asks the leader for a read index. */
export interface ReadIndexRequest extends Addressed {
  readonly type: "readIndex";
  readonly request: number;
}

export interface ReadIndexReply extends Addressed {
  readonly type: "readIndexReply";
  readonly request: number;
  readonly index: number;
}

export type Message =
  | VoteRequest
  | VoteReply
  | AppendRequest
  | AppendReply
  | Heartbeat
  | HeartbeatReply
  | InstallSnapshot
  | TimeoutNow
  | ReadIndexRequest
  | ReadIndexReply;
