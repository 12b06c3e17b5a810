/**
 * The admin service's methods over tenancy, namespaces and the node. Transport and identity of the
 * caller: `admin_server.ts`.
 */
import { parseName } from "../common/config_values.ts";
import { KisekiError } from "../common/errors.ts";
import {
  type DeviceId,
  type OrganisationId,
  parseId128,
  type ProjectId,
  type WorkloadId,
} from "../common/ids.ts";
import type { Durability } from "../chunk/ports.ts";
import type { NamespaceInfo, NamespaceService } from "../namespace/api.ts";
import type { Identity } from "../namespace/identity.ts";
import type {
  AddDeviceRequest,
  ControlMethod,
  CreatePoolRequest,
  CredentialMessage,
  DeviceMessage,
  NamespaceMessage,
  PageOf,
  PoolMessage,
  RequestOf,
  ResponseOf,
  WorkloadPlace,
} from "./admin_messages.ts";
import type { DeviceStatus, NewDevice, NodeAdmin, PoolStatus } from "./node_admin.ts";
import type { Credential, Page, Tenancy, Workload } from "./tenancy.ts";
import { ZERO_ID } from "./tenancy_rows.ts";

/** One function a method. */
export type ControlHandlers = {
  readonly [M in ControlMethod]: (
    request: RequestOf<M>,
    principal: string,
  ) => Promise<ResponseOf<M>>;
};

export interface AdminServiceOptions {
  readonly tenancy: Tenancy;
  readonly namespaces: NamespaceService;
  readonly node: NodeAdmin;
}

/** The methods. Errors are KisekiErrors. */
export function adminHandlers(options: AdminServiceOptions): ControlHandlers {
  return { ...tenantHandlers(options), ...nodeHandlers(options.node) };
}

type NodeMethod =
  | "ListDevices"
  | "AddDevice"
  | "ReplaceDevice"
  | "RemoveDevice"
  | "ListPools"
  | "CreatePool"
  | "ChangePool"
  | "ListShards"
  | "StartScrub"
  | "GetScrub"
  | "GetStatus"
  | "GetKeyStatus";

function tenantHandlers(options: AdminServiceOptions): Omit<ControlHandlers, NodeMethod> {
  const { tenancy, namespaces } = options;
  const organisation = async (name: string): Promise<OrganisationId> =>
    (await tenancy.getOrganisation(named(name, "organisation"))).id;
  const project = async (request: { organisation: string; project: string }) => {
    const id = await organisation(request.organisation);
    return { organisation: id, project: await projectOf(id, request.project) };
  };
  const projectOf = async (id: OrganisationId, name: string): Promise<ProjectId> =>
    (await tenancy.getProject(id, named(name, "project"))).id;
  const workload = async (request: WorkloadPlace): Promise<Workload> => {
    const at = await project(request);
    return await tenancy.getWorkload(
      at.organisation,
      at.project,
      named(request.workload, "workload"),
    );
  };
  const admin = async (name: string, principal: string): Promise<Identity> =>
    adminIdentity(await organisation(name), principal);

  return {
    CreateOrganisation: ({ name }) => tenancy.createOrganisation(name),
    ListOrganisations: async ({ after, limit }) =>
      page(await tenancy.listOrganisations(after || undefined, limit || undefined)),
    GetOrganisation: ({ name }) => tenancy.getOrganisation(named(name, "organisation")),
    async DeleteOrganisation({ name }) {
      await tenancy.deleteOrganisation(named(name, "organisation"));
      return {};
    },

    CreateProject: async (request) =>
      await tenancy.createProject(await organisation(request.organisation), request.name),
    ListProjects: async (request) =>
      page(
        await tenancy.listProjects(
          await organisation(request.organisation),
          request.after || undefined,
          request.limit || undefined,
        ),
      ),
    GetProject: async (request) =>
      await tenancy.getProject(
        await organisation(request.organisation),
        named(request.name, "project"),
      ),
    async DeleteProject(request) {
      const id = await organisation(request.organisation);
      await tenancy.deleteProject(id, named(request.name, "project"));
      return {};
    },

    async CreateWorkload(request) {
      const at = await project(request);
      return await tenancy.createWorkload(at.organisation, at.project, request.name);
    },
    async ListWorkloads(request) {
      const at = await project(request);
      return page(
        await tenancy.listWorkloads(
          at.organisation,
          at.project,
          request.after || undefined,
          request.limit || undefined,
        ),
      );
    },
    async GetWorkload(request) {
      const at = await project(request);
      return await tenancy.getWorkload(
        at.organisation,
        at.project,
        named(request.name, "workload"),
      );
    },
    async DeleteWorkload(request) {
      const at = await project(request);
      await tenancy.deleteWorkload(at.organisation, at.project, named(request.name, "workload"));
      return {};
    },

    async CreateCredential(request) {
      const { accessKeyId, secretAccessKey } = request;
      if ((accessKeyId === "") !== (secretAccessKey === "")) {
        throw invalid("access_key_id and secret_access_key go together");
      }
      const made = await tenancy.createCredential(await workload(request), {
        comment: request.comment,
        ...(accessKeyId === "" ? {} : { given: { accessKeyId, secretAccessKey } }),
      });
      return credentialMessage(made, made.secretAccessKey);
    },
    async ListCredentials(request) {
      const found = await tenancy.listCredentials(
        await workload(request),
        request.after || undefined,
        request.limit || undefined,
      );
      return {
        items: found.items.map((credential) => credentialMessage(credential, "")),
        next: found.next ?? "",
      };
    },
    GetCredential: async ({ accessKeyId }) =>
      credentialMessage(await tenancy.getCredential(accessKeyId), ""),
    SetCredentialState: async ({ accessKeyId, enabled }) =>
      credentialMessage(await tenancy.setCredentialEnabled(accessKeyId, enabled), ""),
    async DeleteCredential({ accessKeyId }) {
      await tenancy.deleteCredential(accessKeyId);
      return {};
    },

    async CreateNamespace({ organisation, name }, principal) {
      const caller = await admin(organisation, principal);
      return namespaceMessage(await namespaces.createNamespace(caller, name));
    },
    async ListNamespaces({ organisation }, principal) {
      const caller = await admin(organisation, principal);
      return { items: (await namespaces.listNamespaces(caller)).map(namespaceMessage) };
    },
    async GetNamespace({ organisation, name }, principal) {
      const caller = await admin(organisation, principal);
      return namespaceMessage(await namespaces.getNamespace(caller, name));
    },
    async DeleteNamespace({ organisation, name }, principal) {
      await namespaces.deleteNamespace(await admin(organisation, principal), name);
      return {};
    },
  };
}

