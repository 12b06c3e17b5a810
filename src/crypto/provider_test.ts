/** Every provider against the vectors that the standards print. */
import assert from "node:assert/strict";
import { createCipheriv } from "node:crypto";
import { PRESENT_PROVIDERS } from "../../test/providers.ts";
import { type Bytes, fromHex, toHex, utf8 } from "../common/bytes.ts";
import { isKisekiError } from "../common/errors.ts";
import { AEAD_OVERHEAD, type CryptoProvider, type HashAlgorithm } from "./provider.ts";

/** A test for each provider present. */
function eachProvider(name: string, body: (provider: CryptoProvider) => void | Promise<void>) {
  for (const provider of PRESENT_PROVIDERS) {
    Deno.test(`${provider.report.name}: ${name}`, () => body(provider));
  }
}

function openHex(provider: CryptoProvider, key: string, sealed: string, aad: string): string {
  const aead = provider.aead(fromHex(key));
  try {
    const bytes = fromHex(sealed);
    const out = new Uint8Array(bytes.length - AEAD_OVERHEAD);
    assert.equal(aead.open(bytes, fromHex(aad), out), out.length);
    return toHex(out);
  } finally {
    aead.release();
  }
}

// Test cases 13 to 16 of McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B,
// which SP 800-38D refers to: AES-256, 96-bit nonces.
const GCM_KEY = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
const GCM_NONCE = "cafebabefacedbaddecaf888";
const GCM_PLAIN = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72" +
  "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
const GCM_CIPHER = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa" +
  "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad";
const ZERO_KEY = "00".repeat(32);
const ZERO_NONCE = "00".repeat(12);
const GCM_CASES = [
  { key: ZERO_KEY, sealed: "530f8afbc74536b9a963b4f1c4cb738b" + ZERO_NONCE, plain: "", aad: "" },
  {
    key: ZERO_KEY,
    sealed: "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919" + ZERO_NONCE,
    plain: "00".repeat(16),
    aad: "",
  },
  {
    key: GCM_KEY,
    sealed: GCM_CIPHER + "b094dac5d93471bdec1a502270e3cc6c" + GCM_NONCE,
    plain: GCM_PLAIN,
    aad: "",
  },
  {
    key: GCM_KEY,
    sealed: GCM_CIPHER.slice(0, 120) + "76fc6ece0f4e1768cddf8853bb2d551b" + GCM_NONCE,
    plain: GCM_PLAIN.slice(0, 120),
    aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
  },
];

eachProvider("AES-256-GCM opens the published cases", (provider) => {
  for (const { key, sealed, plain, aad } of GCM_CASES) {
    assert.equal(openHex(provider, key, sealed, aad), plain);
  }
});

eachProvider(
  "AES-256-GCM seals exactly what an independent cipher makes of the nonce",
  (provider) => {
    const key = new Uint8Array(32).map((_, i) => 7 * i);
    const aead = provider.aead(key);
    for (const size of [0, 1, 15, 16, 17, 4096, 65536, 65537]) {
      const plain = new Uint8Array(size).map((_, i) => i * 31);
      const aad = new Uint8Array(size % 50).fill(9);
      const out = new Uint8Array(size + AEAD_OVERHEAD);
      assert.equal(aead.seal(plain, aad, out), out.length);
      const cipher = createCipheriv("aes-256-gcm", key, out.slice(size + 16));
      if (aad.length > 0) cipher.setAAD(aad);
      const body = size > 0 ? toHex(cipher.update(plain)) : "";
      cipher.final();
      assert.equal(toHex(out.subarray(0, size + 16)), body + toHex(cipher.getAuthTag()));
      const back = new Uint8Array(size);
      assert.equal(aead.open(out, aad, back), size);
      assert.deepEqual(back, plain);
    }
    aead.release();
  },
);

eachProvider("two seals never share a nonce, over many batches", (provider) => {
  const aead = provider.aead(new Uint8Array(32));
  const seen = new Set<string>();
  const out = new Uint8Array(AEAD_OVERHEAD);
  for (let i = 0; i < 3000; i++) {
    aead.seal(new Uint8Array(0), new Uint8Array(0), out);
    seen.add(toHex(out.subarray(16)));
  }
  assert.equal(seen.size, 3000);
  aead.release();
});

