/** GetObject and HeadObject: ranges, parts, conditions, response-* overrides. */
import { type Bytes, unshared } from "../../common/bytes.ts";
import { MAX_PARTS, type ObjectHandle, type ObjectVersion } from "../../namespace/api.ts";
import { CHECKSUMS, checksumText } from "./checksums.ts";
import { notModified, parseEtags } from "./conditions.ts";
import type { S3Context } from "./context.ts";
import { invalidArgument, S3Error } from "./errors.ts";
import {
  checksumHeaders,
  type HeaderPair,
  overrideHeaders,
  refuseCustomerKeys,
  versionHeaders,
} from "./object_headers.ts";
import { type ByteRange, parseRange } from "./range.ts";
import type { S3Request } from "./request.ts";
import { emptyResponse } from "./respond.ts";

/** Part of a version that is answered. */
interface Selection {
  readonly status: 200 | 206;
  readonly range: ByteRange;
  readonly headers: readonly HeaderPair[];
}

/** GET /bucket/key */
export async function getObject(context: S3Context): Promise<Response> {
  const { request, namespaces, identity, counts, limits } = context;
  refuseCustomerKeys(request);
  const handle = await namespaces.openObject(
    identity,
    request.bucket,
    request.key,
    versionIdOf(request),
  );
  const { version } = handle;
  if (notModified(request, version)) return notModifiedResponse(request, version);
  const { status, range, headers } = await select(request, version, handle);
  const all = answerHeaders(request, version, headers, range.length);
  if (range.length === 0) return new Response(null, { status, headers: all });
  if (range.length <= limits.smallAnswerBytes) {
    counts.bytesOut += range.length;
    return await smallResponse(handle, range, { status, headers: all });
  }
  return new Response(contentStream(context, handle, range), { status, headers: all });
}

/** HEAD /bucket/key */
export async function headObject(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  refuseCustomerKeys(request);
  const versionId = versionIdOf(request);
  const handle = request.hasParameter("partNumber")
    ? await namespaces.openObject(identity, request.bucket, request.key, versionId)
    : undefined;
  const version = handle?.version ??
    await namespaces.headObject(identity, request.bucket, request.key, versionId);
  if (notModified(request, version)) return notModifiedResponse(request, version);
  const { status, range, headers } = await select(request, version, handle);
  return new Response(null, {
    status,
    headers: answerHeaders(request, version, headers, range.length),
  });
}

/** The version that a request names: "" counts as a name, and is none. */
export function versionIdOf(request: S3Request): string | undefined {
  const versionId = request.parameter("versionId");
  if (versionId === undefined) return undefined;
  if (versionId === "") {
    throw invalidArgument("versionId", "", "Version id cannot be the empty string");
  }
  if (versionId !== "null" && !/^[0-9a-f]{32}$/.test(versionId)) {
    throw invalidArgument("versionId", versionId, "Invalid version id specified");
  }
  return versionId;
}

function answerHeaders(
  request: S3Request,
  version: ObjectVersion,
  further: readonly HeaderPair[],
  length: number,
): HeaderPair[] {
  const headers = versionHeaders(request, version);
  headers.push(["content-length", String(length)], ...further);
  overrideHeaders(request, headers);
  return headers;
}

/** RFC 9110 section 15.4.5: the headers that a cache needs. */
function notModifiedResponse(request: S3Request, version: ObjectVersion): Response {
  const kept = ["etag", "last-modified", "cache-control", "expires", "x-amz-version-id"];
  return emptyResponse(
    304,
    versionHeaders(request, version).filter(([name]) => kept.includes(name)),
  );
}

async function select(
  request: S3Request,
  version: ObjectVersion,
  handle: ObjectHandle | undefined,
): Promise<Selection> {
  const rangeHeader = request.header("range");
  const partText = request.parameter("partNumber");
  if (partText !== undefined) {
    if (rangeHeader !== undefined) {
      throw new S3Error("InvalidRequest", {
        message: "Cannot specify both Range header and partNumber query parameter",
      });
    }
    return await selectPart(request, version, handle, partText);
  }
  const range = ifRangeHolds(request, version)
    ? parseRange(rangeHeader, version.sizeBytes)
    : undefined;
  if (range === undefined) {
    return {
      status: 200,
      range: { offset: 0, length: version.sizeBytes },
      headers: checksumHeaders(request, version),
    };
  }
  return { status: 206, range, headers: [contentRange(range, version.sizeBytes)] };
}

