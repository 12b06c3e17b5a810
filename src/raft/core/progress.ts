/**
 * What a leader knows of a member's log (after etcd's tracker).
 *
 * Invariants: match < next; `probe` sends one append a heartbeat, `replicate` pipelines up to the
 * window, `snapshot` sends nothing until the snapshot is installed or failed.
 */
export type ProgressState = "probe" | "replicate" | "snapshot";

export class Progress {
  state: ProgressState = "probe";
  /** Highest index known to be durable there. */
  match: number;
  /** Next index to send. */
  next: number;
  /** Heard from since the last check of the quorum. */
  recentlyActive = false;
  /** Probe: an append is under way. */
  probeSent = false;
  /** Snapshot: index of the one under way. */
  pendingSnapshot = 0;
  readonly #window: number;
  /** Last index of each append under way. */
  #inFlight: number[] = [];

  constructor(match: number, next: number, window: number) {
    this.match = match;
    this.next = next;
    this.#window = window;
  }

  get paused(): boolean {
    if (this.state === "probe") return this.probeSent;
    return this.state === "snapshot" || this.#inFlight.length >= this.#window;
  }

  becomeProbe(): void {
    if (this.state === "snapshot") this.next = Math.max(this.match + 1, this.pendingSnapshot + 1);
    else this.next = this.match + 1;
    this.#reset("probe");
  }

  becomeReplicate(): void {
    this.next = this.match + 1;
    this.#reset("replicate");
  }

  becomeSnapshot(index: number): void {
    this.#reset("snapshot");
    this.pendingSnapshot = index;
  }

  /** An append up to `last` went out (with `count` entries). */
  sent(last: number, count: number): void {
    if (this.state === "probe") this.probeSent = true;
    else if (this.state === "replicate" && count > 0) {
      this.next = last + 1;
      this.#inFlight.push(last);
    }
  }

  /** The member acknowledged `index`. @returns false for old news. */
  acknowledged(index: number): boolean {
    const news = index > this.match;
    if (news) {
      this.match = index;
      this.probeSent = false;
    }
    this.next = Math.max(this.next, index + 1);
    this.#inFlight = this.#inFlight.filter((last) => last > index);
    return news;
  }

  /** The member refused `rejected`. @returns false for old news. */
  refused(rejected: number, hint: number): boolean {
    if (this.state === "replicate") {
      if (rejected <= this.match) return false;
      this.next = this.match + 1;
      return true;
    }
    if (this.next - 1 !== rejected) return false;
    this.next = Math.max(Math.min(rejected, hint + 1), this.match + 1);
    this.probeSent = false;
    return true;
  }

  /** A heartbeat came back: a probe may go on, a full window may send one more. */
  heartbeatReturned(): void {
    this.probeSent = false;
    if (this.state === "replicate" && this.#inFlight.length >= this.#window) this.#inFlight.shift();
  }

  #reset(state: ProgressState): void {
    this.state = state;
    this.probeSent = false;
    this.pendingSnapshot = 0;
    this.#inFlight = [];
  }
}
