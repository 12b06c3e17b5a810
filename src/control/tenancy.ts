/**
 * Organisations, projects, workloads and credentials: the client of the tenancy evaluator.
 *
 * Names and secrets are sealed here, with that tenant's key, before they leave; the control shard
 * sees keyed hashes and envelopes. An organisation comes to be in an order that a crash may cut
 * anywhere: keys, row in state `creating`, shard, state `active`; `recover` finishes what was cut.
 * It goes in the reverse order, and only when it holds nothing.
 */
import { EMPTY_BYTES, fromHex, toHex } from "../common/bytes.ts";
import type { Clock } from "../common/clock.ts";
import { NAME_FORM, parseName } from "../common/config_values.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import {
  idToBytes,
  newId128,
  type OrganisationId,
  type ProjectId,
  type ShardId,
  type WorkloadId,
} from "../common/ids.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import { type KeySource, SYSTEM_ORGANISATION, type TenantKeys } from "../crypto/sealer.ts";
import type { ShardPort } from "../log/ports.ts";
import { openRecord, sealRecord } from "./record_sealer.ts";
import { lookupName, TenantClass, type TenantRow, TenantState, ZERO_ID } from "./tenancy_rows.ts";
import { TenancyStore } from "./tenancy_store.ts";

/** Port: the key sets of organisations. Both calls are idempotent. */
export interface OrganisationKeys {
  create(organisation: OrganisationId): Promise<void>;
  destroy(organisation: OrganisationId): Promise<void>;
}

/** Port: starts and drops the shards of an organisation. Both calls are idempotent. */
export interface ShardAdmin {
  /** Allocates (see {@link Tenancy.allocateShard}), starts and routes to the first shard. */
  createShard(organisation: OrganisationId): Promise<ShardId>;
  removeShard(organisation: OrganisationId, shard: ShardId): Promise<void>;
}

/** Port: what stands in an organisation's own shards. */
export interface OrganisationContents {
  /** True when the organisation has no namespace. */
  isEmpty(organisation: OrganisationId): Promise<boolean>;
}

export interface TenancyOptions {
  readonly shards: ShardPort;
  readonly keys: KeySource;
  readonly crypto: CryptoProvider;
  readonly clock: Clock;
  readonly organisationKeys: OrganisationKeys;
  readonly shardAdmin: ShardAdmin;
  readonly contents: OrganisationContents;
  /** Text of `proto/kiseki/v1/tenancy.proto`. */
  readonly protoText: string;
  /** Called after a credential changed; undefined: all may have. */
  readonly onCredentialChange?: (accessKeyId: string | undefined) => void;
}

export type TenantStateName = "creating" | "active" | "disabled" | "closing";

export interface Organisation {
  readonly id: OrganisationId;
  readonly name: string;
  readonly state: TenantStateName;
  readonly createdMs: number;
}
export interface Project {
  readonly id: ProjectId;
  readonly organisation: OrganisationId;
  readonly name: string;
  readonly createdMs: number;
}
export interface Workload {
  readonly id: WorkloadId;
  readonly organisation: OrganisationId;
  readonly project: ProjectId;
  readonly name: string;
  readonly createdMs: number;
}
export interface Credential {
  readonly accessKeyId: string;
  readonly organisation: OrganisationId;
  readonly project: ProjectId;
  readonly workload: WorkloadId;
  readonly state: TenantStateName;
  readonly comment: string;
  readonly createdMs: number;
}
export interface NewCredential extends Credential {
  /** Shown once. */
  readonly secretAccessKey: string;
}

/** A fixed credential, for `--dev` and imports. */
export interface GivenCredential {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

export interface Page<T> {
  readonly items: readonly T[];
  /** Give as `after` for what follows. */
  readonly next?: string;
}

/** What an access key id may look like: 20 characters when it is made here. */
const ACCESS_KEY_ID = /^[A-Za-z0-9_.-]{3,128}$/;
const SECRET = /^[\x21-\x7e]{8,128}$/;
const ACCESS_KEY_PREFIX = "KSKI";
const BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

export class Tenancy {
  readonly #options: TenancyOptions;
  readonly #store: TenancyStore;

  constructor(options: TenancyOptions) {
    this.#options = options;
    this.#store = new TenancyStore(options.shards, options.protoText);
  }

