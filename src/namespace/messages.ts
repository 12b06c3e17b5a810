/**
 * What gateways say to shards: commands, queries and their answers.
 *
 * A request is one field of `Command` or `Query` (a oneof): the field number selects the message.
 * The .proto text is `proto/kiseki/v1/namespace.proto`.
 */
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { EvaluatorTag } from "../log/ports.ts";
import * as r from "./records.ts";
import * as w from "./wire.ts";

/** A directory (where the walk starts) and the key that is left from there. */
export const Path = w.message("Path", {
  directory: w.bytes(1),
  placement: w.bytes(2),
  key: w.bytes(3),
});
export type Path = w.Of<typeof Path>;

export const Condition = w.message("Condition", {
  /** ETags without quotes, or "*"; absent and empty are the same. */
  ifMatch: w.repeatedText(1),
  ifNoneMatch: w.repeatedText(2),
});
export type Condition = w.Of<typeof Condition>;

/** Staged rows that a publish takes away, all of which must still be there. */
export const StagedBatches = w.message("StagedBatches", {
  placement: w.bytes(1),
  composition: w.bytes(2),
  operation: w.bytes(3),
  /** Batches 0 to count - 1. */
  count: w.uint(4),
});
export type StagedBatches = w.Of<typeof StagedBatches>;

/** Finished content on its way to a version or a part. */
export const NewContent = w.message("NewContent", {
  content: w.nested(1, r.Content),
  /** Kind inlineRow. */
  inline: w.bytes(2),
  /** Kind extents. */
  extents: w.repeated(3, r.Extent),
  staged: w.nested(4, StagedBatches),
  md5: w.bytes(5),
});
export type NewContent = w.Of<typeof NewContent>;

export const CreateRoot = w.message("CreateRoot", { directory: w.bytes(1), placement: w.bytes(2) });
export const SetRoot = w.message("SetRoot", {
  directory: w.bytes(1),
  placement: w.bytes(2),
  versioning: w.uint(3),
});
/** Closes an empty root, or opens it again. */
export const CloseRoot = w.message("CloseRoot", {
  directory: w.bytes(1),
  placement: w.bytes(2),
  reopen: w.bool(3),
});
export const Put = w.message("Put", {
  path: w.nested(1, Path),
  content: w.nested(2, NewContent),
  attributes: w.nested(3, r.AttributesRecord),
  checksum: w.nested(4, r.ChecksumRecord),
  condition: w.nested(5, Condition),
  /** ETag when it is not the content's MD5. */
  etag: w.bytes(6),
  etagParts: w.uint(7),
});
export const Delete = w.message("Delete", {
  path: w.nested(1, Path),
  /** "", "null" or 32 hex digits. */
  version: w.text(2),
  condition: w.nested(3, Condition),
});
export const SetTags = w.message("SetTags", {
  path: w.nested(1, Path),
  version: w.text(2),
  tags: w.repeated(3, r.Pair),
});
/** Announces references before they are taken. */
export const Stage = w.message("Stage", {
  placement: w.bytes(1),
  composition: w.bytes(2),
  operation: w.bytes(3),
  batch: w.uint(4),
  chunks: w.repeatedBytes(5),
});
/** Takes announcements back after their references were released. */
export const Unstage = w.message("Unstage", { staged: w.nested(1, StagedBatches) });
export const CreateUpload = w.message("CreateUpload", {
  /** Root directory and full key. */
  path: w.nested(1, Path),
  upload: w.bytes(2),
  attributes: w.nested(3, r.AttributesRecord),
  checksumAlgorithm: w.uint(4),
  checksumType: w.uint(5),
});
export const UploadPath = w.message("UploadPath", {
  path: w.nested(1, Path),
  upload: w.bytes(2),
});
export const PutPart = w.message("PutPart", {
  path: w.nested(1, Path),
  upload: w.bytes(2),
  partNumber: w.uint(3),
  content: w.nested(4, NewContent),
  checksum: w.nested(5, r.ChecksumRecord),
});
/** One part as the client named it. */
export const NamedPart = w.message("NamedPart", {
  partNumber: w.uint(1),
  /** MD5; anything else matches nothing. */
  etag: w.bytes(2),
  checksum: w.nested(3, r.ChecksumRecord),
});
export type NamedPart = w.Of<typeof NamedPart>;
/** Writes a slice of the part list of a composition that a Complete will publish. */
export const StageParts = w.message("StageParts", {
  path: w.nested(1, Path),
  upload: w.bytes(2),
  /** Index of the first of these parts; a multiple of 256. */
  firstIndex: w.uint(3),
  parts: w.repeated(4, NamedPart),
  /** More parts follow: the last of these is not the last of all. */
  more: w.bool(5),
  /** The upload's `changes` after the slice before; not looked at for the first slice. */
  changes: w.uint(6),
  /** SHA-256 of the whole part list. */
  partListHash: w.bytes(7),
});
export const Complete = w.message("Complete", {
  path: w.nested(1, Path),
  upload: w.bytes(2),
  /** The upload's `changes` after the last slice. */
  changes: w.uint(3),
  partCount: w.uint(4),
  sizeBytes: w.uint(5),
  rowOffsets: w.packed(6),
  etag: w.bytes(7),
  checksum: w.nested(8, r.ChecksumRecord),
  condition: w.nested(9, Condition),
  partListHash: w.bytes(10),
});
/** One slice of housekeeping of one namespace. */
export const Maintain = w.message("Maintain", {
  directory: w.bytes(1),
  placement: w.bytes(2),
  /** Staged rows and tombstones from before this time are collected. */
  staleBeforeMs: w.uint(3),
  /** `token` of the last answer, once the references that it named are released. */
  released: w.bytes(4),
  /** The namespace is gone: open uploads are aborted, the root is removed at the end. */
  removed: w.bool(5),
});
export const MaintainAnswer = w.message("MaintainAnswer", {
  /** There is more to do at once. */
  more: w.bool(1),
  /** Stands for `release` in the next call. */
  token: w.bytes(3),
  /** A removed namespace has no rows any more. */
  drained: w.bool(4),
  /** References in other shards that the caller must release before it calls again. */
  release: w.repeated(
    2,
    w.message("ReleaseReference", {
      chunk: w.bytes(1),
      composition: w.bytes(2),
      operation: w.bytes(3),
    }),
  ),
});

