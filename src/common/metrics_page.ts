/**
 * The metrics page: snapshots of all isolates merged and written by prom-client. Only the main
 * isolate loads this file.
 */
import { AggregatorRegistry } from "prom-client";
import type { MetricsSnapshot } from "./metrics.ts";

/** The page of all isolates together, in Prometheus' text format. */
export async function renderMetrics(snapshots: readonly MetricsSnapshot[]): Promise<string> {
  const withValues = snapshots.map((snapshot) =>
    snapshot.filter((metric) => metric.values.length > 0)
  );
  // The declared parameter is prom-client's own class of metrics; it reads this JSON.
  type Input = Parameters<typeof AggregatorRegistry.aggregate>[0];
  return await AggregatorRegistry.aggregate(withValues as unknown as Input).metrics();
}
