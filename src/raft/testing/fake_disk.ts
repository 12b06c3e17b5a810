/**
 * A disk in memory that forgets: what was not synced may be lost or torn, sector by sector, in any
 * order, and names not synced in their directory may be lost.
 *
 * `crash` gives the disk that a machine would find after a power cut; the old one is dead.
 * `durable` sectors are 512 bytes; a sector is old or new, never a mixture.
 */
import type { Bytes } from "../../common/bytes.ts";
import { KisekiError } from "../../common/errors.ts";
import type { LogDisk, LogFile } from "../log_disk.ts";

export const SECTOR_BYTES = 512;

/** Bytes of one file: as seen, and as a power cut would leave them. */
class FakeInode {
  data: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  size = 0;
  durable: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  /** Sectors written since the last sync. */
  dirty = new Set<number>();

  write(bytes: Bytes, offset: number): void {
    const end = offset + bytes.length;
    if (end > this.data.length) {
      const grown = new Uint8Array(Math.max(end, 2 * this.data.length));
      grown.set(this.data.subarray(0, this.size));
      this.data = grown;
    }
    this.data.set(bytes, offset);
    this.size = Math.max(this.size, end);
    for (let s = Math.floor(offset / SECTOR_BYTES); s * SECTOR_BYTES < end; s++) this.dirty.add(s);
  }

  sync(): void {
    if (this.durable.length < this.size) {
      const grown = new Uint8Array(this.size);
      grown.set(this.durable);
      this.durable = grown;
    }
    for (const sector of this.dirty) this.#settle(sector);
    this.dirty.clear();
  }

  /** The file after a power cut that kept the unsynced sectors that `keep` names. */
  afterCrash(keep: (sector: number) => boolean): FakeInode {
    const kept = [...this.dirty].filter(keep);
    const inode = new FakeInode();
    let size = this.durable.length;
    for (const s of kept) size = Math.max(size, Math.min((s + 1) * SECTOR_BYTES, this.size));
    inode.durable = new Uint8Array(size);
    inode.durable.set(this.durable);
    for (const s of kept) {
      const from = s * SECTOR_BYTES;
      inode.durable.set(
        this.data.subarray(from, Math.min(from + SECTOR_BYTES, this.size)),
        from,
      );
    }
    inode.data = inode.durable.slice();
    inode.size = size;
    return inode;
  }

  #settle(sector: number): void {
    const from = sector * SECTOR_BYTES;
    this.durable.set(this.data.subarray(from, Math.min(from + SECTOR_BYTES, this.size)), from);
  }
}

export class FakeDisk implements LogDisk {
  #names = new Map<string, FakeInode>();
  #durableNames = new Map<string, FakeInode>();
  #dead = false;
  /** Fails all syncs of files, or all writes, with this code. */
  failSync: "block.io" | undefined;
  failWrite: "block.io" | "block.no_space" | undefined;
  /** Called before each write, with the file's path. */
  onWrite: ((path: string, offset: number, length: number) => void) | undefined;
  syncs = 0;

  /** Paths of the files, sorted. */
  get paths(): readonly string[] {
    return [...this.#names.keys()].sort();
  }

  /** The bytes of a file as seen now; changing them is bit rot. */
  bytesOf(path: string): Bytes {
    const inode = this.#inode(path);
    return inode.data.subarray(0, inode.size);
  }

  /**
   * Cuts the power. @param keep tells for each unsynced sector whether it reached the disk.
   * @param keepNames whether names that were not synced survive.
   */
  crash(keep: (path: string, sector: number) => boolean, keepNames = false): FakeDisk {
    const after = new FakeDisk();
    for (const [path, inode] of keepNames ? this.#names : this.#durableNames) {
      const survived = inode.afterCrash((sector) => keep(path, sector));
      after.#names.set(path, survived);
      after.#durableNames.set(path, survived);
    }
    this.#dead = true;
    return after;
  }

  /** An independent disk with the same bytes, all durable. */
  copy(): FakeDisk {
    const dead = this.#dead;
    const copied = this.crash(() => true, true);
    this.#dead = dead;
    return copied;
  }

  async makeDirectory(_path: string): Promise<void> {
    this.#alive();
  }

  async list(directory: string): Promise<readonly string[]> {
    this.#alive();
    const prefix = `${directory}/`;
    return [...this.#names.keys()].filter((p) => p.startsWith(prefix))
      .map((p) => p.slice(prefix.length));
  }

  async open(path: string, create: boolean): Promise<LogFile> {
    this.#alive();
    let inode = this.#names.get(path);
    if (inode === undefined) {
      if (!create) throw new KisekiError("block.io", `${path}: no such file`);
      inode = new FakeInode();
      this.#names.set(path, inode);
    }
    return this.#file(path, inode);
  }

  async rename(from: string, to: string): Promise<void> {
    this.#alive();
    const inode = this.#inode(from);
    this.#names.delete(from);
    this.#names.set(to, inode);
  }

  async unlink(path: string): Promise<void> {
    this.#alive();
    this.#inode(path);
    this.#names.delete(path);
  }

  async syncDirectory(_directory: string): Promise<void> {
    this.#alive();
    this.#durableNames = new Map(this.#names);
  }

  #file(path: string, inode: FakeInode): LogFile {
    return {
      size: async () => inode.size,
      read: async (into, offset) => {
        this.#alive();
        const n = Math.max(0, Math.min(into.length, inode.size - offset));
        into.set(inode.data.subarray(offset, offset + n));
        return n;
      },
      write: async (bytes, offset) => {
        this.#alive();
        if (this.failWrite !== undefined) throw new KisekiError(this.failWrite, `${path}: write`);
        this.onWrite?.(path, offset, bytes.length);
        inode.write(bytes, offset);
      },
      sync: async () => {
        this.#alive();
        if (this.failSync !== undefined) throw new KisekiError(this.failSync, `${path}: sync`);
        this.syncs++;
        inode.sync();
      },
      close: async () => undefined,
    };
  }

  #inode(path: string): FakeInode {
    const inode = this.#names.get(path);
    if (inode === undefined) throw new KisekiError("block.io", `${path}: no such file`);
    return inode;
  }

  #alive(): void {
    if (this.#dead) throw new KisekiError("block.io", "the machine lost power");
  }
}
