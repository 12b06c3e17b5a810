/** The envelope: golden vectors, binding, range reads, bad input. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { PRESENT_PROVIDERS, testProvider } from "../../test/providers.ts";
import { testRounds, testSeed } from "../../test/rounds.ts";
import { type Bytes, concatBytes, fromHex, toHex, utf8 } from "../common/bytes.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { ChunkId, OrganisationId } from "../common/ids.ts";
import {
  openEnvelope,
  openEnvelopeRange,
  plaintextSize,
  readEnvelopeHeader,
  sealedSize,
  sealEnvelope,
  segmentCount,
  segmentRange,
} from "./envelope.ts";
import { ENVELOPE_HEADER_SIZE, EnvelopeKind } from "./envelope_format.ts";
import {
  chunkIdentity,
  deltaIdentity,
  keySlotIdentity,
  manifestIdentity,
  recordIdentity,
  runBlockIdentity,
  tokenIdentity,
} from "./envelope_identity.ts";
import { fixedNonceDataKey } from "./fixed_nonce_test_support.ts";
import type { CryptoProvider } from "./provider.ts";
import { type DataKey, WRAPPED_DEK_SIZE } from "./sealer.ts";

const KEY = new Uint8Array(32).map((_, i) => i);
const ORGANISATION = "000102030405060708090a0b0c0d0e0f" as OrganisationId;
const OTHER = "ff0102030405060708090a0b0c0d0e0f" as OrganisationId;
const CHUNK = "ab".repeat(32) as ChunkId;

function dataKey(provider: CryptoProvider, systemEpoch = 3, tenantEpoch = 7): DataKey {
  const aead = provider.aead(KEY);
  const wrapped = new Uint8Array(WRAPPED_DEK_SIZE);
  return {
    wrapped,
    aead,
    systemEpoch,
    tenantEpoch,
    exportKey: () => KEY.slice(),
    release: () => aead.release(),
  };
}

function seal(
  key: DataKey,
  plain: Bytes,
  log2: number,
  kind: EnvelopeKind = EnvelopeKind.delta,
  identity: Bytes = deltaIdentity(2, 5n),
): Bytes {
  const out = new Uint8Array(sealedSize(plain.length, log2));
  assert.equal(sealEnvelope(key, kind, ORGANISATION, identity, plain, log2, out), out.length);
  return out;
}

// Written by pyca/cryptography from the layout tables alone: key 00..1f, nonces 1, 2, ...
const GOLDEN_DELTA =
  "0101030003000000070000007ebfcc992f9d4be157abde4e3b5658e4f1473e0bf682000000000000000000000001";
const GOLDEN_CHUNK =
  "01010106040302010807060515d7bdff40f1361906275b32e0ab34f8058e0e4770a742936b1919c23a2d6d41" +
  "1ab745d20c09a21b71f6e92a40c9291c1e2761a1c9db2b70862c275e6488a537a40cfbea0a075dc4a086b285" +
  "fc7013cd00000000000000000000000189306c3ef00e9c96f144765a3b0ca5c3d6466783bafc59f8d6240861" +
  "2d8605db84429bac42044e8371a2885bfe0ef4cd0a76636ad4f5c45289a5f95b6c1e09953e4913a6783fd68e" +
  "f51c9bc70de17a660000000000000000000000028da50cce5f8936b5bd2fab536063638b9f74000000000000" +
  "000000000003";

Deno.test("golden vectors: the layout of version 1 never changes", () => {
  const delta = seal(fixedNonceDataKey(KEY, 3, 7, 1), utf8("kiseki"), 0);
  assert.equal(toHex(delta), GOLDEN_DELTA);
  const plain = new Uint8Array(130).map((_, i) => i);
  const chunk = seal(
    fixedNonceDataKey(KEY, 0x01020304, 0x05060708, 1),
    plain,
    6,
    EnvelopeKind.chunk,
    chunkIdentity(CHUNK, plain.length),
  );
  assert.equal(toHex(chunk), GOLDEN_CHUNK);
  for (const provider of PRESENT_PROVIDERS) {
    const key = dataKey(provider);
    const out = new Uint8Array(6);
    const identity = deltaIdentity(2, 5n);
    openEnvelope(key, EnvelopeKind.delta, ORGANISATION, identity, fromHex(GOLDEN_DELTA), out);
    assert.deepEqual(out, utf8("kiseki"));
    const back = new Uint8Array(130);
    const chunkId = chunkIdentity(CHUNK, 130);
    openEnvelope(key, EnvelopeKind.chunk, ORGANISATION, chunkId, fromHex(GOLDEN_CHUNK), back);
    assert.deepEqual(back, plain);
    key.release();
  }
});

Deno.test("associated data is header, organisation, identity, index, count, in this order", () => {
  const seen: string[] = [];
  const key: DataKey = {
    ...fixedNonceDataKey(KEY, 3, 7),
    aead: {
      seal: (plain, associated) => {
        seen.push(toHex(associated));
        return plain.length + 28;
      },
      open: () => 0,
      release() {},
    },
  };
  seal(key, new Uint8Array(65), 6);
  const head = "010103060300000007000000" + ORGANISATION + "02000000000000000500000000000000";
  assert.deepEqual(seen, [head + "0000000002000000", head + "0100000002000000"]);
});

Deno.test("identities have the documented bytes", () => {
  assert.equal(toHex(chunkIdentity(CHUNK, 4194304)), CHUNK + "00004000");
  assert.equal(toHex(runBlockIdentity(ORGANISATION, 258n)), ORGANISATION + "0201000000000000");
  assert.equal(toHex(manifestIdentity(ORGANISATION, 1n)), ORGANISATION + "0100000000000000");
  assert.equal(toHex(tokenIdentity("list")), "6c697374" + "00".repeat(12));
  assert.equal(keySlotIdentity("master").length, 64);
  assert.equal(recordIdentity(new Uint8Array(32)).length, 32);
  const refused = (error: unknown) => isKisekiError(error, "common.invalid_argument");
  assert.throws(() => tokenIdentity("seventeen letters"), refused);
  assert.throws(() => chunkIdentity("zz".repeat(32) as ChunkId, 1), refused);
  assert.throws(() => chunkIdentity("ab" as ChunkId, 1), refused);
});

Deno.test("an envelope opens in its own place alone", () => {
  for (const provider of PRESENT_PROVIDERS) {
    const key = dataKey(provider);
    const plain = utf8("x".repeat(200));
    const sealed = seal(key, plain, 6);
    const out = new Uint8Array(2 * plain.length);
    const open = (
      kind: EnvelopeKind,
      organisation: OrganisationId,
      identity: Bytes,
      bytes: Bytes,
    ) => openEnvelope(key, kind, organisation, identity, bytes, out);
    const identity = deltaIdentity(2, 5n);
    assert.equal(open(EnvelopeKind.delta, ORGANISATION, identity, sealed), 200);
    assert.deepEqual(out.subarray(0, plain.length), plain);
    const failed = (error: unknown) => isKisekiError(error, "crypto.open_failed");
    assert.throws(() => open(EnvelopeKind.token, ORGANISATION, identity, sealed), failed);
    assert.throws(() => open(EnvelopeKind.delta, OTHER, identity, sealed), failed);
    assert.throws(
      () => open(EnvelopeKind.delta, ORGANISATION, deltaIdentity(2, 6n), sealed),
      failed,
    );
    assert.ok(out.every((b) => b === 0), "what does not open leaves zeros");
    const kindChanged = sealed.slice();
    kindChanged[2] = EnvelopeKind.token;
    assert.throws(() => open(EnvelopeKind.token, ORGANISATION, identity, kindChanged), failed);
    const epochChanged = sealed.slice();
    epochChanged[4] = 4;
    assert.throws(() => open(EnvelopeKind.delta, ORGANISATION, identity, epochChanged), failed);
    // Segments swapped, dropped and doubled.
    const unit = 64 + 28;
    const head = sealed.subarray(0, 12);
    const part = (i: number) => sealed.subarray(12 + i * unit, 12 + (i + 1) * unit);
    for (const order of [[1, 0, 2], [0, 1], [0, 1, 2, 2], [1, 2]]) {
      const last = order.length === 3 ? [sealed.subarray(12 + 3 * unit)] : [];
      const moved = concatBytes(head, ...order.map(part), ...last);
      assert.throws(() => open(EnvelopeKind.delta, ORGANISATION, identity, moved), failed);
    }
    key.release();
  }
});

Deno.test("unknown versions and algorithms are refused by name", () => {
  const key = dataKey(testProvider());
  const sealed = seal(key, utf8("x"), 0);
  const at = (offset: number, value: number): Bytes => {
    const copy = sealed.slice();
    copy[offset] = value;
    return copy;
  };
  const code = (bytes: Bytes): string => {
    try {
      readEnvelopeHeader(bytes);
      return "ok";
    } catch (error) {
      return error instanceof KisekiError ? error.code : String(error);
    }
  };
  assert.equal(code(at(0, 2)), "common.unsupported_version");
  assert.equal(code(at(1, 9)), "common.unsupported_version");
  assert.equal(code(at(2, 0)), "common.corrupt_format");
  assert.equal(code(at(3, 31)), "common.corrupt_format");
  assert.equal(code(sealed.subarray(0, 11)), "common.corrupt_format");
  assert.equal(code(sealed), "ok");
  key.release();
});

Deno.test("sizes round-trip and every range is found where it lies", () => {
  const key = dataKey(testProvider());
  const seed = testSeed("envelope ranges");
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 3000 }),
      fc.constantFrom(0, 6, 7, 10),
      fc.nat(),
      fc.nat(),
      (size, log2, a, b) => {
        const plain = new Uint8Array(size).map((_, i) => i * 7 + (i >> 8));
        const sealed = seal(key, plain, log2);
        assert.equal(plaintextSize(sealed.length, log2), size);
        const whole = new Uint8Array(size);
        const identity = deltaIdentity(2, 5n);
        openEnvelope(key, EnvelopeKind.delta, ORGANISATION, identity, sealed, whole);
        assert.deepEqual(whole, plain);
        if (size === 0) return;
        const offset = a % size;
        const length = 1 + b % (size - offset);
        const range = segmentRange(size, log2, offset, length);
        const out = new Uint8Array(range.plaintextLength);
        const written = openEnvelopeRange(
          key,
          EnvelopeKind.delta,
          ORGANISATION,
          identity,
          sealed.subarray(0, ENVELOPE_HEADER_SIZE),
          sealed.subarray(range.sealedOffset, range.sealedOffset + range.sealedLength),
          range.firstSegment,
          range.count,
          size,
          out,
        );
        assert.equal(written, range.plaintextLength);
        const from = offset - range.plaintextOffset;
        assert.ok(from >= 0);
        assert.deepEqual(
          out.subarray(from, from + length),
          plain.subarray(offset, offset + length),
        );
        assert.ok(range.count <= segmentCount(length, log2) + 1);
      },
    ),
    { seed, numRuns: testRounds(2000) },
  );
  key.release();
});

Deno.test("random and mutated envelopes end in a KisekiError", () => {
  const key = dataKey(testProvider());
  const seed = testSeed("envelope fuzz");
  const plain = utf8("y".repeat(300));
  const whole = [seal(key, plain, 0), seal(key, plain, 6)];
  const out = new Uint8Array(4096);
  const identity = deltaIdentity(2, 5n);
  const tryOpen = (bytes: Bytes) => {
    try {
      openEnvelope(key, EnvelopeKind.delta, ORGANISATION, identity, bytes, out);
    } catch (error) {
      if (error instanceof KisekiError) return;
      throw error;
    }
    assert.ok(whole.some((w) => toHex(w) === toHex(bytes)), "a changed envelope opened");
  };
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 600 }),
      fc.array(fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })), {
        minLength: 1,
        maxLength: 4,
      }),
      fc.nat(500),
      fc.boolean(),
      (noise, flips, cut, segmented) => {
        tryOpen(noise);
        const good = whole[segmented ? 1 : 0] as Bytes;
        const bad = good.slice();
        for (const [at, mask] of flips) {
          const i = at % bad.length;
          bad[i] = (bad[i] ?? 0) ^ mask;
        }
        tryOpen(bad);
        tryOpen(good.subarray(0, Math.min(cut, good.length - 1)));
        tryOpen(concatBytes(good, noise.subarray(0, 1 + cut % 50)));
      },
    ),
    { seed, numRuns: testRounds(100_000 / 4) },
  );
  key.release();
});

Deno.test("test support with fixed nonces is imported by tests alone", async () => {
  const root = new URL("../", import.meta.url);
  const wrong: string[] = [];
  const walk = async (folder: URL): Promise<void> => {
    for await (const entry of Deno.readDir(folder)) {
      if (entry.isDirectory) await walk(new URL(`${entry.name}/`, folder));
      else if (/\.ts$/.test(entry.name) && !/_test(_support)?\.ts$/.test(entry.name)) {
        const text = await Deno.readTextFile(new URL(entry.name, folder));
        if (/from "[^"]*_test(_support)?\.ts"/.test(text)) wrong.push(entry.name);
      }
    }
  };
  await walk(root);
  assert.deepEqual(wrong, []);
});
