/**
 * Which runs to merge: size-tiered, fan-out 4.
 *
 * Tier 0 holds folds; four runs of a tier become one of the next. A result that is still small for
 * the next tier stays where it is, so that many small folds of an idle table do not climb. Every
 * byte is written once a tier: about 4 to 5 times in a table of a hundred folds.
 *
 * Invariants: merged runs are neighbours in age; tiers never fall from newest to oldest.
 */
import type { RunDescription } from "./run.ts";

export const FAN_OUT = 4;
/** Most runs that one merge reads. */
const MAX_INPUTS = 16;
const MAX_TIER = 32;

export interface CompactionPlan {
  /** Place of the newest input in the list of runs, and how many there are. */
  readonly start: number;
  readonly count: number;
  readonly tier: number;
  /** True when the inputs include the oldest run: nothing older that a tombstone must hide. */
  readonly dropTombstones: boolean;
}

/** The next merge of `runs` (newest first); undefined when the tiers are in order. */
export function planCompaction(
  runs: readonly RunDescription[],
  foldBytes: number,
): CompactionPlan | undefined {
  let start = 0;
  while (start < runs.length) {
    const tier = (runs[start] as RunDescription).tier;
    let end = start;
    let bytes = 0;
    while (end < runs.length && (runs[end] as RunDescription).tier === tier) {
      bytes += (runs[end] as RunDescription).fileBytes;
      end++;
    }
    if (end - start >= FAN_OUT) {
      if (end - start > MAX_INPUTS) {
        start = end - MAX_INPUTS;
        bytes = 0;
        for (let i = start; i < end; i++) bytes += (runs[i] as RunDescription).fileBytes;
      }
      const climbs = bytes > 2 * foldBytes * FAN_OUT ** tier && tier < MAX_TIER;
      return {
        start,
        count: end - start,
        tier: climbs ? tier + 1 : tier,
        dropTombstones: end === runs.length,
      };
    }
    start = end;
  }
  return undefined;
}
