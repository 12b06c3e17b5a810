/**
 * Byte ranges of a read (RFC 9110 section 14).
 *
 * "Amazon S3 doesn't support retrieving multiple ranges of data per GET request" (API Reference,
 * GetObject): what it does with several ranges, and with a header that it cannot read, is to
 * answer the whole object with status 200, which RFC 9110 section 14.2 allows. So do we. A range
 * that begins beyond the end is 416 InvalidRange.
 */
import { S3Error } from "./errors.ts";

export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/**
 * The range that a header asks for; undefined: the whole object.
 *
 * @throws S3Error InvalidRange.
 */
export function parseRange(header: string | undefined, sizeBytes: number): ByteRange | undefined {
  if (header === undefined) return undefined;
  const match = /^\s*bytes\s*=\s*(\d{0,15})\s*-\s*(\d{0,15})\s*$/i.exec(header);
  if (match === null) return undefined;
  const [, first = "", last = ""] = match;
  if (first === "" && last === "") return undefined;
  if (first === "") {
    const length = Math.min(Number(last), sizeBytes);
    if (length === 0) throw invalidRange(header, sizeBytes);
    return { offset: sizeBytes - length, length };
  }
  const offset = Number(first);
  const end = last === "" ? sizeBytes - 1 : Number(last);
  if (last !== "" && end < offset) return undefined;
  if (offset >= sizeBytes) throw invalidRange(header, sizeBytes);
  return { offset, length: Math.min(end, sizeBytes - 1) - offset + 1 };
}

function invalidRange(header: string, sizeBytes: number): S3Error {
  return new S3Error("InvalidRange", {
    extra: { RangeRequested: header.slice(0, 128), ActualObjectSize: String(sizeBytes) },
    headers: { "content-range": `bytes */${sizeBytes}` },
  });
}

/**
 * The range of UploadPartCopy: `bytes=first-last`, both given, inside the source.
 *
 * @throws S3Error InvalidArgument.
 */
export function parseCopyRange(header: string | undefined, sizeBytes: number): ByteRange {
  if (header === undefined) return { offset: 0, length: sizeBytes };
  const match = /^bytes=(\d{1,15})-(\d{1,15})$/.exec(header.trim());
  const first = Number(match?.[1]);
  const last = Number(match?.[2]);
  if (match === null || last < first) {
    throw new S3Error("InvalidArgument", {
      message:
        "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy",
      extra: { ArgumentName: "x-amz-copy-source-range", ArgumentValue: header.slice(0, 128) },
    });
  }
  if (last >= sizeBytes) {
    throw new S3Error("InvalidArgument", {
      message: `Range specified is not valid for source object of size: ${sizeBytes}`,
      extra: { ArgumentName: "x-amz-copy-source-range", ArgumentValue: header.slice(0, 128) },
    });
  }
  return { offset: first, length: last - first + 1 };
}
