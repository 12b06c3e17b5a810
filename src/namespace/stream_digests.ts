/**
 * Digests of a stream that comes in chunks: MD5 and those that the writer asked for, in order,
 * beside the SHA-256 of each chunk. Long hashes run off this thread for 1 MiB and more.
 */
import type { Bytes } from "../common/bytes.ts";
import type {
  Checksum,
  ChecksumAlgorithm,
  CryptoProvider,
  Hash,
  HashAlgorithm,
} from "../crypto/provider.ts";
import type { ContentDigests, ObjectChecksumAlgorithm } from "./api.ts";

const ASYNC_FROM_BYTES = 1 << 20;

const HASHES: Readonly<Partial<Record<ObjectChecksumAlgorithm, HashAlgorithm>>> = {
  SHA1: "sha1",
  SHA256: "sha256",
};
const CHECKSUMS: Readonly<Partial<Record<ObjectChecksumAlgorithm, ChecksumAlgorithm>>> = {
  CRC32: "crc32",
  CRC32C: "crc32c",
  CRC64NVME: "crc64nvme",
};

/** A running hash whose updates are queued one behind the other. */
class QueuedHash {
  readonly #hash: Hash;
  #tail: Promise<void> = Promise.resolve();

  constructor(hash: Hash) {
    this.#hash = hash;
  }

  update(bytes: Bytes): Promise<void> {
    this.#tail = this.#tail.then(() => {
      if (bytes.length >= ASYNC_FROM_BYTES) return this.#hash.updateAsync(bytes);
      this.#hash.update(bytes);
      return undefined;
    });
    return this.#tail;
  }

  updateSync(bytes: Bytes): void {
    this.#hash.update(bytes);
  }

  async digest(): Promise<Bytes> {
    await this.#tail;
    return this.#hash.digest();
  }

  release(): void {
    this.#hash.release();
  }
}

export class StreamDigests {
  readonly #crypto: CryptoProvider;
  readonly #wanted: readonly ObjectChecksumAlgorithm[];
  readonly #md5: QueuedHash;
  readonly #hashes = new Map<ObjectChecksumAlgorithm, QueuedHash>();
  readonly #checksums = new Map<ObjectChecksumAlgorithm, Checksum>();

  constructor(crypto: CryptoProvider, wanted: readonly ObjectChecksumAlgorithm[]) {
    this.#crypto = crypto;
    this.#wanted = [...new Set(wanted)];
    this.#md5 = new QueuedHash(crypto.hash("md5"));
    for (const name of this.#wanted) {
      const hash = HASHES[name];
      const checksum = CHECKSUMS[name];
      if (hash !== undefined) this.#hashes.set(name, new QueuedHash(crypto.hash(hash)));
      if (checksum !== undefined) this.#checksums.set(name, crypto.checksum(checksum));
    }
  }

  /** A short whole stream, at once. */
  updateSync(bytes: Bytes): void {
    this.#md5.updateSync(bytes);
    for (const hash of this.#hashes.values()) hash.updateSync(bytes);
    for (const checksum of this.#checksums.values()) checksum.update(bytes);
  }

  /**
   * The next chunk. `bytes` must not change until `streamed` has resolved.
   *
   * @returns its SHA-256, and when the digests of the stream have taken it.
   */
  update(bytes: Bytes): { readonly sha256: Promise<Bytes>; readonly streamed: Promise<void> } {
    for (const checksum of this.#checksums.values()) checksum.update(bytes);
    const sha256 = bytes.length >= ASYNC_FROM_BYTES
      ? this.#crypto.digestAsync("sha256", bytes)
      : Promise.resolve(this.#crypto.digest("sha256", bytes));
    const streams: Promise<void>[] = [this.#md5.update(bytes)];
    for (const hash of this.#hashes.values()) streams.push(hash.update(bytes));
    const streamed = Promise.all([Promise.allSettled(streams), sha256.then(ignore, ignore)]).then(
      ignore,
    );
    return { sha256, streamed };
  }

  async finish(sizeBytes: number): Promise<ContentDigests> {
    const md5 = await this.#md5.digest();
    const checksums: Partial<Record<ObjectChecksumAlgorithm, Bytes>> = {};
    for (const name of this.#wanted) {
      const hash = this.#hashes.get(name);
      const checksum = this.#checksums.get(name);
      if (hash !== undefined) checksums[name] = await hash.digest();
      if (checksum !== undefined) checksums[name] = checksum.digest();
    }
    return { sizeBytes, md5, checksums };
  }

  release(): void {
    this.#md5.release();
    for (const hash of this.#hashes.values()) hash.release();
  }
}

function ignore(): void {}
