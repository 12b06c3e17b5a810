/**
 * A small S3 client for tests, written from the SigV4 documentation and independent of the code
 * under test: fetch, signed headers, nothing hidden. Every call returns what came back.
 */
import { createHash, createHmac } from "node:crypto";
import type { Buffer } from "node:buffer";
import { HttpConnection } from "../../src/client/http_connection.ts";

export interface S3Endpoint {
  readonly s3: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

export interface S3Reply {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Uint8Array<ArrayBuffer>;
  /** Body as text. */
  text(): string;
  /** `<Code>` of an error body, "" where there is none. */
  code(): string;
}

export interface S3Request {
  readonly method: string;
  /** Bucket, "" for the service. */
  readonly bucket?: string;
  readonly key?: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array<ArrayBuffer> | string;
  readonly signal?: AbortSignal;
}

const EMPTY_SHA256 = createHash("sha256").digest("hex");

/** RFC 3986 encoding, `/` kept when `path`. */
export function uriEncode(text: string, path = false): string {
  const encoded = encodeURIComponent(text).replace(
    /[!'()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return path ? encoded.replaceAll("%2F", "/") : encoded;
}

export class S3Client {
  readonly #endpoint: S3Endpoint;
  readonly #host: string;

  constructor(endpoint: S3Endpoint) {
    this.#endpoint = endpoint;
    this.#host = new URL(endpoint.s3).host;
  }

  /** Path with query, and signed headers without `host`. */
  sign(
    request: S3Request,
    payloadHash: string,
  ): { readonly target: string; readonly headers: Readonly<Record<string, string>> } {
    const path = request.bucket === undefined || request.bucket === ""
      ? "/"
      : `/${uriEncode(request.bucket)}${
        request.key === undefined ? "" : `/${uriEncode(request.key, true)}`
      }`;
    const query = Object.entries(request.query ?? {})
      .map(([k, v]) => `${uriEncode(k)}=${uriEncode(v)}`).sort().join("&");
    const date = new Date().toISOString().replace(/[-:]|\.\d{3}/g, "");
    const headers: Record<string, string> = {
      host: this.#host,
      "x-amz-date": date,
      "x-amz-content-sha256": payloadHash,
    };
    for (const [k, v] of Object.entries(request.headers ?? {})) headers[k.toLowerCase()] = v;
    const names = Object.keys(headers).sort();
    const signed = names.join(";");
    const canonical = [
      request.method,
      path,
      query,
      ...names.map((n) => `${n}:${(headers[n] ?? "").trim()}`),
      "",
      signed,
      payloadHash,
    ].join("\n");
    const scope = `${date.slice(0, 8)}/us-east-1/s3/aws4_request`;
    const toSign = `AWS4-HMAC-SHA256\n${date}\n${scope}\n${
      createHash("sha256").update(canonical).digest("hex")
    }`;
    let key: Buffer | string = `AWS4${this.#endpoint.secretAccessKey}`;
    for (const part of [date.slice(0, 8), "us-east-1", "s3", "aws4_request"]) {
      key = createHmac("sha256", key).update(part).digest();
    }
    const signature = createHmac("sha256", key).update(toSign).digest("hex");
    headers.authorization =
      `AWS4-HMAC-SHA256 Credential=${this.#endpoint.accessKeyId}/${scope}, SignedHeaders=${signed}, Signature=${signature}`;
    delete headers.host;
    return { target: `${path}${query === "" ? "" : `?${query}`}`, headers };
  }

  /** Signs and sends. @throws TypeError when the connection fails. */
  async send(request: S3Request): Promise<S3Reply> {
    const payload = request.body ?? "";
    const payloadHash = payload.length === 0
      ? EMPTY_SHA256
      : createHash("sha256").update(payload).digest("hex");
    const { target, headers } = this.sign(request, payloadHash);
    const init: RequestInit = { method: request.method, headers };
    if (payload.length > 0) init.body = payload;
    if (request.signal !== undefined) init.signal = request.signal;
    if (/\/\.{1,2}(\/|\?|$)/.test(target)) {
      return await this.#sendRaw(request, target, headers, payload);
    }
    const response = await fetch(`${this.#endpoint.s3}${target}`, init);
    return reply(response.status, response.headers, new Uint8Array(await response.arrayBuffer()));
  }

  /** `fetch` resolves dot segments in paths; such keys go over a connection of their own. */
  async #sendRaw(
    request: S3Request,
    target: string,
    headers: Readonly<Record<string, string>>,
    payload: Uint8Array<ArrayBuffer> | string,
  ): Promise<S3Reply> {
    const body = typeof payload === "string" ? new TextEncoder().encode(payload) : payload;
    const { hostname, port } = new URL(this.#endpoint.s3);
    const connection = await HttpConnection.open({
      host: hostname,
      port: Number(port),
      tls: false,
    });
    try {
      const head = [
        `${request.method} ${target} HTTP/1.1`,
        ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
        `host: ${this.#host}`,
        `content-length: ${body.length}`,
        "\r\n",
      ].join("\r\n");
      const answer = await connection.request({
        head,
        body,
        headOnly: request.method === "HEAD",
      });
      return reply(answer.status, new Headers([...answer.headers]), new Uint8Array(answer.body));
    } finally {
      connection.close();
    }
  }

  put(
    bucket: string,
    key: string,
    body: Uint8Array<ArrayBuffer> | string,
    headers?: Readonly<Record<string, string>>,
  ): Promise<S3Reply> {
    return this.send({ method: "PUT", bucket, key, body, ...(headers ? { headers } : {}) });
  }

  get(bucket: string, key: string, query?: Readonly<Record<string, string>>): Promise<S3Reply> {
    return this.send({ method: "GET", bucket, key, ...(query ? { query } : {}) });
  }

  head(bucket: string, key: string): Promise<S3Reply> {
    return this.send({ method: "HEAD", bucket, key });
  }

  remove(bucket: string, key: string, query?: Readonly<Record<string, string>>): Promise<S3Reply> {
    return this.send({ method: "DELETE", bucket, key, ...(query ? { query } : {}) });
  }

  copy(bucket: string, from: string, to: string): Promise<S3Reply> {
    return this.send({
      method: "PUT",
      bucket,
      key: to,
      headers: { "x-amz-copy-source": `/${uriEncode(bucket)}/${uriEncode(from, true)}` },
    });
  }

  createBucket(bucket: string): Promise<S3Reply> {
    return this.send({ method: "PUT", bucket });
  }

  /** All keys below a prefix, page by page. @throws when a page is refused. */
  async listKeys(bucket: string, prefix = "", maxKeys = 1000): Promise<string[]> {
    const keys: string[] = [];
    let token: string | undefined;
    do {
      const query: Record<string, string> = {
        "list-type": "2",
        prefix,
        "max-keys": String(maxKeys),
        "encoding-type": "url",
      };
      if (token !== undefined) query["continuation-token"] = token;
      const reply = await this.send({ method: "GET", bucket, query });
      if (reply.status !== 200) throw new Error(`list: ${reply.status} ${reply.text()}`);
      const text = reply.text();
      for (const match of text.matchAll(/<Key>([^<]*)<\/Key>/g)) {
        keys.push(decodeURIComponent((match[1] ?? "").replaceAll("+", " ")));
      }
      token = unescapeXml(/<NextContinuationToken>([^<]*)</.exec(text)?.[1]);
    } while (token !== undefined);
    return keys;
  }

  /** A whole multipart upload. Returns the reply of Complete, or the first refusal. */
  async multipart(
    bucket: string,
    key: string,
    parts: readonly Uint8Array<ArrayBuffer>[],
  ): Promise<S3Reply> {
    const created = await this.send({ method: "POST", bucket, key, query: { uploads: "" } });
    if (created.status !== 200) return created;
    const uploadId = unescapeXml(/<UploadId>([^<]*)</.exec(created.text())?.[1]) ?? "";
    const etags: string[] = [];
    for (const [i, body] of parts.entries()) {
      const reply = await this.send({
        method: "PUT",
        bucket,
        key,
        body,
        query: { partNumber: String(i + 1), uploadId },
      });
      if (reply.status !== 200) return reply;
      etags.push(reply.headers.get("etag") ?? "");
    }
    const xml = `<CompleteMultipartUpload>${
      etags.map((etag, i) => `<Part><PartNumber>${i + 1}</PartNumber><ETag>${etag}</ETag></Part>`)
        .join("")
    }</CompleteMultipartUpload>`;
    return await this.send({ method: "POST", bucket, key, body: xml, query: { uploadId } });
  }
}

function reply(status: number, headers: Headers, body: Uint8Array<ArrayBuffer>): S3Reply {
  const text = (): string => new TextDecoder().decode(body);
  return {
    status,
    headers,
    body,
    text,
    code: () => /<Code>([^<]*)<\/Code>/.exec(text())?.[1] ?? "",
  };
}

function unescapeXml(text: string | undefined): string | undefined {
  return text?.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&quot;", '"')
    .replaceAll("&#34;", '"').replaceAll("&apos;", "'").replaceAll("&amp;", "&");
}
