import assert from "node:assert/strict";
import { openLibc } from "../../ffi/libc.ts";
import { toHex } from "../common/bytes.ts";
import { VirtualClock } from "../common/clock.ts";
import { isKisekiError } from "../common/errors.ts";
import type { OrganisationId } from "../common/ids.ts";
import { SYSTEM_ORGANISATION } from "../crypto/sealer.ts";
import { testProvider } from "../../test/providers.ts";
import { openEmbeddedKeyManager } from "./embedded_key_manager.ts";
import { type KeyManager, LEASE_MS, type TenantKeyLease } from "./key_manager.ts";
import { type KeyRecord, KeyRecordType } from "./key_slot_format.ts";
import { KeySlots, newSlotFile } from "./key_slots.ts";
import { contains, Crash, LOSSES, MemorySlotStorage } from "./testing.ts";

const libc = openLibc();
const provider = testProvider();
const clock = new VirtualClock();
const ROOT_KEY = Uint8Array.from({ length: 32 }, (_, i) => i + 1);
const A = "0123456789abcdef0123456789abcdef" as OrganisationId;
const B = "bb".repeat(16) as OrganisationId;

function fresh(): MemorySlotStorage {
  return new MemorySlotStorage(newSlotFile(provider, ROOT_KEY, 0));
}

function opened(storage: MemorySlotStorage): Promise<KeyManager> {
  return openEmbeddedKeyManager({ libc, provider, clock, storage, rootKey: ROOT_KEY });
}

/** A lease as comparable text. */
function text(lease: TenantKeyLease): string {
  const epochs = (keys: TenantKeyLease["systemKeys"]): unknown =>
    keys.map(({ epoch, key }) => [epoch, toHex(key)]);
  return JSON.stringify([
    epochs(lease.systemKeys),
    epochs(lease.wrappingKeys),
    toHex(lease.chunkIdKey),
    toHex(lease.nameHashKey),
  ]);
}

async function leaseOf(manager: KeyManager, organisation: OrganisationId): Promise<string> {
  return text(await manager.lease(organisation));
}

async function crashes(run: () => Promise<unknown>): Promise<boolean> {
  try {
    await run();
    return false;
  } catch (error) {
    if (!(error instanceof Crash)) throw error;
    return true;
  }
}

/** The storage after each kind of accident. */
function survivors(storage: MemorySlotStorage): readonly MemorySlotStorage[] {
  return [storage.killed(), ...LOSSES.map((loss) => storage.afterPowerCut(loss))];
}

/** An image with the keys of A and B, and their leases. */
async function withTenants(): Promise<{ image: Uint8Array; a: string; b: string }> {
  const storage = fresh();
  const manager = await opened(storage);
  await manager.createOrganisation(A);
  await manager.createOrganisation(B);
  const leases = { a: await leaseOf(manager, A), b: await leaseOf(manager, B) };
  manager.close();
  return { image: storage.cache(), ...leases };
}

Deno.test("keys are the same after a restart, and creation is idempotent", async () => {
  const { image, a, b } = await withTenants();
  const manager = await opened(new MemorySlotStorage(image));
  await manager.createOrganisation(A);
  assert.equal(await leaseOf(manager, A), a);
  assert.equal(await leaseOf(manager, B), b);
  assert.notEqual(a, b);
  assert.equal((await manager.lease(A)).validMs, LEASE_MS);
  assert.equal(manager.health().organisations, 2);
  manager.close();
});

Deno.test("a system key is HKDF-SHA256(master, label and organisation): a known vector", async () => {
  const storage = fresh();
  const { slots } = await KeySlots.open(provider, storage, ROOT_KEY);
  await slots.put(masterOf(1));
  slots.close();
  const manager = await opened(storage.killed());
  await manager.createOrganisation(A);
  const { systemKeys } = await manager.lease(A);
  assert.deepEqual(systemKeys.map(({ epoch, key }) => [epoch, toHex(key)]), [
    [1, "013490f51b50d5f4b2146e98379af7845dd89a6647947958fb29f4ab2bf561e4"],
  ]);
  manager.close();
});

function masterOf(number: number): KeyRecord {
  return {
    type: KeyRecordType.master,
    number,
    wrappedBy: 0,
    organisation: SYSTEM_ORGANISATION,
    createdMs: 1,
    key: Uint8Array.from({ length: 32 }, (_, i) => i),
  };
}

