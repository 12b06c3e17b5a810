/**
 * The envelope's encoder and decoder. Layout table and associated data: `envelope_format.ts`.
 *
 * Each segment is sealed straight from the caller's plaintext into the caller's `out`; nothing is
 * copied. Invariants: the header, the organisation, the identity, the segment's index and the
 * number of segments are bound into every tag, so no segment opens in another place and no
 * envelope opens shortened; what fails to open leaves zeros in `out`, never part of a plaintext.
 *
 * Callers pass identities from `envelope_identity.ts`.
 */
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { OrganisationId } from "../common/ids.ts";
import {
  ENVELOPE_ALGORITHM_AES_256_GCM,
  ENVELOPE_HEADER_SIZE,
  ENVELOPE_VERSION,
  type EnvelopeKind,
} from "./envelope_format.ts";
import { IDENTITY_SIZE, writeHex } from "./envelope_identity.ts";
import { AEAD_OVERHEAD } from "./provider.ts";
import type { DataKey } from "./sealer.ts";

/** Segments are 2^6 to 2^30 bytes, or one of any size (0). */
export const MIN_SEGMENT_LOG2 = 6;
export const MAX_SEGMENT_LOG2 = 30;
/** Most plaintext of one envelope: lengths are C ints below. */
export const MAX_ENVELOPE_PLAINTEXT = 0x7fff_0000;

const ORGANISATION_AT = ENVELOPE_HEADER_SIZE;
const IDENTITY_AT = ORGANISATION_AT + 16;

/** The clear head of an envelope. */
export interface EnvelopeHeader {
  readonly kind: EnvelopeKind;
  readonly segmentLog2: number;
  /** Epochs when it was sealed; a re-wrapped DEK may name a later system epoch. */
  readonly systemEpoch: number;
  readonly tenantEpoch: number;
}

/** Which segments hold a range of the plaintext, and where they lie. */
export interface SegmentRange {
  readonly firstSegment: number;
  readonly count: number;
  /** Offset of the first segment's ciphertext from the start of the envelope. */
  readonly sealedOffset: number;
  /** Bytes from there to the end of the last segment's nonce. */
  readonly sealedLength: number;
  /** Plaintext offset of the first segment. */
  readonly plaintextOffset: number;
  /** Plaintext bytes of these segments. */
  readonly plaintextLength: number;
}

/** Number of segments of a plaintext: at least 1. */
export function segmentCount(plaintextLength: number, segmentLog2: number): number {
  if (segmentLog2 === 0 || plaintextLength === 0) return 1;
  return Math.ceil(plaintextLength / 2 ** segmentLog2);
}

/** Bytes of the envelope of a plaintext. */
export function sealedSize(plaintextLength: number, segmentLog2: number): number {
  const segments = segmentCount(plaintextLength, segmentLog2);
  return ENVELOPE_HEADER_SIZE + plaintextLength + segments * AEAD_OVERHEAD;
}

/** Bytes of plaintext of an envelope of this size; undefined when no plaintext gives this size. */
export function plaintextSize(sealedLength: number, segmentLog2: number): number | undefined {
  const body = sealedLength - ENVELOPE_HEADER_SIZE;
  if (body < AEAD_OVERHEAD) return undefined;
  if (segmentLog2 === 0) return body - AEAD_OVERHEAD;
  const segments = Math.ceil(body / (2 ** segmentLog2 + AEAD_OVERHEAD));
  const size = body - segments * AEAD_OVERHEAD;
  return size >= 0 && segmentCount(size, segmentLog2) === segments ? size : undefined;
}

/**
 * The segments that hold `length` bytes from `offset` of the plaintext.
 *
 * @throws KisekiError `common.invalid_argument` on an empty range or one beyond the plaintext.
 */
export function segmentRange(
  plaintextLength: number,
  segmentLog2: number,
  offset: number,
  length: number,
): SegmentRange {
  if (offset < 0 || length < 1 || offset + length > plaintextLength) {
    throw new KisekiError(
      "common.invalid_argument",
      `range ${offset}+${length} of a plaintext of ${plaintextLength} bytes`,
    );
  }
  const unit = segmentLog2 === 0 ? plaintextLength : 2 ** segmentLog2;
  const firstSegment = Math.floor(offset / unit);
  const count = Math.floor((offset + length - 1) / unit) - firstSegment + 1;
  const plaintextOffset = firstSegment * unit;
  const inRange = Math.min(plaintextLength, plaintextOffset + count * unit) - plaintextOffset;
  return {
    firstSegment,
    count,
    sealedOffset: ENVELOPE_HEADER_SIZE + firstSegment * (unit + AEAD_OVERHEAD),
    sealedLength: inRange + count * AEAD_OVERHEAD,
    plaintextOffset,
    plaintextLength: inRange,
  };
}

