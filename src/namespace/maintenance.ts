/**
 * Housekeeping of one namespace, a slice at a time: unlinks garbage, collects what writers that
 * died had announced, drains ended uploads, and empties removed namespaces.
 *
 * Every step deletes rows that nobody sees and is idempotent: deleting a reference twice is
 * deleting it once. References in other shards are handed to the caller first, under a token; the
 * rows that name them go only when the token comes back.
 */
import { type Bytes, concatBytes, equalBytes } from "../common/bytes.ts";
import { KEY_PREFIX_BYTES, RecordType } from "../log/row_key.ts";
import { type Change, distinctChunks } from "./change.ts";
import * as m from "./messages.ts";
import {
  CompositionPartRow,
  type Content,
  ContentKind,
  DirectoryRecord,
  type Extent,
  ExtentRow,
  MAX_PER_ROW,
  StagedKind,
  StagedRecord,
  UploadPartRecord,
  UploadRecord,
} from "./records.ts";
import { endOf, keyOf, u64be } from "./rows.ts";
import { compositionPartKey, partKey, partNumberOf, UploadState } from "./uploads.ts";
import type { Of } from "./wire.ts";

/** References that one slice drops, about: a part's extents go together. */
const SLICE_REFERENCES = 2000;
const SLICE_ROWS = 512;

type Release = Of<typeof m.MaintainAnswer>["release"][number];

/** What a slice may still do. */
class Slice {
  readonly change: Change;
  readonly #released: Bytes;
  references = SLICE_REFERENCES;
  rows = SLICE_ROWS;
  more = false;
  release: readonly Release[] = [];
  token: Bytes = new Uint8Array(0);

  constructor(change: Change, released: Bytes) {
    this.change = change;
    this.#released = released;
  }

  get full(): boolean {
    return this.references <= 0 || this.rows <= 0 || this.release.length > 0;
  }

