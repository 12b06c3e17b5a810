/**
 * The S3 figures of `make bench`: the real binary beside the bare server, in turns in one run.
 */
import { createHash, createHmac } from "node:crypto";
import type { Buffer } from "node:buffer";
import { S3Client, uriEncode } from "../e2e/s3_client.ts";
import { binaryUnderTest, removeData, startServer, type TestServer } from "../e2e/server.ts";
import { type LoadResult, runLoad, type WireRequest } from "./load.ts";
import { type BenchLine, formatBenchLines } from "./report.ts";

const BUCKET = "bench";
const ROUNDS = 3;

/** Builds signed requests; the signing key is derived once, as every client does. */
export class RequestBuilder {
  readonly #server: TestServer;
  readonly #host: string;
  readonly #date: string;
  readonly #scope: string;
  readonly #key: Buffer;

  constructor(server: TestServer) {
    this.#server = server;
    this.#host = new URL(server.s3).host;
    this.#date = new Date().toISOString().replace(/[-:]|\.\d{3}/g, "");
    this.#scope = `${this.#date.slice(0, 8)}/us-east-1/s3/aws4_request`;
    let key: Buffer | string = `AWS4${server.secretAccessKey}`;
    for (const part of [this.#date.slice(0, 8), "us-east-1", "s3", "aws4_request"]) {
      key = createHmac("sha256", key).update(part).digest();
    }
    this.#key = key as Buffer;
  }

  build(
    method: string,
    path: string,
    query: string,
    body?: Uint8Array,
    bodyHash?: string,
  ): WireRequest {
    const hash = bodyHash ?? createHash("sha256").update(body ?? "").digest("hex");
    const canonical =
      `${method}\n${path}\n${query}\nhost:${this.#host}\nx-amz-content-sha256:${hash}\nx-amz-date:${this.#date}\n\nhost;x-amz-content-sha256;x-amz-date\n${hash}`;
    const signature = createHmac("sha256", this.#key).update(
      `AWS4-HMAC-SHA256\n${this.#date}\n${this.#scope}\n${
        createHash("sha256").update(canonical).digest("hex")
      }`,
    ).digest("hex");
    const head = new TextEncoder().encode(
      `${method} ${path}${query === "" ? "" : `?${query}`} HTTP/1.1\r\nHost: ${this.#host}\r\n` +
        `x-amz-date: ${this.#date}\r\nx-amz-content-sha256: ${hash}\r\n` +
        `authorization: AWS4-HMAC-SHA256 Credential=${this.#server.accessKeyId}/${this.#scope}, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=${signature}\r\n` +
        `content-length: ${body?.length ?? 0}\r\n\r\n`,
    );
    return body === undefined ? { head } : { head, body };
  }
}

function bareRequest(method: string, path: string, body?: Uint8Array): WireRequest {
  const head = new TextEncoder().encode(
    `${method} ${path} HTTP/1.1\r\nHost: bare\r\ncontent-length: ${body?.length ?? 0}\r\n\r\n`,
  );
  return body === undefined ? { head } : { head, body };
}

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;

interface Bare {
  readonly port: number;
  stop(): Promise<void>;
}

async function startBare(directory: string): Promise<Bare> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "--no-config",
      new URL("./bare_server.ts", import.meta.url).pathname,
      directory,
    ],
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const { value } = await reader.read();
  return {
    port: Number((value ?? "").trim()),
    stop: async () => {
      child.kill("SIGKILL");
      await reader.cancel();
      await child.status;
    },
  };
}

/** Ratio of two loads run in turns, and the median figures of each. */
async function paired(
  ours: () => Promise<LoadResult>,
  bare: () => Promise<LoadResult>,
  figure: (result: LoadResult) => number,
): Promise<{ ours: number; bare: number; ratio: number }> {
  const a: number[] = [];
  const b: number[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    a.push(figure(await ours()));
    b.push(figure(await bare()));
  }
  return {
    ours: median(a),
    bare: median(b),
    ratio: median(a.map((value, i) => value / (b[i] ?? 1))),
  };
}

