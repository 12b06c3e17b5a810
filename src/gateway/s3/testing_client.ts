/** Test client: signs requests and calls a handler without a network in between. */
import { type Bytes, concatBytes, EMPTY_BYTES, toHex, utf8 } from "../../common/bytes.ts";
import { SILENT_LOGGER } from "../../common/logging.ts";
import { VirtualClock } from "../../common/clock.ts";
import type { CryptoProvider } from "../../crypto/provider.ts";
import type { Identity } from "../../namespace/identity.ts";
import { createS3Handler, type S3Handler, type S3HandlerOptions } from "./handler.ts";
import { S3Request } from "./request.ts";
import {
  canonicalRequest,
  EMPTY_SHA256,
  formatAmzDate,
  sign,
  signingKey,
  stringToSign,
} from "./sigv4.ts";
import { MemoryNamespaces, tableResolver, testCrypto, testIdentity } from "./testing.ts";

export const ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE";
export const SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
export const OTHER_ACCESS_KEY = "AKIAOTHER";
export const REGION = "us-east-1";

/** A gateway over the fake, with two organisations. */
export interface TestGateway {
  readonly handler: S3Handler;
  readonly namespaces: MemoryNamespaces;
  readonly clock: VirtualClock;
  readonly crypto: CryptoProvider;
  readonly identity: Identity;
  readonly other: Identity;
}

export function testGateway(
  options: Partial<S3HandlerOptions> = {},
  startMs?: number,
  pieceBytes?: number,
): TestGateway {
  const clock = new VirtualClock(startMs);
  const crypto = testCrypto();
  const namespaces = new MemoryNamespaces(crypto, clock, pieceBytes);
  const identity = testIdentity(ACCESS_KEY);
  const other = testIdentity(OTHER_ACCESS_KEY);
  const handler = createS3Handler({
    namespaces,
    credentials: tableResolver(
      new Map([
        [ACCESS_KEY, { secret: SECRET_KEY, identity }],
        [OTHER_ACCESS_KEY, { secret: SECRET_KEY, identity: other }],
      ]),
    ),
    crypto,
    clock,
    region: REGION,
    domains: ["s3.test"],
    logger: SILENT_LOGGER,
    ...options,
  });
  return { handler, namespaces, clock, crypto, identity, other };
}

export interface TestCall {
  readonly method: string;
  /** Raw target: path and query as they stand in the request line. */
  readonly target: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Bytes | string;
  readonly host?: string;
  readonly accessKey?: string;
  readonly secret?: string;
  /** Replaces x-amz-content-sha256. */
  readonly payloadHash?: string;
  /** A body of unknown length (stream). */
  readonly stream?: ReadableStream<Uint8Array>;
}

/** A request whose `url` is exactly the raw target, as a server sees it. */
export function rawRequest(
  method: string,
  host: string,
  target: string,
  headers: Readonly<Record<string, string>>,
  body?: Bytes | ReadableStream<Uint8Array>,
): Request {
  const withBody = method !== "GET" && method !== "HEAD" && body !== undefined;
  const request = new Request(`http://${host}/`, {
    method,
    headers: { host, ...headers },
    ...(withBody ? { body: body as BodyInit, duplex: "half" } as RequestInit : {}),
  });
  Object.defineProperty(request, "url", { value: `http://${host}${target}` });
  return request;
}

/** The headers of a call, with its signature. */
export function signedHeaders(
  gateway: Pick<TestGateway, "clock" | "crypto">,
  call: TestCall,
): Record<string, string> {
  const { crypto, clock } = gateway;
  const host = call.host ?? "localhost:9000";
  const body = typeof call.body === "string" ? utf8(call.body) : call.body ?? EMPTY_BYTES;
  const payloadHash = call.payloadHash ?? toHex(crypto.digest("sha256", body));
  const amzDate = formatAmzDate(clock.wallMs());
  const headers: Record<string, string> = {
    host,
    "x-amz-date": amzDate,
    "x-amz-content-sha256": payloadHash,
    ...(call.method === "GET" || call.method === "HEAD" || call.method === "DELETE" ||
        call.stream !== undefined
      ? {}
      : { "content-length": String(body.length) }),
    ...call.headers,
  };
  const names = Object.keys(headers).filter((name) => name !== "content-length").sort();
  const request = new S3Request(
    rawRequest(call.method, host, call.target, headers),
    [],
  );
  const canonical = canonicalRequest({
    method: call.method,
    rawPath: request.rawPath,
    query: request.query,
    signedHeaders: names,
    header: (name) => request.header(name),
    payloadHash,
  });
  const scope = `${amzDate.slice(0, 8)}/${REGION}/s3/aws4_request`;
  const key = signingKey(crypto, call.secret ?? SECRET_KEY, amzDate.slice(0, 8), REGION, "s3");
  const signature = sign(crypto, key, stringToSign(crypto, amzDate, scope, canonical));
  headers.authorization = `AWS4-HMAC-SHA256 Credential=${
    call.accessKey ?? ACCESS_KEY
  }/${scope}, SignedHeaders=${names.join(";")}, Signature=${signature}`;
  return headers;
}

