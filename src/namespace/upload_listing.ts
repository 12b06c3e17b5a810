/**
 * Uploads under way, in order of key and then of upload id, with common prefixes.
 */
import { type Bytes, compareBytes, concatBytes, prefixEnd } from "../common/bytes.ts";
import type { QueryContext } from "../log/ports.ts";
import {
  escapeName,
  escapeNamePrefix,
  KEY_PREFIX_BYTES,
  RecordType,
  unescapeName,
} from "../log/row_key.ts";
import * as m from "./messages.ts";
import { indexOfBytes, startsWith } from "./object_key.ts";
import { UploadRecord } from "./records.ts";
import { endOf, keyOf, type Routing } from "./rows.ts";
import { UploadState } from "./uploads.ts";
import type { Of } from "./wire.ts";

/** Body of a ListUploadsAnswer. */
export function listUploads(
  context: QueryContext,
  routing: Routing,
  request: Of<typeof m.ListUploads>,
): Bytes {
  const root = m.need(request.root, "root");
  const base = keyOf(routing.of(root.placement), root.directory, RecordType.upload);
  const items: Of<typeof m.ListUploadsAnswer>["items"][number][] = [];
  let truncated = false;
  const limit = Math.min(request.limit, 1000);
  let from: Bytes | undefined = startKey(base, request);
  const end = endOf(base);
  while (from !== undefined && limit > 0) {
    let next: Bytes | undefined;
    for (const row of context.rows.scan(from, end)) {
      const { name: key, size } = unescapeName(row.key.subarray(KEY_PREFIX_BYTES));
      if (!startsWith(key, request.prefix)) break;
      const record = UploadRecord.decode(concatBytes(row.value));
      if (record.state !== UploadState.open) continue;
      const at = request.delimiter.length === 0
        ? -1
        : indexOfBytes(key, request.delimiter, request.prefix.length);
      if (items.length >= limit) {
        truncated = true;
        break;
      }
      if (at < 0) {
        const upload = row.key.slice(KEY_PREFIX_BYTES + size);
        items.push({ upload: { upload, key, record }, prefix: undefined });
        continue;
      }
      const prefix = key.slice(0, at + request.delimiter.length);
      items.push({ upload: undefined, prefix });
      const after = prefixEnd(prefix);
      next = after === undefined ? undefined : concatBytes(base, escapeNamePrefix(after));
      break;
    }
    from = next;
  }
  return m.ListUploadsAnswer.encode({ items, truncated });
}

/** Key of the first row after the markers. */
function startKey(base: Bytes, request: Of<typeof m.ListUploads>): Bytes | undefined {
  const first = concatBytes(base, escapeNamePrefix(request.prefix));
  if (request.keyMarker.length === 0) return first;
  const marker = request.keyMarker;
  const at = request.delimiter.length > 0 && startsWith(marker, request.prefix)
    ? indexOfBytes(marker, request.delimiter, request.prefix.length)
    : -1;
  let after: Bytes | undefined;
  if (at >= 0) {
    const rolled = prefixEnd(marker.subarray(0, at + request.delimiter.length));
    after = rolled === undefined ? undefined : concatBytes(base, escapeNamePrefix(rolled));
  } else if (request.uploadMarker.length > 0) {
    after = concatBytes(base, escapeName(marker), request.uploadMarker, Uint8Array.of(0));
  } else {
    after = endOf(concatBytes(base, escapeName(marker)));
  }
  if (after === undefined) return undefined;
  return compareBytes(after, first) > 0 ? after : first;
}
