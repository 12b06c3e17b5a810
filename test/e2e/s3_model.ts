/**
 * A model of what S3 promises of one bucket: plain data, brute force, no cleverness. The real
 * server is held against it. Keys compare by their UTF-8 bytes.
 */
import { Buffer } from "node:buffer";

export interface ModelVersion {
  /** "null" or the id that the server gave. */
  readonly versionId: string;
  /** undefined for a delete marker. */
  readonly body: Uint8Array<ArrayBuffer> | undefined;
  readonly etag: string;
}

export type ModelVersioning = "unversioned" | "enabled" | "suspended";

export function compareKeys(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

export class ModelBucket {
  versioning: ModelVersioning = "unversioned";
  /** Newest first. */
  readonly #keys = new Map<string, ModelVersion[]>();

  /** Records a write that the server answered with `versionId` (undefined when it gave none). */
  put(
    key: string,
    body: Uint8Array<ArrayBuffer>,
    etag: string,
    versionId: string | undefined,
  ): void {
    this.#lay(key, { versionId: versionId ?? "null", body, etag });
  }

  /** Records a delete without a version id; `markerId` as the server answered. */
  remove(key: string, markerId: string | undefined): void {
    if (this.versioning === "unversioned") {
      this.#keys.delete(key);
      return;
    }
    this.#lay(key, { versionId: markerId ?? "null", body: undefined, etag: "" });
  }

  removeVersion(key: string, versionId: string): void {
    const left = this.versions(key).filter((version) => version.versionId !== versionId);
    if (left.length === 0) this.#keys.delete(key);
    else this.#keys.set(key, left);
  }

  /** The current object; undefined when there is none or a delete marker is current. */
  current(key: string): ModelVersion | undefined {
    const newest = this.versions(key)[0];
    return newest?.body === undefined ? undefined : newest;
  }

  versions(key: string): ModelVersion[] {
    return this.#keys.get(key) ?? [];
  }

  allKeys(): string[] {
    return [...this.#keys.keys()].sort(compareKeys);
  }

  /**
   * Keys and common prefixes in order, as ListObjectsV2 gives them over all pages: keys are rolled
   * up first, then what is not strictly after `startAfter` is left out. So a common prefix that the
   * marker lies in is not listed again, as with the NextMarker of version 1.
   */
  list(prefix: string, delimiter: string, startAfter: string): string[] {
    const out: string[] = [];
    for (const key of this.allKeys()) {
      if (this.current(key) === undefined || !key.startsWith(prefix)) continue;
      const cut = delimiter === "" ? -1 : key.indexOf(delimiter, prefix.length);
      const name = cut < 0 ? key : key.slice(0, cut + delimiter.length);
      if (startAfter !== "" && compareKeys(name, startAfter) <= 0) continue;
      const item = `${cut < 0 ? "key" : "prefix"} ${name}`;
      if (out.at(-1) !== item) out.push(item);
    }
    return out;
  }

  /** Every version as ListObjectVersions gives them: by key, newest first. */
  listVersions(): string[] {
    return this.allKeys().flatMap((key) =>
      this.versions(key).map((version, i) =>
        `${key} ${version.versionId} ${version.body === undefined ? "marker" : version.etag} ${
          i === 0 ? "latest" : ""
        }`
      )
    );
  }

  #lay(key: string, version: ModelVersion): void {
    let versions = this.versions(key);
    if (this.versioning === "unversioned") versions = [];
    if (this.versioning === "suspended") {
      versions = versions.filter(({ versionId }) => versionId !== "null");
    }
    this.#keys.set(key, [version, ...versions]);
  }
}
