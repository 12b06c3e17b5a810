/**
 * Queries about one object and its content.
 */
import { type Bytes, concatBytes, EMPTY_BYTES, toHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { ChunkId } from "../common/ids.ts";
import { readChunkRecord } from "../log/ledger.ts";
import type { QueryContext, ShardRouter } from "../log/ports.ts";
import { escapeName, RecordType } from "../log/row_key.ts";
import type { RowReader } from "../table/table.ts";
import * as m from "./messages.ts";
import { directoryEnd } from "./object_key.ts";
import {
  type Content,
  ContentKind,
  DirectoryRecord,
  Entry,
  EntryKind,
  type Extent,
  ExtentRow,
  VersionRecord,
} from "./records.ts";
import { endOf, keyOf, type Routing, u32be, u64be } from "./rows.ts";
import { findVersion, noSuchEntry, parseVersion, versionText } from "./version_line.ts";
import type { Of } from "./wire.ts";

/** Extent rows that an answer to Open carries. */
const FIRST_EXTENT_ROWS = 1;
const MAX_EXTENT_ROWS = 16;
/** Chunk records that an answer brings along. */
const CHUNK_RECORDS_AHEAD = 16;

/** An Answer with a VersionAnswer, or where the walk goes on. */
export function openVersion(
  context: QueryContext,
  routing: Routing,
  router: ShardRouter,
  request: Of<typeof m.Open>,
): Bytes {
  const path = m.need(request.path, "path");
  const rows = context.rows;
  let id = path.directory;
  let routingKey = routing.of(path.placement);
  const root = rows.get(keyOf(routingKey, id, RecordType.directory));
  if (root === undefined || DirectoryRecord.decode(root).closing) {
    throw new KisekiError("namespace.no_such_namespace", "the namespace does not exist");
  }
  const missing = (): KisekiError =>
    request.version === ""
      ? noSuchEntry()
      : new KisekiError("namespace.no_such_version", "the version does not exist");
  let start = 0;
  for (let end = directoryEnd(path.key, 0); end >= 0; end = directoryEnd(path.key, start)) {
    const name = path.key.subarray(start, end);
    const value = rows.get(keyOf(routingKey, id, RecordType.entry, escapeName(name)))?.slice();
    if (value === undefined) throw missing();
    const entry = Entry.decode(value);
    if (entry.kind !== EntryKind.directory) throw missing();
    id = entry.fileId;
    routingKey = routing.of(entry.placement);
    start = end;
    if (router.shardOf(context.organisation, routingKey) !== context.shard) {
      return m.Answer.encode({
        continueAt: { directory: id, placement: entry.placement, key: path.key.slice(start) },
      });
    }
  }
  const name = path.key.subarray(start);
  const value = rows.get(keyOf(routingKey, id, RecordType.entry, escapeName(name)))?.slice();
  if (value === undefined) throw missing();
  const entry = Entry.decode(value);
  const found = request.version === ""
    ? entry.current
    : findVersion(rows, { routing: routingKey, id }, name, entry, parseVersion(request.version))
      ?.value;
  if (found === undefined) throw missing();
  const version = VersionRecord.decode(found);
  if (version.deleteMarker) {
    const details = { deleteMarker: true, versionId: versionText(version) };
    if (request.version === "") throw noSuchEntry(details);
    throw new KisekiError("namespace.method_not_allowed", "the version is a delete marker", {
      details: { ...details, lastModifiedMs: version.modifiedMs },
    });
  }
  const content = version.content;
  return m.encodeAnswer(m.VersionAnswer, {
    version: found,
    fileId: entry.fileId,
    isLatest: found === entry.current,
    ...(request.content && content !== undefined ? firstContent(context, routing, content) : {}),
  });
}

function firstContent(
  context: QueryContext,
  routing: Routing,
  content: Content,
): Partial<Of<typeof m.VersionAnswer>> {
  if (content.kind === ContentKind.inlineRow) {
    return { inline: readInline(context.rows, routing, content) };
  }
  if (content.oneExtent !== undefined) {
    return { chunkRecords: chunkRecords(context.rows, [content.oneExtent], 0) };
  }
  if (content.kind === ContentKind.extents) {
    return extentsAnswer(context, routing, { ...content, offset: 0, rows: FIRST_EXTENT_ROWS });
  }
  return {};
}

/** Extents and the records of the chunks that are read first. */
export function extentsAnswer(
  context: QueryContext,
  routing: Routing,
  request: Of<typeof m.ReadExtents>,
): Of<typeof m.ExtentsAnswer> {
  const extents = readExtents(context.rows, routing, request);
  return { extents, chunkRecords: chunkRecords(context.rows, extents, request.offset) };
}

/** In one shard a chunk's row is here or nowhere; over shards an empty one says "ask the ledger". */
function chunkRecords(rows: RowReader, extents: readonly Extent[], offset: number): Bytes[] {
  const out: Bytes[] = [];
  for (const extent of extents) {
    if (extent.offset + extent.length <= offset) continue;
    out.push(readChunkRecord(rows, toHex(extent.chunk) as ChunkId)?.slice() ?? EMPTY_BYTES);
    if (out.length === CHUNK_RECORDS_AHEAD) break;
  }
  return out;
}

/** @throws KisekiError `common.internal` when the row is missing. */
export function readInline(
  rows: RowReader,
  routing: Routing,
  of: { readonly placement: Bytes; readonly composition: Bytes },
): Bytes {
  const value = rows.get(
    keyOf(routing.of(of.placement), of.composition, RecordType.inlineContent),
  );
  if (value === undefined) throw gone();
  return concatBytes(value);
}

/** Extents of the row that holds `offset` and of the rows after it, `rows` in all. */
export function readExtents(
  rows: RowReader,
  routing: Routing,
  request: Of<typeof m.ReadExtents>,
): readonly Extent[] {
  const base = keyOf(routing.of(request.placement), request.composition, RecordType.extent);
  const at = concatBytes(base, u64be(request.offset + 1));
  let from = base;
  for (const row of rows.scan(base, at, { reverse: true })) {
    from = row.key.slice();
    break;
  }
  const extents: Extent[] = [];
  let left = Math.min(Math.max(1, request.rows), MAX_EXTENT_ROWS);
  for (const row of rows.scan(from, endOf(base))) {
    extents.push(...ExtentRow.decode(concatBytes(row.value)).extents);
    if (--left === 0) break;
  }
  if (extents.length === 0) throw gone();
  return extents;
}

/** Body of a CompositionPartRow. */
export function readParts(
  rows: RowReader,
  routing: Routing,
  request: Of<typeof m.ReadParts>,
): Bytes {
  const value = rows.get(
    keyOf(
      routing.of(request.placement),
      request.composition,
      RecordType.compositionPart,
      u32be(request.firstIndex),
    ),
  );
  if (value === undefined) throw gone();
  return concatBytes(EMPTY_BYTES, value);
}

function gone(): KisekiError {
  return new KisekiError(
    "namespace.conflict",
    "the content was replaced while it was being read: ask again",
    { retriable: true },
  );
}
