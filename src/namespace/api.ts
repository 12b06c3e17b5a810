/**
 * The one API that every gateway calls for objects (files follow in their own interface).
 *
 * Keys are the text of UTF-8 object keys, 1 to 1,024 bytes; they compare by their UTF-8 bytes.
 * Every call names its caller; a namespace of another organisation is answered exactly as one that
 * does not exist (`namespace.no_such_namespace`).
 */
import type { Bytes } from "../common/bytes.ts";
import type { FileId, NamespaceId, UploadId } from "../common/ids.ts";
import type { Identity } from "./identity.ts";

export const MAX_KEY_UTF8_BYTES = 1024;
export const MAX_PARTS = 10_000;
export const MIN_PART_BYTES = 5 << 20;
export const MAX_PART_BYTES = 5 * 2 ** 30;
export const MAX_OBJECT_BYTES = 5 * 2 ** 40;
/** Content up to this size lives in rows, not chunks. */
export const INLINE_MAX_BYTES = 4096;

export type Versioning = "unversioned" | "enabled" | "suspended";

export interface CorsRule {
  readonly id?: string;
  readonly allowedOrigins: readonly string[];
  readonly allowedMethods: readonly string[];
  readonly allowedHeaders: readonly string[];
  readonly exposeHeaders: readonly string[];
  readonly maxAgeSeconds?: number;
}

export type Tags = readonly (readonly [key: string, value: string])[];

export interface NamespaceInfo {
  readonly id: NamespaceId;
  readonly name: string;
  readonly createdMs: number;
  readonly versioning: Versioning;
  /** undefined: no configuration was set. */
  readonly cors?: readonly CorsRule[];
  readonly tags?: Tags;
}

/** Replaces what is named; `null` removes. */
export interface NamespaceChange {
  readonly versioning?: "enabled" | "suspended";
  readonly cors?: readonly CorsRule[] | null;
  readonly tags?: Tags | null;
}

export type ObjectChecksumAlgorithm = "CRC32" | "CRC32C" | "CRC64NVME" | "SHA1" | "SHA256";

export interface ObjectChecksum {
  readonly algorithm: ObjectChecksumAlgorithm;
  /** Raw digest bytes. */
  readonly value: Bytes;
  readonly type: "FULL_OBJECT" | "COMPOSITE";
}

/** System headers that are stored and given back as they came. */
export interface ObjectHeaders {
  readonly contentType?: string;
  readonly contentEncoding?: string;
  readonly contentLanguage?: string;
  readonly contentDisposition?: string;
  readonly cacheControl?: string;
  readonly expires?: string;
}

/** What a writer says of an object. */
export interface ObjectAttributes {
  readonly headers: ObjectHeaders;
  /** Names in lower case without `x-amz-meta-`. */
  readonly userMetadata: Readonly<Record<string, string>>;
  readonly tags: Tags;
}

/** One version of one key, without its content. */
export interface ObjectVersion extends ObjectAttributes {
  readonly key: string;
  readonly fileId: FileId;
  /** "null", or 32 hex digits. */
  readonly versionId: string;
  readonly isLatest: boolean;
  readonly deleteMarker: boolean;
  readonly sizeBytes: number;
  /** Without quotes; md5 as hex, or md5-N for N parts. */
  readonly etag: string;
  readonly lastModifiedMs: number;
  readonly checksum?: ObjectChecksum;
  /** Number of parts when it came by multipart upload. */
  readonly partCount?: number;
}

/** Compared with the current version, atomically with the change. */
export interface WriteCondition {
  /** ETags without quotes, or ["*"]. Fails as `namespace.no_such_entry` when there is no object. */
  readonly ifMatch?: readonly string[];
  readonly ifNoneMatch?: readonly string[];
}

export interface ContentDigests {
  readonly sizeBytes: number;
  readonly md5: Bytes;
  /** Those that were asked for at the start. */
  readonly checksums: Readonly<Partial<Record<ObjectChecksumAlgorithm, Bytes>>>;
}

