/**
 * Who sent a request: checks Signature Version 4 in the Authorization header or in the query.
 *
 * Invariants: fails closed; nothing of the body is read before the signature holds; a request
 * without a signature is nobody and is refused; the `host` header and every `x-amz-*` header must
 * be signed; signatures are compared in constant time; a cached signing key is used only while the
 * secret that it came from is the one that the resolver gives now.
 */
import type { Bytes } from "../../common/bytes.ts";
import type { Clock } from "../../common/clock.ts";
import type { CryptoProvider } from "../../crypto/provider.ts";
import type { CredentialResolver, Identity } from "../../namespace/identity.ts";
import { notImplemented, S3Error } from "./errors.ts";
import type { S3Request } from "./request.ts";
import {
  ALGORITHM,
  canonicalRequest,
  formatAmzDate,
  parseAmzDate,
  sameSecret,
  sign,
  signingKey,
  stringToSign,
} from "./sigv4.ts";

/** How far a request's clock may be from ours. */
export const MAX_SKEW_MS = 15 * 60_000;
/** Seven days. */
export const MAX_PRESIGNED_SECONDS = 604_800;
const MAX_CACHED_KEYS = 1024;
const MAX_SIGNED_HEADERS = 100;

/** What the signature says of the body. */
export type PayloadMode =
  | { readonly kind: "sha256"; readonly hex: string }
  | { readonly kind: "unsigned" }
  | { readonly kind: "chunked"; readonly signed: boolean; readonly trailer: boolean };

/** A request whose signature held. */
export interface Authentication {
  readonly identity: Identity;
  readonly payload: PayloadMode;
  readonly presigned: boolean;
  /** For the chain of chunk signatures. */
  readonly signingKey: Bytes;
  readonly amzDate: string;
  readonly scope: string;
  readonly signature: string;
}

export interface AuthenticatorOptions {
  readonly credentials: CredentialResolver;
  readonly crypto: CryptoProvider;
  readonly clock: Clock;
  readonly region: string;
}

interface Claim {
  readonly accessKeyId: string;
  readonly date: string;
  readonly region: string;
  readonly scope: string;
  readonly signedHeaders: readonly string[];
  readonly signature: string;
  readonly amzDate: string;
  readonly presigned: boolean;
}

export class Authenticator {
  readonly #options: AuthenticatorOptions;
  readonly #keys = new Map<string, { readonly secret: string; readonly key: Bytes }>();

  constructor(options: AuthenticatorOptions) {
    this.#options = options;
  }

  /** @throws S3Error unless the request carries a valid signature of a known workload. */
  async authenticate(request: S3Request): Promise<Authentication> {
    const claim = this.#claim(request);
    requireSignedHeaders(request, claim.signedHeaders);
    const payloadHash = request.header("x-amz-content-sha256") ??
      (claim.presigned ? request.parameter("X-Amz-Content-Sha256") ?? "UNSIGNED-PAYLOAD" : "");
    const payload = payloadMode(payloadHash);
    const token = request.header("x-amz-security-token") ??
      request.parameter("X-Amz-Security-Token");
    if (token !== undefined) throw new S3Error("InvalidToken");
    const resolved = await this.#options.credentials.resolve(claim.accessKeyId);
    if (resolved === undefined) {
      throw new S3Error("InvalidAccessKeyId", { extra: { AWSAccessKeyId: claim.accessKeyId } });
    }
    const { crypto } = this.#options;
    const key = this.#signingKey(claim, resolved.secretAccessKey);
    const canonical = canonicalRequest({
      method: request.method,
      rawPath: request.rawPath,
      query: request.query,
      signedHeaders: claim.signedHeaders,
      header: (name) => request.header(name),
      payloadHash,
      withoutParameter: "X-Amz-Signature",
    });
    const text = stringToSign(crypto, claim.amzDate, claim.scope, canonical);
    const expected = sign(crypto, key, text);
    if (!sameSecret(expected, claim.signature)) {
      throw new S3Error("SignatureDoesNotMatch", {
        extra: {
          AWSAccessKeyId: claim.accessKeyId,
          StringToSign: text,
          SignatureProvided: claim.signature,
          CanonicalRequest: canonical,
        },
      });
    }
    return {
      identity: resolved.identity,
      payload,
      presigned: claim.presigned,
      signingKey: key,
      amzDate: claim.amzDate,
      scope: claim.scope,
      signature: claim.signature,
    };
  }

