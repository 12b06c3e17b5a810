/**
 * An in-memory `NamespaceService` for tests of the gateway: the contract of `namespace/api.ts`,
 * simple and slow, all in one place. Also the helpers that make signed requests.
 *
 * Listing sorts everything each time; content is kept as one array per object.
 */
import {
  type Bytes,
  compareBytes,
  concatBytes,
  EMPTY_BYTES,
  toHex,
  utf8,
} from "../../common/bytes.ts";
import type { Clock } from "../../common/clock.ts";
import { KisekiError } from "../../common/errors.ts";
import {
  type FileId,
  type NamespaceId,
  newId128,
  type OrganisationId,
  type ProjectId,
  type UploadId,
  type WorkloadId,
} from "../../common/ids.ts";
import { nodeProvider } from "../../crypto/node_provider.ts";
import type { CryptoProvider } from "../../crypto/provider.ts";
import {
  type CompletedPart,
  type ContentDigests,
  type ContentOptions,
  type ContentWriter,
  type DeleteResult,
  type ListItem,
  type ListOptions,
  type ListPage,
  type ListVersionsOptions,
  type ListVersionsPage,
  MIN_PART_BYTES,
  type NamespaceChange,
  type NamespaceInfo,
  type NamespaceService,
  type ObjectAttributes,
  type ObjectChecksum,
  type ObjectHandle,
  type ObjectPart,
  type ObjectVersion,
  type PutResult,
  type Tags,
  type UploadInfo,
  type UploadOptions,
  type UploadPartInfo,
  type WriteCondition,
} from "../../namespace/api.ts";
import type { CredentialResolver, Identity } from "../../namespace/identity.ts";
import { computeChecksum } from "./checksums.ts";

interface StoredVersion {
  readonly version: ObjectVersion;
  readonly content: Bytes;
  readonly parts: readonly ObjectPart[];
}

interface StoredPart {
  readonly info: UploadPartInfo;
  readonly content: Bytes;
}

interface StoredUpload {
  readonly info: UploadInfo;
  readonly parts: Map<number, StoredPart>;
}

interface StoredNamespace {
  info: NamespaceInfo;
  /** Newest first. */
  readonly keys: Map<string, StoredVersion[]>;
  readonly uploads: Map<string, StoredUpload>;
}

class MemoryWriter implements ContentWriter {
  readonly #crypto: CryptoProvider;
  readonly #options: ContentOptions;
  readonly #pieces: Bytes[] = [];
  content: Bytes = EMPTY_BYTES;
  aborted = false;

  constructor(crypto: CryptoProvider, options: ContentOptions) {
    this.#crypto = crypto;
    this.#options = options;
  }

  write(bytes: Bytes): Promise<void> {
    this.#pieces.push(bytes.slice());
    return Promise.resolve();
  }

  finish(): Promise<ContentDigests> {
    this.content = concatBytes(...this.#pieces);
    return Promise.resolve({
      sizeBytes: this.content.length,
      md5: this.#crypto.digest("md5", this.content),
      checksums: Object.fromEntries(
        this.#options.checksums.map((one) => [
          one,
          computeChecksum(this.#crypto, one, this.content),
        ]),
      ),
    });
  }

  abort(): Promise<void> {
    this.aborted = true;
    return Promise.resolve();
  }
}

function byUtf8(a: string, b: string): number {
  return compareBytes(utf8(a), utf8(b));
}

/** The fake. `writers` holds every writer that was begun; `failNext` makes the next call fail. */
export class MemoryNamespaces implements NamespaceService {
  readonly writers: MemoryWriter[] = [];
  failNext: Error | undefined;
  readonly #crypto: CryptoProvider;
  readonly #clock: Clock;
  readonly #organisations = new Map<string, Map<string, StoredNamespace>>();
  /** Largest piece that `read` gives. */
  readonly #pieceBytes: number;

  constructor(crypto: CryptoProvider, clock: Clock, pieceBytes = 1 << 20) {
    this.#crypto = crypto;
    this.#clock = clock;
    this.#pieceBytes = pieceBytes;
  }

