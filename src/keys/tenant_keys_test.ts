import assert from "node:assert/strict";
import fc from "fast-check";
import { openLibc } from "../../ffi/libc.ts";
import { fromHex, toHex, utf8 } from "../common/bytes.ts";
import { VirtualClock } from "../common/clock.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { OrganisationId } from "../common/ids.ts";
import { AEAD_OVERHEAD, type CryptoProvider } from "../crypto/provider.ts";
import { type DataKey, WRAPPED_DEK_SIZE } from "../crypto/sealer.ts";
import { testProvider } from "../../test/providers.ts";
import { testRounds, testSeed } from "../../test/rounds.ts";
import { type EpochKey, LEASE_MS, type TenantKeyLease } from "./key_manager.ts";
import { KeyMemory } from "./key_memory.ts";
import { LeasedKeySource, LeasedTenantKeys, MAX_CACHED_DATA_KEYS } from "./tenant_keys.ts";

const libc = openLibc();
const provider = testProvider();
const ORGANISATION = "0123456789abcdef0123456789abcdef" as OrganisationId;
const GOLDEN_WRAPPED = fromHex(
  "010100000300000004000000c4f9ceb7a1fc4447dd30b0e847774873" +
    "c666eacd5e93ab33f611cf9181d2139210722c05fe2b353988d55c0940c265b7",
);
const GOLDEN_KEY = Uint8Array.from({ length: 32 }, (_, i) => i);

function key(epoch: number, byte: number): EpochKey {
  return { epoch, key: new Uint8Array(32).fill(byte) };
}

function lease(change: Partial<TenantKeyLease> = {}): TenantKeyLease {
  return {
    organisation: ORGANISATION,
    systemKeys: [key(3, 0x11), key(2, 0x12)],
    wrappingKeys: [key(1, 0x21), key(4, 0x22)],
    chunkIdKey: new Uint8Array(32).fill(0x33),
    nameHashKey: new Uint8Array(32).fill(0x44),
    validMs: LEASE_MS,
    ...change,
  };
}

interface Rig {
  readonly keys: LeasedTenantKeys;
  readonly clock: VirtualClock;
  readonly memory: KeyMemory;
}

function withKeys(run: (rig: Rig) => void, crypto: CryptoProvider = provider): void {
  const clock = new VirtualClock();
  const memory = new KeyMemory(libc);
  const keys = new LeasedTenantKeys(ORGANISATION, crypto, memory, clock);
  keys.renew(lease(), clock.monotonicMs());
  try {
    run({ keys, clock, memory });
  } finally {
    keys.forget();
    memory.close();
  }
}

function seal(dataKey: DataKey): Uint8Array {
  const out = new Uint8Array(4 + AEAD_OVERHEAD);
  dataKey.aead.seal(utf8("data"), utf8("place"), out);
  return out;
}

function open(dataKey: DataKey, sealed: Uint8Array): string {
  const out = new Uint8Array(4);
  dataKey.aead.open(sealed, utf8("place"), out);
  return new TextDecoder().decode(out);
}

Deno.test("a wrapped data key of another program opens: a known vector", () => {
  withKeys(({ keys }) => {
    const opened = keys.openDataKey(GOLDEN_WRAPPED);
    assert.deepEqual([opened.systemEpoch, opened.tenantEpoch], [3, 4]);
    assert.equal(toHex(opened.exportKey()), toHex(GOLDEN_KEY));
    assert.deepEqual(opened.wrapped, GOLDEN_WRAPPED);
    opened.release();
  });
});

Deno.test("a new data key is wrapped under the newest epochs and opens again", () => {
  withKeys(({ keys }) => {
    const made = keys.generateDataKey();
    assert.equal(made.wrapped.length, WRAPPED_DEK_SIZE);
    assert.equal(toHex(made.wrapped.subarray(0, 12)), "010100000300000004000000");
    const sealed = seal(made);
    keys.forget();
    keys.renew(lease(), 1_700_000_000_000);
    const opened = keys.openDataKey(made.wrapped);
    assert.equal(open(opened, sealed), "data");
    made.release();
    opened.release();
  });
});