  // Organisations

  /** @throws KisekiError `common.already_exists`, `common.invalid_argument`. */
  async createOrganisation(name: string): Promise<Organisation> {
    checkName(name, "organisation");
    if (await this.#findOrganisationRow(name) !== undefined) {
      throw new KisekiError("common.already_exists", `organisation ${name} exists already`);
    }
    const id = newId128<OrganisationId>();
    await this.#options.organisationKeys.create(id);
    try {
      await this.#insert(TenantClass.organisation, id, ZERO_ID, id, TenantState.creating, {
        name,
        secret: "",
        comment: "",
      });
    } catch (error) {
      // Whether the row was written is known only for a refusal; else `recover` finishes it.
      if (isKisekiError(error, "common.already_exists")) {
        await this.#options.organisationKeys.destroy(id);
      }
      throw error;
    }
    return await this.#finishCreation(id);
  }

  async listOrganisations(after?: string, limit?: number): Promise<Page<Organisation>> {
    return await this.#list(
      TenantClass.organisation,
      ZERO_ID,
      after,
      limit,
      (row) => this.#organisation(row),
    );
  }

  /** @param nameOrId A name, or 32 hex digits. @throws KisekiError `common.not_found`. */
  async getOrganisation(nameOrId: string): Promise<Organisation> {
    const row = isId(nameOrId)
      ? await this.#row(TenantClass.organisation, ZERO_ID, nameOrId)
      : await this.#findOrganisationRow(nameOrId);
    if (row === undefined) throw notFound("organisation", nameOrId);
    return await this.#organisation(row);
  }

  /** @throws KisekiError `common.failed_precondition` while it holds a project or a namespace. */
  async deleteOrganisation(nameOrId: string): Promise<void> {
    const organisation = await this.getOrganisation(nameOrId);
    if (organisation.id === SYSTEM_ORGANISATION) {
      throw new KisekiError("common.permission_denied", "the system's own organisation stays");
    }
    const at = { parent: fromHex(ZERO_ID), id: idToBytes(organisation.id) };
    const setState = (state: TenantState, expected: readonly TenantState[]) =>
      this.#store.execute({
        setState: { class: TenantClass.organisation, ...at, state, expected },
      });
    const { creating, active, disabled, closing } = TenantState;
    await setState(closing, [creating, active, disabled, closing]);
    let shards: readonly number[];
    try {
      if (!await this.#options.contents.isEmpty(organisation.id)) {
        throw new KisekiError(
          "common.failed_precondition",
          `organisation ${organisation.name} still holds a namespace: delete that first`,
        );
      }
      const result = await this.#store.execute({
        remove: { class: TenantClass.organisation, ...at },
      });
      shards = result.shards ?? [];
    } catch (error) {
      if (isKisekiError(error, "common.failed_precondition")) await setState(active, [closing]);
      throw error;
    }
    this.#options.onCredentialChange?.(undefined);
    for (const shard of shards) {
      await this.#options.shardAdmin.removeShard(organisation.id, shard as ShardId);
    }
    await this.#options.organisationKeys.destroy(organisation.id);
  }

  /** Finishes creations that a crash cut short; gives up deletions that it cut short. */
  async recover(): Promise<void> {
    const pending: TenantRow[] = [];
    for await (const { value } of this.#store.all(TenantClass.organisation, EMPTY_BYTES)) {
      const row = this.#store.messages.tenantRow.decode(value);
      if (row.state === TenantState.creating || row.state === TenantState.closing) {
        pending.push(row);
      }
    }
    for (const row of pending) {
      const id = toHex(row.id) as OrganisationId;
      await this.#options.organisationKeys.create(id);
      await this.#finishCreation(id);
    }
  }

  /**
   * The shard of an organisation: allocated on the first call, the same ever after. For
   * {@link ShardAdmin.createShard}.
   */
  async allocateShard(organisation: OrganisationId): Promise<ShardId> {
    const result = await this.#store.execute({
      allocateShard: {
        organisation: idToBytes(organisation),
        createdMs: this.#options.clock.wallMs(),
      },
    });
    const shard = result.shards?.[0];
    if (shard === undefined) throw new KisekiError("log.no_shard", "no shard was allocated");
    return shard as ShardId;
  }

  // Projects

  async createProject(organisation: OrganisationId, name: string): Promise<Project> {
    checkName(name, "project");
    const id = newId128<ProjectId>();
    const row = await this.#insert(
      TenantClass.project,
      organisation,
      organisation,
      id,
      TenantState.active,
      { name, secret: "", comment: "" },
    );
    return await this.#project(row);
  }

  async listProjects(
    organisation: OrganisationId,
    after?: string,
    limit?: number,
  ): Promise<Page<Project>> {
    return await this.#list(
      TenantClass.project,
      organisation,
      after,
      limit,
      (row) => this.#project(row),
    );
  }

  async getProject(organisation: OrganisationId, nameOrId: string): Promise<Project> {
    return await this.#project(
      await this.#child(TenantClass.project, organisation, organisation, nameOrId),
    );
  }

  async deleteProject(organisation: OrganisationId, nameOrId: string): Promise<void> {
    const row = await this.#child(TenantClass.project, organisation, organisation, nameOrId);
    await this.#remove(TenantClass.project, row);
  }

  // Workloads

  async createWorkload(
    organisation: OrganisationId,
    project: ProjectId,
    name: string,
  ): Promise<Workload> {
    checkName(name, "workload");
    const id = newId128<WorkloadId>();
    const row = await this.#insert(
      TenantClass.workload,
      organisation,
      project,
      id,
      TenantState.active,
      { name, secret: "", comment: "" },
    );
    return await this.#workload(row);
  }

  async listWorkloads(
    organisation: OrganisationId,
    project: ProjectId,
    after?: string,
    limit?: number,
  ): Promise<Page<Workload>> {
    await this.getProject(organisation, project);
    return await this.#list(
      TenantClass.workload,
      project,
      after,
      limit,
      (row) => this.#workload(row),
    );
  }

  async getWorkload(
    organisation: OrganisationId,
    project: ProjectId,
    nameOrId: string,
  ): Promise<Workload> {
    return await this.#workload(
      await this.#child(TenantClass.workload, organisation, project, nameOrId),
    );
  }

  async deleteWorkload(
    organisation: OrganisationId,
    project: ProjectId,
    nameOrId: string,
  ): Promise<void> {
    const row = await this.#child(TenantClass.workload, organisation, project, nameOrId);
    await this.#remove(TenantClass.workload, row);
  }

  // Credentials

  /** @param given Undefined: random. The secret is shown by this call alone. */
  async createCredential(
    workload: Workload,
    options: { readonly given?: GivenCredential; readonly comment?: string } = {},
  ): Promise<NewCredential> {
    const { accessKeyId, secretAccessKey } = options.given ?? this.#newCredential();
    checkCredential(accessKeyId, secretAccessKey);
    const comment = options.comment ?? "";
    if (comment.length > 256) {
      throw new KisekiError("common.invalid_argument", "a comment is at most 256 characters");
    }
    const row = await this.#insert(
      TenantClass.credential,
      workload.organisation,
      workload.id,
      newId128(),
      TenantState.active,
      { name: accessKeyId, secret: secretAccessKey, comment },
      workload.project,
    );
    this.#options.onCredentialChange?.(accessKeyId);
    return { ...await this.#credential(row), secretAccessKey };
  }

  async listCredentials(
    workload: Workload,
    after?: string,
    limit?: number,
  ): Promise<Page<Credential>> {
    return await this.#list(
      TenantClass.credential,
      workload.id,
      after,
      limit,
      (row) => this.#credential(row),
    );
  }

  /** @throws KisekiError `common.not_found`. */
  async getCredential(accessKeyId: string): Promise<Credential> {
    return await this.#credential(await this.#credentialRow(accessKeyId));
  }

  async setCredentialEnabled(accessKeyId: string, enabled: boolean): Promise<Credential> {
    const row = await this.#credentialRow(accessKeyId);
    const { parent, id } = row;
    const state = enabled ? TenantState.active : TenantState.disabled;
    const result = await this.#store.execute({
      setState: { class: TenantClass.credential, parent, id, state, expected: [] },
    });
    this.#options.onCredentialChange?.(accessKeyId);
    return await this.#credential(result.row ?? row);
  }

  async deleteCredential(accessKeyId: string): Promise<void> {
    await this.#remove(TenantClass.credential, await this.#credentialRow(accessKeyId));
    this.#options.onCredentialChange?.(accessKeyId);
  }

  // Private

  async #finishCreation(id: OrganisationId): Promise<Organisation> {
    await this.#options.shardAdmin.createShard(id);
    const result = await this.#store.execute({
      setState: {
        class: TenantClass.organisation,
        parent: fromHex(ZERO_ID),
        id: idToBytes(id),
        state: TenantState.active,
        expected: [],
      },
    });
    if (result.row === undefined) throw notFound("organisation", id);
    return await this.#organisation(result.row);
  }

  #newCredential(): GivenCredential {
    const bytes = new Uint8Array(46);
    this.#options.crypto.random(bytes);
    let accessKeyId = ACCESS_KEY_PREFIX;
    for (let i = 0; i < 16; i++) accessKeyId += BASE32[(bytes[i] as number) & 31];
    // 240 bits in 40 characters without the two that break URLs and shells.
    const secretAccessKey = bytes.subarray(16).toBase64({ alphabet: "base64url" });
    bytes.fill(0);
    return { accessKeyId, secretAccessKey };
  }

  async #hashKeys(tenantClass: TenantClass, organisation: OrganisationId): Promise<TenantKeys> {
    const ofSystem = tenantClass === TenantClass.organisation ||
      tenantClass === TenantClass.credential;
    return await this.#options.keys.acquire(ofSystem ? SYSTEM_ORGANISATION : organisation);
  }

  async #insert(
    tenantClass: TenantClass,
    organisation: OrganisationId,
    parent: string,
    id: string,
    state: TenantState,
    secret: { readonly name: string; readonly secret: string; readonly comment: string },
    project?: ProjectId,
  ): Promise<TenantRow> {
    const hashKeys = await this.#hashKeys(tenantClass, organisation);
    const lookupHash = hashKeys.nameHash(lookupName(tenantClass, parent, secret.name));
    const tenantKeys = await this.#options.keys.acquire(organisation);
    const sealed = sealRecord(
      tenantKeys,
      lookupHash,
      this.#store.messages.tenantSecret.encode(secret),
    );
    const row: TenantRow = {
      organisation: idToBytes(organisation),
      parent: idToBytes(parent),
      id: idToBytes(id),
      state,
      createdMs: Math.floor(this.#options.clock.wallMs()),
      lookupHash,
      sealed,
      project: project === undefined ? EMPTY_BYTES : idToBytes(project),
    };
    await this.#store.execute({ insert: { class: tenantClass, row } });
    return row;
  }

  async #remove(tenantClass: TenantClass, row: TenantRow): Promise<void> {
    await this.#store.execute({ remove: { class: tenantClass, parent: row.parent, id: row.id } });
  }

  async #row(tenantClass: TenantClass, parent: string, id: string): Promise<TenantRow | undefined> {
    const value = await this.#store.get(tenantClass, fromHex(parent + id));
    return value === undefined ? undefined : this.#store.messages.tenantRow.decode(value);
  }

  async #findOrganisationRow(name: string): Promise<TenantRow | undefined> {
    const system = await this.#options.keys.acquire(SYSTEM_ORGANISATION);
    const name_ = lookupName(TenantClass.organisation, ZERO_ID, name);
    return await this.#store.find(TenantClass.organisation, system.nameHash(name_));
  }

  /** A project or workload by name or id, and only inside its organisation. */
  async #child(
    tenantClass: typeof TenantClass.project | typeof TenantClass.workload,
    organisation: OrganisationId,
    parent: string,
    nameOrId: string,
  ): Promise<TenantRow> {
    const what = tenantClass === TenantClass.project ? "project" : "workload";
    let row: TenantRow | undefined;
    if (isId(nameOrId)) {
      row = await this.#row(tenantClass, parent, nameOrId);
    } else {
      const keys = await this.#options.keys.acquire(organisation);
      row = await this.#store.find(
        tenantClass,
        keys.nameHash(lookupName(tenantClass, parent, nameOrId)),
      );
    }
    if (row === undefined || toHex(row.organisation) !== organisation) {
      throw notFound(what, nameOrId);
    }
    return row;
  }

  async #credentialRow(accessKeyId: string): Promise<TenantRow> {
    const system = await this.#options.keys.acquire(SYSTEM_ORGANISATION);
    const name = lookupName(TenantClass.credential, ZERO_ID, accessKeyId);
    const row = await this.#store.find(TenantClass.credential, system.nameHash(name));
    if (row === undefined) throw notFound("credential", accessKeyId);
    return row;
  }

  async #list<T>(
    tenantClass: TenantClass,
    parent: string,
    after: string | undefined,
    limit: number | undefined,
    open: (row: TenantRow) => Promise<T>,
  ): Promise<Page<T>> {
    const afterKey = after === undefined ? EMPTY_BYTES : fromHex(parent + checkId(after));
    const page = await this.#store.scan(tenantClass, idToBytes(parent), afterKey, limit ?? 1000);
    const items: T[] = [];
    for (const row of page.rows) {
      items.push(await open(this.#store.messages.tenantRow.decode(row.value)));
    }
    const last = page.rows.at(-1);
    return page.more && last !== undefined
      ? { items, next: toHex(last.key.subarray(16)) }
      : { items };
  }

  async #open(row: TenantRow) {
    const organisation = toHex(row.organisation) as OrganisationId;
    const keys = await this.#options.keys.acquire(organisation);
    return this.#store.messages.tenantSecret.decode(
      openRecord(keys, row.lookupHash, row.sealed),
    );
  }

  async #organisation(row: TenantRow): Promise<Organisation> {
    return {
      id: toHex(row.id) as OrganisationId,
      name: (await this.#open(row)).name,
      state: stateName(row.state),
      createdMs: row.createdMs,
    };
  }

  async #project(row: TenantRow): Promise<Project> {
    return {
      id: toHex(row.id) as ProjectId,
      organisation: toHex(row.organisation) as OrganisationId,
      name: (await this.#open(row)).name,
      createdMs: row.createdMs,
    };
  }

  async #workload(row: TenantRow): Promise<Workload> {
    return {
      id: toHex(row.id) as WorkloadId,
      organisation: toHex(row.organisation) as OrganisationId,
      project: toHex(row.parent) as ProjectId,
      name: (await this.#open(row)).name,
      createdMs: row.createdMs,
    };
  }

  async #credential(row: TenantRow): Promise<Credential> {
    const { name, comment } = await this.#open(row);
    return {
      accessKeyId: name,
      organisation: toHex(row.organisation) as OrganisationId,
      project: toHex(row.project) as ProjectId,
      workload: toHex(row.parent) as WorkloadId,
      state: stateName(row.state),
      comment,
      createdMs: row.createdMs,
    };
  }
}

