/**
 * The client half of this room: the namespace API over shards, ledger and chunk store. It runs in
 * gateway isolates and holds no state but a short memory of namespace records.
 */
import { type Bytes, EMPTY_BYTES, fromHex, toHex, utf8 } from "../common/bytes.ts";
import type { Clock } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import type { OrganisationId } from "../common/ids.ts";
import type { ChunkStore } from "../chunk/ports.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import type { KeySource } from "../crypto/sealer.ts";
import type { ShardPort, ShardRouter } from "../log/ports.ts";
import * as api from "./api.ts";
import { ContentReader } from "./content_reader.ts";
import {
  ChunkBuffers,
  ChunksInFlight,
  type ContentLedger,
  type ContentParts,
  type ContentScope,
  PieceBuffers,
} from "./content_store.ts";
import { StreamedContent } from "./content_writer.ts";
import { Housekeeping, type MaintenanceReport } from "./housekeeping.ts";
import type { Identity } from "./identity.ts";
import { checkLimit } from "./listing.ts";
import * as m from "./messages.ts";
import { NamespaceDirectory, namespaceInfo, type OpenNamespace } from "./namespace_directory.ts";
import { keyBytes } from "./object_key.ts";
import {
  attributesFromRecord,
  attributesToRecord,
  checksumFromRecord,
  checksumToRecord,
  keyText,
  listedVersion,
  objectVersion,
  tagsToPairs,
} from "./object_records.ts";
import { VersionRecord } from "./records.ts";
import { ShardLink } from "./shard_link.ts";
import { uploadInfo, UploadService } from "./upload_service.ts";
import { etagText, versionText } from "./version_line.ts";
import type { Codec, Of } from "./wire.ts";

export interface NamespaceServiceOptions {
  readonly shards: ShardPort;
  readonly router: ShardRouter;
  readonly ledger: ContentLedger;
  readonly chunks: ChunkStore;
  readonly keys: KeySource;
  readonly crypto: CryptoProvider;
  readonly clock: Clock;
  /** Pool of new namespaces' chunks. */
  readonly pool: string;
  /** How long a namespace's record is remembered. Default 2,000 ms. */
  readonly rememberMs?: number;
  /** Chunks of one stream in flight. Default 4. */
  readonly window?: number;
  /** Chunks in flight of all streams, above which each has one. Default 24. */
  readonly chunksInFlight?: number;
  /** 4 MiB buffers kept for reuse. Default 16. */
  readonly keptBuffers?: number;
}

/** The service, and the hook by which a change made elsewhere is learned at once. */
export interface WiredNamespaceService extends api.NamespaceService {
  /** Forgets what is remembered of a namespace, or of all. */
  invalidate(organisation?: OrganisationId, name?: string): void;
  /**
   * One round of housekeeping over all namespaces of an organisation: unlinks garbage, drains ended
   * uploads, collects what dead writers announced over 24 h ago. For one caller at a time.
   */
  maintain(organisation: OrganisationId): Promise<MaintenanceReport>;
}

/** Wires the service. */
export function createNamespaceService(options: NamespaceServiceOptions): WiredNamespaceService {
  return new Service(options);
}

class Service implements WiredNamespaceService {
  readonly #directory: NamespaceDirectory;
  readonly #link: ShardLink;
  readonly #parts: ContentParts;
  readonly #uploads: UploadService;
  readonly #housekeeping: Housekeeping;

