import assert from "node:assert/strict";
import { testProvider } from "../../test/providers.ts";
import { utf8 } from "../common/bytes.ts";
import { isKisekiError } from "../common/errors.ts";
import { S3Client } from "./s3_client.ts";
import { EMPTY_PAYLOAD_HASH, encodeUri, SignerV4, type UnsignedRequest } from "./signature_v4.ts";

const CREDENTIAL = {
  accessKeyId: "AKIAIOSFODNN7EXAMPLE",
  secretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
};

Deno.test("signatures are those that AWS published", () => {
  const signer = new SignerV4(CREDENTIAL, "us-east-1", testProvider());
  const date = "20130524T000000Z";
  const base = { host: "examplebucket.s3.amazonaws.com", "x-amz-date": date };
  const empty = { "x-amz-content-sha256": EMPTY_PAYLOAD_HASH };
  const putHash = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
  const vectors: readonly (readonly [UnsignedRequest, string])[] = [
    [
      {
        method: "GET",
        path: "/test.txt",
        query: [],
        headers: { ...base, ...empty, range: "bytes=0-9" },
        payloadHash: EMPTY_PAYLOAD_HASH,
      },
      "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    ],
    [
      {
        method: "PUT",
        path: "/test%24file.text",
        query: [],
        headers: {
          ...base,
          date: "Fri, 24 May 2013 00:00:00 GMT",
          "x-amz-content-sha256": putHash,
          "x-amz-storage-class": "REDUCED_REDUNDANCY",
        },
        payloadHash: putHash,
      },
      "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    ],
    [
      {
        method: "GET",
        path: "/",
        query: [["lifecycle", ""]],
        headers: { ...base, ...empty },
        payloadHash: EMPTY_PAYLOAD_HASH,
      },
      "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    ],
    [
      {
        method: "GET",
        path: "/",
        query: [["max-keys", "2"], ["prefix", "J"]],
        headers: { ...base, ...empty },
        payloadHash: EMPTY_PAYLOAD_HASH,
      },
      "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    ],
  ];
  for (const [request, expected] of vectors) {
    const header = signer.authorization(request, date);
    assert.ok(header.endsWith(`Signature=${expected}`), header);
  }
  assert.equal(encodeUri("a b/ü~*'", true), "a%20b/%C3%BC~%2A%27");
});

interface Fake {
  readonly endpoint: string;
  readonly accepted: () => number;
}

/** A server that answers each request of each connection with the next of `answers`. */
async function withAnswers(
  answers: readonly (string | "close")[],
  use: (fake: Fake) => Promise<void>,
): Promise<void> {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  let accepted = 0;
  let next = 0;
  const connections: Promise<void>[] = [];
  const serve = async (conn: Deno.Conn) => {
    const buffer = new Uint8Array(65536);
    try {
      while (await conn.read(buffer) !== null) {
        const answer = answers[next++] ?? "close";
        if (answer === "close") break;
        for (let at = 0; at < answer.length; at += 7) {
          await conn.write(utf8(answer.slice(at, at + 7)));
        }
      }
    } finally {
      conn.close();
    }
  };
  const accepting = (async () => {
    for await (const conn of listener) {
      accepted++;
      connections.push(serve(conn));
    }
  })();
  try {
    await use({
      endpoint: `http://127.0.0.1:${listener.addr.port}`,
      accepted: () => accepted,
    });
  } finally {
    listener.close();
    await accepting;
    await Promise.all(connections);
  }
}

function client(endpoint: string, connections = 1): S3Client {
  return new S3Client({ endpoint, credential: CREDENTIAL, crypto: testProvider(), connections });
}

Deno.test("bodies come by length, in chunks and to the end, over one socket where it can", async () => {
  const answers = [
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" +
    "5;x=y\r\nhello\r\n6\r\n world\r\n0\r\ntrailer: 1\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nend",
  ];
  await withAnswers(answers, async ({ endpoint, accepted }) => {
    const s3 = client(endpoint);
    const text = (body: Uint8Array) => new TextDecoder().decode(body);
    assert.equal(text((await s3.get("b", "k")).body), "hello");
    assert.equal(text((await s3.get("b", "k")).body), "hello world");
    await s3.delete("b", "k");
    assert.equal((await s3.head("b", "k")).headers.get("content-length"), "99");
    const dropped = await s3.request({ method: "GET", bucket: "b", key: "k", dropBody: true });
    assert.deepEqual([dropped.bodyBytes, dropped.body.length], [3, 0]);
    assert.equal(accepted(), 1);
    s3.close();
  });
});

Deno.test("a read is sent again when a kept socket was closed, a write is not", async () => {
  const ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
  await withAnswers([ok, "close", ok, "close"], async ({ endpoint, accepted }) => {
    const s3 = client(endpoint);
    await s3.get("b", "k");
    await s3.get("b", "k");
    assert.equal(accepted(), 2);
    await assert.rejects(
      s3.put("b", "k", utf8("x")),
      (error) => isKisekiError(error, "common.unavailable"),
    );
    s3.close();
  });
});

Deno.test("a refusal carries S3's code; an answer that is none is an error", async () => {
  const body = "<Error><Code>NoSuchKey</Code><Message>no &lt;key&gt;</Message></Error>";
  const answers = [
    `HTTP/1.1 404 Not Found\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    "SSH-2.0-OpenSSH\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
  ];
  await withAnswers(answers, async ({ endpoint }) => {
    const s3 = client(endpoint);
    await assert.rejects(s3.get("b", "k"), (error) => {
      assert.ok(isKisekiError(error, "common.not_found"));
      assert.equal(error.details["s3Code"], "NoSuchKey");
      assert.match(error.message, /no <key>/);
      return true;
    });
    for (let i = 0; i < 3; i++) {
      await assert.rejects(
        s3.get("b", "k"),
        (error) => isKisekiError(error, "common.corrupt_format"),
      );
    }
    s3.close();
  });
});

Deno.test("listings are read with their escapes", async () => {
  const xml = "<ListBucketResult><Contents><Key>a+b%2Fc%26</Key><Size>7</Size>" +
    "<ETag>&quot;abc&quot;</ETag></Contents><CommonPrefixes><Prefix>d%2F</Prefix>" +
    "</CommonPrefixes><NextContinuationToken>t&amp;1</NextContinuationToken></ListBucketResult>";
  const answer = `HTTP/1.1 200 OK\r\ncontent-length: ${xml.length}\r\n\r\n${xml}`;
  await withAnswers([answer], async ({ endpoint }) => {
    const s3 = client(endpoint);
    assert.deepEqual(await s3.list("b", { prefix: "" }), {
      objects: [{ key: "a b/c&", size: 7, etag: "abc" }],
      prefixes: ["d/"],
      next: "t&1",
    });
    s3.close();
  });
});

Deno.test("requests beyond the number of sockets wait for one", async () => {
  const ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
  await withAnswers(Array(50).fill(ok), async ({ endpoint, accepted }) => {
    const s3 = client(endpoint, 4);
    await Promise.all(Array.from({ length: 50 }, (_, i) => s3.get("b", `k${i}`)));
    assert.ok(accepted() <= 4, String(accepted()));
    s3.close();
  });
});

Deno.test("an endpoint that is none, or where nobody listens, is said", async () => {
  assert.throws(() => client("ftp://x"), /allowed: http:\/\/HOST:PORT/);
  await assert.rejects(
    client("http://127.0.0.1:1").get("b", "k"),
    (error) => isKisekiError(error, "common.unavailable"),
  );
});
