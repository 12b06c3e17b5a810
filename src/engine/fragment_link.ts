/**
 * Fragment stores across a link: the caller's side looks like a `FragmentStore`, the device
 * isolate's side answers with the real one. Bulk bytes stay where they lie in shared memory.
 *
 * Payloads: device id (16), then by method; a fragment header is encoded as in
 * {@link encodeFragmentHeader}. A place is offset u32 and length u32 in the link's bulk memory.
 */
import { ByteReader, type Bytes, ByteWriter, fromHex, toHex } from "../common/bytes.ts";
import {
  type ChunkId,
  chunkIdFromBytes,
  type DeviceId,
  idFromBytes,
  idToBytes,
  type OrganisationId,
} from "../common/ids.ts";
import type {
  DeviceUsage,
  Durability,
  FragmentHeader,
  FragmentRead,
  FragmentStore,
} from "../chunk/ports.ts";
import { WRAPPED_DEK_SIZE } from "../crypto/sealer.ts";
import { fragmentBytes } from "../chunk/durability.ts";
import type { SharedBulkMemory } from "./bulk_memory.ts";
import type { Link } from "./link.ts";
import { Method } from "./messages.ts";

const INCARNATION_BYTES = 8;
/** Headers in one answer of a listing. */
export const MAX_LISTED_FRAGMENTS = 4096;

/** Chunk 32, incarnation 8, organisation 16, fragment u16, scheme (u8, u8, u8), sizes, DEK 60. */
export function encodeFragmentHeader(writer: ByteWriter, header: FragmentHeader): void {
  writer.raw(fromHex(header.chunk)).raw(fromHex(header.incarnation))
    .raw(idToBytes(header.organisation)).u16(header.fragment);
  if (header.scheme.scheme === "copies") writer.u8(0).u8(header.scheme.copies).u8(0);
  else writer.u8(1).u8(header.scheme.data).u8(header.scheme.parity);
  writer.u32(header.envelopeBytes).u32(header.plaintextBytes).int(header.placementVersion)
    .int(header.writtenMs).raw(header.wrappedDek);
}

/** The inverse of {@link encodeFragmentHeader}; bytes are copied. */
export function decodeFragmentHeader(reader: ByteReader): FragmentHeader {
  const chunk = chunkIdFromBytes(reader.raw(32));
  const incarnation = toHex(reader.raw(INCARNATION_BYTES));
  const organisation = idFromBytes<OrganisationId>(reader.raw(16));
  const fragment = reader.u16();
  const kind = reader.u8();
  const first = reader.u8();
  const second = reader.u8();
  const scheme: Durability = kind === 0
    ? { scheme: "copies", copies: first }
    : { scheme: "erasure", data: first, parity: second };
  return {
    chunk,
    incarnation,
    organisation,
    fragment,
    scheme,
    envelopeBytes: reader.u32(),
    plaintextBytes: reader.u32(),
    placementVersion: reader.int(),
    writtenMs: reader.int(),
    wrappedDek: reader.raw(WRAPPED_DEK_SIZE).slice(),
  };
}

/** The caller's side for one device. */
export class RemoteFragmentStore implements FragmentStore {
  readonly device: DeviceId;
  readonly #link: Link;
  readonly #bulk: SharedBulkMemory;

  constructor(device: DeviceId, link: Link, bulk: SharedBulkMemory) {
    this.device = device;
    this.#link = link;
    this.#bulk = bulk;
  }

