import assert from "node:assert/strict";
import { ACCESS_KEY, SECRET_KEY, testGateway } from "../gateway/s3/testing_client.ts";
import { main } from "./bench.ts";
import { LatencySamples, runPhase } from "./bench_load.ts";
import type { Terminal } from "./command_line.ts";

async function bench(line: string) {
  let out = "";
  let error = "";
  const terminal: Terminal = {
    isTerminal: false,
    out: (text) => void (out += text + "\n"),
    error: (text) => void (error += text + "\n"),
  };
  const environment: Readonly<Record<string, string>> = {
    AWS_ACCESS_KEY_ID: ACCESS_KEY,
    AWS_SECRET_ACCESS_KEY: SECRET_KEY,
  };
  const exitCode = await main(line.split(" "), terminal, (name) => environment[name]);
  return { exitCode, out, error };
}

// The library is opened before any test: it stays open as in a running program.
await bench("bench --endpoint http://127.0.0.1:1 --seconds 1");

Deno.test("small and large objects go through a real gateway and are counted", async () => {
  const gateway = testGateway({}, Date.now());
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    (request, info) => gateway.handler(request, info),
  );
  try {
    const endpoint = `http://127.0.0.1:${server.addr.port}`;
    const ran = await bench(
      `bench --endpoint ${endpoint} --seconds 1 --small 1KiB --large 5MiB --concurrency 8 --json`,
    );
    assert.equal(ran.exitCode, 0, ran.error + ran.out);
    const { phases } = JSON.parse(ran.out);
    assert.deepEqual(phases.map((phase: { name: string }) => phase.name), [
      "put small",
      "get small",
      "delete small",
      "put large",
      "get large",
      "delete large",
    ]);
    for (const phase of phases) {
      assert.equal(phase.errors, 0, phase.firstError);
      assert.ok(phase.operations > 0 && phase.p50Ms <= phase.p99Ms, JSON.stringify(phase));
    }
    const wrong = await bench(`bench --endpoint ${endpoint} --secret-key wrong`);
    assert.equal(wrong.exitCode, 4, wrong.error);
    assert.match(wrong.error, /SignatureDoesNotMatch/);
  } finally {
    await server.shutdown();
  }
});

Deno.test("a bench against nobody is exit code 3, wrong arguments 2", async () => {
  assert.equal((await bench("bench --endpoint http://127.0.0.1:1")).exitCode, 3);
  assert.equal((await bench("bench --small 2GiB")).exitCode, 2);
  assert.equal((await bench("bench --endpoint nowhere")).exitCode, 2);
  assert.match((await bench("bench --help")).out, /example:\n {2}kiseki bench/);
});

Deno.test("quantiles are of nearest rank", () => {
  const samples = new LatencySamples();
  for (let i = 1; i <= 1000; i++) samples.add(i);
  assert.deepEqual(samples.quantiles([0.5, 0.99, 0.999]), [500, 990, 999]);
  assert.deepEqual(new LatencySamples().quantiles([0.5]), [0]);
});

Deno.test("errors of a phase are counted and the first is told", async () => {
  let calls = 0;
  const result = await runPhase({
    name: "x",
    objectBytes: 10,
    concurrency: 1,
    seconds: 60,
    exhausted: () => calls >= 10,
    async operation() {
      if (++calls % 2 === 0) throw new Error(`call ${calls} failed`);
    },
  });
  assert.deepEqual([result.operations, result.errors, result.firstError], [5, 5, "call 2 failed"]);
});