Deno.test("chunk ids and name hashes are HMAC-SHA256: known vectors", () => {
  withKeys(({ keys }) => {
    assert.equal(
      keys.chunkId(new Uint8Array(32)),
      "a9386c3a6b7438de25b8f38888e0fffa65de50d4a91e8b10d4bc6544cfe6b966",
    );
    assert.equal(
      toHex(keys.nameHash(utf8("name"))),
      "ebcea6e8092543059e47c90fdd953180cdd72dc9aa72beae139af1913ec4b9c1",
    );
  });
});

Deno.test("an epoch that was not leased is named in the error", () => {
  withKeys(({ keys }) => {
    for (const [at, what] of [[4, "system epoch 9"], [8, "tenant epoch 9"]] as const) {
      const wrapped = GOLDEN_WRAPPED.slice();
      wrapped[at] = 9;
      assert.throws(
        () => keys.openDataKey(wrapped),
        (error) => isKisekiError(error, "keys.unknown_epoch") && error.message.includes(what),
      );
    }
  });
});

Deno.test("a changed, moved or cut wrapped key answers with a KisekiError alone", () => {
  const seed = testSeed("wrapped data key fuzz");
  withKeys(({ keys }) => {
    const changed = fc.tuple(fc.nat(59), fc.integer({ min: 1, max: 255 })).map(([at, by]) => {
      const bytes = GOLDEN_WRAPPED.slice();
      bytes[at] = (bytes[at] ?? 0) ^ by;
      return bytes;
    });
    const property = fc.property(fc.oneof(changed, fc.uint8Array({ maxLength: 80 })), (bytes) => {
      assert.throws(() => keys.openDataKey(bytes), KisekiError);
    });
    fc.assert(property, { seed, numRuns: testRounds(20_000) });
    assert.throws(() => keys.openDataKey(new Uint8Array(61)), { code: "common.corrupt_format" });
    assert.throws(() => keys.openDataKey(new Uint8Array(60)), {
      code: "common.unsupported_version",
    });
  });
});

Deno.test("past the lease's end nothing is made, opened, sealed or exported; renewal brings it back", () => {
  withKeys(({ keys, clock }) => {
    const held = keys.generateDataKey();
    const sealed = seal(held);
    clock.advance(LEASE_MS - 1);
    seal(held);
    clock.advance(1);
    const refused = { code: "keys.unavailable", retriable: true };
    assert.throws(() => keys.generateDataKey(), refused);
    assert.throws(() => keys.openDataKey(held.wrapped), refused);
    assert.throws(() => keys.openDataKey(GOLDEN_WRAPPED), refused);
    assert.throws(() => seal(held), refused);
    assert.throws(() => open(held, sealed), refused);
    assert.throws(() => held.exportKey(), refused);
    assert.throws(() => keys.chunkId(new Uint8Array(32)), refused);
    assert.throws(() => keys.nameHash(utf8("n")), refused);
    keys.forgetIfEnded();
    assert.throws(() => seal(held), refused);
    keys.renew(lease({ systemKeys: [key(3, 0x11), key(5, 0x15)] }), clock.monotonicMs());
    assert.equal(open(held, sealed), "data");
    assert.deepEqual([held.systemEpoch, keys.generateDataKey().systemEpoch], [3, 5]);
    held.release();
  });
});

Deno.test("a lease counts from when it was asked for, not from its arrival", () => {
  withKeys(({ keys, clock }) => {
    const asked = clock.monotonicMs();
    clock.advance(20_000);
    keys.renew(lease(), asked);
    clock.advance(5_000);
    assert.throws(() => keys.generateDataKey(), { code: "keys.unavailable" });
  });
});

Deno.test("a lease that is refused is zeroed, leaks nothing and leaves the one before", () => {
  withKeys(({ keys, clock, memory }) => {
    const held = memory.report().keys;
    const bad: readonly Partial<TenantKeyLease>[] = [
      { organisation: "ff".repeat(16) as OrganisationId },
      { systemKeys: [] },
      { wrappingKeys: [] },
      { systemKeys: [key(3, 1), key(3, 2)] },
      { wrappingKeys: [key(4, 1), key(4, 2)] },
      { chunkIdKey: new Uint8Array(31).fill(1) },
      { validMs: 0 },
      { validMs: Number.NaN },
      { validMs: Infinity },
      { validMs: LEASE_MS + 1 },
    ];
    for (const change of bad) {
      const given = lease(change);
      assert.throws(() => keys.renew(given, clock.monotonicMs()), {
        code: "common.invalid_argument",
      });
      for (const { key } of [...given.systemKeys, ...given.wrappingKeys]) {
        assert.ok(key.every((byte) => byte === 0));
      }
      assert.ok([...given.chunkIdKey, ...given.nameHashKey].every((byte) => byte === 0));
    }
    assert.equal(memory.report().keys, held);
    keys.openDataKey(GOLDEN_WRAPPED).release();
    for (let i = 0; i < 10; i++) keys.renew(lease(), clock.monotonicMs());
    assert.equal(memory.report().keys, held + 1, "renewals leak keys");
  });
});

