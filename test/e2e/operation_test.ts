/** Start, stop, configuration, keys, admin HTTP, doctor and bench of the real binary. */
import assert from "node:assert/strict";
import { Control, kiseki } from "./command.ts";
import { S3Client } from "./s3_client.ts";
import { devArguments, removeData, startServer, type TestServer } from "./server.ts";

async function withDirectory(use: (directory: string) => Promise<void>): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "kiseki-e2e-" });
  try {
    await use(directory);
  } finally {
    await removeData(directory);
  }
}

async function withServer(use: (server: TestServer) => Promise<void>): Promise<void> {
  await withDirectory(async (dataDir) => {
    const server = await startServer({ dataDir });
    try {
      await use(server);
    } finally {
      await server.kill();
    }
  });
}

async function page(url: string): Promise<{ readonly status: number; readonly text: string }> {
  const response = await fetch(url);
  return { status: response.status, text: await response.text() };
}

/** The first sample of a metric whose line starts so; undefined when there is none. */
function sample(metrics: string, start: string): number | undefined {
  const line = metrics.split("\n").find((one) => one.startsWith(start));
  return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(" ") + 1));
}

Deno.test("health, readiness and metrics tell what the traffic was", async () => {
  await withServer(async (server) => {
    const s3 = new S3Client(server);
    await s3.createBucket("metered");
    const body = new Uint8Array(300_000).fill(9);
    assert.equal((await s3.put("metered", "a", body)).status, 200);
    assert.equal((await s3.get("metered", "a")).status, 200);
    assert.equal((await s3.get("metered", "none")).status, 404);

    assert.deepEqual(await page(`${server.admin}/health`), { status: 200, text: "alive\n" });
    assert.deepEqual(await page(`${server.admin}/ready`), { status: 200, text: "ready\n" });
    assert.equal((await page(`${server.admin}/nothing`)).status, 404);
    const { status, text } = await page(`${server.admin}/metrics`);
    assert.equal(status, 200);
    for (
      const name of [
        "kiseki_requests_total",
        "kiseki_request_seconds_bucket",
        "kiseki_received_bytes_total",
        "kiseki_sent_bytes_total",
        "kiseki_wal_entries_total",
        "kiseki_wal_bytes_total",
        "kiseki_wal_sync_seconds_bucket",
        "kiseki_chunk_seconds_bucket",
        "kiseki_chunk_bytes_total",
        "kiseki_cache_hits_total",
        "kiseki_cache_misses_total",
        "kiseki_pool_capacity_bytes",
        "kiseki_pool_used_bytes",
        "kiseki_event_loop_lag_seconds_bucket",
        "kiseki_crypto_provider_info",
        "kiseki_build_info",
        "kiseki_resident_bytes",
      ]
    ) {
      assert.notEqual(sample(text, `${name}{`) ?? sample(text, `${name} `), undefined, name);
    }
    assert.ok((sample(text, "kiseki_received_bytes_total{") ?? 0) >= body.length);
    assert.ok((sample(text, "kiseki_sent_bytes_total{") ?? 0) >= body.length);
    assert.ok((sample(text, "kiseki_pool_used_bytes{") ?? 0) >= body.length);
    assert.match(
      text,
      /kiseki_requests_total\{[^}]*operation="PutObject"[^}]*status="200"[^}]*\} 1/,
    );
    assert.match(
      text,
      /kiseki_requests_total\{[^}]*operation="GetObject"[^}]*status="404"[^}]*\} 1/,
    );
    assert.doesNotMatch(text, /metered/, "metrics tell nothing of tenants");
  });
});

Deno.test("doctor says what it found and exits 0 where a server can start", async () => {
  await withDirectory(async (directory) => {
    const end = await kiseki(["doctor", "--json", "--data-dir", directory]);
    assert.equal(end.code, 0, end.stderr);
    const { ok, findings } = JSON.parse(end.stdout) as {
      ok: boolean;
      findings: readonly { area: string; state: string; found: string }[];
    };
    assert.equal(ok, true);
    const areas = findings.map(({ area }) => area);
    for (const area of ["build", "crypto", "isa-l", "open files", "disk sync", "disk space"]) {
      assert.ok(areas.includes(area), area);
    }
    assert.match((await kiseki(["doctor", "--data-dir", directory])).stdout, /AREA +STATE/);
  });
});

