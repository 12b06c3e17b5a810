/**
 * Errors of the admin service as gRPC statuses, and back.
 *
 * The status is for foreign clients; trailer `kiseki-code` carries the exact code, so that our own
 * client throws the error that the server threw. A stranger (not a KisekiError) tells nothing of
 * itself to the caller: it is logged where it happened.
 */
import { Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { type ErrorCode, KisekiError } from "../common/errors.ts";

export const CODE_TRAILER = "kiseki-code";

/** The gRPC status of a code. */
export function grpcStatusOf(code: ErrorCode): status {
  switch (code) {
    case "common.invalid_argument":
    case "config.invalid":
      return status.INVALID_ARGUMENT;
    case "common.unauthenticated":
      return status.UNAUTHENTICATED;
    case "common.permission_denied":
      return status.PERMISSION_DENIED;
    case "common.not_found":
    case "namespace.no_such_namespace":
      return status.NOT_FOUND;
    case "common.already_exists":
    case "namespace.namespace_exists":
      return status.ALREADY_EXISTS;
    case "common.failed_precondition":
    case "namespace.namespace_not_empty":
    case "block.foreign_device":
    case "block.locked":
    case "chunk.too_few_devices":
      return status.FAILED_PRECONDITION;
    case "common.not_implemented":
      return status.UNIMPLEMENTED;
    case "common.unavailable":
    case "keys.unavailable":
    case "raft.not_leader":
    case "raft.proposal_dropped":
    case "raft.stopped":
    case "log.no_shard":
      return status.UNAVAILABLE;
    case "common.deadline_exceeded":
      return status.DEADLINE_EXCEEDED;
    case "common.cancelled":
      return status.CANCELLED;
    case "common.limit_exceeded":
    case "block.no_space":
    case "chunk.no_space":
      return status.RESOURCE_EXHAUSTED;
    case "namespace.conflict":
      return status.ABORTED;
    default:
      return status.INTERNAL;
  }
}

/** What a handler's error becomes on the wire. */
export function toGrpcError(error: unknown): { code: status; details: string; metadata: Metadata } {
  const metadata = new Metadata();
  if (!(error instanceof KisekiError)) {
    metadata.set(CODE_TRAILER, "common.internal");
    return { code: status.INTERNAL, details: "internal error: see the server's log", metadata };
  }
  metadata.set(CODE_TRAILER, error.code);
  return { code: grpcStatusOf(error.code), details: error.message, metadata };
}

/** What our client throws for a failed call. */
export function fromGrpcError(error: ServiceError, endpoint: string): KisekiError {
  const code = error.metadata?.get(CODE_TRAILER)[0];
  if (typeof code === "string" && /^[a-z]+\.[a-z_]+$/.test(code)) {
    return new KisekiError(code as ErrorCode, error.details, { cause: error });
  }
  switch (error.code) {
    case status.UNAVAILABLE:
      return new KisekiError(
        "common.unavailable",
        `${endpoint} cannot be reached: ${error.details.replace(/ Resolution note: *$/, "")}`,
        { retriable: true, cause: error },
      );
    case status.DEADLINE_EXCEEDED:
      return new KisekiError(
        "common.deadline_exceeded",
        `${endpoint} did not answer in time`,
        { retriable: true, cause: error },
      );
    case status.UNAUTHENTICATED:
      return new KisekiError("common.unauthenticated", error.details, { cause: error });
    case status.PERMISSION_DENIED:
      return new KisekiError("common.permission_denied", error.details, { cause: error });
    case status.UNIMPLEMENTED:
      return new KisekiError("common.not_implemented", error.details, { cause: error });
    default:
      return new KisekiError("common.internal", `${endpoint}: ${error.details}`, { cause: error });
  }
}
