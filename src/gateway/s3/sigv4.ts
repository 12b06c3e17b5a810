/**
 * AWS Signature Version 4, pure: canonical request, string to sign, signing key, signature.
 *
 * Source: Amazon S3 API Reference, "Authenticating Requests (AWS Signature Version 4)". Invariants:
 * the path is encoded once and never normalised (S3's exception to the general rule); the whole
 * canonical request is a byte string (one character for each byte), so header bytes of any kind
 * are hashed as they were sent.
 */
import { type Bytes, toHex, utf8 } from "../../common/bytes.ts";
import type { CryptoProvider } from "../../crypto/provider.ts";
import { binaryBytes, type QueryParameter } from "./request.ts";

export const ALGORITHM = "AWS4-HMAC-SHA256";
export const EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

const UNRESERVED = /^[A-Za-z0-9\-._~]*$/;
const UNRESERVED_PATH = /^[A-Za-z0-9\-._~/]*$/;

/** Percent-encodes the UTF-8 bytes of all but A-Z a-z 0-9 - . _ ~ (RFC 3986, unreserved). */
export function uriEncode(text: string): string {
  if (UNRESERVED.test(text)) return text;
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (c) => "%" + c.charCodeAt(0).toString(16).toUpperCase(),
  );
}

/** The same, with `/` kept. */
export function uriEncodePath(text: string): string {
  return UNRESERVED_PATH.test(text) ? text : uriEncode(text).replaceAll("%2F", "/");
}

/** @throws URIError when the percent-encoding is broken. */
export function canonicalPath(rawPath: string): string {
  return UNRESERVED_PATH.test(rawPath) ? rawPath : uriEncodePath(decodeURIComponent(rawPath));
}

/** @param without A parameter to leave out (the signature itself). */
export function canonicalQuery(query: readonly QueryParameter[], without?: string): string {
  if (query.length === 0) return "";
  const pairs: [string, string][] = [];
  for (const { name, value } of query) {
    if (name !== without) pairs.push([uriEncode(name), uriEncode(value)]);
  }
  pairs.sort((a, b) => order(a[0], b[0]) || order(a[1], b[1]));
  return pairs.map(([name, value]) => `${name}=${value}`).join("&");
}

function order(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** A header's value with spaces at the ends cut and runs of spaces made one. */
function canonicalValue(value: string): string {
  const trimmed = value.trim();
  return trimmed.includes("  ") ? trimmed.replace(/ +/g, " ") : trimmed;
}

export interface CanonicalInput {
  readonly method: string;
  readonly rawPath: string;
  readonly query: readonly QueryParameter[];
  /** Lower case, sorted, as the client listed them. */
  readonly signedHeaders: readonly string[];
  header(name: string): string | undefined;
  /** Hex digest or one of the fixed words. */
  readonly payloadHash: string;
  readonly withoutParameter?: string;
}

/** The canonical request as a byte string. */
export function canonicalRequest(input: CanonicalInput): string {
  let headers = "";
  for (const name of input.signedHeaders) {
    headers += `${name}:${canonicalValue(input.header(name) ?? "")}\n`;
  }
  return `${input.method}\n${canonicalPath(input.rawPath)}\n${
    canonicalQuery(input.query, input.withoutParameter)
  }\n${headers}\n${input.signedHeaders.join(";")}\n${input.payloadHash}`;
}

/** @param scope date/region/service/aws4_request */
export function stringToSign(
  crypto: CryptoProvider,
  amzDate: string,
  scope: string,
  canonical: string,
): string {
  const digest = toHex(crypto.digest("sha256", binaryBytes(canonical)));
  return `${ALGORITHM}\n${amzDate}\n${scope}\n${digest}`;
}

/** The key of one day, region and service. */
export function signingKey(
  crypto: CryptoProvider,
  secret: string,
  date: string,
  region: string,
  service: string,
): Bytes {
  const dateKey = crypto.hmacSha256(utf8("AWS4" + secret), utf8(date));
  const regionKey = crypto.hmacSha256(dateKey, utf8(region));
  const serviceKey = crypto.hmacSha256(regionKey, utf8(service));
  return crypto.hmacSha256(serviceKey, utf8("aws4_request"));
}

/** Signature in lower-case hex. */
export function sign(crypto: CryptoProvider, key: Bytes, text: string): string {
  return toHex(crypto.hmacSha256(key, utf8(text)));
}

/** Equality of two signatures in time that depends on their lengths alone. */
export function sameSecret(a: string, b: string): boolean {
  if (a.length !== b.length) return false;
  let difference = 0;
  for (let i = 0; i < a.length; i++) difference |= a.charCodeAt(i) ^ b.charCodeAt(i);
  return difference === 0;
}

/** Milliseconds of `20130524T000000Z`; undefined when it is not such a date. */
export function parseAmzDate(text: string): number | undefined {
  // Requests of one second carry the same text.
  if (text === lastDate.text) return lastDate.ms;
  const ms = parseDate(text);
  lastDate = { text, ms };
  return ms;
}

let lastDate: { readonly text: string; readonly ms: number | undefined } = {
  text: "",
  ms: undefined,
};

function parseDate(text: string): number | undefined {
  const match = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(text);
  if (match === null) return undefined;
  const [, year, month, day, hour, minute, second] = match;
  const ms = Date.UTC(
    Number(year),
    Number(month) - 1,
    Number(day),
    Number(hour),
    Number(minute),
    Number(second),
  );
  return formatAmzDate(ms) === text ? ms : undefined;
}

/** `20130524T000000Z` of milliseconds. */
export function formatAmzDate(ms: number): string {
  return new Date(ms).toISOString().replace(/[-:]|\.\d{3}/g, "");
}
