/**
 * Namespace records in the control shard: found by keyed hash of the name, changed by
 * compare-and-set of a revision. The shard sees sealed bytes alone.
 *
 * Keys: routing key 0, owner zero, type tenancy, then class (1), organisation (16), and the keyed
 * hash (32) of a namespace in use or the id (16) of a removed one that is still being drained.
 */
import { type Bytes, concatBytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { RecordType, ROUTING_KEY_BYTES } from "../log/row_key.ts";
import type { QueryContext } from "../log/ports.ts";
import type { Change } from "./change.ts";
import * as m from "./messages.ts";
import { SealedRecord } from "./records.ts";
import { endOf, keyOf } from "./rows.ts";
import type { Of } from "./wire.ts";

/** Record classes of tenancy rows that are this room's. */
export const NAMESPACE_CLASS = 64;
export const REMOVED_NAMESPACE_CLASS = 65;

const ZERO_ROUTING = new Uint8Array(ROUTING_KEY_BYTES);
const ZERO_OWNER = new Uint8Array(16);

function recordKey(recordClass: number, ...rest: readonly Bytes[]): Bytes {
  return keyOf(
    ZERO_ROUTING,
    ZERO_OWNER,
    RecordType.tenancy,
    Uint8Array.of(recordClass),
    ...rest,
  );
}

export function putNamespace(change: Change, request: Of<typeof m.PutNamespace>): Bytes {
  const key = recordKey(NAMESPACE_CLASS, request.organisation, request.lookup);
  const value = change.get(key);
  const revision = value === undefined ? 0 : SealedRecord.decode(value).revision;
  if (revision !== request.expectedRevision) {
    throw wrongRevision(revision, request.expectedRevision);
  }
  change.put(
    key,
    SealedRecord.encode({
      revision: revision + 1,
      wrappedDek: request.wrappedDek,
      envelope: request.envelope,
      identity: request.lookup,
    }),
  );
  return m.encodeAnswer(m.RevisionAnswer, { revision: revision + 1 });
}

export function removeNamespace(change: Change, request: Of<typeof m.RemoveNamespace>): Bytes {
  const key = recordKey(NAMESPACE_CLASS, request.organisation, request.lookup);
  const value = change.get(key);
  const revision = value === undefined ? 0 : SealedRecord.decode(value).revision;
  if (value === undefined || revision !== request.expectedRevision) {
    throw wrongRevision(revision, request.expectedRevision);
  }
  change.remove(key);
  change.put(recordKey(REMOVED_NAMESPACE_CLASS, request.organisation, request.id), value);
  return m.encodeAnswer(m.RevisionAnswer, { revision });
}

export function forgetNamespace(change: Change, request: Of<typeof m.ForgetNamespace>): Bytes {
  change.remove(recordKey(REMOVED_NAMESPACE_CLASS, request.organisation, request.id));
  return m.encodeAnswer(m.EmptyAnswer, {});
}

/** Body of a NamespacesAnswer: none or one. */
export function getNamespace(context: QueryContext, request: Of<typeof m.GetNamespace>): Bytes {
  const value = context.rows.get(recordKey(NAMESPACE_CLASS, request.organisation, request.lookup));
  return m.NamespacesAnswer.encode({
    records: value === undefined ? [] : [SealedRecord.decode(value.slice())],
  });
}

/** Body of a NamespacesAnswer. */
export function listNamespaces(context: QueryContext, request: Of<typeof m.ListNamespaces>): Bytes {
  const recordClass = request.removed ? REMOVED_NAMESPACE_CLASS : NAMESPACE_CLASS;
  const from = recordKey(recordClass, request.organisation);
  const records: Of<typeof SealedRecord>[] = [];
  for (const row of context.rows.scan(from, endOf(from))) {
    records.push(SealedRecord.decode(concatBytes(row.value)));
  }
  return m.NamespacesAnswer.encode({ records });
}

function wrongRevision(found: number, expected: number): KisekiError {
  if (expected === 0) {
    return new KisekiError("namespace.namespace_exists", "the namespace exists already");
  }
  if (found === 0) {
    return new KisekiError("namespace.no_such_namespace", "the namespace does not exist");
  }
  return new KisekiError("namespace.conflict", "the namespace was changed meanwhile", {
    retriable: true,
  });
}
