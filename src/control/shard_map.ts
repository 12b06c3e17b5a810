/**
 * The shard map: which shard owns which routing keys of which organisation.
 *
 * It lives in the control shard; every isolate keeps a snapshot and reads it again when a look-up
 * misses or an owner answers that it does not own.
 */
import { type Bytes, compareBytes, EMPTY_BYTES, toHex } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { OrganisationId, ShardId } from "../common/ids.ts";
import type { ShardPort, ShardRouter } from "../log/ports.ts";
import { Counter, RecordClass } from "./tenancy_rows.ts";
import { TenancyStore } from "./tenancy_store.ts";

/** One range, from `start` (8 bytes) to `end` (8 bytes, exclusive; empty: to the end). */
export interface ShardRange {
  readonly organisation: OrganisationId;
  readonly start: Bytes;
  readonly end: Bytes;
  readonly shard: ShardId;
}

/** Plain data: crosses isolates as it is. */
export interface ShardMapSnapshot {
  readonly version: number;
  readonly ranges: readonly ShardRange[];
}

/** Reads the map. Retries while it changes under the read. */
export async function readShardMap(
  shards: ShardPort,
  protoText: string,
): Promise<ShardMapSnapshot> {
  const store = new TenancyStore(shards, protoText);
  const version = async (): Promise<number> => {
    const value = await store.get(RecordClass.counter, Uint8Array.of(Counter.mapVersion));
    return value === undefined ? 0 : store.messages.counterRow.decode(value).value;
  };
  for (let attempt = 0; attempt < 10; attempt++) {
    const before = await version();
    const ranges: ShardRange[] = [];
    for await (const row of store.all(RecordClass.range, EMPTY_BYTES)) {
      const value = store.messages.rangeRow.decode(row.value);
      ranges.push({
        organisation: toHex(row.key.subarray(0, 16)) as OrganisationId,
        start: row.key.slice(16, 24),
        end: value.end,
        shard: value.shard as ShardId,
      });
    }
    if (await version() === before) return { version: before, ranges };
  }
  throw new KisekiError("common.unavailable", "the shard map keeps changing: try again", {
    retriable: true,
  });
}

/** Routes by a snapshot; `replace` puts a newer one in. */
export class ShardMap implements ShardRouter {
  #version = -1;
  #ranges = new Map<OrganisationId, ShardRange[]>();

  constructor(snapshot?: ShardMapSnapshot) {
    if (snapshot !== undefined) this.replace(snapshot);
  }

  get version(): number {
    return this.#version;
  }

  /** Takes a snapshot unless it is older than what is held. */
  replace(snapshot: ShardMapSnapshot): void {
    if (snapshot.version < this.#version) return;
    const ranges = new Map<OrganisationId, ShardRange[]>();
    for (const range of snapshot.ranges) {
      const list = ranges.get(range.organisation);
      if (list === undefined) ranges.set(range.organisation, [range]);
      else list.push(range);
    }
    for (const list of ranges.values()) list.sort((a, b) => compareBytes(a.start, b.start));
    this.#version = snapshot.version;
    this.#ranges = ranges;
  }

  /** Organisations that have a shard. */
  organisations(): readonly OrganisationId[] {
    return [...this.#ranges.keys()];
  }

  /** Shards of an organisation. */
  shardsOf(organisation: OrganisationId): readonly ShardId[] {
    return [...new Set((this.#ranges.get(organisation) ?? []).map((range) => range.shard))];
  }

  shardOf(organisation: OrganisationId, routingKey: Bytes): ShardId {
    const list = this.#ranges.get(organisation) ?? [];
    let low = 0;
    let high = list.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (compareBytes((list[middle] as ShardRange).start, routingKey) <= 0) low = middle + 1;
      else high = middle;
    }
    const range = list[low - 1];
    if (
      range === undefined || (range.end.length > 0 && compareBytes(routingKey, range.end) >= 0)
    ) {
      throw new KisekiError(
        "log.no_shard",
        `no shard owns routing key ${toHex(routingKey)} of this organisation`,
        { retriable: true },
      );
    }
    return range.shard;
  }
}