/**
 * Reads the clear head.
 *
 * @throws KisekiError `common.unsupported_version`, `common.corrupt_format`.
 */
export function readEnvelopeHeader(envelope: Bytes): EnvelopeHeader {
  if (envelope.length < ENVELOPE_HEADER_SIZE) {
    throw corrupt(`${envelope.length} bytes are no envelope`);
  }
  if (envelope[0] !== ENVELOPE_VERSION) {
    throw new KisekiError(
      "common.unsupported_version",
      `envelope version ${envelope[0]} (this build reads ${ENVELOPE_VERSION})`,
    );
  }
  if (envelope[1] !== ENVELOPE_ALGORITHM_AES_256_GCM) {
    throw new KisekiError(
      "common.unsupported_version",
      `envelope algorithm ${envelope[1]} (this build reads ${ENVELOPE_ALGORITHM_AES_256_GCM})`,
    );
  }
  const kind = envelope[2] as EnvelopeKind;
  const segmentLog2 = envelope[3] as number;
  if (IDENTITY_SIZE[kind] === undefined) throw corrupt(`kind ${kind}`);
  if (!isSegmentLog2(segmentLog2)) throw corrupt(`segment size 2^${segmentLog2}`);
  return {
    kind,
    segmentLog2,
    systemEpoch: readU32(envelope, 4),
    tenantEpoch: readU32(envelope, 8),
  };
}

/**
 * Seals a plaintext into `out`, which may be larger than needed and may not overlap it.
 *
 * @param dataKey Gives the key and the epochs of the header.
 * @param identity Identity bytes of this kind.
 * @param segmentLog2 0 for one segment, else {@link MIN_SEGMENT_LOG2} to {@link MAX_SEGMENT_LOG2}.
 * @returns bytes written: {@link sealedSize}.
 * @throws KisekiError `common.invalid_argument`, `ffi.call_failed`.
 */
export function sealEnvelope(
  dataKey: DataKey,
  kind: EnvelopeKind,
  organisation: OrganisationId,
  identity: Bytes,
  plaintext: Bytes,
  segmentLog2: number,
  out: Bytes,
): number {
  if (!isSegmentLog2(segmentLog2)) throw invalid(`segment size 2^${segmentLog2}`);
  const size = plaintext.length;
  if (size > MAX_ENVELOPE_PLAINTEXT) throw invalid(`a plaintext of ${size} bytes`);
  const total = sealedSize(size, segmentLog2);
  if (out.length < total) throw invalid(`${out.length} bytes of room for ${total}`);
  const segments = segmentCount(size, segmentLog2);
  out[0] = ENVELOPE_VERSION;
  out[1] = ENVELOPE_ALGORITHM_AES_256_GCM;
  out[2] = kind;
  out[3] = segmentLog2;
  writeU32(out, 4, dataKey.systemEpoch);
  writeU32(out, 8, dataKey.tenantEpoch);
  const associated = associatedData(out, organisation, kind, identity, segments);
  const aead = dataKey.aead;
  if (segments === 1) {
    return ENVELOPE_HEADER_SIZE +
      aead.seal(plaintext, associated, out.subarray(ENVELOPE_HEADER_SIZE));
  }
  const unit = 2 ** segmentLog2;
  const indexAt = associated.length - 8;
  let at = ENVELOPE_HEADER_SIZE;
  for (let i = 0; i < segments; i++) {
    writeU32(associated, indexAt, i);
    at += aead.seal(plaintext.subarray(i * unit, (i + 1) * unit), associated, out.subarray(at));
  }
  return at;
}

/**
 * Opens a whole envelope into `out`, which holds at least its plaintext and may not overlap it.
 *
 * @returns bytes of plaintext.
 * @throws KisekiError `crypto.open_failed` when it was changed, moved or is of another kind;
 *   `common.unsupported_version`, `common.corrupt_format` for a head that is none.
 */
