/**
 * Metrics: what a node counts, and how the counts of its isolates become one page.
 *
 * Each isolate holds a {@link Metrics} of its own. A caller resolves labels once to a cell and
 * then adds to a plain number: no hashing, no allocation on a hot path. On request an isolate
 * gives a snapshot (plain JSON, crosses isolates), and main merges all of them (`metrics_page.ts`):
 * counters and histograms add up; a gauge adds up unless it says otherwise.
 *
 * Invariant: a metric has at most {@link MAX_SERIES} series; labels beyond it count under "other".
 */
import type { Clock } from "./clock.ts";

/** Content type of the metrics page. */
export const METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** Most label combinations of one metric and isolate. */
export const MAX_SERIES = 1000;

type Labels<Name extends string> = Readonly<Record<Name, string>>;
type MetricType = "counter" | "gauge" | "histogram";
/** How gauges of several isolates become one. */
type Merge = "sum" | "max" | "first";

/** One metric as prom-client's own JSON. */
export interface MetricJson {
  readonly name: string;
  readonly help: string;
  readonly type: MetricType;
  readonly aggregator: Merge;
  readonly values: readonly {
    readonly value: number;
    readonly labels: Readonly<Record<string, string | number>>;
    readonly metricName?: string;
  }[];
}

/** All metrics of one isolate. */
export type MetricsSnapshot = readonly MetricJson[];

/** Only ever grows. */
export class CounterCell {
  value = 0;

  add(amount = 1): void {
    this.value += amount;
  }
}

export class GaugeCell {
  value = 0;

  set(value: number): void {
    this.value = value;
  }

  add(amount: number): void {
    this.value += amount;
  }
}

/** Counts observations by upper bound. */
export class HistogramCell {
  readonly #bounds: readonly number[];
  readonly #counts: Float64Array;
  sum = 0;
  count = 0;

  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
    this.#counts = new Float64Array(bounds.length);
  }

  /** @param value In the metric's unit: seconds for times. */
  observe(value: number): void {
    this.sum += value;
    this.count++;
    const bounds = this.#bounds;
    for (let i = 0; i < bounds.length; i++) {
      if (value <= (bounds[i] as number)) {
        this.#counts[i] = (this.#counts[i] as number) + 1;
        return;
      }
    }
  }

  /** Observations at or below each bound. */
  cumulative(): readonly number[] {
    let sum = 0;
    return Array.from(this.#counts, (count) => sum += count);
  }
}

/** A metric and its cells by label values. */
export class Family<Name extends string, Cell> {
  readonly name: string;
  readonly help: string;
  readonly type: MetricType;
  readonly merge: Merge;
  readonly #labelNames: readonly Name[];
  readonly #make: () => Cell;
  readonly #cells = new Map<string, { readonly labels: Labels<Name>; readonly cell: Cell }>();

  constructor(
    name: string,
    help: string,
    type: MetricType,
    labelNames: readonly Name[],
    make: () => Cell,
    merge: Merge = "sum",
  ) {
    this.name = name;
    this.help = help;
    this.type = type;
    this.merge = merge;
    this.#labelNames = labelNames;
    this.#make = make;
  }

  /** The cell of these labels: resolve once, keep it. */
  with(labels: Labels<Name>): Cell {
    const key = this.#labelNames.map((name) => labels[name]).join("\0");
    const there = this.#cells.get(key);
    if (there !== undefined) return there.cell;
    if (this.#cells.size >= MAX_SERIES) return this.#other();
    return this.#add(key, labels);
  }

  entries(): Iterable<{ readonly labels: Labels<Name>; readonly cell: Cell }> {
    return this.#cells.values();
  }

  #other(): Cell {
    const key = this.#labelNames.map(() => "other").join("\0");
    const there = this.#cells.get(key);
    if (there !== undefined) return there.cell;
    const names = this.#labelNames.map((name) => [name, "other"]);
    return this.#add(key, Object.fromEntries(names) as Labels<Name>);
  }

  #add(key: string, labels: Labels<Name>): Cell {
    const names = this.#labelNames.map((name) => [name, labels[name]]);
    const cell = this.#make();
    this.#cells.set(key, { labels: Object.fromEntries(names) as Labels<Name>, cell });
    return cell;
  }
}

