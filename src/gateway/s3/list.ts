/** ListObjects, ListObjectsV2 and ListObjectVersions. */
import { utf8, utf8ToString } from "../../common/bytes.ts";
import { isKisekiError } from "../../common/errors.ts";
import type { ListItem, ObjectVersion } from "../../namespace/api.ts";
import { ownerXml } from "./buckets.ts";
import { toBase64 } from "./checksums.ts";
import type { S3Context } from "./context.ts";
import { invalidArgument } from "./errors.ts";
import { binaryBytes, type S3Request } from "./request.ts";
import { isoDate, xmlResponse } from "./respond.ts";
import { uriEncodePath } from "./sigv4.ts";
import { leaf, node } from "./xml.ts";

export const MAX_LIST_KEYS = 1000;

/** How names are written: as they are, or percent-encoded (`encoding-type=url`). */
export type NameEncoder = (name: string) => string;

/** @throws S3Error InvalidArgument. */
export function nameEncoder(request: S3Request): NameEncoder {
  const type = request.parameter("encoding-type");
  if (type === undefined || type === "") return (name) => name;
  if (type === "url") return uriEncodePath;
  throw invalidArgument("encoding-type", type, "Invalid Encoding Method specified in Request");
}

/** A limit of a listing, at most 1,000. @throws S3Error InvalidArgument. */
export function listLimit(request: S3Request, name: string): number {
  const text = request.parameter(name);
  if (text === undefined || text === "") return MAX_LIST_KEYS;
  if (!/^\d{1,10}$/.test(text) || Number(text) > 0x7fff_ffff) {
    throw invalidArgument(
      name,
      text,
      `Argument ${name} must be an integer between 0 and 2147483647`,
    );
  }
  return Math.min(MAX_LIST_KEYS, Number(text));
}

function encodingXml(request: S3Request): string {
  return request.parameter("encoding-type") === "url" ? leaf("EncodingType", "url") : "";
}

/** A prefix that many keys share. */
export function prefixXml(prefix: string, encode: NameEncoder): string {
  return node("CommonPrefixes", leaf("Prefix", encode(prefix)));
}

function checksumXml(version: ObjectVersion): string {
  return version.checksum === undefined
    ? ""
    : leaf("ChecksumAlgorithm", version.checksum.algorithm) +
      leaf("ChecksumType", version.checksum.type);
}

function contentsXml(version: ObjectVersion, encode: NameEncoder, owner: string): string {
  return node(
    "Contents",
    leaf("Key", encode(version.key)),
    leaf("LastModified", isoDate(version.lastModifiedMs)),
    leaf("ETag", `"${version.etag}"`),
    checksumXml(version),
    leaf("Size", version.sizeBytes),
    owner,
    leaf("StorageClass", "STANDARD"),
  );
}

function itemsXml(items: readonly ListItem[], encode: NameEncoder, owner: string): string {
  let contents = "";
  let prefixes = "";
  for (const item of items) {
    if (item.type === "object") contents += contentsXml(item.object, encode, owner);
    else prefixes += prefixXml(item.prefix, encode);
  }
  return contents + prefixes;
}

/** GET /bucket */
export async function listObjects(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const encode = nameEncoder(request);
  const prefix = request.parameter("prefix") ?? "";
  const delimiter = request.parameter("delimiter") ?? "";
  const marker = request.parameter("marker") ?? "";
  const limit = listLimit(request, "max-keys");
  const page = await namespaces.listObjects(identity, request.bucket, {
    prefix,
    delimiter,
    after: marker,
    limit,
  });
  const truncated = limit > 0 && page.next !== undefined;
  return xmlResponse("ListBucketResult", [
    leaf("Name", request.bucket),
    leaf("Prefix", encode(prefix)),
    leaf("Marker", encode(marker)),
    // Told only with a delimiter: without one the last key is the marker (API Reference).
    truncated && delimiter !== "" ? leaf("NextMarker", encode(page.next ?? "")) : "",
    leaf("MaxKeys", limit),
    delimiter === "" ? "" : leaf("Delimiter", encode(delimiter)),
    encodingXml(request),
    leaf("IsTruncated", truncated),
    itemsXml(page.items, encode, ownerXml(context)),
  ]);
}