/** The tenancy client. */
export function createTenancy(options: TenancyOptions): Tenancy {
  return new Tenancy(options);
}

function isId(text: string): boolean {
  return /^[0-9a-f]{32}$/.test(text);
}

function checkId(text: string): string {
  if (isId(text)) return text;
  throw new KisekiError("common.invalid_argument", "not a page token");
}

function checkName(name: string, what: string): void {
  if (parseName(name) === undefined || isId(name)) {
    throw new KisekiError(
      "common.invalid_argument",
      `${what} name: found ${
        JSON.stringify(name.slice(0, 80))
      }; allowed: ${NAME_FORM}, not 32 hex digits`,
    );
  }
}

function checkCredential(accessKeyId: string, secretAccessKey: string): void {
  if (!ACCESS_KEY_ID.test(accessKeyId)) {
    throw new KisekiError(
      "common.invalid_argument",
      "an access key id has 3 to 128 characters of A-Z a-z 0-9 _ . -",
    );
  }
  if (!SECRET.test(secretAccessKey)) {
    throw new KisekiError(
      "common.invalid_argument",
      "a secret access key has 8 to 128 printable ASCII characters without spaces",
    );
  }
}

function stateName(state: number): TenantStateName {
  switch (state) {
    case TenantState.creating:
      return "creating";
    case TenantState.active:
      return "active";
    case TenantState.disabled:
      return "disabled";
    case TenantState.closing:
      return "closing";
    default:
      throw new KisekiError("common.corrupt_format", `tenant state ${state}`);
  }
}

function notFound(what: string, nameOrId: string): KisekiError {
  return new KisekiError("common.not_found", `no such ${what}: ${nameOrId.slice(0, 128)}`);
}