/** Bounds of times from 0.1 ms to 10 s, in seconds. */
const SECONDS = [
  0.0001,
  0.00025,
  0.0005,
  0.001,
  0.0025,
  0.005,
  0.01,
  0.025,
  0.05,
  0.1,
  0.25,
  0.5,
  1,
  2.5,
  5,
  10,
];

/** Makes families and gives their snapshot. */
export class MetricsRegistry {
  readonly #counters: Family<string, CounterCell>[] = [];
  readonly #gauges: Family<string, GaugeCell>[] = [];
  readonly #histograms: { readonly family: Family<string, HistogramCell>; bounds: number[] }[] = [];
  readonly #collectors: (() => void)[] = [];

  counter<Name extends string>(name: string, help: string, labels: readonly Name[]) {
    const family = new Family(name, help, "counter", labels, () => new CounterCell());
    this.#counters.push(family as unknown as Family<string, CounterCell>);
    return family;
  }

  gauge<Name extends string>(name: string, help: string, labels: readonly Name[], merge?: Merge) {
    const family = new Family(name, help, "gauge", labels, () => new GaugeCell(), merge);
    this.#gauges.push(family as unknown as Family<string, GaugeCell>);
    return family;
  }

  histogram<Name extends string>(
    name: string,
    help: string,
    labels: readonly Name[],
    bounds: readonly number[] = SECONDS,
  ) {
    const family = new Family(name, help, "histogram", labels, () => new HistogramCell(bounds));
    this.#histograms.push({
      family: family as unknown as Family<string, HistogramCell>,
      bounds: [...bounds],
    });
    return family;
  }

  /** Called before every snapshot: sets gauges that are read, not kept. */
  onCollect(collect: () => void): void {
    this.#collectors.push(collect);
  }

  snapshot(): MetricsSnapshot {
    for (const collect of this.#collectors) collect();
    const out: MetricJson[] = [];
    for (const family of [...this.#counters, ...this.#gauges]) {
      const values = Array.from(
        family.entries() as Iterable<{ labels: Labels<string>; cell: { value: number } }>,
        ({ labels, cell }) => ({ value: cell.value, labels }),
      );
      out.push(metricJson(family, values));
    }
    for (const { family, bounds } of this.#histograms) {
      const values = Array.from(
        family.entries(),
        ({ labels, cell }) => histogramValues(family.name, labels, bounds, cell),
      ).flat();
      out.push(metricJson(family, values));
    }
    return out;
  }
}

function metricJson(
  family: Family<string, unknown>,
  values: MetricJson["values"],
): MetricJson {
  const { name, help, type, merge } = family;
  return { name, help, type, aggregator: merge, values };
}

function histogramValues(
  name: string,
  labels: Labels<string>,
  bounds: readonly number[],
  cell: HistogramCell,
): MetricJson["values"] {
  const counts = cell.cumulative();
  return [
    ...bounds.map((le, i) => ({
      value: counts[i] ?? 0,
      labels: { le, ...labels },
      metricName: `${name}_bucket`,
    })),
    { value: cell.count, labels: { le: "+Inf", ...labels }, metricName: `${name}_bucket` },
    { value: cell.sum, labels, metricName: `${name}_sum` },
    { value: cell.count, labels, metricName: `${name}_count` },
  ];
}

/** Everything that a node counts. */
export interface Metrics {
  readonly registry: MetricsRegistry;
  readonly requests: Family<"gateway" | "operation" | "status", CounterCell>;
  readonly requestSeconds: Family<"gateway" | "operation", HistogramCell>;
  readonly requestsInFlight: Family<"gateway", GaugeCell>;
  readonly receivedBytes: Family<"gateway", CounterCell>;
  readonly sentBytes: Family<"gateway", CounterCell>;
  /** step: hash, seal, open, put, get. */
  readonly chunkSeconds: Family<"step", HistogramCell>;
  readonly chunkBytes: Family<"step", CounterCell>;
  /** step: encode, decode. */
  readonly erasureSeconds: Family<"step", HistogramCell>;
  readonly degradedReads: Family<"pool", CounterCell>;
  readonly badFragments: Family<"device", CounterCell>;
  readonly repairedFragments: Family<"device", CounterCell>;
  readonly walSyncSeconds: Family<never, HistogramCell>;
  readonly walEntries: Family<never, CounterCell>;
  readonly walBytes: Family<never, CounterCell>;
  readonly tableFoldSeconds: Family<never, HistogramCell>;
  readonly poolCapacityBytes: Family<"pool", GaugeCell>;
  readonly poolUsedBytes: Family<"pool", GaugeCell>;
  readonly cacheHits: Family<"cache", CounterCell>;
  readonly cacheMisses: Family<"cache", CounterCell>;
  readonly eventLoopLagSeconds: Family<"isolate", HistogramCell>;
  readonly cryptoProvider: Family<"name" | "version" | "fips", GaugeCell>;
  readonly build: Family<"version" | "kind", GaugeCell>;
  readonly residentBytes: Family<never, GaugeCell>;
}

/** The metrics of one isolate. */
export function createMetrics(): Metrics {
  const registry = new MetricsRegistry();
  const none: readonly never[] = [];
  return {
    registry,
    requests: registry.counter("kiseki_requests_total", "Requests answered", [
      "gateway",
      "operation",
      "status",
    ]),
    requestSeconds: registry.histogram("kiseki_request_seconds", "Time to answer a request", [
      "gateway",
      "operation",
    ]),
    requestsInFlight: registry.gauge("kiseki_requests_in_flight", "Requests being answered", [
      "gateway",
    ]),
    receivedBytes: registry.counter("kiseki_received_bytes_total", "Body bytes received", [
      "gateway",
    ]),
    sentBytes: registry.counter("kiseki_sent_bytes_total", "Body bytes sent", ["gateway"]),
    chunkSeconds: registry.histogram("kiseki_chunk_seconds", "Time of a step of one chunk", [
      "step",
    ]),
    chunkBytes: registry.counter("kiseki_chunk_bytes_total", "Bytes that went through a step", [
      "step",
    ]),
    erasureSeconds: registry.histogram("kiseki_erasure_seconds", "Time to code one chunk", [
      "step",
    ]),
    degradedReads: registry.counter("kiseki_degraded_reads_total", "Chunks read around a fault", [
      "pool",
    ]),
    badFragments: registry.counter("kiseki_bad_fragments_total", "Fragments that failed a check", [
      "device",
    ]),
    repairedFragments: registry.counter("kiseki_repaired_fragments_total", "Fragments repaired", [
      "device",
    ]),
    walSyncSeconds: registry.histogram("kiseki_wal_sync_seconds", "Time of one log sync", none),
    walEntries: registry.counter("kiseki_wal_entries_total", "Log entries made durable", none),
    walBytes: registry.counter("kiseki_wal_bytes_total", "Log bytes made durable", none),
    tableFoldSeconds: registry.histogram("kiseki_table_fold_seconds", "Time of one fold", none),
    poolCapacityBytes: registry.gauge(
      "kiseki_pool_capacity_bytes",
      "Size of a pool",
      ["pool"],
      "max",
    ),
    poolUsedBytes: registry.gauge("kiseki_pool_used_bytes", "Use of a pool", ["pool"], "max"),
    cacheHits: registry.counter("kiseki_cache_hits_total", "Look-ups that a cache answered", [
      "cache",
    ]),
    cacheMisses: registry.counter("kiseki_cache_misses_total", "Look-ups that it did not", [
      "cache",
    ]),
    eventLoopLagSeconds: registry.histogram(
      "kiseki_event_loop_lag_seconds",
      "How late a timer fires",
      ["isolate"],
    ),
    cryptoProvider: registry.gauge(
      "kiseki_crypto_provider_info",
      "The crypto provider in use: 1",
      ["name", "version", "fips"],
      "max",
    ),
    build: registry.gauge("kiseki_build_info", "This build: 1", ["version", "kind"], "max"),
    residentBytes: registry.gauge("kiseki_resident_bytes", "Resident memory", none, "max"),
  };
}

const LAG_PERIOD_MS = 100;

/** Watches how late timers fire in this isolate. @returns a function that stops it. */
export function watchEventLoop(metrics: Metrics, isolate: string, clock: Clock): () => void {
  const cell = metrics.eventLoopLagSeconds.with({ isolate });
  let cancel = (): void => {};
  const arm = (): void => {
    const due = clock.monotonicMs() + LAG_PERIOD_MS;
    cancel = clock.after(LAG_PERIOD_MS, () => {
      cell.observe(Math.max(0, clock.monotonicMs() - due) / 1000);
      arm();
    });
  };
  arm();
  return () => cancel();
}