/** GET /bucket?list-type=2 */
export async function listObjectsV2(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const encode = nameEncoder(request);
  const prefix = request.parameter("prefix") ?? "";
  const delimiter = request.parameter("delimiter") ?? "";
  const startAfter = request.parameter("start-after");
  const token = request.parameter("continuation-token");
  const limit = listLimit(request, "max-keys");
  const page = await namespaces.listObjects(identity, request.bucket, {
    prefix,
    delimiter,
    after: token === undefined ? startAfter ?? "" : decodeToken(token),
    limit,
  });
  const truncated = limit > 0 && page.next !== undefined;
  const owner = request.parameter("fetch-owner") === "true" ? ownerXml(context) : "";
  return xmlResponse("ListBucketResult", [
    leaf("Name", request.bucket),
    leaf("Prefix", encode(prefix)),
    startAfter === undefined ? "" : leaf("StartAfter", encode(startAfter)),
    token === undefined ? "" : leaf("ContinuationToken", token),
    truncated ? leaf("NextContinuationToken", encodeToken(page.next ?? "")) : "",
    leaf("KeyCount", page.items.length),
    leaf("MaxKeys", limit),
    delimiter === "" ? "" : leaf("Delimiter", encode(delimiter)),
    encodingXml(request),
    leaf("IsTruncated", truncated),
    itemsXml(page.items, encode, owner),
  ]);
}

const TOKEN_VERSION = "1";

/** A continuation token: opaque to clients; a version, then base64url of the last name. */
export function encodeToken(after: string): string {
  return TOKEN_VERSION +
    toBase64(utf8(after)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** @throws S3Error InvalidArgument. */
export function decodeToken(token: string): string {
  const wrong = () =>
    invalidArgument("continuation-token", token, "The continuation token provided is incorrect");
  if (!/^1[A-Za-z0-9_-]{1,1400}$/.test(token)) throw wrong();
  try {
    const binary = atob(token.slice(1).replaceAll("-", "+").replaceAll("_", "/"));
    return utf8ToString(binaryBytes(binary));
  } catch (error) {
    if (error instanceof DOMException || isKisekiError(error)) throw wrong();
    throw error;
  }
}

/** GET /bucket?versions */
export async function listObjectVersions(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const encode = nameEncoder(request);
  const prefix = request.parameter("prefix") ?? "";
  const delimiter = request.parameter("delimiter") ?? "";
  const keyMarker = request.parameter("key-marker") ?? "";
  const versionIdMarker = request.parameter("version-id-marker") ?? "";
  if (versionIdMarker !== "" && keyMarker === "") {
    throw invalidArgument(
      "version-id-marker",
      versionIdMarker,
      "A version-id marker cannot be specified without a key marker.",
    );
  }
  const limit = listLimit(request, "max-keys");
  const page = await namespaces.listVersions(identity, request.bucket, {
    prefix,
    delimiter,
    keyMarker,
    versionIdMarker,
    limit,
  });
  const next = limit > 0 ? page.next : undefined;
  const owner = ownerXml(context);
  let versions = "";
  let prefixes = "";
  for (const item of page.items) {
    if (item.type === "object") versions += versionXml(item.object, encode, owner);
    else prefixes += prefixXml(item.prefix, encode);
  }
  return xmlResponse("ListVersionsResult", [
    leaf("Name", request.bucket),
    leaf("Prefix", encode(prefix)),
    leaf("KeyMarker", encode(keyMarker)),
    leaf("VersionIdMarker", versionIdMarker),
    next === undefined ? "" : leaf("NextKeyMarker", encode(next.keyMarker)) +
      leaf("NextVersionIdMarker", next.versionIdMarker),
    leaf("MaxKeys", limit),
    delimiter === "" ? "" : leaf("Delimiter", encode(delimiter)),
    encodingXml(request),
    leaf("IsTruncated", next !== undefined),
    versions,
    prefixes,
  ]);
}

function versionXml(version: ObjectVersion, encode: NameEncoder, owner: string): string {
  const head = leaf("Key", encode(version.key)) + leaf("VersionId", version.versionId) +
    leaf("IsLatest", version.isLatest) + leaf("LastModified", isoDate(version.lastModifiedMs));
  if (version.deleteMarker) return node("DeleteMarker", head, owner);
  return node(
    "Version",
    head,
    leaf("ETag", `"${version.etag}"`),
    checksumXml(version),
    leaf("Size", version.sizeBytes),
    leaf("StorageClass", "STANDARD"),
    owner,
  );
}
