/**
 * A large object in constant memory: 20 GiB at full count, streamed in and out.
 */
import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import type { Buffer } from "node:buffer";
import { testRounds } from "../rounds.ts";
import { S3Client } from "./s3_client.ts";
import { removeData, startServer, type TestServer } from "./server.ts";

const GIB = 2 ** 30;
const RESIDENT_LIMIT_BYTES = 600 * 2 ** 20;
/** Parts of one upload, as aws-cli would cut it. */
const PART_BYTES = GIB;

/** A block whose content depends on its place, so that swapped pieces are noticed. */
function block(into: Uint8Array<ArrayBuffer>, place: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(into.buffer);
  let state = (place * 2654435761) >>> 0;
  for (let i = 0; i < words.length; i += 16) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = state;
  }
  return into;
}

/** UNSIGNED-PAYLOAD put of a stream, because a signed one wants the hash first. */
async function putStream(
  server: TestServer,
  path: string,
  query: string,
  firstBlock: number,
  size: number,
): Promise<{ status: number; etag: string; answer: string }> {
  const host = new URL(server.s3).host;
  const date = new Date().toISOString().replace(/[-:]|\.\d{3}/g, "");
  const scope = `${date.slice(0, 8)}/us-east-1/s3/aws4_request`;
  const canonical =
    `PUT\n${path}\n${query}\nhost:${host}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:${date}\n\nhost;x-amz-content-sha256;x-amz-date\nUNSIGNED-PAYLOAD`;
  let key: Buffer | string = `AWS4${server.secretAccessKey}`;
  for (const part of [date.slice(0, 8), "us-east-1", "s3", "aws4_request"]) {
    key = createHmac("sha256", key).update(part).digest();
  }
  const signature = createHmac("sha256", key).update(
    `AWS4-HMAC-SHA256\n${date}\n${scope}\n${createHash("sha256").update(canonical).digest("hex")}`,
  ).digest("hex");
  // `fetch` sends streams without a length, which S3 refuses: a connection of our own.
  const { hostname, port } = new URL(server.s3);
  using socket = await Deno.connect({ hostname, port: Number(port) });
  const send = async (bytes: Uint8Array): Promise<void> => {
    for (let at = 0; at < bytes.length;) at += await socket.write(bytes.subarray(at));
  };
  await send(new TextEncoder().encode(
    `PUT ${path}?${query} HTTP/1.1\r\nhost: ${host}\r\ncontent-length: ${size}\r\n` +
      `x-amz-date: ${date}\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\nconnection: close\r\n` +
      `authorization: AWS4-HMAC-SHA256 Credential=${server.accessKeyId}/${scope}, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=${signature}\r\n\r\n`,
  ));
  const buffer = new Uint8Array(1 << 20);
  for (let sent = 0; sent < size; sent += buffer.length) {
    await send(block(buffer.fill(0), firstBlock + (sent >> 20)));
  }
  let answer = "";
  const decoder = new TextDecoder();
  while (true) {
    const n = await socket.read(buffer);
    if (n === null) break;
    answer += decoder.decode(buffer.subarray(0, n), { stream: true });
  }
  return {
    status: Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1]),
    etag: /\r\netag: *([^\r]*)\r/i.exec(answer)?.[1] ?? "",
    answer,
  };
}

Deno.test("a 20 GiB object streams through constant memory", async () => {
  const parts = Math.max(2, testRounds(20));
  const server = await startServer();
  let peak = 0;
  const watch = setInterval(async () => {
    peak = Math.max(peak, await server.residentBytes());
  }, 200);
  try {
    const client = new S3Client(server);
    await client.createBucket("large");
    const created = await client.send({
      method: "POST",
      bucket: "large",
      key: "object",
      query: { uploads: "" },
    });
    const uploadId = /<UploadId>([^<]*)</.exec(created.text())?.[1] ?? "";
    const etags: string[] = [];
    const started = performance.now();
    for (let part = 0; part < parts; part++) {
      const reply = await putStream(
        server,
        "/large/object",
        `partNumber=${part + 1}&uploadId=${encodeURIComponent(uploadId)}`,
        part * 1024,
        PART_BYTES,
      );
      assert.equal(reply.status, 200, reply.answer);
      etags.push(reply.etag);
    }
    const written = performance.now();
    const done = await client.send({
      method: "POST",
      bucket: "large",
      key: "object",
      query: { uploadId },
      body: `<CompleteMultipartUpload>${
        etags.map((etag, i) => `<Part><PartNumber>${i + 1}</PartNumber><ETag>${etag}</ETag></Part>`)
          .join("")
      }</CompleteMultipartUpload>`,
    });
    assert.equal(done.status, 200, done.text());

    const url = await presignedGet(server, "/large/object");
    const response = await fetch(url);
    assert.equal(response.status, 200);
    assert.equal(Number(response.headers.get("content-length")), parts * GIB);
    const expected = new Uint8Array(1 << 20);
    let at = 0;
    assert.ok(response.body !== null);
    for await (const piece of response.body) {
      for (let used = 0; used < piece.length;) {
        if (at % (1 << 20) === 0) block(expected.fill(0), at >> 20);
        const n = Math.min(piece.length - used, (1 << 20) - (at % (1 << 20)));
        const from = at % (1 << 20);
        const same = indexedEqual(piece, used, expected, from, n);
        assert.ok(same, `bytes differ near ${at}`);
        at += n;
        used += n;
      }
    }
    assert.equal(at, parts * GIB);
    const read = performance.now();
    console.log(
      `${parts} GiB: written at ${
        (parts * 1024 / (written - started) * 1000).toFixed(0)
      } MiB/s, read at ${
        (parts * 1024 / (read - written) * 1000).toFixed(0)
      } MiB/s, peak resident ${(peak / 2 ** 20).toFixed(0)} MiB`,
    );
    assert.ok(peak < RESIDENT_LIMIT_BYTES, `resident memory rose to ${peak}`);
    assert.equal(await server.stop(), 0);
  } finally {
    clearInterval(watch);
    await server.kill();
    await removeData(server.dataDir);
  }
});

function indexedEqual(a: Uint8Array, aAt: number, b: Uint8Array, bAt: number, n: number): boolean {
  for (let i = 0; i < n; i++) if (a[aAt + i] !== b[bAt + i]) return false;
  return true;
}

/** A presigned GET, written from the SigV4 documentation. */
function presignedGet(server: TestServer, path: string): string {
  const host = new URL(server.s3).host;
  const date = new Date().toISOString().replace(/[-:]|\.\d{3}/g, "");
  const scope = `${date.slice(0, 8)}/us-east-1/s3/aws4_request`;
  const query = [
    "X-Amz-Algorithm=AWS4-HMAC-SHA256",
    `X-Amz-Credential=${encodeURIComponent(`${server.accessKeyId}/${scope}`)}`,
    `X-Amz-Date=${date}`,
    "X-Amz-Expires=600",
    "X-Amz-SignedHeaders=host",
  ].join("&");
  const canonical = `GET\n${path}\n${query}\nhost:${host}\n\nhost\nUNSIGNED-PAYLOAD`;
  let key: Buffer | string = `AWS4${server.secretAccessKey}`;
  for (const part of [date.slice(0, 8), "us-east-1", "s3", "aws4_request"]) {
    key = createHmac("sha256", key).update(part).digest();
  }
  const signature = createHmac("sha256", key).update(
    `AWS4-HMAC-SHA256\n${date}\n${scope}\n${createHash("sha256").update(canonical).digest("hex")}`,
  ).digest("hex");
  return `${server.s3}${path}?${query}&X-Amz-Signature=${signature}`;
}
