/**
 * Signs outgoing requests: AWS Signature Version 4, in headers (AWS, "Authenticating Requests:
 * Using the Authorization Header"). The signing key of a day is kept.
 */
import { toHex, utf8 } from "../common/bytes.ts";
import type { CryptoProvider } from "../crypto/provider.ts";

export const UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD";
/** SHA-256 of nothing. */
export const EMPTY_PAYLOAD_HASH =
  "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

export interface SigningCredential {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

/** Query parameters, decoded. */
export type Query = readonly (readonly [name: string, value: string])[];

export interface UnsignedRequest {
  readonly method: string;
  /** Encoded, as it stands in the request line. */
  readonly path: string;
  readonly query: Query;
  /** All headers that are signed; names in lower case, `host` among them, values trimmed. */
  readonly headers: Readonly<Record<string, string>>;
  /** Hex SHA-256 of the body, or {@link UNSIGNED_PAYLOAD}. */
  readonly payloadHash: string;
}

/** `20130524T000000Z` */
export function amzDate(ms: number): string {
  return new Date(ms).toISOString().replaceAll(/[-:]|\.\d{3}/g, "");
}

export class SignerV4 {
  readonly #credential: SigningCredential;
  readonly #region: string;
  readonly #crypto: CryptoProvider;
  #key: { readonly day: string; readonly bytes: Uint8Array } | undefined;

  constructor(credential: SigningCredential, region: string, crypto: CryptoProvider) {
    this.#credential = credential;
    this.#region = region;
    this.#crypto = crypto;
  }

  /**
   * The Authorization header of a request.
   *
   * @param date As {@link amzDate}; must equal header `x-amz-date`.
   */
  authorization(request: UnsignedRequest, date: string): string {
    const names = Object.keys(request.headers).sort();
    let canonicalHeaders = "";
    for (const name of names) canonicalHeaders += `${name}:${request.headers[name]}\n`;
    const signedHeaders = names.join(";");
    const canonical = `${request.method}\n${request.path}\n${encodeQuery(request.query)}\n` +
      `${canonicalHeaders}\n${signedHeaders}\n${request.payloadHash}`;
    const day = date.slice(0, 8);
    const scope = `${day}/${this.#region}/s3/aws4_request`;
    const hash = toHex(this.#crypto.digest("sha256", utf8(canonical)));
    const text = `AWS4-HMAC-SHA256\n${date}\n${scope}\n${hash}`;
    const signature = toHex(this.#crypto.hmacSha256(this.#signingKey(day), utf8(text)));
    return `AWS4-HMAC-SHA256 Credential=${this.#credential.accessKeyId}/${scope},` +
      `SignedHeaders=${signedHeaders},Signature=${signature}`;
  }

  #signingKey(day: string): Uint8Array {
    if (this.#key?.day === day) return this.#key.bytes;
    const { secretAccessKey } = this.#credential;
    let bytes = utf8(`AWS4${secretAccessKey}`);
    for (const part of [day, this.#region, "s3", "aws4_request"]) {
      bytes = this.#crypto.hmacSha256(bytes, utf8(part));
    }
    this.#key = { day, bytes };
    return bytes;
  }
}

/** RFC 3986 encoding as AWS wants it: all but unreserved characters. */
export function encodeUri(text: string, keepSlash: boolean): string {
  const encoded = encodeURIComponent(text).replaceAll(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return keepSlash ? encoded.replaceAll("%2F", "/") : encoded;
}

/** Canonical query string: encoded, sorted by name, then value. */
export function encodeQuery(query: Query): string {
  if (query.length === 0) return "";
  return query
    .map(([name, value]) => [encodeUri(name, false), encodeUri(value, false)] as const)
    .sort((a, b) => compare(a[0], b[0]) || compare(a[1], b[1]))
    .map(([name, value]) => `${name}=${value}`)
    .join("&");
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
