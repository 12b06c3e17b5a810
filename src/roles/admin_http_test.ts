import assert from "node:assert/strict";
import { adminHttpHandler } from "./admin_http.ts";

const reasons: string[] = [];
const handler = adminHttpHandler({
  notReady: () => reasons,
  metrics: async () => "kiseki_build_info 1\n",
  version: "0.1.0",
});
const ask = (path: string, method = "GET") =>
  handler(new Request(`http://localhost${path}`, { method }));

Deno.test("/health answers whatever /ready says", async () => {
  reasons.splice(0, reasons.length, "pool default: no device");
  assert.equal((await ask("/health")).status, 200);
  const notReady = await ask("/ready");
  assert.equal(notReady.status, 503);
  assert.equal(await notReady.text(), "not ready\n- pool default: no device\n");
  reasons.length = 0;
  assert.equal((await ask("/ready")).status, 200);
});

Deno.test("/metrics has Prometheus' content type", async () => {
  const response = await ask("/metrics");
  assert.match(response.headers.get("content-type") ?? "", /^text\/plain; version=0\.0\.4/);
  assert.equal(await response.text(), "kiseki_build_info 1\n");
});

Deno.test("other pages and methods are refused", async () => {
  assert.equal((await ask("/")).status, 200);
  assert.equal((await ask("/etc/passwd")).status, 404);
  assert.equal((await ask("/health", "POST")).status, 405);
  assert.equal((await ask("/health", "HEAD")).status, 200);
});
