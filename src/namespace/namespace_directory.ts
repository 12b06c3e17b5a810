/**
 * Finds namespaces by name: sealed records of the control shard, opened with the tenant's key and
 * remembered for a short time.
 *
 * A name is looked up by its keyed hash under the tenant's name-hash key, so that another
 * organisation's namespace is simply not there. Versioning is decided by the root directory's
 * record in the tenant's shard, never by what is remembered here.
 */
import { type Bytes, fromHex, toHex, utf8 } from "../common/bytes.ts";
import type { Clock } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import { type NamespaceId, newId128, type OrganisationId } from "../common/ids.ts";
import { openEnvelope, plaintextSize, sealedSize, sealEnvelope } from "../crypto/envelope.ts";
import { EnvelopeKind } from "../crypto/envelope_format.ts";
import { recordIdentity } from "../crypto/envelope_identity.ts";
import type { KeySource, TenantKeys } from "../crypto/sealer.ts";
import type { CorsRule, NamespaceChange, NamespaceInfo, Versioning } from "./api.ts";
import * as m from "./messages.ts";
import { tagsFromPairs, tagsToPairs } from "./object_records.ts";
import { NamespaceRecord, type SealedRecord } from "./records.ts";
import type { ShardLink } from "./shard_link.ts";

const MAX_NAME_BYTES = 255;
const MAX_REMEMBERED = 4096;
const VERSIONING: readonly Versioning[] = ["unversioned", "enabled", "suspended"];

/** A namespace as the service uses it. */
export interface OpenNamespace {
  readonly organisation: OrganisationId;
  readonly record: NamespaceRecord;
  readonly revision: number;
  readonly lookup: Bytes;
  readonly keys: TenantKeys;
}

export interface NamespaceDirectoryOptions {
  readonly link: ShardLink;
  readonly keys: KeySource;
  readonly clock: Clock;
  /** Pool of new namespaces' chunks. */
  readonly pool: string;
  /** How long a record is remembered. Default 2,000 ms. */
  readonly rememberMs?: number;
}

export class NamespaceDirectory {
  readonly #options: NamespaceDirectoryOptions;
  readonly #rememberMs: number;
  readonly #known = new Map<
    string,
    { readonly until: number; readonly namespace: OpenNamespace }
  >();

  constructor(options: NamespaceDirectoryOptions) {
    this.#options = options;
    this.#rememberMs = options.rememberMs ?? 2000;
  }

  /** Forgets what is remembered of one namespace, or of all. */
  invalidate(organisation?: OrganisationId, name?: string): void {
    if (organisation === undefined || name === undefined) this.#known.clear();
    else this.#known.delete(cacheKey(organisation, name));
  }

  /** @throws KisekiError `namespace.no_such_namespace`. */
  async open(organisation: OrganisationId, name: string): Promise<OpenNamespace> {
    const known = this.#known.get(cacheKey(organisation, name));
    if (known !== undefined && known.until > this.#options.clock.monotonicMs()) {
      return known.namespace;
    }
    const found = await this.find(organisation, name);
    if (found === undefined) {
      this.invalidate(organisation, name);
      throw new KisekiError("namespace.no_such_namespace", "the namespace does not exist");
    }
    return found;
  }

