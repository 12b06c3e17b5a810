/**
 * Records that lie in rows: entries, directories, versions, content, uploads, parts.
 *
 * These are formats: field numbers are never changed or reused. The same text stands, with
 * comments, in `proto/kiseki/v1/namespace.proto`. Keys of the rows: `src/log/row_key.ts`.
 *
 * Invariants:
 * - ids are 16 raw bytes, chunk ids 32; a version id is a hybrid timestamp (8, big-endian) and 8
 *   random bytes;
 * - an entry row holds the current version; older versions are version rows, newest first;
 * - a directory's `entries` counts its entry rows, `live` those that S3 can see (an object whose
 *   current version is no delete marker, or a directory with `live` > 0).
 */
import * as w from "./wire.ts";

/** What POSIX knows of a file or directory. Absent: only S3 ever wrote it. */
export const FileAttributes = w.message("FileAttributes", {
  generation: w.uint(1),
  mode: w.uint(2),
  uid: w.uint(3),
  gid: w.uint(4),
  mtimeNs: w.fixed64(5),
  ctimeNs: w.fixed64(6),
  btimeNs: w.fixed64(7),
  nlink: w.uint(8),
  change: w.uint(9),
  xattrs: w.repeated(10, w.message("Xattr", { name: w.bytes(1), value: w.bytes(2) })),
});

/** A run of content: `length` bytes at `offset` come from `chunkOffset` of a chunk. */
export const Extent = w.message("Extent", {
  chunk: w.bytes(1),
  /** From the start of the composition. */
  offset: w.uint(2),
  length: w.uint(3),
  chunkOffset: w.uint(4),
  /** Plaintext length of the whole chunk, bound into its envelope. */
  chunkBytes: w.uint(5),
});
export type Extent = w.Of<typeof Extent>;

export const ExtentRow = w.message("ExtentRow", { extents: w.repeated(1, Extent) });

/** Where the bytes of a composition are. */
export const ContentKind = {
  /** In the record itself. */
  embedded: 1,
  /** In an inline content row. */
  inlineRow: 2,
  /** The one extent, in the record itself. */
  oneExtent: 3,
  /** Extent rows. */
  extents: 4,
  /** Composition part rows. */
  parts: 5,
} as const;

/** Content up to this size is embedded beside its entry. */
export const EMBEDDED_MAX_BYTES = 512;
/** Extents or parts a row. */
export const MAX_PER_ROW = 256;

export const Content = w.message("Content", {
  kind: w.uint(1),
  sizeBytes: w.uint(2),
  embedded: w.bytes(3),
  composition: w.bytes(4),
  /** Placement id of the composition's rows. */
  placement: w.bytes(5),
  /** Operation that holds the references of this composition. */
  operation: w.bytes(6),
  oneExtent: w.nested(7, Extent),
  /** Number of extents or parts. */
  count: w.uint(8),
  /** Kind parts: offset of the first byte of each composition part row. */
  rowOffsets: w.packed(9),
});
export type Content = w.Of<typeof Content>;

export const ChecksumRecord = w.message("ChecksumRecord", {
  /** 1 CRC32, 2 CRC32C, 3 CRC64NVME, 4 SHA1, 5 SHA256. */
  algorithm: w.uint(1),
  /** 1 FULL_OBJECT, 2 COMPOSITE. */
  type: w.uint(2),
  value: w.bytes(3),
});
export type ChecksumRecord = w.Of<typeof ChecksumRecord>;

export const Pair = w.message("Pair", { key: w.text(1), value: w.text(2) });

export const HeadersRecord = w.message("HeadersRecord", {
  contentType: w.optionalText(1),
  contentEncoding: w.optionalText(2),
  contentLanguage: w.optionalText(3),
  contentDisposition: w.optionalText(4),
  cacheControl: w.optionalText(5),
  expires: w.optionalText(6),
});
export type HeadersRecord = w.Of<typeof HeadersRecord>;

/** One version of a file's or object's content and what was said of it. */
export const VersionRecord = w.message("VersionRecord", {
  versionId: w.bytes(1),
  isNull: w.bool(2),
  deleteMarker: w.bool(3),
  sizeBytes: w.uint(4),
  modifiedMs: w.uint(5),
  /** MD5 of the content, or of the parts' MD5s. */
  etag: w.bytes(6),
  /** Parts in the ETag; 0 for a plain one. */
  etagParts: w.uint(7),
  checksum: w.nested(8, ChecksumRecord),
  headers: w.nested(9, HeadersRecord),
  userMetadata: w.repeated(10, Pair),
  tags: w.repeated(11, Pair),
  content: w.nested(12, Content),
});
export type VersionRecord = w.Of<typeof VersionRecord>;

export const EntryKind = { object: 1, directory: 2 } as const;

/** A name in a directory. `current` stays encoded: a listing passes it on as it is. */
export const Entry = w.message("Entry", {
  kind: w.uint(1),
  /** File id, or directory id. */
  fileId: w.bytes(2),
  /** Directories: placement id of its rows. */
  placement: w.bytes(3),
  /** Directories: something S3 can see is below. */
  nonempty: w.bool(4),
  /** Objects: the current version is a delete marker. */
  deleteMarker: w.bool(5),
  /** Number of version rows. */
  olderVersions: w.uint(6),
  /** Version id of the null version when it is not the current one. */
  nullVersion: w.bytes(7),
  attributes: w.nested(8, FileAttributes),
  /** VersionRecord. */
  current: w.bytes(9),
  // 10 is kept for the cookie of readdir.
});
export type Entry = w.Of<typeof Entry>;

