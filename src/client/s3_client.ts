/**
 * A small S3 client: signed put, get, head, delete, list and buckets over keep-alive sockets. The
 * load generator of `kiseki bench`, and what our own programs speak S3 with.
 *
 * Invariants: at most `connections` sockets are open, each with one request; a request is sent
 * again only when it reads (GET, HEAD) and a kept socket was closed before a byte came back.
 */
import { toHex, utf8ToString } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import { HttpConnection, type HttpResponse, type HttpTarget } from "./http_connection.ts";
import {
  amzDate,
  EMPTY_PAYLOAD_HASH,
  encodeQuery,
  encodeUri,
  type Query,
  SignerV4,
  type SigningCredential,
  type UnsignedRequest,
} from "./signature_v4.ts";

export interface S3ClientOptions {
  /** http://host:port or https://... */
  readonly endpoint: string;
  readonly credential: SigningCredential;
  /** Default us-east-1. */
  readonly region?: string;
  readonly crypto: CryptoProvider;
  /** Most sockets. Default 64. */
  readonly connections?: number;
}

export interface S3Request {
  readonly method: string;
  readonly bucket?: string;
  readonly key?: string;
  readonly query?: Query;
  /** Names in lower case; all are signed. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  /** Hex SHA-256 of the body or UNSIGNED-PAYLOAD; computed when absent. */
  readonly payloadHash?: string;
  /** Counts the response's body and drops it. */
  readonly dropBody?: boolean;
}

export interface ListedObject {
  readonly key: string;
  readonly size: number;
  readonly etag: string;
}

export interface ListedPage {
  readonly objects: readonly ListedObject[];
  readonly prefixes: readonly string[];
  readonly next?: string;
}

export class S3Client {
  readonly #target: HttpTarget;
  readonly #host: string;
  readonly #signer: SignerV4;
  readonly #crypto: CryptoProvider;
  readonly #connections: number;
  readonly #idle: HttpConnection[] = [];
  readonly #waiting: (() => void)[] = [];
  #open = 0;
  #closed = false;
  #date = { second: 0, text: "" };

