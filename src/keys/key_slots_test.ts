import assert from "node:assert/strict";
import type { OrganisationId } from "../common/ids.ts";
import { testProvider } from "../../test/providers.ts";
import { type KeyRecord, KeyRecordType, SLOT_PAGE_SIZE, slotOffsets } from "./key_slot_format.ts";
import { KeySlots, newSlotFile } from "./key_slots.ts";
import { contains, Crash, type Loss, LOSSES, MemorySlotStorage } from "./testing.ts";

const provider = testProvider();
const ROOT_KEY = Uint8Array.from({ length: 32 }, (_, i) => i + 1);
const NEIGHBOURS = [0, 1, 3];
const TARGET = 2;

function recordOf(number: number): KeyRecord {
  return {
    type: KeyRecordType.master,
    number,
    wrappedBy: 0,
    organisation: "00".repeat(16) as OrganisationId,
    createdMs: 1_700_000_000_000,
    key: new Uint8Array(32).fill(number),
  };
}

/** Slots 0 to 3 with records 1 to 4; slot 2 destroyed where it is to be put anew. */
async function prepared(free: boolean): Promise<Uint8Array> {
  const storage = new MemorySlotStorage(newSlotFile(provider, ROOT_KEY, 0));
  const { slots } = await KeySlots.open(provider, storage, ROOT_KEY);
  for (let number = 1; number <= 4; number++) await slots.put(recordOf(number));
  if (free) await slots.destroy(TARGET);
  slots.close();
  return storage.cache();
}

/** Numbers by slot. */
async function numbersIn(storage: MemorySlotStorage): Promise<ReadonlyMap<number, number>> {
  const { slots, records } = await KeySlots.open(provider, storage, ROOT_KEY);
  for (const { record } of records) {
    assert.ok(record.key.every((byte) => byte === record.number), "a record came back mixed");
  }
  slots.close();
  return new Map(records.map(({ slot, record }) => [slot, record.number]));
}

const OPERATIONS = {
  put: { free: true, old: undefined, next: 9, run: (s: KeySlots) => s.put(recordOf(9)) },
  replace: { free: false, old: 3, next: 9, run: (s: KeySlots) => s.replace(TARGET, recordOf(9)) },
  destroy: { free: false, old: 3, next: undefined, run: (s: KeySlots) => s.destroy(TARGET) },
} as const;

type Reopen = (storage: MemorySlotStorage, crashAt?: number) => MemorySlotStorage;
const REOPENS: readonly (readonly [string, Reopen])[] = [
  ["kill", (storage, crashAt) => storage.killed(crashAt)],
  ...LOSSES.map((loss: Loss): readonly [string, Reopen] => [
    `power cut, ${loss}`,
    (storage, crashAt) => storage.afterPowerCut(loss, crashAt),
  ]),
];

async function crashing(run: () => Promise<unknown>): Promise<boolean> {
  try {
    await run();
    return false;
  } catch (error) {
    if (!(error instanceof Crash)) throw error;
    return true;
  }
}

for (const [name, { free, old, next, run }] of Object.entries(OPERATIONS)) {
  Deno.test(`a ${name} cut at any step, and its repair too, leaves the old or the new record`, async () => {
    const image = await prepared(free);
    const [at] = slotOffsets(TARGET);
    const oldPayload = image.slice(at + 24 + 12, at + 24 + 12 + 136);
    let cases = 0;
    for (let step = 1, crashed = true; crashed; step++) {
      for (const [, first] of REOPENS) {
        for (let repairStep = 1, repairCrashed = true; repairCrashed; repairStep++) {
          for (const [, second] of REOPENS) {
            const storage = new MemorySlotStorage(image);
            const { slots } = await KeySlots.open(provider, storage, ROOT_KEY);
            storage.crashAfter(step);
            crashed = await crashing(() => run(slots));
            const again = first(storage, repairStep);
            let seen: ReadonlyMap<number, number> | undefined;
            repairCrashed = await crashing(async () => seen = await numbersIn(again));
            const last = second(again);
            const numbers = await numbersIn(last);
            const context = `step ${step}, repair step ${repairStep}`;
            if (seen !== undefined) assert.deepEqual(numbers, seen, context);
            for (const slot of NEIGHBOURS) assert.equal(numbers.get(slot), slot + 1, context);
            const found = numbers.get(TARGET);
            assert.ok(found === next || (crashed && found === old), `${context}: ${found}`);
            if (old !== undefined && found !== old) {
              assert.ok(!contains(last.cache(), oldPayload), `${context}: key bytes are left`);
              assert.ok(!contains(last.afterPowerCut("lost").cache(), oldPayload), context);
            }
            // A second opening finds the same: what was seen once stays.
            assert.deepEqual(await numbersIn(last.afterPowerCut("lost")), numbers, context);
            cases++;
          }
        }
      }
    }
    assert.ok(cases >= 440, `${cases} cases`);
  });
}

