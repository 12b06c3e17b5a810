/** Answers: XML documents, empty ones, and the forms of dates that S3 uses. */
import { type Bytes, unshared } from "../../common/bytes.ts";
import type { ObjectVersion } from "../../namespace/api.ts";
import type { HeaderPair } from "./object_headers.ts";
import { xmlDocument } from "./xml.ts";

/** An XML document with status 200. */
export function xmlResponse(
  root: string,
  content: readonly string[],
  headers: readonly HeaderPair[] = [],
): Response {
  return bytesResponse(xmlDocument(root, ...content), [
    ["content-type", "application/xml"],
    ...headers,
  ]);
}

export function bytesResponse(
  bytes: Bytes,
  headers: HeaderPair[],
  status = 200,
): Response {
  return new Response(unshared(bytes), { status, headers });
}

/** No body. */
export function emptyResponse(status: number, headers: HeaderPair[] = []): Response {
  return new Response(null, { status, headers });
}

/** `2009-10-12T17:50:30.000Z` */
export function isoDate(ms: number): string {
  return new Date(ms).toISOString();
}

/** The version header of an answer to a write: unversioned objects have none. */
export function versionIdHeader(version: Pick<ObjectVersion, "versionId">): HeaderPair[] {
  return version.versionId === "null" ? [] : [["x-amz-version-id", version.versionId]];
}
