/**
 * Listings of keys and of versions, at the shard.
 *
 * The page is what one gets by rolling every key that holds the delimiter after the prefix up to
 * its common prefix, sorting, and taking what is strictly after the marker. With delimiter "/" a
 * directory is one seek; other delimiters skip by seeking past the common prefix.
 */
import { type Bytes, concatBytes, equalBytes, prefixEnd } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { QueryContext } from "../log/ports.ts";
import { escapeName, RecordType } from "../log/row_key.ts";
import * as m from "./messages.ts";
import { indexOfBytes, startsWith } from "./object_key.ts";
import { EntryKind, VersionRecord } from "./records.ts";
import { endOf, keyOf, type Routing } from "./rows.ts";
import { type Met, TreeWalk } from "./tree_walk.ts";
import { parseVersion, versionText } from "./version_line.ts";
import type { Of } from "./wire.ts";
import { WireWriter } from "./wire.ts";

const MAX_LIMIT = 1000;
const ZERO = Uint8Array.of(0);

/** Items of an answer, encoded as they are met. */
class Page {
  readonly #writer = new WireWriter(16 << 10);
  readonly #limit: number;
  count = 0;
  truncated = false;

  constructor(limit: number) {
    this.#limit = Math.min(limit, MAX_LIMIT);
  }

  /** False when the page is full: the item is not in it, so there is more. */
  add(item: Partial<Of<typeof m.ListedItem>>): boolean {
    if (this.count >= this.#limit) {
      this.truncated = this.#limit > 0;
      return false;
    }
    this.count++;
    this.#writer.varint(1 * 8 + 2);
    this.#writer.nested(() => m.ListedItem.write(this.#writer, item));
    return true;
  }

  finish(): Bytes {
    m.ListAnswer.write(this.#writer, { truncated: this.truncated });
    return this.#writer.finish();
  }
}

interface Range {
  readonly prefix: Bytes;
  readonly delimiter: Bytes;
}

/** The common prefix that a key rolls up to, if any. */
function commonPrefix(range: Range, key: Bytes): Bytes | undefined {
  if (range.delimiter.length === 0) return undefined;
  const at = indexOfBytes(key, range.delimiter, range.prefix.length);
  return at < 0 ? undefined : key.subarray(0, at + range.delimiter.length);
}

/** The least bound of keys whose item is strictly after `marker`; undefined when there is none. */
function boundAfter(range: Range, marker: Bytes): Bytes | undefined {
  const rolled = startsWith(marker, range.prefix) ? commonPrefix(range, marker) : undefined;
  return rolled === undefined ? concatBytes(marker, ZERO) : prefixEnd(rolled);
}

/** Body of a ListAnswer. */
export function listObjects(
  context: QueryContext,
  routing: Routing,
  request: Of<typeof m.List>,
): Bytes {
  const page = new Page(request.limit);
  const root = m.need(request.root, "root");
  const walk = new TreeWalk(
    context.rows,
    routing,
    { id: root.directory, placement: root.placement },
    true,
  );
  const start = startBound(request, request.after);
  if (start !== undefined && request.limit > 0) {
    walk.seek(start);
    walkItems(walk, request, (met) => {
      if (met.entry.deleteMarker) return true;
      return page.add({
        key: met.key,
        version: met.entry.current,
        fileId: met.entry.fileId,
        isLatest: true,
      });
    }, (prefix) => page.add({ key: prefix, isPrefix: true }));
  }
  walk.close();
  return page.finish();
}

/** Body of a ListAnswer with versions, newest first within a key. */
export function listVersions(
  context: QueryContext,
  routing: Routing,
  request: Of<typeof m.ListVersions>,
): Bytes {
  const page = new Page(request.limit);
  const root = m.need(request.root, "root");
  const walk = new TreeWalk(
    context.rows,
    routing,
    { id: root.directory, placement: root.placement },
    false,
  );
  let start = startBound(request, request.keyMarker);
  // Within the versions of the marker's key: start at the key itself.
  const within = request.versionMarker !== "" &&
    commonPrefix(request, request.keyMarker) === undefined &&
    startsWith(request.keyMarker, request.prefix);
  if (within) start = request.keyMarker;
  if (start !== undefined && request.limit > 0) {
    walk.seek(start);
    walkItems(
      walk,
      request,
      (met) =>
        addVersions(
          context,
          page,
          met,
          within && equalBytes(met.key, request.keyMarker) ? request.versionMarker : undefined,
        ),
      (prefix) => page.add({ key: prefix, isPrefix: true }),
    );
  }
  walk.close();
  return page.finish();
}

function startBound(range: Range, marker: Bytes): Bytes | undefined {
  if (marker.length === 0) return range.prefix;
  const after = boundAfter(range, marker);
  if (after === undefined) return undefined;
  // The greater of the two.
  for (let i = 0; i < range.prefix.length; i++) {
    const difference = (after[i] ?? -1) - (range.prefix[i] as number);
    if (difference > 0) return after;
    if (difference < 0) return range.prefix;
  }
  return after;
}

/** Calls back for each object and each common prefix in order, until one answers false. */
function walkItems(
  walk: TreeWalk,
  range: Range,
  onObject: (met: Met) => boolean,
  onPrefix: (prefix: Bytes) => boolean,
): void {
  const bySlash = range.delimiter.length === 1 && range.delimiter[0] === 0x2f;
  for (let met = walk.next(); met !== undefined; met = walk.next()) {
    if (!startsWith(met.key, range.prefix)) return;
    if (met.entry.kind === EntryKind.directory) {
      if (!bySlash) walk.enter(met);
      else if (!onPrefix(met.key)) return;
      continue;
    }
    const rolled = bySlash ? undefined : commonPrefix(range, met.key);
    if (rolled === undefined) {
      if (!onObject(met)) return;
      continue;
    }
    if (met.entry.deleteMarker && walk.skipsHidden) continue;
    const kept = rolled.slice();
    if (!onPrefix(kept)) return;
    const next = prefixEnd(kept);
    if (next === undefined) return;
    walk.seek(next);
  }
}

function addVersions(
  context: QueryContext,
  page: Page,
  met: Met,
  marker: string | undefined,
): boolean {
  const fileId = met.entry.fileId.slice();
  const key = met.key.slice();
  const current = met.entry.current.slice();
  let from = keyOf(met.routing, met.id, RecordType.version, escapeName(met.name));
  const to = endOf(from);
  const older = met.entry.olderVersions;
  if (marker === undefined) {
    if (!page.add({ key, version: current, fileId, isLatest: true })) return false;
  } else {
    const wanted = parseVersion(marker);
    const version = VersionRecord.decode(current);
    if (versionText(version) !== marker) {
      const id = wanted === "null" ? met.entry.nullVersion.slice() : wanted;
      if (id.length === 0) return true;
      const suffix = id.slice();
      for (let i = 0; i < 8; i++) suffix[i] = 0xff - (suffix[i] as number);
      from = concatBytes(from, suffix, ZERO);
    }
  }
  if (older === 0) return true;
  for (const row of context.rows.scan(from, to)) {
    if (!page.add({ key, version: row.value, fileId, isLatest: false })) return false;
  }
  return true;
}

/** @throws KisekiError `common.invalid_argument` on a limit out of range. */
export function checkLimit(limit: number): void {
  if (!Number.isInteger(limit) || limit < 0 || limit > MAX_LIMIT) {
    throw new KisekiError("common.invalid_argument", `a limit of ${limit} (0 to ${MAX_LIMIT})`);
  }
}
