/**
 * The block layer's ports: a device file or raw block device below, extents above.
 *
 * Invariants: all I/O is aligned to 4 KiB; an extent is written, made durable, and only then named
 * by the index above; a free extent is never handed out before the index forgot it durably.
 */
import type { Bytes } from "../common/bytes.ts";
import type { DeviceId } from "../common/ids.ts";

export const BLOCK_BYTES = 4096;

/** The bytes below: one implementation over libc, one in memory with power cuts for tests. */
export interface BlockFile {
  readonly sizeBytes: number;
  /** Logical name for errors, e.g. the path. */
  readonly name: string;
  /** @throws KisekiError `block.io`. */
  read(offset: number, into: Bytes): Promise<void>;
  write(offset: number, bytes: Bytes): Promise<void>;
  /** fdatasync: all writes that returned before are durable when it resolves. */
  sync(): Promise<void>;
  /** Tells the device that a range is free (TRIM or punch hole); best effort. */
  discard(offset: number, length: number): Promise<void>;
  /**
   * Bytes that the file system below can still take: a sparse file's real limit. Absent or infinite
   * where the device is what it says.
   */
  hostFreeBytes?(): Promise<number>;
  close(): Promise<void>;
}

/** A place on a device, in bytes, 4 KiB aligned; `length` is the true length of the data. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

export interface BlockDevice {
  readonly device: DeviceId;
  /** Bytes for extents: the device without its head. */
  readonly capacityBytes: number;
  /** Bytes that no extent holds; a sparse file's file system may have fewer. */
  readonly freeBytes: number;
  /** True once a sync failed: nothing is written any more, reads go on. */
  readonly failed: boolean;
  /** @throws KisekiError `block.no_space`. */
  allocate(length: number): Extent;
  /**
   * Writes an extent's whole data, zero-padded to 4 KiB. Not durable before `sync`.
   *
   * @throws KisekiError `block.io`, `block.no_space`.
   */
  write(extent: Extent, data: Bytes): Promise<void>;
  /**
   * Bytes `offset` to `offset + length` of an extent's data: in `into` (exactly `length` bytes)
   * where it is given, else in a fresh buffer.
   *
   * @throws KisekiError `block.io`.
   */
  read(extent: Extent, offset: number, length: number, into?: Bytes): Promise<Bytes>;
  /** Resolves when all writes that returned before are durable; callers at one time share a sync. */
  sync(): Promise<void>;
  /**
   * Gives a range back. Call only after the index forgot it durably and no reader is inside. The
   * range is handed out again after it was discarded.
   */
  free(extent: Extent): void;
  /** See `BlockFile.hostFreeBytes`. */
  hostFreeBytes(): Promise<number>;
  close(): Promise<void>;
}
