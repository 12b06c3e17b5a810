/**
 * A running node: the main isolate's parts and its Workers.
 *
 * Order of the start: lock, identity, keys, storage isolate, tenancy, gateways, admin addresses.
 * A Worker that dies ends the process with 1: half a node serves nothing, and a restart recovers.
 */
import type { WorkerName } from "../common/assets.ts";
import { buildInfo } from "../common/build_info.ts";
import { type Bytes, ByteWriter, EMPTY_BYTES, utf8, utf8ToString } from "../common/bytes.ts";
import { SYSTEM_CLOCK } from "../common/clock.ts";
import type { ServerConfig } from "../common/config.ts";
import { formatListenAddress } from "../common/config_values.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import { idToBytes, type OrganisationId, type ShardId } from "../common/ids.ts";
import type { Logger } from "../common/logging.ts";
import {
  createMetrics,
  type Metrics,
  type MetricsSnapshot,
  watchEventLoop,
} from "../common/metrics.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import type { Finding } from "../chunk/finding.ts";
import type { AdminServer } from "../control/admin_server.ts";
import {
  adminHandlers,
  adminIdentity,
  type AdminServiceOptions,
} from "../control/admin_service.ts";
import { loadOrCreateAdminToken } from "../control/admin_token.ts";
import { readShardMap, ShardMap } from "../control/shard_map.ts";
import { type GivenCredential, Tenancy, type Workload } from "../control/tenancy.ts";
import { SLAB_BYTES } from "../engine/bulk_memory.ts";
import { Link, newLinkMemory } from "../engine/link.ts";
import { Method } from "../engine/messages.ts";
import { RemoteShardPort } from "../engine/shard_link.ts";
import { LedgerClient } from "../log/ledger.ts";
import { createNamespaceService } from "../namespace/service.ts";
import { adminHttpHandler } from "./admin_http.ts";
import { type ChunkAccess, newBulkMemory, openChunkAccess } from "./chunk_access.ts";
import { CHUNK_RECORD_CODEC } from "./chunk_record_codec.ts";
import { ServerNodeAdmin } from "./node_admin_service.ts";
import { Upkeep } from "./upkeep.ts";
import type { WorkerNursery } from "./worker_nursery.ts";
import { writeDurably } from "./durable_file.ts";
import { type DirectoryNews, snapshotToJson } from "./directory_news.ts";
import {
  type DeviceStart,
  type GatewayStart,
  type GatewayStarted,
  type LinkStart,
  type StorageStarted,
} from "./isolates.ts";
import { serveKeys } from "./key_link.ts";
import { lockDataDirectory, type NodeIdentity, openNodeIdentity } from "./node_identity.ts";
import { type NodeKeys, openNodeKeys } from "./node_keys.ts";
import { readProto } from "./protocols.ts";
import { providerOptions } from "./provider_assets.ts";

/** Name of what `--dev` makes for its one user. */
const DEV_NAME = "dev";
/** Bulk memory of repair and scrub. */
const UPKEEP_BULK_BYTES = 64 << 20;
const GRPC_GRACE_MS = 2_000;

export interface NodeOptions {
  readonly config: ServerConfig;
  readonly force: boolean;
  readonly devCredential?: GivenCredential | undefined;
  readonly logger: Logger;
  readonly nursery: WorkerNursery;
}

export interface NodeAddresses {
  readonly s3: string;
  readonly admin: string;
  readonly fabric: string;
  readonly nfs?: string;
}

interface Started {
  readonly link: Link;
}

export class Node {
  readonly #options: NodeOptions;
  readonly #logger: Logger;
  readonly #metrics: Metrics = createMetrics();
  readonly #stopWatching: () => void;
  #lock: Deno.FsFile | undefined;
  #keys: NodeKeys | undefined;
  #storage: Started | undefined;
  readonly #gateways: Started[] = [];
  readonly #workers = new Map<string, Worker>();
  #router: ShardMap | undefined;
  #upkeep: Upkeep | undefined;
  #chunks: ChunkAccess["chunks"] | undefined;
  #grpc: AdminServer | undefined;
  #admin: Deno.HttpServer<Deno.NetAddr> | undefined;
  #addresses: NodeAddresses | undefined;
  #devCredential: GivenCredential | undefined;
  #stopping = false;

  private constructor(options: NodeOptions) {
    this.#options = options;
    this.#logger = options.logger;
    this.#stopWatching = watchEventLoop(this.#metrics, "main", SYSTEM_CLOCK);
  }

  /** @throws KisekiError of whatever part cannot start; what was open is closed. */
  static async start(options: NodeOptions): Promise<Node> {
    const node = new Node(options);
    try {
      await node.#start();
    } catch (error) {
      await node.stop();
      throw error;
    }
    return node;
  }

