/**
 * Repair: chunks get back the fragments that were damaged, or lost with their device.
 *
 * Invariants: a fragment is rebuilt only from fragments of the same incarnation that passed their
 * checksums; a fragment moves to a device that holds no other of its chunk; the record is changed
 * after the new fragment is durable, and the old one goes after that; one repair of a chunk at a
 * time. Chunks with the fewest fragments to spare come first.
 */
import type { Bytes } from "../common/bytes.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { ChunkId, DeviceId, OrganisationId } from "../common/ids.ts";
import { type Logger, SILENT_LOGGER } from "../common/logging.ts";
import { rebuild } from "./chunk_reader.ts";
import { forEachBounded } from "./concurrency.ts";
import type { DevicePool } from "./device_pool.ts";
import { fragmentBytes, readQuorum } from "./durability.ts";
import type { ErasureCoder, NumberedFragment } from "./erasure_code.ts";
import type {
  BulkMemory,
  ChunkRecord,
  FragmentHeader,
  FragmentStore,
  PlacementLedger,
  ReferenceLedger,
} from "./ports.ts";
import { withRecords } from "./record_lookup.ts";

export interface RepairOptions {
  readonly stores: ReadonlyMap<DeviceId, FragmentStore>;
  /** The pool of a record; undefined when it is gone. */
  readonly pool: (name: string) => DevicePool | undefined;
  readonly coder: ErasureCoder;
  readonly memory: BulkMemory;
  readonly ledger: Pick<ReferenceLedger, "lookup">;
  readonly placements: PlacementLedger;
  readonly log?: Logger;
  /** Chunks repaired at once; bounds memory to some 3 envelopes each. Default 4. */
  readonly width?: number;
}

/** What a repair of one chunk did. */
export interface ChunkRepairReport {
  /** Numbers of the fragments that were rebuilt. */
  readonly rebuilt: readonly number[];
  /** Numbers of the fragments that are still not good; empty: the chunk is whole. */
  readonly unrepaired: readonly number[];
  /** The record that holds now. */
  readonly record: ChunkRecord;
}

/** What a rebuild of devices did. */
export interface RebuildReport {
  readonly chunks: number;
  readonly rebuiltFragments: number;
  /** Chunks that could not be made whole: unreadable, or no device to go to. */
  readonly unrepaired: number;
}

/** A fragment as repair found it. */
type Finding =
  | { readonly state: "good"; readonly header: FragmentHeader; readonly bytes: Bytes }
  | { readonly state: "damaged" | "missing" | "unreadable" };

const LIST_PAGE = 256;

export class ChunkRepair {
  readonly #busy = new Map<ChunkId, Promise<unknown>>();
  readonly #log: Logger;

  constructor(private readonly options: RepairOptions) {
    this.#log = options.log ?? SILENT_LOGGER;
  }

