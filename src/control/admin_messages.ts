/**
 * Messages of `proto/kiseki/v1/control.proto` as the service and its client see them, and the
 * table of methods. Absent scalars are "", 0 and false.
 */
import protobuf from "protobufjs";
import { type Codec, protobufCodec } from "./tenancy_rows.ts";

type Empty = Record<never, never>;

export interface PageRequest {
  readonly after: string;
  readonly limit: number;
}
export interface PageOf<T> {
  readonly items: readonly T[];
  readonly next: string;
}
export interface ListOf<T> {
  readonly items: readonly T[];
}

export interface NameRequest {
  readonly name: string;
}
export interface OrganisationMessage {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly createdMs: number;
}
export interface ProjectRequest extends NameRequest {
  readonly organisation: string;
}
export interface ProjectMessage {
  readonly id: string;
  readonly organisation: string;
  readonly name: string;
  readonly createdMs: number;
}
export interface WorkloadRequest extends ProjectRequest {
  readonly project: string;
}
export interface WorkloadMessage extends ProjectMessage {
  readonly project: string;
}
export interface WorkloadPlace {
  readonly organisation: string;
  readonly project: string;
  readonly workload: string;
}
export interface CreateCredentialRequest extends WorkloadPlace {
  readonly comment: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}
export interface CredentialRequest {
  readonly accessKeyId: string;
}
export interface CredentialMessage extends WorkloadPlace {
  readonly accessKeyId: string;
  readonly state: string;
  readonly comment: string;
  readonly createdMs: number;
  readonly secretAccessKey: string;
}
export interface NamespaceMessage {
  readonly id: string;
  readonly name: string;
  readonly createdMs: number;
  readonly versioning: string;
}
export interface DeviceMessage {
  readonly device: string;
  readonly node: number;
  readonly path: string;
  readonly class: string;
  readonly capacityBytes: number;
  readonly usedBytes: number;
  readonly fragments: number;
  readonly state: string;
  readonly pools: readonly string[];
}
export interface AddDeviceRequest {
  readonly path: string;
  readonly class: string;
  readonly sizeBytes: number;
  readonly force: boolean;
  readonly pools: readonly string[];
}
export interface PoolMessage {
  readonly name: string;
  readonly class: string;
  readonly copies: number;
  readonly data: number;
  readonly parity: number;
  readonly fullPercent: number;
  readonly devices: readonly string[];
  readonly capacityBytes: number;
  readonly usedBytes: number;
  readonly state: string;
}
export interface CreatePoolRequest {
  readonly name: string;
  readonly class: string;
  readonly devices: readonly string[];
  readonly copies: number;
  readonly data: number;
  readonly parity: number;
  readonly fullPercent: number;
}
export interface ShardMessage {
  readonly shard: number;
  readonly organisation: string;
  readonly leader: number;
  readonly term: number;
  readonly appliedIndex: number;
  readonly rowsInMemory: number;
  readonly runs: number;
  readonly runBytes: number;
  readonly state: string;
}
export interface ScrubMessage {
  readonly state: string;
  readonly startedMs: number;
  readonly finishedMs: number;
  readonly checkedFragments: number;
  readonly checkedBytes: number;
  readonly totalFragments: number;
  readonly badFragments: number;
  readonly repairedFragments: number;
  readonly lostChunks: number;
}
export interface StatusMessage {
  readonly node: number;
  readonly name: string;
  readonly cluster: string;
  readonly version: string;
  readonly packageKind: string;
  readonly startedMs: number;
  readonly ready: boolean;
  readonly reasons: readonly string[];
  readonly s3Address: string;
  readonly adminAddress: string;
  readonly organisations: number;
  readonly shards: number;
  readonly devices: number;
  readonly pools: readonly PoolMessage[];
  readonly residentBytes: number;
}
export interface KeyStatusMessage {
  readonly provider: string;
  readonly providerVersion: string;
  readonly fips: boolean;
  readonly passedOver: readonly string[];
  readonly manager: string;
  readonly systemEpoch: number;
  readonly organisations: number;
}

/** Every method: request and response. */
export interface ControlMethods {
  CreateOrganisation: [NameRequest, OrganisationMessage];
  ListOrganisations: [PageRequest, PageOf<OrganisationMessage>];
  GetOrganisation: [NameRequest, OrganisationMessage];
  DeleteOrganisation: [NameRequest, Empty];
  CreateProject: [ProjectRequest, ProjectMessage];
  ListProjects: [PageRequest & { readonly organisation: string }, PageOf<ProjectMessage>];
  GetProject: [ProjectRequest, ProjectMessage];
  DeleteProject: [ProjectRequest, Empty];
  CreateWorkload: [WorkloadRequest, WorkloadMessage];
  ListWorkloads: [
    PageRequest & { readonly organisation: string; readonly project: string },
    PageOf<WorkloadMessage>,
  ];
  GetWorkload: [WorkloadRequest, WorkloadMessage];
  DeleteWorkload: [WorkloadRequest, Empty];
  CreateCredential: [CreateCredentialRequest, CredentialMessage];
  ListCredentials: [PageRequest & WorkloadPlace, PageOf<CredentialMessage>];
  GetCredential: [CredentialRequest, CredentialMessage];
  SetCredentialState: [CredentialRequest & { readonly enabled: boolean }, CredentialMessage];
  DeleteCredential: [CredentialRequest, Empty];
  CreateNamespace: [ProjectRequest, NamespaceMessage];
  ListNamespaces: [{ readonly organisation: string }, ListOf<NamespaceMessage>];
  GetNamespace: [ProjectRequest, NamespaceMessage];
  DeleteNamespace: [ProjectRequest, Empty];
  ListDevices: [Empty, ListOf<DeviceMessage>];
  AddDevice: [AddDeviceRequest, DeviceMessage];
  ReplaceDevice: [
    { readonly device: string; readonly with?: AddDeviceRequest },
    DeviceMessage,
  ];
  RemoveDevice: [{ readonly device: string; readonly force: boolean }, Empty];
  ListPools: [Empty, ListOf<PoolMessage>];
  CreatePool: [CreatePoolRequest, PoolMessage];
  ChangePool: [{ readonly name: string; readonly fullPercent: number }, PoolMessage];
  ListShards: [Empty, ListOf<ShardMessage>];
  StartScrub: [Empty, ScrubMessage];
  GetScrub: [Empty, ScrubMessage];
  GetStatus: [Empty, StatusMessage];
  GetKeyStatus: [Empty, KeyStatusMessage];
}

export type ControlMethod = keyof ControlMethods;
export type RequestOf<M extends ControlMethod> = ControlMethods[M][0];
export type ResponseOf<M extends ControlMethod> = ControlMethods[M][1];

/** A method with its codecs. */
export interface MethodCodec {
  readonly name: ControlMethod;
  /** `/kiseki.v1.Control/Name` */
  readonly path: string;
  readonly request: Codec<object>;
  readonly response: Codec<object>;
}

/** All methods of the service, from the text of `proto/kiseki/v1/control.proto`. */
export function loadControlMethods(protoText: string): ReadonlyMap<ControlMethod, MethodCodec> {
  const root = protobuf.parse(protoText, { keepCase: false }).root;
  const service = root.lookupService("kiseki.v1.Control");
  const methods = new Map<ControlMethod, MethodCodec>();
  for (const method of service.methodsArray) {
    const name = method.name as ControlMethod;
    methods.set(name, {
      name,
      path: `/kiseki.v1.Control/${method.name}`,
      request: protobufCodec(service.lookupType(method.requestType)),
      response: protobufCodec(service.lookupType(method.responseType)),
    });
  }
  return methods;
}