export const PutNamespace = w.message("PutNamespace", {
  organisation: w.bytes(1),
  /** Keyed hash of the name. */
  lookup: w.bytes(2),
  /** 0: must not exist. */
  expectedRevision: w.uint(3),
  wrappedDek: w.bytes(4),
  envelope: w.bytes(5),
});
export const RemoveNamespace = w.message("RemoveNamespace", {
  organisation: w.bytes(1),
  lookup: w.bytes(2),
  expectedRevision: w.uint(3),
  /** Namespace id: where the record waits until its rows are drained. */
  id: w.bytes(4),
});
export const ForgetNamespace = w.message("ForgetNamespace", {
  organisation: w.bytes(1),
  id: w.bytes(2),
});
export const RevisionAnswer = w.message("RevisionAnswer", { revision: w.uint(1) });

export const VersionAnswer = w.message("VersionAnswer", {
  /** VersionRecord. */
  version: w.bytes(1),
  fileId: w.bytes(2),
  isLatest: w.bool(3),
  inline: w.bytes(4),
  extents: w.repeated(5, r.Extent),
  /** Of the first extents' chunks, in order; empty where this shard does not own one. */
  chunkRecords: w.repeatedBytes(6),
});
export const DeleteAnswer = w.message("DeleteAnswer", {
  version: w.text(1),
  deleteMarker: w.bool(2),
});
export const UploadAnswer = w.message("UploadAnswer", {
  upload: w.bytes(1),
  key: w.bytes(2),
  record: w.nested(3, r.UploadRecord),
});
export const PartAnswer = w.message("PartAnswer", {
  partNumber: w.uint(1),
  record: w.nested(2, r.UploadPartRecord),
});
export const StagePartsAnswer = w.message("StagePartsAnswer", {
  changes: w.uint(1),
  /** What the parts are, for ETag, checksum and row offsets. */
  parts: w.repeated(2, PartAnswer),
  /** The same part list was completed before: this is what it made. */
  published: w.nested(3, VersionAnswer),
  upload: w.nested(4, r.UploadRecord),
});
export const EmptyAnswer = w.message("EmptyAnswer", {});

