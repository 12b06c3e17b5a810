/**
 * The upkeep of chunks and namespaces, on the main isolate: collection, housekeeping, sweep, scrub
 * and repair, each one at a time and on its own schedule.
 *
 * Invariants: a round that fails is logged and tried again at its next time; nothing here is needed
 * for an acknowledged write to survive; `stop` ends what runs at its next page.
 */
import type { Clock } from "../common/clock.ts";
import { isKisekiError } from "../common/errors.ts";
import type { DeviceId, OrganisationId } from "../common/ids.ts";
import type { Logger } from "../common/logging.ts";
import type { Metrics } from "../common/metrics.ts";
import { Collector } from "../chunk/collector.ts";
import type { Finding } from "../chunk/finding.ts";
import { ChunkRepair } from "../chunk/repair.ts";
import { scrub, type ScrubReport } from "../chunk/scrub.ts";
import type { ChunkRecord } from "../chunk/ports.ts";
import type { ScrubStatus } from "../control/node_admin.ts";
import type { LedgerClient } from "../log/ledger.ts";
import type { WiredNamespaceService } from "../namespace/service.ts";
import type { ChunkAccess } from "./chunk_access.ts";

const MINUTE_MS = 60_000;
const HOUSEKEEPING_MS = 10 * MINUTE_MS;
const SWEEP_MS = 24 * 60 * MINUTE_MS;
const SCRUB_MS = 7 * 24 * 60 * MINUTE_MS;
/** Scrubs read no faster than this. */
const SCRUB_BYTES_PER_SECOND = 100 << 20;
/** Findings that wait for repair; more are found again by the next scrub. */
const MAX_QUEUED_REPAIRS = 10_000;

export interface UpkeepOptions {
  readonly access: ChunkAccess;
  readonly ledger: LedgerClient<ChunkRecord>;
  readonly namespaces: WiredNamespaceService;
  /** Organisations that have a shard here. */
  readonly organisations: () => readonly OrganisationId[];
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

const IDLE_SCRUB: ScrubStatus = {
  state: "idle",
  startedMs: 0,
  finishedMs: 0,
  checkedFragments: 0,
  checkedBytes: 0,
  totalFragments: 0,
  badFragments: 0,
  repairedFragments: 0,
  lostChunks: 0,
};

export class Upkeep {
  readonly #options: UpkeepOptions;
  readonly #repair: ChunkRepair;
  readonly #collector: Collector;
  readonly #cancels = new Map<string, () => void>();
  readonly #running = new Set<Promise<void>>();
  readonly #repairs = new Map<string, { finding: Finding; organisation: OrganisationId }>();
  #repairing = false;
  #scrub: ScrubStatus = IDLE_SCRUB;
  #stopped = false;

