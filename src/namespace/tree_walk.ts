/**
 * In-order walk over the entries of a directory tree: the byte order of full keys.
 *
 * `seek` starts at the first key or directory at or after a bound in one descent, so that a subtree
 * is skipped without touching it.
 */
import { type Bytes, concatBytes } from "../common/bytes.ts";
import { escapeName, KEY_PREFIX_BYTES, RecordType, unescapeName } from "../log/row_key.ts";
import type { Row, RowReader } from "../table/table.ts";
import { directoryEnd } from "./object_key.ts";
import { Entry, EntryKind } from "./records.ts";
import { keyOf, type Routing } from "./rows.ts";

interface Frame {
  readonly prefix: Bytes;
  readonly routing: Bytes;
  readonly id: Bytes;
  readonly rows: Iterator<Row>;
}

/** One entry met on the way. Its bytes are valid until the next call into the walk or the table. */
export interface Met {
  /** Full key, or full key of a directory with its trailing "/". */
  readonly key: Bytes;
  readonly name: Bytes;
  readonly entry: Entry;
  /** The directory that it stands in. */
  readonly routing: Bytes;
  readonly id: Bytes;
}

export class TreeWalk {
  readonly #rows: RowReader;
  readonly #routing: Routing;
  readonly #root: { readonly id: Bytes; readonly placement: Bytes };
  /** Passes over what S3 cannot see: empty directories, and delete markers in the caller. */
  readonly skipsHidden: boolean;
  #frames: Frame[] = [];

  /** @param skipsHidden Passes over directories without anything that S3 can see. */
  constructor(
    rows: RowReader,
    routing: Routing,
    root: { readonly id: Bytes; readonly placement: Bytes },
    skipsHidden: boolean,
  ) {
    this.#rows = rows;
    this.#routing = routing;
    this.#root = root;
    this.skipsHidden = skipsHidden;
  }

  /** What `next` returns is the first at or after `bound`. */
  seek(bound: Bytes): void {
    this.close();
    let id = this.#root.id;
    let placement = this.#root.placement;
    let start = 0;
    for (;;) {
      const routing = this.#routing.of(placement);
      const prefix = bound.subarray(0, start);
      const end = directoryEnd(bound, start);
      const name = bound.subarray(start, end < 0 ? bound.length : end);
      const from = keyOf(routing, id, RecordType.entry, escapeName(name));
      const child = end < 0 ? undefined : this.#directoryAt(from);
      this.#push(prefix, routing, id, child === undefined ? from : concatBytes(from, ZERO));
      if (child === undefined) return;
      if (this.skipsHidden && !child.nonempty) return;
      id = child.fileId;
      placement = child.placement;
      start = end;
    }
  }

  next(): Met | undefined {
    for (;;) {
      const frame = this.#frames[this.#frames.length - 1];
      if (frame === undefined) return undefined;
      const step = frame.rows.next();
      if (step.done === true) {
        this.#frames.pop();
        continue;
      }
      const name = nameOf(step.value.key);
      const entry = Entry.decode(step.value.value);
      if (this.skipsHidden && entry.kind === EntryKind.directory && !entry.nonempty) continue;
      return {
        key: frame.prefix.length === 0 ? name : concatBytes(frame.prefix, name),
        name,
        entry,
        routing: frame.routing,
        id: frame.id,
      };
    }
  }

  /** Goes on with the children of a directory that `next` just returned. */
  enter(met: Met): void {
    const placement = met.entry.placement.slice();
    const id = met.entry.fileId.slice();
    const routing = this.#routing.of(placement);
    this.#push(met.key.slice(), routing, id, keyOf(routing, id, RecordType.entry));
  }

  close(): void {
    for (const frame of this.#frames) frame.rows.return?.();
    this.#frames = [];
  }

  #push(prefix: Bytes, routing: Bytes, id: Bytes, from: Bytes): void {
    const to = keyOf(routing, id, (RecordType.entry + 1) as RecordType);
    this.#frames.push({
      prefix,
      routing,
      id,
      rows: this.#rows.scan(from, to)[Symbol.iterator](),
    });
  }

  #directoryAt(key: Bytes): Entry | undefined {
    const value = this.#rows.get(key);
    return value === undefined ? undefined : Entry.decode(value.slice());
  }
}

const ZERO = Uint8Array.of(0);

/** Name in the key of an entry row: a view where nothing was escaped. */
function nameOf(key: Bytes): Bytes {
  const end = key.length - 2;
  const zero = key.indexOf(0, KEY_PREFIX_BYTES);
  if (zero === end) return key.subarray(KEY_PREFIX_BYTES, end);
  return unescapeName(key.subarray(KEY_PREFIX_BYTES)).name;
}