  /** Reads the record anew. */
  async find(organisation: OrganisationId, name: string): Promise<OpenNamespace | undefined> {
    const bytes = utf8(name);
    if (bytes.length === 0 || bytes.length > MAX_NAME_BYTES) return undefined;
    const keys = await this.#options.keys.acquire(organisation);
    const lookup = lookupKey(keys, bytes);
    const { records } = await this.#options.link.controlQuery(
      m.QueryNumber.getNamespace,
      m.GetNamespace,
      { organisation: fromHex(organisation), lookup },
      m.NamespacesAnswer,
    );
    const sealed = records[0];
    if (sealed === undefined) return undefined;
    return this.#remember(openRecord(keys, organisation, sealed));
  }

  async list(organisation: OrganisationId, removed = false): Promise<readonly OpenNamespace[]> {
    const keys = await this.#options.keys.acquire(organisation);
    const { records } = await this.#options.link.controlQuery(
      m.QueryNumber.listNamespaces,
      m.ListNamespaces,
      { organisation: fromHex(organisation), removed },
      m.NamespacesAnswer,
    );
    return records.map((sealed) => openRecord(keys, organisation, sealed))
      .sort((a, b) => a.record.name < b.record.name ? -1 : a.record.name > b.record.name ? 1 : 0);
  }

  /** @throws KisekiError `namespace.namespace_exists`, `common.invalid_argument`. */
  async create(organisation: OrganisationId, name: string): Promise<OpenNamespace> {
    const bytes = utf8(name);
    if (bytes.length === 0 || bytes.length > MAX_NAME_BYTES || !name.isWellFormed()) {
      throw new KisekiError("common.invalid_argument", "a namespace's name of 1 to 255 bytes");
    }
    if (await this.find(organisation, name) !== undefined) {
      throw new KisekiError("namespace.namespace_exists", "the namespace exists already");
    }
    const keys = await this.#options.keys.acquire(organisation);
    const record: NamespaceRecord = {
      ...NamespaceRecord.decode(new Uint8Array(0)),
      id: fromHex(newId128()),
      name,
      organisation: fromHex(organisation),
      createdMs: Math.floor(this.#options.clock.wallMs()),
      root: fromHex(newId128()),
      placement: fromHex(newId128()),
      pool: this.#options.pool,
    };
    const { link } = this.#options;
    await link.command(
      organisation,
      record.placement,
      m.CommandNumber.createRoot,
      m.CreateRoot,
      { directory: record.root, placement: record.placement },
      m.EmptyAnswer,
    );
    return await this.#put(organisation, keys, record, lookupKey(keys, bytes), 0);
  }

  /** Writes a changed record over the revision that was read. */
  async update(of: OpenNamespace, change: NamespaceChange): Promise<OpenNamespace> {
    return await this.#put(
      of.organisation,
      of.keys,
      changed(of.record, change),
      of.lookup,
      of.revision,
    );
  }

  /** Takes the name away; the record waits, out of sight, until its rows are drained. */
  async remove(of: OpenNamespace): Promise<void> {
    await this.#options.link.controlCommand(
      m.CommandNumber.removeNamespace,
      m.RemoveNamespace,
      {
        organisation: fromHex(of.organisation),
        lookup: of.lookup,
        expectedRevision: of.revision,
        id: of.record.id,
      },
      m.RevisionAnswer,
    );
    this.invalidate(of.organisation, of.record.name);
  }

  /** A removed namespace is drained. */
  async forget(of: OpenNamespace): Promise<void> {
    await this.#options.link.controlCommand(
      m.CommandNumber.forgetNamespace,
      m.ForgetNamespace,
      { organisation: fromHex(of.organisation), id: of.record.id },
      m.EmptyAnswer,
    );
  }

  async #put(
    organisation: OrganisationId,
    keys: TenantKeys,
    record: NamespaceRecord,
    lookup: Bytes,
    expectedRevision: number,
  ): Promise<OpenNamespace> {
    const { wrappedDek, envelope } = sealRecord(keys, organisation, lookup, record);
    this.invalidate(organisation, record.name);
    const { revision } = await this.#options.link.controlCommand(
      m.CommandNumber.putNamespace,
      m.PutNamespace,
      { organisation: fromHex(organisation), lookup, expectedRevision, wrappedDek, envelope },
      m.RevisionAnswer,
    );
    return this.#remember({ organisation, record, revision, lookup, keys });
  }

  #remember(namespace: OpenNamespace): OpenNamespace {
    if (this.#rememberMs > 0) {
      if (this.#known.size >= MAX_REMEMBERED) this.#known.clear();
      this.#known.set(cacheKey(namespace.organisation, namespace.record.name), {
        until: this.#options.clock.monotonicMs() + this.#rememberMs,
        namespace,
      });
    }
    return namespace;
  }
}