Deno.test("bench measures small and large objects and leaves nothing behind", async () => {
  await withServer(async (server) => {
    const credential = {
      AWS_ACCESS_KEY_ID: server.accessKeyId,
      AWS_SECRET_ACCESS_KEY: server.secretAccessKey,
    };
    const end = await kiseki([
      "bench",
      "--endpoint",
      server.s3,
      "--seconds",
      "1",
      "--large",
      "5MiB",
      "--concurrency",
      "8",
      "--large-concurrency",
      "2",
      "--json",
    ], credential);
    assert.equal(end.code, 0, end.stderr);
    const { phases } = JSON.parse(end.stdout) as {
      phases: readonly { name: string; operations: number; errors: number }[];
    };
    assert.ok(phases.length >= 4);
    for (const phase of phases) {
      assert.ok(phase.operations > 0, phase.name);
      assert.equal(phase.errors, 0, phase.name);
    }
    const left = await new S3Client(server).listKeys("kiseki-bench").catch(() => []);
    assert.deepEqual(left, []);
    const wrong = await kiseki(["bench", "--endpoint", server.s3, "--seconds", "1"], {
      ...credential,
      AWS_SECRET_ACCESS_KEY: "wrong",
    });
    assert.notEqual(wrong.code, 0);
  });
});

Deno.test("a second server on the same data directory is refused by name", async () => {
  await withServer(async (server) => {
    const end = await kiseki(["server", ...devArguments(server.dataDir)]);
    assert.equal(end.code, 1);
    assert.match(end.stderr, /in use by another kiseki/);
    assert.ok(end.stderr.includes(server.dataDir));
    assert.equal(end.stdout, "", "no ready line");
  });
});

Deno.test("SIGTERM ends a server within 10 s while an upload crawls, and nothing is lost", async () => {
  await withDirectory(async (dataDir) => {
    const server = await startServer({ dataDir });
    const s3 = new S3Client(server);
    await s3.createBucket("draining");
    assert.equal((await s3.put("draining", "done", "done")).status, 200);
    const upload = await crawl(server);
    const started = performance.now();
    assert.equal(await server.stop(), 0, server.log());
    const took = performance.now() - started;
    assert.ok(took < 10_000, `${Math.round(took)} ms`);
    upload.close();

    const again = await startServer({ dataDir });
    try {
      const after = new S3Client(again);
      assert.equal((await after.get("draining", "done")).text(), "done");
      assert.equal((await after.get("draining", "crawling")).code(), "NoSuchKey");
    } finally {
      await again.kill();
    }
  });
});

/** Begins a PUT that never ends: its head and one byte of its body are sent. */
async function crawl(server: TestServer): Promise<Deno.Conn> {
  const s3 = new S3Client(server);
  const { hostname, port, host } = new URL(server.s3);
  const { target, headers } = s3.sign(
    { method: "PUT", bucket: "draining", key: "crawling" },
    "UNSIGNED-PAYLOAD",
  );
  const lines = Object.entries({ host, "content-length": "1000000", ...headers })
    .map(([name, value]) => `${name}: ${value}\r\n`).join("");
  const connection = await Deno.connect({ hostname, port: Number(port) });
  await connection.write(new TextEncoder().encode(`PUT ${target} HTTP/1.1\r\n${lines}\r\nx`));
  // A request that came later was answered: the server has begun this one.
  assert.equal((await s3.get("draining", "done")).status, 200);
  return connection;
}

Deno.test("a configuration error names file, key, what was found and what is allowed", async () => {
  await withDirectory(async (directory) => {
    const file = `${directory}/kiseki.toml`;
    const refused = async (text: string, said: readonly string[], env = {}): Promise<void> => {
      await Deno.writeTextFile(file, `data_dir = "${directory}/data"\n${text}`);
      const end = await kiseki(["server", "--config", file], env);
      assert.equal(end.code, 2, end.stderr);
      assert.equal(end.stdout, "");
      for (const part of said) assert.ok(end.stderr.includes(part), `${part} in: ${end.stderr}`);
    };
    await refused("gateways = 0", [file, "gateways", "found 0", "1 to 256"]);
    await refused("gatewys = 1", [file, "gatewys", "unknown key", "gateways"]);
    await refused("gateways = ", [file, "not TOML"]);
    await refused('[listen]\ns3 = "here"', [file, "listen.s3", '"here"', "HOST:PORT"]);
    await refused("", ["KISEKI_GATEWAYS", "gateways", '"many"'], { KISEKI_GATEWAYS: "many" });
    await refused('[[pools]]\nname = "p"\nclass = "ssd"\ncopies = 2', [
      "pools.0",
      "0 devices",
      "at least 2",
    ]);
    const missing = await kiseki(["server", "--config", `${directory}/none.toml`]);
    assert.equal(missing.code, 2);
    assert.match(missing.stderr, /none\.toml: cannot be read/);
    assert.equal((await kiseki(["server"])).code, 2);
  });
});

