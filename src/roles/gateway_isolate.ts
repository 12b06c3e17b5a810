/**
 * A gateway isolate: S3 over HTTP, chunking, hashing, sealing and erasure coding. It reaches shards
 * and devices through the storage isolate's link, and keys through the main isolate's.
 */
import { SYSTEM_CLOCK } from "../common/clock.ts";
import { utf8, utf8ToString } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { ProjectId, WorkloadId } from "../common/ids.ts";
import { type Logger, stderrLogger } from "../common/logging.ts";
import {
  type CounterCell,
  createMetrics,
  type HistogramCell,
  type Metrics,
  watchEventLoop,
} from "../common/metrics.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import type { Finding } from "../chunk/finding.ts";
import { CachingCredentialResolver } from "../control/credential_resolver.ts";
import { ShardMap } from "../control/shard_map.ts";
import { Link } from "../engine/link.ts";
import { Method } from "../engine/messages.ts";
import { RemoteShardPort } from "../engine/shard_link.ts";
import type { S3Metrics } from "../gateway/s3/context.ts";
import { createS3Handler, type S3Handler } from "../gateway/s3/handler.ts";
import { LedgerClient } from "../log/ledger.ts";
import type { Identity } from "../namespace/identity.ts";
import { createNamespaceService, type WiredNamespaceService } from "../namespace/service.ts";
import { openChunkAccess } from "./chunk_access.ts";
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
    await endsWithin(server?.shutdown(), start.config.limits.drainMs);
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
  const { chunks } = openChunkAccess({
    storage,
    bulk: start.storage.bulk,
    pools: start.pools,
    node: start.node,
    isalPath: options.isalPath,
    logger,
    metrics,
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
    metrics: requestMetrics(metrics),
    preflight: { ownerOf: () => Promise.resolve(onlyTenant(router)) },
  });
  return { handler, namespaces, credentials, router };
}

/** Unsigned preflight requests name no organisation: they are answered where there is just one. */
function onlyTenant(router: ShardMap): Identity | undefined {
  const tenants = router.organisations();
  const [only] = tenants;
  if (only === undefined || tenants.length > 1) return undefined;
  const nobody = "0".repeat(32);
  return {
    organisation: only,
    project: nobody as ProjectId,
    workload: nobody as WorkloadId,
    principal: "preflight",
  };
}

/** Counts requests; label cells are resolved once. */
function requestMetrics(metrics: Metrics): S3Metrics {
  const gateway = "s3";
  const received = metrics.receivedBytes.with({ gateway });
  const sent = metrics.sentBytes.with({ gateway });
  const counters = new Map<string, CounterCell>();
  const times = new Map<string, HistogramCell>();
  return {
    request({ operation, status, durationMs, bytesIn, bytesOut }) {
      const key = `${operation} ${status}`;
      let counter = counters.get(key);
      if (counter === undefined) {
        counter = metrics.requests.with({ gateway, operation, status: String(status) });
        counters.set(key, counter);
      }
      counter.add();
      let time = times.get(operation);
      if (time === undefined) {
        time = metrics.requestSeconds.with({ gateway, operation });
        times.set(operation, time);
      }
      time.observe(durationMs / 1000);
      received.add(bytesIn);
      sent.add(bytesOut);
    },
  };
}

/** Findings go to the main isolate, which hands them to repair. */
function tell(main: Link, finding: Finding, metrics: Metrics, logger: Logger): void {
  metrics.badFragments.with({ device: finding.device }).add();
  main.call(Method.finding, utf8(JSON.stringify(finding))).catch((error: unknown) =>
    logger.warn("finding not delivered", { error: String(error) })
  );
}

/** Waits for the requests in flight, but not for one that never ends. */
async function endsWithin(work: Promise<void> | undefined, limitMs: number): Promise<void> {
  const late = Promise.withResolvers<void>();
  const cancel = SYSTEM_CLOCK.after(limitMs, late.resolve);
  await Promise.race([work, late.promise]);
  cancel();
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
