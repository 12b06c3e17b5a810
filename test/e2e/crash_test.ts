/**
 * kill -9 at random moments under sixteen writers. After every restart each key must hold the
 * last acknowledged state, or that of a request that was under way when the server died; listings
 * agree with reads; and the server is back by itself in under five seconds.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { seededRandom, testRounds, testSeed } from "../rounds.ts";
import { S3Client } from "./s3_client.ts";
import { removeData, startServer } from "./server.ts";

const WRITERS = 16;
const KEYS_PER_WRITER = 6;
const BUCKET = "crash";
const START_LIMIT_MS = 5_000;
const SIZES = [0, 1, 100, 4_096, 4_097, 65_536, 300_000, 5_000_000];
const PART = 5 << 20;

/** Content is a hash of the body, "" for absent. */
type State = string;

interface Line {
  /** The acknowledged state. */
  settled: State;
  /** States that a request under way at the crash may have left. */
  open: State[];
}

interface Writer {
  readonly lines: Map<string, Line>;
  readonly random: () => number;
  acknowledged: number;
}

function bodyOf(size: number, random: () => number): Uint8Array<ArrayBuffer> {
  const body = new Uint8Array(size);
  const word = Math.floor(random() * 0xffff_ffff);
  for (let i = 0; i < size; i += 4) {
    body[i] = word ^ i;
    body[i + 1] = (word >>> 8) ^ (i >>> 8);
    body[i + 2] = word >>> 16;
    body[i + 3] = (i >>> 16) ^ 0x5a;
  }
  return body;
}

const stateOf = (body: Uint8Array): State => createHash("sha256").update(body).digest("hex");

function pick<T>(items: readonly T[], random: () => number): T {
  return items[Math.floor(random() * items.length)] as T;
}

/** One random operation; the line's states are right whatever happens meanwhile. */
async function step(client: S3Client, writer: Writer): Promise<void> {
  const keys = [...writer.lines.keys()];
  const key = pick(keys, writer.random);
  const line = writer.lines.get(key) as Line;
  const dice = writer.random();
  let next: State;
  let reply: Promise<{ status: number; text(): string }>;
  if (dice < 0.2) {
    next = "";
    reply = client.remove(BUCKET, key);
  } else if (dice < 0.3) {
    const source = pick(keys, writer.random);
    const from = writer.lines.get(source) as Line;
    if (from.settled === "" || source === key) return;
    next = from.settled;
    reply = client.copy(BUCKET, source, key);
  } else if (dice < 0.36) {
    const parts = [
      bodyOf(PART, writer.random),
      bodyOf(1 + Math.floor(writer.random() * 99_999), writer.random),
    ];
    const whole = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    next = stateOf(whole);
    reply = client.multipart(BUCKET, key, parts);
  } else {
    const body = bodyOf(pick(SIZES, writer.random), writer.random);
    next = stateOf(body);
    reply = client.put(BUCKET, key, body);
  }
  line.open.push(next);
  const { status, text } = await reply;
  assert.ok(status === 200 || status === 204, `unexpected answer ${status}: ${text()}`);
  line.settled = next;
  line.open = [];
  writer.acknowledged++;
}

async function verify(client: S3Client, writers: readonly Writer[]): Promise<void> {
  const listed = new Set(await client.listKeys(BUCKET, "", 37));
  await Promise.all(writers.map(async (writer) => {
    for (const [key, line] of writer.lines) {
      const reply = await client.get(BUCKET, key);
      let found: State;
      if (reply.status === 404) found = "";
      else {
        assert.equal(reply.status, 200, `GET ${key}: ${reply.status} ${reply.text()}`);
        found = stateOf(reply.body);
      }
      assert.ok(
        found === line.settled || line.open.includes(found),
        `${key}: found ${found || "nothing"}, acknowledged ${
          line.settled || "nothing"
        }, open ${line.open.length}`,
      );
      assert.equal(listed.has(key), found !== "", `${key}: the listing disagrees with the read`);
      line.settled = found;
      line.open = [];
    }
  }));
}

Deno.test("every acknowledged state survives kill -9", async () => {
  const random = seededRandom(testSeed("crash test"));
  const rounds = testRounds(200);
  const dataDir = await Deno.makeTempDir({ prefix: "kiseki-crash-" });
  const writers: Writer[] = Array.from({ length: WRITERS }, (_, w) => ({
    lines: new Map(
      Array.from({ length: KEYS_PER_WRITER }, (_, k): [string, Line] => [
        `w${w}/${k % 2 === 0 ? "a" : "b/c"}/key-${k}`,
        { settled: "", open: [] },
      ]),
    ),
    random: seededRandom(Math.floor(random() * 2 ** 31)),
    acknowledged: 0,
  }));
  let slowest = 0;
  try {
    for (let round = 0; round < rounds; round++) {
      const server = await startServer({ dataDir });
      slowest = Math.max(slowest, server.startMs);
      const client = new S3Client(server);
      try {
        if (round === 0) assert.equal((await client.createBucket(BUCKET)).status, 200);
        await verify(client, writers);
        let dying = false;
        const work = Promise.all(writers.map(async (writer) => {
          while (!dying) {
            try {
              await step(client, writer);
            } catch (error) {
              // A connection that broke because the server was killed leaves the line open.
              if (!dying || !(error instanceof TypeError)) throw error;
            }
          }
        }));
        const failed = work.catch((error: unknown) => error);
        await new Promise((resolve) => setTimeout(resolve, 50 + random() * 700));
        dying = true;
        await server.kill();
        const error = await failed;
        if (error instanceof Error) throw error;
      } catch (error) {
        await server.kill();
        throw new Error(`round ${round}; the server's log:\n${server.log().slice(-4000)}`, {
          cause: error,
        });
      }
    }
    const server = await startServer({ dataDir });
    await verify(new S3Client(server), writers);
    assert.equal(await server.stop(), 0);
  } finally {
    await removeData(dataDir);
  }
  const acknowledged = writers.reduce((n, w) => n + w.acknowledged, 0);
  console.log(
    `${rounds} rounds, ${acknowledged} acknowledged operations, slowest start ${
      slowest.toFixed(0)
    } ms`,
  );
  assert.ok(acknowledged > rounds * WRITERS / 4, "the writers hardly wrote");
  assert.ok(slowest < START_LIMIT_MS, `a start took ${slowest.toFixed(0)} ms`);
});
