/**
 * One sync for all who wait: group commit for anything with a slow "make durable".
 *
 * Invariants: whoever calls `wait` after its write returned is covered by a sync that began later;
 * at most one sync runs at a time; after one sync failed, every later `wait` fails with the same
 * error, because a second sync may report success over pages that the kernel already dropped
 * (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).
 */
export class GroupSync {
  readonly #sync: () => Promise<void>;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #failure: unknown;
  #failed = false;
  #rounds = 0;

  constructor(sync: () => Promise<void>) {
    this.#sync = sync;
  }

  /** How many syncs were made. */
  get rounds(): number {
    return this.#rounds;
  }

  /** True once a sync failed. */
  get failed(): boolean {
    return this.#failed;
  }

  /** Resolves when everything that was written before the call is durable. */
  wait(): Promise<void> {
    if (this.#failed) return Promise.reject(this.#failure);
    if (this.#next !== undefined) return this.#next;
    if (this.#running === undefined) return this.#start();
    const next = this.#running.then(() => this.#start(), () => Promise.reject(this.#failure));
    this.#next = next;
    return next;
  }

  #start(): Promise<void> {
    this.#next = undefined;
    const running = this.#run();
    this.#running = running;
    return running;
  }

  async #run(): Promise<void> {
    this.#rounds++;
    try {
      // Writers of this very turn of the event loop still join: their writes return before.
      await this.#sync();
    } catch (error) {
      this.#failed = true;
      this.#failure = error;
      throw error;
    } finally {
      this.#running = undefined;
    }
  }
}
