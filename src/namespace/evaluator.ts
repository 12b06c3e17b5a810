/**
 * The shard half of this room: commands into row mutations, queries over rows. Pure.
 *
 * Invariants: an evaluation either refuses or gives all its mutations; nothing here reads a clock
 * or draws a random number but through the context.
 */
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import {
  type CommandEvaluator,
  type Evaluation,
  type EvaluationContext,
  EvaluatorTag,
  type QueryContext,
  type ShardRouter,
} from "../log/ports.ts";
import { RecordType, ROUTING_KEY_BYTES } from "../log/row_key.ts";
import { Change, stagedKey } from "./change.ts";
import { atPlace, newDirectory } from "./directory_walk.ts";
import { listObjects, listVersions } from "./listing.ts";
import { maintain } from "./maintenance.ts";
import * as m from "./messages.ts";
import * as rows from "./namespace_rows.ts";
import { extentsAnswer, openVersion, readInline, readParts } from "./reading.ts";
import { DirectoryRecord, StagedKind, StagedRecord, VersionRecord } from "./records.ts";
import { keyOf, Routing, type Sha256 } from "./rows.ts";
import * as uploads from "./uploads.ts";
import { listUploads } from "./upload_listing.ts";
import * as v from "./version_line.ts";
import type { Codec, Of } from "./wire.ts";

export interface NamespaceEvaluatorOptions {
  /** One-shot SHA-256. */
  readonly sha256: Sha256;
  readonly router: ShardRouter;
}

type CommandHandler = (change: Change, body: Bytes) => Bytes;
type QueryHandler = (context: QueryContext, body: Bytes) => Bytes;

/** Tag 2. */
export class NamespaceEvaluator implements CommandEvaluator {
  readonly tag: EvaluatorTag = EvaluatorTag.namespace;
  readonly #routing: Routing;
  readonly #router: ShardRouter;
  readonly #commands = new Map<number, CommandHandler>();
  readonly #queries = new Map<number, QueryHandler>();

  constructor(options: NamespaceEvaluatorOptions) {
    this.#routing = new Routing(options.sha256);
    this.#router = options.router;
    const c = m.CommandNumber;
    this.#command(c.createRoot, m.CreateRoot, createRoot);
    this.#command(c.setRoot, m.SetRoot, setRoot);
    this.#command(c.closeRoot, m.CloseRoot, closeRoot);
    this.#command(c.put, m.Put, put);
    this.#command(c.delete, m.Delete, remove);
    this.#command(c.setTags, m.SetTags, setTags);
    this.#command(c.stage, m.Stage, stage);
    this.#command(c.unstage, m.Unstage, unstage);
    this.#command(c.createUpload, m.CreateUpload, uploads.createUpload);
    this.#command(c.putPart, m.PutPart, uploads.putPart);
    this.#command(c.stageParts, m.StageParts, uploads.stageParts);
    this.#command(c.complete, m.Complete, uploads.complete);
    this.#command(c.abortUpload, m.UploadPath, uploads.abortUpload);
    this.#command(c.maintain, m.Maintain, maintain);
    this.#command(c.putNamespace, m.PutNamespace, rows.putNamespace);
    this.#command(c.removeNamespace, m.RemoveNamespace, rows.removeNamespace);
    this.#command(c.forgetNamespace, m.ForgetNamespace, rows.forgetNamespace);
    const q = m.QueryNumber;
    const routing = this.#routing;
    this.#query(q.open, m.Open, (context, request) => {
      return openVersion(context, routing, options.router, request);
    });
    this.#query(q.readExtents, m.ReadExtents, (context, request) => {
      return m.ExtentsAnswer.encode(extentsAnswer(context, routing, request));
    });
    this.#query(q.readInline, m.ReadInline, (context, request) => {
      return m.InlineAnswer.encode({ inline: readInline(context.rows, routing, request) });
    });
    this.#query(q.readParts, m.ReadParts, (context, request) => {
      return readParts(context.rows, routing, request);
    });
    this.#query(q.list, m.List, (context, request) => listObjects(context, routing, request));
    this.#query(q.listVersions, m.ListVersions, (context, request) => {
      return listVersions(context, routing, request);
    });
    this.#query(q.getUpload, m.UploadPath, (context, request) => {
      return uploads.getUpload(context, routing, request);
    });
    this.#query(q.listParts, m.ListParts, (context, request) => {
      return uploads.listParts(context, routing, request);
    });
    this.#query(q.listUploads, m.ListUploads, (context, request) => {
      return listUploads(context, routing, request);
    });
    this.#query(q.getNamespace, m.GetNamespace, rows.getNamespace);
    this.#query(q.listNamespaces, m.ListNamespaces, rows.listNamespaces);
  }

  evaluate(context: EvaluationContext, request: Bytes): Evaluation {
    const { number, body } = m.openRequest(request);
    const handler = this.#commands.get(number);
    if (handler === undefined) throw unknown("command", number);
    const change = new Change(context, this.#routing, this.#router);
    const result = handler(change, body);
    return {
      mutations: change.mutations,
      result,
      operation: number,
      routingKey: change.mutations[0]?.key.slice(0, ROUTING_KEY_BYTES) ??
        new Uint8Array(ROUTING_KEY_BYTES),
      ...(change.subject === undefined ? {} : { name: change.subject }),
      chunksAdded: change.chunksAdded,
      chunksDropped: change.chunksDropped,
    };
  }

  query(context: QueryContext, request: Bytes): Bytes {
    const { number, body } = m.openRequest(request);
    const handler = this.#queries.get(number);
    if (handler === undefined) throw unknown("query", number);
    return handler(context, body);
  }

  #command<T>(number: number, codec: Codec<T>, run: (change: Change, request: T) => Bytes): void {
    this.#commands.set(number, (change, body) => run(change, codec.decode(body)));
  }

  #query<T>(
    number: number,
    codec: Codec<T>,
    run: (context: QueryContext, request: T) => Bytes,
  ): void {
    this.#queries.set(number, (context, body) => run(context, codec.decode(body)));
  }
}

