/**
 * Garbage collection: chunks that nobody refers to, and fragments that no record names.
 *
 * Invariants: a chunk's fragments go only after the ledger committed it as dying, and its record
 * only after its fragments; a fragment without a record goes only when it is older than the grace
 * time, for its upload may still be under way; what the ledger cannot answer for is left alone.
 */
import type { Clock } from "../common/clock.ts";
import { isKisekiError } from "../common/errors.ts";
import type { ChunkId, DeviceId, OrganisationId } from "../common/ids.ts";
import { type Logger, SILENT_LOGGER } from "../common/logging.ts";
import { forEachBounded } from "./concurrency.ts";
import type {
  ChunkRecord,
  ChunkStore,
  FragmentHeader,
  FragmentStore,
  ReferenceLedger,
} from "./ports.ts";
import { withRecords } from "./record_lookup.ts";

/** How long a fragment without a record is left alone, and a chunk without references. */
export const COLLECTION_GRACE_MS = 24 * 3600 * 1000;

export interface CollectorOptions {
  readonly ledger: Pick<ReferenceLedger, "collect" | "forget" | "lookup">;
  readonly chunks: Pick<ChunkStore, "remove">;
  readonly stores: ReadonlyMap<DeviceId, FragmentStore>;
  readonly clock: Clock;
  readonly log?: Logger;
  /** Default {@link COLLECTION_GRACE_MS}. */
  readonly graceMs?: number;
  /** Removals at once. Default 8. */
  readonly width?: number;
}

/** What a sweep over a device has done. */
export interface SweepReport {
  readonly seen: number;
  readonly removed: number;
  /** Without a record, but too young to go. */
  readonly waiting: number;
}

const COLLECT_BATCH = 256;
const SWEEP_PAGE = 256;

export class Collector {
  readonly #grace: number;
  readonly #width: number;
  readonly #log: Logger;

  constructor(private readonly options: CollectorOptions) {
    this.#grace = options.graceMs ?? COLLECTION_GRACE_MS;
    this.#width = options.width ?? 8;
    this.#log = options.log ?? SILENT_LOGGER;
  }

  /**
   * Removes an organisation's dying chunks, batch by batch, until there are none.
   *
   * @param stop Asked between batches.
   * @returns how many chunks went.
   */
  async collect(organisation: OrganisationId, stop: () => boolean = () => false): Promise<number> {
    const { ledger, chunks } = this.options;
    let gone = 0;
    while (!stop()) {
      const dying = await ledger.collect(organisation, COLLECT_BATCH);
      if (dying.length === 0) break;
      await forEachBounded(dying, this.#width, ({ chunk, record }) => chunks.remove(chunk, record));
      await ledger.forget(organisation, dying.map(({ chunk }) => chunk));
      gone += dying.length;
    }
    if (gone > 0) this.#log.info("collector.collected", { organisation, chunks: gone });
    return gone;
  }

  /**
   * Walks one device and removes what no record names and is older than the grace time: uploads
   * that were never recorded, and what a lost device still held when it came back.
   *
   * @param stop Asked between pages.
   */
  async sweep(device: DeviceId, stop: () => boolean = () => false): Promise<SweepReport> {
    const report = { seen: 0, removed: 0, waiting: 0 };
    const store = this.options.stores.get(device);
    let cursor: ChunkId | undefined;
    while (store !== undefined && !stop()) {
      const page = await store.list(cursor, SWEEP_PAGE);
      const last = page.at(-1);
      if (last === undefined) break;
      cursor = last.chunk;
      report.seen += page.length;
      const strays: FragmentHeader[] = [];
      for (const { header, record } of await withRecords(this.options.ledger, page)) {
        if (await this.#isNeeded(device, header, record)) continue;
        if (this.options.clock.wallMs() - header.writtenMs < this.#grace) report.waiting++;
        else strays.push(header);
      }
      await forEachBounded(strays, this.#width, async (header) => {
        await store.remove(header.chunk, header.incarnation, header.fragment);
        report.removed++;
      });
    }
    if (report.removed > 0) {
      this.#log.info("collector.swept", { device, removed: report.removed });
    }
    return report;
  }

  /** A fragment beside its recorded place is needed until the recorded device really has it. */
  async #isNeeded(
    device: DeviceId,
    { chunk, fragment }: FragmentHeader,
    record: ChunkRecord | undefined,
  ): Promise<boolean> {
    if (record === undefined) return false;
    const recorded = record.placement[fragment];
    if (recorded === undefined || recorded === device) return true;
    const store = this.options.stores.get(recorded);
    if (store === undefined) return true;
    try {
      return await store.head(chunk, record.incarnation, fragment) === undefined;
    } catch (error) {
      if (!isKisekiError(error)) throw error;
      return true;
    }
  }
}
