/**
 * The client's side of maintenance: goes through an organisation's namespaces, slice by slice, and
 * releases in other shards what a slice names. The slices themselves: `maintenance.ts`.
 */
import { type Bytes, EMPTY_BYTES, toHex } from "../common/bytes.ts";
import type { Clock } from "../common/clock.ts";
import type { ChunkId, CompositionId, OperationId, OrganisationId } from "../common/ids.ts";
import type { ContentLedger } from "./content_store.ts";
import * as m from "./messages.ts";
import type { NamespaceDirectory, OpenNamespace } from "./namespace_directory.ts";
import type { ShardLink } from "./shard_link.ts";
import type { Of } from "./wire.ts";

/** What one round did. */
export interface MaintenanceReport {
  readonly namespaces: number;
  readonly slices: number;
  /** Namespaces that were removed earlier and are empty now. */
  readonly removed: number;
}

/** What writers announced, and tombstones of uploads, are kept this long. */
const STALE_MS = 24 * 3600 * 1000;
const RELEASE_BATCH = 1024;

export interface HousekeepingOptions {
  readonly link: ShardLink;
  readonly directory: NamespaceDirectory;
  readonly ledger: ContentLedger;
  readonly clock: Clock;
}

export class Housekeeping {
  readonly #options: HousekeepingOptions;

  constructor(options: HousekeepingOptions) {
    this.#options = options;
  }

  /** One round over all namespaces of an organisation. For one caller at a time. */
  async run(organisation: OrganisationId): Promise<MaintenanceReport> {
    const { directory } = this.#options;
    let namespaces = 0;
    let slices = 0;
    let gone = 0;
    for (const removed of [false, true]) {
      for (const found of await directory.list(organisation, removed)) {
        const done = await this.#drain(found, removed);
        namespaces++;
        slices += done.slices;
        if (!done.drained) continue;
        await directory.forget(found);
        gone++;
      }
    }
    return { namespaces, slices, removed: gone };
  }

  async #drain(
    found: OpenNamespace,
    removed: boolean,
  ): Promise<{ readonly slices: number; readonly drained: boolean }> {
    const { link, clock } = this.#options;
    let released: Bytes = EMPTY_BYTES;
    for (let slices = 1;; slices++) {
      const answer = await link.command(
        found.organisation,
        found.record.placement,
        m.CommandNumber.maintain,
        m.Maintain,
        {
          directory: found.record.root,
          placement: found.record.placement,
          staleBeforeMs: Math.max(0, Math.floor(clock.wallMs()) - STALE_MS),
          released,
          removed,
        },
        m.MaintainAnswer,
      );
      await this.#release(found.organisation, answer.release);
      released = answer.token;
      if (!answer.more) return { slices, drained: answer.drained };
    }
  }

  async #release(
    organisation: OrganisationId,
    named: Of<typeof m.MaintainAnswer>["release"],
  ): Promise<void> {
    const references = named.map((one) => ({
      chunk: toHex(one.chunk) as ChunkId,
      composition: toHex(one.composition) as CompositionId,
      operation: toHex(one.operation) as OperationId,
    }));
    for (let i = 0; i < references.length; i += RELEASE_BATCH) {
      await this.#options.ledger.release(organisation, references.slice(i, i + RELEASE_BATCH));
    }
  }
}
