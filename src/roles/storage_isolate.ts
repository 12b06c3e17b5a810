/**
 * The storage isolate: write-ahead log, Raft groups, shards and their tables, devices and their
 * indices, and the upkeep of chunks.
 *
 * Order of the start: devices, write-ahead log, control shard, then every shard that the control
 * shard's map names. It answers on the main isolate's link (everything) and on the gateways' links
 * (shards and fragments). When the start fails, the answer to `start` says why, and the main
 * isolate ends the process.
 */
import { openLibc } from "../../ffi/libc.ts";
import { workerUrl } from "../common/assets.ts";
import { ByteReader, utf8, utf8ToString } from "../common/bytes.ts";
import { SYSTEM_CLOCK } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import {
  CONTROL_SHARD,
  type DeviceId,
  idFromBytes,
  type OrganisationId,
  type ShardId,
} from "../common/ids.ts";
import { type Logger, stderrLogger } from "../common/logging.ts";
import { createMetrics, type Metrics, watchEventLoop } from "../common/metrics.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import { type KeySource, SYSTEM_ORGANISATION } from "../crypto/sealer.ts";
import { decodeChunkRecord } from "../chunk/chunk_record.ts";
import { readShardMap, ShardMap } from "../control/shard_map.ts";
import { TenancyEvaluator } from "../control/tenancy_evaluator.ts";
import { serveFragments } from "../engine/fragment_link.ts";
import { Link } from "../engine/link.ts";
import { Method } from "../engine/messages.ts";
import { serveShards } from "../engine/shard_link.ts";
import { LedgerEvaluator } from "../log/ledger.ts";
import { LogHost } from "../log/log_host.ts";
import { NamespaceEvaluator } from "../namespace/evaluator.ts";
import { openRaftHost, type RaftHost } from "../raft/host.ts";
import { NODE_LOG_DISK } from "../raft/node_log_disk.ts";
import { openWriteAheadLog, type SegmentedLog } from "../raft/wal.ts";
import type { LeasedKeySource } from "../keys/tenant_keys.ts";
import { createBlockCache, openTable } from "../table/open_table.ts";
import type { BlockCache } from "../table/table.ts";
import { type WorkerRunner, workerRunner } from "../table/worker_runner.ts";
import { type DirectoryNews, snapshotFromJson } from "./directory_news.ts";
import type { DeviceStart, StorageStart, StorageStarted } from "./isolates.ts";
import { linkedKeySource } from "./key_link.ts";
import {
  type LocalDevice,
  openDevices,
  type OpenDevicesOptions,
  replaceDevice,
  resolvePools,
} from "./local_devices.ts";
import { readProto } from "./protocols.ts";
import { providerOptions } from "./provider_assets.ts";
import { timedLogDisk } from "./timed_parts.ts";

/** Everything that is open, to be closed in reverse. */
interface Storage {
  readonly devices: LocalDevice[];
  readonly deviceOptions: Omit<OpenDevicesOptions, "force">;
  readonly wal: SegmentedLog;
  readonly raft: RaftHost;
  readonly logs: LogHost;
  readonly tables: WorkerRunner;
  readonly blockCache: BlockCache;
  readonly router: ShardMap;
  readonly keys: LeasedKeySource;
}

/** Takes the links up; the rest begins with the `start` call. */
export function startStorage(start: StorageStart): void {
  const logger = stderrLogger(start.config.logging.level).with({ isolate: "storage" });
  const metrics = createMetrics();
  const [mainStart, ...gatewayStarts] = start.links;
  if (mainStart === undefined) throw new KisekiError("common.internal", "no link to main");
  const main = new Link(mainStart.memory, "main");
  let storage: Storage | undefined;

  const opened = (): Storage => {
    if (storage === undefined) {
      throw new KisekiError("common.unavailable", "storage is starting", { retriable: true });
    }
    return storage;
  };
  const store = (id: DeviceId) => {
    const device = opened().devices.find((one) => one.id === id);
    if (device === undefined) {
      throw new KisekiError("common.not_found", `device ${id} is not on this node`);
    }
    return device.store;
  };
  const shards = {
    execute: (shard: ShardId, request: Uint8Array) => opened().logs.execute(shard, request),
    query: (shard: ShardId, request: Uint8Array) => opened().logs.query(shard, request),
  };

  main.handle(Method.start, async () => {
    storage = await openStorage(start, main, logger, metrics);
    const started: StorageStarted = {
      pools: resolvePools(start.config.pools, storage.devices),
    };
    return json(started);
  });
  main.handle(Method.openShard, async (payload) => {
    const reader = new ByteReader(payload, "open shard");
    const shard = reader.int() as ShardId;
    const organisation = idFromBytes<OrganisationId>(reader.raw(16));
    const { logs, keys } = opened();
    await logs.open(shard, organisation, await keys.acquire(organisation));
    return json(null);
  });
  main.handle(Method.directory, (payload) => {
    const news = JSON.parse(utf8ToString(payload)) as DirectoryNews;
    if (news.shardMap !== undefined) storage?.router.replace(snapshotFromJson(news.shardMap));
    return json(null);
  });
  main.handle(Method.shardStatus, () => json(opened().logs.status()));
  main.handle(Method.listDevices, () => json(deviceList(opened())));
  main.handle(Method.replaceDevice, async (payload) => {
    const reader = new ByteReader(payload, "replace device");
    const id = idFromBytes<DeviceId>(reader.raw(16));
    const { devices, deviceOptions } = opened();
    const at = devices.findIndex((device) => device.id === id);
    const lost = devices[at];
    if (lost === undefined) {
      throw new KisekiError("common.not_found", `device ${id} is not on this node`);
    }
    devices[at] = await replaceDevice(lost, reader.u8() === 1, {
      ...deviceOptions,
      nowMs: SYSTEM_CLOCK.wallMs(),
    });
    return json(null);
  });
  main.handle(Method.metrics, () => {
    if (storage !== undefined) collect(storage, metrics);
    return json(metrics.registry.snapshot());
  });
  main.handle(Method.drain, async () => {
    if (storage !== undefined) await closeStorage(storage);
    return json(null);
  });
  const links = [main, ...gatewayStarts.map((gateway) => new Link(gateway.memory, gateway.peer))];
  links.forEach((link, i) => {
    serveShards(link, shards);
    const bulk = start.links[i]?.bulk;
    if (bulk !== undefined) serveFragments(link, store, bulk);
    link.run().catch((error: unknown) =>
      logger.error("link failed", { peer: start.links[i]?.peer, error: String(error) })
    );
  });
  watchEventLoop(metrics, "storage", SYSTEM_CLOCK);
}

