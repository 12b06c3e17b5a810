/**
 * A pool as the chunk store sees it: its devices, how full and how healthy each is.
 *
 * Invariants: a device over the pool's full threshold takes no new fragments, so that space is
 * refused before a disk is really full; bytes written since usage was last asked count as used; a
 * device that failed a write rests for a while before it is tried again.
 */
import type { Clock } from "../common/clock.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { ChunkId, DeviceId } from "../common/ids.ts";
import type { Logger } from "../common/logging.ts";
import { fragmentCount, requireDurability, writeQuorum } from "./durability.ts";
import { type PlacementDevice, placementOrder } from "./placement.ts";
import type { DeviceUsage, Durability, FragmentStore } from "./ports.ts";

/** What an operator says of a pool. */
export interface PoolConfig {
  readonly name: string;
  readonly durability: Durability;
  readonly devices: readonly PlacementDevice[];
  /** Grows with each change of `devices`. */
  readonly placementVersion: number;
  /** A device fuller than this is reported. Percent, default 80. */
  readonly warnPercent?: number;
  /** A device fuller than this takes nothing new. Percent, default 95. */
  readonly fullPercent?: number;
  /**
   * `all` (default): a write waits for every fragment, and does with fewer only when devices fail.
   * `minimum`: it resolves at the write quorum, and the rest goes on in the background.
   */
  readonly acknowledge?: "all" | "minimum";
}

/** Sums over a pool, for metrics and `kiseki control pool`. */
export interface PoolUsage {
  readonly name: string;
  readonly capacityBytes: number;
  readonly usedBytes: number;
  readonly fragments: number;
  readonly state: "ok" | "warn" | "full" | "degraded";
  readonly devices: readonly DeviceUsage[];
}

/** Usage is asked for again after this long. */
const USAGE_AGE_MS = 1000;
/** How long a device rests after a failed write. */
const REST_MS = 10_000;

interface DeviceHealth {
  usage: DeviceUsage;
  /** Written since `usage` was asked for. */
  writtenBytes: number;
  restUntilMs: number;
  failedReads: number;
  warned: boolean;
}

export class DevicePool {
  readonly name: string;
  readonly durability: Durability;
  readonly placementVersion: number;
  readonly #warn: number;
  readonly #full: number;
  readonly #health = new Map<DeviceId, DeviceHealth>();
  #askedMs = Number.NEGATIVE_INFINITY;
  #asking: Promise<void> | undefined;

  /** @throws KisekiError `config.invalid`. */
  constructor(
    readonly config: PoolConfig,
    private readonly stores: ReadonlyMap<DeviceId, FragmentStore>,
    private readonly clock: Clock,
    private readonly log: Logger,
  ) {
    requireDurability(config.durability);
    this.name = config.name;
    this.durability = config.durability;
    this.placementVersion = config.placementVersion;
    this.#warn = (config.warnPercent ?? 80) / 100;
    this.#full = (config.fullPercent ?? 95) / 100;
    if (!(this.#warn > 0 && this.#warn <= this.#full && this.#full <= 1)) {
      throw new KisekiError(
        "config.invalid",
        `pool ${config.name}: thresholds must be 0 < warn <= full <= 100 percent`,
      );
    }
    const wanted = fragmentCount(config.durability);
    const distinct = new Set(config.devices.map((device) => device.device)).size;
    if (distinct !== config.devices.length || distinct < wanted) {
      throw new KisekiError(
        "config.invalid",
        `pool ${config.name}: ${wanted} distinct devices are needed, ${distinct} are given`,
      );
    }
  }

  /** Asks every device for its usage when the last answers are old. */
  async refresh(force = false): Promise<void> {
    if (!force && this.clock.monotonicMs() - this.#askedMs < USAGE_AGE_MS) return;
    this.#asking ??= this.#ask().finally(() => this.#asking = undefined);
    await this.#asking;
  }

  async #ask(): Promise<void> {
    await Promise.all(this.config.devices.map(async ({ device }) => {
      const usage = await this.#usageOf(device);
      const before = this.#health.get(device);
      const health: DeviceHealth = {
        usage,
        writtenBytes: 0,
        restUntilMs: before?.restUntilMs ?? Number.NEGATIVE_INFINITY,
        failedReads: before?.failedReads ?? 0,
        warned: before?.warned ?? false,
      };
      this.#health.set(device, health);
      this.#warnOf(health);
    }));
    this.#askedMs = this.clock.monotonicMs();
  }

  async #usageOf(device: DeviceId): Promise<DeviceUsage> {
    const lost: DeviceUsage = {
      device,
      capacityBytes: 0,
      usedBytes: 0,
      fragments: 0,
      state: "lost",
    };
    const store = this.stores.get(device);
    if (store === undefined) return lost;
    try {
      return await store.usage();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.log.warn("pool.device_unreachable", { pool: this.name, device, message });
      return lost;
    }
  }