  get stopping(): boolean {
    return this.#stopping;
  }

  get addresses(): NodeAddresses {
    if (this.#addresses === undefined) throw notStarted();
    return this.#addresses;
  }

  get devCredential(): GivenCredential | undefined {
    return this.#devCredential;
  }

  /** Drains and closes in reverse order of the start. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#gateways.map(({ link }) => link.call(Method.drain, EMPTY_BYTES)));
    await this.#upkeep?.stop();
    await this.#grpc?.stop(GRPC_GRACE_MS);
    await this.#admin?.shutdown();
    if (this.#storage !== undefined) await this.#storage.link.call(Method.drain, EMPTY_BYTES);
    for (const started of [...this.#gateways, this.#storage]) started?.link.close();
    for (const worker of this.#workers.values()) worker.terminate();
    this.#keys?.close();
    this.#stopWatching();
    this.#lock?.close();
  }

  async #start(): Promise<void> {
    const { config } = this.#options;
    this.#lock = await lockDataDirectory(config.dataDir);
    // Modules load on other cores while keys and storage are opened here.
    this.#spawn("storage", "storage");
    for (let i = 0; i < config.gateways; i++) this.#spawn(`gateway-${i}`, "gateway");
    const identity = await openNodeIdentity(config.dataDir);
    const { provider } = chooseProvider(providerOptions(config));
    this.#logger.info("crypto provider", {
      name: provider.report.name,
      version: provider.report.version,
      fips: provider.report.fips,
      passedOver: provider.report.passedOver.join("; "),
    });
    const keys = await openNodeKeys(config, provider, this.#logger);
    this.#keys = keys;

    const bulk = Array.from(
      { length: config.gateways },
      () => newBulkMemory(config.memory.chunkBuffersBytes / config.gateways, SLAB_BYTES),
    );
    const ownBulk = newBulkMemory(UPKEEP_BULK_BYTES, SLAB_BYTES);
    const storageLinks = bulk.map(() => newLinkMemory());
    const gatewayLinks = storageLinks.map(([, far], i): LinkStart => ({
      peer: `gateway-${i}`,
      memory: far,
      ...(bulk[i] === undefined ? {} : { bulk: bulk[i] }),
    }));
    const storage = this.#startStorage(identity, ownBulk, gatewayLinks);
    this.#storage = storage;
    const starting = ask<StorageStarted>(storage.link, Method.start);
    // gRPC takes long to load and is needed last: meanwhile storage opens on another core.
    const adminServer = import("../control/admin_server.ts");
    const { pools } = await starting;

    const shards = new RemoteShardPort(storage.link);
    const router = new ShardMap();
    this.#router = router;
    const access = openChunkAccess({
      storage: storage.link,
      bulk: ownBulk,
      pools,
      node: identity.node,
      isalPath: providerOptions(config).isalPath,
      logger: this.#logger,
      metrics: this.#metrics,
      report: (finding) => this.#upkeep?.report(finding),
    });
    this.#chunks = access.chunks;
    const ledger = new LedgerClient(shards, router, CHUNK_RECORD_CODEC);
    const namespaces = createNamespaceService({
      shards,
      router,
      ledger,
      chunks: access.chunks,
      keys: keys.source,
      crypto: provider,
      clock: SYSTEM_CLOCK,
      pool: pools[0]?.name ?? "",
    });
    const tenancy: Tenancy = new Tenancy({
      shards,
      keys: keys.source,
      crypto: provider,
      clock: SYSTEM_CLOCK,
      organisationKeys: {
        create: (organisation) => keys.manager.createOrganisation(organisation),
        destroy: (organisation) => keys.manager.destroyOrganisation(organisation),
      },
      shardAdmin: {
        createShard: async (organisation): Promise<ShardId> => {
          const shard = await tenancy.allocateShard(organisation);
          await this.#openShard(shard, organisation);
          await this.#announceShards(shards);
          return shard;
        },
        removeShard: async () => await this.#announceShards(shards),
      },
      contents: {
        isEmpty: async (organisation) => {
          const found = await namespaces.listNamespaces(adminIdentity(organisation, "tenancy"));
          return found.length === 0;
        },
      },
      protoText: readProto("tenancy"),
      onCredentialChange: (accessKeyId) => {
        void this.#announce({ credential: accessKeyId ?? null });
      },
    });
    await tenancy.recover();
    if (config.dev) await this.#bootstrapDev(tenancy);

    let port = config.listen.s3.port;
    for (const [i, memory] of bulk.entries()) {
      const [near] = storageLinks[i] as ReturnType<typeof newLinkMemory>;
      port = await this.#startGateway(`gateway-${i}`, identity, near, memory, pools, port);
    }
    await this.#announceShards(shards);
    const upkeep = new Upkeep({
      access,
      ledger,
      namespaces,
      organisations: () => router.organisations(),
      clock: SYSTEM_CLOCK,
      logger: this.#logger,
      metrics: this.#metrics,
    });
    this.#upkeep = upkeep;
    await this.#startAdmin(port, await adminServer, {
      tenancy,
      namespaces,
      node: new ServerNodeAdmin({
        config,
        identity,
        provider,
        keys: keys.manager,
        access,
        upkeep,
        clock: SYSTEM_CLOCK,
        startedMs: SYSTEM_CLOCK.wallMs(),
        pools,
        s3Address: () => this.addresses.s3,
        adminAddress: () => this.addresses.admin,
        notReady: () => this.#notReady(),
        devices: () => ask<readonly DeviceStart[]>(storage.link, Method.listDevices),
        shards: () => ask(storage.link, Method.shardStatus),
        replaceDevice: async (device, force) => {
          const payload = new ByteWriter(24).raw(idToBytes(device)).u8(force ? 1 : 0).finish();
          await storage.link.call(Method.replaceDevice, payload);
        },
      }),
    });
    upkeep.start();
    for (const device of await ask<readonly DeviceStart[]>(storage.link, Method.listDevices)) {
      if (device.lost === undefined) continue;
      this.#logger.error("device is lost", { device: device.id, path: device.path });
    }
    const { version, kind } = buildInfo();
    this.#metrics.build.with({ version, kind }).set(1);
  }

  #startStorage(
    identity: NodeIdentity,
    bulk: SharedArrayBuffer,
    gateways: readonly LinkStart[],
  ): Started {
    const [near, far] = newLinkMemory();
    const links = [{ peer: "main", memory: far, bulk }, ...gateways];
    const { config, force } = this.#options;
    const worker = this.#worker("storage");
    worker.postMessage({ role: "storage", config, force, ...identity, links } as const);
    return this.#linked(near, "storage");
  }

  async #startGateway(
    name: string,
    identity: NodeIdentity,
    storageMemory: LinkStart["memory"],
    bulk: SharedArrayBuffer,
    pools: StorageStarted["pools"],
    port: number,
  ): Promise<number> {
    const [near, far] = newLinkMemory();
    const worker = this.#worker(name);
    const start: GatewayStart = {
      role: "gateway",
      name,
      config: this.#options.config,
      ...identity,
      main: { peer: "main", memory: far },
      storage: { peer: "storage", memory: storageMemory, bulk },
      pools,
      port,
    };
    worker.postMessage(start);
    const started = this.#linked(near, name);
    this.#gateways.push(started);
    return (await ask<GatewayStarted>(started.link, Method.start)).port;
  }

  #linked(memory: LinkStart["memory"], name: string): Started {
    const link = new Link(memory, name);
    if (this.#keys !== undefined) serveKeys(link, this.#keys.manager);
    link.handle(Method.finding, (payload) => {
      this.#upkeep?.report(JSON.parse(utf8ToString(payload)) as Finding);
      return EMPTY_BYTES;
    });
    link.run().catch((error: unknown) => this.#workerDied(name, String(error)));
    return { link };
  }

  #workerDied(name: string, reason: string): void {
    if (this.#stopping) return;
    this.#logger.error("isolate died", { name, reason });
    Deno.exit(1);
  }

  async #openShard(shard: ShardId, organisation: OrganisationId): Promise<void> {
    if (this.#storage === undefined) throw notStarted();
    const payload = new ByteWriter(24).int(shard).raw(idToBytes(organisation)).finish();
    await this.#storage.link.call(Method.openShard, payload);
  }

  async #announceShards(shards: RemoteShardPort): Promise<void> {
    const snapshot = await readShardMap(shards, readProto("tenancy"));
    this.#router?.replace(snapshot);
    await this.#announce({ shardMap: snapshotToJson(snapshot) });
  }

  /** Tells storage and every gateway, and waits until they know. */
  async #announce(news: DirectoryNews): Promise<void> {
    const payload = utf8(JSON.stringify(news));
    const all = [this.#storage, ...this.#gateways].filter((started) => started !== undefined);
    await Promise.all(all.map(({ link }) => link.call(Method.directory, payload)));
  }

  /** One organisation, project, workload and credential, the same at every start. */
  async #bootstrapDev(tenancy: Tenancy): Promise<void> {
    const organisation = await orCreate(
      () => tenancy.getOrganisation(DEV_NAME),
      () => tenancy.createOrganisation(DEV_NAME),
    );
    const project = await orCreate(
      () => tenancy.getProject(organisation.id, DEV_NAME),
      () => tenancy.createProject(organisation.id, DEV_NAME),
    );
    const workload = await orCreate(
      () => tenancy.getWorkload(organisation.id, project.id, DEV_NAME),
      () => tenancy.createWorkload(organisation.id, project.id, DEV_NAME),
    );
    this.#devCredential = await devCredential(tenancy, workload, this.#options);
  }