  #claim(request: S3Request): Claim {
    const authorization = request.header("authorization");
    const algorithm = request.parameter("X-Amz-Algorithm");
    if (authorization !== undefined) {
      if (algorithm !== undefined || request.hasParameter("X-Amz-Signature")) {
        throw new S3Error("InvalidArgument", {
          message:
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified",
        });
      }
      return this.#headerClaim(request, authorization);
    }
    if (algorithm !== undefined || request.hasParameter("X-Amz-Signature")) {
      return this.#queryClaim(request, algorithm ?? "");
    }
    if (request.hasParameter("Signature") && request.hasParameter("AWSAccessKeyId")) {
      throw unsupportedMechanism();
    }
    throw new S3Error("AccessDenied");
  }

  #headerClaim(request: S3Request, authorization: string): Claim {
    if (!authorization.startsWith(ALGORITHM)) {
      if (/^AWS4-ECDSA/.test(authorization)) throw notImplemented("Signature Version 4A");
      throw unsupportedMechanism();
    }
    const fields = new Map<string, string>();
    for (const part of authorization.slice(ALGORITHM.length).split(",")) {
      const equals = part.indexOf("=");
      if (equals < 0) throw malformedHeader("The authorization header is malformed.");
      fields.set(part.slice(0, equals).trim(), part.slice(equals + 1).trim());
    }
    const credential = fields.get("Credential");
    const signedHeaders = fields.get("SignedHeaders");
    const signature = fields.get("Signature");
    if (credential === undefined || signedHeaders === undefined || signature === undefined) {
      throw malformedHeader(
        "The authorization header is malformed; Credential, SignedHeaders and Signature are wanted.",
      );
    }
    const amzDate = headerDate(request);
    const amzDateMs = parseAmzDate(amzDate) ?? 0;
    const scope = this.#scope(credential, (message, extra) => malformedHeader(message, extra));
    if (scope.date !== amzDate.slice(0, 8)) {
      throw malformedHeader(
        `The authorization header is malformed; Invalid credential date "${scope.date}". This date is not the same as X-Amz-Date: "${
          amzDate.slice(0, 8)
        }".`,
      );
    }
    if (request.header("x-amz-content-sha256") === undefined) {
      throw new S3Error("MissingSecurityHeader", {
        message: "Missing required header for this request: x-amz-content-sha256",
        extra: { MissingHeaderName: "x-amz-content-sha256" },
      });
    }
    const now = this.#options.clock.wallMs();
    if (Math.abs(now - amzDateMs) > MAX_SKEW_MS) {
      throw new S3Error("RequestTimeTooSkewed", {
        extra: {
          RequestTime: amzDate,
          ServerTime: new Date(now).toISOString(),
          MaxAllowedSkewMilliseconds: String(MAX_SKEW_MS),
        },
      });
    }
    return {
      ...scope,
      signedHeaders: headerNames(signedHeaders, malformedHeader),
      signature,
      amzDate,
      presigned: false,
    };
  }

  #queryClaim(request: S3Request, algorithm: string): Claim {
    if (algorithm !== ALGORITHM) {
      if (algorithm.startsWith("AWS4-ECDSA")) throw notImplemented("Signature Version 4A");
      throw malformedQuery(`X-Amz-Algorithm only supports "${ALGORITHM}"`);
    }
    const credential = request.parameter("X-Amz-Credential");
    const amzDate = request.parameter("X-Amz-Date");
    const expiresText = request.parameter("X-Amz-Expires");
    const signedHeaders = request.parameter("X-Amz-SignedHeaders");
    const signature = request.parameter("X-Amz-Signature");
    if (
      credential === undefined || amzDate === undefined || expiresText === undefined ||
      signedHeaders === undefined || signature === undefined
    ) {
      throw malformedQuery(
        "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
      );
    }
    const dateMs = parseAmzDate(amzDate);
    if (dateMs === undefined) {
      throw malformedQuery(
        "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"",
      );
    }
    if (!/^\d{1,9}$/.test(expiresText)) {
      throw malformedQuery(
        expiresText.startsWith("-")
          ? "X-Amz-Expires must be non-negative"
          : "X-Amz-Expires should be a number",
      );
    }
    const expires = Number(expiresText);
    if (expires > MAX_PRESIGNED_SECONDS) {
      throw malformedQuery(
        "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds",
      );
    }
    const scope = this.#scope(credential, (message) => malformedQuery(message));
    if (scope.date !== amzDate.slice(0, 8)) {
      throw malformedQuery(
        `Invalid credential date "${scope.date}". This date is not the same as X-Amz-Date: "${
          amzDate.slice(0, 8)
        }".`,
      );
    }
    const now = this.#options.clock.wallMs();
    if (dateMs - now > MAX_SKEW_MS) {
      throw new S3Error("AccessDenied", { message: "Request is not valid yet" });
    }
    if (now > dateMs + expires * 1000) {
      throw new S3Error("AccessDenied", {
        message: "Request has expired",
        extra: {
          "X-Amz-Expires": expiresText,
          Expires: new Date(dateMs + expires * 1000).toISOString(),
          ServerTime: new Date(now).toISOString(),
        },
      });
    }
    return {
      ...scope,
      signedHeaders: headerNames(signedHeaders, malformedQuery),
      signature,
      amzDate,
      presigned: true,
    };
  }

  /** Credential scope: `access key/date/region/s3/aws4_request`; the key may hold slashes. */
  #scope(
    credential: string,
    malformed: (message: string, extra?: Readonly<Record<string, string>>) => S3Error,
  ): { accessKeyId: string; date: string; region: string; scope: string } {
    const parts = credential.split("/");
    const [date, region, service, terminal] = parts.slice(-4);
    const accessKeyId = parts.slice(0, -4).join("/");
    if (
      parts.length < 5 || accessKeyId === "" || date === undefined || region === undefined ||
      service === undefined || terminal === undefined
    ) {
      throw malformed(
        'The Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".',
      );
    }
    if (!/^\d{8}$/.test(date)) {
      throw malformed(`Invalid credential date "${date}". This date is not in the form YYYYMMDD.`);
    }
    if (region !== this.#options.region) {
      throw malformed(
        `The authorization header is malformed; the region '${region}' is wrong; expecting '${this.#options.region}'`,
        { Region: this.#options.region },
      );
    }
    if (service !== "s3") {
      throw malformed(`Invalid service "${service}". This endpoint belongs to "s3".`);
    }
    if (terminal !== "aws4_request") {
      throw malformed(`Invalid terminal "${terminal}". "aws4_request" is wanted.`);
    }
    return { accessKeyId, date, region, scope: `${date}/${region}/${service}/${terminal}` };
  }

  #signingKey(claim: Claim, secret: string): Bytes {
    const cacheKey = `${claim.date}/${claim.region}/${claim.accessKeyId}`;
    const cached = this.#keys.get(cacheKey);
    if (cached !== undefined && cached.secret === secret) return cached.key;
    const key = signingKey(this.#options.crypto, secret, claim.date, claim.region, "s3");
    if (this.#keys.size >= MAX_CACHED_KEYS) {
      const oldest = this.#keys.keys().next();
      if (oldest.done !== true) this.#keys.delete(oldest.value);
    }
    this.#keys.set(cacheKey, { secret, key });
    return key;
  }
}