/** RFC 9110 section 13.1.5. */
function ifRangeHolds(request: S3Request, version: ObjectVersion): boolean {
  const value = request.header("if-range");
  if (value === undefined) return true;
  if (value.trim().startsWith('"')) return parseEtags(value).includes(version.etag);
  const ms = Date.parse(value);
  return Number.isFinite(ms) &&
    Math.floor(version.lastModifiedMs / 1000) === Math.floor(ms / 1000);
}

function contentRange(range: ByteRange, sizeBytes: number): HeaderPair {
  return ["content-range", `bytes ${range.offset}-${range.offset + range.length - 1}/${sizeBytes}`];
}

async function selectPart(
  request: S3Request,
  version: ObjectVersion,
  handle: ObjectHandle | undefined,
  partText: string,
): Promise<Selection> {
  const number = /^\d{1,6}$/.test(partText) ? Number(partText) : 0;
  if (number < 1 || number > MAX_PARTS) {
    throw invalidArgument(
      "partNumber",
      partText,
      "Part number must be an integer between 1 and 10000, inclusive",
    );
  }
  const parts = handle === undefined ? [] : await handle.parts();
  const checksumWanted = request.header("x-amz-checksum-mode")?.toUpperCase() === "ENABLED";
  if (parts.length === 0) {
    if (number !== 1) throw new S3Error("InvalidPartNumber");
    const range = { offset: 0, length: version.sizeBytes };
    const headers = checksumHeaders(request, version);
    return version.sizeBytes === 0
      ? { status: 200, range, headers }
      : { status: 206, range, headers: [...headers, contentRange(range, version.sizeBytes)] };
  }
  let offset = 0;
  for (const [index, part] of parts.entries()) {
    // Parts of an object are numbered from 1 without gaps, whatever their upload numbers were.
    if (index + 1 === number) {
      const range = { offset, length: part.sizeBytes };
      const headers: HeaderPair[] = [["x-amz-mp-parts-count", String(parts.length)]];
      if (part.sizeBytes > 0) headers.push(contentRange(range, version.sizeBytes));
      if (checksumWanted && part.checksum !== undefined) {
        headers.push(
          [CHECKSUMS[part.checksum.algorithm].header, checksumText(part.checksum)],
          ["x-amz-checksum-type", version.checksum?.type ?? part.checksum.type],
        );
      }
      return { status: 206, range, headers };
    }
    offset += part.sizeBytes;
  }
  throw new S3Error("InvalidPartNumber", {
    extra: { PartNumberRequested: partText, ActualPartCount: String(parts.length) },
  });
}

/**
 * Small content in one buffer. Pieces are valid only until the next is asked for: a single one goes
 * straight into the answer, which copies it (Fetch Standard, "extract a body"), several are joined.
 */
async function smallResponse(
  handle: ObjectHandle,
  range: ByteRange,
  init: ResponseInit,
): Promise<Response> {
  const pieces = handle.read(range.offset, range.length);
  let body: Uint8Array<ArrayBuffer> | undefined;
  let at = 0;
  try {
    while (at < range.length) {
      const { done, value } = await pieces.next();
      if (done === true || at + value.length > range.length) throw shortContent(range, at);
      if (value.length === range.length) return new Response(unshared(value), init);
      body ??= new Uint8Array(range.length);
      body.set(value, at);
      at += value.length;
    }
    return new Response(body, init);
  } finally {
    await pieces.return?.();
  }
}

function shortContent(range: ByteRange, got: number): Error {
  return new Error(`content of ${range.length} bytes gave ${got}`);
}

/**
 * Content as a stream that is read as fast as the client takes it. A failure breaks the
 * connection, so a client never takes a part for the whole; a client that goes away releases the
 * reader.
 */
function contentStream(
  context: S3Context,
  handle: ObjectHandle,
  range: ByteRange,
): ReadableStream<Uint8Array> {
  const { counts, logger } = context;
  const pieces = handle.read(range.offset, range.length, true);
  let sent = 0;
  counts.streaming = true;
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      let result: IteratorResult<Bytes>;
      try {
        result = await pieces.next();
      } catch (error) {
        logger.error("s3.read_broken", {
          sent,
          wanted: range.length,
          error: error instanceof Error ? error.message : String(error),
        });
        counts.ended();
        throw error;
      }
      if (result.done === true) {
        counts.ended();
        if (sent !== range.length) throw shortContent(range, sent);
        controller.close();
        return;
      }
      sent += result.value.length;
      counts.bytesOut += result.value.length;
      controller.enqueue(result.value);
    },
    async cancel() {
      counts.ended();
      await pieces.return?.();
    },
  }, { highWaterMark: 0 });
}
