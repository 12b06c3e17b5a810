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
  close(): Promise<void>;
}

/** A place on a device, in bytes, 4 KiB aligned; `length` is the true length of the data. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

export interface BlockDevice {
  readonly device: DeviceId;
  readonly capacityBytes: number;
  readonly freeBytes: number;
  /** @throws KisekiError `block.no_space`. */
  allocate(length: number): Extent;
  write(extent: Extent, data: Bytes): Promise<void>;
  read(extent: Extent, offset: number, length: number): Promise<Bytes>;
  sync(): Promise<void>;
  /** Gives a range back. Call only after the index forgot it durably. */
  free(extent: Extent): void;
  close(): Promise<void>;
}
