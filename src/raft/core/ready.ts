/**
 * What goes into a core and what comes out of it.
 */
import type { NodeId } from "../../common/ids.ts";
import type { Entry, HardState } from "../ports.ts";
import type { Configuration } from "./configuration.ts";
import type { Message, SnapshotMeta } from "./messages.ts";
import type { RaftLog } from "./raft_log.ts";

export type Role = "follower" | "preCandidate" | "candidate" | "leader";

/** How a core is made. */
export interface RaftCoreOptions {
  readonly id: NodeId;
  readonly configuration: Configuration;
  readonly hardState: HardState;
  /** What was durable at start; the core owns it from now on. */
  readonly log: RaftLog;
  /** Ticks without a leader before an election, at least; also the lease of check-quorum. */
  readonly electionTicks: number;
  readonly heartbeatTicks: number;
  /** A fresh random timeout in [electionTicks, 2 * electionTicks). */
  readonly randomElectionTicks: () => number;
  readonly maxAppendBytes: number;
  /** Appends under way to one member. */
  readonly maxInFlight: number;
  /** Data of the first entry of a term; called when this node becomes leader. */
  readonly becomeLeader: (term: number) => Uint8Array;
}

/** A read that may be served once `index` is applied. */
export interface ReadState {
  readonly request: number;
  readonly index: number;
}

/** What is to be done now. */
export interface Ready {
  /** To be written, with the entries. Undefined when unchanged. */
  readonly hardState: HardState | undefined;
  /** Entries from here on are void. Written before `entries`. */
  readonly truncateFrom: number | undefined;
  readonly entries: readonly Entry[];
  /** A snapshot that replaces the log. Written before all else. */
  readonly snapshot: SnapshotMeta | undefined;
  readonly messages: readonly Message[];
  readonly afterPersist: readonly Message[];
  readonly readStates: readonly ReadState[];
  /** Entries that the log does not hold in memory and a member needs: load, then `loaded`. */
  readonly loads: readonly { readonly from: number; readonly to: number; readonly node: NodeId }[];
}
