/** What a benchmark reports: shared by all of `make bench`. */

/** One measured figure. */
export interface BenchLine {
  readonly name: string;
  readonly value: number;
  /** Unit of the value, e.g. "us", "put/s", "B/B". */
  readonly unit: string;
  /** What it must reach, e.g. ">= 60000" or "<= 8". */
  readonly target?: string;
  readonly note?: string;
}

/** The lines as a table for a terminal. */
export function formatBenchLines(lines: readonly BenchLine[]): string {
  const rows = lines.map((line) => [
    line.name,
    formatNumber(line.value),
    line.unit,
    line.target ?? "",
    line.note ?? "",
  ]);
  const widths = [0, 1, 2, 3].map((i) => Math.max(...rows.map((row) => (row[i] ?? "").length), 0));
  return rows.map((row) =>
    row.map((cell, i) => i === 1 ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0))
      .join("  ").trimEnd()
  ).join("\n");
}

function formatNumber(value: number): string {
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return value.toPrecision(3);
}
