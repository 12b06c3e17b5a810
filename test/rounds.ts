/**
 * How long randomised tests run and from which seed.
 *
 * `KISEKI_ROUNDS_SCALE` scales counts (1 = full soak, 0.1 = the default for `make test`);
 * `KISEKI_SEED` fixes the seed. The seed is printed, so that a failure can be run again.
 */

/** `full` rounds scaled by KISEKI_ROUNDS_SCALE, at least 1. */
export function testRounds(full: number): number {
  const scale = Number(Deno.env.get("KISEKI_ROUNDS_SCALE") ?? "0.1");
  if (!Number.isFinite(scale) || scale <= 0) {
    throw new RangeError(`KISEKI_ROUNDS_SCALE: a positive number is wanted, found "${scale}"`);
  }
  return Math.max(1, Math.round(full * scale));
}

/** The seed of this run, printed with the name of what uses it. */
export function testSeed(what: string): number {
  const fixed = Deno.env.get("KISEKI_SEED");
  const seed = fixed === undefined
    ? (crypto.getRandomValues(new Uint32Array(1))[0] ?? 0) & 0x7fff_ffff
    : Number(fixed);
  if (!Number.isSafeInteger(seed)) {
    throw new RangeError(`KISEKI_SEED: an integer is wanted, found "${fixed}"`);
  }
  console.log(`seed of ${what}: ${seed} (KISEKI_SEED=${seed} repeats it)`);
  return seed;
}

/** A small deterministic generator (mulberry32): numbers in [0, 1). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
