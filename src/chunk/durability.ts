/**
 * What a pool's durability means in numbers: how many fragments, how big, how many to read, how
 * many to acknowledge; and its three bytes on disk.
 */
import type { ByteReader, ByteWriter } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { Durability } from "./ports.ts";

export const MAX_COPIES = 5;
export const MIN_DATA_FRAGMENTS = 2;
export const MAX_DATA_FRAGMENTS = 16;
export const MAX_PARITY_FRAGMENTS = 8;
/** Fragments of an erasure code are whole multiples of this, the widest vector register. */
export const FRAGMENT_ALIGNMENT = 64;

/** @returns what is wrong with it, or undefined. */
export function durabilityProblem(scheme: Durability): string | undefined {
  const within = (value: number, least: number, most: number) =>
    Number.isInteger(value) && value >= least && value <= most;
  if (scheme.scheme === "copies") {
    return within(scheme.copies, 1, MAX_COPIES)
      ? undefined
      : `${scheme.copies} copies (1 to ${MAX_COPIES} are possible)`;
  }
  if (!within(scheme.data, MIN_DATA_FRAGMENTS, MAX_DATA_FRAGMENTS)) {
    return `${scheme.data} data fragments (${MIN_DATA_FRAGMENTS} to ${MAX_DATA_FRAGMENTS})`;
  }
  return within(scheme.parity, 1, MAX_PARITY_FRAGMENTS)
    ? undefined
    : `${scheme.parity} parity fragments (1 to ${MAX_PARITY_FRAGMENTS})`;
}

/** How many fragments a chunk has. */
export function fragmentCount(scheme: Durability): number {
  return scheme.scheme === "copies" ? scheme.copies : scheme.data + scheme.parity;
}

/** How many fragments are needed to read a chunk. */
export function readQuorum(scheme: Durability): number {
  return scheme.scheme === "copies" ? 1 : scheme.data;
}

/**
 * How many fragments must be durable before a write may be acknowledged at all: a majority of
 * copies, k+1 of an erasure code.
 */
export function writeQuorum(scheme: Durability): number {
  return scheme.scheme === "copies" ? Math.floor(scheme.copies / 2) + 1 : scheme.data + 1;
}

/** Length of each fragment of an envelope. */
export function fragmentBytes(scheme: Durability, envelopeBytes: number): number {
  if (scheme.scheme === "copies") return envelopeBytes;
  const part = Math.ceil(envelopeBytes / scheme.data);
  return Math.ceil(part / FRAGMENT_ALIGNMENT) * FRAGMENT_ALIGNMENT;
}

/** True when both are the same scheme with the same numbers. */
export function sameDurability(a: Durability, b: Durability): boolean {
  if (a.scheme === "copies") return b.scheme === "copies" && a.copies === b.copies;
  return b.scheme === "erasure" && a.data === b.data && a.parity === b.parity;
}

/** Three bytes: kind (1 copies, 2 erasure), copies or data fragments, 0 or parity fragments. */
export function writeDurability(writer: ByteWriter, scheme: Durability): void {
  if (scheme.scheme === "copies") writer.u8(1).u8(scheme.copies).u8(0);
  else writer.u8(2).u8(scheme.data).u8(scheme.parity);
}

/** @throws KisekiError `common.corrupt_format`. */
export function readDurability(reader: ByteReader): Durability {
  const kind = reader.u8();
  const first = reader.u8();
  const second = reader.u8();
  if (kind !== 1 && kind !== 2) throw reader.corrupt(`unknown durability ${kind}`);
  if (kind === 1 && second !== 0) throw reader.corrupt("copies with parity");
  const scheme: Durability = kind === 1
    ? { scheme: "copies", copies: first }
    : { scheme: "erasure", data: first, parity: second };
  const problem = durabilityProblem(scheme);
  if (problem !== undefined) throw reader.corrupt(problem);
  return scheme;
}

/** @throws KisekiError `common.invalid_argument`. */
export function requireDurability(scheme: Durability): void {
  const problem = durabilityProblem(scheme);
  if (problem !== undefined) throw new KisekiError("common.invalid_argument", problem);
}
