/**
 * Scrub: reads every fragment of every device, checks it, and compares what is there with what the
 * records say.
 *
 * Invariants: reads no faster than it was told; can be stopped after any page and taken up again
 * from its cursor; a finding goes to the sink once a pass. Findings are repaired by who listens.
 */
import type { Clock } from "../common/clock.ts";
import { isKisekiError } from "../common/errors.ts";
import type { ChunkId, DeviceId, OrganisationId } from "../common/ids.ts";
import type { DevicePool } from "./device_pool.ts";
import { fragmentBytes } from "./durability.ts";
import type { Finding } from "./finding.ts";
import type { ChunkRecord, FragmentHeader, FragmentStore, ReferenceLedger } from "./ports.ts";
import { withRecords } from "./record_lookup.ts";

/** Where a scrub goes on: plain data, to be kept by the caller. */
export interface ScrubCursor {
  readonly device: DeviceId;
  /** Fragments up to this chunk are done; undefined: none of the device's. */
  readonly after: ChunkId | undefined;
}

export interface ScrubOptions {
  readonly stores: ReadonlyMap<DeviceId, FragmentStore>;
  readonly pool: (name: string) => DevicePool | undefined;
  readonly ledger: Pick<ReferenceLedger, "lookup">;
  readonly clock: Clock;
  /** Hears of everything that is not as it should be, with the organisation of the chunk. */
  readonly report: (finding: Finding, organisation: OrganisationId) => void;
  /** Reads at most so many bytes a second, over all devices. */
  readonly bytesPerSecond: number;
}

/** What a pass, or a part of one, has seen. */
export interface ScrubReport {
  readonly fragments: number;
  readonly bytes: number;
  readonly damaged: number;
  readonly unreadable: number;
  /** Fragments that a record names and their device does not hold. */
  readonly missing: number;
  /** Fragments on another device than their record says. */
  readonly misplaced: number;
  /** Fragments without a record: young, or garbage for the collector. */
  readonly unrecorded: number;
  /** Fragments that today's placement map would put elsewhere. Not an error. */
  readonly offMap: number;
  /** Where to go on; undefined: every device is done. */
  readonly cursor: ScrubCursor | undefined;
}

const PAGE = 64;

type Counts = { -readonly [Key in Exclude<keyof ScrubReport, "cursor">]: number };

/**
 * Scrubs from `cursor` (undefined: from the start) until all is done or `stop` says so.
 *
 * @param stop Asked after each page of some 64 fragments.
 * @throws KisekiError when a device's index or the ledger cannot be read.
 */
export async function scrub(
  options: ScrubOptions,
  cursor: ScrubCursor | undefined,
  stop: () => boolean,
): Promise<ScrubReport> {
  const counts: Counts = {
    fragments: 0,
    bytes: 0,
    damaged: 0,
    unreadable: 0,
    missing: 0,
    misplaced: 0,
    unrecorded: 0,
    offMap: 0,
  };
  const pace = new Pace(options.clock, options.bytesPerSecond);
  const devices = [...options.stores.keys()].sort()
    .filter((device) => cursor === undefined || device >= cursor.device);
  for (const device of devices) {
    const store = options.stores.get(device);
    let after = device === cursor?.device ? cursor.after : undefined;
    while (store !== undefined) {
      if (stop()) return { ...counts, cursor: { device, after } };
      const page = await store.list(after, PAGE);
      const last = page.at(-1);
      if (last === undefined) break;
      for (const { header, record } of await withRecords(options.ledger, page)) {
        await pace.spend(fragmentBytes(header.scheme, header.envelopeBytes));
        await check(options, store, header, record, counts);
      }
      after = last.chunk;
    }
  }
  return { ...counts, cursor: undefined };
}

async function check(
  options: ScrubOptions,
  store: FragmentStore,
  header: FragmentHeader,
  record: ChunkRecord | undefined,
  counts: Counts,
): Promise<void> {
  const { chunk, fragment, incarnation, organisation } = header;
  counts.fragments++;
  counts.bytes += fragmentBytes(header.scheme, header.envelopeBytes);
  if (record === undefined) {
    counts.unrecorded++;
    return;
  }
  const found = (kind: Finding["kind"], at: number, device: DeviceId): void => {
    counts[kind]++;
    options.report({ kind, chunk, record, fragment: at, device }, organisation);
  };
  const kind = await damageOf(() => store.get(chunk, incarnation, fragment, 0));
  if (kind !== undefined) found(kind, fragment, store.device);
  if (record.placement[fragment] !== store.device) found("misplaced", fragment, store.device);
  const order = options.pool(record.pool)?.order(chunk);
  if (order !== undefined && order[fragment] !== store.device) counts.offMap++;
  if (record.placement[fragment] !== store.device) return;
  // The first fragment that is there looks after the others.
  for (const [sibling, device] of record.placement.slice(0, fragment).entries()) {
    if (await isHeld(options.stores.get(device), header, sibling)) return;
  }
  for (const [sibling, device] of record.placement.entries()) {
    if (sibling === fragment) continue;
    const other = options.stores.get(device);
    if (other === undefined) {
      found("unreadable", sibling, device);
      continue;
    }
    let missing = false;
    const problem = await damageOf(async () => {
      missing = await other.head(chunk, incarnation, sibling) === undefined;
    });
    if (problem !== undefined) found(problem, sibling, device);
    else if (missing) found("missing", sibling, device);
  }
}

async function isHeld(
  store: FragmentStore | undefined,
  header: FragmentHeader,
  fragment: number,
): Promise<boolean> {
  try {
    return await store?.head(header.chunk, header.incarnation, fragment) !== undefined;
  } catch (error) {
    if (!isKisekiError(error)) throw error;
    return false; // this device cannot say: the next one looks after the chunk, and reports it
  }
}

async function damageOf(
  read: () => Promise<unknown>,
): Promise<"damaged" | "unreadable" | undefined> {
  try {
    await read();
    return undefined;
  } catch (error) {
    if (!isKisekiError(error)) throw error;
    const damaged = error.code === "block.checksum" || error.code === "common.corrupt_format";
    return damaged ? "damaged" : "unreadable";
  }
}

/** Waits so that no more than a rate is spent. */
class Pace {
  #freeAtMs: number;

  constructor(private readonly clock: Clock, private readonly perSecond: number) {
    this.#freeAtMs = clock.monotonicMs();
  }

  async spend(bytes: number): Promise<void> {
    const now = this.clock.monotonicMs();
    const wait = this.#freeAtMs - now;
    this.#freeAtMs = Math.max(now, this.#freeAtMs) + (bytes / this.perSecond) * 1000;
    if (wait <= 0) return;
    await new Promise<void>((resolve) => void this.clock.after(wait, resolve));
  }
}