  /** @throws KisekiError `common.invalid_argument` for an endpoint that is none. */
  constructor(options: S3ClientOptions) {
    this.#target = parseEndpoint(options.endpoint);
    this.#host = hostHeader(this.#target);
    this.#crypto = options.crypto;
    this.#signer = new SignerV4(
      options.credential,
      options.region ?? "us-east-1",
      options.crypto,
    );
    this.#connections = options.connections ?? 64;
  }

  /** Hex SHA-256, for {@link S3Request.payloadHash}. */
  hash(body: Uint8Array): string {
    return toHex(this.#crypto.digest("sha256", body));
  }

  /** Sends a request and gives whatever the server answered. @throws KisekiError on no answer. */
  async request(request: S3Request): Promise<HttpResponse> {
    const head = this.#head(request);
    const { body, dropBody, method } = request;
    const headOnly = method === "HEAD";
    const call = {
      head,
      headOnly,
      dropBody: dropBody === true,
      ...(body === undefined ? {} : { body }),
    };
    while (true) {
      const kept = await this.#acquire();
      const { connection } = kept;
      try {
        return await connection.request(call);
      } catch (error) {
        const reads = method === "GET" || headOnly;
        if (!(reads && kept.reused && !connection.received)) throw error;
      } finally {
        this.#release(connection);
      }
    }
  }

  async createBucket(bucket: string): Promise<void> {
    const response = await this.request({ method: "PUT", bucket });
    const ours = response.status === 409 &&
      utf8ToString(response.body).includes("BucketAlreadyOwnedByYou");
    if (!ours) expectStatus(response, `bucket ${bucket}`);
  }

  async deleteBucket(bucket: string): Promise<void> {
    expectStatus(await this.request({ method: "DELETE", bucket }), `bucket ${bucket}`);
  }

  /** @returns the ETag without quotes. */
  async put(
    bucket: string,
    key: string,
    body: Uint8Array,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<string> {
    const response = await this.request({ method: "PUT", bucket, key, body, headers });
    expectStatus(response, key);
    return (response.headers.get("etag") ?? "").replaceAll('"', "");
  }

  async get(
    bucket: string,
    key: string,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<HttpResponse> {
    const response = await this.request({ method: "GET", bucket, key, headers });
    expectStatus(response, key);
    return response;
  }

  async head(bucket: string, key: string): Promise<HttpResponse> {
    const response = await this.request({ method: "HEAD", bucket, key });
    expectStatus(response, key);
    return response;
  }

  async delete(bucket: string, key: string): Promise<void> {
    expectStatus(await this.request({ method: "DELETE", bucket, key }), key);
  }

  /** One page of at most 1,000 keys. */
  async list(
    bucket: string,
    options: {
      readonly prefix?: string;
      readonly delimiter?: string;
      readonly token?: string;
      readonly limit?: number;
    } = {},
  ): Promise<ListedPage> {
    const query: [string, string][] = [["list-type", "2"], ["encoding-type", "url"]];
    if (options.prefix !== undefined) query.push(["prefix", options.prefix]);
    if (options.delimiter !== undefined) query.push(["delimiter", options.delimiter]);
    if (options.token !== undefined) query.push(["continuation-token", options.token]);
    if (options.limit !== undefined) query.push(["max-keys", String(options.limit)]);
    const response = await this.request({ method: "GET", bucket, query });
    expectStatus(response, `bucket ${bucket}`);
    return parseListing(utf8ToString(response.body));
  }

  /** Closes idle sockets; those in use close when their request ends. */
  close(): void {
    this.#closed = true;
    for (const connection of this.#idle.splice(0)) connection.close();
  }

  #head(request: S3Request): string {
    const { method, bucket, key, query = [], body } = request;
    const path = bucket === undefined
      ? "/"
      : `/${encodeUri(bucket, false)}${key === undefined ? "" : `/${encodeUri(key, true)}`}`;
    const payloadHash = request.payloadHash ??
      (body === undefined || body.length === 0 ? EMPTY_PAYLOAD_HASH : this.hash(body));
    const date = this.#now();
    const unsigned: UnsignedRequest = {
      method,
      path,
      query,
      payloadHash,
      headers: {
        ...request.headers,
        host: this.#host,
        "x-amz-content-sha256": payloadHash,
        "x-amz-date": date,
      },
    };
    const authorization = this.#signer.authorization(unsigned, date);
    const encodedQuery = encodeQuery(query);
    let head = `${method} ${path}${encodedQuery === "" ? "" : `?${encodedQuery}`} HTTP/1.1\r\n`;
    for (const [name, value] of Object.entries(unsigned.headers)) head += `${name}: ${value}\r\n`;
    head += `authorization: ${authorization}\r\n`;
    if (body !== undefined || method === "PUT" || method === "POST") {
      head += `content-length: ${body?.length ?? 0}\r\n`;
    }
    return `${head}\r\n`;
  }

  #now(): string {
    const ms = Date.now();
    const second = Math.floor(ms / 1000);
    if (this.#date.second !== second) this.#date = { second, text: amzDate(ms) };
    return this.#date.text;
  }

  async #acquire(): Promise<{ readonly connection: HttpConnection; readonly reused: boolean }> {
    if (this.#closed) throw new KisekiError("common.cancelled", "this client is closed");
    const idle = this.#idle.pop();
    if (idle !== undefined) return { connection: idle, reused: true };
    if (this.#open >= this.#connections) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
      return await this.#acquire();
    }
    this.#open++;
    try {
      return { connection: await HttpConnection.open(this.#target), reused: false };
    } catch (error) {
      this.#open--;
      this.#waiting.shift()?.();
      throw error;
    }
  }

  #release(connection: HttpConnection): void {
    if (connection.usable && !this.#closed) this.#idle.push(connection);
    else {
      connection.close();
      this.#open--;
    }
    this.#waiting.shift()?.();
  }
}

function parseEndpoint(endpoint: string): HttpTarget {
  const match = /^(https?):\/\/(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?\/?$/
    .exec(endpoint);
  const tls = match?.[1] === "https";
  const port = Number(match?.[4] ?? (tls ? 443 : 80));
  if (match === null || port === 0 || port > 65535) {
    throw new KisekiError(
      "common.invalid_argument",
      `endpoint: found ${JSON.stringify(endpoint.slice(0, 200))}; allowed: http://HOST:PORT`,
    );
  }
  return { host: match[2] ?? match[3] ?? "", port, tls };
}

function hostHeader(target: HttpTarget): string {
  const host = target.host.includes(":") ? `[${target.host}]` : target.host;
  return target.port === (target.tls ? 443 : 80) ? host : `${host}:${target.port}`;
}

/** @throws KisekiError with the S3 code in `details.s3Code` unless the status is 2xx. */
export function expectStatus(response: HttpResponse, what: string): void {
  const { status } = response;
  if (status >= 200 && status < 300) return;
  const text = new TextDecoder().decode(response.body);
  const s3Code = /<Code>([A-Za-z0-9]{1,64})<\/Code>/.exec(text)?.[1] ?? "";
  const message = /<Message>([^<]{0,500})<\/Message>/.exec(text)?.[1] ?? "";
  const code = status === 401 || status === 403
    ? "common.permission_denied"
    : status === 404
    ? "common.not_found"
    : status === 503
    ? "common.unavailable"
    : status === 412 || status === 409
    ? "common.failed_precondition"
    : "common.internal";
  throw new KisekiError(
    code,
    `${what}: the server answered ${status} ${s3Code} ${unescapeXml(message)}`.trimEnd(),
    { details: { status, s3Code }, retriable: status === 503 },
  );
}

/** Reads a ListObjectsV2 answer with url-encoded keys. */
function parseListing(xml: string): ListedPage {
  const objects = [...xml.matchAll(/<Contents>(.*?)<\/Contents>/gs)].map(([, body = ""]) => ({
    key: decodeKey(element(body, "Key")),
    size: Number(element(body, "Size")),
    etag: unescapeXml(element(body, "ETag")).replaceAll('"', ""),
  }));
  const prefixes = [...xml.matchAll(/<CommonPrefixes>(.*?)<\/CommonPrefixes>/gs)]
    .map(([, body = ""]) => decodeKey(element(body, "Prefix")));
  const next = element(xml, "NextContinuationToken");
  return { objects, prefixes, ...(next === "" ? {} : { next: unescapeXml(next) }) };
}

function element(xml: string, name: string): string {
  return new RegExp(`<${name}>(.*?)</${name}>`, "s").exec(xml)?.[1] ?? "";
}

/** Url-encoding of keys in listings writes a space as "+". */
function decodeKey(text: string): string {
  return decodeURIComponent(unescapeXml(text).replaceAll("+", "%20"));
}

function unescapeXml(text: string): string {
  return text.replaceAll(/&(?:lt|gt|quot|apos|amp|#([0-9]+)|#x([0-9A-Fa-f]+));/g, (whole, ...m) => {
    const [decimal, hex] = m as (string | undefined)[];
    if (decimal !== undefined) return String.fromCodePoint(Number(decimal));
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
    return { "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'" }[whole] ?? "&";
  });
}