Deno.test("two keys of one epoch are refused: one of them would make data unreadable", async () => {
  const storage = fresh();
  const { slots } = await KeySlots.open(provider, storage, ROOT_KEY);
  await slots.put(masterOf(1));
  await slots.put(masterOf(1));
  slots.close();
  const again = storage.killed();
  await assert.rejects(opened(again), { code: "common.corrupt_format" });
  assert.ok(again.closed, "a refused file stays open");
});

Deno.test("rotation adds an epoch and keeps the old keys, over a restart too", async () => {
  const { image, a } = await withTenants();
  const storage = new MemorySlotStorage(image);
  const manager = await opened(storage);
  const before = await manager.lease(A);
  assert.equal(await manager.rotateTenant(A), 2);
  assert.equal(await manager.rotateSystem(), 2);
  const after = await manager.lease(A);
  assert.deepEqual(after.wrappingKeys.map(({ epoch }) => epoch), [1, 2]);
  assert.deepEqual(after.systemKeys.map(({ epoch }) => epoch), [1, 2]);
  assert.equal(text({ ...after, ...firstEpochs(after) }), a);
  assert.notDeepEqual(after.wrappingKeys[1]?.key, before.wrappingKeys[0]?.key);
  manager.close();
  const again = await opened(storage.killed());
  assert.equal(await leaseOf(again, A), text(after));
  again.close();
});

function firstEpochs(
  lease: TenantKeyLease,
): Pick<TenantKeyLease, "systemKeys" | "wrappingKeys"> {
  return {
    systemKeys: lease.systemKeys.slice(0, 1),
    wrappingKeys: lease.wrappingKeys.slice(0, 1),
  };
}

Deno.test("a first start cut at any step is gone on with by the next", async () => {
  for (let step = 1, crashed = true; crashed; step++) {
    const storage = fresh();
    storage.crashAfter(step);
    crashed = await crashes(() => opened(storage));
    for (const survivor of survivors(storage)) {
      const manager = await opened(survivor);
      const lease = await leaseOf(manager, SYSTEM_ORGANISATION);
      assert.equal(manager.health().systemEpoch, 1, `step ${step}`);
      manager.close();
      const again = await opened(survivor.afterPowerCut("lost"));
      assert.equal(await leaseOf(again, SYSTEM_ORGANISATION), lease, `step ${step}`);
      again.close();
    }
  }
});

Deno.test("a creation cut at any step gives no lease until it was finished", async () => {
  const { image, a, b } = await withTenants();
  const c = "cc".repeat(16) as OrganisationId;
  for (let step = 1, crashed = true; crashed; step++) {
    const storage = new MemorySlotStorage(image);
    const manager = await opened(storage);
    storage.crashAfter(step);
    crashed = await crashes(() => manager.createOrganisation(c));
    if (crashed) await assert.rejects(manager.lease(c), { code: "keys.unavailable" });
    for (const survivor of survivors(storage)) {
      const next = await opened(survivor);
      assert.equal(await leaseOf(next, A), a);
      assert.equal(await leaseOf(next, B), b);
      if (!crashed) await next.lease(c);
      await next.createOrganisation(c);
      const lease = await next.lease(c);
      assert.deepEqual(lease.wrappingKeys.map(({ epoch }) => epoch), [1], `step ${step}`);
      next.close();
    }
    manager.close();
  }
});

Deno.test("a rotation cut at any step leaves the old epochs, with or without the new one", async () => {
  const { image, a, b } = await withTenants();
  for (const kind of ["tenant", "system"] as const) {
    for (let step = 1, crashed = true; crashed; step++) {
      const storage = new MemorySlotStorage(image);
      const manager = await opened(storage);
      storage.crashAfter(step);
      const rotate = (m: KeyManager): Promise<number> =>
        kind === "tenant" ? m.rotateTenant(A) : m.rotateSystem();
      crashed = await crashes(() => rotate(manager));
      for (const survivor of survivors(storage)) {
        const next = await opened(survivor);
        const lease = await next.lease(A);
        assert.equal(text({ ...lease, ...firstEpochs(lease) }), a);
        const epochs = kind === "tenant" ? lease.wrappingKeys : lease.systemKeys;
        assert.ok(epochs.length === 2 || (crashed && epochs.length === 1), `step ${step}`);
        assert.equal(await rotate(next), epochs.length + 1);
        if (kind === "tenant") assert.equal(await leaseOf(next, B), b);
        next.close();
      }
      manager.close();
    }
  }
});

