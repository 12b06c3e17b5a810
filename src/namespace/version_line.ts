/**
 * The versions of one name: publishing, deleting, finding.
 *
 * The current version lies in the entry row, older ones in version rows, newest first. In a
 * namespace that is not versioned, or suspended, a write replaces the null version alone.
 *
 * Invariants: `olderVersions` equals the number of version rows; `nullVersion` names the null
 * version exactly when it is a version row; the current version is the newest.
 */
import { type Bytes, concatBytes, EMPTY_BYTES, equalBytes, toHex } from "../common/bytes.ts";
import { fromHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { escapeName, RecordType } from "../log/row_key.ts";
import type { RowReader } from "../table/table.ts";
import type { Change } from "./change.ts";
import { entryKey, type Level, type Place, settleCounts } from "./directory_walk.ts";
import type { Condition } from "./messages.ts";
import { Entry, EntryKind, VersionRecord } from "./records.ts";
import { endOf, keyOf, newVersionId, versionSuffix } from "./rows.ts";

/** `versioning` of a root directory. */
export const VersioningCode = { unversioned: 0, enabled: 1, suspended: 2 } as const;

/** What S3 calls this version. */
export function versionText(version: Pick<VersionRecord, "isNull" | "versionId">): string {
  return version.isNull ? "null" : toHex(version.versionId);
}

/** Without quotes. */
export function etagText(version: Pick<VersionRecord, "etag" | "etagParts">): string {
  const hex = toHex(version.etag);
  return version.etagParts === 0 ? hex : `${hex}-${version.etagParts}`;
}

/** A named version: "null", or the id's bytes. @throws KisekiError `common.invalid_argument`. */
export function parseVersion(text: string): "null" | Bytes {
  if (text === "null") return "null";
  if (!/^[0-9a-f]{32}$/.test(text)) {
    throw new KisekiError("common.invalid_argument", "not a version id");
  }
  return fromHex(text);
}

export function loadEntry(change: Change, place: Place): Entry | undefined {
  if (place.leaf.isNew) return undefined;
  const value = change.get(entryKey(place.leaf, place.name));
  return value === undefined ? undefined : Entry.decode(value);
}

/** @throws KisekiError `namespace.precondition_failed`, `namespace.no_such_entry`. */
export function checkCondition(condition: Condition | undefined, entry: Entry | undefined): void {
  if (condition === undefined) return;
  if (condition.ifMatch.length === 0 && condition.ifNoneMatch.length === 0) return;
  const current = entry === undefined || entry.deleteMarker
    ? undefined
    : etagText(VersionRecord.decode(entry.current));
  const matches = (tags: readonly string[]): boolean =>
    current !== undefined && tags.some((tag) => tag === "*" || tag === current);
  if (condition.ifMatch.length > 0 && !matches(condition.ifMatch)) {
    if (current === undefined) throw noSuchEntry();
    throw new KisekiError("namespace.precondition_failed", "the object has another ETag", {
      details: { condition: "If-Match" },
    });
  }
  if (matches(condition.ifNoneMatch)) {
    throw new KisekiError("namespace.precondition_failed", "the object exists already", {
      details: { condition: "If-None-Match" },
    });
  }
}

/** Makes `draft` the current version. */
export function publish(
  change: Change,
  place: Place,
  entry: Entry | undefined,
  draft: Partial<VersionRecord>,
): { readonly version: VersionRecord; readonly fileId: Bytes } {
  const isNull = place.root.versioning !== VersioningCode.enabled;
  const version: VersionRecord = {
    ...VersionRecord.decode(EMPTY_BYTES),
    ...draft,
    versionId: newVersionId(change.context.timestamp, change.newId()),
    isNull,
    modifiedMs: change.nowMs,
  };
  let older = entry?.olderVersions ?? 0;
  let nullVersion = entry?.nullVersion ?? EMPTY_BYTES;
  if (entry !== undefined) {
    const current = VersionRecord.decode(entry.current);
    if (isNull && current.isNull) {
      change.drop(current.content);
    } else {
      change.put(versionKey(place.leaf, place.name, current.versionId), entry.current);
      older++;
      if (current.isNull) nullVersion = current.versionId;
    }
    if (isNull && nullVersion.length > 0) {
      removeVersionRow(change, place, nullVersion);
      older--;
      nullVersion = EMPTY_BYTES;
    }
  }
  const fileId = entry?.fileId ?? change.newId();
  const attributes = entry?.attributes;
  change.put(
    entryKey(place.leaf, place.name),
    Entry.encode({
      kind: EntryKind.object,
      fileId,
      deleteMarker: version.deleteMarker,
      olderVersions: older,
      nullVersion,
      attributes: attributes === undefined
        ? undefined
        : { ...attributes, change: attributes.change + 1 },
      current: VersionRecord.encode(version),
    }),
  );
  const wasLive = entry !== undefined && !entry.deleteMarker;
  settleCounts(
    change,
    place,
    entry === undefined ? 1 : 0,
    Number(!version.deleteMarker) - Number(wasLive),
  );
  return { version, fileId };
}

/** Removes one version; the newest older one takes the place of a current one. */
export function removeVersion(
  change: Change,
  place: Place,
  entry: Entry,
  wanted: "null" | Bytes,
): VersionRecord | undefined {
  const current = VersionRecord.decode(entry.current);
  const isCurrent = wanted === "null"
    ? current.isNull
    : !current.isNull && equalBytes(current.versionId, wanted);
  if (!isCurrent) {
    const id = wanted === "null" ? entry.nullVersion : wanted;
    // A null version answers to "null" alone.
    if (id.length === 0 || (wanted !== "null" && equalBytes(id, entry.nullVersion))) {
      return undefined;
    }
    const version = removeVersionRow(change, place, id);
    if (version === undefined) return undefined;
    change.put(
      entryKey(place.leaf, place.name),
      Entry.encode({
        ...entry,
        olderVersions: entry.olderVersions - 1,
        nullVersion: version.isNull ? EMPTY_BYTES : entry.nullVersion,
      }),
    );
    return version;
  }
  change.drop(current.content);
  const next = newestVersionRow(change, place);
  const wasLive = Number(!entry.deleteMarker);
  if (next === undefined) {
    change.remove(entryKey(place.leaf, place.name));
    settleCounts(change, place, -1, -wasLive);
    return current;
  }
  const promoted = VersionRecord.decode(next.value);
  change.remove(next.key);
  change.put(
    entryKey(place.leaf, place.name),
    Entry.encode({
      ...entry,
      deleteMarker: promoted.deleteMarker,
      olderVersions: entry.olderVersions - 1,
      nullVersion: promoted.isNull ? EMPTY_BYTES : entry.nullVersion,
      current: next.value,
    }),
  );
  settleCounts(change, place, 0, Number(!promoted.deleteMarker) - wasLive);
  return current;
}

/** Replaces the record of a version that {@link findVersion} found. */
export function rewriteVersion(
  change: Change,
  place: Place,
  entry: Entry,
  row: Bytes | undefined,
  value: Bytes,
): void {
  if (row !== undefined) change.put(row, value);
  else change.put(entryKey(place.leaf, place.name), Entry.encode({ ...entry, current: value }));
}

/** A version by name: where it lies and what it is. Undefined when there is none. */
export function findVersion(
  rows: RowReader,
  leaf: Pick<Level, "routing" | "id">,
  name: Bytes,
  entry: Entry,
  wanted: "null" | Bytes,
): { readonly value: Bytes; readonly row: Bytes | undefined } | undefined {
  const current = VersionRecord.decode(entry.current);
  if (wanted === "null" ? current.isNull : equalBytes(current.versionId, wanted)) {
    // A null version answers to "null" alone.
    return wanted !== "null" && current.isNull
      ? undefined
      : { value: entry.current, row: undefined };
  }
  const id = wanted === "null" ? entry.nullVersion : wanted;
  if (id.length === 0) return undefined;
  if (wanted !== "null" && equalBytes(id, entry.nullVersion)) return undefined;
  const row = versionKey(leaf, name, id);
  const value = rows.get(row)?.slice();
  return value === undefined ? undefined : { value, row };
}

export function versionKey(
  leaf: Pick<Level, "routing" | "id">,
  name: Bytes,
  versionId: Bytes,
): Bytes {
  return keyOf(
    leaf.routing,
    leaf.id,
    RecordType.version,
    escapeName(name),
    versionSuffix(versionId),
  );
}

function removeVersionRow(change: Change, place: Place, id: Bytes): VersionRecord | undefined {
  const key = versionKey(place.leaf, place.name, id);
  const value = change.get(key);
  if (value === undefined) return undefined;
  const version = VersionRecord.decode(value);
  change.remove(key);
  change.drop(version.content);
  return version;
}

function newestVersionRow(
  change: Change,
  place: Place,
): { readonly key: Bytes; readonly value: Bytes } | undefined {
  const from = keyOf(
    place.leaf.routing,
    place.leaf.id,
    RecordType.version,
    escapeName(place.name),
  );
  for (const row of change.context.rows.scan(from, endOf(from))) {
    return { key: concatBytes(row.key), value: concatBytes(row.value) };
  }
  return undefined;
}

export function noSuchEntry(details: Readonly<Record<string, string | boolean>> = {}): KisekiError {
  return new KisekiError("namespace.no_such_entry", "the key does not exist", { details });
}
