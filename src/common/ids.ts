/**
 * Identities. All are opaque 128-bit random values except shard and node numbers.
 *
 * A branded type keeps one kind from being passed for another; the brand costs nothing at run time.
 */
import { type Bytes, fromHex, toHex } from "./bytes.ts";
import { KisekiError } from "./errors.ts";

declare const brand: unique symbol;
type Branded<T, Name extends string> = T & { readonly [brand]: Name };

/** 128-bit ids travel as 32 lower-case hex digits in memory and as 16 bytes on disk. */
export type Id128 = string;
export type OrganisationId = Branded<Id128, "organisation">;
export type ProjectId = Branded<Id128, "project">;
export type WorkloadId = Branded<Id128, "workload">;
export type NamespaceId = Branded<Id128, "namespace">;
/** Identity of a file, directory or object line; handles are (file id, generation). */
export type FileId = Branded<Id128, "file">;
export type CompositionId = Branded<Id128, "composition">;
export type OperationId = Branded<Id128, "operation">;
export type UploadId = Branded<Id128, "upload">;
export type DeviceId = Branded<Id128, "device">;
export type ClusterId = Branded<Id128, "cluster">;
/** Chunk id: HMAC-SHA256, 64 hex digits in memory, 32 bytes on disk. */
export type ChunkId = Branded<string, "chunk">;
/** Shards are numbered by the control shard; 1 is the control shard itself. */
export type ShardId = Branded<number, "shard">;
/** Node numbers are given once and never reused; 0 is no node. */
export type NodeId = Branded<number, "node">;

export const CONTROL_SHARD: ShardId = 1 as ShardId;

/** A fresh random 128-bit id. */
export function newId128<T extends Id128>(): T {
  return toHex(crypto.getRandomValues(new Uint8Array(16))) as T;
}

/** @throws KisekiError `common.invalid_argument` when `text` is not 32 hex digits. */
export function parseId128<T extends Id128>(text: string, what: string): T {
  if (!/^[0-9a-f]{32}$/.test(text)) {
    throw new KisekiError("common.invalid_argument", `${what}: not a 128-bit id`);
  }
  return text as T;
}

export function idToBytes(id: string): Bytes {
  return fromHex(id);
}

/** @throws KisekiError `common.corrupt_format` unless there are 16 bytes. */
export function idFromBytes<T extends Id128>(bytes: Bytes): T {
  if (bytes.length !== 16) {
    throw new KisekiError("common.corrupt_format", `an id of ${bytes.length} bytes (16 wanted)`);
  }
  return toHex(bytes) as T;
}

/** @throws KisekiError `common.corrupt_format` unless there are 32 bytes. */
export function chunkIdFromBytes(bytes: Bytes): ChunkId {
  if (bytes.length !== 32) {
    throw new KisekiError("common.corrupt_format", `a chunk id of ${bytes.length} bytes`);
  }
  return toHex(bytes) as ChunkId;
}