  constructor(options: UpkeepOptions) {
    this.#options = options;
    const { access, ledger, clock, logger } = options;
    this.#repair = new ChunkRepair({
      stores: access.stores,
      pool: (name) => this.#pool(name),
      coder: access.coder,
      memory: access.memory,
      ledger,
      placements: ledger,
      log: logger,
    });
    this.#collector = new Collector({
      ledger,
      chunks: access.chunks,
      stores: access.stores,
      clock,
      log: logger,
    });
  }

  /** Begins the schedules. */
  start(): void {
    this.#every("housekeeping", HOUSEKEEPING_MS, () => this.housekeep());
    this.#every("sweep", SWEEP_MS, () => this.#sweep());
    this.#every("scrub", SCRUB_MS, async () => {
      await this.startScrub();
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    for (const cancel of this.#cancels.values()) cancel();
    this.#cancels.clear();
    await Promise.allSettled(this.#running);
  }

  /** One round over all organisations: garbage of namespaces, then chunks without references. */
  async housekeep(): Promise<void> {
    for (const organisation of this.#options.organisations()) {
      if (this.#stopped) return;
      await this.#options.namespaces.maintain(organisation);
      await this.#collector.collect(organisation, () => this.#stopped);
    }
  }

  /** Starts a scrub of all devices; answers the running one if there is one. */
  startScrub(): Promise<ScrubStatus> {
    if (this.#scrub.state !== "running") {
      this.#scrub = { ...IDLE_SCRUB, state: "running", startedMs: this.#options.clock.wallMs() };
      this.#track(this.#runScrub());
    }
    return Promise.resolve(this.#scrub);
  }

  scrubStatus(): ScrubStatus {
    return this.#scrub;
  }

  /** Rebuilds everything that a device held. */
  rebuild(device: DeviceId): void {
    this.#track(this.#rebuild(device));
  }

  async #rebuild(device: DeviceId): Promise<void> {
    // The pools still know the device as it was: lost.
    await this.#options.access.chunks.usage();
    const report = await this.#repair.rebuildDevices(new Set([device]), () => this.#stopped);
    this.#options.logger.info("device rebuilt", { device, ...report });
  }

  /** Takes a finding of a reader or a scrub; its chunk is repaired soon. */
  report(finding: Finding, organisation?: OrganisationId): void {
    if (this.#repairs.size >= MAX_QUEUED_REPAIRS || this.#stopped) return;
    const known = organisation ?? this.#options.organisations()[0];
    if (known === undefined) return;
    this.#repairs.set(finding.chunk, { finding, organisation: known });
    if (organisation === undefined) void this.#findOwner(finding);
    if (!this.#repairing) this.#track(this.#drainRepairs());
  }

  /** A reader's finding does not say whose chunk it is: the fragment's header does. */
  async #findOwner(finding: Finding): Promise<void> {
    for (const device of finding.record.placement) {
      try {
        const store = this.#options.access.stores.get(device);
        const header = await store?.head(
          finding.chunk,
          finding.record.incarnation,
          finding.record.placement.indexOf(device),
        );
        if (header === undefined) continue;
        this.#repairs.set(finding.chunk, { finding, organisation: header.organisation });
        return;
      } catch (error) {
        if (!isKisekiError(error)) throw error; // this device does not know; ask the next
      }
    }
  }

  async #drainRepairs(): Promise<void> {
    this.#repairing = true;
    try {
      while (!this.#stopped) {
        const [next] = this.#repairs;
        if (next === undefined) return;
        this.#repairs.delete(next[0]);
        await this.#repairOne(next[1].finding, next[1].organisation);
      }
    } finally {
      this.#repairing = false;
    }
  }

  async #repairOne(finding: Finding, organisation: OrganisationId): Promise<void> {
    const { metrics, logger } = this.#options;
    try {
      const report = await this.#repair.repairChunk(organisation, finding.chunk, finding.record);
      for (const fragment of report.rebuilt) {
        const device = report.record.placement[fragment] ?? finding.device;
        metrics.repairedFragments.with({ device }).add();
      }
      this.#scrub = {
        ...this.#scrub,
        repairedFragments: this.#scrub.repairedFragments + report.rebuilt.length,
      };
    } catch (error) {
      if (!isKisekiError(error)) throw error;
      if (error.code === "chunk.unreadable") {
        this.#scrub = { ...this.#scrub, lostChunks: this.#scrub.lostChunks + 1 };
      }
      logger.error("repair failed", { chunk: finding.chunk, error: error.message });
    }
  }

  async #runScrub(): Promise<void> {
    const { access, ledger, clock, logger } = this.#options;
    try {
      const report: ScrubReport = await scrub(
        {
          stores: access.stores,
          pool: (name) => this.#pool(name),
          ledger,
          clock,
          bytesPerSecond: SCRUB_BYTES_PER_SECOND,
          report: (finding, organisation) => {
            this.#scrub = { ...this.#scrub, badFragments: this.#scrub.badFragments + 1 };
            this.report(finding, organisation);
          },
        },
        undefined,
        () => this.#stopped,
      );
      this.#scrub = {
        ...this.#scrub,
        state: report.cursor === undefined ? "done" : "idle",
        finishedMs: clock.wallMs(),
        checkedFragments: report.fragments,
        checkedBytes: report.bytes,
        totalFragments: report.fragments + report.missing,
      };
      logger.info("scrub done", {
        fragments: report.fragments,
        damaged: report.damaged,
        missing: report.missing,
        unreadable: report.unreadable,
      });
    } catch (error) {
      this.#scrub = { ...this.#scrub, state: "failed", finishedMs: clock.wallMs() };
      throw error;
    }
  }

  async #sweep(): Promise<void> {
    for (const device of this.#options.access.stores.keys()) {
      await this.#collector.sweep(device, () => this.#stopped);
    }
  }

  #pool(name: string) {
    try {
      return this.#options.access.chunks.pool(name);
    } catch (error) {
      if (isKisekiError(error, "common.not_found")) return undefined;
      throw error;
    }
  }

  #every(name: string, intervalMs: number, round: () => Promise<void>): void {
    if (this.#stopped) return;
    this.#cancels.set(
      name,
      this.#options.clock.after(intervalMs, () => {
        this.#track(round().finally(() => this.#every(name, intervalMs, round)));
      }),
    );
  }

  #track(work: Promise<void>): void {
    const tracked = work.catch((error: unknown) =>
      this.#options.logger.error("upkeep failed", { error: String(error) })
    ).finally(() => {
      this.#running.delete(tracked);
    });
    this.#running.add(tracked);
  }
}
