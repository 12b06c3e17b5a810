/**
 * The codec that the ledger is wired with: `src/log` does not know what a chunk record holds.
 */
import { decodeChunkRecord, encodeChunkRecord } from "../chunk/chunk_record.ts";
import type { ChunkRecord } from "../chunk/ports.ts";
import type { RecordCodec } from "../log/ledger.ts";

export const CHUNK_RECORD_CODEC: RecordCodec<ChunkRecord> = {
  encode: encodeChunkRecord,
  decode: decodeChunkRecord,
};
