/**
 * Walks a key through directories at the shard leader, makes implicit ones, and keeps counts.
 *
 * Invariants: a directory's `entries` and `live` equal what a scan of its entry rows would count;
 * an entry of a directory is `nonempty` exactly when the child's `live` is not 0; a directory
 * without entry rows does not exist, the root of a namespace apart.
 */
import { type Bytes, EMPTY_BYTES } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { escapeName, RecordType } from "../log/row_key.ts";
import type { Change } from "./change.ts";
import { Answer, type Path } from "./messages.ts";
import { directoryEnd } from "./object_key.ts";
import { DirectoryRecord, Entry, EntryKind } from "./records.ts";
import { keyOf } from "./rows.ts";

/** A directory on the way. */
export interface Level {
  readonly id: Bytes;
  readonly routing: Bytes;
  readonly record: DirectoryRecord;
  /** Made by this evaluation. */
  readonly isNew: boolean;
}

/** Where the walk ended: the directory of the last part of the key, and that part. */
export interface Place {
  readonly levels: readonly Level[];
  readonly leaf: Level;
  readonly name: Bytes;
  readonly root: DirectoryRecord;
}

export type Walked =
  | { readonly at: Place }
  | { readonly continueAt: Path }
  | { readonly missing: true };

/**
 * @param create Makes missing directories (written by {@link settleCounts}).
 * @throws KisekiError `namespace.no_such_namespace` when the first directory is gone or closing.
 */
export function walk(change: Change, path: Path, create: boolean): Walked {
  const first = loadLevel(change, path.directory, path.placement);
  if (first === undefined || first.record.closing) {
    throw new KisekiError("namespace.no_such_namespace", "the namespace does not exist");
  }
  const levels: Level[] = [first];
  let leaf = first;
  let start = 0;
  for (;;) {
    const end = directoryEnd(path.key, start);
    if (end < 0) break;
    const name = path.key.slice(start, end);
    const value = leaf.isNew ? undefined : change.get(entryKey(leaf, name));
    if (value === undefined) {
      if (!create) return { missing: true };
      leaf = newLevel(change, leaf, name);
    } else {
      const entry = Entry.decode(value);
      const routing = change.routing.of(entry.placement);
      if (!change.owns(routing)) {
        return {
          continueAt: {
            directory: entry.fileId,
            placement: entry.placement,
            key: path.key.slice(end),
          },
        };
      }
      const child = loadLevel(change, entry.fileId, entry.placement);
      if (child === undefined) {
        throw new KisekiError("common.internal", "a directory's own record is missing");
      }
      leaf = child;
    }
    levels.push(leaf);
    start = end;
  }
  return { at: { levels, leaf, name: path.key.slice(start), root: first.record } };
}

export function entryKey(level: Level, name: Bytes): Bytes {
  return keyOf(level.routing, level.id, RecordType.entry, escapeName(name));
}

function loadLevel(change: Change, id: Bytes, placement: Bytes): Level | undefined {
  const routing = change.routing.of(placement);
  const value = change.get(keyOf(routing, id, RecordType.directory));
  if (value === undefined) return undefined;
  return { id, routing, record: DirectoryRecord.decode(value), isNew: false };
}

function newLevel(change: Change, parent: Level, name: Bytes): Level {
  const record = newDirectory(parent.record.placement, change.nowMs);
  return {
    id: change.newId(),
    routing: parent.routing,
    record: {
      ...record,
      parent: parent.id,
      parentPlacement: parent.record.placement,
      name,
      incarnation: 1,
    },
    isNew: true,
  };
}

/** An empty directory's record. */
export function newDirectory(placement: Bytes, nowMs: number): DirectoryRecord {
  return {
    ...DirectoryRecord.decode(EMPTY_BYTES),
    placement,
    incarnation: 1,
    createdMs: nowMs,
    modifiedMs: nowMs,
  };
}

/**
 * Writes what a change of the leaf's entry rows means for it and for the directories above.
 *
 * @param entries Entry rows more or less in the leaf.
 * @param live Visible entries more or less in the leaf.
 */
export function settleCounts(change: Change, place: Place, entries: number, live: number): void {
  let moreEntries = entries;
  let moreLive = live;
  for (let i = place.levels.length - 1; i >= 0; i--) {
    if (moreEntries === 0 && moreLive === 0) return;
    const level = place.levels[i] as Level;
    const parent = place.levels[i - 1];
    const record: DirectoryRecord = {
      ...level.record,
      entries: level.record.entries + moreEntries,
      live: level.record.live + moreLive,
      modifiedMs: change.nowMs,
    };
    const key = keyOf(level.routing, level.id, RecordType.directory);
    const was = level.record.live > 0;
    const is = record.live > 0;
    if (record.entries === 0 && parent !== undefined) {
      if (level.isNew) return;
      change.remove(key);
      change.remove(entryKey(parent, level.record.name));
      moreEntries = -1;
      moreLive = was ? -1 : 0;
      continue;
    }
    change.put(key, DirectoryRecord.encode(record));
    moreEntries = level.isNew ? 1 : 0;
    moreLive = Number(is) - Number(was && !level.isNew);
    if (parent !== undefined && (level.isNew || is !== was)) {
      change.put(
        entryKey(parent, level.record.name),
        Entry.encode({
          kind: EntryKind.directory,
          fileId: level.id,
          placement: record.placement,
          nonempty: is,
        }),
      );
    }
  }
}

/** Runs on the place, or tells where the walk goes on. */
export function atPlace(
  change: Change,
  path: Path,
  create: boolean,
  run: (place: Place) => Bytes,
  missing: () => Bytes,
): Bytes {
  const walked: Walked = walk(change, path, create);
  if ("continueAt" in walked) return Answer.encode({ continueAt: walked.continueAt });
  if ("missing" in walked) return missing();
  change.subject = path.key;
  return run(walked.at);
}