Deno.test("after a failed write nothing more is written until the file is opened anew", async () => {
  for (const step of [1, 2, 3, 4]) {
    const storage = new MemorySlotStorage(await prepared(true));
    const { slots } = await KeySlots.open(provider, storage, ROOT_KEY);
    storage.failAfter(step);
    await assert.rejects(slots.put(recordOf(9)), /EIO/);
    assert.ok(slots.inDoubt);
    const before = storage.steps;
    for (
      const change of [
        () => slots.put(recordOf(9)),
        () => slots.replace(0, recordOf(9)),
        () => slots.destroy(0),
      ]
    ) await assert.rejects(change(), { code: "keys.unavailable" });
    assert.equal(storage.steps, before);
    const numbers = await numbersIn(storage.killed());
    assert.ok([...numbers.values()].filter((number) => number === 9).length <= 1);
  }
});

Deno.test("freed slots are taken again, lowest first, before the file grows", async () => {
  const storage = new MemorySlotStorage(await prepared(false));
  const { slots } = await KeySlots.open(provider, storage, ROOT_KEY);
  await slots.destroy(1);
  slots.close();
  const reopened = await KeySlots.open(provider, storage.killed(), ROOT_KEY);
  assert.deepEqual(await reopened.slots.put(recordOf(7)), 1);
  assert.deepEqual(await reopened.slots.put(recordOf(8)), 4);
  assert.deepEqual(reopened.slots.usage(), { used: 5, total: 8 });
});

Deno.test("another root key is refused, and the file is left as it was", async () => {
  const image = await prepared(false);
  const storage = new MemorySlotStorage(image);
  const other = ROOT_KEY.map((byte) => byte ^ 1);
  await assert.rejects(KeySlots.open(provider, storage, other), { code: "keys.unavailable" });
  assert.deepEqual(storage.cache(), image);
});

Deno.test("one damaged header is repaired from its twin; two are refused", async () => {
  const image = await prepared(false);
  for (const page of [0, 1]) {
    const damaged = image.slice();
    damaged.fill(0xdb, page * SLOT_PAGE_SIZE, (page + 1) * SLOT_PAGE_SIZE);
    const storage = new MemorySlotStorage(damaged);
    await KeySlots.open(provider, storage, ROOT_KEY);
    assert.deepEqual(storage.cache(), image);
  }
  const none = image.slice().fill(0xdb, 0, 2 * SLOT_PAGE_SIZE);
  await assert.rejects(KeySlots.open(provider, new MemorySlotStorage(none), ROOT_KEY), {
    code: "common.corrupt_format",
  });
});

Deno.test("a slot damaged in both copies is refused, not taken for an empty one", async () => {
  const image = await prepared(false);
  for (const at of slotOffsets(1)) image[at + 40] = (image[at + 40] ?? 0) ^ 1;
  await assert.rejects(KeySlots.open(provider, new MemorySlotStorage(image), ROOT_KEY), {
    code: "common.corrupt_format",
  });
});

Deno.test("a slot's content does not open in another slot or under another generation", async () => {
  const image = await prepared(false);
  const from = slotOffsets(0);
  const to = slotOffsets(1);
  const crc = (bytes: Uint8Array): void =>
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(
      508,
      provider.crc32c(bytes.subarray(0, 508)),
      true,
    );
  for (const i of [0, 1] as const) {
    const slot = image.subarray(to[i], to[i] + 512);
    slot.set(image.subarray(from[i] + 24, from[i] + 508), 24);
    crc(slot);
  }
  await assert.rejects(KeySlots.open(provider, new MemorySlotStorage(image), ROOT_KEY), {
    code: "crypto.open_failed",
  });
});
