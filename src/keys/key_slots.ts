/**
 * The slot file as a set of records: opened, repaired, overwritten, destroyed. Format:
 * `key_slot_format.ts`.
 *
 * Invariants: a record is durable in both copies before `put`, `replace` or `destroy` resolves;
 * at any instant one copy of every slot is whole; a destroyed record leaves no key bytes in either
 * copy. After a write or a sync that failed nobody knows what the disk holds, so nothing more is
 * written until the file is opened anew: a second try would leave two records of one number.
 * One operation runs at a time: the caller sees to that.
 */
import { type Bytes, constantTimeEqual, utf8 } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { openEnvelope, sealedSize, sealEnvelope } from "../crypto/envelope.ts";
import { EnvelopeKind } from "../crypto/envelope_format.ts";
import { keySlotIdentity } from "../crypto/envelope_identity.ts";
import type { Aead, CryptoProvider } from "../crypto/provider.ts";
import { secretBytes } from "../crypto/provider_checks.ts";
import { type DataKey, SYSTEM_ORGANISATION } from "../crypto/sealer.ts";
import {
  decodeKeyRecord,
  decodeSlot,
  decodeSlotFileHeader,
  encodeKeyRecord,
  encodeSlot,
  encodeSlotFileHeader,
  KEY_RECORD_SIZE,
  type KeyRecord,
  MAX_SLOTS,
  SLOT_PAGE_SIZE,
  SLOT_SIZE,
  type SlotCopy,
  slotIdentityName,
  slotOffsets,
  SLOTS_PER_PAGE,
  slotsOfFile,
} from "./key_slot_format.ts";
import type { SlotStorage } from "./slot_storage.ts";

/** A record and the slot that holds it. */
export interface StoredRecord {
  readonly slot: number;
  readonly record: KeyRecord;
}

const CHECK_LABEL = utf8("kiseki key slots check 1");
const SEAL_LABEL = utf8("kiseki key slots 1");
const NO_BYTES = new Uint8Array(0);

/** The content of a new slot file: two header pages. */
export function newSlotFile(provider: CryptoProvider, rootKey: Bytes, nowMs: number): Bytes {
  const fileId = new Uint8Array(16);
  provider.random(fileId);
  const keyCheck = provider.hkdfSha256(rootKey, fileId, CHECK_LABEL, 16);
  const crc32c = (bytes: Bytes): number => provider.crc32c(bytes);
  const page = encodeSlotFileHeader(
    { fileId, keyCheck, createdMs: Math.floor(nowMs) },
    crc32c,
  );
  const out = new Uint8Array(2 * SLOT_PAGE_SIZE);
  out.set(page);
  out.set(page, SLOT_PAGE_SIZE);
  return out;
}

/** The open slot file. */
export class KeySlots {
  readonly #provider: CryptoProvider;
  readonly #storage: SlotStorage;
  readonly #sealing: DataKey;
  readonly #crc32c = (bytes: Bytes): number => this.#provider.crc32c(bytes);
  /** Generation by slot; 0 = never used. */
  readonly #generations: bigint[] = [];
  readonly #free: number[] = [];
  #inDoubt = false;

