/**
 * Puts the stub and the payload into deno's ELF file without touching deno's own bytes:
 * stub and payload are appended, the PT_NOTE program header becomes a PT_LOAD over both, the entry
 * point moves to the stub, and a section `.kiseki` covers the segment so that `strip` and its like
 * carry it along.
 *
 * Invariants: x86-64 little-endian PIE only; the new segment has the highest address, so program
 * headers stay in ascending order, which older kernels rely on.
 */

const PT_LOAD = 1;
const PT_NOTE = 4;
const SHT_PROGBITS = 1;
const SHF_ALLOC_EXEC = 6n;
const FLAGS_READ_EXEC = 5;
const PAGE = 4096;
const MACHINE_X86_64 = 62;
const SECTION_NAME = ".kiseki";

/** Words in stub.c that are filled in here, found by these values. */
const MARK_ENTRY_DELTA = 0x1122334455667788n;
const MARK_PAYLOAD_OFFSET = 0x2233445566778899n;
const MARK_SEGMENT_ADDRESS = 0x33445566778899aan;

/**
 * Builds the image.
 *
 * @param deno The bytes of the deno executable.
 * @param stub The flat blob made from stub.c.
 * @param payload What payload.ts encoded.
 * @throws Error when `deno` is not an executable of the expected shape.
 */
export function buildElfImage(
  deno: Uint8Array<ArrayBuffer>,
  stub: Uint8Array<ArrayBuffer>,
  payload: Uint8Array<ArrayBuffer>,
): Uint8Array<ArrayBuffer> {
  const header = new DataView(deno.buffer, deno.byteOffset, deno.byteLength);
  if (header.getUint32(0) !== 0x7f454c46 || deno[4] !== 2 || deno[5] !== 1) {
    throw new Error("deno is not a 64-bit little-endian ELF file");
  }
  if (header.getUint16(18, true) !== MACHINE_X86_64) {
    throw new Error("the stub exists for x86-64 only; use deno compile on other processors");
  }
  const entryPoint = header.getBigUint64(24, true);
  const { noteHeader, endAddress } = readProgramHeaders(header);
  const segmentOffset = alignUp(deno.length, PAGE);
  const segmentAddress = alignUpBig(endAddress, 0x10000n);
  const payloadOffset = alignUp(stub.length, 64);
  const segmentSize = payloadOffset + payload.length;

  const patched = stub.slice();
  patchWord(patched, MARK_ENTRY_DELTA, BigInt.asUintN(64, entryPoint - segmentAddress));
  patchWord(patched, MARK_PAYLOAD_OFFSET, BigInt(payloadOffset));
  patchWord(patched, MARK_SEGMENT_ADDRESS, segmentAddress);

  const sections = extendedSections(header, deno, segmentAddress, segmentOffset, segmentSize);
  const namesOffset = segmentOffset + segmentSize;
  const tableOffset = alignUp(namesOffset + sections.names.length, 8);
  const image = new Uint8Array(tableOffset + sections.table.length);
  image.set(deno);
  image.set(patched, segmentOffset);
  image.set(payload, segmentOffset + payloadOffset);
  image.set(sections.names, namesOffset);
  sections.placeNames(BigInt(namesOffset));
  image.set(sections.table, tableOffset);

  const view = new DataView(image.buffer);
  view.setBigUint64(24, segmentAddress, true);
  view.setBigUint64(40, BigInt(tableOffset), true);
  view.setUint16(60, sections.count, true);
  view.setUint32(noteHeader, PT_LOAD, true);
  view.setUint32(noteHeader + 4, FLAGS_READ_EXEC, true);
  view.setBigUint64(noteHeader + 8, BigInt(segmentOffset), true);
  view.setBigUint64(noteHeader + 16, segmentAddress, true);
  view.setBigUint64(noteHeader + 24, segmentAddress, true);
  view.setBigUint64(noteHeader + 32, BigInt(segmentSize), true);
  view.setBigUint64(noteHeader + 40, BigInt(segmentSize), true);
  view.setBigUint64(noteHeader + 48, BigInt(PAGE), true);
  return image;
}

function readProgramHeaders(header: DataView): { noteHeader: number; endAddress: bigint } {
  const start = Number(header.getBigUint64(32, true));
  const count = header.getUint16(56, true);
  let noteHeader: number | undefined;
  let endAddress = 0n;
  let loadAfterNote = false;
  for (let index = 0; index < count; index++) {
    const at = start + 56 * index;
    const type = header.getUint32(at, true);
    if (type === PT_LOAD) {
      const end = header.getBigUint64(at + 16, true) + header.getBigUint64(at + 40, true);
      if (end > endAddress) endAddress = end;
      if (noteHeader !== undefined) loadAfterNote = true;
    } else if (type === PT_NOTE) {
      noteHeader = at;
      loadAfterNote = false;
    }
  }
  if (noteHeader === undefined || loadAfterNote) {
    throw new Error("deno has no PT_NOTE header after its segments; the stub cannot be placed");
  }
  return { noteHeader, endAddress };
}

interface Sections {
  readonly names: Uint8Array;
  readonly table: Uint8Array;
  readonly count: number;
  placeNames(offset: bigint): void;
}

/** Deno's section table and its names, each with one more. */
function extendedSections(
  header: DataView,
  deno: Uint8Array,
  address: bigint,
  offset: number,
  size: number,
): Sections {
  const start = Number(header.getBigUint64(40, true));
  const count = header.getUint16(60, true);
  const namesIndex = header.getUint16(62, true);
  const table = new Uint8Array(64 * (count + 1));
  table.set(deno.subarray(start, start + 64 * count));
  const view = new DataView(table.buffer);
  const namesAt = Number(view.getBigUint64(64 * namesIndex + 24, true));
  const namesSize = Number(view.getBigUint64(64 * namesIndex + 32, true));
  const added = new TextEncoder().encode(`${SECTION_NAME}\0`);
  const names = new Uint8Array(namesSize + added.length);
  names.set(deno.subarray(namesAt, namesAt + namesSize));
  names.set(added, namesSize);
  view.setBigUint64(64 * namesIndex + 32, BigInt(names.length), true);
  const own = 64 * count;
  view.setUint32(own, namesSize, true);
  view.setUint32(own + 4, SHT_PROGBITS, true);
  view.setBigUint64(own + 8, SHF_ALLOC_EXEC, true);
  view.setBigUint64(own + 16, address, true);
  view.setBigUint64(own + 24, BigInt(offset), true);
  view.setBigUint64(own + 32, BigInt(size), true);
  view.setBigUint64(own + 48, BigInt(PAGE), true);
  return {
    names,
    table,
    count: count + 1,
    placeNames: (at) => view.setBigUint64(64 * namesIndex + 24, at, true),
  };
}

function patchWord(stub: Uint8Array<ArrayBuffer>, mark: bigint, value: bigint): void {
  const view = new DataView(stub.buffer);
  const found: number[] = [];
  for (let at = 0; at + 8 <= stub.length; at++) {
    if (view.getBigUint64(at, true) === mark) found.push(at);
  }
  const [at] = found;
  if (at === undefined || found.length !== 1) {
    throw new Error(`the stub holds the mark ${mark.toString(16)} ${found.length} times, not once`);
  }
  view.setBigUint64(at, value, true);
}

function alignUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}

function alignUpBig(value: bigint, to: bigint): bigint {
  return (value + to - 1n) / to * to;
}
