/**
 * What reads, writes and scrubs report of fragments, for repair and for metrics.
 */
import type { ChunkId, DeviceId } from "../common/ids.ts";
import type { ChunkRecord } from "./ports.ts";

/** A fragment that is not as it should be. */
export interface Finding {
  /**
   * `damaged`: its checksum is wrong. `missing`: its device does not hold it. `unreadable`: its
   * device failed or cannot be reached. `misplaced`: on another device than recorded.
   */
  readonly kind: "damaged" | "missing" | "unreadable" | "misplaced";
  readonly chunk: ChunkId;
  readonly record: ChunkRecord;
  readonly fragment: number;
  /** Where it was looked for (or found, when misplaced). */
  readonly device: DeviceId;
}

/** Takes findings; must not throw and must not wait. */
export type FindingSink = (finding: Finding) => void;
