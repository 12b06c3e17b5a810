/**
 * The fragments of one local device: its block device and its index, used in the right order.
 *
 * Invariants: data is durable before the index names it; the index forgets durably before an extent
 * is freed; an extent is not freed while it is read; two writers of one fragment take turns. What is
 * read is checked; what fails its checksum is an error, never data.
 */
import type { Bytes } from "../common/bytes.ts";
import type { Crc32c } from "../common/crc32c.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { ChunkId, DeviceId } from "../common/ids.ts";
import type { BlockDevice, Extent } from "../block/ports.ts";
import type { FragmentIndex } from "./fragment_index.ts";
import type { FragmentRow } from "./fragment_record.ts";
import { checksumPieces, PIECE_BYTES, wrongPiece } from "./piece_checksums.ts";
import type { DeviceUsage, FragmentHeader, FragmentRead, FragmentStore } from "./ports.ts";

interface FragmentName {
  readonly chunk: ChunkId;
  readonly incarnation: string;
  readonly fragment: number;
}

/** A local fragment store, to be closed by who opened it. */
export class LocalFragmentStore implements FragmentStore {
  readonly device: DeviceId;
  /** The last writer of each fragment that is being changed. */
  readonly #turns = new Map<string, Promise<void>>();
  /** Extents that are being read, by offset, and whether to free them when the last is done. */
  readonly #readers = new Map<number, { count: number; free: boolean }>();

  constructor(
    private readonly block: BlockDevice,
    private readonly index: FragmentIndex,
    private readonly crc: Crc32c,
  ) {
    this.device = block.device;
  }

  async put(header: FragmentHeader, data: Bytes): Promise<void> {
    await this.#inTurn(header, () => this.#put(header, data));
  }

