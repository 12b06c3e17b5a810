/**
 * What a writer says of an object in headers, and how it is said back.
 *
 * User metadata that is not ASCII is answered as RFC 2047 encoded words and such words are decoded
 * when they come in, as Amazon S3 documents for REST ("Working with object metadata"). Raw UTF-8 is
 * taken as well.
 */
import { utf8 } from "../../common/bytes.ts";
import type { ObjectAttributes, ObjectHeaders, ObjectVersion, Tags } from "../../namespace/api.ts";
import { CHECKSUMS, checksumText, toBase64 } from "./checksums.ts";
import { invalidArgument, notImplemented, S3Error } from "./errors.ts";
import { binaryBytes, type S3Request } from "./request.ts";

/** Names and values together, in bytes of UTF-8. */
export const MAX_USER_METADATA_BYTES = 2048;
export const MAX_OBJECT_TAGS = 10;
export const MAX_BUCKET_TAGS = 50;
const META = "x-amz-meta-";
const DEFAULT_CONTENT_TYPE = "binary/octet-stream";

const SYSTEM: readonly (readonly [keyof ObjectHeaders, string])[] = [
  ["contentType", "content-type"],
  ["contentEncoding", "content-encoding"],
  ["contentLanguage", "content-language"],
  ["contentDisposition", "content-disposition"],
  ["cacheControl", "cache-control"],
  ["expires", "expires"],
];

/** Headers that ask for what is not there; each is refused by name. */
const UNSUPPORTED: readonly string[] = [
  "x-amz-server-side-encryption-customer-algorithm",
  "x-amz-server-side-encryption-customer-key",
  "x-amz-server-side-encryption-customer-key-md5",
  "x-amz-copy-source-server-side-encryption-customer-algorithm",
  "x-amz-server-side-encryption-aws-kms-key-id",
  "x-amz-server-side-encryption-context",
  "x-amz-server-side-encryption-bucket-key-enabled",
  "x-amz-object-lock-mode",
  "x-amz-object-lock-retain-until-date",
  "x-amz-object-lock-legal-hold",
  "x-amz-website-redirect-location",
  "x-amz-write-offset-bytes",
  "x-amz-grant-read",
  "x-amz-grant-write",
  "x-amz-grant-read-acp",
  "x-amz-grant-write-acp",
  "x-amz-grant-full-control",
];

/**
 * Refuses headers of a write that imply what is not implemented: keys of others, locks, grants,
 * storage classes. `private` and `AES256` are what is done anyway.
 */
export function refuseUnsupportedHeaders(request: S3Request): void {
  for (const [name, value] of request.headerEntries()) {
    if (!name.startsWith("x-amz-")) continue;
    switch (name) {
      case "x-amz-server-side-encryption":
        if (value !== "AES256") throw notImplemented(`${name}: ${value.slice(0, 64)}`);
        break;
      case "x-amz-storage-class":
        if (value !== "STANDARD") throw notImplemented(`${name}: ${value.slice(0, 64)}`);
        break;
      case "x-amz-acl":
        if (value !== "private") {
          throw new S3Error("AccessControlListNotSupported", {
            message: `The bucket does not allow ACLs: ${name} "${
              value.slice(0, 64)
            }" (only "private").`,
          });
        }
        break;
      case "x-amz-bucket-object-lock-enabled":
        if (value.toLowerCase() !== "false") throw notImplemented("Object Lock");
        break;
      case "x-amz-object-ownership":
        if (value !== "BucketOwnerEnforced") throw notImplemented(`${name}: ${value.slice(0, 64)}`);
        break;
      default:
        if (UNSUPPORTED.includes(name)) throw notImplemented(`Header ${name}`);
    }
  }
}

/** Refuses keys of the client on reads. */
export function refuseCustomerKeys(request: S3Request): void {
  if (request.header("x-amz-server-side-encryption-customer-algorithm") !== undefined) {
    throw notImplemented("Header x-amz-server-side-encryption-customer-algorithm");
  }
}

/** System headers, user metadata and tags of a write. */
export function attributesOf(request: S3Request): ObjectAttributes {
  return {
    headers: systemHeaders(request),
    userMetadata: userMetadata(request),
    tags: tagsOfHeader(request.text("x-amz-tagging")),
  };
}

/** System headers of a write; `aws-chunked` is of the transport and is not kept. */
export function systemHeaders(request: S3Request): ObjectHeaders {
  const headers: { -readonly [Name in keyof ObjectHeaders]: ObjectHeaders[Name] } = {};
  for (const [field, name] of SYSTEM) {
    const value = request.text(name);
    if (value !== undefined && value !== "") headers[field] = value;
  }
  if (headers.contentEncoding !== undefined) {
    const kept = headers.contentEncoding.split(",").map((one) => one.trim())
      .filter((one) => one !== "" && one.toLowerCase() !== "aws-chunked");
    if (kept.length === 0) delete headers.contentEncoding;
    else headers.contentEncoding = kept.join(",");
  }
  return headers;
}

/** @throws S3Error MetadataTooLarge. */
export function userMetadata(request: S3Request): Readonly<Record<string, string>> {
  const metadata: Record<string, string> = {};
  let size = 0;
  for (const [name, raw] of request.headerEntries()) {
    if (!name.startsWith(META)) continue;
    const value = decodeWords(request.text(name) ?? raw);
    const short = name.slice(META.length);
    size += short.length + utf8(value).length;
    if (size > MAX_USER_METADATA_BYTES) {
      throw new S3Error("MetadataTooLarge", {
        extra: { Size: String(size), MaxSizeAllowed: String(MAX_USER_METADATA_BYTES) },
      });
    }
    Object.defineProperty(metadata, short, {
      value,
      enumerable: true,
      writable: true,
      configurable: true,
    });
  }
  return metadata;
}