eachProvider("any changed bit fails to open and leaves zeros", (provider) => {
  const aead = provider.aead(new Uint8Array(32).fill(5));
  const plain = utf8("the quick brown fox");
  const aad = utf8("place");
  const sealed = new Uint8Array(plain.length + AEAD_OVERHEAD);
  aead.seal(plain, aad, sealed);
  for (let bit = 0; bit < sealed.length * 8; bit++) {
    const bad = sealed.slice();
    bad[bit >> 3] = (bad[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    const out = new Uint8Array(plain.length).fill(0xee);
    assert.throws(() => aead.open(bad, aad, out), isOpenFailed);
    assert.ok(out.every((b) => b === 0));
  }
  const out = new Uint8Array(plain.length);
  assert.throws(() => aead.open(sealed, utf8("Place"), out), isOpenFailed);
  assert.throws(() => aead.open(sealed.subarray(0, AEAD_OVERHEAD - 1), aad, out), isOpenFailed);
  aead.open(sealed, aad, out);
  assert.deepEqual(out, plain);
  aead.release();
});

eachProvider("shared memory can be sealed and opened in place of plain memory", (provider) => {
  const aead = provider.aead(new Uint8Array(32).fill(1));
  const plain = new Uint8Array(new SharedArrayBuffer(100)).fill(3);
  const sealed = new Uint8Array(new SharedArrayBuffer(100 + AEAD_OVERHEAD));
  const back = new Uint8Array(new SharedArrayBuffer(100));
  aead.seal(plain, new Uint8Array(0), sealed);
  aead.open(sealed, new Uint8Array(0), back);
  assert.deepEqual(back.slice(), plain.slice());
  assert.equal(provider.digest("sha256", plain).length, 32);
  provider.random(back);
  assert.ok(back.some((b) => b !== 3));
  aead.release();
});

eachProvider("wrong sizes and released keys are refused", (provider) => {
  assert.throws(() => provider.aead(new Uint8Array(31)), isInvalid);
  const aead = provider.aead(new Uint8Array(32));
  const none = new Uint8Array(0);
  assert.throws(() => aead.seal(new Uint8Array(5), none, new Uint8Array(32)), isInvalid);
  assert.throws(() => aead.open(new Uint8Array(40), none, new Uint8Array(11)), isInvalid);
  aead.release();
  aead.release();
  assert.throws(() => aead.seal(none, none, new Uint8Array(28)), isReleased);
  assert.throws(() => aead.open(new Uint8Array(28), none, none), isReleased);
  assert.throws(() => provider.wrapKey(new Uint8Array(31), new Uint8Array(16)), isInvalid);
  assert.throws(() => provider.wrapKey(new Uint8Array(32), new Uint8Array(17)), isInvalid);
  assert.throws(() => provider.wrapKeyPadded(new Uint8Array(32), none), isInvalid);
  assert.throws(() => provider.unwrapKey(new Uint8Array(32), new Uint8Array(20)), isOpenFailed);
  assert.throws(() => provider.hkdfSha256(none, none, none, 255 * 32 + 1), isInvalid);
});

// FIPS 180-4 examples (SHA), RFC 1321 A.5 (MD5).
const ABC448 = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
const DIGESTS: readonly (readonly [HashAlgorithm, string, string])[] = [
  ["sha256", "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
  ["sha256", "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
  ["sha256", ABC448, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"],
  ["sha1", "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"],
  ["sha1", ABC448, "84983e441c3bd26ebaae4aa1f95129e5e54670f1"],
  ["md5", "", "d41d8cd98f00b204e9800998ecf8427e"],
  ["md5", "abc", "900150983cd24fb0d6963f7d28e17f72"],
  ["md5", "message digest", "f96b697d7cb7938d525a2f31aaf161d0"],
  ["md5", "abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"],
];

eachProvider("digests match the standards, in one piece and in pieces", (provider) => {
  for (const [algorithm, text, hex] of DIGESTS) {
    const bytes = utf8(text);
    assert.equal(toHex(provider.digest(algorithm, bytes)), hex);
    const hash = provider.hash(algorithm);
    for (let i = 0; i < bytes.length; i += 5) hash.update(bytes.subarray(i, i + 5));
    assert.equal(toHex(hash.digest()), hex);
    hash.release();
    assert.throws(() => hash.update(bytes), isReleased);
  }
  const million = new Uint8Array(1_000_000).fill(0x61);
  assert.equal(
    toHex(provider.digest("sha256", million)),
    "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
  );
});

eachProvider(
  "a digest off this thread is the same, and a release waits for it",
  async (provider) => {
    const bytes = new Uint8Array(3 << 20).map((_, i) => i >> 8);
    const wanted = toHex(provider.digest("sha256", bytes));
    assert.equal(toHex(await provider.digestAsync("sha256", bytes)), wanted);
    const hash = provider.hash("sha256");
    await hash.updateAsync(bytes.subarray(0, 2 << 20));
    await hash.updateAsync(bytes.subarray(2 << 20));
    assert.equal(toHex(hash.digest()), wanted);
    const dropped = provider.hash("md5");
    const running = dropped.updateAsync(bytes);
    dropped.release();
    await running;
    assert.throws(() => dropped.digest(), isReleased);
  },
);

// RFC 4231, test cases 1, 2, 3, 6; an empty key from the definition.
eachProvider("HMAC-SHA256 matches RFC 4231", (provider) => {
  const cases: readonly (readonly [string, string, string])[] = [
    [
      "0b".repeat(20),
      toHex(utf8("Hi There")),
      "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    ],
    [
      toHex(utf8("Jefe")),
      toHex(utf8("what do ya want for nothing?")),
      "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ],
    [
      "aa".repeat(20),
      "dd".repeat(50),
      "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
    ],
    [
      "aa".repeat(131),
      toHex(utf8("Test Using Larger Than Block-Size Key - Hash Key First")),
      "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ],
    ["", "", "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"],
  ];
  for (const [key, data, mac] of cases) {
    assert.equal(toHex(provider.hmacSha256(fromHex(key), fromHex(data))), mac);
  }
});

// RFC 5869, appendix A.1 to A.3.
eachProvider("HKDF-SHA256 matches RFC 5869", (provider) => {
  const run = (from: number, to: number): Bytes =>
    new Uint8Array(to - from + 1).map((_, i) => from + i);
  const none = new Uint8Array(0);
  const ikm = new Uint8Array(22).fill(0x0b);
  assert.equal(
    toHex(provider.hkdfSha256(ikm, run(0, 0x0c), run(0xf0, 0xf9), 42)),
    "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
  );
  assert.equal(
    toHex(provider.hkdfSha256(run(0, 0x4f), run(0x60, 0xaf), run(0xb0, 0xff), 82)),
    "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c" +
      "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71" +
      "cc30c58179ec3e87c14c01d5c1f3434f1d87",
  );
  assert.equal(
    toHex(provider.hkdfSha256(ikm, none, none, 42)),
    "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
  );
});

// RFC 3394, sections 4.1 to 4.6.
eachProvider("AES key wrap matches RFC 3394", (provider) => {
  const kek = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
  const data = "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f";
  const cases: readonly (readonly [number, number, string])[] = [
    [16, 16, "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5"],
    [24, 16, "96778b25ae6ca435f92b5b97c050aed2468ab8a17ad84e5d"],
    [32, 16, "64e8c3f9ce0f5ba263e9777905818a2a93c8191e7d6e8ae7"],
    [24, 24, "031d33264e15d33268f24ec260743edce1c6c7ddee725a936ba814915c6762d2"],
    [32, 24, "a8f9bc1612c68b3ff6e6f4fbe30e71e4769c8b80a32cb8958cd5d17d6b254da1"],
    [
      32,
      32,
      "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21",
    ],
  ];
  for (const [keySize, dataSize, wrapped] of cases) {
    const key = fromHex(kek.slice(0, 2 * keySize));
    const plain = fromHex(data.slice(0, 2 * dataSize));
    assert.equal(toHex(provider.wrapKey(key, plain)), wrapped);
    assert.deepEqual(provider.unwrapKey(key, fromHex(wrapped)), plain);
    const bad = fromHex(wrapped);
    bad[3] = (bad[3] ?? 0) ^ 1;
    assert.throws(() => provider.unwrapKey(key, bad), isOpenFailed);
  }
});

// RFC 5649, section 6.
eachProvider("AES key wrap with padding matches RFC 5649", (provider) => {
  const key = fromHex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8");
  const cases: readonly (readonly [string, string])[] = [
    [
      "c37b7e6492584340bed12207808941155068f738",
      "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
    ],
    ["466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"],
  ];
  for (const [plain, wrapped] of cases) {
    assert.equal(toHex(provider.wrapKeyPadded(key, fromHex(plain))), wrapped);
    assert.equal(toHex(provider.unwrapKeyPadded(key, fromHex(wrapped))), plain);
    const bad = fromHex(wrapped);
    bad[0] = (bad[0] ?? 0) ^ 0x80;
    assert.throws(() => provider.unwrapKeyPadded(key, bad), isOpenFailed);
  }
});

eachProvider("every length wraps the same everywhere and comes back", (provider) => {
  const key = new Uint8Array(32).fill(0x42);
  for (const size of [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 4095, 4096]) {
    const plain = new Uint8Array(size).map((_, i) => i + size);
    const wrapped = provider.wrapKeyPadded(key, plain);
    for (const other of PRESENT_PROVIDERS) {
      assert.deepEqual(other.wrapKeyPadded(key, plain), wrapped);
      assert.deepEqual(new Uint8Array(other.unwrapKeyPadded(key, wrapped)), plain);
    }
  }
});

function isOpenFailed(error: unknown): boolean {
  return isKisekiError(error, "crypto.open_failed");
}
function isInvalid(error: unknown): boolean {
  return isKisekiError(error, "common.invalid_argument");
}
function isReleased(error: unknown): boolean {
  return isKisekiError(error, "common.failed_precondition");
}