export function openEnvelope(
  dataKey: DataKey,
  kind: EnvelopeKind,
  organisation: OrganisationId,
  identity: Bytes,
  envelope: Bytes,
  out: Bytes,
): number {
  const { segmentLog2 } = readEnvelopeHeader(envelope);
  const size = plaintextSize(envelope.length, segmentLog2);
  if (size === undefined) throw corrupt(`${envelope.length} bytes fit no plaintext`);
  const segments = segmentCount(size, segmentLog2);
  const body = envelope.subarray(ENVELOPE_HEADER_SIZE);
  return openEnvelopeRange(
    dataKey,
    kind,
    organisation,
    identity,
    envelope,
    body,
    0,
    segments,
    size,
    out,
  );
}

/**
 * Opens some segments of an envelope: for range reads of chunks. See {@link segmentRange}.
 *
 * @param header The envelope's first {@link ENVELOPE_HEADER_SIZE} bytes (more are ignored).
 * @param sealed Exactly the bytes of these segments.
 * @param plaintextLength Of the whole plaintext: it is bound into every segment's tag.
 * @param out Holds at least the plaintext of these segments; may not overlap `sealed`.
 * @returns bytes of plaintext.
 * @throws KisekiError `crypto.open_failed`, `common.unsupported_version`, `common.corrupt_format`,
 *   `common.invalid_argument`.
 */
export function openEnvelopeRange(
  dataKey: DataKey,
  kind: EnvelopeKind,
  organisation: OrganisationId,
  identity: Bytes,
  header: Bytes,
  sealed: Bytes,
  firstSegment: number,
  count: number,
  plaintextLength: number,
  out: Bytes,
): number {
  const head = readEnvelopeHeader(header);
  if (head.kind !== kind) {
    throw new KisekiError(
      "crypto.open_failed",
      `an envelope of kind ${head.kind} where kind ${kind} belongs`,
    );
  }
  const segments = segmentCount(plaintextLength, head.segmentLog2);
  if (firstSegment < 0 || count < 1 || firstSegment + count > segments) {
    throw invalid(`segments ${firstSegment}+${count} of ${segments}`);
  }
  const unit = head.segmentLog2 === 0 ? plaintextLength : 2 ** head.segmentLog2;
  const start = firstSegment * unit;
  const size = Math.min(plaintextLength, start + count * unit) - start;
  if (sealed.length !== size + count * AEAD_OVERHEAD) {
    throw corrupt(`${sealed.length} bytes for ${count} segments of ${size} bytes`);
  }
  if (out.length < size) throw invalid(`${out.length} bytes of room for ${size}`);
  const associated = associatedData(header, organisation, kind, identity, segments);
  const indexAt = associated.length - 8;
  const aead = dataKey.aead;
  let from = 0;
  let to = 0;
  try {
    for (let i = 0; i < count; i++) {
      writeU32(associated, indexAt, firstSegment + i);
      const part = Math.min(unit, size - to);
      const next = from + part + AEAD_OVERHEAD;
      to += aead.open(sealed.subarray(from, next), associated, out.subarray(to, to + part));
      from = next;
    }
  } catch (error) {
    out.fill(0, 0, size);
    throw error;
  }
  return size;
}

function associatedData(
  header: Bytes,
  organisation: OrganisationId,
  kind: EnvelopeKind,
  identity: Bytes,
  segments: number,
): Uint8Array {
  const wanted = IDENTITY_SIZE[kind];
  if (identity.length !== wanted) {
    throw invalid(`an identity of ${identity.length} bytes for kind ${kind} (${wanted} wanted)`);
  }
  const out = new Uint8Array(IDENTITY_AT + wanted + 8);
  for (let i = 0; i < ENVELOPE_HEADER_SIZE; i++) out[i] = header[i] as number;
  writeHex(organisation, 16, out, ORGANISATION_AT);
  out.set(identity, IDENTITY_AT);
  writeU32(out, IDENTITY_AT + wanted + 4, segments);
  return out;
}

function isSegmentLog2(value: number): boolean {
  return value === 0 ||
    (Number.isInteger(value) && value >= MIN_SEGMENT_LOG2 && value <= MAX_SEGMENT_LOG2);
}

function writeU32(out: Bytes, at: number, value: number): void {
  out[at] = value;
  out[at + 1] = value >>> 8;
  out[at + 2] = value >>> 16;
  out[at + 3] = value >>> 24;
}

function readU32(bytes: Bytes, at: number): number {
  return ((bytes[at] as number) | ((bytes[at + 1] as number) << 8) |
    ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24)) >>> 0;
}

function corrupt(what: string): KisekiError {
  return new KisekiError("common.corrupt_format", `envelope: ${what}`);
}

function invalid(what: string): KisekiError {
  return new KisekiError("common.invalid_argument", `envelope: ${what}`);
}