Deno.test("the example configuration is taken", async () => {
  await withDirectory(async (directory) => {
    const example = new URL("../../deploy/examples/kiseki.toml", import.meta.url);
    const text = (await Deno.readTextFile(example))
      .replaceAll("/var/lib/kiseki-devices/", `${directory}/`)
      .replaceAll("/var/lib/kiseki", `${directory}/data`)
      .replaceAll(/"(?:0\.0\.0\.0|127\.0\.0\.1):[0-9]+"/g, '"127.0.0.1:0"')
      .replaceAll("1TiB", "256MiB");
    const configFile = `${directory}/kiseki.toml`;
    await Deno.writeTextFile(configFile, text);
    const server = await startServer({ configFile, dataDir: `${directory}/data` });
    try {
      assert.equal(server.accessKeyId, "", "only --dev prints a credential");
      const control = new Control(server);
      const pools = await control.json<readonly { data: number; parity: number; state: string }[]>(
        "pool",
        "list",
      );
      assert.deepEqual(pools.map((p) => [p.data, p.parity, p.state]), [[4, 2, "ok"]]);
      assert.equal(await server.stop(), 0);
    } finally {
      await server.kill();
    }
  });
});

Deno.test("a root key that others may read is refused", async () => {
  await withDirectory(async (dataDir) => {
    const server = await startServer({ dataDir });
    assert.equal(await server.stop(), 0);
    assert.equal(((await Deno.stat(`${dataDir}/root.key`)).mode ?? 0) & 0o777, 0o600);
    await Deno.chmod(`${dataDir}/root.key`, 0o644);
    const end = await kiseki(["server", ...devArguments(dataDir)]);
    assert.equal(end.code, 1);
    assert.match(end.stderr, /root\.key.*chmod 600/);
    await Deno.chmod(`${dataDir}/root.key`, 0o600);
    await Deno.rename(`${dataDir}/root.key`, `${dataDir}/away.key`);
    const gone = await kiseki(["server", ...devArguments(dataDir)]);
    assert.equal(gone.code, 1);
    assert.match(gone.stderr, /root key file is missing/);
    await Deno.rename(`${dataDir}/away.key`, `${dataDir}/root.key`);
    const again = await startServer({ dataDir });
    assert.equal(await again.stop(), 0);
  });
});

Deno.test("KISEKI_ROOT_KEY takes the place of the file, and a wrong one opens nothing", async () => {
  await withDirectory(async (dataDir) => {
    const randomKey = () => crypto.getRandomValues(new Uint8Array(32)).toHex();
    const env = { KISEKI_ROOT_KEY: randomKey() };
    const server = await startServer({ dataDir, env });
    const s3 = new S3Client(server);
    await s3.createBucket("keyed");
    assert.equal((await s3.put("keyed", "a", "value")).status, 200);
    assert.equal(await server.stop(), 0);
    await assert.rejects(Deno.stat(`${dataDir}/root.key`), Deno.errors.NotFound);

    const other = randomKey();
    const wrong = await kiseki(["server", ...devArguments(dataDir)], {
      KISEKI_ROOT_KEY: other,
    });
    assert.equal(wrong.code, 1);
    assert.ok(!wrong.stderr.includes(other), "a key is never said");
    const weak = await kiseki(["server", ...devArguments(dataDir)], {
      KISEKI_ROOT_KEY: "00".repeat(32),
    });
    assert.equal(weak.code, 1);
    assert.match(weak.stderr, /KISEKI_ROOT_KEY.*random/);
    const none = await kiseki(["server", ...devArguments(dataDir)]);
    assert.equal(none.code, 1);
    assert.match(none.stderr, /KISEKI_ROOT_KEY/);

    const again = await startServer({ dataDir, env });
    try {
      assert.equal((await new S3Client(again).get("keyed", "a")).text(), "value");
      assert.equal(await again.stop(), 0);
    } finally {
      await again.kill();
    }
  });
});
