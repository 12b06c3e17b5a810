/**
 * The one table from failures to S3's protocol: code, status and message.
 *
 * Handlers throw {@link S3Error} for what the protocol itself refuses and let `KisekiError` pass;
 * `toS3Error` turns either into an answer. Codes, statuses and messages follow Amazon S3's list of
 * error responses (API Reference, "Error responses"). What is internal is never told: such errors
 * carry S3's own message and the log carries the rest.
 */
import { type ErrorCode, isKisekiError } from "../../common/errors.ts";

interface S3ErrorEntry {
  readonly status: number;
  readonly message: string;
}

/** Every code that this gateway answers. */
export const S3_ERRORS = {
  AccessControlListNotSupported: { status: 400, message: "The bucket does not allow ACLs." },
  AccessDenied: { status: 403, message: "Access Denied" },
  AccessForbidden: {
    status: 403,
    message: "CORSResponse: This CORS request is not allowed.",
  },
  AuthorizationHeaderMalformed: {
    status: 400,
    message: "The authorization header that you provided is not valid.",
  },
  AuthorizationQueryParametersError: {
    status: 400,
    message: "The authorization query parameters that you provided are not valid.",
  },
  BadDigest: {
    status: 400,
    message:
      "The Content-MD5 or checksum value that you specified did not match what the server received.",
  },
  BadRequest: { status: 400, message: "The request could not be understood." },
  BucketAlreadyOwnedByYou: {
    status: 409,
    message:
      "The bucket that you tried to create already exists, and you own it. Choose another name.",
  },
  BucketNotEmpty: { status: 409, message: "The bucket that you tried to delete is not empty." },
  EntityTooLarge: {
    status: 400,
    message: "Your proposed upload exceeds the maximum allowed object size.",
  },
  EntityTooSmall: {
    status: 400,
    message: "Your proposed upload is smaller than the minimum allowed object size.",
  },
  IllegalLocationConstraintException: {
    status: 400,
    message: "The specified location constraint is not valid for this endpoint.",
  },
  IllegalVersioningConfigurationException: {
    status: 400,
    message: "The versioning configuration specified in the request is not valid.",
  },
  IncompleteBody: {
    status: 400,
    message: "You did not provide the number of bytes specified by the Content-Length HTTP header.",
  },
  InsufficientStorage: {
    status: 507,
    message: "The storage pool has no room for this request. Free space or add devices.",
  },
  InternalError: {
    status: 500,
    message: "An internal error occurred. Try again.",
  },
  InvalidAccessKeyId: {
    status: 403,
    message: "The AWS access key ID that you provided does not exist in our records.",
  },
  InvalidArgument: { status: 400, message: "The argument is not valid." },
  InvalidBucketName: { status: 400, message: "The specified bucket is not valid." },
  InvalidDigest: {
    status: 400,
    message: "The Content-MD5 or checksum value that you specified is not valid.",
  },
  InvalidLocationConstraint: {
    status: 400,
    message: "The specified location (Region) constraint is not valid.",
  },
  InvalidPart: {
    status: 400,
    message:
      "One or more of the specified parts could not be found. The part might not have been uploaded, or the specified entity tag might not have matched the part's entity tag.",
  },
  InvalidPartNumber: { status: 416, message: "The requested partnumber is not satisfiable" },
  InvalidPartOrder: {
    status: 400,
    message:
      "The list of parts was not in ascending order. The parts list must be specified in order by part number.",
  },
  InvalidRange: { status: 416, message: "The requested range is not satisfiable" },
  InvalidRequest: { status: 400, message: "The request is not valid." },
  InvalidStorageClass: {
    status: 400,
    message: "The storage class that you specified is not valid.",
  },
  InvalidTag: { status: 400, message: "The tag provided was not a valid tag." },
  InvalidToken: {
    status: 400,
    message: "The provided token is malformed or otherwise not valid.",
  },
  InvalidURI: { status: 400, message: "The specified URI couldn't be parsed." },
  KeyTooLongError: { status: 400, message: "Your key is too long." },
  MalformedACLError: {
    status: 400,
    message: "The ACL that you provided was not well formed or did not validate.",
  },
  MalformedXML: {
    status: 400,
    message: "The XML that you provided was not well formed or did not validate.",
  },
  MaxMessageLengthExceeded: { status: 400, message: "Your request was too large." },
  MetadataTooLarge: {
    status: 400,
    message: "Your metadata headers exceed the maximum allowed metadata size.",
  },
  MethodNotAllowed: {
    status: 405,
    message: "The specified method is not allowed against this resource.",
  },
  MissingContentLength: {
    status: 411,
    message: "You must provide the Content-Length HTTP header.",
  },
  MissingRequestBodyError: { status: 400, message: "Request Body is empty." },
  MissingSecurityHeader: { status: 400, message: "Your request is missing a required header." },
  NoSuchBucket: { status: 404, message: "The specified bucket does not exist." },
  NoSuchCORSConfiguration: {
    status: 404,
    message: "The specified bucket does not have a CORS configuration.",
  },
  NoSuchKey: { status: 404, message: "The specified key does not exist." },
  NoSuchTagSet: { status: 404, message: "The TagSet does not exist." },
  NoSuchUpload: {
    status: 404,
    message:
      "The specified multipart upload does not exist. The upload ID might be invalid, or the multipart upload might have been aborted or completed.",
  },
  NoSuchVersion: {
    status: 404,
    message: "The version ID specified in the request does not match an existing version.",
  },
  NotImplemented: {
    status: 501,
    message:
      "A header or a request that you provided implies functionality that is not implemented.",
  },
  OperationAborted: {
    status: 409,
    message:
      "A conflicting conditional operation is currently in progress against this resource. Try again.",
  },
  PreconditionFailed: {
    status: 412,
    message: "At least one of the preconditions that you specified did not hold.",
  },
  QuotaExceeded: { status: 403, message: "The quota for this request is used up." },
  RequestTimeTooSkewed: {
    status: 403,
    message: "The difference between the request time and the server's time is too large.",
  },
  RequestTimeout: {
    status: 400,
    message: "Your socket connection to the server was not read from or written to in time.",
  },
  ServiceUnavailable: { status: 503, message: "Service is unable to handle request. Try again." },
  SignatureDoesNotMatch: {
    status: 403,
    message:
      "The request signature that the server calculated does not match the signature that you provided. Check your AWS secret access key and signing method.",
  },
  SlowDown: { status: 503, message: "Please reduce your request rate." },
  XAmzContentSHA256Mismatch: {
    status: 400,
    message: "The provided 'x-amz-content-sha256' header does not match what was computed.",
  },
} as const satisfies Readonly<Record<string, S3ErrorEntry>>;