/** Takes a stream of content in constant memory; nothing is visible until it is published. */
export interface ContentWriter {
  /** Resolves when there is room for more. `bytes` may be changed afterwards. */
  write(bytes: Bytes): Promise<void>;
  /**
   * Everything is durable and counted.
   *
   * @throws KisekiError `chunk.no_space`, `block.io`, ...
   */
  finish(): Promise<ContentDigests>;
  /** Gives up. Harmless after a publish. */
  abort(): Promise<void>;
}

export interface ContentOptions {
  /** Digests to compute beside MD5. */
  readonly checksums: readonly ObjectChecksumAlgorithm[];
  /** Length in bytes when it is known. */
  readonly expectedBytes?: number;
}

export interface ObjectHandle {
  readonly version: ObjectVersion;
  /**
   * Content from `offset`, `length` bytes, verified, in pieces of at most 1 MiB. Pieces are valid
   * until the next is asked for, or the caller's own with `keep`. Early `return` releases
   * everything.
   */
  read(offset: number, length: number, keep?: boolean): AsyncIterableIterator<Bytes>;
  /** Sizes (and checksums) of parts, empty unless it came by multipart upload. */
  parts(): Promise<readonly ObjectPart[]>;
}

export interface ObjectPart {
  readonly partNumber: number;
  readonly sizeBytes: number;
  readonly checksum?: ObjectChecksum;
}

export interface ListOptions {
  readonly prefix: string;
  /** "" = none. */
  readonly delimiter: string;
  /** Strictly after this key (UTF-8 order); "" = from the start. May itself be a common prefix. */
  readonly after: string;
  /** 0 to 1,000. */
  readonly limit: number;
}

export type ListItem =
  | { readonly type: "object"; readonly object: ObjectVersion }
  | { readonly type: "prefix"; readonly prefix: string };

export interface ListPage {
  /** In UTF-8 order of key or prefix. */
  readonly items: readonly ListItem[];
  /** When truncated: give as `after` of the next page. */
  readonly next?: string;
}

export interface ListVersionsOptions {
  readonly prefix: string;
  readonly delimiter: string;
  readonly keyMarker: string;
  /** With keyMarker: strictly after this version of it; "" = after all versions of keyMarker. */
  readonly versionIdMarker: string;
  readonly limit: number;
}

export interface ListVersionsPage {
  readonly items: readonly ListItem[];
  readonly next?: { readonly keyMarker: string; readonly versionIdMarker: string };
}

export interface UploadOptions extends ObjectAttributes {
  readonly checksumAlgorithm?: ObjectChecksumAlgorithm;
  readonly checksumType?: "FULL_OBJECT" | "COMPOSITE";
}

export interface UploadInfo extends UploadOptions {
  readonly key: string;
  readonly uploadId: UploadId;
  readonly initiatedMs: number;
}

export interface UploadPartInfo {
  readonly partNumber: number;
  readonly sizeBytes: number;
  readonly etag: string;
  readonly lastModifiedMs: number;
  readonly checksum?: ObjectChecksum;
}

export interface CompletedPart {
  readonly partNumber: number;
  /** Without quotes. */
  readonly etag: string;
  readonly checksum?: ObjectChecksum;
}

export interface DeleteResult {
  /** The version that went, or the delete marker that was made. */
  readonly versionId?: string;
  /** True when a delete marker was made or removed. */
  readonly deleteMarker: boolean;
}

export interface PutResult {
  readonly version: ObjectVersion;
}

/** What is copied. */
export interface ObjectSource {
  readonly namespace: string;
  readonly key: string;
  readonly versionId?: string;
}

export interface ListUploadsPage {
  readonly items: readonly (
    | { readonly type: "upload"; readonly upload: UploadInfo }
    | { readonly type: "prefix"; readonly prefix: string }
  )[];
  readonly next?: { readonly keyMarker: string; readonly uploadIdMarker: string };
}

export interface NamespaceService {
  listNamespaces(caller: Identity): Promise<readonly NamespaceInfo[]>;
  /** @throws KisekiError `namespace.namespace_exists` when the organisation has it already. */
  createNamespace(caller: Identity, name: string): Promise<NamespaceInfo>;
  getNamespace(caller: Identity, name: string): Promise<NamespaceInfo>;
  updateNamespace(caller: Identity, name: string, change: NamespaceChange): Promise<NamespaceInfo>;
  /** @throws KisekiError `namespace.namespace_not_empty` (versions and delete markers count). */
  deleteNamespace(caller: Identity, name: string): Promise<void>;