function unknown(what: string, number: number): KisekiError {
  return new KisekiError("common.unsupported_version", `namespace ${what} ${number}`);
}

function rootKey(
  change: Change,
  request: { readonly directory: Bytes; readonly placement: Bytes },
): Bytes {
  return keyOf(change.routing.of(request.placement), request.directory, RecordType.directory);
}

function createRoot(change: Change, request: Of<typeof m.CreateRoot>): Bytes {
  const record = newDirectory(request.placement, change.nowMs);
  change.put(rootKey(change, request), DirectoryRecord.encode({ ...record, explicit: true }));
  return m.encodeAnswer(m.EmptyAnswer, {});
}

function loadRoot(
  change: Change,
  request: { readonly directory: Bytes; readonly placement: Bytes },
): DirectoryRecord {
  const value = change.get(rootKey(change, request));
  if (value === undefined) {
    throw new KisekiError("namespace.no_such_namespace", "the namespace does not exist");
  }
  return DirectoryRecord.decode(value);
}

function setRoot(change: Change, request: Of<typeof m.SetRoot>): Bytes {
  const record = loadRoot(change, request);
  change.put(
    rootKey(change, request),
    DirectoryRecord.encode({ ...record, versioning: request.versioning }),
  );
  return m.encodeAnswer(m.EmptyAnswer, {});
}

function closeRoot(change: Change, request: Of<typeof m.CloseRoot>): Bytes {
  const record = loadRoot(change, request);
  if (!request.reopen && record.entries > 0) {
    throw new KisekiError(
      "namespace.namespace_not_empty",
      "the namespace still holds objects, versions or delete markers",
    );
  }
  change.put(
    rootKey(change, request),
    DirectoryRecord.encode({ ...record, closing: !request.reopen }),
  );
  return m.encodeAnswer(m.EmptyAnswer, {});
}

