/**
 * Reading chunks: from the devices that are recorded, around what fails, rebuilt where it must be.
 *
 * Invariants: every byte returned was checked by the device against its checksums; fragments of two
 * incarnations never meet; what fails is reported, once a read; a read asks for no more than the
 * range needs as long as nothing fails.
 */
import type { Bytes } from "../common/bytes.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { ChunkId, DeviceId } from "../common/ids.ts";
import type { DevicePool } from "./device_pool.ts";
import { fragmentBytes, fragmentCount } from "./durability.ts";
import type { ErasureCoder, ErasureScheme, NumberedFragment } from "./erasure_code.ts";
import type { Finding, FindingSink } from "./finding.ts";
import type {
  BulkMemory,
  ChunkRead,
  ChunkRecord,
  Durability,
  FragmentRead,
  FragmentStore,
} from "./ports.ts";

/** What a reader needs. */
export interface ReaderParts {
  readonly stores: ReadonlyMap<DeviceId, FragmentStore>;
  readonly coder: ErasureCoder;
  readonly memory: BulkMemory;
  readonly report: FindingSink;
}

/** A range inside fragments. */
interface Span {
  readonly from: number;
  readonly to: number;
}

/**
 * Bytes `offset` to `offset + length` of a chunk's envelope.
 *
 * @param pool Whose devices are asked, and how healthy they are; undefined: only those recorded.
 * @throws KisekiError `chunk.not_found` when no device holds any of it, `chunk.unreadable`,
 *   `common.invalid_argument`.
 */
export async function readChunk(
  parts: ReaderParts,
  pool: DevicePool | undefined,
  chunk: ChunkId,
  record: ChunkRecord,
  offset: number,
  length: number,
): Promise<ChunkRead> {
  if (offset < 0 || length < 0 || offset + length > record.envelopeBytes) {
    throw new KisekiError(
      "common.invalid_argument",
      `bytes ${offset}+${length} of a chunk of ${record.envelopeBytes}`,
    );
  }
  const data = parts.memory.acquire(length);
  try {
    const reader = new ChunkReader(parts, pool, chunk, record);
    const wrappedDek = await reader.read(offset, data);
    return { wrappedDek, data, release: once(() => parts.memory.release(data)) };
  } catch (error) {
    parts.memory.release(data);
    throw error;
  }
}

/** One read of one chunk. */
export class ChunkReader {
  readonly #reported = new Set<string>();
  #wrappedDek: Bytes | undefined;
  #failures = 0;

  constructor(
    private readonly parts: ReaderParts,
    private readonly pool: DevicePool | undefined,
    private readonly chunk: ChunkId,
    private readonly record: ChunkRecord,
  ) {}

  /** Fills `out` with the envelope's bytes from `offset` on. @returns the wrapped DEK. */
  async read(offset: number, out: Bytes): Promise<Bytes> {
    const scheme = this.record.scheme;
    if (scheme.scheme === "copies") await this.#readCopy(scheme.copies, offset, out);
    else await this.#readErasure(scheme, offset, out);
    if (this.#wrappedDek === undefined) throw this.#unreadable();
    return this.#wrappedDek;
  }

  async #readCopy(copies: number, offset: number, out: Bytes): Promise<void> {
    for (const fragment of this.#healthyFirst(copies)) {
      if (await this.fragment(fragment, offset, out)) return;
    }
    for (let fragment = 0; fragment < copies; fragment++) {
      if (await this.elsewhere(fragment, offset, out)) return;
    }
    throw this.#unreadable();
  }