  async #put(header: FragmentHeader, data: Bytes): Promise<void> {
    // First of all: after a failed sync, a row that is seen may not be durable.
    this.#requireWritable();
    const held = this.#rowOrDamage(header);
    if (held !== undefined && !isKisekiError(held)) return;
    const extent = this.block.allocate(data.length);
    try {
      const written = this.block.write(extent, data);
      const pieces = checksumPieces(data, this.crc);
      await written;
      await this.block.sync();
      await this.index.commit([{ kind: "put", row: { header, extent, pieces } }]);
    } catch (error) {
      // After a failed sync of the index the row may be on disk: the extent stays taken.
      if (!this.index.failed) this.block.free(extent);
      throw error;
    }
    // A damaged row that was replaced did not tell its extent: it is free after the next opening.
  }

  async get(
    chunk: ChunkId,
    incarnation: string,
    fragment: number,
    offset: number,
    length?: number,
    into?: Bytes,
  ): Promise<FragmentRead | undefined> {
    const row = this.index.get(chunk, incarnation, fragment);
    if (row === undefined) return undefined;
    const { extent, header } = row;
    const size = length ?? extent.length - offset;
    if (offset < 0 || size < 0 || offset + size > extent.length) {
      throw new KisekiError(
        "common.invalid_argument",
        `bytes ${offset}+${size} of a fragment of ${extent.length}`,
      );
    }
    if (into !== undefined && into.length !== size) {
      throw new KisekiError("common.invalid_argument", `${into.length} bytes to read ${size} into`);
    }
    const first = Math.floor(offset / PIECE_BYTES);
    const from = first * PIECE_BYTES;
    const end = Math.min(extent.length, Math.ceil((offset + size) / PIECE_BYTES) * PIECE_BYTES);
    // Whole pieces go straight to where the caller wants them.
    const exact = from === offset && end === offset + size;
    const read = await this.#readPinned(extent, from, end - from, exact ? into : undefined);
    const wrong = wrongPiece(read, first, row.pieces, this.crc);
    if (wrong !== undefined) {
      throw new KisekiError(
        "block.checksum",
        `device ${this.device}: fragment ${fragment} of chunk ${chunk} is damaged in piece ${wrong}`,
        { details: { device: this.device, chunk, fragment } },
      );
    }
    if (exact) return { header, data: read };
    const data = read.subarray(offset - from, offset - from + size);
    if (into === undefined) return { header, data };
    into.set(data);
    return { header, data: into };
  }

  async head(
    chunk: ChunkId,
    incarnation: string,
    fragment: number,
  ): Promise<FragmentHeader | undefined> {
    return this.index.get(chunk, incarnation, fragment)?.header;
  }

  async remove(chunk: ChunkId, incarnation: string, fragment: number): Promise<void> {
    const name: FragmentName = { chunk, incarnation, fragment };
    await this.#inTurn(name, async () => {
      // After a failed sync, a row that is not seen may yet be there.
      if (this.index.failed) this.#requireWritable();
      const held = this.#rowOrDamage(name);
      if (held === undefined) return;
      await this.index.commit([{ kind: "remove", ...name }]);
      if (!isKisekiError(held)) this.#free(held.extent);
    });
  }

  async rewrap(
    chunk: ChunkId,
    incarnation: string,
    fragment: number,
    wrappedDek: Bytes,
  ): Promise<void> {
    await this.#inTurn({ chunk, incarnation, fragment }, async () => {
      const row = this.index.get(chunk, incarnation, fragment);
      if (row === undefined) return;
      const header: FragmentHeader = { ...row.header, wrappedDek: wrappedDek.slice() };
      await this.index.commit([{ kind: "put", row: { ...row, header } }]);
    });
  }

  async list(cursor: ChunkId | undefined, limit: number): Promise<readonly FragmentHeader[]> {
    let after = cursor;
    while (true) {
      const page = this.index.scan(after, limit);
      const headers: FragmentHeader[] = [];
      for (const { row } of page) if (!isKisekiError(row)) headers.push(row.header);
      // A page of damaged rows alone must not look like the end.
      if (headers.length > 0 || page.length === 0) return headers;
      after = page.at(-1)?.chunk;
    }
  }

  async usage(): Promise<DeviceUsage> {
    const used = this.block.capacityBytes - this.block.freeBytes;
    return {
      device: this.device,
      capacityBytes: Math.min(this.block.capacityBytes, used + await this.block.hostFreeBytes()),
      usedBytes: used,
      fragments: this.index.count,
      state: this.block.failed || this.index.failed ? "failing" : "ok",
    };
  }

  /** Waits for nothing: callers have finished. */
  async close(): Promise<void> {
    try {
      await this.index.close();
    } finally {
      await this.block.close();
    }
  }

  #requireWritable(): void {
    if (!this.block.failed && !this.index.failed) return;
    throw new KisekiError(
      "block.io",
      `device ${this.device} takes no more writes since a sync failed: check it and restart`,
      { details: { device: this.device } },
    );
  }

  #rowOrDamage(name: FragmentName): FragmentRow | KisekiError | undefined {
    try {
      return this.index.get(name.chunk, name.incarnation, name.fragment);
    } catch (error) {
      if (isKisekiError(error, "common.corrupt_format")) return error;
      throw error;
    }
  }

  async #readPinned(
    extent: Extent,
    from: number,
    length: number,
    into: Bytes | undefined,
  ): Promise<Bytes> {
    const pin = this.#readers.get(extent.offset) ?? { count: 0, free: false };
    pin.count++;
    this.#readers.set(extent.offset, pin);
    try {
      return await this.block.read(extent, from, length, into);
    } finally {
      if (--pin.count === 0) {
        this.#readers.delete(extent.offset);
        if (pin.free) this.block.free(extent);
      }
    }
  }

  #free(extent: Extent): void {
    const pin = this.#readers.get(extent.offset);
    if (pin === undefined) this.block.free(extent);
    else pin.free = true;
  }

  async #inTurn(name: FragmentName, work: () => Promise<void>): Promise<void> {
    const key = `${name.chunk}:${name.incarnation}:${name.fragment}`;
    const before = this.#turns.get(key);
    const turn = before === undefined ? work() : before.then(work, work);
    this.#turns.set(key, turn);
    try {
      await turn;
    } finally {
      if (this.#turns.get(key) === turn) this.#turns.delete(key);
    }
  }
}
