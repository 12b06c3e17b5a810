/**
 * Multipart uploads at the shard.
 *
 * An upload's record lies with the namespace's root by full key; its parts are rows of the upload.
 * A Complete first writes the part list as composition part rows, in slices, then publishes in one
 * small delta. Part rows are drained afterwards by maintenance.
 *
 * Invariants: every change of a part and every slice raises `changes`, so that a Complete publishes
 * exactly the parts that its own slices wrote; an ended upload takes no more parts; its tombstone
 * answers a repeated Complete.
 */
import { type Bytes, concatBytes, equalBytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { QueryContext } from "../log/ports.ts";
import { escapeName, RecordType } from "../log/row_key.ts";
import { MIN_PART_BYTES } from "./api.ts";
import type { Change } from "./change.ts";
import { atPlace } from "./directory_walk.ts";
import * as m from "./messages.ts";
import {
  CompositionPartRow,
  Content,
  ContentKind,
  DirectoryRecord,
  MAX_PER_ROW,
  type PartReference,
  UploadPartRecord,
  UploadRecord,
  VersionRecord,
} from "./records.ts";
import { endOf, keyOf, type Routing, u16be, u32be } from "./rows.ts";
import { checkCondition, loadEntry, publish } from "./version_line.ts";
import type { Of } from "./wire.ts";

export const UploadState = { open: 0, completed: 1, aborted: 2 } as const;
/** Parts of one slice of a part list. */
export const MAX_SLICE_PARTS = 1024;
const NO_BYTES = new Uint8Array(0);

export function uploadKey(routing: Routing, path: m.Path, upload: Bytes): Bytes {
  return keyOf(
    routing.of(path.placement),
    path.directory,
    RecordType.upload,
    escapeName(path.key),
    upload,
  );
}

export function partKey(
  routing: Routing,
  record: Pick<UploadRecord, "placement">,
  upload: Bytes,
  partNumber: number,
): Bytes {
  return keyOf(
    routing.of(record.placement),
    upload,
    RecordType.uploadPart,
    u16be(partNumber),
  );
}

export function compositionPartKey(
  routing: Routing,
  of: { readonly placement: Bytes; readonly composition: Bytes },
  firstIndex: number,
): Bytes {
  return keyOf(
    routing.of(of.placement),
    of.composition,
    RecordType.compositionPart,
    u32be(firstIndex),
  );
}

function noSuchUpload(): KisekiError {
  return new KisekiError("namespace.no_such_upload", "the upload does not exist or has ended");
}

function load(
  change: Change,
  request: { readonly path: m.Path | undefined; readonly upload: Bytes },
): { readonly key: Bytes; readonly record: UploadRecord; readonly path: m.Path } {
  const path = m.need(request.path, "path");
  const key = uploadKey(change.routing, path, request.upload);
  const value = change.get(key);
  if (value === undefined) throw noSuchUpload();
  change.subject = path.key;
  return { key, record: UploadRecord.decode(value), path };
}

function loadOpen(
  change: Change,
  request: { readonly path: m.Path | undefined; readonly upload: Bytes },
): { readonly key: Bytes; readonly record: UploadRecord; readonly path: m.Path } {
  const found = load(change, request);
  if (found.record.state !== UploadState.open) throw noSuchUpload();
  return found;
}

export function createUpload(change: Change, request: Of<typeof m.CreateUpload>): Bytes {
  const path = m.need(request.path, "path");
  const root = change.get(
    keyOf(change.routing.of(path.placement), path.directory, RecordType.directory),
  );
  if (root === undefined || DirectoryRecord.decode(root).closing) {
    throw new KisekiError("namespace.no_such_namespace", "the namespace does not exist");
  }
  change.subject = path.key;
  const record: UploadRecord = {
    ...UploadRecord.decode(NO_BYTES),
    attributes: request.attributes,
    checksumAlgorithm: request.checksumAlgorithm,
    checksumType: request.checksumType,
    initiatedMs: change.nowMs,
    placement: path.placement,
    composition: change.newId(),
  };
  change.put(uploadKey(change.routing, path, request.upload), UploadRecord.encode(record));
  return m.encodeAnswer(m.UploadAnswer, { upload: request.upload, record });
}

export function putPart(change: Change, request: Of<typeof m.PutPart>): Bytes {
  const { key, record } = loadOpen(change, request);
  const row = partKey(change.routing, record, request.upload, request.partNumber);
  const before = change.get(row);
  if (before !== undefined) change.drop(UploadPartRecord.decode(before).content);
  const incoming = m.need(request.content, "content");
  const content = change.adopt(incoming);
  const part: UploadPartRecord = {
    sizeBytes: content.sizeBytes,
    md5: incoming.md5,
    modifiedMs: change.nowMs,
    checksum: request.checksum,
    content,
  };
  change.put(row, UploadPartRecord.encode(part));
  change.put(key, UploadRecord.encode({ ...record, changes: record.changes + 1 }));
  return m.encodeAnswer(m.PartAnswer, {
    partNumber: request.partNumber,
    record: { ...part, content: undefined },
  });
}

/** Checks a slice of the named parts and writes it as composition part rows. */
export function stageParts(change: Change, request: Of<typeof m.StageParts>): Bytes {
  const { key, record } = load(change, request);
  if (record.state === UploadState.completed && record.published !== undefined) {
    if (!equalBytes(record.partListHash, request.partListHash)) throw noSuchUpload();
    return m.encodeAnswer(m.StagePartsAnswer, {
      published: {
        version: VersionRecord.encode(record.published),
        fileId: record.publishedFile,
        isLatest: true,
        inline: NO_BYTES,
        extents: [],
        chunkRecords: [],
      },
    });
  }
  if (record.state !== UploadState.open) throw noSuchUpload();
  if (request.firstIndex > 0 && record.changes !== request.changes) throw changed();
  if (request.firstIndex % MAX_PER_ROW !== 0 || request.parts.length > MAX_SLICE_PARTS) {
    throw new KisekiError("common.corrupt_format", "a malformed slice of parts");
  }
  const parts: Of<typeof m.PartAnswer>[] = [];
  const references: PartReference[] = [];
  const found = request.parts.map((named) => ({
    named,
    part: checkPart(change, record, request, named),
  }));
  for (const [i, { named, part }] of found.entries()) {
    const last = i === request.parts.length - 1 && !request.more;
    if (!last && part.sizeBytes < MIN_PART_BYTES) {
      throw new KisekiError(
        "namespace.part_too_small",
        `part ${named.partNumber} has ${part.sizeBytes} bytes (least ${MIN_PART_BYTES})`,
        { details: { partNumber: named.partNumber, sizeBytes: part.sizeBytes } },
      );
    }
    parts.push({ partNumber: named.partNumber, record: { ...part, content: undefined } });
    references.push({
      partNumber: named.partNumber,
      sizeBytes: part.sizeBytes,
      checksum: part.checksum,
      content: part.content,
    });
  }
  for (let i = 0; i < references.length; i += MAX_PER_ROW) {
    change.put(
      compositionPartKey(change.routing, record, request.firstIndex + i),
      CompositionPartRow.encode({ parts: references.slice(i, i + MAX_PER_ROW) }),
    );
  }
  const after = { ...record, changes: record.changes + 1 };
  change.put(key, UploadRecord.encode(after));
  return m.encodeAnswer(m.StagePartsAnswer, { changes: after.changes, parts, upload: after });
}

function checkPart(
  change: Change,
  record: UploadRecord,
  request: Of<typeof m.StageParts>,
  named: m.NamedPart,
): UploadPartRecord {
  const value = change.get(partKey(change.routing, record, request.upload, named.partNumber));
  const part = value === undefined ? undefined : UploadPartRecord.decode(value);
  const wrong = part === undefined || !equalBytes(part.md5, named.etag) ||
    (named.checksum !== undefined &&
      (part.checksum === undefined ||
        part.checksum.algorithm !== named.checksum.algorithm ||
        !equalBytes(part.checksum.value, named.checksum.value)));
  if (wrong) {
    throw new KisekiError(
      "namespace.invalid_part",
      `part ${named.partNumber} was not uploaded or has another ETag or checksum`,
      { details: { partNumber: named.partNumber } },
    );
  }
  return part;
}

function changed(): KisekiError {
  return new KisekiError("namespace.conflict", "a part of the upload changed meanwhile", {
    retriable: true,
  });
}

export function complete(change: Change, request: Of<typeof m.Complete>): Bytes {
  const { key, record, path } = loadOpen(change, request);
  if (record.changes !== request.changes) throw changed();
  return atPlace(change, path, true, (place) => {
    const entry = loadEntry(change, place);
    checkCondition(request.condition, entry);
    dropStalePartRows(change, record, request.partCount);
    const { version, fileId } = publish(change, place, entry, {
      sizeBytes: request.sizeBytes,
      etag: request.etag,
      etagParts: request.partCount,
      checksum: request.checksum,
      headers: record.attributes?.headers,
      userMetadata: record.attributes?.userMetadata ?? [],
      tags: record.attributes?.tags ?? [],
      content: {
        ...Content.decode(NO_BYTES),
        kind: ContentKind.parts,
        sizeBytes: request.sizeBytes,
        composition: record.composition,
        placement: record.placement,
        operation: record.composition,
        count: request.partCount,
        rowOffsets: request.rowOffsets,
      },
    });
    change.put(
      key,
      UploadRecord.encode({
        ...record,
        attributes: undefined,
        state: UploadState.completed,
        endedMs: change.nowMs,
        partListHash: request.partListHash,
        published: version,
        publishedFile: fileId,
      }),
    );
    return m.encodeAnswer(m.VersionAnswer, {
      version: VersionRecord.encode(version),
      fileId,
      isLatest: true,
    });
  }, () => {
    throw new KisekiError("common.internal", "a walk that makes directories found none");
  });
}

/** Rows of an earlier, longer part list that was never published. */
function dropStalePartRows(change: Change, record: UploadRecord, partCount: number): void {
  const rows = Math.ceil(partCount / MAX_PER_ROW);
  const from = compositionPartKey(change.routing, record, rows * MAX_PER_ROW);
  const to = endOf(
    keyOf(
      change.routing.of(record.placement),
      record.composition,
      RecordType.compositionPart,
    ),
  );
  for (const row of change.context.rows.scan(from, to)) change.remove(row.key.slice());
}

export function abortUpload(change: Change, request: Of<typeof m.UploadPath>): Bytes {
  const { key, record } = loadOpen(change, request);
  change.put(
    key,
    UploadRecord.encode({
      ...record,
      attributes: undefined,
      state: UploadState.aborted,
      endedMs: change.nowMs,
    }),
  );
  return m.encodeAnswer(m.EmptyAnswer, {});
}

function queryUpload(
  context: QueryContext,
  routing: Routing,
  request: { readonly path: m.Path | undefined; readonly upload: Bytes },
): UploadRecord {
  const value = context.rows.get(
    uploadKey(routing, m.need(request.path, "path"), request.upload),
  );
  const record = value === undefined ? undefined : UploadRecord.decode(concatBytes(value));
  if (record === undefined || record.state !== UploadState.open) throw noSuchUpload();
  return record;
}

/** Body of an UploadAnswer. */
export function getUpload(
  context: QueryContext,
  routing: Routing,
  request: Of<typeof m.UploadPath>,
): Bytes {
  const record = queryUpload(context, routing, request);
  return m.UploadAnswer.encode({ upload: request.upload, record });
}

/** Body of a ListPartsAnswer. */
export function listParts(
  context: QueryContext,
  routing: Routing,
  request: Of<typeof m.ListParts>,
): Bytes {
  const record = queryUpload(context, routing, request);
  const from = keyOf(
    routing.of(record.placement),
    request.upload,
    RecordType.uploadPart,
    u16be(Math.min(request.after + 1, 0xffff)),
  );
  const to = endOf(
    keyOf(routing.of(record.placement), request.upload, RecordType.uploadPart),
  );
  const parts: Of<typeof m.PartAnswer>[] = [];
  let truncated = false;
  for (const row of context.rows.scan(from, to)) {
    if (parts.length >= request.limit) {
      truncated = request.limit > 0;
      break;
    }
    const part = UploadPartRecord.decode(concatBytes(row.value));
    parts.push({ partNumber: partNumberOf(row.key), record: { ...part, content: undefined } });
  }
  return m.ListPartsAnswer.encode({ parts, truncated });
}

/** Part number at the end of a part row's key. */
export function partNumberOf(key: Bytes): number {
  return (key[key.length - 2] as number) * 256 + (key[key.length - 1] as number);
}
