/**
 * Conditional requests: reads after RFC 9110 section 13.2.2, copy sources and writes after the
 * Amazon S3 API Reference (GetObject, CopyObject, PutObject).
 *
 * Dates are compared in whole seconds, as HTTP writes them.
 */
import type { ObjectVersion, WriteCondition } from "../../namespace/api.ts";
import { notImplemented, S3Error } from "./errors.ts";
import type { S3Request } from "./request.ts";

/** ETags of a list header, without quotes and weakness; `*` stays. */
export function parseEtags(text: string): readonly string[] {
  return text.split(",").map((one) => {
    const tag = one.trim().replace(/^W\//, "");
    return tag.length >= 2 && tag.startsWith('"') && tag.endsWith('"') ? tag.slice(1, -1) : tag;
  }).filter((one) => one !== "");
}

function matches(tags: readonly string[], etag: string): boolean {
  return tags.includes("*") || tags.includes(etag);
}

/** An HTTP date in seconds; undefined for what is none: such a header is ignored (RFC 9110 13.1.3). */
function httpSeconds(text: string): number | undefined {
  const ms = Date.parse(text);
  return Number.isFinite(ms) ? Math.floor(ms / 1000) : undefined;
}

interface Verdict {
  /** If-Match or If-Unmodified-Since did not hold. */
  readonly failed?: string;
  /** If-None-Match or If-Modified-Since did not hold. */
  readonly unchanged?: string;
}

function judge(
  version: ObjectVersion,
  value: (name: string) => string | undefined,
): Verdict {
  const modified = Math.floor(version.lastModifiedMs / 1000);
  const ifMatch = value("if-match");
  if (ifMatch !== undefined) {
    if (!matches(parseEtags(ifMatch), version.etag)) return { failed: "If-Match" };
  } else {
    const since = value("if-unmodified-since");
    const seconds = since === undefined ? undefined : httpSeconds(since);
    if (seconds !== undefined && modified > seconds) return { failed: "If-Unmodified-Since" };
  }
  const ifNoneMatch = value("if-none-match");
  if (ifNoneMatch !== undefined) {
    if (matches(parseEtags(ifNoneMatch), version.etag)) return { unchanged: "If-None-Match" };
  } else {
    const since = value("if-modified-since");
    const seconds = since === undefined ? undefined : httpSeconds(since);
    if (seconds !== undefined && modified <= seconds) return { unchanged: "If-Modified-Since" };
  }
  return {};
}

function preconditionFailed(condition: string): S3Error {
  return new S3Error("PreconditionFailed", { extra: { Condition: condition } });
}

/**
 * Judges a read.
 *
 * @returns true when the answer is 304 Not Modified.
 * @throws S3Error PreconditionFailed.
 */
export function notModified(request: S3Request, version: ObjectVersion): boolean {
  const verdict = judge(version, (name) => request.header(name));
  if (verdict.failed !== undefined) throw preconditionFailed(verdict.failed);
  return verdict.unchanged !== undefined;
}

/** Judges the source of a copy: whatever does not hold is a failed precondition. */
export function checkCopySource(request: S3Request, source: ObjectVersion): void {
  const verdict = judge(source, (name) => request.header(`x-amz-copy-source-${name}`));
  const failed = verdict.failed ?? verdict.unchanged;
  if (failed !== undefined) {
    throw preconditionFailed(`x-amz-copy-source-${failed}`);
  }
}

/**
 * The condition of a write. S3 knows `If-None-Match: *` and `If-Match` with an ETag; dates do not
 * apply to writes.
 *
 * @throws S3Error NotImplemented for other forms.
 */
export function writeCondition(request: S3Request): WriteCondition {
  const ifMatch = request.header("if-match");
  const ifNoneMatch = request.header("if-none-match");
  if (ifNoneMatch !== undefined && ifNoneMatch.trim() !== "*") {
    throw notImplemented("If-None-Match with an ETag on a write");
  }
  if (ifMatch !== undefined && ifNoneMatch !== undefined) {
    throw notImplemented("If-Match together with If-None-Match on a write");
  }
  return {
    ...(ifMatch === undefined ? {} : { ifMatch: parseEtags(ifMatch) }),
    ...(ifNoneMatch === undefined ? {} : { ifNoneMatch: ["*"] }),
  };
}
