/**
 * Which runs to merge: size-tiered, fan-out 4.
 *
 * Tier 0 holds folds; four runs of a tier become one of the next. A result that is still small for
 * the next tier stays where it is, so that many small folds of an idle table do not climb. Every
 * byte is written once a tier: about 4 to 5 times in a table of a hundred folds. Where the tiers are
 * in order but tombstones are a third of all rows, everything is merged with the oldest run, which
 * drops them: at most some four rows rewritten for each deletion.
 *
 * Invariants: merged runs are neighbours in age; tiers never fall from newest to oldest.
 */
import type { RunDescription } from "./run.ts";

export const FAN_OUT = 4;
/** Most runs that one merge reads. */
const MAX_INPUTS = 16;
const MAX_TIER = 32;
/** From so many on, tombstones that are a third of all rows are merged away: scans step over each. */
const MANY_TOMBSTONES = 1000;

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
  return planTombstones(runs);
}

function planTombstones(runs: readonly RunDescription[]): CompactionPlan | undefined {
  const start = Math.max(0, runs.length - MAX_INPUTS);
  const inputs = runs.slice(start);
  let rows = 0;
  let tombstones = 0;
  for (const run of inputs) {
    rows += run.rows;
    tombstones += run.tombstones;
  }
  const oldest = inputs[inputs.length - 1];
  if (oldest === undefined || tombstones < MANY_TOMBSTONES || tombstones * 3 < rows) {
    return undefined;
  }
  return { start, count: inputs.length, tier: oldest.tier, dropTombstones: true };
}