/** A directory's own record; lies with its children. */
export const DirectoryRecord = w.message("DirectoryRecord", {
  parent: w.bytes(1),
  parentPlacement: w.bytes(2),
  placement: w.bytes(3),
  /** Its name in the parent, with the trailing "/". */
  name: w.bytes(4),
  live: w.uint(5),
  entries: w.uint(6),
  incarnation: w.uint(7),
  /** Made by mkdir or PUT of "name/". */
  explicit: w.bool(8),
  /** No new children. */
  closing: w.bool(9),
  attributes: w.nested(10, FileAttributes),
  createdMs: w.uint(11),
  modifiedMs: w.uint(12),
  /** Root of a namespace alone: 0 unversioned, 1 enabled, 2 suspended. */
  versioning: w.uint(13),
});
export type DirectoryRecord = w.Of<typeof DirectoryRecord>;

export const PartReference = w.message("PartReference", {
  partNumber: w.uint(1),
  sizeBytes: w.uint(2),
  checksum: w.nested(3, ChecksumRecord),
  content: w.nested(4, Content),
});
export type PartReference = w.Of<typeof PartReference>;

export const CompositionPartRow = w.message("CompositionPartRow", {
  parts: w.repeated(1, PartReference),
});

export const AttributesRecord = w.message("AttributesRecord", {
  headers: w.nested(1, HeadersRecord),
  userMetadata: w.repeated(2, Pair),
  tags: w.repeated(3, Pair),
});
export type AttributesRecord = w.Of<typeof AttributesRecord>;

/** An upload under way, or the tombstone of one. Lies with the root directory, by full key. */
export const UploadRecord = w.message("UploadRecord", {
  attributes: w.nested(1, AttributesRecord),
  checksumAlgorithm: w.uint(2),
  checksumType: w.uint(3),
  initiatedMs: w.uint(4),
  /** Placement id of its part rows and of their compositions. */
  placement: w.bytes(5),
  /** Raised by every change of a part, so that staged part lists are known to be current. */
  changes: w.uint(6),
  /** 0 open, 1 completed, 2 aborted: part rows are being drained. */
  state: w.uint(7),
  /** When the state left 0. */
  endedMs: w.uint(8),
  /** Completed: SHA-256 of the part list, and what was published. */
  partListHash: w.bytes(9),
  published: w.nested(10, VersionRecord),
  /** Composition that its parts will make; given when the upload begins. */
  composition: w.bytes(11),
  /** Completed or aborted: part rows up to this number are drained. */
  drainedPart: w.uint(12),
  /** Completed: file id of what was published. */
  publishedFile: w.bytes(13),
  /** The rows of an ended upload are drained; the tombstone stays for a while. */
  drained: w.bool(14),
});
export type UploadRecord = w.Of<typeof UploadRecord>;

export const UploadPartRecord = w.message("UploadPartRecord", {
  sizeBytes: w.uint(1),
  md5: w.bytes(2),
  modifiedMs: w.uint(3),
  checksum: w.nested(4, ChecksumRecord),
  content: w.nested(5, Content),
});
export type UploadPartRecord = w.Of<typeof UploadPartRecord>;

/** What a staged row is for. */
export const StagedKind = {
  /** References that a writer is about to take; goes with the publish. */
  writing: 1,
  /** Content that nobody sees any more, to be unlinked in slices. */
  garbage: 2,
  /** References of a writer that gave up, to be released in other shards. */
  abandoned: 3,
} as const;

export const StagedRecord = w.message("StagedRecord", {
  kind: w.uint(1),
  createdMs: w.uint(2),
  /** Kinds writing and abandoned: chunk ids that may have references by this composition and operation. */
  chunks: w.repeatedBytes(3),
  /** Kind garbage. */
  content: w.nested(4, Content),
  /** Kind garbage: first part or offset that is not unlinked yet. */
  cursor: w.uint(5),
});
export type StagedRecord = w.Of<typeof StagedRecord>;

/** A namespace's record in the control shard: what is sealed. */
export const NamespaceRecord = w.message("NamespaceRecord", {
  id: w.bytes(1),
  name: w.text(2),
  organisation: w.bytes(3),
  createdMs: w.uint(4),
  /** 0 unversioned, 1 enabled, 2 suspended. */
  versioning: w.uint(5),
  root: w.bytes(6),
  placement: w.bytes(7),
  cors: w.nested(
    8,
    w.message("CorsRecord", {
      rules: w.repeated(
        1,
        w.message("CorsRuleRecord", {
          id: w.optionalText(1),
          allowedOrigins: w.repeatedText(2),
          allowedMethods: w.repeatedText(3),
          allowedHeaders: w.repeatedText(4),
          exposeHeaders: w.repeatedText(5),
          /** Seconds and one; 0 = not said. */
          maxAgePlusOne: w.uint(6),
        }),
      ),
    }),
  ),
  tags: w.nested(9, w.message("TagSetRecord", { tags: w.repeated(1, Pair) })),
  pool: w.text(10),
});
export type NamespaceRecord = w.Of<typeof NamespaceRecord>;

/** The row itself: sealed by the tenant's key in the gateway. */
export const SealedRecord = w.message("SealedRecord", {
  revision: w.uint(1),
  wrappedDek: w.bytes(2),
  envelope: w.bytes(3),
  /** Lookup key (32): identity of the envelope. */
  identity: w.bytes(4),
});
export type SealedRecord = w.Of<typeof SealedRecord>;