  /** Content that will become an object or a part of this namespace. */
  beginContent(
    caller: Identity,
    namespace: string,
    options: ContentOptions,
  ): Promise<ContentWriter>;
  /** Publishes finished content under a key. */
  putObject(
    caller: Identity,
    namespace: string,
    key: string,
    content: ContentWriter,
    attributes: ObjectAttributes & { readonly checksum?: ObjectChecksum },
    condition: WriteCondition,
  ): Promise<PutResult>;
  /**
   * Current version, or the one named.
   *
   * @throws KisekiError `namespace.no_such_entry`, `namespace.no_such_version`,
   *   `namespace.method_not_allowed` when the named version is a delete marker. When the current
   *   version is a delete marker: `namespace.no_such_entry` with details.deleteMarker = true and
   *   details.versionId.
   */
  openObject(
    caller: Identity,
    namespace: string,
    key: string,
    versionId?: string,
  ): Promise<ObjectHandle>;
  headObject(
    caller: Identity,
    namespace: string,
    key: string,
    versionId?: string,
  ): Promise<ObjectVersion>;
  /**
   * Removes (unversioned, or a named version) or lays a delete marker. Deleting what is not there
   * succeeds, as in S3.
   */
  deleteObject(
    caller: Identity,
    namespace: string,
    key: string,
    versionId: string | undefined,
    condition: WriteCondition,
  ): Promise<DeleteResult>;
  /** By reference: no content moves. `attributes` undefined keeps the source's. */
  copyObject(
    caller: Identity,
    source: ObjectSource,
    target: { readonly namespace: string; readonly key: string },
    /** Compared with the source's ETag: pins the version that the caller judged. */
    expectedSource: ObjectVersion,
    attributes: (Partial<ObjectAttributes>) | undefined,
    condition: WriteCondition,
  ): Promise<PutResult>;
  setTags(
    caller: Identity,
    namespace: string,
    key: string,
    versionId: string | undefined,
    tags: Tags,
  ): Promise<{ readonly versionId: string }>;

  listObjects(caller: Identity, namespace: string, options: ListOptions): Promise<ListPage>;
  listVersions(
    caller: Identity,
    namespace: string,
    options: ListVersionsOptions,
  ): Promise<ListVersionsPage>;

  createUpload(
    caller: Identity,
    namespace: string,
    key: string,
    options: UploadOptions,
  ): Promise<UploadInfo>;
  getUpload(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
  ): Promise<UploadInfo>;
  /** Publishes finished content as a part; replaces a part of the same number. */
  putPart(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
    partNumber: number,
    content: ContentWriter,
    checksum: ObjectChecksum | undefined,
  ): Promise<UploadPartInfo>;
  /** By reference where the range allows it, else by reading and writing. */
  copyPart(
    caller: Identity,
    source: ObjectSource,
    expectedSource: ObjectVersion,
    range: { readonly offset: number; readonly length: number },
    target: {
      readonly namespace: string;
      readonly key: string;
      readonly uploadId: string;
      readonly partNumber: number;
    },
  ): Promise<UploadPartInfo>;
  listParts(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
    afterPart: number,
    limit: number,
  ): Promise<{ readonly parts: readonly UploadPartInfo[]; readonly truncated: boolean }>;
  listUploads(
    caller: Identity,
    namespace: string,
    options: ListOptions & { readonly uploadIdMarker: string },
  ): Promise<ListUploadsPage>;
  /**
   * Checks the parts (existence, ETag, order, least size) and publishes the object. Idempotent for
   * the same upload id and parts within the life of its tombstone.
   *
   * @param checksum Of the whole object, already made by the gateway from the parts' stored
   *   checksums and compared with the client's claim: stored as it is.
   */
  completeUpload(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
    parts: readonly CompletedPart[],
    checksum: ObjectChecksum | undefined,
    condition: WriteCondition,
  ): Promise<PutResult>;
  abortUpload(caller: Identity, namespace: string, key: string, uploadId: string): Promise<void>;
}