export async function objectRates(gateways: number): Promise<BenchLine[]> {
  const lines: BenchLine[] = [];
  const directory = await Deno.makeTempDir({ prefix: "kiseki-bare-" });
  const bare = await startBare(directory);
  const server = await startServer({ env: { KISEKI_GATEWAYS: String(gateways) } });
  const suffix = gateways === 1 ? "" : ` (${gateways} gateways)`;
  try {
    const port = Number(new URL(server.s3).port);
    const client = new S3Client(server);
    await client.createBucket(BUCKET);
    const builder = new RequestBuilder(server);
    const small = crypto.getRandomValues(new Uint8Array(65_536));
    const large = new Uint8Array(64 << 20);
    for (let at = 0; at < large.length; at += 65_536) {
      crypto.getRandomValues(large.subarray(at, at + 65_536));
    }

    // GET 64 KiB
    const keys = 200;
    for (let i = 0; i < keys; i++) {
      small[0] = i;
      await client.put(BUCKET, `small-${i}`, small);
    }
    const gets = Array.from(
      { length: keys },
      (_, i) => builder.build("GET", `/${BUCKET}/small-${i}`, ""),
    );
    const bareGet = bareRequest("GET", "/65536");
    const get = await paired(
      () => runLoad(port, 32, 12_000, (i) => gets[i % keys] as WireRequest),
      () => runLoad(bare.port, 32, 20_000, () => bareGet),
      (result) => result.perSecond,
    );
    lines.push(
      {
        name: `GET 64 KiB, ratio to bare${suffix}`,
        value: get.ratio,
        unit: "ratio",
        target: ">= 0.3",
      },
      {
        name: `GET 64 KiB${suffix}`,
        value: get.ours,
        unit: "1/s",
        note: `bare ${get.bare.toFixed(0)}`,
      },
    );

    // PUT and GET 64 MiB
    let put = 0;
    const barePut = bareRequest("PUT", "/large", large);
    const putLarge = (signed: boolean) => () => {
      const rounds = 6;
      const requests = Array.from({ length: rounds }, () => {
        // Content differs each time: the store keeps equal chunks once.
        const body = large.slice();
        const view = new DataView(body.buffer);
        for (let at = 0; at < body.length; at += 4 << 20) view.setUint32(at, put + 1);
        return builder.build(
          "PUT",
          `/${BUCKET}/large-${put++}`,
          "",
          body,
          signed ? undefined : "UNSIGNED-PAYLOAD",
        );
      });
      return runLoad(port, 4, rounds, (i) => requests[i] as WireRequest);
    };
    const bareLoad = () => runLoad(bare.port, 4, 8, () => barePut);
    for (const signed of [false, true]) {
      const how = signed ? "signed body" : "unsigned body";
      const rates = await paired(putLarge(signed), bareLoad, (result) => result.bytesPerSecond);
      lines.push(
        {
          name: `PUT 64 MiB, ${how}, ratio to bare${suffix}`,
          value: rates.ratio,
          unit: "ratio",
          ...(signed ? {} : { target: ">= 0.4" }),
        },
        {
          name: `PUT 64 MiB, ${how}${suffix}`,
          value: rates.ours / 1e6,
          unit: "MB/s",
          note: `bare ${(rates.bare / 1e6).toFixed(0)}`,
        },
      );
    }
    const largeGet = builder.build("GET", `/${BUCKET}/large-0`, "", undefined);
    const bareLarge = bareRequest("GET", `/${64 << 20}`);
    const getRates = await paired(
      () => runLoad(port, 8, 24, () => largeGet),
      () => runLoad(bare.port, 8, 48, () => bareLarge),
      (result) => result.bytesPerSecond,
    );
    lines.push(
      {
        name: `GET 64 MiB, ratio to bare${suffix}`,
        value: getRates.ratio,
        unit: "ratio",
        target: ">= 0.5",
      },
      {
        name: `GET 64 MiB${suffix}`,
        value: getRates.ours / 1e6,
        unit: "MB/s",
        note: `bare ${(getRates.bare / 1e6).toFixed(0)}`,
      },
    );

    // durable PUT 4 KiB
    const tiny = crypto.getRandomValues(new Uint8Array(4096));
    const rates: LoadResult[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const total = 8_000;
      const puts = Array.from({ length: total }, (_, i) => {
        const body = tiny.slice();
        new DataView(body.buffer).setUint32(0, round * total + i);
        return builder.build("PUT", `/${BUCKET}/tiny/${round}-${i}`, "", body);
      });
      rates.push(await runLoad(port, 64, total, (i) => puts[i] as WireRequest));
    }
    lines.push({
      name: `PUT 4 KiB durable, 64 clients${suffix}`,
      value: median(rates.map((r) => r.perSecond)),
      unit: "1/s",
      target: ">= 4000",
      note: `p50 ${median(rates.map((r) => r.p50Ms)).toFixed(1)} ms, p99 ${
        median(rates.map((r) => r.p99Ms)).toFixed(1)
      } ms`,
    });
    await server.stop();
  } finally {
    await server.kill();
    await bare.stop();
    await removeData(server.dataDir);
    await removeData(directory);
  }
  return lines;
}

