/**
 * The load of `kiseki bench`: phases of one kind of request from many workers for a fixed time,
 * and what came of them.
 */
import { toHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { expectStatus, type S3Client } from "../client/s3_client.ts";
import { UNSIGNED_PAYLOAD } from "../client/signature_v4.ts";

/** Most latencies kept of a phase; later ones replace random earlier ones (reservoir). */
export const MAX_SAMPLES = 1_000_000;

export interface PhaseResult {
  readonly name: string;
  readonly objectBytes: number;
  readonly concurrency: number;
  readonly seconds: number;
  readonly operations: number;
  readonly errors: number;
  /** Of the first error, if any. */
  readonly firstError: string;
  readonly operationsPerSecond: number;
  readonly bytesPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  readonly maxMs: number;
}

/** Latencies in milliseconds. */
export class LatencySamples {
  readonly #samples: number[] = [];
  #seen = 0;
  maxMs = 0;

  add(ms: number): void {
    this.#seen++;
    if (ms > this.maxMs) this.maxMs = ms;
    if (this.#samples.length < MAX_SAMPLES) this.#samples.push(ms);
    else {
      const at = Math.floor(Math.random() * this.#seen);
      if (at < MAX_SAMPLES) this.#samples[at] = ms;
    }
  }

  get count(): number {
    return this.#seen;
  }

  /** The least sample that is not below that share of all (nearest rank); 0 without samples. */
  quantiles(shares: readonly number[]): readonly number[] {
    const sorted = Float64Array.from(this.#samples).sort();
    return shares.map((share) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0);
  }
}

export interface PhaseOptions {
  readonly name: string;
  readonly objectBytes: number;
  readonly concurrency: number;
  readonly seconds: number;
  /** Ends the phase early when it answers true: no more work. */
  readonly exhausted?: () => boolean;
  /** One request. Throws where it fails. */
  readonly operation: () => Promise<void>;
  /** Called a few times a second with operations so far and the share of time that is over. */
  readonly onProgress?: (operations: number, share: number) => void;
}

/** Runs one phase. Errors are counted; a phase without one success throws the first. */
export async function runPhase(options: PhaseOptions): Promise<PhaseResult> {
  const samples = new LatencySamples();
  let errors = 0;
  let firstError: unknown;
  const started = performance.now();
  const end = started + options.seconds * 1000;
  let nextReport = started + 250;
  const worker = async () => {
    while (!(options.exhausted?.() ?? false)) {
      const before = performance.now();
      if (before >= end) return;
      try {
        await options.operation();
        samples.add(performance.now() - before);
      } catch (error) {
        firstError ??= error;
        errors++;
        // A server that is gone fails at once: do not spin.
        if (errors > 1000 && samples.count === 0) return;
      }
      if (before > nextReport) {
        nextReport = before + 250;
        options.onProgress?.(samples.count, (before - started) / (end - started));
      }
    }
  };
  await Promise.all(Array.from({ length: options.concurrency }, worker));
  const seconds = (performance.now() - started) / 1000;
  if (samples.count === 0 && firstError !== undefined) throw firstError;
  const [p50 = 0, p99 = 0, p999 = 0] = samples.quantiles([0.5, 0.99, 0.999]);
  const operations = samples.count;
  return {
    name: options.name,
    objectBytes: options.objectBytes,
    concurrency: options.concurrency,
    seconds: round(seconds),
    operations,
    errors,
    firstError: firstError instanceof Error ? firstError.message : "",
    operationsPerSecond: round(operations / seconds),
    bytesPerSecond: Math.round(operations * options.objectBytes / seconds),
    p50Ms: round(p50),
    p99Ms: round(p99),
    p999Ms: round(p999),
    maxMs: round(samples.maxMs),
  };
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}

export interface BenchOptions {
  readonly client: S3Client;
  readonly bucket: string;
  readonly smallBytes: number;
  readonly largeBytes: number;
  readonly concurrency: number;
  readonly largeConcurrency: number;
  readonly seconds: number;
  /** Leaves the objects where they are. */
  readonly keep: boolean;
  readonly onProgress: (phase: string, operations: number, share: number) => void;
}

/** Puts, gets and deletes small objects, then large ones, under keys of this run alone. */
export async function runBench(options: BenchOptions): Promise<readonly PhaseResult[]> {
  const run = toHex(crypto.getRandomValues(new Uint8Array(4)));
  await options.client.createBucket(options.bucket);
  const results: PhaseResult[] = [];
  const sizes = [
    ["small", options.smallBytes, options.concurrency],
    ["large", options.largeBytes, options.largeConcurrency],
  ] as const;
  for (const [name, bytes, concurrency] of sizes) {
    if (bytes === 0) continue;
    results.push(
      ...await runSize(options, name, `kiseki-bench/${run}/${name}`, bytes, concurrency),
    );
  }
  return results;
}

async function runSize(
  options: BenchOptions,
  name: string,
  prefix: string,
  objectBytes: number,
  concurrency: number,
): Promise<readonly PhaseResult[]> {
  const { client, bucket, seconds } = options;
  const written: string[] = [];
  let next = 0;
  const phase = (verb: string, more: Pick<PhaseOptions, "operation" | "exhausted">) =>
    runPhase({
      name: `${verb} ${name}`,
      objectBytes: verb === "delete" ? 0 : objectBytes,
      concurrency,
      seconds,
      onProgress: (operations, share) => options.onProgress(`${verb} ${name}`, operations, share),
      ...more,
    });
  const bodies = makeBodies(client, objectBytes);
  const results = [
    await phase("put", {
      async operation() {
        const number = next++;
        const key = `${prefix}/${number}`;
        const made = bodies(number);
        const response = await client.request({ method: "PUT", bucket, key, ...made });
        expectStatus(response, key);
        written.push(key);
      },
    }),
  ];
  results.push(
    await phase("get", {
      async operation() {
        const key = written[Math.floor(Math.random() * written.length)] ?? "";
        const response = await client.request({ method: "GET", bucket, key, dropBody: true });
        expectStatus(response, key);
        if (response.bodyBytes !== objectBytes) {
          throw new KisekiError(
            "common.internal",
            `${key}: ${response.bodyBytes} bytes came back of ${objectBytes}`,
          );
        }
      },
    }),
  );
  if (options.keep) return results;
  results.push(
    await phase("delete", {
      exhausted: () => written.length === 0,
      async operation() {
        const key = written.pop();
        if (key !== undefined) await client.delete(bucket, key);
      },
    }),
  );
  // What the time did not suffice for is removed outside the figures.
  await Promise.all(Array.from({ length: concurrency }, async () => {
    for (let key = written.pop(); key !== undefined; key = written.pop()) {
      await client.delete(bucket, key);
    }
  }));
  return results;
}

/**
 * Bodies that no two objects share, so that deduplication saves nothing: a fixed random body with
 * a counter in front of every 4 MiB. Bodies over 1 MiB go unsigned: hashing them would take the
 * time of the server that is measured, where both share a machine.
 */
function makeBodies(client: S3Client, size: number) {
  const base = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536) {
    crypto.getRandomValues(base.subarray(at, Math.min(size, at + 65536)));
  }
  if (size <= 1 << 20) {
    return (number: number) => {
      const body = base.slice();
      if (size >= 4) new DataView(body.buffer).setUint32(0, number, true);
      return { body, payloadHash: client.hash(body) };
    };
  }
  return (number: number) => {
    const body = base.slice();
    for (let at = 0; at + 4 <= size; at += 4 << 20) {
      new DataView(body.buffer).setUint32(at, number, true);
    }
    return { body, payloadHash: UNSIGNED_PAYLOAD };
  };
}