  #warnOf(health: DeviceHealth): void {
    const over = health.usage.capacityBytes > 0 && share(health) >= this.#warn;
    if (over && !health.warned) {
      this.log.warn("pool.device_filling", {
        pool: this.name,
        device: health.usage.device,
        usedBytes: health.usage.usedBytes,
        capacityBytes: health.usage.capacityBytes,
      });
    }
    health.warned = over;
  }

  /** The state of a device now. */
  stateOf(device: DeviceId): DeviceUsage["state"] {
    const health = this.#health.get(device);
    if (health === undefined) return "lost";
    if (health.usage.state === "lost" || health.usage.state === "failing") {
      return health.usage.state;
    }
    if (this.clock.monotonicMs() < health.restUntilMs) return "failing";
    return health.usage.state === "full" || share(health) >= this.#full ? "full" : "ok";
  }

  /**
   * The devices that can take a chunk's fragments now, in order, spares after the first n.
   *
   * @throws KisekiError `chunk.no_space` when full devices stand in the way of whole durability,
   *   `chunk.too_few_devices` when fewer than the write quorum work.
   */
  writable(chunk: ChunkId): readonly DeviceId[] {
    const ok: PlacementDevice[] = [];
    let full = 0;
    for (const device of this.config.devices) {
      const state = this.stateOf(device.device);
      if (state === "ok") ok.push(device);
      else if (state === "full") full++;
    }
    const wanted = fragmentCount(this.durability);
    if (ok.length < wanted && full > 0 && ok.length + full >= writeQuorum(this.durability)) {
      throw new KisekiError(
        "chunk.no_space",
        `pool ${this.name} is full: ${full} of ${this.config.devices.length} devices are over ` +
          `${this.#full * 100} percent; delete data or add devices`,
        { details: { pool: this.name } },
      );
    }
    if (ok.length < writeQuorum(this.durability)) {
      throw new KisekiError(
        "chunk.too_few_devices",
        `pool ${this.name}: ${ok.length} devices work, ${
          writeQuorum(this.durability)
        } are needed ` +
          "to write: bring the others back or replace them",
        { retriable: true, details: { pool: this.name } },
      );
    }
    return placementOrder(chunk, ok, wanted).map((device) => device.device);
  }

  /** All devices in the order of placement, whatever their state. */
  order(chunk: ChunkId): readonly DeviceId[] {
    return placementOrder(chunk, this.config.devices, fragmentCount(this.durability))
      .map((device) => device.device);
  }

  /** Takes note of bytes that were written, so that a burst cannot overshoot the threshold. */
  noteWritten(device: DeviceId, bytes: number): void {
    const health = this.#health.get(device);
    if (health !== undefined) health.writtenBytes += bytes;
  }

  /** Takes note of a failed write: the device rests. */
  noteFailedWrite(device: DeviceId, error: unknown): void {
    const health = this.#health.get(device);
    if (health === undefined) return;
    if (isKisekiError(error, "block.no_space")) {
      health.usage = { ...health.usage, state: "full" };
    } else health.restUntilMs = this.clock.monotonicMs() + REST_MS;
    this.log.warn("pool.write_failed", {
      pool: this.name,
      device,
      message: error instanceof Error ? error.message : String(error),
    });
  }

  /** Usage as of now. */
  async usage(): Promise<PoolUsage> {
    await this.refresh(true);
    let [capacityBytes, usedBytes, fragments] = [0, 0, 0];
    let [failed, full, warned] = [0, 0, 0];
    const devices: DeviceUsage[] = [];
    for (const [device, health] of this.#health) {
      const state = this.stateOf(device);
      devices.push({ ...health.usage, state });
      capacityBytes += health.usage.capacityBytes;
      usedBytes += health.usage.usedBytes;
      fragments += health.usage.fragments;
      if (state === "lost" || state === "failing") failed++;
      else if (state === "full") full++;
      else if (health.warned) warned++;
    }
    const room = devices.length - failed - full;
    const state = failed > 0
      ? "degraded"
      : room < fragmentCount(this.durability)
      ? "full"
      : warned > 0
      ? "warn"
      : "ok";
    return { name: this.name, capacityBytes, usedBytes, fragments, state, devices };
  }
}

function share(health: DeviceHealth): number {
  const { capacityBytes, usedBytes } = health.usage;
  return capacityBytes <= 0 ? 1 : (usedBytes + health.writtenBytes) / capacityBytes;
}