  async put(header: FragmentHeader, data: Bytes): Promise<void> {
    const writer = this.#request();
    encodeFragmentHeader(writer, header);
    await this.#withShared(data, true, async (place) => {
      writer.u32(place.byteOffset).u32(place.length);
      await this.#link.call(Method.fragmentPut, writer.finish());
    });
  }

  async get(
    chunk: ChunkId,
    incarnation: string,
    fragment: number,
    offset: number,
    length?: number,
    into?: Bytes,
  ): Promise<FragmentRead | undefined> {
    let size = length ?? into?.length;
    if (size === undefined) {
      const header = await this.head(chunk, incarnation, fragment);
      if (header === undefined) return undefined;
      size = fragmentBytes(header.scheme, header.envelopeBytes) - offset;
    }
    const target = into ?? new Uint8Array(size);
    const writer = this.#request();
    fragmentId(writer, chunk, incarnation, fragment).u32(offset);
    return await this.#withShared(target, false, async (place) => {
      writer.u32(place.byteOffset).u32(place.length);
      const answer = await this.#link.call(Method.fragmentGet, writer.finish());
      if (answer.length === 0) return undefined;
      const header = decodeFragmentHeader(new ByteReader(answer, "fragment answer"));
      if (place !== target) target.set(place);
      return { header, data: target };
    });
  }

  async head(
    chunk: ChunkId,
    incarnation: string,
    fragment: number,
  ): Promise<FragmentHeader | undefined> {
    const request = fragmentId(this.#request(), chunk, incarnation, fragment).finish();
    const answer = await this.#link.call(Method.fragmentHead, request);
    if (answer.length === 0) return undefined;
    return decodeFragmentHeader(new ByteReader(answer, "fragment answer"));
  }

  async remove(chunk: ChunkId, incarnation: string, fragment: number): Promise<void> {
    const request = fragmentId(this.#request(), chunk, incarnation, fragment).finish();
    await this.#link.call(Method.fragmentRemove, request);
  }

  async rewrap(
    chunk: ChunkId,
    incarnation: string,
    fragment: number,
    wrappedDek: Bytes,
  ): Promise<void> {
    const request = fragmentId(this.#request(), chunk, incarnation, fragment).raw(wrappedDek)
      .finish();
    await this.#link.call(Method.fragmentRewrap, request);
  }

  async list(cursor: ChunkId | undefined, limit: number): Promise<readonly FragmentHeader[]> {
    const writer = this.#request().u32(Math.min(limit, MAX_LISTED_FRAGMENTS));
    if (cursor !== undefined) writer.raw(fromHex(cursor));
    const answer = await this.#link.call(Method.fragmentList, writer.finish());
    const reader = new ByteReader(answer, "fragment list");
    const headers: FragmentHeader[] = [];
    while (reader.remaining > 0) headers.push(decodeFragmentHeader(reader));
    return headers;
  }

  async usage(): Promise<DeviceUsage> {
    const answer = await this.#link.call(Method.deviceUsage, this.#request().finish());
    return JSON.parse(new TextDecoder().decode(answer)) as DeviceUsage;
  }

  #request(): ByteWriter {
    return new ByteWriter(256).raw(idToBytes(this.device));
  }

  /** Runs `use` with a view in shared memory that holds (or will hold) the bytes of `data`. */
  async #withShared<T>(
    data: Bytes,
    filled: boolean,
    use: (place: Bytes) => Promise<T>,
  ): Promise<T> {
    if (this.#bulk.placeOf(data) !== undefined) return await use(data);
    const shared = await this.#bulk.acquireShared(data.length);
    try {
      if (filled) shared.set(data);
      return await use(shared);
    } finally {
      this.#bulk.release(shared);
    }
  }
}

/** The device isolate's side: answers for `stores` on a link whose bulk memory is `bulk`. */
export function serveFragments(
  link: Link,
  stores: (device: DeviceId) => FragmentStore,
  bulk: SharedArrayBuffer,
): void {
  const open = (payload: Bytes): { reader: ByteReader; store: FragmentStore } => {
    const reader = new ByteReader(payload, "fragment request");
    return { reader, store: stores(idFromBytes<DeviceId>(reader.raw(16))) };
  };
  const none: Bytes = new Uint8Array(0);
  link.handle(Method.fragmentPut, async (payload) => {
    const { reader, store } = open(payload);
    const header = decodeFragmentHeader(reader);
    await store.put(header, placeIn(bulk, reader));
    return none;
  });
  link.handle(Method.fragmentGet, async (payload) => {
    const { reader, store } = open(payload);
    const [chunk, incarnation, fragment] = readFragmentId(reader);
    const offset = reader.u32();
    const into = placeIn(bulk, reader);
    const read = await store.get(chunk, incarnation, fragment, offset, into.length, into);
    if (read === undefined) return none;
    if (read.data.buffer !== into.buffer || read.data.byteOffset !== into.byteOffset) {
      into.set(read.data);
    }
    const writer = new ByteWriter(160);
    encodeFragmentHeader(writer, read.header);
    return writer.finish();
  });
  link.handle(Method.fragmentHead, async (payload) => {
    const { reader, store } = open(payload);
    const header = await store.head(...readFragmentId(reader));
    if (header === undefined) return none;
    const writer = new ByteWriter(160);
    encodeFragmentHeader(writer, header);
    return writer.finish();
  });
  link.handle(Method.fragmentRemove, async (payload) => {
    const { reader, store } = open(payload);
    await store.remove(...readFragmentId(reader));
    return none;
  });
  link.handle(Method.fragmentRewrap, async (payload) => {
    const { reader, store } = open(payload);
    const id = readFragmentId(reader);
    await store.rewrap(...id, reader.raw(WRAPPED_DEK_SIZE));
    return none;
  });
  link.handle(Method.fragmentList, async (payload) => {
    const { reader, store } = open(payload);
    const limit = Math.min(reader.u32(), MAX_LISTED_FRAGMENTS);
    const cursor = reader.remaining > 0 ? chunkIdFromBytes(reader.raw(32)) : undefined;
    const writer = new ByteWriter(4096);
    for (const header of await store.list(cursor, limit)) encodeFragmentHeader(writer, header);
    return writer.finish();
  });
  link.handle(Method.deviceUsage, async (payload) => {
    const { store } = open(payload);
    return new TextEncoder().encode(JSON.stringify(await store.usage()));
  });
}

function placeIn(bulk: SharedArrayBuffer, reader: ByteReader): Bytes {
  const offset = reader.u32();
  const length = reader.u32();
  if (offset + length > bulk.byteLength) throw reader.corrupt("a place outside the bulk memory");
  return new Uint8Array(bulk, offset, length);
}

function fragmentId(
  writer: ByteWriter,
  chunk: ChunkId,
  incarnation: string,
  fragment: number,
): ByteWriter {
  return writer.raw(fromHex(chunk)).raw(fromHex(incarnation)).u16(fragment);
}

function readFragmentId(reader: ByteReader): [ChunkId, string, number] {
  return [
    chunkIdFromBytes(reader.raw(32)),
    toHex(reader.raw(INCARNATION_BYTES)),
    reader.u16(),
  ];
}