  constructor(options: NamespaceServiceOptions) {
    const { crypto } = options;
    this.#link = new ShardLink(
      options.shards,
      options.router,
      (bytes) => crypto.digest("sha256", bytes),
    );
    this.#uploads = new UploadService(this.#link, crypto);
    this.#directory = new NamespaceDirectory({ ...options, link: this.#link });
    this.#parts = {
      link: this.#link,
      ledger: options.ledger,
      chunks: options.chunks,
      crypto,
      clock: options.clock,
      buffers: new ChunkBuffers(options.keptBuffers),
      pieces: new PieceBuffers(),
      inFlight: new ChunksInFlight(options.window ?? 4, options.chunksInFlight ?? 24),
    };
    this.#housekeeping = new Housekeeping({
      link: this.#link,
      directory: this.#directory,
      ledger: options.ledger,
      clock: options.clock,
    });
  }

  invalidate(organisation?: OrganisationId, name?: string): void {
    this.#directory.invalidate(organisation, name);
  }

  // ---- namespaces ----

  async listNamespaces(caller: Identity): Promise<readonly api.NamespaceInfo[]> {
    return (await this.#directory.list(caller.organisation)).map(namespaceInfo);
  }

  async createNamespace(caller: Identity, name: string): Promise<api.NamespaceInfo> {
    return namespaceInfo(await this.#directory.create(caller.organisation, name));
  }

  async getNamespace(caller: Identity, name: string): Promise<api.NamespaceInfo> {
    return namespaceInfo(await this.#open(caller, name));
  }

  async updateNamespace(
    caller: Identity,
    name: string,
    change: api.NamespaceChange,
  ): Promise<api.NamespaceInfo> {
    const found = await this.#fresh(caller, name);
    if (change.versioning !== undefined) {
      await this.#link.command(
        caller.organisation,
        found.record.placement,
        m.CommandNumber.setRoot,
        m.SetRoot,
        {
          directory: found.record.root,
          placement: found.record.placement,
          versioning: change.versioning === "enabled" ? 1 : 2,
        },
        m.EmptyAnswer,
      );
    }
    return namespaceInfo(await this.#directory.update(found, change));
  }

  async deleteNamespace(caller: Identity, name: string): Promise<void> {
    const found = await this.#fresh(caller, name);
    const root = { directory: found.record.root, placement: found.record.placement };
    const close = (reopen: boolean): Promise<unknown> =>
      this.#link.command(
        caller.organisation,
        root.placement,
        m.CommandNumber.closeRoot,
        m.CloseRoot,
        { ...root, reopen },
        m.EmptyAnswer,
      );
    await close(false);
    try {
      await this.#directory.remove(found);
    } catch (error) {
      // Nothing was removed when somebody changed the record meanwhile.
      if (error instanceof KisekiError && error.code === "namespace.conflict") await close(true);
      throw error;
    }
  }

  // ---- objects ----

  async beginContent(
    caller: Identity,
    namespace: string,
    options: api.ContentOptions,
  ): Promise<api.ContentWriter> {
    return new StreamedContent(
      this.#parts,
      scopeOf(await this.#open(caller, namespace)),
      options,
    );
  }

  async putObject(
    caller: Identity,
    namespace: string,
    key: string,
    content: api.ContentWriter,
    attributes: api.ObjectAttributes & { readonly checksum?: api.ObjectChecksum },
    condition: api.WriteCondition,
  ): Promise<api.PutResult> {
    const found = await this.#open(caller, namespace);
    const streamed = streamedContent(content, found);
    const answer = await this.#walk(
      "execute",
      found,
      key,
      m.CommandNumber.put,
      m.Put,
      {
        content: streamed.publishable(),
        attributes: attributesToRecord(attributes),
        checksum: attributes.checksum === undefined
          ? undefined
          : checksumToRecord(attributes.checksum),
        condition: conditionRecord(condition),
      },
      m.VersionAnswer,
    );
    streamed.published();
    return { version: versionOf(key, answer) };
  }

  async openObject(
    caller: Identity,
    namespace: string,
    key: string,
    versionId?: string,
  ): Promise<api.ObjectHandle> {
    const found = await this.#open(caller, namespace);
    const answer = await this.#find(found, key, versionId, true);
    return this.#handle(found, key, answer);
  }

  async headObject(
    caller: Identity,
    namespace: string,
    key: string,
    versionId?: string,
  ): Promise<api.ObjectVersion> {
    const found = await this.#open(caller, namespace);
    return versionOf(key, await this.#find(found, key, versionId, false));
  }

  async deleteObject(
    caller: Identity,
    namespace: string,
    key: string,
    versionId: string | undefined,
    condition: api.WriteCondition,
  ): Promise<api.DeleteResult> {
    const found = await this.#open(caller, namespace);
    const answer = await this.#walk(
      "execute",
      found,
      key,
      m.CommandNumber.delete,
      m.Delete,
      { version: versionId ?? "", condition: conditionRecord(condition) },
      m.DeleteAnswer,
    );
    return {
      ...(answer.version === "" ? {} : { versionId: answer.version }),
      deleteMarker: answer.deleteMarker,
    };
  }

  async setTags(
    caller: Identity,
    namespace: string,
    key: string,
    versionId: string | undefined,
    tags: api.Tags,
  ): Promise<{ readonly versionId: string }> {
    const found = await this.#open(caller, namespace);
    const answer = await this.#walk(
      "execute",
      found,
      key,
      m.CommandNumber.setTags,
      m.SetTags,
      { version: versionId ?? "", tags: tagsToPairs(tags) },
      m.DeleteAnswer,
    );
    return { versionId: answer.version };
  }

  // ---- listings ----

  async listObjects(
    caller: Identity,
    namespace: string,
    options: api.ListOptions,
  ): Promise<api.ListPage> {
    checkLimit(options.limit);
    const found = await this.#open(caller, namespace);
    const answer = await this.#link.query(
      found.organisation,
      found.record.placement,
      m.QueryNumber.list,
      m.List,
      {
        root: rootPath(found, EMPTY_BYTES),
        prefix: utf8(options.prefix),
        delimiter: utf8(options.delimiter),
        after: utf8(options.after),
        limit: options.limit,
      },
      m.ListAnswer,
    );
    const items = answer.items.map(listItem);
    const last = items[items.length - 1];
    return {
      items,
      ...(answer.truncated && last !== undefined
        ? { next: last.type === "object" ? last.object.key : last.prefix }
        : {}),
    };
  }

  async listVersions(
    caller: Identity,
    namespace: string,
    options: api.ListVersionsOptions,
  ): Promise<api.ListVersionsPage> {
    checkLimit(options.limit);
    const found = await this.#open(caller, namespace);
    const answer = await this.#link.query(
      found.organisation,
      found.record.placement,
      m.QueryNumber.listVersions,
      m.ListVersions,
      {
        root: rootPath(found, EMPTY_BYTES),
        prefix: utf8(options.prefix),
        delimiter: utf8(options.delimiter),
        keyMarker: utf8(options.keyMarker),
        versionMarker: options.versionIdMarker,
        limit: options.limit,
      },
      m.ListAnswer,
    );
    const items = answer.items.map(listItem);
    const last = items[items.length - 1];
    if (!answer.truncated || last === undefined) return { items };
    const next = last.type === "object"
      ? { keyMarker: last.object.key, versionIdMarker: last.object.versionId }
      : { keyMarker: last.prefix, versionIdMarker: "" };
    return { items, next };
  }

  // ---- copies ----

  async copyObject(
    caller: Identity,
    source: api.ObjectSource,
    target: { readonly namespace: string; readonly key: string },
    expectedSource: api.ObjectVersion,
    attributes: Partial<api.ObjectAttributes> | undefined,
    condition: api.WriteCondition,
  ): Promise<api.PutResult> {
    const { from, record, reader } = await this.#source(caller, source, expectedSource);
    if (record.sizeBytes > api.MAX_PART_BYTES) {
      throw new KisekiError("common.limit_exceeded", "a source over 5 GiB: copy it in parts");
    }
    const into = await this.#open(caller, target.namespace);
    const content = await this.#adopted(into, from, record, reader);
    try {
      const kept = attributesFromRecord(record);
      const answer = await this.#walk(
        "execute",
        into,
        target.key,
        m.CommandNumber.put,
        m.Put,
        {
          content: content.publishable(),
          attributes: attributesToRecord({ ...kept, ...attributes }),
          checksum: record.checksum,
          condition: conditionRecord(condition),
          etag: record.etag,
          etagParts: record.etagParts,
        },
        m.VersionAnswer,
      );
      content.published();
      return { version: versionOf(target.key, answer) };
    } finally {
      await content.abort();
    }
  }

  async copyPart(
    caller: Identity,
    source: api.ObjectSource,
    expectedSource: api.ObjectVersion,
    range: { readonly offset: number; readonly length: number },
    target: {
      readonly namespace: string;
      readonly key: string;
      readonly uploadId: string;
      readonly partNumber: number;
    },
  ): Promise<api.UploadPartInfo> {
    const { from, record, reader } = await this.#source(caller, source, expectedSource);
    const { offset, length } = range;
    if (length > api.MAX_PART_BYTES) {
      throw new KisekiError("common.limit_exceeded", "a part over 5 GiB");
    }
    const into = await this.#open(caller, target.namespace);
    const upload = await this.#uploads.get(into, target.key, target.uploadId);
    const algorithm = upload.checksumAlgorithm;
    const whole = offset === 0 && length === record.sizeBytes && record.etagParts === 0 &&
      algorithm === undefined;
    let content: StreamedContent;
    let checksum: api.ObjectChecksum | undefined;
    if (whole) {
      content = await this.#adopted(into, from, record, reader);
    } else {
      const checksums = algorithm === undefined ? [] : [algorithm];
      content = new StreamedContent(this.#parts, scopeOf(into), {
        checksums,
        expectedBytes: length,
      });
      const digests = await pump(reader.read(offset, length), content);
      const value = algorithm === undefined ? undefined : digests.checksums[algorithm];
      if (algorithm !== undefined && value !== undefined) {
        checksum = { algorithm, type: "FULL_OBJECT", value };
      }
    }
    try {
      const { key, uploadId, partNumber } = target;
      return await this.#uploads.putPart(into, key, uploadId, partNumber, content, checksum);
    } finally {
      await content.abort();
    }
  }

  /** The source's version, if it still is the one that the caller judged. */
  async #source(
    caller: Identity,
    source: api.ObjectSource,
    expected: api.ObjectVersion,
  ): Promise<{
    readonly from: OpenNamespace;
    readonly record: VersionRecord;
    readonly reader: ContentReader;
  }> {
    const from = await this.#open(caller, source.namespace);
    const answer = await this.#find(from, source.key, source.versionId, true);
    const record = VersionRecord.decode(answer.version);
    if (
      versionText(record) !== expected.versionId || etagText(record) !== expected.etag ||
      record.modifiedMs !== expected.lastModifiedMs
    ) {
      throw new KisekiError("namespace.precondition_failed", "the source changed meanwhile", {
        details: { source: true },
      });
    }
    const content = m.need(record.content, "content");
    return {
      from,
      record,
      reader: new ContentReader(this.#parts, scopeOf(from), content, answer),
    };
  }

  /** The whole source by reference, or read and written where its chunks are being collected. */
  async #adopted(
    into: OpenNamespace,
    from: OpenNamespace,
    record: VersionRecord,
    reader: ContentReader,
  ): Promise<StreamedContent> {
    const scope = { ...scopeOf(into), pool: from.record.pool };
    const none = { checksums: [], expectedBytes: 0 };
    const content = new StreamedContent(this.#parts, scope, none);
    try {
      await content.adopt(reader.spans(), record.sizeBytes, record.etag);
      return content;
    } catch (error) {
      await content.abort();
      if (!(error instanceof KisekiError) || error.code !== "chunk.upload_again") throw error;
    }
    const written = new StreamedContent(this.#parts, scope, {
      checksums: [],
      expectedBytes: record.sizeBytes,
    });
    await pump(reader.read(0, record.sizeBytes), written);
    return written;
  }

  // ---- uploads ----

  async createUpload(
    caller: Identity,
    namespace: string,
    key: string,
    options: api.UploadOptions,
  ): Promise<api.UploadInfo> {
    return await this.#uploads.create(await this.#open(caller, namespace), key, options);
  }

  async getUpload(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
  ): Promise<api.UploadInfo> {
    return await this.#uploads.get(await this.#open(caller, namespace), key, uploadId);
  }

  async putPart(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
    partNumber: number,
    content: api.ContentWriter,
    checksum: api.ObjectChecksum | undefined,
  ): Promise<api.UploadPartInfo> {
    const found = await this.#open(caller, namespace);
    const streamed = streamedContent(content, found);
    return await this.#uploads.putPart(found, key, uploadId, partNumber, streamed, checksum);
  }

  async listParts(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
    afterPart: number,
    limit: number,
  ): Promise<{ readonly parts: readonly api.UploadPartInfo[]; readonly truncated: boolean }> {
    checkLimit(limit);
    const found = await this.#open(caller, namespace);
    return await this.#uploads.listParts(found, key, uploadId, afterPart, limit);
  }

  async listUploads(
    caller: Identity,
    namespace: string,
    options: api.ListOptions & { readonly uploadIdMarker: string },
  ): Promise<api.ListUploadsPage> {
    checkLimit(options.limit);
    const found = await this.#open(caller, namespace);
    const answer = await this.#link.query(
      found.organisation,
      found.record.placement,
      m.QueryNumber.listUploads,
      m.ListUploads,
      {
        root: rootPath(found, EMPTY_BYTES),
        prefix: utf8(options.prefix),
        delimiter: utf8(options.delimiter),
        keyMarker: utf8(options.after),
        uploadMarker: /^[0-9a-f]{32}$/.test(options.uploadIdMarker)
          ? fromHex(options.uploadIdMarker)
          : EMPTY_BYTES,
        limit: options.limit,
      },
      m.ListUploadsAnswer,
    );
    const items = answer.items.map((item): api.ListUploadsPage["items"][number] => {
      if (item.prefix !== undefined) return { type: "prefix", prefix: keyText(item.prefix) };
      const upload = m.need(item.upload, "upload");
      const record = m.need(upload.record, "upload record");
      return {
        type: "upload",
        upload: uploadInfo(keyText(upload.key), toHex(upload.upload), record),
      };
    });
    const last = items[items.length - 1];
    if (!answer.truncated || last === undefined) return { items };
    const next = last.type === "upload"
      ? { keyMarker: last.upload.key, uploadIdMarker: last.upload.uploadId as string }
      : { keyMarker: last.prefix, uploadIdMarker: "" };
    return { items, next };
  }

  async completeUpload(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
    parts: readonly api.CompletedPart[],
    checksum: api.ObjectChecksum | undefined,
    condition: api.WriteCondition,
  ): Promise<api.PutResult> {
    const found = await this.#open(caller, namespace);
    const answer = await this.#uploads.complete(
      found,
      key,
      uploadId,
      parts,
      checksum,
      conditionRecord(condition),
    );
    return { version: versionOf(key, answer) };
  }

  async abortUpload(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
  ): Promise<void> {
    await this.#uploads.abort(await this.#open(caller, namespace), key, uploadId);
  }

  async maintain(organisation: OrganisationId): Promise<MaintenanceReport> {
    return await this.#housekeeping.run(organisation);
  }

  // ---- shared ----

  #open(caller: Identity, namespace: string): Promise<OpenNamespace> {
    return this.#directory.open(caller.organisation, namespace);
  }

  async #fresh(caller: Identity, namespace: string): Promise<OpenNamespace> {
    this.#directory.invalidate(caller.organisation, namespace);
    return await this.#open(caller, namespace);
  }

  async #walk<T extends { readonly path: m.Path | undefined }, A>(
    how: "execute" | "query",
    found: OpenNamespace,
    key: string,
    number: number,
    codec: Codec<T>,
    request: Partial<T>,
    answer: Codec<A>,
  ): Promise<A> {
    const path = rootPath(found, keyBytes(key));
    try {
      return await this.#link.walk(how, found.organisation, number, codec, path, request, answer);
    } catch (error) {
      if (error instanceof KisekiError && error.code === "namespace.no_such_namespace") {
        this.#directory.invalidate(found.organisation, found.record.name);
      }
      throw error;
    }
  }

  #find(
    found: OpenNamespace,
    key: string,
    versionId: string | undefined,
    content: boolean,
  ): Promise<Of<typeof m.VersionAnswer>> {
    return this.#walk(
      "query",
      found,
      key,
      m.QueryNumber.open,
      m.Open,
      { version: versionId ?? "", content },
      m.VersionAnswer,
    );
  }

  #handle(
    found: OpenNamespace,
    key: string,
    answer: Of<typeof m.VersionAnswer>,
  ): api.ObjectHandle {
    const record = VersionRecord.decode(answer.version);
    const content = record.content;
    if (content === undefined) {
      throw new KisekiError("common.internal", "a version without content");
    }
    const reader = new ContentReader(this.#parts, scopeOf(found), content, answer);
    return {
      version: objectVersion(key, record, answer.fileId, answer.isLatest),
      read: (offset, length, keep) => reader.read(offset, length, keep),
      async parts() {
        const parts: api.ObjectPart[] = [];
        for await (const part of reader.parts()) {
          const checksum = part.checksum === undefined
            ? undefined
            : checksumFromRecord(part.checksum);
          parts.push({
            partNumber: part.partNumber,
            sizeBytes: part.sizeBytes,
            ...(checksum === undefined ? {} : { checksum }),
          });
        }
        return parts;
      },
    };
  }
}

