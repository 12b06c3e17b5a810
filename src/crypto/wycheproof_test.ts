/**
 * Every provider against Project Wycheproof's cases (C2SP/wycheproof, testvectors_v1), which are
 * data from outside the project: read from `KISEKI_VECTORS`, or from ../shared/vectors beside the
 * repository, and skipped with a warning where neither is there.
 */
import assert from "node:assert/strict";
import { PRESENT_PROVIDERS } from "../../test/providers.ts";
import { concatBytes, equalBytes, fromHex, toHex } from "../common/bytes.ts";
import { isKisekiError } from "../common/errors.ts";
import { AEAD_OVERHEAD, type CryptoProvider } from "./provider.ts";

const FOLDER = Deno.env.get("KISEKI_VECTORS") ??
  new URL("../../../shared/vectors", import.meta.url).pathname;

/** Fields of the five files; each file has some of them, all hex strings but `size`. */
interface Case {
  readonly tcId: number;
  readonly result: "valid" | "invalid" | "acceptable";
  readonly key: string;
  readonly iv: string;
  readonly aad: string;
  readonly msg: string;
  readonly ct: string;
  readonly tag: string;
  readonly ikm: string;
  readonly salt: string;
  readonly info: string;
  readonly okm: string;
  readonly size: number;
}
interface Group {
  readonly keySize: number;
  readonly ivSize: number;
  readonly tagSize: number;
  readonly tests: readonly Case[];
}

/** Runs a file's fitting groups on all providers; `run` returns what the case computed. */
function wycheproof(
  file: string,
  least: number,
  fits: (group: Group) => boolean,
  run: (provider: CryptoProvider, test: Case, group: Group) => boolean,
): void {
  const path = `${FOLDER}/${file}_test.json`;
  let text: string;
  try {
    text = Deno.readTextFileSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    console.warn(`SKIPPED: Wycheproof ${file}: ${path} is not there (set KISEKI_VECTORS)`);
    Deno.test.ignore(`wycheproof ${file}`, () => {});
    return;
  }
  const { testGroups } = JSON.parse(text) as { readonly testGroups: readonly Group[] };
  for (const provider of PRESENT_PROVIDERS) {
    Deno.test(`${provider.report.name}: wycheproof ${file}`, () => {
      let count = 0;
      for (const group of testGroups.filter(fits)) {
        for (const test of group.tests) {
          count++;
          const accepted = run(provider, test, group);
          const wanted = test.result === "valid";
          if (test.result === "acceptable") continue;
          assert.equal(accepted, wanted, `case ${test.tcId} is ${test.result}`);
        }
      }
      assert.ok(count >= least, `${count} cases ran (${least} wanted)`);
    });
  }
}

/** False for a refusal; other errors are thrown on. */
function accepts(attempt: () => boolean): boolean {
  try {
    return attempt();
  } catch (error) {
    if (isKisekiError(error, "crypto.open_failed")) return false;
    if (isKisekiError(error, "common.invalid_argument")) return false;
    throw error;
  }
}

wycheproof(
  "aes_gcm",
  60,
  (group) => group.keySize === 256 && group.ivSize === 96 && group.tagSize === 128,
  (provider, test) =>
    accepts(() => {
      const aead = provider.aead(fromHex(test.key));
      const sealed = concatBytes(fromHex(test.ct), fromHex(test.tag), fromHex(test.iv));
      const out = new Uint8Array(sealed.length - AEAD_OVERHEAD);
      try {
        aead.open(sealed, fromHex(test.aad), out);
        return toHex(out) === test.msg;
      } finally {
        aead.release();
      }
    }),
);

wycheproof("aes_wrap", 165, () => true, (provider, test) =>
  accepts(() => {
    const plain = provider.unwrapKey(fromHex(test.key), fromHex(test.ct));
    const again = provider.wrapKey(fromHex(test.key), fromHex(test.msg));
    return toHex(plain) === test.msg && toHex(again) === test.ct;
  }));

wycheproof("aes_kwp", 254, () => true, (provider, test) =>
  accepts(() => {
    const plain = provider.unwrapKeyPadded(fromHex(test.key), fromHex(test.ct));
    const again = provider.wrapKeyPadded(fromHex(test.key), fromHex(test.msg));
    return toHex(plain) === test.msg && toHex(again) === test.ct;
  }));

wycheproof("hkdf_sha256", 86, () => true, (provider, test) =>
  accepts(() => {
    const [ikm, salt, info] = [fromHex(test.ikm), fromHex(test.salt), fromHex(test.info)];
    return toHex(provider.hkdfSha256(ikm, salt, info, test.size)) === test.okm;
  }));

wycheproof("hmac_sha256", 174, () => true, (provider, test, group) => {
  const mac = provider.hmacSha256(fromHex(test.key), fromHex(test.msg));
  return equalBytes(mac.subarray(0, group.tagSize / 8), fromHex(test.tag));
});
