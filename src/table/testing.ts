/**
 * What tests of tables need: keys of a tenant without a key manager, and a directory in memory that
 * can lose power. Not used outside tests and benchmarks.
 */
import { type Bytes, concatBytes, toHex, utf8 } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { ChunkId, OrganisationId } from "../common/ids.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import type { DataKey, TenantKeys } from "../crypto/sealer.ts";
import { WRAPPED_DEK_SIZE } from "../crypto/sealer.ts";
import type { FileReader, FileWriter, TableFiles } from "./table_files.ts";

/** Tenant keys with what a test looks at. */
export interface TestTenantKeys extends TenantKeys {
  /** Data keys that were not released yet. */
  readonly outstanding: number;
  /** The same DEK under the system key of another epoch (1 to 255). */
  rewrap(wrapped: Bytes, epoch: number): Bytes;
}

/** Keys of one organisation out of a secret, with the real wrap; counts the keys in use. */
export function testTenantKeys(
  provider: CryptoProvider,
  organisation: OrganisationId = "0123456789abcdef0123456789abcdef" as OrganisationId,
  secret: Bytes = new Uint8Array(32).fill(7),
): TestTenantKeys {
  const derive = (info: string) => provider.hkdfSha256(secret, new Uint8Array(0), utf8(info), 32);
  const tenantKey = derive("tenant");
  const systemKey = (epoch: number) => derive(`system ${epoch}`);
  const epochOf = (wrapped: Bytes) => wrapped[4] as number;
  const wrap = (inner: Bytes, epoch: number) =>
    concatBytes(
      Uint8Array.of(1, 1, 0, 0, epoch, 0, 0, 0, 5, 0, 0, 0),
      provider.wrapKey(systemKey(epoch), inner),
    );
  const dataKey = (raw: Bytes, wrapped: Bytes): DataKey => {
    const aead = provider.aead(raw);
    keys.outstanding++;
    let held = true;
    return {
      wrapped,
      aead,
      systemEpoch: epochOf(wrapped),
      tenantEpoch: 5,
      exportKey: () => raw.slice(),
      release() {
        if (!held) throw new Error("a data key released twice");
        held = false;
        keys.outstanding--;
        aead.release();
      },
    };
  };
  const keys = {
    organisation,
    outstanding: 0,
    generateDataKey() {
      const raw = new Uint8Array(32);
      provider.random(raw);
      return dataKey(raw, wrap(provider.wrapKey(tenantKey, raw), 3));
    },
    rewrap(wrapped: Bytes, epoch: number) {
      return wrap(provider.unwrapKey(systemKey(epochOf(wrapped)), wrapped.slice(12)), epoch);
    },
    openDataKey(wrapped: Bytes) {
      if (wrapped.length !== WRAPPED_DEK_SIZE || wrapped[0] !== 1) {
        throw new KisekiError("common.corrupt_format", "a wrapped DEK of another version");
      }
      const inner = provider.unwrapKey(systemKey(epochOf(wrapped)), wrapped.slice(12));
      return dataKey(provider.unwrapKey(tenantKey, inner), wrapped.slice());
    },
    chunkId: (digest: Bytes) => toHex(provider.hmacSha256(derive("chunk"), digest)) as ChunkId,
    nameHash: (name: Bytes) => provider.hmacSha256(derive("name"), name),
  };
  return keys;
}

/** Thrown by a directory that lost power, for every call from then on. */
export class PowerLost extends Error {
  override readonly name = "PowerLost";
}

interface Node {
  /** What is on disk for sure. */
  durable: Uint8Array;
  /** Writes since the last sync. */
  pending: Uint8Array[];
}

/** One change of names, atomic as a file system's journal makes it. */
type NameChange = ReadonlyMap<string, Node | undefined>;

/** How a call is to fail. */
export type Fault = "none" | "power" | "before" | "after";

/**
 * A directory in memory with the guarantees that POSIX gives and no more: content is durable after
 * `sync` of the file, names after `syncDirectory`; what was not synced may be there or not, torn or
 * as zeros.
 */
