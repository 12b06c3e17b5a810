/**
 * One line of a benchmark's result.
 */
export interface BenchLine {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly target?: number;
  readonly note?: string;
}