/** Signs and sends a call. */
export async function send(gateway: TestGateway, call: TestCall): Promise<Response> {
  const headers = signedHeaders(gateway, call);
  const body = typeof call.body === "string" ? utf8(call.body) : call.body;
  return await gateway.handler(
    rawRequest(
      call.method,
      call.host ?? "localhost:9000",
      call.target,
      headers,
      call.stream ?? body,
    ),
  );
}

/** Sends and reads the answer as text; `code` is the error's where there is one. */
export async function ask(
  gateway: TestGateway,
  method: string,
  target: string,
  body?: Bytes | string,
  headers?: Readonly<Record<string, string>>,
): Promise<{ status: number; code: string; text: string; headers: Headers }> {
  const response = await send(gateway, {
    method,
    target,
    ...(body === undefined ? {} : { body }),
    ...(headers === undefined ? {} : { headers }),
  });
  const text = await response.text();
  return {
    status: response.status,
    code: /<Code>([^<]*)<\/Code>/.exec(text)?.[1] ?? "",
    text,
    headers: response.headers,
  };
}

/** A presigned target. */
export function presign(
  gateway: Pick<TestGateway, "clock" | "crypto">,
  method: string,
  target: string,
  expiresSeconds: number,
  host = "localhost:9000",
): string {
  const { crypto, clock } = gateway;
  const amzDate = formatAmzDate(clock.wallMs());
  const scope = `${amzDate.slice(0, 8)}/${REGION}/s3/aws4_request`;
  const unsigned = `${target}${target.includes("?") ? "&" : "?"}` +
    `X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=${
      encodeURIComponent(`${ACCESS_KEY}/${scope}`)
    }&X-Amz-Date=${amzDate}&X-Amz-Expires=${expiresSeconds}&X-Amz-SignedHeaders=host`;
  const request = new S3Request(rawRequest(method, host, unsigned, {}), []);
  const canonical = canonicalRequest({
    method,
    rawPath: request.rawPath,
    query: request.query,
    signedHeaders: ["host"],
    header: (name) => request.header(name),
    payloadHash: "UNSIGNED-PAYLOAD",
  });
  const key = signingKey(crypto, SECRET_KEY, amzDate.slice(0, 8), REGION, "s3");
  return `${unsigned}&X-Amz-Signature=${
    sign(crypto, key, stringToSign(crypto, amzDate, scope, canonical))
  }`;
}

export interface ChunkedBody {
  readonly bytes: Bytes;
  readonly decodedBytes: number;
}

/** An aws-chunked body, signed when `seed` is given. */
export function chunkedBody(
  gateway: Pick<TestGateway, "clock" | "crypto">,
  chunks: readonly Bytes[],
  seed: string | undefined,
  trailer?: readonly [name: string, value: string],
): ChunkedBody {
  const { crypto, clock } = gateway;
  const amzDate = formatAmzDate(clock.wallMs());
  const scope = `${amzDate.slice(0, 8)}/${REGION}/s3/aws4_request`;
  const key = signingKey(crypto, SECRET_KEY, amzDate.slice(0, 8), REGION, "s3");
  let previous = seed ?? "";
  const pieces: Bytes[] = [];
  for (const chunk of [...chunks, EMPTY_BYTES]) {
    let extension = "";
    if (seed !== undefined) {
      const hash = toHex(crypto.digest("sha256", chunk));
      previous = sign(
        crypto,
        key,
        `AWS4-HMAC-SHA256-PAYLOAD\n${amzDate}\n${scope}\n${previous}\n${EMPTY_SHA256}\n${hash}`,
      );
      extension = `;chunk-signature=${previous}`;
    }
    pieces.push(utf8(`${chunk.length.toString(16)}${extension}\r\n`));
    if (chunk.length > 0) pieces.push(chunk, utf8("\r\n"));
  }
  if (trailer !== undefined) {
    pieces.push(utf8(`${trailer[0]}:${trailer[1]}\r\n`));
    if (seed !== undefined) {
      const hash = toHex(crypto.digest("sha256", utf8(`${trailer[0]}:${trailer[1]}\n`)));
      const signature = sign(
        crypto,
        key,
        `AWS4-HMAC-SHA256-TRAILER\n${amzDate}\n${scope}\n${previous}\n${hash}`,
      );
      pieces.push(utf8(`x-amz-trailer-signature:${signature}\r\n`));
    }
  }
  pieces.push(utf8("\r\n"));
  return {
    bytes: concatBytes(...pieces),
    decodedBytes: chunks.reduce((sum, one) => sum + one.length, 0),
  };
}