function scopeOf(found: OpenNamespace): ContentScope {
  return {
    organisation: found.organisation,
    keys: found.keys,
    placement: found.record.placement,
    pool: found.record.pool,
  };
}

function rootPath(found: OpenNamespace, key: Bytes): m.Path {
  return { directory: found.record.root, placement: found.record.placement, key };
}

function conditionRecord(condition: api.WriteCondition): m.Condition {
  return { ifMatch: condition.ifMatch ?? [], ifNoneMatch: condition.ifNoneMatch ?? [] };
}

function versionOf(key: string, answer: Of<typeof m.VersionAnswer>): api.ObjectVersion {
  return objectVersion(key, VersionRecord.decode(answer.version), answer.fileId, answer.isLatest);
}

function listItem(item: Of<typeof m.ListedItem>): api.ListItem {
  const key = keyText(item.key);
  if (item.isPrefix) return { type: "prefix", prefix: key };
  return {
    type: "object",
    object: listedVersion(key, item.version, item.fileId, item.isLatest),
  };
}

/** @throws KisekiError `common.invalid_argument` for content of another service or organisation. */
function streamedContent(content: api.ContentWriter, found: OpenNamespace): StreamedContent {
  if (
    !(content instanceof StreamedContent) || content.scope.organisation !== found.organisation
  ) {
    throw new KisekiError("common.invalid_argument", "content of another service");
  }
  return content;
}

/** Writes a stream of pieces; gives the content up when either side fails. */
async function pump(
  pieces: AsyncIterable<Bytes>,
  content: StreamedContent,
): Promise<api.ContentDigests> {
  try {
    for await (const piece of pieces) await content.write(piece);
    return await content.finish();
  } catch (error) {
    await content.abort();
    throw error;
  }
}