/** RFC 2047 encoded words of UTF-8 inside a value; anything else stays as it is. */
function decodeWords(value: string): string {
  if (!value.includes("=?")) return value;
  return value.replace(
    /=\?utf-8\?([bq])\?([^?\s]*)\?=(?:\s+(?==\?utf-8\?))?/gi,
    (whole, kind: string, text: string) => {
      try {
        const binary = kind.toLowerCase() === "b" ? atob(text) : text.replaceAll("_", " ").replace(
          /=([0-9A-Fa-f]{2})/g,
          (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)),
        );
        return new TextDecoder("utf-8", { fatal: true }).decode(binaryBytes(binary));
      } catch (error) {
        if (error instanceof TypeError || error instanceof DOMException) return whole;
        throw error;
      }
    },
  );
}

const PRINTABLE = /^[\x20-\x7e]*$/;

/** A value as it may stand in an answer's header. */
export function headerValue(value: string): string {
  return PRINTABLE.test(value) ? value : `=?UTF-8?B?${toBase64(utf8(value))}?=`;
}

/**
 * Tags of an `x-amz-tagging` header: a query string.
 *
 * @throws S3Error InvalidArgument, InvalidTag.
 */
export function tagsOfHeader(text: string | undefined): Tags {
  if (text === undefined || text === "") return [];
  const tags: [string, string][] = [];
  for (const pair of text.split("&")) {
    if (pair === "") continue;
    const equals = pair.indexOf("=");
    const name = equals < 0 ? pair : pair.slice(0, equals);
    const value = equals < 0 ? "" : pair.slice(equals + 1);
    try {
      tags.push([
        decodeURIComponent(name.replaceAll("+", " ")),
        decodeURIComponent(value.replaceAll("+", " ")),
      ]);
    } catch (error) {
      if (!(error instanceof URIError)) throw error;
      throw invalidArgument(
        "x-amz-tagging",
        text,
        "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.",
      );
    }
  }
  checkTags(tags, MAX_OBJECT_TAGS);
  return tags;
}

const TAG_TEXT = /^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$/u;

/** @throws S3Error InvalidTag, BadRequest. */
export function checkTags(tags: Tags, max: number): void {
  if (tags.length > max) {
    throw new S3Error("BadRequest", {
      message: `Object tags cannot be greater than ${max}`,
    });
  }
  const seen = new Set<string>();
  for (const [key, value] of tags) {
    if (key.length === 0 || key.length > 128 || !TAG_TEXT.test(key)) {
      throw new S3Error("InvalidTag", {
        message: "The TagKey you have provided is invalid",
        extra: { TagKey: key.slice(0, 256) },
      });
    }
    if (value.length > 256 || !TAG_TEXT.test(value)) {
      throw new S3Error("InvalidTag", {
        message: "The TagValue you have provided is invalid",
        extra: { TagKey: key, TagValue: value.slice(0, 256) },
      });
    }
    if (seen.has(key)) {
      throw new S3Error("InvalidTag", {
        message: "Cannot provide multiple Tags with the same key",
        extra: { TagKey: key },
      });
    }
    seen.add(key);
  }
}

export type HeaderPair = [string, string];

const OVERRIDES: readonly (readonly [string, string])[] = [
  ["response-content-type", "content-type"],
  ["response-content-encoding", "content-encoding"],
  ["response-content-language", "content-language"],
  ["response-content-disposition", "content-disposition"],
  ["response-cache-control", "cache-control"],
  ["response-expires", "expires"],
];

/** All headers that tell of a version, without Content-Length. */
export function versionHeaders(request: S3Request, version: ObjectVersion): HeaderPair[] {
  const headers: HeaderPair[] = [
    ["etag", `"${version.etag}"`],
    ["last-modified", new Date(version.lastModifiedMs).toUTCString()],
    ["accept-ranges", "bytes"],
    ["x-amz-server-side-encryption", "AES256"],
    ["content-type", headerValue(version.headers.contentType ?? DEFAULT_CONTENT_TYPE)],
  ];
  for (let i = 1; i < SYSTEM.length; i++) {
    const [field, name] = SYSTEM[i] as readonly [keyof ObjectHeaders, string];
    const value = version.headers[field];
    if (value !== undefined) headers.push([name, headerValue(value)]);
  }
  for (const name of Object.keys(version.userMetadata)) {
    headers.push([META + name, headerValue(version.userMetadata[name] ?? "")]);
  }
  if (version.tags.length > 0) headers.push(["x-amz-tagging-count", String(version.tags.length)]);
  if (version.versionId !== "null" || request.hasParameter("versionId")) {
    headers.push(["x-amz-version-id", version.versionId]);
  }
  return headers;
}

/** Lays `response-*` parameters over an answer's headers. */
export function overrideHeaders(request: S3Request, headers: HeaderPair[]): void {
  if (request.query.length === 0) return;
  for (const [parameter, name] of OVERRIDES) {
    const value = request.parameter(parameter);
    if (value === undefined) continue;
    const at = headers.findIndex((pair) => pair[0] === name);
    const pair: HeaderPair = [name, headerValue(value)];
    if (at < 0) headers.push(pair);
    else headers[at] = pair;
  }
}

/** The checksum of a version, where the request asks for it. */
export function checksumHeaders(request: S3Request, version: ObjectVersion): HeaderPair[] {
  const { checksum } = version;
  if (checksum === undefined) return [];
  if (request.header("x-amz-checksum-mode")?.toUpperCase() !== "ENABLED") return [];
  return [
    [CHECKSUMS[checksum.algorithm].header, checksumText(checksum, version.partCount)],
    ["x-amz-checksum-type", checksum.type],
  ];
}