/** Counts contexts that were made and not released. */
function counting(): { readonly crypto: CryptoProvider; readonly live: () => number } {
  let live = 0;
  const crypto: CryptoProvider = {
    ...provider,
    aead(raw) {
      const aead = provider.aead(raw);
      live++;
      return {
        seal: (...given) => aead.seal(...given),
        open: (...given) => aead.open(...given),
        release() {
          live--;
          aead.release();
        },
      };
    },
  };
  return { crypto, live: () => live };
}

Deno.test("opened keys are bounded, and one that is held outlives the cache", () => {
  const { crypto, live } = counting();
  withKeys(({ keys, memory }) => {
    const ofLease = memory.report().keys;
    const held = keys.openDataKey(GOLDEN_WRAPPED);
    const sealed = seal(held);
    for (let i = 0; i < MAX_CACHED_DATA_KEYS + 50; i++) keys.generateDataKey().release();
    assert.equal(live(), MAX_CACHED_DATA_KEYS + 1);
    assert.equal(memory.report().keys, ofLease + MAX_CACHED_DATA_KEYS + 1);
    assert.equal(open(held, sealed), "data");
    held.release();
    held.release();
    assert.equal(live(), MAX_CACHED_DATA_KEYS);
    keys.forget();
    assert.equal(live(), 0);
    assert.equal(memory.report().keys, 0);
  }, crypto);
});

Deno.test("a key that is used again is not the first to leave the cache", () => {
  const { crypto, live } = counting();
  withKeys(({ keys }) => {
    const first = keys.generateDataKey();
    first.release();
    for (let i = 1; i < MAX_CACHED_DATA_KEYS; i++) keys.generateDataKey().release();
    keys.openDataKey(first.wrapped).release();
    keys.generateDataKey().release();
    const before = live();
    const again = keys.openDataKey(first.wrapped);
    assert.equal(live(), before, "it was unwrapped again");
    again.release();
  }, crypto);
});

Deno.test("a released data key is refused, and its other holders go on", () => {
  const { crypto, live } = counting();
  withKeys(({ keys }) => {
    const one = keys.openDataKey(GOLDEN_WRAPPED);
    const other = keys.openDataKey(GOLDEN_WRAPPED);
    assert.equal(live(), 1);
    const sealed = seal(one);
    one.aead.release();
    one.release();
    const refused = { code: "common.failed_precondition" };
    assert.throws(() => seal(one), refused);
    assert.throws(() => open(one, sealed), refused);
    assert.throws(() => one.exportKey(), refused);
    assert.equal(open(other, sealed), "data");
    keys.forget();
    assert.equal(live(), 1, "the other holder lost its key");
    other.release();
    assert.equal(live(), 0);
  }, crypto);
});

Deno.test("neither errors nor JSON nor inspection show a key", () => {
  const secret = new Uint8Array(32).map((_, i) => 0xc0 + i);
  const clock = new VirtualClock();
  const memory = new KeyMemory(libc);
  const keys = new LeasedTenantKeys(ORGANISATION, provider, memory, clock);
  const renew = (): void =>
    keys.renew(
      lease({ systemKeys: [{ epoch: 3, key: secret.slice() }], wrappingKeys: [key(4, 0x22)] }),
      clock.monotonicMs(),
    );
  renew();
  const texts: string[] = [];
  const note = (value: unknown): void => {
    texts.push(JSON.stringify(value) ?? "", Deno.inspect(value, { depth: 9 }));
  };
  const dataKey = keys.generateDataKey();
  const raw = dataKey.exportKey();
  const held = memory.hold(secret);
  for (const value of [keys, dataKey, held, memory]) note(value);
  const fail = (run: () => unknown): void =>
    assert.throws(run, (error) => {
      note(error);
      texts.push(error instanceof Error ? `${error.message} ${error.stack}` : "");
      return true;
    });
  fail(() => keys.openDataKey(GOLDEN_WRAPPED));
  fail(() => keys.openDataKey(secret));
  fail(() => keys.renew(lease({ chunkIdKey: secret.slice(1) }), 0));
  clock.advance(LEASE_MS);
  fail(() => keys.generateDataKey());
  fail(() => seal(dataKey));
  const all = texts.join("\n");
  for (const bytes of [secret, raw]) {
    assert.ok(!all.includes(toHex(bytes.subarray(0, 6))), "hex of a key");
    assert.ok(!all.includes([...bytes.subarray(0, 6)].join(",")), "a list of its bytes");
    assert.ok(!all.includes([...bytes.subarray(0, 6)].join(", ")), "a list of its bytes");
    assert.ok(!all.includes(bytes.toBase64().slice(0, 8)), "base64 of a key");
  }
  memory.close();
});

