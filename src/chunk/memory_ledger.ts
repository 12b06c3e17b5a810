/**
 * A reference ledger in memory, for tests of what uses one.
 */
import type { ChunkId, OrganisationId } from "../common/ids.ts";
import type { ChunkRecord, PlacementLedger, Reference, ReferenceLedger } from "./ports.ts";

interface Entry {
  record: ChunkRecord;
  readonly references: Set<string>;
  dying: boolean;
}

/** One organisation's worth of truth; grace is none. */
export class MemoryLedger implements ReferenceLedger, PlacementLedger {
  readonly entries = new Map<ChunkId, Entry>();

  async acquire(
    _organisation: OrganisationId,
    references: readonly Reference[],
  ): Promise<readonly ("held" | "missing" | "dying")[]> {
    return references.map((reference) => {
      const entry = this.entries.get(reference.chunk);
      if (entry === undefined) return "missing";
      if (entry.dying) return "dying";
      entry.references.add(nameOf(reference));
      return "held";
    });
  }

  async record(
    _organisation: OrganisationId,
    chunks: readonly { readonly reference: Reference; readonly record: ChunkRecord }[],
  ): Promise<readonly ("recorded" | "superseded")[]> {
    return chunks.map(({ reference, record }) => {
      const known = this.entries.get(reference.chunk);
      if (known !== undefined) {
        known.references.add(nameOf(reference));
        return "superseded";
      }
      const references = new Set([nameOf(reference)]);
      this.entries.set(reference.chunk, { record, references, dying: false });
      return "recorded";
    });
  }

  async release(_organisation: OrganisationId, references: readonly Reference[]): Promise<void> {
    for (const reference of references) {
      this.entries.get(reference.chunk)?.references.delete(nameOf(reference));
    }
  }

  async lookup(
    _organisation: OrganisationId,
    chunks: readonly ChunkId[],
  ): Promise<readonly (ChunkRecord | undefined)[]> {
    return chunks.map((chunk) => this.entries.get(chunk)?.record);
  }

  async collect(
    _organisation: OrganisationId,
    limit: number,
  ): Promise<readonly { readonly chunk: ChunkId; readonly record: ChunkRecord }[]> {
    const dying = [...this.entries].filter(([, entry]) => entry.references.size === 0);
    return dying.slice(0, limit).map(([chunk, entry]) => {
      entry.dying = true;
      return { chunk, record: entry.record };
    });
  }

  async forget(_organisation: OrganisationId, chunks: readonly ChunkId[]): Promise<void> {
    for (const chunk of chunks) this.entries.delete(chunk);
  }

  async replace(
    _organisation: OrganisationId,
    chunk: ChunkId,
    record: ChunkRecord,
  ): Promise<void> {
    const entry = this.entries.get(chunk);
    if (entry === undefined || entry.dying) return;
    if (entry.record.incarnation === record.incarnation) entry.record = record;
  }
}

function nameOf(reference: Reference): string {
  return `${reference.composition}:${reference.operation}`;
}
