/**
 * Bounded concurrency for background work.
 */

/** Runs `work` on every item, at most `width` at a time; the first error stops what has not begun. */
export async function forEachBounded<T>(
  items: readonly T[],
  width: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  let stopped = false;
  const runner = async (): Promise<void> => {
    while (!stopped && next < items.length) {
      const item = items[next++] as T;
      try {
        await work(item);
      } catch (error) {
        stopped = true;
        throw error;
      }
    }
  };
  const outcomes = await Promise.allSettled(Array.from({ length: width }, runner));
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
}