  private constructor(provider: CryptoProvider, storage: SlotStorage, aead: Aead) {
    this.#provider = provider;
    this.#storage = storage;
    this.#sealing = {
      wrapped: NO_BYTES,
      aead,
      systemEpoch: 0,
      tenantEpoch: 0,
      exportKey: () => {
        throw new KisekiError("common.internal", "the slot sealing key is never exported");
      },
      release: () => aead.release(),
    };
  }

  /**
   * Opens the file, finishes what a power cut left half done, and reads all records.
   *
   * @throws KisekiError `keys.unavailable` when the root key is another; `common.corrupt_format`
   *   when a header or a slot is damaged in both copies; `common.unsupported_version`.
   */
  static async open(
    provider: CryptoProvider,
    storage: SlotStorage,
    rootKey: Bytes,
  ): Promise<{ readonly slots: KeySlots; readonly records: readonly StoredRecord[] }> {
    const crc32c = (bytes: Bytes): number => provider.crc32c(bytes);
    // What a killed process wrote may lie in the page cache alone. Repairs lean on it: first it is
    // made durable, else one power cut could tear both copies.
    await storage.sync();
    const pages = [storage.read(0, SLOT_PAGE_SIZE), storage.read(SLOT_PAGE_SIZE, SLOT_PAGE_SIZE)];
    const headers = pages.map((page) => decodeSlotFileHeader(page, crc32c));
    const header = headers[0] ?? headers[1];
    if (header === undefined) {
      throw new KisekiError("common.corrupt_format", "key slots: no copy of the header is whole");
    }
    const check = provider.hkdfSha256(rootKey, header.fileId, CHECK_LABEL, 16);
    if (!constantTimeEqual(check, header.keyCheck)) {
      throw new KisekiError(
        "keys.unavailable",
        "the root key is not the one that these key slots were sealed with",
      );
    }
    const bad = headers.indexOf(undefined);
    if (bad >= 0) {
      storage.write(bad * SLOT_PAGE_SIZE, encodeSlotFileHeader(header, crc32c));
      await storage.sync();
    }
    const sealingKey = provider.hkdfSha256(rootKey, header.fileId, SEAL_LABEL, 32);
    const aead = provider.aead(sealingKey);
    sealingKey.fill(0);
    const slots = new KeySlots(provider, storage, aead);
    try {
      return { slots, records: await slots.#load() };
    } catch (error) {
      aead.release();
      throw error;
    }
  }

  /** Slots that hold a record, and all there are. */
  usage(): { readonly used: number; readonly total: number } {
    return { used: this.#generations.length - this.#free.length, total: this.#generations.length };
  }

  /** Stores a new record. @returns its slot. */
  async put(record: KeyRecord): Promise<number> {
    this.#checkCertain();
    const reused = this.#free.pop();
    const slot = reused ?? this.#generations.length;
    if (slot >= MAX_SLOTS) {
      throw new KisekiError("common.limit_exceeded", `key slots are full (max ${MAX_SLOTS})`);
    }
    if (reused === undefined) this.#generations.push(0n);
    await this.#write(slot, record);
    return slot;
  }

  /** Overwrites a record in its slot. */
  async replace(slot: number, record: KeyRecord): Promise<void> {
    this.#checkCertain();
    await this.#write(slot, record);
  }

  /** Overwrites a record with nothing, in both copies. */
  async destroy(slot: number): Promise<void> {
    this.#checkCertain();
    await this.#write(slot, undefined);
    this.#free.push(slot);
  }

  close(): void {
    this.#sealing.release();
    this.#storage.close();
  }

  /** True after a failed write: see the invariants. */
  get inDoubt(): boolean {
    return this.#inDoubt;
  }

  async #write(slot: number, record: KeyRecord | undefined): Promise<void> {
    const generation = (this.#generations[slot] ?? 0n) + 1n;
    const payload = record === undefined ? undefined : this.#seal(slot, generation, record);
    const bytes = encodeSlot(slot, generation, payload, this.#crc32c);
    this.#generations[slot] = generation;
    // Set for the whole time: also an operation that another one overtakes is refused.
    this.#inDoubt = true;
    for (const offset of slotOffsets(slot)) {
      this.#storage.write(offset, bytes);
      await this.#storage.sync();
    }
    this.#inDoubt = false;
  }

  #checkCertain(): void {
    if (!this.#inDoubt) return;
    throw new KisekiError(
      "keys.unavailable",
      "key slots: an earlier write failed, so nothing more is written: " +
        "see to the disk and start the node again",
    );
  }

  #seal(slot: number, generation: bigint, record: KeyRecord): Bytes {
    const plain = encodeKeyRecord(record);
    const out = new Uint8Array(sealedSize(KEY_RECORD_SIZE, 0));
    const identity = keySlotIdentity(slotIdentityName(slot, generation));
    const { keySlot } = EnvelopeKind;
    try {
      sealEnvelope(this.#sealing, keySlot, SYSTEM_ORGANISATION, identity, plain, 0, out);
    } finally {
      plain.fill(0);
    }
    return out;
  }

  async #load(): Promise<readonly StoredRecord[]> {
    const count = slotsOfFile(this.#storage.size());
    if (count > MAX_SLOTS) {
      throw new KisekiError("common.corrupt_format", `a key slot file of ${count} slots`);
    }
    const records: StoredRecord[] = [];
    const free: number[] = [];
    for (let first = 0; first < count; first += SLOTS_PER_PAGE) {
      const group = this.#readGroup(first);
      await this.#repair(group);
      for (const { slot, newest } of group) {
        this.#generations.push(newest.state === "unused" ? 0n : newest.generation);
        if (newest.state === "used") {
          records.push({ slot, record: this.#open(slot, newest.generation, newest.payload) });
        } else free.push(slot);
      }
    }
    // Lowest slots are taken first, so that the file stays small.
    this.#free.push(...free.reverse());
    return records;
  }

  #open(slot: number, generation: bigint, payload: Bytes): KeyRecord {
    if (payload.length !== sealedSize(KEY_RECORD_SIZE, 0)) {
      throw new KisekiError("common.corrupt_format", `key slot ${slot}: a payload of wrong size`);
    }
    const plain = secretBytes(KEY_RECORD_SIZE);
    const identity = keySlotIdentity(slotIdentityName(slot, generation));
    const { keySlot } = EnvelopeKind;
    try {
      openEnvelope(this.#sealing, keySlot, SYSTEM_ORGANISATION, identity, payload, plain);
      return decodeKeyRecord(plain);
    } catch (error) {
      plain.fill(0);
      throw error;
    }
  }

  #readGroup(first: number): readonly ReadSlot[] {
    const [at] = slotOffsets(first);
    const pages = this.#storage.read(at, 2 * SLOT_PAGE_SIZE);
    return Array.from({ length: SLOTS_PER_PAGE }, (_, i): ReadSlot => {
      const slot = first + i;
      const copyAt = (offset: number): SlotCopy =>
        decodeSlot(pages.subarray(offset, offset + SLOT_SIZE), slot, this.#crc32c);
      const copies = [copyAt(i * SLOT_SIZE), copyAt(SLOT_PAGE_SIZE + i * SLOT_SIZE)] as const;
      return { slot, copies, newest: newestCopy(copies, slot) };
    });
  }

  /**
   * Brings the copies that are behind up to the newest: the whole first page before the second,
   * so that a page torn meanwhile has its twin whole.
   */
  async #repair(group: readonly ReadSlot[]): Promise<void> {
    for (const i of [0, 1] as const) {
      let wrote = false;
      for (const { slot, copies, newest } of group) {
        const copy = copies[i];
        if (newest.state === "unused" && copy.state === "unused") continue;
        if (copy.state !== "torn" && generationOf(copy) === generationOf(newest)) continue;
        this.#storage.write(slotOffsets(slot)[i], this.#encode(slot, newest));
        wrote = true;
      }
      if (wrote) await this.#storage.sync();
    }
  }

  #encode(slot: number, copy: WholeCopy): Bytes {
    if (copy.state === "unused") return new Uint8Array(SLOT_SIZE);
    const payload = copy.state === "used" ? copy.payload : undefined;
    return encodeSlot(slot, copy.generation, payload, this.#crc32c);
  }
}

type WholeCopy = Exclude<SlotCopy, { readonly state: "torn" }>;

interface ReadSlot {
  readonly slot: number;
  readonly copies: readonly [SlotCopy, SlotCopy];
  readonly newest: WholeCopy;
}

function newestCopy(copies: readonly SlotCopy[], slot: number): WholeCopy {
  let newest: WholeCopy | undefined;
  for (const copy of copies) {
    if (copy.state === "torn") continue;
    if (newest === undefined || generationOf(copy) > generationOf(newest)) newest = copy;
  }
  if (newest === undefined) {
    throw new KisekiError(
      "common.corrupt_format",
      `key slot ${slot} is damaged in both copies: restore the key slot file from its replica`,
    );
  }
  return newest;
}

function generationOf(copy: WholeCopy): bigint {
  return copy.state === "unused" ? 0n : copy.generation;
}