async function openStorage(
  start: StorageStart,
  main: Link,
  logger: Logger,
  metrics: Metrics,
): Promise<Storage> {
  const { config } = start;
  const options = providerOptions(start.config);
  const { provider } = chooseProvider(options);
  const keys = linkedKeySource(main, provider);
  const crc32c = (bytes: Uint8Array, seed?: number): number => provider.crc32c(bytes, seed);
  const deviceOptions = {
    config,
    cluster: start.cluster,
    libc: openLibc(),
    crc32c,
    logger,
    nowMs: SYSTEM_CLOCK.wallMs(),
  };
  const devices = [...await openDevices({ ...deviceOptions, force: start.force })];
  const wal = await openWriteAheadLog({
    directory: config.log.directory,
    disk: timedLogDisk(NODE_LOG_DISK, metrics),
    logger,
    segmentBytes: config.log.segmentBytes,
    crc32c,
  });
  const raft = await openRaftHost({ wal, logger });
  const tables = workerRunner(options, workerUrl("table"));
  const blockCache = createBlockCache(config.memory.blockCacheBytes);
  const router = new ShardMap();
  const logs = new LogHost({
    clock: SYSTEM_CLOCK,
    logger,
    evaluators: [
      new LedgerEvaluator({ incarnationOf: (record) => decodeChunkRecord(record).incarnation }),
      new TenancyEvaluator(readProto("tenancy")),
      new NamespaceEvaluator({
        sha256: (bytes) => provider.digest("sha256", bytes),
        router,
      }),
    ],
    openTable: (shard, organisation, tenantKeys) =>
      openTable({
        directory: `${config.dataDir}/shards/${shard}`,
        tableId: tableId(shard, organisation),
        keys: tenantKeys,
        provider,
        runner: tables,
        blockCache,
      }),
    startGroup: (shard, stateMachine) =>
      raft.createGroup({ shard, nodeId: start.node, voters: [start.node], stateMachine }),
  });
  const storage = { devices, deviceOptions, wal, raft, logs, tables, blockCache, router, keys };
  await logs.open(CONTROL_SHARD, SYSTEM_ORGANISATION, await keys.acquire(SYSTEM_ORGANISATION));
  await openShards(logs, keys, router);
  const { name, version, fips } = provider.report;
  metrics.cryptoProvider.with({ name, version, fips: String(fips) }).set(1);
  return storage;
}

/** Opens every shard of the map. */
async function openShards(logs: LogHost, keys: KeySource, router: ShardMap): Promise<void> {
  const snapshot = await readShardMap(logs, readProto("tenancy"));
  router.replace(snapshot);
  for (const { shard, organisation } of snapshot.ranges) {
    await logs.open(shard, organisation, await keys.acquire(organisation));
  }
}

async function closeStorage(storage: Storage): Promise<void> {
  await storage.logs.close();
  await storage.raft.close();
  await storage.wal.close();
  storage.tables.close();
  for (const device of storage.devices) await device.close();
  storage.keys.close();
}

/** A table's id: its shard and its organisation's first half, so that tables cannot be swapped. */
function tableId(shard: ShardId, organisation: OrganisationId): string {
  return shard.toString(16).padStart(16, "0") + organisation.slice(0, 16);
}

function deviceList(storage: Storage): readonly DeviceStart[] {
  return storage.devices.map(({ id, path, class: deviceClass, lost }) => ({
    id,
    path,
    class: deviceClass,
    ...(lost === undefined ? {} : { lost }),
  }));
}

function collect(storage: Storage, metrics: Metrics): void {
  const log = storage.wal.statistics();
  metrics.walEntries.with({} as never).value = log.appends;
  metrics.walBytes.with({} as never).value = log.bytes;
  const cache = "table_blocks";
  metrics.cacheHits.with({ cache }).value = storage.blockCache.hits;
  metrics.cacheMisses.with({ cache }).value = storage.blockCache.misses;
}

function json(value: unknown): Uint8Array {
  return utf8(JSON.stringify(value));
}