// ---- the source ----

/** Lets promise callbacks run. */
async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

class Manager {
  asked = 0;
  fail: KisekiError | undefined;
  readonly clock: VirtualClock = new VirtualClock();
  readonly memory: KeyMemory = new KeyMemory(libc);
  readonly source: LeasedKeySource = new LeasedKeySource({
    provider,
    clock: this.clock,
    memory: this.memory,
    fetch: async () => {
      this.asked++;
      if (this.fail !== undefined) throw this.fail;
      return lease();
    },
  });

  async pass(ms: number): Promise<void> {
    for (let i = 0; i < ms; i += 500) {
      this.clock.advance(500);
      await settle();
    }
  }
}

Deno.test("a source renews its leases and asks once for many", async () => {
  const m = new Manager();
  const [one, other] = await Promise.all([
    m.source.acquire(ORGANISATION),
    m.source.acquire(ORGANISATION),
  ]);
  assert.equal(one, other);
  assert.equal(m.asked, 1);
  const dataKey = one.generateDataKey();
  await m.pass(10 * LEASE_MS);
  assert.ok(m.asked >= 28 && m.asked <= 32, `${m.asked} leases in ten times its length`);
  seal(dataKey);
  m.source.close();
});

Deno.test("a silent manager: keys work to the lease's end, are zeroed, and come back with it", async () => {
  const m = new Manager();
  const keys = await m.source.acquire(ORGANISATION);
  const dataKey = keys.generateDataKey();
  m.fail = new KisekiError("common.unavailable", "no answer", { retriable: true });
  await m.pass(LEASE_MS - 500);
  seal(dataKey);
  await m.pass(500);
  assert.throws(() => seal(dataKey), { code: "keys.unavailable" });
  assert.equal(m.memory.report().keys, 1, "only the held data key is left in memory");
  await assert.rejects(m.source.acquire(ORGANISATION), { code: "common.unavailable" });
  m.fail = undefined;
  await m.pass(2_000);
  seal(dataKey);
  assert.equal(await m.source.acquire(ORGANISATION), keys);
  m.source.close();
});

Deno.test("destroyed keys end at the next renewal, and are asked for no more", async () => {
  const m = new Manager();
  const keys = await m.source.acquire(ORGANISATION);
  m.fail = new KisekiError("keys.unavailable", "were destroyed");
  await m.pass(LEASE_MS / 3 + 500);
  assert.throws(() => keys.generateDataKey(), { code: "keys.unavailable" });
  assert.equal(m.memory.report().keys, 0);
  const asked = m.asked;
  await m.pass(2 * LEASE_MS);
  assert.equal(m.asked, asked);
  m.source.close();
});

Deno.test("keys that were never acquired are not held", () => {
  const m = new Manager();
  assert.throws(() => m.source.held(ORGANISATION), { code: "keys.unavailable" });
  m.source.close();
});

Deno.test("a closed source holds nothing, not even what arrives late", async () => {
  const memory = new KeyMemory(libc);
  const given = lease();
  const answer = Promise.withResolvers<TenantKeyLease>();
  const source = new LeasedKeySource({
    provider,
    memory,
    clock: new VirtualClock(),
    fetch: () => answer.promise,
  });
  const acquiring = source.acquire(ORGANISATION);
  source.close();
  answer.resolve(given);
  await assert.rejects(acquiring, { code: "keys.unavailable" });
  assert.ok(given.chunkIdKey.every((byte) => byte === 0));
  assert.equal(memory.report().keys, 0);
  await assert.rejects(source.acquire(ORGANISATION), { code: "keys.unavailable" });
});