function put(change: Change, request: Of<typeof m.Put>): Bytes {
  return atPlace(change, m.need(request.path, "path"), true, (place) => {
    const entry = v.loadEntry(change, place);
    v.checkCondition(request.condition, entry);
    const content = change.adopt(m.need(request.content, "content"));
    const { version, fileId } = v.publish(change, place, entry, {
      sizeBytes: content.sizeBytes,
      etag: request.etag.length > 0 ? request.etag : m.need(request.content, "content").md5,
      etagParts: request.etagParts,
      checksum: request.checksum,
      headers: request.attributes?.headers,
      userMetadata: request.attributes?.userMetadata ?? [],
      tags: request.attributes?.tags ?? [],
      content,
    });
    return m.encodeAnswer(m.VersionAnswer, {
      version: VersionRecord.encode(version),
      fileId,
      isLatest: true,
    });
  }, unreachable);
}

function remove(change: Change, request: Of<typeof m.Delete>): Bytes {
  const path = m.need(request.path, "path");
  const named = request.version !== "";
  const nothing = (): Bytes => {
    v.checkCondition(request.condition, undefined);
    return m.encodeAnswer(m.DeleteAnswer, { version: request.version });
  };
  // A delete marker may be laid where nothing is: the walk then makes directories.
  const versioned = !named && loadVersioning(change, path) !== v.VersioningCode.unversioned;
  return atPlace(change, path, versioned, (place) => {
    const entry = v.loadEntry(change, place);
    v.checkCondition(request.condition, entry);
    if (versioned) {
      const { version } = v.publish(change, place, entry, { deleteMarker: true });
      return m.encodeAnswer(m.DeleteAnswer, {
        version: v.versionText(version),
        deleteMarker: true,
      });
    }
    if (entry === undefined) return nothing();
    const wanted = named ? v.parseVersion(request.version) : "null";
    const removed = v.removeVersion(change, place, entry, wanted);
    return m.encodeAnswer(m.DeleteAnswer, {
      version: request.version,
      deleteMarker: removed?.deleteMarker ?? false,
    });
  }, nothing);
}

/** Versioning of the namespace whose root the path starts at. */
function loadVersioning(change: Change, path: m.Path): number {
  return loadRoot(change, path).versioning;
}

function setTags(change: Change, request: Of<typeof m.SetTags>): Bytes {
  const missing = (): never => {
    throw request.version === "" ? v.noSuchEntry() : noSuchVersion();
  };
  return atPlace(change, m.need(request.path, "path"), false, (place) => {
    const entry = v.loadEntry(change, place);
    if (entry === undefined) return missing();
    const found = request.version === "" ? { value: entry.current, row: undefined } : v.findVersion(
      change.context.rows,
      place.leaf,
      place.name,
      entry,
      v.parseVersion(request.version),
    );
    if (found === undefined) return missing();
    const version = VersionRecord.decode(found.value);
    if (version.deleteMarker) {
      if (request.version === "") {
        throw v.noSuchEntry({ deleteMarker: true, versionId: v.versionText(version) });
      }
      throw new KisekiError("namespace.method_not_allowed", "the version is a delete marker", {
        details: { deleteMarker: true },
      });
    }
    v.rewriteVersion(
      change,
      place,
      entry,
      found.row,
      VersionRecord.encode({ ...version, tags: request.tags }),
    );
    return m.encodeAnswer(m.DeleteAnswer, { version: v.versionText(version) });
  }, missing);
}

function stage(change: Change, request: Of<typeof m.Stage>): Bytes {
  change.put(
    stagedKey(change.routing, request, request.batch),
    StagedRecord.encode({
      kind: StagedKind.writing,
      createdMs: change.nowMs,
      chunks: request.chunks,
    }),
  );
  return m.encodeAnswer(m.EmptyAnswer, {});
}

function unstage(change: Change, request: Of<typeof m.Unstage>): Bytes {
  change.unstage(m.need(request.staged, "staged"));
  return m.encodeAnswer(m.EmptyAnswer, {});
}

function noSuchVersion(): KisekiError {
  return new KisekiError("namespace.no_such_version", "the version does not exist");
}

function unreachable(): never {
  throw new KisekiError("common.internal", "a walk that makes directories found none");
}