  #spawn(name: string, kind: WorkerName): void {
    const { nursery } = this.#options;
    this.#workers.set(name, nursery.take(kind, (reason) => this.#workerDied(name, reason)));
  }

  #worker(name: string): Worker {
    const worker = this.#workers.get(name);
    if (worker === undefined) throw notStarted();
    return worker;
  }

  #notReady(): readonly string[] {
    return this.#stopping ? ["draining"] : [];
  }

  async #startAdmin(
    s3Port: number,
    { startAdminServer }: typeof import("../control/admin_server.ts"),
    service: AdminServiceOptions,
  ): Promise<void> {
    const { listen, tls, fabricTls, admin: settings } = this.#options.config;
    const admin = Deno.serve(
      {
        hostname: listen.admin.host,
        port: listen.admin.port,
        onListen: () => undefined,
      },
      adminHttpHandler({
        notReady: () => this.#notReady(),
        metrics: () => this.#renderMetrics(),
        version: buildInfo().version,
      }),
    );
    this.#admin = admin;
    this.#grpc = await startAdminServer({
      handlers: adminHandlers(service),
      protoText: readProto("control"),
      token: await loadOrCreateAdminToken(settings.tokenFile),
      cluster: this.#options.config.cluster,
      listen: listen.fabric,
      ...(fabricTls === undefined ? {} : {
        tls: {
          certificate: await Deno.readTextFile(fabricTls.certificateFile),
          key: await Deno.readTextFile(fabricTls.keyFile),
          clientCa: await Deno.readTextFile(fabricTls.clientCaFile),
        },
      }),
      logger: this.#logger,
    });
    const scheme = tls === undefined ? "http" : "https";
    this.#addresses = {
      s3: `${scheme}://${formatListenAddress({ ...listen.s3, port: s3Port })}`,
      admin: `http://${formatListenAddress({ ...listen.admin, port: admin.addr.port })}`,
      fabric: formatListenAddress(this.#grpc.address),
    };
  }

  async #renderMetrics(): Promise<string> {
    const all = [this.#storage, ...this.#gateways].filter((started) => started !== undefined);
    const snapshots = await Promise.all(
      all.map(({ link }) => ask<MetricsSnapshot>(link, Method.metrics)),
    );
    for (const { name, capacityBytes, usedBytes } of await this.#chunks?.usage() ?? []) {
      this.#metrics.poolCapacityBytes.with({ pool: name }).set(capacityBytes);
      this.#metrics.poolUsedBytes.with({ pool: name }).set(usedBytes);
    }
    this.#metrics.residentBytes.with({}).set(Deno.memoryUsage().rss);
    // prom-client is loaded when the first page is asked for.
    const { renderMetrics } = await import("../common/metrics_page.ts");
    return await renderMetrics([this.#metrics.registry.snapshot(), ...snapshots]);
  }
}

async function ask<T>(link: Link, method: number, payload: Bytes = EMPTY_BYTES): Promise<T> {
  return JSON.parse(utf8ToString(await link.call(method, payload))) as T;
}

async function orCreate<T>(get: () => Promise<T>, create: () => Promise<T>): Promise<T> {
  try {
    return await get();
  } catch (error) {
    if (!isKisekiError(error, "common.not_found")) throw error;
    return await create();
  }
}

function notStarted(): KisekiError {
  return new KisekiError("common.unavailable", "the node is starting", { retriable: true });
}

/** The credential of `--dev`: as given, or the one made at the first start. */
async function devCredential(
  tenancy: Tenancy,
  workload: Workload,
  options: NodeOptions,
): Promise<GivenCredential> {
  const given = options.devCredential;
  const path = `${options.config.dataDir}/dev-credential.json`;
  const known = given ?? await readCredential(path);
  if (known === undefined) {
    const made = await tenancy.createCredential(workload, { comment: "made by --dev" });
    const { accessKeyId, secretAccessKey } = made;
    await writeDurably(path, JSON.stringify({ accessKeyId, secretAccessKey }));
    return { accessKeyId, secretAccessKey };
  }
  await orCreate<unknown>(
    () => tenancy.getCredential(known.accessKeyId),
    () => tenancy.createCredential(workload, { given: known, comment: "given to --dev" }),
  );
  return known;
}

async function readCredential(path: string): Promise<GivenCredential | undefined> {
  try {
    return JSON.parse(await Deno.readTextFile(path)) as GivenCredential;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}
