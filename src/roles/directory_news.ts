/**
 * News that main sends to gateways: the shard map, and what they should forget.
 */
import { fromHex, toHex } from "../common/bytes.ts";
import type { OrganisationId, ShardId } from "../common/ids.ts";
import type { ShardMapSnapshot } from "../control/shard_map.ts";

/** The shard map as JSON: byte strings in hex. */
export interface ShardMapJson {
  readonly version: number;
  readonly ranges: readonly {
    readonly organisation: string;
    readonly start: string;
    readonly end: string;
    readonly shard: number;
  }[];
}

export interface DirectoryNews {
  readonly shardMap?: ShardMapJson;
  /** An access key id that changed; null = any may have. */
  readonly credential?: string | null;
  /** Namespaces were changed by the admin service. */
  readonly namespaces?: true;
}

export function snapshotToJson(snapshot: ShardMapSnapshot): ShardMapJson {
  return {
    version: snapshot.version,
    ranges: snapshot.ranges.map((range) => ({
      organisation: range.organisation,
      start: toHex(range.start),
      end: toHex(range.end),
      shard: range.shard,
    })),
  };
}

export function snapshotFromJson(json: ShardMapJson): ShardMapSnapshot {
  return {
    version: json.version,
    ranges: json.ranges.map((range) => ({
      organisation: range.organisation as OrganisationId,
      start: fromHex(range.start),
      end: fromHex(range.end),
      shard: range.shard as ShardId,
    })),
  };
}
