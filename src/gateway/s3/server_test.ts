/** The gateway behind a real `Deno.serve`: what only a socket shows. */
import assert from "node:assert/strict";
import { type Bytes, concatBytes, utf8 } from "../../common/bytes.ts";
import { ask, signedHeaders, type TestGateway, testGateway } from "./testing_client.ts";

interface Served {
  readonly gateway: TestGateway;
  readonly host: string;
  /** Sends raw bytes and reads until the server closes or `enough` holds. */
  exchange(request: readonly Bytes[], enough?: (text: string) => boolean): Promise<string>;
  connect(): Promise<Deno.TcpConn>;
}

async function serving(use: (served: Served) => Promise<void>): Promise<void> {
  const gateway = testGateway({}, undefined, 65536);
  await ask(gateway, "PUT", "/bucket");
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, gateway.handler);
  const port = server.addr.port;
  const connect = (): Promise<Deno.TcpConn> => Deno.connect({ hostname: "127.0.0.1", port });
  try {
    await use({
      gateway,
      host: `127.0.0.1:${port}`,
      connect,
      async exchange(request, enough = () => false) {
        const connection = await connect();
        try {
          for (const bytes of request) await writeAll(connection, bytes);
          return await readUntil(connection, enough);
        } finally {
          connection.close();
        }
      },
    });
  } finally {
    await server.shutdown();
  }
}

async function writeAll(connection: Deno.TcpConn, bytes: Bytes): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await connection.write(bytes.subarray(at));
}

/** Text until the server closes or `enough` holds. */
async function readUntil(
  connection: Deno.TcpConn,
  enough: (text: string) => boolean,
): Promise<string> {
  let text = "";
  const buffer = new Uint8Array(65536);
  while (!enough(text)) {
    const n = await connection.read(buffer);
    if (n === null) break;
    text += new TextDecoder("latin1").decode(buffer.subarray(0, n));
  }
  return text;
}

function head(
  served: Served,
  method: string,
  target: string,
  body: Bytes,
  more: Readonly<Record<string, string>> = {},
  unsignedMore: readonly string[] = [],
): Bytes {
  const headers = signedHeaders(served.gateway, {
    method,
    target,
    host: served.host,
    headers: more,
    payloadHash: "UNSIGNED-PAYLOAD",
  });
  delete headers["content-length"];
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  if (method === "PUT") lines.push(`content-length: ${body.length}`);
  return utf8([`${method} ${target} HTTP/1.1`, ...lines, ...unsignedMore, "", ""].join("\r\n"));
}

/** Waits until the event loop has let it come true. */
async function eventually(holds: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.fail(`never: ${what}`);
}

Deno.test("raw paths, Content-Length of HEAD and kept connections work over a socket", async () => {
  await serving(async (served) => {
    const close = ["connection: close"];
    const body = utf8("content");
    const target = "/bucket/a/../b//%2e%2E/./x+y%20z";
    const put = await served.exchange([head(served, "PUT", target, body, {}, close), body]);
    assert.match(put, /^HTTP\/1\.1 200 /);
    const version = await served.gateway.namespaces.headObject(
      served.gateway.identity,
      "bucket",
      "a/../b//../" + "./x+y z",
    );
    assert.equal(version.sizeBytes, 7);
    const none = new Uint8Array(0);
    const two = concatBytes(
      head(served, "HEAD", target, none),
      head(served, "GET", "/bucket/absent", none),
      head(served, "GET", target, none, {}, close),
    );
    const answers = await served.exchange([two]);
    assert.match(answers, /^HTTP\/1\.1 200 OK\r\n[\s\S]*content-length: 7\r\n/);
    assert.match(answers, /HTTP\/1\.1 404 [\s\S]*NoSuchKey/);
    assert.match(answers, /\r\n\r\ncontent$/);
  });
});

Deno.test("a client that expects 100-continue is told to go on, and refused after its body", async () => {
  await serving(async (served) => {
    const body = utf8("content");
    const expect = ["expect: 100-continue"];
    for (const [target, answer] of [["/bucket/key", "200"], ["/absent/key", "404"]] as const) {
      const connection = await served.connect();
      try {
        await writeAll(connection, head(served, "PUT", target, body, {}, expect));
        const first = await readUntil(connection, (text) => text.includes("100 Continue\r\n\r\n"));
        assert.match(first, /^HTTP\/1\.1 100 Continue/);
        await writeAll(connection, body);
        const then = await readUntil(connection, (text) => text.includes("x-amz-request-id"));
        assert.match(then, new RegExp(`^HTTP/1\\.1 ${answer} `));
      } finally {
        connection.close();
      }
    }
  });
});

Deno.test("a connection lost in the middle of a PUT leaves nothing", async () => {
  await serving(async (served) => {
    const body = new Uint8Array(4 << 20);
    const connection = await served.connect();
    await writeAll(connection, head(served, "PUT", "/bucket/key", body));
    await writeAll(connection, body.subarray(0, 300_000));
    const { writers } = served.gateway.namespaces;
    await eventually(() => writers.length === 1, "the body is being taken");
    connection.close();
    await eventually(() => writers[0]?.aborted === true, "the writer is aborted");
    const answer = await ask(served.gateway, "HEAD", "/bucket/key");
    assert.equal(answer.status, 404);
  });
});

Deno.test("a connection lost in the middle of a GET ends the stream", async () => {
  await serving(async (served) => {
    await ask(served.gateway, "PUT", "/bucket/big", new Uint8Array(32 << 20));
    const open = served.gateway.namespaces.openObject.bind(served.gateway.namespaces);
    let released = false;
    served.gateway.namespaces.openObject = async (...args) => {
      const handle = await open(...args);
      return {
        ...handle,
        async *read(offset: number, length: number): AsyncGenerator<Bytes> {
          try {
            yield* handle.read(offset, length);
          } finally {
            released = true;
          }
        },
      };
    };
    const text = await served.exchange(
      [head(served, "GET", "/bucket/big", new Uint8Array(0))],
      (got) => got.length > 100_000,
    );
    assert.match(text, /^HTTP\/1\.1 200 OK\r\n[\s\S]*content-length: 33554432\r\n/);
    await eventually(() => released, "the reader is released");
  });
});

Deno.test("content that breaks while it is sent breaks the connection, never ends early as whole", async () => {
  await serving(async (served) => {
    await ask(served.gateway, "PUT", "/bucket/big", new Uint8Array(1 << 20));
    const open = served.gateway.namespaces.openObject.bind(served.gateway.namespaces);
    served.gateway.namespaces.openObject = async (...args) => {
      const handle = await open(...args);
      return {
        ...handle,
        async *read(): AsyncGenerator<Bytes> {
          yield new Uint8Array(100_000);
          throw new Error("a fragment is gone");
        },
      };
    };
    const text = await served.exchange([
      head(served, "GET", "/bucket/big", new Uint8Array(0), {}, ["connection: close"]),
    ]);
    assert.match(text, /content-length: 1048576\r\n/);
    assert.ok(text.length < 1 << 20);
  });
});
