/**
 * Keys of this room's rows, from raw ids: the layout of `src/log/row_key.ts` without hex on the
 * hot path.
 *
 * Owners: directory rows, entries and versions belong to their directory; uploads to the root
 * directory of the namespace, by full key, so that uploads list in key order; upload parts to the
 * upload; extents, inline content and composition parts to the composition; staged rows to the
 * placement id, so that maintenance finds them by one range for each placement.
 */
import { type Bytes, concatBytes, prefixEnd } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { KEY_PREFIX_BYTES, RecordType, ROUTING_KEY_BYTES } from "../log/row_key.ts";

/** SHA-256, one-shot. */
export type Sha256 = (bytes: Bytes) => Bytes;

/** Routing keys of placement ids, remembered (bounded). */
export class Routing {
  readonly #sha256: Sha256;
  readonly #known = new Map<string, Bytes>();

  constructor(sha256: Sha256) {
    this.#sha256 = sha256;
  }

  of(placement: Bytes): Bytes {
    let name = "";
    for (let i = 0; i < placement.length; i++) name += String.fromCharCode(placement[i] as number);
    let key = this.#known.get(name);
    if (key === undefined) {
      if (this.#known.size >= 4096) this.#known.clear();
      key = this.#sha256(placement).slice(0, ROUTING_KEY_BYTES);
      this.#known.set(name, key);
    }
    return key;
  }
}

/** Row key of a raw owner id. */
export function keyOf(
  routing: Bytes,
  owner: Bytes,
  type: RecordType,
  ...suffix: readonly Bytes[]
): Bytes {
  if (owner.length !== 16) {
    throw new KisekiError("common.corrupt_format", `an id of ${owner.length} bytes (16 wanted)`);
  }
  let size = KEY_PREFIX_BYTES;
  for (const part of suffix) size += part.length;
  const key = new Uint8Array(size);
  key.set(routing, 0);
  key.set(owner, ROUTING_KEY_BYTES);
  key[KEY_PREFIX_BYTES - 1] = type;
  let offset = KEY_PREFIX_BYTES;
  for (const part of suffix) {
    key.set(part, offset);
    offset += part.length;
  }
  return key;
}

/** End of the range of keys that start with `key`. */
export function endOf(key: Bytes): Bytes {
  return prefixEnd(key) ?? concatBytes(key, new Uint8Array(4096).fill(0xff));
}

export function u16be(value: number): Bytes {
  return Uint8Array.of(value >>> 8, value & 0xff);
}

export function u32be(value: number): Bytes {
  return Uint8Array.of(value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff);
}

export function u64be(value: number): Bytes {
  const out = new Uint8Array(8);
  const view = new DataView(out.buffer);
  view.setUint32(0, Math.floor(value / 0x1_0000_0000));
  view.setUint32(4, value % 0x1_0000_0000);
  return out;
}

export function readU64be(bytes: Bytes, offset: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return view.getUint32(offset) * 0x1_0000_0000 + view.getUint32(offset + 4);
}

/** Suffix of a version row after the escaped name: inverted sequence, tail of the version id. */
export function versionSuffix(versionId: Bytes): Bytes {
  const out = versionId.slice(0, 16);
  for (let i = 0; i < 8; i++) out[i] = 0xff - (out[i] as number);
  return out;
}

/** A version id: timestamp (8, big-endian), then 8 random bytes. */
export function newVersionId(timestamp: bigint, random: Bytes): Bytes {
  const out = new Uint8Array(16);
  new DataView(out.buffer).setBigUint64(0, timestamp);
  out.set(random.subarray(0, 8), 8);
  return out;
}
