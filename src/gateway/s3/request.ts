/**
 * One S3 request, taken apart once: raw path, query, headers, bucket and key.
 *
 * Invariants: the path is taken from the request target as it was sent, because `new URL()` would
 * collapse `.` and `..`, which are legal in keys. Header values arrive with one character for each
 * byte (Latin-1); `header()` gives them so, `text()` reads them as UTF-8. Percent-decoding must
 * give UTF-8, or the request is refused with InvalidURI.
 */
import { S3Error } from "./errors.ts";

/** A query parameter, decoded. */
export interface QueryParameter {
  readonly name: string;
  readonly value: string;
}

export class S3Request {
  readonly method: string;
  /** Path as sent, without the query. */
  readonly rawPath: string;
  /** The Host header in lower case, with its port. */
  readonly host: string;
  readonly query: readonly QueryParameter[];
  /** "" at the service level. */
  readonly bucket: string;
  /** "" at the bucket level. */
  readonly key: string;
  readonly virtualHost: boolean;
  readonly source: Request;
  readonly #headers: Map<string, string>;

  /**
   * @param domains Suffixes for virtual-host style, in lower case, without a leading dot.
   * @throws S3Error InvalidURI.
   */
  constructor(source: Request, domains: readonly string[]) {
    this.source = source;
    this.method = source.method;
    const headers = new Map<string, string>();
    for (const [name, value] of source.headers) headers.set(name, value);
    this.#headers = headers;
    const target = splitTarget(source.url);
    this.rawPath = target.path;
    this.host = (headers.get("host") ?? target.authority).toLowerCase();
    if (!headers.has("host")) headers.set("host", target.authority);
    this.query = parseQuery(target.query);
    const bucketOfHost = virtualHostBucket(this.host, domains);
    this.virtualHost = bucketOfHost !== undefined;
    if (bucketOfHost !== undefined) {
      this.bucket = bucketOfHost;
      this.key = decodePath(target.path.slice(1));
    } else {
      const slash = target.path.indexOf("/", 1);
      const end = slash < 0 ? target.path.length : slash;
      this.bucket = decodePath(target.path.slice(1, end));
      this.key = slash < 0 ? "" : decodePath(target.path.slice(slash + 1));
    }
  }

  /** A header's value, one character for each byte; several lines are joined with ", ". */
  header(name: string): string | undefined {
    return this.#headers.get(name);
  }

  /** A header's value read as UTF-8; what is not UTF-8 is taken as Latin-1. */
  text(name: string): string | undefined {
    const value = this.#headers.get(name);
    return value === undefined ? undefined : latin1ToUtf8(value);
  }

  headerEntries(): Iterable<[string, string]> {
    return this.#headers;
  }

  /** First value of a query parameter. */
  parameter(name: string): string | undefined {
    for (const parameter of this.query) if (parameter.name === name) return parameter.value;
    return undefined;
  }

  hasParameter(name: string): boolean {
    return this.parameter(name) !== undefined;
  }
}

function splitTarget(url: string): { authority: string; path: string; query: string } {
  const scheme = url.indexOf("://");
  const from = scheme < 0 ? 0 : scheme + 3;
  let slash = from;
  while (slash < url.length && url[slash] !== "/" && url[slash] !== "?") slash++;
  const mark = url.indexOf("?", slash);
  const path = mark < 0 ? url.slice(slash) : url.slice(slash, mark);
  return {
    authority: url.slice(from, slash),
    path: path.startsWith("/") ? path : "/" + path,
    query: mark < 0 ? "" : url.slice(mark + 1),
  };
}

/** The bucket named by the Host header; undefined for path style. */
function virtualHostBucket(host: string, domains: readonly string[]): string | undefined {
  if (domains.length === 0) return undefined;
  const colon = host.lastIndexOf(":");
  const name = colon > 0 && !host.endsWith("]") ? host.slice(0, colon) : host;
  for (const domain of domains) {
    if (name.length > domain.length + 1 && name.endsWith("." + domain)) {
      return name.slice(0, name.length - domain.length - 1);
    }
  }
  return undefined;
}

/** Percent-decodes a path: `+` stays a plus. */
function decodePath(text: string): string {
  return text.includes("%") ? decodePercent(text) : text;
}

function decodePercent(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw new S3Error("InvalidURI", { cause });
  }
}

function parseQuery(query: string): readonly QueryParameter[] {
  if (query === "") return [];
  const parameters: QueryParameter[] = [];
  for (const pair of query.split("&")) {
    if (pair === "") continue;
    const equals = pair.indexOf("=");
    parameters.push({
      name: decodeQuery(equals < 0 ? pair : pair.slice(0, equals)),
      value: equals < 0 ? "" : decodeQuery(pair.slice(equals + 1)),
    });
  }
  return parameters;
}

/** Percent-decodes a part of a query: `+` is a space. */
function decodeQuery(text: string): string {
  const spaced = text.includes("+") ? text.replaceAll("+", " ") : text;
  return decodePath(spaced);
}

// deno-lint-ignore no-control-regex
const ASCII = /^[\x00-\x7f]*$/;
const utf8Decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Reads a byte string (one character for each byte) as UTF-8; keeps it where it is not UTF-8. */
export function latin1ToUtf8(value: string): string {
  if (ASCII.test(value)) return value;
  try {
    return utf8Decoder.decode(binaryBytes(value));
  } catch (error) {
    if (error instanceof TypeError) return value;
    throw error;
  }
}

const encoder = new TextEncoder();

/** Bytes of a string with one character for each byte; beyond U+00FF it is taken as text. */
export function binaryBytes(value: string): Uint8Array<ArrayBuffer> {
  if (ASCII.test(value)) return encoder.encode(value);
  const bytes = new Uint8Array(value.length);
  for (let i = 0; i < value.length; i++) {
    const code = value.charCodeAt(i);
    if (code > 0xff) return encoder.encode(value);
    bytes[i] = code;
  }
  return bytes;
}
