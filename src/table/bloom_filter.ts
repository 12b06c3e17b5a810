/**
 * A Bloom filter over keys: 10 bits a key, 7 probes by double hashing (Kirsch and Mitzenmacher,
 * 2006), about 0.8 % false positives.
 *
 * Layout: probes u32 | bits u32 | the bits, bit i in byte i >> 3, least significant first.
 * Probe i of a key is bit (first + i * second mod 2^32) mod bits.
 */
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";

const BITS_PER_KEY = 10;
const PROBES = 7;
const HEADER_BYTES = 8;
const MAX_BITS = 0xffff_fff8;

/** Two 32-bit hashes of a key, computed once for all the filters that a lookup asks. */
export class KeyHash {
  first = 0;
  second = 0;

  /** Hashes `bytes[start..end)`: two MurmurHash3 x86 lanes with different seeds and constants. */
  of(bytes: Bytes, start: number, end: number): this {
    let a = 0x9747b28c;
    let b = 0x3c6ef372;
    let i = start;
    for (; i + 4 <= end; i += 4) {
      const word = (bytes[i] as number) | ((bytes[i + 1] as number) << 8) |
        ((bytes[i + 2] as number) << 16) | ((bytes[i + 3] as number) << 24);
      let k = Math.imul(word, 0xcc9e2d51);
      k = (k << 15) | (k >>> 17);
      a ^= Math.imul(k, 0x1b873593);
      a = (a << 13) | (a >>> 19);
      a = (Math.imul(a, 5) + 0xe6546b64) | 0;
      k = Math.imul(word, 0x85ebca77);
      k = (k << 17) | (k >>> 15);
      b ^= Math.imul(k, 0xc2b2ae3d);
      b = (b << 11) | (b >>> 21);
      b = (Math.imul(b, 3) + 0x561ccd1b) | 0;
    }
    let tail = 0;
    for (let shift = 0; i < end; i++, shift += 8) tail |= (bytes[i] as number) << shift;
    a ^= Math.imul(tail, 0xcc9e2d51) ^ (end - start);
    b ^= Math.imul(tail, 0x85ebca77) ^ (end - start);
    this.first = mix(a);
    this.second = (mix(b) | 1) >>> 0;
    return this;
  }
}

function mix(value: number): number {
  let h = value;
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

export class BloomFilter {
  readonly bytes: Bytes;
  readonly #bits: number;
  readonly #probes: number;

  private constructor(bytes: Bytes, bits: number, probes: number) {
    this.bytes = bytes;
    this.#bits = bits;
    this.#probes = probes;
  }

  /** An empty filter for about `keys` keys. */
  static forKeys(keys: number): BloomFilter {
    const bits = Math.min(MAX_BITS, Math.max(64, Math.ceil(keys * BITS_PER_KEY / 8) * 8));
    const bytes = new Uint8Array(HEADER_BYTES + bits / 8);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, PROBES, true);
    view.setUint32(4, bits, true);
    return new BloomFilter(bytes, bits, PROBES);
  }

  /** @throws KisekiError `common.corrupt_format`. */
  static parse(bytes: Bytes): BloomFilter {
    if (bytes.length > HEADER_BYTES) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const probes = view.getUint32(0, true);
      const bits = view.getUint32(4, true);
      if (bits > 0 && bits === (bytes.length - HEADER_BYTES) * 8 && probes >= 1 && probes <= 30) {
        return new BloomFilter(bytes, bits, probes);
      }
    }
    throw new KisekiError("common.corrupt_format", "Bloom filter: sizes that do not agree");
  }

  add(hash: KeyHash): void {
    let h = hash.first;
    for (let i = 0; i < this.#probes; i++) {
      const bit = h % this.#bits;
      const at = HEADER_BYTES + Math.floor(bit / 8);
      this.bytes[at] = (this.bytes[at] as number) | (1 << (bit & 7));
      h = (h + hash.second) >>> 0;
    }
  }

  /** False only when the key was never added. */
  mayContain(hash: KeyHash): boolean {
    let h = hash.first;
    for (let i = 0; i < this.#probes; i++) {
      const bit = h % this.#bits;
      if (((this.bytes[HEADER_BYTES + (bit >>> 3)] as number) & (1 << (bit & 7))) === 0) {
        return false;
      }
      h = (h + hash.second) >>> 0;
    }
    return true;
  }
}
