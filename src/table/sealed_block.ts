/**
 * Envelopes of kind runBlock: seals and opens one block of a run in its place.
 *
 * The layout is that of `crypto/envelope_format.ts`, in one segment. Run id and position are in the
 * associated data, so no block opens in another's place or in another run. Everything but the
 * position is laid out once per run: sealing a block costs no allocation.
 */
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { idToBytes, type OrganisationId } from "../common/ids.ts";
import {
  ENVELOPE_ALGORITHM_AES_256_GCM,
  ENVELOPE_HEADER_SIZE,
  ENVELOPE_VERSION,
  EnvelopeKind,
} from "../crypto/envelope_format.ts";
import { type Aead, AEAD_NONCE_SIZE, AEAD_OVERHEAD, AEAD_TAG_SIZE } from "../crypto/provider.ts";

/** Bytes that sealing adds to a block. */
export const BLOCK_OVERHEAD = ENVELOPE_HEADER_SIZE + AEAD_OVERHEAD;

const EPOCHS_OFFSET = 4;
const POSITION_OFFSET = ENVELOPE_HEADER_SIZE + 16 + 16;

/** Keys and epochs of one run or of one manifest record. */
export interface BlockKey {
  readonly aead: Aead;
  readonly systemEpoch: number;
  readonly tenantEpoch: number;
  release(): void;
}

export class BlockSealer {
  readonly #key: BlockKey;
  readonly #header: Uint8Array;
  readonly #associatedData: Uint8Array;
  readonly #view: DataView;

  /** @param owner Run id (kind runBlock) or table id (kind manifest). */
  constructor(
    kind: EnvelopeKind,
    key: BlockKey,
    organisation: OrganisationId,
    owner: string,
  ) {
    this.#key = key;
    this.#associatedData = new Uint8Array(POSITION_OFFSET + 8 + 8);
    this.#view = new DataView(this.#associatedData.buffer);
    this.#header = new Uint8Array(ENVELOPE_HEADER_SIZE);
    this.#header.set([ENVELOPE_VERSION, ENVELOPE_ALGORITHM_AES_256_GCM, kind, 0]);
    const header = new DataView(this.#header.buffer);
    header.setUint32(EPOCHS_OFFSET, key.systemEpoch, true);
    header.setUint32(EPOCHS_OFFSET + 4, key.tenantEpoch, true);
    this.#associatedData.set(idToBytes(organisation), ENVELOPE_HEADER_SIZE);
    this.#associatedData.set(idToBytes(owner), ENVELOPE_HEADER_SIZE + 16);
    this.#view.setUint32(POSITION_OFFSET + 12, 1, true);
  }

  /**
   * Seals `plaintext` into `out`, which holds `plaintext.length + BLOCK_OVERHEAD` bytes.
   *
   * @returns bytes written.
   */
  seal(position: bigint, plaintext: Bytes, out: Bytes): number {
    this.#view.setBigUint64(POSITION_OFFSET, position, true);
    this.#associatedData.set(this.#header, 0);
    out.set(this.#header, 0);
    return ENVELOPE_HEADER_SIZE +
      this.#key.aead.seal(plaintext, this.#associatedData, out.subarray(ENVELOPE_HEADER_SIZE));
  }

  /**
   * Opens an envelope into `out`, which holds `sealed.length - BLOCK_OVERHEAD` bytes.
   *
   * @throws KisekiError `crypto.open_failed`, `common.unsupported_version`.
   */
  open(position: bigint, sealed: Bytes, out: Bytes): void {
    if (sealed.length < BLOCK_OVERHEAD) {
      throw new KisekiError("crypto.open_failed", "an envelope shorter than its own header");
    }
    for (let i = 0; i < EPOCHS_OFFSET; i++) {
      if (sealed[i] === this.#header[i]) continue;
      if (i === 0) {
        throw new KisekiError(
          "common.unsupported_version",
          `envelope version ${sealed[0]} (this build reads ${ENVELOPE_VERSION})`,
        );
      }
      throw new KisekiError("crypto.open_failed", "an envelope of another kind");
    }
    // The epochs are those of the seal: the key may have been wrapped anew since.
    for (let i = 0; i < ENVELOPE_HEADER_SIZE; i++) this.#associatedData[i] = sealed[i] as number;
    this.#view.setBigUint64(POSITION_OFFSET, position, true);
    this.#key.aead.open(sealed.subarray(ENVELOPE_HEADER_SIZE), this.#associatedData, out);
  }

  release(): void {
    this.#key.release();
  }
}

/** The authentication tag of a sealed block, as a view. */
export function tagOf(sealed: Bytes): Bytes {
  const end = sealed.length - AEAD_NONCE_SIZE;
  return sealed.subarray(end - AEAD_TAG_SIZE, end);
}
