/**
 * The manifest: one small sealed file that says what a table is.
 *
 * File `manifest`, integers little-endian:
 *
 * | offset | size | field                                                                     |
 * |-------:|-----:|---------------------------------------------------------------------------|
 * |      0 |    8 | magic "KISEKMAN"                                                          |
 * |      8 |    4 | version, 1                                                                |
 * |     12 |   16 | table id                                                                  |
 * |     28 |   16 | organisation                                                              |
 * |     44 |    8 | manifest version u64, grows with every attempt to commit                  |
 * |     52 |   60 | wrapped DEK: one per table and open, never resumed                        |
 * |    112 |    n | envelope of kind manifest (`crypto/envelope_format.ts`)                   |
 *
 * Plaintext: applied index u64 | owner state (varint length, bytes) | run count varint | runs,
 * newest first: run id 16, tier varint, rows varint, tombstones varint, file size varint,
 * root hash 32.
 *
 * A commit writes `manifest.new`, syncs it, renames it over `manifest` and syncs the directory: at
 * any instant the one or the other whole manifest is there. Everything in the clear is bound by the
 * envelope's associated data or opens nothing else.
 */
import { ByteReader, type Bytes, ByteWriter, equalBytes } from "../common/bytes.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import { idFromBytes, idToBytes, type OrganisationId } from "../common/ids.ts";
import { EnvelopeKind } from "../crypto/envelope_format.ts";
import { WRAPPED_DEK_SIZE } from "../crypto/sealer.ts";
import type { RunDescription } from "./run.ts";
import { ROOT_HASH_BYTES } from "./run_format.ts";
import { BLOCK_OVERHEAD, type BlockKey, BlockSealer } from "./sealed_block.ts";
import type { TableState } from "./table.ts";
import type { TableFiles } from "./table_files.ts";

export const MANIFEST_NAME = "manifest";
export const NEW_MANIFEST_NAME = "manifest.new";
export const MANIFEST_FORMAT_VERSION = 1;
/** Most bytes of the owner's state. */
export const MAX_OWNER_STATE_BYTES = 64 * 1024;
/** Most runs of a table; tiers keep it under a hundred. */
export const MAX_RUNS = 4096;
const MAX_TIER = 32;
const HEADER_BYTES = 112;
const MAX_MANIFEST_BYTES = 1024 * 1024;
const MAGIC = new TextEncoder().encode("KISEKMAN");

export interface Manifest {
  readonly version: number;
  readonly state: TableState;
  /** Newest first; tiers never fall along it. */
  readonly runs: readonly RunDescription[];
}

/** Seals manifests of one table under one DEK. */
export class ManifestSealer {
  readonly #sealer: BlockSealer;
  readonly #header: Bytes;

  constructor(key: BlockKey, wrapped: Bytes, tableId: string, organisation: OrganisationId) {
    this.#sealer = new BlockSealer(EnvelopeKind.manifest, key, organisation, tableId);
    this.#header = new ByteWriter(HEADER_BYTES)
      .raw(MAGIC).u32(MANIFEST_FORMAT_VERSION).raw(idToBytes(tableId))
      .raw(idToBytes(organisation)).u64(0n).raw(wrapped).finish();
  }

