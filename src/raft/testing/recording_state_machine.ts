/**
 * A state machine for tests: remembers what it was told, in order.
 */
import type { Bytes } from "../../common/bytes.ts";
import { EMPTY_BYTES } from "../../common/bytes.ts";
import type { Entry, StateMachine } from "../ports.ts";

export class RecordingStateMachine implements StateMachine {
  appliedIndex: number;
  readonly applied: Entry[] = [];
  readonly terms: number[] = [];
  lost = 0;

  constructor(appliedIndex = 0) {
    this.appliedIndex = appliedIndex;
  }

  apply(entry: Entry): void {
    if (entry.index !== this.appliedIndex + 1) {
      throw new RangeError(`entry ${entry.index} applied after ${this.appliedIndex}`);
    }
    this.appliedIndex = entry.index;
    this.applied.push(entry);
  }

  becomeLeader(term: number): Bytes {
    this.terms.push(term);
    return EMPTY_BYTES;
  }

  loseLeadership(): void {
    this.lost++;
  }
}
