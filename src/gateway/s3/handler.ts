/**
 * The S3 gateway: one request in, one answer out.
 *
 * Order: take the request apart, authenticate, classify, run, dress the answer. Whatever is thrown
 * becomes an answer by the table in errors.ts; the returned promise never rejects. Every answer
 * carries `x-amz-request-id`; internal failures are logged under it.
 */
import type { Clock } from "../../common/clock.ts";
import { toHex } from "../../common/bytes.ts";
import type { Logger } from "../../common/logging.ts";
import type { CryptoProvider } from "../../crypto/provider.ts";
import type { CorsRule, NamespaceService } from "../../namespace/api.ts";
import type { CredentialResolver, Identity } from "../../namespace/identity.ts";
import { isKisekiError } from "../../common/errors.ts";
import { Authenticator } from "./authenticate.ts";
import { requireBucketName, requireKey } from "./bucket_name.ts";
import {
  DEFAULT_LIMITS,
  type RequestCounts,
  type S3Context,
  type S3Dependencies,
  type S3Limits,
  type S3Metrics,
} from "./context.ts";
import { corsHeaders, preflightResponse } from "./cors.ts";
import { S3Error, toS3Error } from "./errors.ts";
import type { HeaderPair } from "./object_headers.ts";
import { S3Request } from "./request.ts";
import { bytesResponse } from "./respond.ts";
import { classify } from "./router.ts";
import { xmlError } from "./xml.ts";

/**
 * Port: whose bucket a preflight request means. Browsers send it without a signature, so only the
 * host and the name are known. Where it is missing, or answers undefined, preflight requests that
 * carry no access key in their query are refused.
 */
export interface PreflightOwner {
  ownerOf(host: string, bucket: string): Promise<Identity | undefined>;
}

export interface S3HandlerOptions {
  readonly namespaces: NamespaceService;
  readonly credentials: CredentialResolver;
  readonly crypto: CryptoProvider;
  readonly clock: Clock;
  /** The one region that credentials must name, e.g. "us-east-1". */
  readonly region: string;
  /** Suffixes for virtual-host style, e.g. "s3.example.org"; empty: path style alone. */
  readonly domains: readonly string[];
  readonly logger: Logger;
  readonly metrics?: S3Metrics;
  readonly limits?: Partial<S3Limits>;
  readonly preflight?: PreflightOwner;
}

export type S3Handler = (request: Request, info?: unknown) => Promise<Response>;

/** Unread bodies up to this size are read away, so that the connection can be used again. */
const MAX_DRAINED_BYTES = 1 << 20;

/** Builds the handler for `Deno.serve`. It keeps nothing but caches. */
export function createS3Handler(options: S3HandlerOptions): S3Handler {
  const gateway = new Gateway(options);
  return (request) => gateway.handle(request);
}

interface Progress {
  operation: string;
  readonly counts: RequestCounts;
  request: S3Request | undefined;
}

class Gateway {
  readonly #options: S3HandlerOptions;
  readonly #dependencies: S3Dependencies;
  readonly #authenticator: Authenticator;
  readonly #domains: readonly string[];
  readonly #idPrefix: string;
  #requests = 0;