  seal(manifest: Manifest): Bytes {
    const plaintext = encodeState(manifest);
    const out = new Uint8Array(HEADER_BYTES + plaintext.length + BLOCK_OVERHEAD);
    out.set(this.#header, 0);
    const version = BigInt(manifest.version);
    new DataView(out.buffer).setBigUint64(44, version, true);
    this.#sealer.seal(version, plaintext, out.subarray(HEADER_BYTES));
    return out;
  }

  release(): void {
    this.#sealer.release();
  }
}

function encodeState({ state, runs }: Manifest): Bytes {
  const out = new ByteWriter(256).int(state.appliedIndex).bytes(state.ownerState)
    .varint(runs.length);
  for (const run of runs) {
    out.raw(idToBytes(run.runId)).varint(run.tier).varint(run.rows).varint(run.tombstones)
      .varint(run.fileBytes).raw(run.rootHash);
  }
  return out.finish();
}

/**
 * Opens a manifest file's bytes.
 *
 * @param openKey Opens the wrapped DEK; the key is released here.
 * @throws KisekiError `table.corrupt`, `common.unsupported_version`, and what `openKey` throws.
 */
export function openManifest(
  bytes: Bytes,
  tableId: string,
  organisation: OrganisationId,
  openKey: (wrapped: Bytes) => BlockKey,
): Manifest {
  try {
    const reader = new ByteReader(bytes, "manifest");
    if (!equalBytes(reader.raw(8), MAGIC)) throw reader.corrupt("no manifest's magic");
    const format = reader.u32();
    if (format !== MANIFEST_FORMAT_VERSION) {
      throw new KisekiError(
        "common.unsupported_version",
        `manifest version ${format} (this build reads ${MANIFEST_FORMAT_VERSION})`,
      );
    }
    if (idFromBytes(reader.raw(16)) !== tableId) throw reader.corrupt("another table's id");
    if (idFromBytes(reader.raw(16)) !== organisation) {
      throw reader.corrupt("another organisation's id");
    }
    const version = reader.int();
    const wrapped = reader.raw(WRAPPED_DEK_SIZE);
    const envelope = reader.rest();
    if (envelope.length < BLOCK_OVERHEAD) throw reader.corrupt("an envelope cut short");
    const plaintext = new Uint8Array(envelope.length - BLOCK_OVERHEAD);
    const key = openKey(wrapped);
    try {
      new BlockSealer(EnvelopeKind.manifest, key, organisation, tableId)
        .open(BigInt(version), envelope, plaintext);
    } finally {
      key.release();
    }
    return { version, ...decodeState(plaintext) };
  } catch (cause) {
    if (
      isKisekiError(cause, "common.corrupt_format") || isKisekiError(cause, "crypto.open_failed")
    ) {
      throw new KisekiError("table.corrupt", `manifest of table ${tableId}: ${cause.message}`, {
        cause,
      });
    }
    throw cause;
  }
}

function decodeState(plaintext: Bytes): Omit<Manifest, "version"> {
  const reader = new ByteReader(plaintext, "manifest record");
  const appliedIndex = reader.int();
  const ownerState = reader.bytes(MAX_OWNER_STATE_BYTES).slice();
  const count = reader.varint();
  if (count > MAX_RUNS) throw reader.corrupt(`${count} runs (max ${MAX_RUNS})`);
  const runs: RunDescription[] = [];
  for (let i = 0; i < count; i++) {
    const run: RunDescription = {
      runId: idFromBytes(reader.raw(16)),
      tier: reader.varint(),
      rows: reader.varint(),
      tombstones: reader.varint(),
      fileBytes: reader.varint(),
      rootHash: reader.raw(ROOT_HASH_BYTES).slice(),
    };
    if (run.tier > MAX_TIER) throw reader.corrupt(`a tier of ${run.tier} (max ${MAX_TIER})`);
    runs.push(run);
  }
  reader.end();
  return { state: { appliedIndex, ownerState }, runs };
}

/** Makes a manifest durable in place of the one before. */
export function writeManifest(files: TableFiles, bytes: Bytes): void {
  const file = files.create(NEW_MANIFEST_NAME);
  try {
    file.write(bytes);
    file.sync();
  } finally {
    file.close();
  }
  files.rename(NEW_MANIFEST_NAME, MANIFEST_NAME);
  files.syncDirectory();
}

/**
 * Bytes of the manifest file; undefined when there is none.
 *
 * @throws KisekiError `table.corrupt` when it is longer than any manifest.
 */
export function readManifest(files: TableFiles): Bytes | undefined {
  if (!files.list().includes(MANIFEST_NAME)) return undefined;
  const file = files.open(MANIFEST_NAME);
  try {
    if (file.sizeBytes > MAX_MANIFEST_BYTES) {
      throw new KisekiError(
        "table.corrupt",
        `${files.path}/${MANIFEST_NAME}: ${file.sizeBytes} bytes (max ${MAX_MANIFEST_BYTES})`,
      );
    }
    const bytes = new Uint8Array(file.sizeBytes);
    file.readAt(0, bytes);
    return bytes;
  } finally {
    file.close();
  }
}