  /**
   * Drops references, or asks the caller to release those in other shards first.
   *
   * @returns false when the rows that name them must stay for now.
   */
  drop(references: readonly Release[], token: Bytes): boolean {
    const elsewhere = references.filter((one) => !this.change.owns(one.chunk.subarray(0, 8)));
    if (elsewhere.length > 0 && !equalBytes(token, this.#released)) {
      this.release = elsewhere;
      this.token = token;
      this.more = true;
      return false;
    }
    for (const one of references) {
      if (!elsewhere.includes(one)) {
        this.change.dropReference(one.chunk, one.composition, one.operation);
      }
    }
    this.references -= references.length;
    return true;
  }
}

export function maintain(change: Change, request: Of<typeof m.Maintain>): Bytes {
  const slice = new Slice(change, request.released);
  const stagedLeft = drainStaged(slice, request);
  const uploadsLeft = slice.full ? true : drainUploads(slice, request);
  let drained = false;
  if (request.removed && !stagedLeft && !uploadsLeft && !slice.more) {
    const key = keyOf(
      change.routing.of(request.placement),
      request.directory,
      RecordType.directory,
    );
    const root = change.get(key);
    if (root === undefined) drained = true;
    else if (DirectoryRecord.decode(root).closing) {
      change.remove(key);
      drained = true;
    }
  }
  return m.encodeAnswer(m.MaintainAnswer, {
    more: slice.more || slice.full,
    release: slice.release,
    token: slice.token,
    drained,
  });
}

/** @returns true when staged rows are left. */
function drainStaged(slice: Slice, request: Of<typeof m.Maintain>): boolean {
  const { change } = slice;
  const from = keyOf(
    change.routing.of(request.placement),
    request.placement,
    RecordType.staged,
  );
  let left = false;
  const found: { readonly key: Bytes; readonly record: Of<typeof StagedRecord> }[] = [];
  for (const row of change.context.rows.scan(from, endOf(from))) {
    const record = StagedRecord.decode(concatBytes(row.value));
    if (record.kind === StagedKind.writing && record.createdMs >= request.staleBeforeMs) {
      left = true;
      continue;
    }
    found.push({ key: row.key.slice(), record });
    if (found.length >= SLICE_ROWS) break;
  }
  for (const { key, record } of found) {
    if (slice.full) {
      slice.more = true;
      return true;
    }
    slice.rows--;
    if (record.kind === StagedKind.garbage && record.content !== undefined) {
      if (!drainGarbage(slice, key, record, record.content)) left = true;
      continue;
    }
    const composition = key.slice(KEY_PREFIX_BYTES, KEY_PREFIX_BYTES + 16);
    const operation = key.slice(KEY_PREFIX_BYTES + 16, KEY_PREFIX_BYTES + 32);
    const references = record.chunks.map((chunk) => ({ chunk, composition, operation }));
    if (slice.drop(references, key)) change.remove(key);
    else left = true;
  }
  return left;
}

/** @returns true when the garbage is gone. */
function drainGarbage(
  slice: Slice,
  key: Bytes,
  record: Of<typeof StagedRecord>,
  content: Content,
): boolean {
  const { change } = slice;
  const token = concatBytes(key, u64be(record.cursor));
  if (content.kind !== ContentKind.parts) {
    const gathered = gather(change, content);
    if (!slice.drop(gathered.references, token)) return false;
    for (const row of gathered.rows) change.remove(row);
    change.remove(key);
    return true;
  }
  let index = record.cursor;
  const references: Release[] = [];
  const rows: Bytes[] = [];
  while (index < content.count && references.length < slice.references) {
    const first = index - index % MAX_PER_ROW;
    const rowKey = compositionPartKey(change.routing, content, first);
    const value = change.get(rowKey);
    const parts = value === undefined ? [] : CompositionPartRow.decode(value).parts;
    let at = index - first;
    for (; at < parts.length && references.length < slice.references; at++) {
      const part = parts[at]?.content;
      if (part === undefined) continue;
      const gathered = gather(change, part);
      references.push(...gathered.references);
      rows.push(...gathered.rows);
    }
    const exhausted = at >= parts.length;
    index = exhausted ? first + MAX_PER_ROW : first + at;
    if (exhausted) rows.push(rowKey);
  }
  if (!slice.drop(references, token)) return false;
  for (const row of rows) change.remove(row);
  if (index >= content.count) {
    change.remove(key);
    return true;
  }
  change.put(key, StagedRecord.encode({ ...record, cursor: index }));
  slice.more = true;
  return false;
}

/** Rows and references of content that is no part list. */
function gather(
  change: Change,
  content: Content,
): { readonly rows: readonly Bytes[]; readonly references: readonly Release[] } {
  const rows: Bytes[] = [];
  const extents: Extent[] = content.oneExtent === undefined ? [] : [content.oneExtent];
  const routing = change.routing.of(content.placement);
  if (content.kind === ContentKind.inlineRow) {
    rows.push(keyOf(routing, content.composition, RecordType.inlineContent));
  } else if (content.kind === ContentKind.extents) {
    const from = keyOf(routing, content.composition, RecordType.extent);
    for (const row of change.context.rows.scan(from, endOf(from))) {
      rows.push(row.key.slice());
      extents.push(...ExtentRow.decode(concatBytes(row.value)).extents);
    }
  }
  const { composition, operation } = content;
  return {
    rows,
    references: distinctChunks(extents).map((chunk) => ({ chunk, composition, operation })),
  };
}

/** @returns true when upload rows are left. */
function drainUploads(slice: Slice, request: Of<typeof m.Maintain>): boolean {
  const { change } = slice;
  const from = keyOf(
    change.routing.of(request.placement),
    request.directory,
    RecordType.upload,
  );
  const found: { readonly key: Bytes; readonly record: Of<typeof UploadRecord> }[] = [];
  let left = false;
  for (const row of change.context.rows.scan(from, endOf(from))) {
    const record = UploadRecord.decode(concatBytes(row.value));
    const open = record.state === UploadState.open;
    const settled = record.drained && record.endedMs >= request.staleBeforeMs;
    if (!request.removed && (open || settled)) {
      left = true;
      continue;
    }
    found.push({ key: row.key.slice(), record });
    if (found.length >= SLICE_ROWS) break;
  }
  for (const { key, record } of found) {
    if (slice.full) {
      slice.more = true;
      return true;
    }
    slice.rows--;
    if (record.drained) {
      change.remove(key);
      continue;
    }
    left = true;
    drainUpload(slice, key, record);
  }
  return left;
}

function drainUpload(slice: Slice, key: Bytes, record: Of<typeof UploadRecord>): void {
  const { change } = slice;
  const upload = key.slice(key.length - 16);
  const from = partKey(change.routing, record, upload, record.drainedPart + 1);
  const to = endOf(
    keyOf(change.routing.of(record.placement), upload, RecordType.uploadPart),
  );
  const used = new UsedParts(change, record);
  const found: { readonly key: Bytes; readonly value: Bytes }[] = [];
  for (const row of change.context.rows.scan(from, to)) {
    found.push({ key: row.key.slice(), value: concatBytes(row.value) });
    if (found.length >= slice.rows) break;
  }
  let drainedPart = record.drainedPart;
  let done = found.length < slice.rows;
  for (const row of found) {
    if (slice.full) {
      done = false;
      break;
    }
    const part = UploadPartRecord.decode(row.value);
    const partNumber = partNumberOf(row.key);
    if (part.content !== undefined && !used.has(partNumber, part.content.composition)) {
      change.drop(part.content);
      slice.references -= Math.max(1, part.content.count);
    }
    change.remove(row.key);
    drainedPart = partNumber;
    slice.rows--;
  }
  if (done && record.state !== UploadState.completed) {
    // A part list that was staged and never published.
    const base = keyOf(
      change.routing.of(record.placement),
      record.composition,
      RecordType.compositionPart,
    );
    for (const row of change.context.rows.scan(base, endOf(base))) change.remove(row.key.slice());
  }
  change.put(
    key,
    UploadRecord.encode({
      ...record,
      state: record.state === UploadState.open ? UploadState.aborted : record.state,
      endedMs: record.state === UploadState.open ? change.nowMs : record.endedMs,
      attributes: undefined,
      drainedPart,
      drained: done,
    }),
  );
  slice.more = true;
}

/** Which parts a completed upload's composition took over. */
class UsedParts {
  readonly #change: Change;
  readonly #record: Of<typeof UploadRecord>;
  #row = 0;
  #parts: readonly { readonly partNumber: number; readonly composition: Bytes }[] | undefined;

  constructor(change: Change, record: Of<typeof UploadRecord>) {
    this.#change = change;
    this.#record = record;
  }

  /** Asked in ascending order of part numbers. */
  has(partNumber: number, composition: Bytes): boolean {
    if (this.#record.state !== UploadState.completed) return false;
    for (;;) {
      this.#parts ??= this.#read(this.#row);
      const last = this.#parts[this.#parts.length - 1];
      if (last === undefined) return false;
      if (last.partNumber >= partNumber) break;
      this.#row++;
      this.#parts = undefined;
    }
    return this.#parts.some((part) =>
      part.partNumber === partNumber && equalBytes(part.composition, composition)
    );
  }

  #read(
    row: number,
  ): readonly { readonly partNumber: number; readonly composition: Bytes }[] {
    const value = this.#change.get(
      compositionPartKey(this.#change.routing, this.#record, row * MAX_PER_ROW),
    );
    if (value === undefined) return [];
    return CompositionPartRow.decode(value).parts.map((part) => ({
      partNumber: part.partNumber,
      composition: part.content?.composition ?? new Uint8Array(0),
    }));
  }
}
