/**
 * A device loses power at every step of short histories. Whatever the medium may hold then, what was
 * acknowledged is there byte for byte, and what was not is there whole or not at all.
 */
import assert from "node:assert/strict";
import { openBlockDevice } from "../block/block_device.ts";
import { MemoryBlockFile, Power } from "../block/memory_block_file.ts";
import type { BlockFile } from "../block/ports.ts";
import { HEAD_BYTES } from "../block/superblock.ts";
import type { Bytes } from "../common/bytes.ts";
import { crc32c } from "../common/crc32c.ts";
import { isKisekiError } from "../common/errors.ts";
import type { ClusterId, DeviceId, OrganisationId } from "../common/ids.ts";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { chunkIdOf, pattern } from "./device_rig.ts";
import type { FragmentRow } from "./fragment_record.ts";
import { LocalFragmentStore } from "./fragment_store.ts";
import { MemoryFragmentIndex } from "./memory_fragment_index.ts";
import type { FragmentHeader } from "./ports.ts";

const BLOCKS = 12;
const IMAGES = 48;
const INCARNATION = "0".repeat(16);

interface Step {
  readonly kind: "put" | "remove";
  readonly chunk: number;
}

/** The device without its head: extents begin at 0 of the image. */
function shifted(file: MemoryBlockFile): BlockFile {
  return {
    name: file.name,
    sizeBytes: file.sizeBytes + HEAD_BYTES,
    read: (offset, into) => file.read(offset - HEAD_BYTES, into),
    write: (offset, bytes) => file.write(offset - HEAD_BYTES, bytes),
    sync: () => file.sync(),
    discard: (offset, length) => file.discard(offset - HEAD_BYTES, length),
    close: () => file.close(),
  };
}

function openStore(file: MemoryBlockFile, index: MemoryFragmentIndex): LocalFragmentStore {
  const superblock = {
    cluster: "a".repeat(32) as ClusterId,
    device: "b".repeat(32) as DeviceId,
    generation: 1,
    capacityBytes: HEAD_BYTES + file.sizeBytes,
    formattedMs: 0,
  };
  return new LocalFragmentStore(
    openBlockDevice(shifted(file), superblock, index.extents()),
    index,
    crc32c,
  );
}

function contentOf(chunk: number): Bytes {
  return pattern(chunk + 100, 1000 + (chunk * 3331) % 11_000);
}

function headerOf(chunk: number): FragmentHeader {
  return {
    chunk: chunkIdOf(chunk),
    incarnation: INCARNATION,
    organisation: "c".repeat(32) as OrganisationId,
    fragment: 0,
    scheme: { scheme: "copies", copies: 1 },
    envelopeBytes: contentOf(chunk).length,
    plaintextBytes: 1,
    placementVersion: 1,
    writtenMs: 0,
    wrappedDek: new Uint8Array(60),
  };
}

/** What may be true of a chunk: which of "there" and "not there" are allowed. */
type Model = Map<number, { readonly there: boolean; readonly gone: boolean }>;

/** Runs pairs of steps at once until the power goes. @returns what may be true then. */
async function run(store: LocalFragmentStore, history: readonly Step[]): Promise<Model> {
  const model: Model = new Map();
  for (let i = 0; i < history.length; i += 2) {
    const pair = history.slice(i, i + 2);
    const before = new Map(model);
    for (const { chunk } of pair) model.set(chunk, { there: true, gone: true });
    const done = await Promise.all(pair.map((step) => perform(store, step)));
    if (pair[0]?.chunk === pair[1]?.chunk && done.includes(false)) continue;
    pair.forEach(({ kind, chunk }, at) => {
      if (done[at] === true) model.set(chunk, { there: kind === "put", gone: kind === "remove" });
      else {
        const was = before.get(chunk) ?? { there: false, gone: true };
        model.set(chunk, {
          there: was.there || kind === "put",
          gone: was.gone || kind === "remove",
        });
      }
    });
  }
  return model;
}

async function perform(store: LocalFragmentStore, { kind, chunk }: Step): Promise<boolean> {
  try {
    if (kind === "put") await store.put(headerOf(chunk), contentOf(chunk));
    else await store.remove(chunkIdOf(chunk), INCARNATION, 0);
    return true;
  } catch (error) {
    if (!isKisekiError(error)) throw error;
    return false;
  }
}

async function check(
  image: Bytes,
  rows: ReadonlyMap<string, FragmentRow>,
  model: Model,
): Promise<void> {
  const power = new Power();
  const store = openStore(
    new MemoryBlockFile(image, "after", power),
    new MemoryFragmentIndex(rows, power),
  );
  const held: number[] = [];
  for (const [chunk, { there, gone }] of model) {
    const read = await store.get(chunkIdOf(chunk), INCARNATION, 0, 0);
    if (read === undefined) assert.ok(gone, `chunk ${chunk} was acknowledged and is gone`);
    else {
      assert.ok(there, `chunk ${chunk} was removed and is back`);
      assert.deepEqual(read.data, contentOf(chunk));
      held.push(chunk);
    }
  }
  // New data fills the device without touching what is held.
  for (let chunk = 50; await perform(store, { kind: "put", chunk }); chunk++);
  for (const chunk of held) {
    const read = await store.get(chunkIdOf(chunk), INCARNATION, 0, 0);
    assert.deepEqual(read?.data, contentOf(chunk));
  }
}

Deno.test("a power cut at any step leaves what was acknowledged, and nothing half", async () => {
  const random = seededRandom(testSeed("power cuts"));
  let states = 0;
  for (let round = 0; round < testRounds(60); round++) {
    const history = Array.from({ length: 10 }, (): Step => ({
      kind: random() < 0.65 ? "put" : "remove",
      chunk: Math.floor(random() * 4),
    }));
    for (let cut = 1;; cut++) {
      const power = new Power();
      const file = new MemoryBlockFile(BLOCKS * 4096, "before", power);
      const index = new MemoryFragmentIndex(new Map(), power);
      power.cutAfter(cut);
      const model = await run(openStore(file, index), history);
      for (const image of file.images(IMAGES, random)) {
        for (const rows of index.states()) {
          await check(image, rows, model);
          states++;
        }
      }
      if (!power.isOff) break;
    }
  }
  console.log(`${states} states after a cut were opened`);
});