/** Reads. */
export const Open = w.message("Open", {
  path: w.nested(1, Path),
  version: w.text(2),
  /** Content is wanted too: inline bytes and the first extents. */
  content: w.bool(3),
});
export const ReadExtents = w.message("ReadExtents", {
  placement: w.bytes(1),
  composition: w.bytes(2),
  /** Extents of the row that holds this offset, and of the next ones. */
  offset: w.uint(3),
  rows: w.uint(4),
});
export const ExtentsAnswer = w.message("ExtentsAnswer", {
  extents: w.repeated(1, r.Extent),
  /** Of the chunks from the asked offset on, in order; empty where this shard does not own one. */
  chunkRecords: w.repeatedBytes(2),
});
export const ReadInline = w.message("ReadInline", {
  placement: w.bytes(1),
  composition: w.bytes(2),
});
export const InlineAnswer = w.message("InlineAnswer", { inline: w.bytes(1) });
export const ReadParts = w.message("ReadParts", {
  placement: w.bytes(1),
  composition: w.bytes(2),
  /** Index of the first part of the row. */
  firstIndex: w.uint(3),
});
export const List = w.message("List", {
  root: w.nested(1, Path),
  prefix: w.bytes(2),
  delimiter: w.bytes(3),
  after: w.bytes(4),
  limit: w.uint(5),
});
export const ListVersions = w.message("ListVersions", {
  root: w.nested(1, Path),
  prefix: w.bytes(2),
  delimiter: w.bytes(3),
  keyMarker: w.bytes(4),
  versionMarker: w.text(5),
  limit: w.uint(6),
});
export const ListedItem = w.message("ListedItem", {
  key: w.bytes(1),
  /** VersionRecord; empty for a common prefix. */
  version: w.bytes(2),
  fileId: w.bytes(3),
  isLatest: w.bool(4),
  isPrefix: w.bool(5),
});
export const ListAnswer = w.message("ListAnswer", {
  items: w.repeated(1, ListedItem),
  truncated: w.bool(2),
});
export const ListParts = w.message("ListParts", {
  path: w.nested(1, Path),
  upload: w.bytes(2),
  after: w.uint(3),
  limit: w.uint(4),
});
export const ListPartsAnswer = w.message("ListPartsAnswer", {
  parts: w.repeated(1, PartAnswer),
  truncated: w.bool(2),
});
export const ListUploads = w.message("ListUploads", {
  root: w.nested(1, Path),
  prefix: w.bytes(2),
  delimiter: w.bytes(3),
  keyMarker: w.bytes(4),
  uploadMarker: w.bytes(5),
  limit: w.uint(6),
});
export const ListUploadsAnswer = w.message("ListUploadsAnswer", {
  items: w.repeated(
    1,
    w.message("ListedUpload", {
      upload: w.nested(1, UploadAnswer),
      prefix: w.optionalBytes(2),
    }),
  ),
  truncated: w.bool(2),
});
export const GetNamespace = w.message("GetNamespace", {
  organisation: w.bytes(1),
  lookup: w.bytes(2),
});
export const ListNamespaces = w.message("ListNamespaces", {
  /** Empty: of all organisations, with `organisation` in each answer. */
  organisation: w.bytes(1),
  /** Those that are removed and being drained instead. */
  removed: w.bool(2),
});
export const NamespacesAnswer = w.message("NamespacesAnswer", {
  records: w.repeated(1, r.SealedRecord),
});

/** Where a walk goes on: a directory that another shard owns. */
export const Answer = w.message("Answer", {
  body: w.optionalBytes(1),
  continueAt: w.nested(2, Path),
});

/** Field numbers of the oneof in Command. */
export const CommandNumber = {
  createRoot: 1,
  setRoot: 2,
  closeRoot: 3,
  put: 4,
  delete: 5,
  setTags: 6,
  stage: 7,
  unstage: 8,
  createUpload: 9,
  putPart: 10,
  stageParts: 11,
  complete: 12,
  abortUpload: 13,
  maintain: 14,
  putNamespace: 20,
  removeNamespace: 21,
  forgetNamespace: 22,
} as const;

/** Field numbers of the oneof in Query. */
export const QueryNumber = {
  open: 1,
  readExtents: 2,
  readInline: 3,
  readParts: 4,
  list: 5,
  listVersions: 6,
  getUpload: 7,
  listParts: 8,
  listUploads: 9,
  getNamespace: 20,
  listNamespaces: 21,
} as const;

/** A request of this room with the evaluator's tag in front. */
export function encodeRequest<T>(number: number, codec: w.Codec<T>, value: Partial<T>): Bytes {
  const writer = new w.WireWriter();
  writer.byte(EvaluatorTag.namespace);
  writer.varint(number * 8 + 2);
  writer.nested(() => codec.write(writer, value));
  return writer.finish();
}

/** @throws KisekiError `common.corrupt_format`. */
export function openRequest(request: Bytes): { readonly number: number; readonly body: Bytes } {
  const reader = new w.WireReader(request, "namespace request");
  const tag = reader.varint(request.length);
  if (tag % 8 !== 2) throw reader.corrupt(`tag ${tag}`);
  const body = reader.bytes(request.length);
  if (reader.position !== request.length) throw reader.corrupt("bytes after the request");
  return { number: Math.floor(tag / 8), body };
}

export function encodeAnswer<T>(codec: w.Codec<T>, value: Partial<T>): Bytes {
  const writer = new w.WireWriter();
  writer.varint(1 * 8 + 2);
  writer.nested(() => codec.write(writer, value));
  return writer.finish();
}

/** A field that a well-formed request has. */
export function need<T>(value: T | undefined, what: string): T {
  if (value === undefined) {
    throw new KisekiError("common.corrupt_format", `namespace request: ${what} is missing`);
  }
  return value;
}
