/**
 * The storage isolate: write-ahead log, Raft groups, shards and their tables, devices and their
 * indices, and the upkeep of chunks.
 *
 * Order of the start: devices, write-ahead log, control shard, then every shard that the control
 * shard's map names. It answers on the main isolate's link (everything) and on the gateways' links
 * (shards and fragments).
 */
import { assetPath, workerUrl } from "../common/assets.ts";
import { type Bytes, utf8, utf8ToString } from "../common/bytes.ts";
import { SYSTEM_CLOCK } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import {
  CONTROL_SHARD,
  type DeviceId,
  newId128,
  type NodeId,
  type OrganisationId,
  type ShardId,
} from "../common/ids.ts";
import { type Logger, stderrLogger } from "../common/logging.ts";
import { chooseProvider, type ProviderOptions } from "../crypto/provider_choice.ts";
import { type KeySource, SYSTEM_ORGANISATION } from "../crypto/sealer.ts";
import { serveFragments } from "../engine/fragment_link.ts";
import { Link } from "../engine/link.ts";
import { Method } from "../engine/messages.ts";
import { serveShards } from "../engine/shard_link.ts";
import { decodeChunkRecord, encodeChunkRecord } from "../chunk/chunk_record.ts";
import { readShardMap, ShardMap } from "../control/shard_map.ts";
import { TenancyEvaluator } from "../control/tenancy_evaluator.ts";
import { LedgerClient, LedgerEvaluator } from "../log/ledger.ts";
import { LogHost } from "../log/log_host.ts";
import { openRaftHost } from "../raft/host.ts";
import { NODE_LOG_DISK } from "../raft/node_log_disk.ts";
import { openWriteAheadLog } from "../raft/wal.ts";
import { NamespaceEvaluator } from "../namespace/evaluator.ts";
import { createBlockCache, openTable } from "../table/open_table.ts";
import { workerRunner } from "../table/worker_runner.ts";
import type { StorageStart, StorageStarted } from "./isolates.ts";
import { linkedKeySource } from "./key_link.ts";
import { openDevices } from "./local_devices.ts";
import { readProto } from "./protocols.ts";
import { startUpkeep } from "./upkeep.ts";
