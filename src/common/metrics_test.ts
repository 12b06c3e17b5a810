import assert from "node:assert/strict";
import { VirtualClock } from "./clock.ts";
import { createMetrics, MAX_SERIES, watchEventLoop } from "./metrics.ts";
import { renderMetrics } from "./metrics_page.ts";

Deno.test("counters and histograms of isolates add up, pool gauges do not", async () => {
  const one = createMetrics();
  const two = createMetrics();
  for (const metrics of [one, two]) {
    const cell = metrics.requests.with({ gateway: "s3", operation: "GetObject", status: "200" });
    cell.add();
    cell.add(2);
    metrics.requestSeconds.with({ gateway: "s3", operation: "GetObject" }).observe(0.003);
    metrics.poolUsedBytes.with({ pool: "default" }).set(4096);
    metrics.requestsInFlight.with({ gateway: "s3" }).add(2);
  }
  two.requestSeconds.with({ gateway: "s3", operation: "GetObject" }).observe(99);
  const page = await renderMetrics([one.registry.snapshot(), two.registry.snapshot()]);
  const line = (start: string) => page.split("\n").find((text) => text.startsWith(start));
  assert.match(
    page,
    /kiseki_requests_total\{gateway="s3",operation="GetObject",status="200"\} 6\n/,
  );
  assert.match(page, /kiseki_request_seconds_bucket\{le="0.0025",.*\} 0\n/);
  assert.match(page, /kiseki_request_seconds_bucket\{le="0.005",.*\} 2\n/);
  assert.match(page, /kiseki_request_seconds_bucket\{le="\+Inf",.*\} 3\n/);
  assert.match(page, /kiseki_request_seconds_count\{.*\} 3\n/);
  assert.match(page, /kiseki_pool_used_bytes\{pool="default"\} 4096\n/);
  assert.match(page, /kiseki_requests_in_flight\{gateway="s3"\} 4\n/);
  assert.equal(line("# TYPE kiseki_request_seconds"), "# TYPE kiseki_request_seconds histogram");
  assert.ok(!page.includes("kiseki_wal_sync_seconds"), "what was never seen is left out");
});

Deno.test("a snapshot crosses isolates as plain data, from a Worker too", async () => {
  const code = `import { createMetrics } from ${
    JSON.stringify(
      new URL("./metrics.ts", import.meta.url).href,
    )
  };
const metrics = createMetrics();
metrics.walSyncSeconds.with({}).observe(0.001);
postMessage(metrics.registry.snapshot());`;
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module" });
  const snapshot = await new Promise<ReturnType<typeof JSON.parse>>((resolve, reject) => {
    worker.onmessage = (event) => resolve(event.data);
    worker.onerror = (event) => reject(new Error(event.message));
  });
  worker.terminate();
  URL.revokeObjectURL(url);
  assert.match(await renderMetrics([snapshot]), /kiseki_wal_sync_seconds_count 1\n/);
});

Deno.test("label values are escaped and their number is bounded", async () => {
  const metrics = createMetrics();
  metrics.badFragments.with({ device: 'a"b\\c\nd' }).add();
  for (let i = 0; i < 2 * MAX_SERIES; i++) metrics.badFragments.with({ device: `${i}` }).add();
  const page = await renderMetrics([metrics.registry.snapshot()]);
  assert.ok(page.includes('device="a\\"b\\\\c\\nd"'));
  const lines = page.split("\n").filter((text) => text.startsWith("kiseki_bad_fragments_total{"));
  assert.equal(lines.length, MAX_SERIES + 1);
  assert.ok(page.includes(`{device="other"} ${MAX_SERIES + 1}`));
});

Deno.test("gauges that are read are set when the page is made", async () => {
  const metrics = createMetrics();
  const cell = metrics.residentBytes.with({});
  metrics.registry.onCollect(() => cell.set(123));
  assert.match(await renderMetrics([metrics.registry.snapshot()]), /kiseki_resident_bytes 123\n/);
});

Deno.test("event-loop lag is how late the timer fired", () => {
  const metrics = createMetrics();
  const clock = new VirtualClock();
  const stop = watchEventLoop(metrics, "main", clock);
  clock.advance(1000);
  stop();
  clock.advance(1000);
  const cell = metrics.eventLoopLagSeconds.with({ isolate: "main" });
  assert.equal(cell.count, 10);
  assert.equal(cell.sum, 0);
});