export class FaultyFiles implements TableFiles {
  readonly path = "memory:";
  #names = new Map<string, Node>();
  #durableNames = new Map<string, Node>();
  #changes: NameChange[] = [];
  #lost = false;
  /** Calls that change something, so far. */
  calls = 0;
  /** Asked before each of them. */
  fault: (call: number) => Fault = () => "none";

  make(): void {}

  list(): string[] {
    this.#alive();
    return [...this.#names.keys()];
  }

  create(name: string): FileWriter {
    const node: Node = { durable: new Uint8Array(0), pending: [] };
    this.#change(() => this.#rename(new Map([[name, node]])));
    return {
      write: (bytes) => this.#change(() => void node.pending.push(bytes.slice())),
      sync: () =>
        this.#change(() => {
          node.durable = content(node);
          node.pending = [];
        }),
      close: () => this.#alive(),
    };
  }

  open(name: string): FileReader {
    this.#alive();
    const node = this.#names.get(name);
    if (node === undefined) throw new KisekiError("common.not_found", `open ${name}: ENOENT`);
    const bytes = content(node);
    return {
      sizeBytes: bytes.length,
      readAt: (offset, into) => {
        this.#alive();
        if (offset + into.length > bytes.length) {
          throw new KisekiError("table.corrupt", `${name} ends at ${bytes.length}`);
        }
        into.set(bytes.subarray(offset, offset + into.length));
      },
      close() {},
    };
  }

  rename(from: string, to: string): void {
    this.#change(() =>
      this.#rename(
        new Map<string, Node | undefined>([[from, undefined], [to, this.#names.get(from)]]),
      )
    );
  }

  remove(name: string): void {
    this.#change(() => this.#rename(new Map([[name, undefined]])));
  }

  syncDirectory(): void {
    this.#change(() => {
      this.#durableNames = new Map(this.#names);
      this.#changes = [];
    });
  }

  /** What a machine finds after the power came back; every unsynced thing by chance. */
  afterPowerCut(random: () => number): FaultyFiles {
    const names = new Map(this.#durableNames);
    for (const change of this.#changes) {
      if (random() < 0.5) continue;
      for (const [name, node] of change) {
        if (node === undefined) names.delete(name);
        else names.set(name, node);
      }
    }
    const after = new FaultyFiles();
    for (const [name, node] of names) {
      after.#names.set(name, { durable: tornContent(node, random), pending: [] });
    }
    after.#durableNames = new Map(after.#names);
    return after;
  }

  /** Content of a file, to be looked at. */
  read(name: string): Uint8Array | undefined {
    const node = this.#names.get(name);
    return node === undefined ? undefined : content(node);
  }

  /** Replaces a file's content durably, behind the table's back. */
  overwrite(name: string, bytes: Uint8Array): void {
    const node: Node = { durable: bytes.slice(), pending: [] };
    this.#names.set(name, node);
    this.#durableNames.set(name, node);
  }

  /** A copy of what is there now, as after an orderly stop. */
  copy(): FaultyFiles {
    const copy = new FaultyFiles();
    for (const [name, node] of this.#names) copy.overwrite(name, content(node));
    return copy;
  }

  #rename(change: NameChange): void {
    this.#changes.push(change);
    for (const [name, node] of change) {
      if (node === undefined) this.#names.delete(name);
      else this.#names.set(name, node);
    }
  }

  #change(action: () => void): void {
    this.#alive();
    const fault = this.fault(this.calls++);
    if (fault === "power") {
      this.#lost = true;
      throw new PowerLost("the power is gone");
    }
    if (fault !== "before") action();
    if (fault !== "none") throw new KisekiError("block.io", "injected: EIO");
  }

  #alive(): void {
    if (this.#lost) throw new PowerLost("the power is gone");
  }
}

function content(node: Node): Uint8Array {
  return node.pending.length === 0 ? node.durable : concatBytes(node.durable, ...node.pending);
}

function tornContent(node: Node, random: () => number): Uint8Array {
  const parts = [node.durable];
  for (const write of node.pending) {
    const chance = random();
    if (chance < 0.4) parts.push(write);
    else if (chance < 0.6) parts.push(new Uint8Array(write.length));
    else {
      parts.push(write.slice(0, Math.floor(random() * write.length)));
      break;
    }
  }
  return concatBytes(...parts);
}