Deno.test("a destruction cut at any step is finished at the next start, or never began", async () => {
  const { image, a, b } = await withTenants();
  const payloads = await payloadsOf(image, A);
  assert.equal(payloads.length, 3);
  for (let step = 1, crashed = true; crashed; step++) {
    const storage = new MemorySlotStorage(image);
    const manager = await opened(storage);
    storage.crashAfter(step);
    crashed = await crashes(() => manager.destroyOrganisation(A));
    for (const survivor of survivors(storage)) {
      const next = await opened(survivor);
      assert.equal(await leaseOf(next, B), b, `step ${step}`);
      let alive = true;
      try {
        assert.equal(await leaseOf(next, A), a);
      } catch (error) {
        if (!isKisekiError(error, "keys.unavailable")) throw error;
        alive = false;
      }
      assert.ok(!alive || crashed, "a finished destruction was undone");
      if (alive) await next.destroyOrganisation(A);
      await next.destroyOrganisation(A);
      await assert.rejects(next.createOrganisation(A), { code: "common.failed_precondition" });
      await assert.rejects(next.rotateTenant(A), { code: "keys.unavailable" });
      await assert.rejects(next.lease(A), { code: "keys.unavailable" });
      const durable = survivor.afterPowerCut("lost").cache();
      for (const payload of payloads) assert.ok(!contains(durable, payload), `step ${step}`);
      next.close();
    }
    manager.close();
  }
});

/** Ciphertexts of an organisation's keys, as they lie in the file. */
async function payloadsOf(image: Uint8Array, organisation: OrganisationId): Promise<Uint8Array[]> {
  const { slots, records } = await KeySlots.open(provider, new MemorySlotStorage(image), ROOT_KEY);
  slots.close();
  return records.filter(({ record }) => record.organisation === organisation).map(({ slot }) => {
    const at = (2 + 2 * Math.floor(slot / 8)) * 4096 + (slot % 8) * 512 + 36;
    return image.slice(at, at + 136);
  });
}

Deno.test("a destruction that failed on the way is not reported as done when it is asked again", async () => {
  const { image } = await withTenants();
  // Steps 1 to 4 write the marker, the rest overwrites keys.
  const storage = new MemorySlotStorage(image);
  const manager = await opened(storage);
  storage.failAfter(6);
  await assert.rejects(manager.destroyOrganisation(A), /EIO/);
  await assert.rejects(manager.destroyOrganisation(A), { code: "keys.unavailable" });
  await assert.rejects(manager.lease(A), { code: "keys.unavailable" });
  await manager.lease(B);
  assert.match(manager.health().warnings.join(), /write of the key slots failed/);
  manager.close();
  const next = await opened(storage.killed());
  await next.destroyOrganisation(A);
  next.close();
});

Deno.test("a rotation that failed and is tried again never makes a second key of its epoch", async () => {
  const { image } = await withTenants();
  for (const step of [1, 2, 3, 4]) {
    const storage = new MemorySlotStorage(image);
    const manager = await opened(storage);
    storage.failAfter(step);
    await assert.rejects(manager.rotateTenant(A), /EIO/);
    await assert.rejects(manager.rotateTenant(A), { code: "keys.unavailable" });
    assert.equal((await manager.lease(A)).wrappingKeys.length, 1);
    manager.close();
    const next = await opened(storage.killed());
    const { wrappingKeys } = await next.lease(A);
    assert.equal(await next.rotateTenant(A), wrappingKeys.length + 1);
    next.close();
  }
});

Deno.test("the system's own keys are never destroyed; an unknown organisation has none", async () => {
  const manager = await opened(fresh());
  await assert.rejects(manager.destroyOrganisation(SYSTEM_ORGANISATION), {
    code: "common.permission_denied",
  });
  await assert.rejects(manager.lease(A), { code: "keys.unavailable" });
  await assert.rejects(manager.rotateTenant(A), { code: "keys.unavailable" });
  manager.close();
});

Deno.test("changes asked for at once run one after the other", async () => {
  const storage = fresh();
  const manager = await opened(storage);
  await Promise.all([manager.createOrganisation(A), manager.createOrganisation(A)]);
  assert.deepEqual(
    await Promise.all([manager.rotateTenant(A), manager.rotateTenant(A), manager.rotateSystem()]),
    [2, 3, 2],
  );
  await Promise.all([manager.destroyOrganisation(A), manager.destroyOrganisation(A)]);
  await assert.rejects(manager.lease(A), { code: "keys.unavailable" });
  manager.close();
});

Deno.test("a closed manager answers nothing", async () => {
  const { image } = await withTenants();
  const storage = new MemorySlotStorage(image);
  const manager = await opened(storage);
  manager.close();
  manager.close();
  assert.ok(storage.closed);
  for (const call of [() => manager.lease(A), () => manager.rotateSystem()]) {
    await assert.rejects(call(), { code: "keys.unavailable" });
  }
});