  constructor(options: S3HandlerOptions) {
    this.#options = options;
    this.#domains = options.domains.map((domain) => domain.toLowerCase().replace(/^\./, ""));
    this.#authenticator = new Authenticator(options);
    this.#dependencies = {
      namespaces: options.namespaces,
      crypto: options.crypto,
      clock: options.clock,
      region: options.region,
      logger: options.logger,
      limits: { ...DEFAULT_LIMITS, ...options.limits },
    };
    const prefix = new Uint8Array(5);
    options.crypto.random(prefix);
    this.#idPrefix = toHex(prefix).toUpperCase();
  }

  async handle(source: Request): Promise<Response> {
    const started = this.#options.clock.monotonicMs();
    const requestId = this.#nextId();
    const progress: Progress = {
      operation: "Unknown",
      counts: { bytesIn: 0, bytesOut: 0, streaming: false, ended: () => {} },
      request: undefined,
    };
    let response: Response;
    try {
      response = await this.#run(source, progress);
    } catch (error) {
      response = await this.#refuse(source, error, requestId, progress);
    }
    response.headers.set("x-amz-request-id", requestId);
    response.headers.set("server", "Kiseki");
    const { counts, operation } = progress;
    const { status } = response;
    const tell = (): void =>
      this.#options.metrics?.request({
        operation,
        status,
        durationMs: this.#options.clock.monotonicMs() - started,
        bytesIn: counts.bytesIn,
        bytesOut: counts.bytesOut,
      });
    if (counts.streaming) counts.ended = tell;
    else tell();
    return response;
  }

  async #run(source: Request, progress: Progress): Promise<Response> {
    const request = new S3Request(source, this.#domains);
    progress.request = request;
    if (request.method === "OPTIONS") {
      progress.operation = "Preflight";
      return await this.#preflight(request);
    }
    const authentication = await this.#authenticator.authenticate(request);
    const { identity } = authentication;
    const found = classify(request);
    progress.operation = found.name;
    if (request.bucket !== "" && found.name !== "CreateBucket") requireBucketName(request.bucket);
    if (request.key !== "") requireKey(request.key);
    requireOwner(request, identity);
    const context: S3Context = {
      ...this.#dependencies,
      request,
      identity,
      authentication,
      counts: progress.counts,
    };
    const origin = request.header("origin");
    if (origin === undefined || request.bucket === "") return await found.run(context);
    return await this.#withCors(context, () => found.run(context));
  }

  /** Adds CORS headers to an answer, refusals included: a browser shows nothing without them. */
  async #withCors(context: S3Context, run: () => Promise<Response>): Promise<Response> {
    let headers: readonly HeaderPair[] = [];
    try {
      const info = await context.namespaces.getNamespace(
        context.identity,
        context.request.bucket,
      );
      headers = corsHeaders(context.request, info);
    } catch (error) {
      if (!isKisekiError(error, "namespace.no_such_namespace")) throw error;
    }
    try {
      const response = await run();
      for (const [name, value] of headers) response.headers.set(name, value);
      return response;
    } catch (error) {
      const failure = toS3Error(error);
      throw new S3Error(failure.code, {
        message: failure.message,
        extra: failure.extra,
        headers: { ...failure.headers, ...Object.fromEntries(headers) },
        cause: error,
      });
    }
  }

  async #preflight(request: S3Request): Promise<Response> {
    return preflightResponse(request, await this.#preflightRules(request));
  }

  /** Rules of the bucket that a preflight means; its URL may carry a presigned credential. */
  async #preflightRules(request: S3Request): Promise<readonly CorsRule[] | undefined> {
    const { credentials, namespaces, preflight } = this.#options;
    const accessKeyId = request.parameter("X-Amz-Credential")?.split("/").slice(0, -4).join("/");
    const identity = accessKeyId === undefined
      ? await preflight?.ownerOf(request.host, request.bucket)
      : (await credentials.resolve(accessKeyId))?.identity;
    if (identity === undefined) return undefined;
    try {
      return (await namespaces.getNamespace(identity, request.bucket)).cors;
    } catch (error) {
      if (isKisekiError(error, "namespace.no_such_namespace")) return undefined;
      throw error;
    }
  }

  async #refuse(
    source: Request,
    error: unknown,
    requestId: string,
    progress: Progress,
  ): Promise<Response> {
    const failure = toS3Error(error);
    const { request, operation } = progress;
    if (failure.status >= 500 && failure.code !== "NotImplemented") {
      const cause = failure.cause ?? failure;
      this.#options.logger.error("s3.request_failed", {
        requestId,
        operation,
        code: failure.code,
        error: cause instanceof Error ? cause.message : String(cause),
        kind: isKisekiError(cause) ? cause.code : cause instanceof Error ? cause.name : "unknown",
        stack: failure.code === "InternalError" && cause instanceof Error ? cause.stack : undefined,
      });
    }
    await drain(source, request);
    const headers: HeaderPair[] = [...Object.entries(failure.headers)];
    if (source.method === "HEAD") {
      return new Response(null, { status: failure.status, headers });
    }
    const body = xmlError({
      Code: failure.code,
      Message: failure.message,
      ...failure.extra,
      ...this.#where(request, failure),
      RequestId: requestId,
      HostId: this.#idPrefix,
    });
    progress.counts.bytesOut += body.length;
    return bytesResponse(body, [["content-type", "application/xml"], ...headers], failure.status);
  }

  /** What the refusal is about. */
  #where(
    request: S3Request | undefined,
    failure: S3Error,
  ): Readonly<Record<string, string>> {
    if (request === undefined) return {};
    const where: Record<string, string> = {};
    if (failure.code === "NoSuchBucket" && request.bucket !== "") {
      where.BucketName = request.bucket.slice(0, 255);
    }
    if (failure.code === "NoSuchKey" && failure.extra.Key === undefined) where.Key = request.key;
    where.Resource = request.rawPath.slice(0, 2048);
    return where;
  }

  #nextId(): string {
    this.#requests = (this.#requests + 1) % 0x100_0000;
    return this.#idPrefix + this.#requests.toString(16).toUpperCase().padStart(6, "0");
  }
}

/** `x-amz-expected-bucket-owner`: another owner than the caller's own is refused. */
function requireOwner(request: S3Request, identity: Identity): void {
  for (
    const name of ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"]
  ) {
    const expected = request.header(name);
    if (expected !== undefined && expected !== identity.organisation) {
      throw new S3Error("AccessDenied");
    }
  }
}

/**
 * Reads away a small body that nobody read, so that the connection lives on; a large one is cut off
 * by closing the connection. Deno answers `Expect: 100-continue` by itself, before any handler runs,
 * so the body is on its way in every case.
 */
async function drain(source: Request, request: S3Request | undefined): Promise<void> {
  const length = Number(request?.header("content-length") ?? "NaN");
  if (!(length <= MAX_DRAINED_BYTES)) return;
  if (source.body === null || source.bodyUsed) return;
  try {
    await source.bytes();
  } catch {
    // The client is gone: there is nobody left to tell.
    return;
  }
}