  /**
   * Reads every fragment of a chunk and makes good those that are not.
   *
   * @throws KisekiError `chunk.unreadable` when fewer than k are good.
   */
  async repairChunk(
    organisation: OrganisationId,
    chunk: ChunkId,
    record: ChunkRecord,
  ): Promise<ChunkRepairReport> {
    const before = this.#busy.get(chunk);
    const work = (): Promise<ChunkRepairReport> => this.#repair(organisation, chunk, record);
    const turn = before === undefined ? work() : before.then(work, work);
    this.#busy.set(chunk, turn);
    try {
      return await turn;
    } finally {
      if (this.#busy.get(chunk) === turn) this.#busy.delete(chunk);
    }
  }

  async #repair(
    organisation: OrganisationId,
    chunk: ChunkId,
    record: ChunkRecord,
  ): Promise<ChunkRepairReport> {
    const size = fragmentBytes(record.scheme, record.envelopeBytes);
    const buffers: Bytes[] = [];
    const buffer = (): Bytes => {
      const bytes = this.options.memory.acquire(size);
      buffers.push(bytes);
      return bytes;
    };
    try {
      const placement = [...record.placement];
      const found = await Promise.all(
        placement.map((device, i) => this.#inspect(device, chunk, record, i, buffer())),
      );
      let moved = await this.#findStrays(chunk, record, placement, found, buffer);
      const good: NumberedFragment[] = [];
      let header: FragmentHeader | undefined;
      found.forEach((finding, fragment) => {
        if (finding.state !== "good") return;
        good.push({ fragment, bytes: finding.bytes });
        header ??= finding.header;
      });
      const needed = readQuorum(record.scheme);
      if (header === undefined || good.length < needed) {
        throw new KisekiError(
          "chunk.unreadable",
          `chunk ${chunk} cannot be repaired: ${good.length} of ${needed} needed fragments are good`,
          { details: { chunk } },
        );
      }
      // Where nothing is written, nobody else asks how the devices are.
      await this.options.pool(record.pool)?.refresh();
      const rebuilt: number[] = [];
      const unrepaired: number[] = [];
      for (const [fragment, { state }] of found.entries()) {
        if (state === "good") continue;
        const bytes = buffer();
        const wanted = [{ fragment, bytes }];
        rebuild(this.options.coder, record.scheme, good.slice(0, needed), wanted);
        const target = await this.#store({ ...header, fragment }, bytes, state, placement, record);
        if (target === undefined) {
          unrepaired.push(fragment);
          continue;
        }
        rebuilt.push(fragment);
        if (target === placement[fragment]) continue;
        placement[fragment] = target;
        moved = true;
      }
      const now: ChunkRecord = moved ? { ...record, placement } : record;
      if (moved) {
        await this.options.placements.replace(organisation, chunk, now);
        await this.#removeMoved(chunk, record, now);
      }
      if (rebuilt.length + unrepaired.length > 0) {
        this.#log.info("repair.chunk", { chunk, rebuilt: rebuilt.length, left: unrepaired.length });
      }
      return { rebuilt, unrepaired, record: now };
    } finally {
      for (const bytes of buffers) this.options.memory.release(bytes);
    }
  }

  async #inspect(
    device: DeviceId,
    chunk: ChunkId,
    record: ChunkRecord,
    fragment: number,
    into: Bytes,
  ): Promise<Finding> {
    const store = this.options.stores.get(device);
    if (store === undefined) return { state: "unreadable" };
    try {
      const { incarnation } = record;
      const read = await store.get(chunk, incarnation, fragment, 0, into.length, into);
      return read === undefined
        ? { state: "missing" }
        : { state: "good", header: read.header, bytes: read.data };
    } catch (error) {
      if (!isKisekiError(error)) throw error;
      const damaged = error.code === "block.checksum" || error.code === "common.corrupt_format";
      return { state: damaged ? "damaged" : "unreadable" };
    }
  }