  #mine(caller: Identity): Map<string, StoredNamespace> {
    const failure = this.failNext;
    if (failure !== undefined) {
      this.failNext = undefined;
      throw failure;
    }
    let mine = this.#organisations.get(caller.organisation);
    if (mine === undefined) this.#organisations.set(caller.organisation, mine = new Map());
    return mine;
  }

  #namespace(caller: Identity, name: string): StoredNamespace {
    const found = this.#mine(caller).get(name);
    if (found === undefined) throw new KisekiError("namespace.no_such_namespace", "no namespace");
    return found;
  }

  async listNamespaces(caller: Identity): Promise<readonly NamespaceInfo[]> {
    return [...this.#mine(caller).values()].map((one) => one.info);
  }

  async createNamespace(caller: Identity, name: string): Promise<NamespaceInfo> {
    const mine = this.#mine(caller);
    if (mine.has(name)) throw new KisekiError("namespace.namespace_exists", "exists");
    const info: NamespaceInfo = {
      id: newId128<NamespaceId>(),
      name,
      createdMs: this.#clock.wallMs(),
      versioning: "unversioned",
    };
    mine.set(name, { info, keys: new Map(), uploads: new Map() });
    return info;
  }

  async getNamespace(caller: Identity, name: string): Promise<NamespaceInfo> {
    return this.#namespace(caller, name).info;
  }

  async updateNamespace(
    caller: Identity,
    name: string,
    change: NamespaceChange,
  ): Promise<NamespaceInfo> {
    const stored = this.#namespace(caller, name);
    const { cors, tags, ...rest } = stored.info;
    const newCors = change.cors === undefined ? cors : change.cors ?? undefined;
    const newTags = change.tags === undefined ? tags : change.tags ?? undefined;
    stored.info = {
      ...rest,
      versioning: change.versioning ?? rest.versioning,
      ...(newCors === undefined ? {} : { cors: newCors }),
      ...(newTags === undefined ? {} : { tags: newTags }),
    };
    return stored.info;
  }

  async deleteNamespace(caller: Identity, name: string): Promise<void> {
    if (this.#namespace(caller, name).keys.size > 0) {
      throw new KisekiError("namespace.namespace_not_empty", "not empty");
    }
    this.#mine(caller).delete(name);
  }

  async beginContent(
    caller: Identity,
    namespace: string,
    options: ContentOptions,
  ): Promise<ContentWriter> {
    this.#namespace(caller, namespace);
    const writer = new MemoryWriter(this.#crypto, options);
    this.writers.push(writer);
    return writer;
  }

  async putObject(
    caller: Identity,
    namespace: string,
    key: string,
    content: ContentWriter,
    attributes: ObjectAttributes & { readonly checksum?: ObjectChecksum },
    condition: WriteCondition,
  ): Promise<PutResult> {
    const stored = this.#namespace(caller, namespace);
    const { content: bytes } = content as MemoryWriter;
    return this.#publish(stored, key, attributes, condition, {
      content: bytes,
      etag: toHex(this.#crypto.digest("md5", bytes)),
      parts: [],
      ...(attributes.checksum === undefined ? {} : { checksum: attributes.checksum }),
    });
  }

  #publish(
    stored: StoredNamespace,
    key: string,
    attributes: ObjectAttributes,
    condition: WriteCondition,
    made: {
      readonly content: Bytes;
      readonly etag: string;
      readonly parts: readonly ObjectPart[];
      readonly checksum?: ObjectChecksum;
    },
  ): PutResult {
    this.#judge(stored, key, condition);
    const version: ObjectVersion = {
      key,
      fileId: newId128<FileId>(),
      versionId: stored.info.versioning === "enabled" ? newId128() : "null",
      isLatest: true,
      deleteMarker: false,
      sizeBytes: made.content.length,
      etag: made.etag,
      lastModifiedMs: this.#clock.wallMs(),
      headers: attributes.headers,
      userMetadata: attributes.userMetadata,
      tags: attributes.tags,
      ...(made.checksum === undefined ? {} : { checksum: made.checksum }),
      ...(made.parts.length === 0 ? {} : { partCount: made.parts.length }),
    };
    this.#push(stored, { version, content: made.content, parts: made.parts });
    return { version };
  }

  #push(stored: StoredNamespace, added: StoredVersion): void {
    const older = (stored.keys.get(added.version.key) ?? [])
      .filter((one) => one.version.versionId !== added.version.versionId)
      .map((one) => ({ ...one, version: { ...one.version, isLatest: false } }));
    stored.keys.set(added.version.key, [added, ...older]);
  }

  #judge(stored: StoredNamespace, key: string, condition: WriteCondition): void {
    const latest = stored.keys.get(key)?.[0]?.version;
    const current = latest?.deleteMarker === false ? latest : undefined;
    if (condition.ifMatch !== undefined) {
      if (current === undefined) throw new KisekiError("namespace.no_such_entry", "no object");
      if (!condition.ifMatch.includes("*") && !condition.ifMatch.includes(current.etag)) {
        throw new KisekiError("namespace.precondition_failed", "changed");
      }
    }
    if (condition.ifNoneMatch !== undefined && current !== undefined) {
      throw new KisekiError("namespace.precondition_failed", "exists");
    }
  }

  #find(caller: Identity, namespace: string, key: string, versionId?: string): StoredVersion {
    const versions = this.#namespace(caller, namespace).keys.get(key);
    if (versionId === undefined) {
      const latest = versions?.[0];
      if (latest === undefined) throw new KisekiError("namespace.no_such_entry", "no object");
      if (latest.version.deleteMarker) {
        throw new KisekiError("namespace.no_such_entry", "deleted", {
          details: { deleteMarker: true, versionId: latest.version.versionId },
        });
      }
      return latest;
    }
    const found = versions?.find((one) => one.version.versionId === versionId);
    if (found === undefined) throw new KisekiError("namespace.no_such_version", "no version");
    if (found.version.deleteMarker) {
      throw new KisekiError("namespace.method_not_allowed", "a delete marker", {
        details: { deleteMarker: true, versionId },
      });
    }
    return found;
  }

  async openObject(
    caller: Identity,
    namespace: string,
    key: string,
    versionId?: string,
  ): Promise<ObjectHandle> {
    const found = this.#find(caller, namespace, key, versionId);
    const pieceBytes = this.#pieceBytes;
    return {
      version: found.version,
      async *read(offset: number, length: number): AsyncGenerator<Bytes> {
        for (let at = offset; at < offset + length; at += pieceBytes) {
          yield found.content.slice(at, Math.min(offset + length, at + pieceBytes));
        }
      },
      parts: () => Promise.resolve(found.parts),
    };
  }

  async headObject(
    caller: Identity,
    namespace: string,
    key: string,
    versionId?: string,
  ): Promise<ObjectVersion> {
    return this.#find(caller, namespace, key, versionId).version;
  }

  async deleteObject(
    caller: Identity,
    namespace: string,
    key: string,
    versionId: string | undefined,
    condition: WriteCondition,
  ): Promise<DeleteResult> {
    const stored = this.#namespace(caller, namespace);
    this.#judge(stored, key, condition);
    if (versionId === undefined && stored.info.versioning !== "unversioned") {
      const marker: ObjectVersion = {
        key,
        fileId: newId128<FileId>(),
        versionId: stored.info.versioning === "enabled" ? newId128() : "null",
        isLatest: true,
        deleteMarker: true,
        sizeBytes: 0,
        etag: "",
        lastModifiedMs: this.#clock.wallMs(),
        headers: {},
        userMetadata: {},
        tags: [],
      };
      this.#push(stored, { version: marker, content: EMPTY_BYTES, parts: [] });
      return { versionId: marker.versionId, deleteMarker: true };
    }
    const versions = stored.keys.get(key) ?? [];
    const wanted = versionId ?? "null";
    const gone = versions.find((one) => one.version.versionId === wanted);
    const rest = versions.filter((one) => one !== gone)
      .map((one, i) => ({ ...one, version: { ...one.version, isLatest: i === 0 } }));
    if (rest.length === 0) stored.keys.delete(key);
    else stored.keys.set(key, rest);
    return {
      ...(versionId === undefined ? {} : { versionId }),
      deleteMarker: gone?.version.deleteMarker ?? false,
    };
  }

  async copyObject(
    caller: Identity,
    source: { readonly namespace: string; readonly key: string; readonly versionId?: string },
    target: { readonly namespace: string; readonly key: string },
    expectedSource: ObjectVersion,
    attributes: Partial<ObjectAttributes> | undefined,
    condition: WriteCondition,
  ): Promise<PutResult> {
    const found = this.#find(caller, source.namespace, source.key, source.versionId);
    if (found.version.etag !== expectedSource.etag) {
      throw new KisekiError("namespace.precondition_failed", "the source changed");
    }
    return this.#publish(
      this.#namespace(caller, target.namespace),
      target.key,
      { ...found.version, ...attributes },
      condition,
      {
        content: found.content,
        etag: found.version.etag,
        parts: found.parts,
        ...(found.version.checksum === undefined ? {} : { checksum: found.version.checksum }),
      },
    );
  }

  async setTags(
    caller: Identity,
    namespace: string,
    key: string,
    versionId: string | undefined,
    tags: Tags,
  ): Promise<{ readonly versionId: string }> {
    const found = this.#find(caller, namespace, key, versionId);
    const stored = this.#namespace(caller, namespace);
    stored.keys.set(
      key,
      (stored.keys.get(key) ?? []).map((one) =>
        one === found ? { ...one, version: { ...one.version, tags } } : one
      ),
    );
    return { versionId: found.version.versionId };
  }

  async listObjects(caller: Identity, namespace: string, options: ListOptions): Promise<ListPage> {
    const stored = this.#namespace(caller, namespace);
    const all = [...stored.keys.values()].map((versions) => versions[0]?.version)
      .filter((one) => one !== undefined).filter((one) => !one.deleteMarker);
    const items = grouped(all, options.prefix, options.delimiter)
      .filter((one) => byUtf8(nameOf(one), options.after) > 0)
      // What lies under a prefix that was already told is told.
      .filter((one) => one.type === "object" || one.prefix !== options.after);
    const page = items.slice(0, options.limit);
    const last = page.at(-1);
    return {
      items: page,
      ...(items.length > page.length && last !== undefined ? { next: nameOf(last) } : {}),
    };
  }

  async listVersions(
    caller: Identity,
    namespace: string,
    options: ListVersionsOptions,
  ): Promise<ListVersionsPage> {
    const stored = this.#namespace(caller, namespace);
    const all = [...stored.keys.values()].flat().map((one) => one.version);
    const items = grouped(all, options.prefix, options.delimiter);
    let from = 0;
    if (options.keyMarker !== "") {
      const after = items.findIndex((one) => byUtf8(nameOf(one), options.keyMarker) > 0);
      from = after < 0 ? items.length : after;
      if (options.versionIdMarker !== "") {
        const at = items.findIndex((one) =>
          one.type === "object" && one.object.key === options.keyMarker &&
          one.object.versionId === options.versionIdMarker
        );
        if (at >= 0) from = at + 1;
      }
    }
    const page = items.slice(from, from + options.limit);
    const last = page.at(-1);
    return {
      items: page,
      ...(from + page.length < items.length && last !== undefined
        ? {
          next: {
            keyMarker: nameOf(last),
            versionIdMarker: last.type === "object" ? last.object.versionId : "",
          },
        }
        : {}),
    };
  }

  async createUpload(
    caller: Identity,
    namespace: string,
    key: string,
    options: UploadOptions,
  ): Promise<UploadInfo> {
    const stored = this.#namespace(caller, namespace);
    const info: UploadInfo = {
      ...options,
      key,
      uploadId: newId128<UploadId>(),
      initiatedMs: this.#clock.wallMs(),
    };
    stored.uploads.set(info.uploadId, { info, parts: new Map() });
    return info;
  }

  #upload(caller: Identity, namespace: string, key: string, uploadId: string): StoredUpload {
    const found = this.#namespace(caller, namespace).uploads.get(uploadId);
    if (found === undefined || found.info.key !== key) {
      throw new KisekiError("namespace.no_such_upload", "no upload");
    }
    return found;
  }

  async getUpload(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
  ): Promise<UploadInfo> {
    return this.#upload(caller, namespace, key, uploadId).info;
  }

  async putPart(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
    partNumber: number,
    content: ContentWriter,
    checksum: ObjectChecksum | undefined,
  ): Promise<UploadPartInfo> {
    const upload = this.#upload(caller, namespace, key, uploadId);
    return this.#part(upload, partNumber, (content as MemoryWriter).content, checksum);
  }

  #part(
    upload: StoredUpload,
    partNumber: number,
    content: Bytes,
    checksum: ObjectChecksum | undefined,
  ): UploadPartInfo {
    const info: UploadPartInfo = {
      partNumber,
      sizeBytes: content.length,
      etag: toHex(this.#crypto.digest("md5", content)),
      lastModifiedMs: this.#clock.wallMs(),
      ...(checksum === undefined ? {} : { checksum }),
    };
    upload.parts.set(partNumber, { info, content });
    return info;
  }

  async copyPart(
    caller: Identity,
    source: { readonly namespace: string; readonly key: string; readonly versionId?: string },
    _expectedSource: ObjectVersion,
    range: { readonly offset: number; readonly length: number },
    target: {
      readonly namespace: string;
      readonly key: string;
      readonly uploadId: string;
      readonly partNumber: number;
    },
  ): Promise<UploadPartInfo> {
    const found = this.#find(caller, source.namespace, source.key, source.versionId);
    const upload = this.#upload(caller, target.namespace, target.key, target.uploadId);
    const content = found.content.slice(range.offset, range.offset + range.length);
    const algorithm = upload.info.checksumAlgorithm;
    return this.#part(
      upload,
      target.partNumber,
      content,
      algorithm === undefined ? undefined : {
        algorithm,
        type: "FULL_OBJECT",
        value: computeChecksum(this.#crypto, algorithm, content),
      },
    );
  }

  async listParts(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
    afterPart: number,
    limit: number,
  ): Promise<{ readonly parts: readonly UploadPartInfo[]; readonly truncated: boolean }> {
    const all = [...this.#upload(caller, namespace, key, uploadId).parts.values()]
      .map((one) => one.info).filter((one) => one.partNumber > afterPart)
      .sort((a, b) => a.partNumber - b.partNumber);
    return { parts: all.slice(0, limit), truncated: all.length > limit };
  }

  async listUploads(
    caller: Identity,
    namespace: string,
    options: ListOptions & { readonly uploadIdMarker: string },
  ): ReturnType<NamespaceService["listUploads"]> {
    const all = [...this.#namespace(caller, namespace).uploads.values()].map((one) => one.info)
      .filter((one) => one.key.startsWith(options.prefix))
      .sort((a, b) => byUtf8(a.key, b.key) || byUtf8(a.uploadId, b.uploadId))
      .filter((one) => {
        const order = byUtf8(one.key, options.after);
        return order > 0 ||
          (order === 0 && options.uploadIdMarker !== "" && one.uploadId > options.uploadIdMarker);
      });
    const items: (
      | { readonly type: "upload"; readonly upload: UploadInfo }
      | { readonly type: "prefix"; readonly prefix: string }
    )[] = [];
    for (const upload of all) {
      const prefix = commonPrefix(upload.key, options.prefix, options.delimiter);
      if (prefix === undefined) items.push({ type: "upload", upload });
      else if (!items.some((one) => one.type === "prefix" && one.prefix === prefix)) {
        items.push({ type: "prefix", prefix });
      }
    }
    const page = items.slice(0, options.limit);
    const last = page.at(-1);
    return {
      items: page,
      ...(items.length > page.length && last !== undefined
        ? {
          next: last.type === "upload"
            ? { keyMarker: last.upload.key, uploadIdMarker: last.upload.uploadId }
            : { keyMarker: last.prefix, uploadIdMarker: "" },
        }
        : {}),
    };
  }

  async completeUpload(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
    parts: readonly CompletedPart[],
    checksum: ObjectChecksum | undefined,
    condition: WriteCondition,
  ): Promise<PutResult> {
    const stored = this.#namespace(caller, namespace);
    const upload = this.#upload(caller, namespace, key, uploadId);
    const chosen = parts.map((part) => {
      const found = upload.parts.get(part.partNumber);
      if (found === undefined || found.info.etag !== part.etag) {
        throw new KisekiError("namespace.invalid_part", "no such part");
      }
      return found;
    });
    for (const part of chosen.slice(0, -1)) {
      if (part.content.length < MIN_PART_BYTES) {
        throw new KisekiError("namespace.part_too_small", "too small");
      }
    }
    const md5s = concatBytes(...chosen.map((one) => this.#crypto.digest("md5", one.content)));
    const result = this.#publish(stored, key, upload.info, condition, {
      content: concatBytes(...chosen.map((one) => one.content)),
      etag: `${toHex(this.#crypto.digest("md5", md5s))}-${chosen.length}`,
      parts: chosen.map(({ info }) => ({
        partNumber: info.partNumber,
        sizeBytes: info.sizeBytes,
        ...(info.checksum === undefined ? {} : { checksum: info.checksum }),
      })),
      ...(checksum === undefined ? {} : { checksum }),
    });
    stored.uploads.delete(uploadId);
    return result;
  }

  async abortUpload(
    caller: Identity,
    namespace: string,
    key: string,
    uploadId: string,
  ): Promise<void> {
    this.#upload(caller, namespace, key, uploadId);
    this.#namespace(caller, namespace).uploads.delete(uploadId);
  }
}

function nameOf(item: ListItem): string {
  return item.type === "object" ? item.object.key : item.prefix;
}

function commonPrefix(key: string, prefix: string, delimiter: string): string | undefined {
  if (delimiter === "") return undefined;
  const at = key.indexOf(delimiter, prefix.length);
  return at < 0 ? undefined : key.slice(0, at + delimiter.length);
}

function grouped(
  versions: readonly ObjectVersion[],
  prefix: string,
  delimiter: string,
): ListItem[] {
  const items: ListItem[] = [];
  const seen = new Set<string>();
  for (const object of [...versions].sort((a, b) => byUtf8(a.key, b.key))) {
    if (!object.key.startsWith(prefix)) continue;
    const common = commonPrefix(object.key, prefix, delimiter);
    if (common === undefined) items.push({ type: "object", object });
    else if (!seen.has(common)) {
      seen.add(common);
      items.push({ type: "prefix", prefix: common });
    }
  }
  return items;
}

/** An identity of an organisation of its own. */
export function testIdentity(principal: string): Identity {
  return {
    organisation: newId128<OrganisationId>(),
    project: newId128<ProjectId>(),
    workload: newId128<WorkloadId>(),
    principal,
  };
}

/** Credentials from a plain table: access key id to secret and identity. */
export function tableResolver(
  table: ReadonlyMap<string, { readonly secret: string; readonly identity: Identity }>,
): CredentialResolver {
  return {
    resolve(accessKeyId) {
      const found = table.get(accessKeyId);
      return Promise.resolve(
        found === undefined
          ? undefined
          : { identity: found.identity, secretAccessKey: found.secret },
      );
    },
  };
}

/** The provider that needs no native library, so that a test opens nothing. */
export function testCrypto(): CryptoProvider {
  return nodeProvider(undefined);
}
