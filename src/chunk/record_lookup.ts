/**
 * Fragments that a device lists, with the record of the chunk that each is part of.
 */
import type { ChunkId, OrganisationId } from "../common/ids.ts";
import type { ChunkRecord, FragmentHeader, ReferenceLedger } from "./ports.ts";

/** A fragment and what the ledger says; `record` is undefined when it says nothing of it. */
export interface RecordedFragment {
  readonly header: FragmentHeader;
  /** The record of the fragment's chunk and incarnation. */
  readonly record: ChunkRecord | undefined;
}

/** Looks up a page of fragments, one call to an organisation. Order is not kept. */
export async function withRecords(
  ledger: Pick<ReferenceLedger, "lookup">,
  headers: readonly FragmentHeader[],
): Promise<readonly RecordedFragment[]> {
  const byOrganisation = new Map<OrganisationId, FragmentHeader[]>();
  for (const header of headers) {
    const list = byOrganisation.get(header.organisation);
    if (list === undefined) byOrganisation.set(header.organisation, [header]);
    else list.push(header);
  }
  const pages = await Promise.all([...byOrganisation].map(async ([organisation, list]) => {
    const chunks: ChunkId[] = list.map((header) => header.chunk);
    const records = await ledger.lookup(organisation, chunks);
    return list.map((header, i): RecordedFragment => {
      const record = records[i];
      return { header, record: record?.incarnation === header.incarnation ? record : undefined };
    });
  }));
  return pages.flat();
}
