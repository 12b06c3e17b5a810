/**
 * A gateway isolate: S3 over HTTP, chunking, hashing, sealing and erasure coding. It reaches shards
 * and devices through the storage isolate's link, and keys through the main isolate's.
 */
import { SYSTEM_CLOCK } from "../common/clock.ts";
import { utf8, utf8ToString } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { DeviceId } from "../common/ids.ts";
import { type Logger, stderrLogger } from "../common/logging.ts";
import { createMetrics, type Metrics, watchEventLoop } from "../common/metrics.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import { DeviceChunkStore } from "../chunk/chunk_store.ts";
import type { Finding } from "../chunk/finding.ts";
import { chooseErasureCoder } from "../chunk/isal_coder.ts";
import type { FragmentStore } from "../chunk/ports.ts";
import { CachingCredentialResolver } from "../control/credential_resolver.ts";
import { ShardMap } from "../control/shard_map.ts";
import { SharedBulkMemory } from "../engine/bulk_memory.ts";
import { RemoteFragmentStore } from "../engine/fragment_link.ts";
import { Link } from "../engine/link.ts";
import { Method } from "../engine/messages.ts";
import { RemoteShardPort } from "../engine/shard_link.ts";
import { createS3Handler, type S3Handler } from "../gateway/s3/handler.ts";
import { LedgerClient } from "../log/ledger.ts";
import { createNamespaceService, type WiredNamespaceService } from "../namespace/service.ts";
import { CHUNK_RECORD_CODEC } from "./chunk_record_codec.ts";
import type { GatewayStart, GatewayStarted } from "./isolates.ts";
import { linkedKeySource } from "./key_link.ts";
import { readProto } from "./protocols.ts";
import { providerOptions } from "./provider_assets.ts";
import { type DirectoryNews, snapshotFromJson } from "./directory_news.ts";

/** The wired parts of a running gateway. */
interface Gateway {
  readonly handler: S3Handler;
  readonly namespaces: WiredNamespaceService;
  readonly credentials: CachingCredentialResolver;
  readonly router: ShardMap;
}

/** Takes the links up; the rest begins with the `start` call. */
export function startGateway(start: GatewayStart): void {
  const logger = stderrLogger(start.config.logging.level).with({ isolate: start.name });
  const metrics = createMetrics();
  const main = new Link(start.main.memory, "main");
  const storage = new Link(start.storage.memory, "storage");
  const router = new ShardMap();
  let gateway: Gateway | undefined;
  let server: Deno.HttpServer<Deno.NetAddr> | undefined;

  main.handle(Method.start, () => {
    gateway = wire(start, main, storage, router, logger, metrics);
    const { handler } = gateway;
    server = Deno.serve({
      hostname: start.config.listen.s3.host,
      port: start.port,
      reusePort: true,
      onListen: () => undefined,
      onError: (error) => {
        logger.error("request failed", { error: String(error) });
        return new Response(null, { status: 500 });
      },
      ...tlsOptions(start),
    }, handler);
    const started: GatewayStarted = { port: server.addr.port };
    return utf8(JSON.stringify(started));
  });
  main.handle(Method.directory, (payload) => {
    hear(JSON.parse(utf8ToString(payload)) as DirectoryNews, router, gateway);
    return utf8("null");
  });
  main.handle(Method.metrics, () => utf8(JSON.stringify(metrics.registry.snapshot())));
  main.handle(Method.drain, async () => {
    await server?.shutdown();
    return utf8("null");
  });
  for (const [peer, link] of [["main", main], ["storage", storage]] as const) {
    link.run().catch((error: unknown) =>
      logger.error("link failed", { peer, error: String(error) })
    );
  }
  watchEventLoop(metrics, start.name, SYSTEM_CLOCK);
}

function wire(
  start: GatewayStart,
  main: Link,
  storage: Link,
  router: ShardMap,
  logger: Logger,
  metrics: Metrics,
): Gateway {
  const options = providerOptions(start.config);
  const { provider } = chooseProvider(options);
  const keys = linkedKeySource(main, provider);
  const shards = new RemoteShardPort(storage);
  const memory = start.storage.bulk;
  const address = Number(
    Deno.UnsafePointer.value(Deno.UnsafePointer.of(new Uint8Array(memory))) % 4096n,
  );
  const bulk = new SharedBulkMemory(memory, address);
  const stores = new Map<DeviceId, FragmentStore>();
  for (const pool of start.pools) {
    for (const device of pool.devices) {
      stores.set(device, new RemoteFragmentStore(device, storage, bulk));
    }
  }
  const chunks = new DeviceChunkStore({
    pools: start.pools.map((pool) => ({
      name: pool.name,
      durability: pool.durability,
      devices: pool.devices.map((device) => ({ device, weight: 1, node: start.node })),
      placementVersion: 1,
      fullPercent: pool.fullPercent,
    })),
    stores,
    coder: chooseErasureCoder(options.isalPath).coder,
    memory: bulk,
    clock: SYSTEM_CLOCK,
    log: logger,
    report: (finding) => tell(main, finding, metrics, logger),
  });
  const ledger = new LedgerClient(shards, router, CHUNK_RECORD_CODEC);
  const pool = start.pools[0];
  if (pool === undefined) throw new KisekiError("config.invalid", "no pool is configured");
  const namespaces = createNamespaceService({
    shards,
    router,
    ledger,
    chunks,
    keys,
    crypto: provider,
    clock: SYSTEM_CLOCK,
    pool: pool.name,
    window: start.config.limits.chunkWindow,
  });
  const credentials = new CachingCredentialResolver({
    shards,
    keys,
    clock: SYSTEM_CLOCK,
    protoText: readProto("tenancy"),
  });
  const handler = createS3Handler({
    namespaces,
    credentials,
    crypto: provider,
    clock: SYSTEM_CLOCK,
    region: start.config.region,
    domains: start.config.domains,
    logger,
  });
  return { handler, namespaces, credentials, router };
}

/** Findings go to the main isolate, which hands them to repair. */
function tell(main: Link, finding: Finding, metrics: Metrics, logger: Logger): void {
  metrics.badFragments.with({ device: finding.device }).add();
  main.call(Method.finding, utf8(JSON.stringify(finding))).catch((error: unknown) =>
    logger.warn("finding not delivered", { error: String(error) })
  );
}

/** Main tells of changes before it answers whoever made them. */
function hear(news: DirectoryNews, router: ShardMap, gateway: Gateway | undefined): void {
  if (news.shardMap !== undefined) router.replace(snapshotFromJson(news.shardMap));
  if (news.credential !== undefined) gateway?.credentials.invalidate(news.credential ?? undefined);
  if (news.namespaces === true) gateway?.namespaces.invalidate();
}

function tlsOptions(start: GatewayStart): { cert?: string; key?: string } {
  const { tls } = start.config;
  if (tls === undefined) return {};
  return {
    cert: Deno.readTextFileSync(tls.certificateFile),
    key: Deno.readTextFileSync(tls.keyFile),
  };
}