  async #readErasure(
    scheme: Durability & ErasureScheme,
    offset: number,
    out: Bytes,
  ): Promise<void> {
    const size = fragmentBytes(scheme, this.record.envelopeBytes);
    const wanted = dataSpans(offset, out.length, size);
    const good = await Promise.all(
      wanted.map(({ fragment, from, to, at }) =>
        this.fragment(fragment, from, out.subarray(at, at + to - from))
      ),
    );
    const lost = wanted.filter((_, i) => good[i] !== true);
    if (lost.length === 0) {
      // A range of nothing still tells the key.
      if (wanted.length === 0) await this.#readNothing(scheme);
      return;
    }
    const span = {
      from: Math.min(...lost.map((part) => part.from)),
      to: Math.max(...lost.map((part) => part.to)),
    };
    const buffers: Bytes[] = [];
    try {
      const bad = new Set(lost.map((part) => part.fragment));
      const from = await this.gather(span, bad, buffers);
      const rebuilt = lost.map(({ fragment }) => {
        const bytes = this.#buffer(span, buffers);
        return { fragment, bytes };
      });
      rebuild(this.parts.coder, scheme, from, rebuilt);
      lost.forEach(({ from: start, to, at }, i) => {
        const bytes = rebuilt[i]?.bytes;
        if (bytes !== undefined) out.set(bytes.subarray(start - span.from, to - span.from), at);
      });
    } finally {
      for (const buffer of buffers) this.parts.memory.release(buffer);
    }
  }

  async #readNothing(scheme: Durability): Promise<void> {
    for (let fragment = 0; fragment < fragmentCount(scheme); fragment++) {
      if (await this.fragment(fragment, 0, new Uint8Array(0))) return;
    }
    throw this.#unreadable();
  }

  /**
   * The same span of k fragments, none of them in `without`; the buffers go into `buffers`, whole or
   * not, for the caller to release.
   *
   * @throws KisekiError `chunk.not_found`, `chunk.unreadable`.
   */
  async gather(
    span: Span,
    without: ReadonlySet<number>,
    buffers: Bytes[],
  ): Promise<readonly NumberedFragment[]> {
    const scheme = this.record.scheme;
    const all = fragmentCount(scheme);
    const k = scheme.scheme === "copies" ? 1 : scheme.data;
    const have: NumberedFragment[] = [];
    const untried = this.#healthyFirst(all).filter((fragment) => !without.has(fragment));
    while (have.length < k && untried.length > 0) {
      const batch = untried.splice(0, k - have.length);
      have.push(...await this.#batch(batch, span, buffers, (...args) => this.fragment(...args)));
    }
    const found = new Set(have.map((part) => part.fragment));
    for (let fragment = 0; fragment < all && have.length < k; fragment++) {
      if (found.has(fragment)) continue;
      have.push(
        ...await this.#batch([fragment], span, buffers, (...args) => this.elsewhere(...args)),
      );
    }
    if (have.length < k) throw this.#unreadable();
    return have;
  }

  async #batch(
    fragments: readonly number[],
    span: Span,
    buffers: Bytes[],
    read: (fragment: number, offset: number, into: Bytes) => Promise<boolean>,
  ): Promise<NumberedFragment[]> {
    const parts = fragments.map((fragment) => ({ fragment, bytes: this.#buffer(span, buffers) }));
    const good = await Promise.all(parts.map((part) => read(part.fragment, span.from, part.bytes)));
    return parts.filter((_, i) => good[i] === true);
  }

  #buffer(span: Span, buffers: Bytes[]): Bytes {
    const bytes = this.parts.memory.acquire(span.to - span.from);
    buffers.push(bytes);
    return bytes;
  }

  /** Reads from the device that is recorded. @returns false when that fails, which is reported. */
  async fragment(fragment: number, offset: number, into: Bytes): Promise<boolean> {
    const device = this.record.placement[fragment];
    return device !== undefined && await this.#from(device, fragment, offset, into, true);
  }

  /** Reads from any other device of the pool: where repair put it before the record was changed. */
  async elsewhere(fragment: number, offset: number, into: Bytes): Promise<boolean> {
    const recorded = this.record.placement[fragment];
    for (const device of this.pool?.order(this.chunk) ?? this.record.placement) {
      if (device === recorded) continue;
      if (await this.#from(device, fragment, offset, into, false)) {
        this.#report("misplaced", fragment, device);
        return true;
      }
    }
    return false;
  }

  async #from(
    device: DeviceId,
    fragment: number,
    offset: number,
    into: Bytes,
    recorded: boolean,
  ): Promise<boolean> {
    const store = this.parts.stores.get(device);
    if (store === undefined) {
      if (recorded) this.#fail("unreadable", fragment, device);
      return false;
    }
    let read: FragmentRead | undefined;
    try {
      const { incarnation } = this.record;
      read = await store.get(this.chunk, incarnation, fragment, offset, into.length, into);
    } catch (error) {
      if (!isKisekiError(error)) throw error;
      const damaged = error.code === "block.checksum" || error.code === "common.corrupt_format";
      this.#fail(damaged ? "damaged" : "unreadable", fragment, device);
      return false;
    }
    if (read === undefined) {
      if (recorded) this.#report("missing", fragment, device);
      return false;
    }
    this.#wrappedDek ??= read.header.wrappedDek;
    return true;
  }

  #fail(kind: Finding["kind"], fragment: number, device: DeviceId): void {
    this.#failures++;
    this.#report(kind, fragment, device);
  }

  #report(kind: Finding["kind"], fragment: number, device: DeviceId): void {
    const key = `${kind}:${fragment}:${device}`;
    if (this.#reported.has(key)) return;
    this.#reported.add(key);
    this.parts.report({ kind, chunk: this.chunk, record: this.record, fragment, device });
  }

  /** Fragments on healthy devices first, in turn from one that the chunk's id chooses. */
  #healthyFirst(count: number): number[] {
    const start = Number.parseInt(this.chunk.slice(-4), 16) % count;
    const order = Array.from({ length: count }, (_, i) => (start + i) % count);
    const pool = this.pool;
    if (pool === undefined) return order;
    const rank = (fragment: number): number => {
      const device = this.record.placement[fragment];
      const state = device === undefined ? "lost" : pool.stateOf(device);
      return state === "lost" ? 2 : state === "failing" ? 1 : 0;
    };
    return order.sort((a, b) => rank(a) - rank(b));
  }

  #unreadable(): KisekiError {
    return this.#failures === 0 && this.#wrappedDek === undefined
      ? new KisekiError("chunk.not_found", `no device holds chunk ${this.chunk}`)
      : new KisekiError(
        "chunk.unreadable",
        `chunk ${this.chunk} cannot be rebuilt: too many of its fragments are lost or damaged`,
        { retriable: true, details: { chunk: this.chunk } },
      );
  }
}

/** Fills `wanted` from k fragments: a copy is copied, a code is solved. */
export function rebuild(
  coder: ErasureCoder,
  scheme: Durability,
  from: readonly NumberedFragment[],
  wanted: readonly NumberedFragment[],
): void {
  if (scheme.scheme === "erasure") return coder.rebuild(scheme, from, wanted);
  const [source] = from;
  if (source === undefined) throw new KisekiError("common.internal", "a copy of nothing");
  for (const { bytes } of wanted) bytes.set(source.bytes);
}

/** The parts of data fragments that hold a range of the envelope; `at` is their place in it. */
function dataSpans(
  offset: number,
  length: number,
  size: number,
): readonly { fragment: number; from: number; to: number; at: number }[] {
  const spans = [];
  for (let at = 0; at < length;) {
    const position = offset + at;
    const fragment = Math.floor(position / size);
    const from = position - fragment * size;
    const to = Math.min(size, from + length - at);
    spans.push({ fragment, from, to, at });
    at += to - from;
  }
  return spans;
}

function once(action: () => void): () => void {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    action();
  };
}