/** Start-up and listings with many objects. `KISEKI_BENCH_OBJECTS` sets how many (1,000,000). */
export async function manyObjects(): Promise<BenchLine[]> {
  const count = Number(Deno.env.get("KISEKI_BENCH_OBJECTS") ?? "1000000");
  const lines: BenchLine[] = [];
  const starts: number[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    const empty = await startServer();
    starts.push(empty.startMs);
    await empty.stop();
    await removeData(empty.dataDir);
  }
  lines.push({
    name: "start-up, empty store",
    value: median(starts),
    unit: "ms",
    target: "<= 400",
  });

  let server = await startServer();
  try {
    const port = Number(new URL(server.s3).port);
    const client = new S3Client(server);
    for (const bucket of ["flat", "dirs"]) await client.createBucket(bucket);
    let builder = new RequestBuilder(server);
    const body = new Uint8Array(1);
    const hash = createHash("sha256").update(body).digest("hex");
    const started = performance.now();
    for (let done = 0; done < count; done += 50_000) {
      builder = new RequestBuilder(server);
      await runLoad(
        port,
        64,
        Math.min(50_000, count - done),
        (i) =>
          builder.build("PUT", `/flat/key-${String(done + i).padStart(9, "0")}`, "", body, hash),
      );
    }
    const seconds = (performance.now() - started) / 1000;
    lines.push({ name: `PUT 1 byte, ${count} keys`, value: count / seconds, unit: "1/s" });
    await runLoad(port, 64, 1_000, (i) => builder.build("PUT", `/dirs/d${i}/key`, "", body, hash));

    const again = performance.now();
    await server.kill();
    server = await startServer({ dataDir: server.dataDir, readyTimeoutMs: 60_000 });
    lines.push({
      name: `start-up after kill -9, ${count} objects`,
      value: server.startMs,
      unit: "ms",
      target: "<= 3000",
      note: `${(performance.now() - again).toFixed(0)} ms with the kill`,
    });
    const fresh = new RequestBuilder(server);
    const freshPort = Number(new URL(server.s3).port);
    const lists = Array.from({ length: 300 }, () => {
      const after = `key-${
        String(Math.floor(Math.random() * Math.max(1, count - 1000))).padStart(9, "0")
      }`;
      return fresh.build(
        "GET",
        "/flat",
        `list-type=2&max-keys=1000&start-after=${uriEncode(after)}`,
      );
    });
    await runLoad(freshPort, 1, 50, (i) => lists[i] as WireRequest);
    const flat = await runLoad(freshPort, 1, 300, (i) => lists[i] as WireRequest);
    lines.push({
      name: `list 1,000 of ${count} flat keys, p99`,
      value: flat.p99Ms,
      unit: "ms",
      target: "<= 10",
      note: `p50 ${flat.p50Ms.toFixed(1)} ms`,
    });
    const walk = fresh.build("GET", "/dirs", "list-type=2&max-keys=1000");
    await runLoad(freshPort, 1, 20, () => walk);
    const dirs = await runLoad(freshPort, 1, 200, () => walk);
    lines.push({
      name: "list 1,000 directories of one key, p99",
      value: dirs.p99Ms,
      unit: "ms",
      target: "<= 30",
      note: `p50 ${dirs.p50Ms.toFixed(1)} ms`,
    });
    await server.stop();
  } finally {
    await server.kill();
    await removeData(server.dataDir);
  }
  return lines;
}

/** All S3 figures. */
export async function s3Bench(): Promise<BenchLine[]> {
  binaryUnderTest();
  return [...await objectRates(1), ...await objectRates(2), ...await manyObjects()];
}

if (import.meta.main) {
  console.log(formatBenchLines(await s3Bench()));
}