function nodeHandlers(node: NodeAdmin): Pick<ControlHandlers, NodeMethod> {
  return {
    ListDevices: async () => ({ items: (await node.listDevices()).map(deviceMessage) }),
    AddDevice: async (request) => deviceMessage(await node.addDevice(newDevice(request))),
    async ReplaceDevice(request) {
      if (request.with === undefined) throw invalid("replace with what? `with` is missing");
      const lost = parseId128<DeviceId>(request.device, "device");
      return deviceMessage(await node.replaceDevice(lost, newDevice(request.with)));
    },
    async RemoveDevice({ device, force }) {
      await node.removeDevice(parseId128<DeviceId>(device, "device"), force);
      return {};
    },
    ListPools: async () => ({ items: (await node.listPools()).map(poolMessage) }),
    CreatePool: async (request) =>
      poolMessage(
        await node.createPool({
          name: named(request.name, "pool"),
          devices: request.devices.map((id) => parseId128<DeviceId>(id, "device")),
          ...(request.class === "" ? {} : { class: named(request.class, "class") }),
          durability: durability(request),
          fullPercent: request.fullPercent === 0 ? 95 : percent(request.fullPercent),
        }),
      ),
    ChangePool: async ({ name, fullPercent }) =>
      poolMessage(
        await node.changePool(
          named(name, "pool"),
          fullPercent === 0 ? {} : { fullPercent: percent(fullPercent) },
        ),
      ),
    ListShards: async () => ({ items: [...await node.listShards()] }),
    StartScrub: () => node.startScrub(),
    GetScrub: () => node.scrubStatus(),
    async GetStatus() {
      const status = await node.status();
      return { ...status, pools: status.pools.map(poolMessage) };
    },
    GetKeyStatus: () => node.keyStatus(),
  };
}

/** The identity of an administrator inside one organisation. */
export function adminIdentity(organisation: OrganisationId, principal: string): Identity {
  return {
    organisation,
    project: ZERO_ID as ProjectId,
    workload: ZERO_ID as WorkloadId,
    principal,
  };
}

function page<T>(found: Page<T>): PageOf<T> {
  return { items: found.items, next: found.next ?? "" };
}

function named(name: string, what: string): string {
  if (parseName(name) === undefined) {
    throw invalid(`not the name or id of a ${what}: ${JSON.stringify(name.slice(0, 80))}`);
  }
  return name;
}

function percent(value: number): number {
  if (value >= 50 && value <= 99) return value;
  throw invalid(`full_percent: found ${value}; allowed: 50 to 99`);
}

function durability(request: CreatePoolRequest): Durability {
  const { copies, data, parity } = request;
  if (copies >= 1 && copies <= 5 && data === 0 && parity === 0) {
    return { scheme: "copies", copies };
  }
  if (copies === 0 && data >= 2 && data <= 16 && parity >= 1 && parity <= 8) {
    return { scheme: "erasure", data, parity };
  }
  throw invalid(
    `durability: found copies ${copies}, data ${data}, parity ${parity}; ` +
      "allowed: copies 1 to 5, or data 2 to 16 with parity 1 to 8",
  );
}

function newDevice(request: AddDeviceRequest): NewDevice {
  if (request.path === "" || request.path.includes("\0")) throw invalid("path is missing");
  return {
    path: request.path,
    class: request.class === "" ? "ssd" : named(request.class, "class"),
    force: request.force,
    pools: request.pools.map((pool) => named(pool, "pool")),
    ...(request.sizeBytes === 0 ? {} : { sizeBytes: request.sizeBytes }),
  };
}

function invalid(message: string): KisekiError {
  return new KisekiError("common.invalid_argument", message);
}

function credentialMessage(credential: Credential, secretAccessKey: string): CredentialMessage {
  return {
    accessKeyId: credential.accessKeyId,
    organisation: credential.organisation,
    project: credential.project,
    workload: credential.workload,
    state: credential.state,
    comment: credential.comment,
    createdMs: credential.createdMs,
    secretAccessKey,
  };
}

function namespaceMessage(info: NamespaceInfo): NamespaceMessage {
  return { id: info.id, name: info.name, createdMs: info.createdMs, versioning: info.versioning };
}

function deviceMessage(device: DeviceStatus): DeviceMessage {
  return { ...device, pools: [...device.pools] };
}

function poolMessage(pool: PoolStatus): PoolMessage {
  const scheme = pool.durability;
  return {
    name: pool.name,
    class: pool.class ?? "",
    copies: scheme.scheme === "copies" ? scheme.copies : 0,
    data: scheme.scheme === "erasure" ? scheme.data : 0,
    parity: scheme.scheme === "erasure" ? scheme.parity : 0,
    fullPercent: pool.fullPercent,
    devices: [...pool.devices],
    capacityBytes: pool.capacityBytes,
    usedBytes: pool.usedBytes,
    state: pool.state,
  };
}