function unsupportedMechanism(): S3Error {
  return new S3Error("InvalidRequest", {
    message:
      "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
  });
}

function malformedHeader(message: string, extra?: Readonly<Record<string, string>>): S3Error {
  return new S3Error("AuthorizationHeaderMalformed", {
    message,
    ...(extra === undefined ? {} : { extra }),
  });
}

function malformedQuery(message: string): S3Error {
  return new S3Error("AuthorizationQueryParametersError", { message });
}

/** The date that was signed: x-amz-date, or Date in HTTP's or in the basic form. */
function headerDate(request: S3Request): string {
  const amz = request.header("x-amz-date");
  const text = amz ?? request.header("date");
  if (text !== undefined) {
    if (parseAmzDate(text) !== undefined) return text;
    const ms = Date.parse(text);
    if (amz === undefined && Number.isFinite(ms)) return formatAmzDate(ms);
  }
  throw new S3Error("AccessDenied", {
    message: "AWS authentication requires a valid Date or x-amz-date header",
  });
}

function headerNames(text: string, malformed: (message: string) => S3Error): readonly string[] {
  const names = text.split(";");
  if (names.length > MAX_SIGNED_HEADERS) {
    throw malformed(`SignedHeaders names too many headers (max ${MAX_SIGNED_HEADERS})`);
  }
  return names;
}

function requireSignedHeaders(request: S3Request, signed: readonly string[]): void {
  const names = new Set(signed);
  const missing: string[] = [];
  if (!names.has("host")) missing.push("host");
  for (const [name] of request.headerEntries()) {
    if (name.startsWith("x-amz-") && !names.has(name)) missing.push(name);
  }
  if (missing.length > 0) {
    throw new S3Error("AccessDenied", {
      message: "There were headers present in the request which were not signed",
      extra: { HeadersNotSigned: missing.join(", ") },
    });
  }
}

function payloadMode(value: string): PayloadMode {
  switch (value) {
    case "UNSIGNED-PAYLOAD":
      return { kind: "unsigned" };
    case "STREAMING-AWS4-HMAC-SHA256-PAYLOAD":
      return { kind: "chunked", signed: true, trailer: false };
    case "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER":
      return { kind: "chunked", signed: true, trailer: true };
    case "STREAMING-UNSIGNED-PAYLOAD-TRAILER":
      return { kind: "chunked", signed: false, trailer: true };
  }
  if (/^[0-9a-f]{64}$/i.test(value)) return { kind: "sha256", hex: value.toLowerCase() };
  if (value.startsWith("STREAMING-AWS4-ECDSA")) throw notImplemented("Signature Version 4A");
  throw new S3Error("InvalidArgument", {
    message:
      "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, STREAMING-UNSIGNED-PAYLOAD-TRAILER or a valid sha256 value.",
    extra: { ArgumentName: "x-amz-content-sha256", ArgumentValue: value.slice(0, 256) },
  });
}