/** What the API says of a namespace. */
export function namespaceInfo({ record }: OpenNamespace): NamespaceInfo {
  const cors = record.cors?.rules.map((rule): CorsRule => ({
    allowedOrigins: rule.allowedOrigins,
    allowedMethods: rule.allowedMethods,
    allowedHeaders: rule.allowedHeaders,
    exposeHeaders: rule.exposeHeaders,
    ...(rule.id === undefined ? {} : { id: rule.id }),
    ...(rule.maxAgePlusOne === 0 ? {} : { maxAgeSeconds: rule.maxAgePlusOne - 1 }),
  }));
  return {
    id: toHex(record.id) as NamespaceId,
    name: record.name,
    createdMs: record.createdMs,
    versioning: VERSIONING[record.versioning] ?? "unversioned",
    ...(cors === undefined ? {} : { cors }),
    ...(record.tags === undefined ? {} : { tags: tagsFromPairs(record.tags.tags) }),
  };
}

function changed(record: NamespaceRecord, change: NamespaceChange): NamespaceRecord {
  const cors = change.cors === undefined ? record.cors : change.cors === null ? undefined : {
    rules: change.cors.map((rule) => ({
      id: rule.id,
      allowedOrigins: rule.allowedOrigins,
      allowedMethods: rule.allowedMethods,
      allowedHeaders: rule.allowedHeaders,
      exposeHeaders: rule.exposeHeaders,
      maxAgePlusOne: rule.maxAgeSeconds === undefined ? 0 : rule.maxAgeSeconds + 1,
    })),
  };
  const tags = change.tags === undefined
    ? record.tags
    : change.tags === null
    ? undefined
    : { tags: tagsToPairs(change.tags) };
  const versioning = change.versioning === undefined
    ? record.versioning
    : VERSIONING.indexOf(change.versioning);
  return { ...record, versioning, cors, tags };
}

function cacheKey(organisation: OrganisationId, name: string): string {
  return `${organisation}/${name}`;
}

function lookupKey(keys: TenantKeys, name: Bytes): Bytes {
  const text = utf8("namespace/");
  const whole = new Uint8Array(text.length + name.length);
  whole.set(text);
  whole.set(name, text.length);
  return keys.nameHash(whole);
}

function sealRecord(
  keys: TenantKeys,
  organisation: OrganisationId,
  lookup: Bytes,
  record: NamespaceRecord,
): { readonly wrappedDek: Bytes; readonly envelope: Bytes } {
  const plaintext = NamespaceRecord.encode(record);
  const envelope = new Uint8Array(sealedSize(plaintext.length, 0));
  const dataKey = keys.generateDataKey();
  try {
    sealEnvelope(
      dataKey,
      EnvelopeKind.record,
      organisation,
      recordIdentity(lookup),
      plaintext,
      0,
      envelope,
    );
    return { wrappedDek: dataKey.wrapped.slice(), envelope };
  } finally {
    dataKey.release();
  }
}

function openRecord(
  keys: TenantKeys,
  organisation: OrganisationId,
  sealed: SealedRecord,
): OpenNamespace {
  const size = plaintextSize(sealed.envelope.length, 0);
  if (size === undefined) {
    throw new KisekiError("common.corrupt_format", "a namespace record that is no envelope");
  }
  const plaintext = new Uint8Array(size);
  const dataKey = keys.openDataKey(sealed.wrappedDek.slice());
  try {
    openEnvelope(
      dataKey,
      EnvelopeKind.record,
      organisation,
      recordIdentity(sealed.identity.slice()),
      sealed.envelope,
      plaintext,
    );
  } finally {
    dataKey.release();
  }
  return {
    organisation,
    record: NamespaceRecord.decode(plaintext),
    revision: sealed.revision,
    lookup: sealed.identity.slice(),
    keys,
  };
}
