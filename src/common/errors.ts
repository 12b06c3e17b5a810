/**
 * The one error family.
 *
 * Every failure that crosses a folder's boundary is a `KisekiError` with a code from the table
 * below. A gateway owns one table from these codes to its protocol; nothing else interprets them.
 * A message says what happened, to what, and what to do. It never carries a key, a secret, or
 * another tenant's names.
 */

/** Codes by context. The part before the dot is the room that raises it. */
export type ErrorCode =
  // input and identity
  | "common.invalid_argument"
  | "common.limit_exceeded"
  | "common.unauthenticated"
  | "common.permission_denied"
  | "common.not_implemented"
  | "common.unavailable"
  | "common.deadline_exceeded"
  | "common.cancelled"
  | "common.internal"
  | "common.corrupt_format"
  | "common.unsupported_version"
  | "common.not_found"
  | "common.already_exists"
  | "common.failed_precondition"
  // configuration
  | "config.invalid"
  // native libraries and crypto
  | "ffi.library_missing"
  | "ffi.call_failed"
  | "crypto.open_failed"
  | "crypto.provider_missing"
  | "keys.unavailable"
  | "keys.unknown_epoch"
  // block and chunk
  | "block.io"
  | "block.checksum"
  | "block.no_space"
  | "block.foreign_device"
  | "block.locked"
  | "chunk.not_found"
  | "chunk.unreadable"
  | "chunk.no_space"
  | "chunk.upload_again"
  | "chunk.too_few_devices"
  // raft, log, table
  | "raft.not_leader"
  | "raft.stopped"
  | "raft.proposal_dropped"
  | "log.no_shard"
  | "log.delta_too_large"
  | "log.torn"
  | "table.corrupt"
  // namespace
  | "namespace.no_such_namespace"
  | "namespace.namespace_exists"
  | "namespace.namespace_not_empty"
  | "namespace.no_such_entry"
  | "namespace.no_such_version"
  | "namespace.no_such_upload"
  | "namespace.entry_exists"
  | "namespace.precondition_failed"
  | "namespace.conflict"
  | "namespace.invalid_part"
  | "namespace.invalid_part_order"
  | "namespace.part_too_small"
  | "namespace.too_many_parts"
  | "namespace.method_not_allowed"
  | "namespace.bad_digest"
  | "namespace.quota_exceeded";

/** What a caller may know beside the message. */
export interface ErrorOptionsOfKiseki {
  /** True when the same call may succeed later without change. Default false. */
  readonly retriable?: boolean;
  readonly cause?: unknown;
  /** Machine-readable extras for a gateway's error table (e.g. an errno or a version id). */
  readonly details?: Readonly<Record<string, string | number | boolean>>;
}

/** The error of every room. */
export class KisekiError extends Error {
  override readonly name = "KisekiError";
  readonly code: ErrorCode;
  readonly retriable: boolean;
  readonly details: Readonly<Record<string, string | number | boolean>>;

  constructor(code: ErrorCode, message: string, options: ErrorOptionsOfKiseki = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retriable = options.retriable ?? false;
    this.details = options.details ?? {};
  }
}

/** True when `error` is a KisekiError, of that code where one is given. */
export function isKisekiError(error: unknown, code?: ErrorCode): error is KisekiError {
  return error instanceof KisekiError && (code === undefined || error.code === code);
}

/** An error as plain data, for a hop between isolates. */
export interface ErrorRecord {
  readonly code: ErrorCode;
  readonly message: string;
  readonly retriable: boolean;
  readonly details: Readonly<Record<string, string | number | boolean>>;
}

/** Flattens any thrown value for a hop between isolates. A stranger becomes `common.internal`. */
export function errorToRecord(error: unknown): ErrorRecord {
  if (error instanceof KisekiError) {
    return {
      code: error.code,
      message: error.message,
      retriable: error.retriable,
      details: error.details,
    };
  }
  const message = error instanceof Error ? error.message : String(error);
  return { code: "common.internal", message, retriable: false, details: {} };
}

/** The inverse of {@link errorToRecord}. */
export function errorFromRecord(record: ErrorRecord): KisekiError {
  return new KisekiError(record.code, record.message, {
    retriable: record.retriable,
    details: record.details,
  });
}