  /** Looks on the pool's other devices for what an interrupted repair moved. */
  async #findStrays(
    chunk: ChunkId,
    record: ChunkRecord,
    placement: DeviceId[],
    found: Finding[],
    buffer: () => Bytes,
  ): Promise<boolean> {
    let moved = false;
    for (const [fragment, finding] of found.entries()) {
      if (finding.state === "good") continue;
      for (const device of this.options.pool(record.pool)?.order(chunk) ?? []) {
        if (placement.includes(device)) continue;
        const stray = await this.#inspect(device, chunk, record, fragment, buffer());
        if (stray.state !== "good") continue;
        found[fragment] = stray;
        placement[fragment] = device;
        moved = true;
        break;
      }
    }
    return moved;
  }

  /** @returns where the fragment is durable now; undefined when nobody took it. */
  async #store(
    header: FragmentHeader,
    bytes: Bytes,
    state: "damaged" | "missing" | "unreadable",
    placement: readonly DeviceId[],
    record: ChunkRecord,
  ): Promise<DeviceId | undefined> {
    const { chunk, incarnation, fragment } = header;
    const own = placement[fragment];
    for (const device of this.#targets(chunk, record, own, state, placement)) {
      const store = this.options.stores.get(device);
      if (store === undefined) continue;
      try {
        // A damaged fragment is in the way: put leaves what is there.
        if (device === own) await store.remove(chunk, incarnation, fragment);
        await store.put(header, bytes);
        return device;
      } catch (error) {
        if (!isKisekiError(error)) throw error;
        this.#log.warn("repair.write_failed", { chunk, device, message: error.message });
      }
    }
    return undefined;
  }

  /** The own device first, unless it cannot be read; then devices without a part of the chunk. */
  #targets(
    chunk: ChunkId,
    record: ChunkRecord,
    own: DeviceId | undefined,
    state: "damaged" | "missing" | "unreadable",
    placement: readonly DeviceId[],
  ): readonly DeviceId[] {
    const pool = this.options.pool(record.pool);
    if (pool === undefined) return [];
    const free = pool.order(chunk).filter((device) =>
      !placement.includes(device) && pool.stateOf(device) === "ok"
    );
    const keeps = own !== undefined && state !== "unreadable" &&
      (pool.stateOf(own) === "ok" || pool.stateOf(own) === "full");
    return keeps ? [own, ...free] : free;
  }

  async #removeMoved(chunk: ChunkId, before: ChunkRecord, now: ChunkRecord): Promise<void> {
    await Promise.all(before.placement.map(async (device, fragment) => {
      if (now.placement[fragment] === device) return;
      try {
        await this.options.stores.get(device)?.remove(chunk, before.incarnation, fragment);
      } catch (error) {
        // The device is lost or failing: when it comes back, the fragment is a stray and goes by age.
        if (!isKisekiError(error)) throw error;
      }
    }));
  }

  /**
   * Rebuilds everything that lost devices held, most endangered chunks first.
   *
   * Chunks are found through their other fragments, so those that had no other are not seen here.
   *
   * @param lost Devices that are gone for good, or were replaced by empty ones of the same id.
   * @param stop Asked between pages; true ends the rebuild early.
   */
  async rebuildDevices(
    lost: ReadonlySet<DeviceId>,
    stop: () => boolean = () => false,
  ): Promise<RebuildReport> {
    const report = { chunks: 0, rebuiltFragments: 0, unrepaired: 0 };
    let from = 0;
    let worst = 0;
    while (true) {
      // One pass over the lists for each degree of danger that there is.
      let next = Number.POSITIVE_INFINITY;
      for (const [device, store] of this.options.stores) {
        if (lost.has(device)) continue;
        let cursor: ChunkId | undefined;
        while (!stop()) {
          const page = await store.list(cursor, LIST_PAGE);
          const last = page.at(-1);
          if (last === undefined) break;
          cursor = last.chunk;
          const endangered: { header: FragmentHeader; record: ChunkRecord }[] = [];
          for (const { header, record } of await withRecords(this.options.ledger, page)) {
            if (record === undefined) continue;
            const spare = spareFragments(record, lost);
            // Seen from one device only: the first that survived.
            if (spare === undefined || first(record, lost) !== device) continue;
            if (spare > worst) next = Math.min(next, spare);
            else if (spare >= from) endangered.push({ header, record });
          }
          await forEachBounded(endangered, this.options.width ?? 4, async ({ header, record }) => {
            await this.#rebuildOne(header, record, report);
          });
        }
      }
      if (stop() || next === Number.POSITIVE_INFINITY) return report;
      from = worst + 1;
      worst = next;
    }
  }

  async #rebuildOne(
    header: FragmentHeader,
    record: ChunkRecord,
    report: { chunks: number; rebuiltFragments: number; unrepaired: number },
  ): Promise<void> {
    report.chunks++;
    try {
      const done = await this.repairChunk(header.organisation, header.chunk, record);
      report.rebuiltFragments += done.rebuilt.length;
      if (done.unrepaired.length > 0) report.unrepaired++;
    } catch (error) {
      if (!isKisekiError(error)) throw error;
      this.#log.error("repair.failed", { chunk: header.chunk, message: error.message });
      report.unrepaired++;
    }
  }
}

/** How many fragments may still be lost; undefined when none of the lost devices held one. */
function spareFragments(record: ChunkRecord, lost: ReadonlySet<DeviceId>): number | undefined {
  const left = record.placement.filter((device) => !lost.has(device)).length;
  if (left === record.placement.length) return undefined;
  return Math.max(0, left - readQuorum(record.scheme));
}

function first(record: ChunkRecord, lost: ReadonlySet<DeviceId>): DeviceId | undefined {
  return record.placement.find((device) => !lost.has(device));
}