export type S3ErrorCode = keyof typeof S3_ERRORS;

/** What an answer may say beside code and message. */
export interface S3ErrorOptions {
  readonly message?: string;
  /** Further elements of the error document, in order. */
  readonly extra?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

/** A refusal in S3's own terms. It stays inside this folder. */
export class S3Error extends Error {
  override readonly name = "S3Error";
  readonly code: S3ErrorCode;
  readonly status: number;
  readonly extra: Readonly<Record<string, string>>;
  readonly headers: Readonly<Record<string, string>>;

  constructor(code: S3ErrorCode, options: S3ErrorOptions = {}) {
    super(
      options.message ?? S3_ERRORS[code].message,
      options.cause === undefined ? undefined : { cause: options.cause },
    );
    this.code = code;
    this.status = S3_ERRORS[code].status;
    this.extra = options.extra ?? {};
    this.headers = options.headers ?? {};
  }
}

/** An operation or a header of S3 that is not there, by name. */
export function notImplemented(what: string): S3Error {
  return new S3Error("NotImplemented", {
    message: `${what} is not implemented.`,
    extra: { Operation: what },
  });
}

/** @param name The argument, as S3 names it in the error document. */
export function invalidArgument(name: string, value: string, message?: string): S3Error {
  return new S3Error("InvalidArgument", {
    message: message ?? `The value of ${name} is not valid.`,
    extra: { ArgumentName: name, ArgumentValue: value.slice(0, 256) },
  });
}

/** How a failure of each kind is told. `message`: its text was written for the caller. */
const FROM_KISEKI: Readonly<
  Record<ErrorCode, { readonly code: S3ErrorCode; readonly message?: true }>
> = {
  "common.invalid_argument": { code: "InvalidArgument", message: true },
  "common.limit_exceeded": { code: "InvalidRequest", message: true },
  "common.unauthenticated": { code: "AccessDenied" },
  "common.permission_denied": { code: "AccessDenied" },
  "common.not_implemented": { code: "NotImplemented", message: true },
  "common.unavailable": { code: "ServiceUnavailable" },
  "common.deadline_exceeded": { code: "ServiceUnavailable" },
  "common.cancelled": { code: "ServiceUnavailable" },
  "common.internal": { code: "InternalError" },
  "common.corrupt_format": { code: "InternalError" },
  "common.unsupported_version": { code: "InternalError" },
  "common.not_found": { code: "InternalError" },
  "common.already_exists": { code: "InternalError" },
  "common.failed_precondition": { code: "InternalError" },
  "config.invalid": { code: "InternalError" },
  "ffi.library_missing": { code: "InternalError" },
  "ffi.call_failed": { code: "InternalError" },
  "crypto.open_failed": { code: "InternalError" },
  "crypto.provider_missing": { code: "InternalError" },
  "keys.unavailable": { code: "ServiceUnavailable" },
  "keys.unknown_epoch": { code: "InternalError" },
  "block.io": { code: "InternalError" },
  "block.checksum": { code: "InternalError" },
  "block.no_space": { code: "InsufficientStorage" },
  "block.foreign_device": { code: "InternalError" },
  "block.locked": { code: "InternalError" },
  "chunk.not_found": { code: "InternalError" },
  "chunk.unreadable": { code: "InternalError" },
  "chunk.no_space": { code: "InsufficientStorage" },
  "chunk.upload_again": { code: "ServiceUnavailable" },
  "chunk.too_few_devices": { code: "ServiceUnavailable" },
  "raft.not_leader": { code: "ServiceUnavailable" },
  "raft.stopped": { code: "ServiceUnavailable" },
  "raft.proposal_dropped": { code: "SlowDown" },
  "log.no_shard": { code: "ServiceUnavailable" },
  "log.delta_too_large": { code: "InternalError" },
  "log.torn": { code: "InternalError" },
  "table.corrupt": { code: "InternalError" },
  "namespace.no_such_namespace": { code: "NoSuchBucket" },
  "namespace.namespace_exists": { code: "BucketAlreadyOwnedByYou" },
  "namespace.namespace_not_empty": { code: "BucketNotEmpty" },
  "namespace.no_such_entry": { code: "NoSuchKey" },
  "namespace.no_such_version": { code: "NoSuchVersion" },
  "namespace.no_such_upload": { code: "NoSuchUpload" },
  "namespace.entry_exists": { code: "PreconditionFailed" },
  "namespace.precondition_failed": { code: "PreconditionFailed" },
  "namespace.conflict": { code: "OperationAborted" },
  "namespace.invalid_part": { code: "InvalidPart" },
  "namespace.invalid_part_order": { code: "InvalidPartOrder" },
  "namespace.part_too_small": { code: "EntityTooSmall" },
  "namespace.too_many_parts": { code: "InvalidRequest", message: true },
  "namespace.method_not_allowed": { code: "MethodNotAllowed" },
  "namespace.bad_digest": { code: "BadDigest" },
  "namespace.quota_exceeded": { code: "QuotaExceeded" },
};

/** Any thrown value as an answer. A stranger is an InternalError; so is what nobody may know. */
export function toS3Error(error: unknown): S3Error {
  if (error instanceof S3Error) return error;
  if (!isKisekiError(error)) return new S3Error("InternalError", { cause: error });
  const entry = FROM_KISEKI[error.code] ?? { code: "InternalError" };
  const code = entry.code === "InternalError" && error.retriable
    ? "ServiceUnavailable"
    : entry.code;
  return new S3Error(code, {
    ...(entry.message === true ? { message: error.message } : {}),
    headers: headersOf(error.details, code),
    cause: error,
  });
}

/** Delete markers tell of themselves in headers (API Reference, GetObject and DeleteMarker). */
function headersOf(
  details: Readonly<Record<string, string | number | boolean>>,
  code: S3ErrorCode,
): Readonly<Record<string, string>> {
  const headers: Record<string, string> = {};
  if (details.deleteMarker === true || code === "MethodNotAllowed") {
    headers["x-amz-delete-marker"] = "true";
    if (typeof details.versionId === "string") headers["x-amz-version-id"] = details.versionId;
    if (typeof details.lastModifiedMs === "number") {
      headers["last-modified"] = new Date(details.lastModifiedMs).toUTCString();
    }
  }
  if (code === "MethodNotAllowed") headers["allow"] = "DELETE";
  return headers;
}
