/**
 * `make bench`: every figure in one run, each beside its target. Ratios count; absolute figures
 * tell about the machine. Arguments choose: hashes, table, log, chunks, s3; none = all.
 *
 * `KISEKI_BENCH_FULL=1` takes the full sizes of the table's bench; `KISEKI_BENCH_OBJECTS` sets the
 * number of objects of the listing and start-up figures (default one million).
 */
import { chooseProvider } from "../../src/crypto/provider_choice.ts";
import { providerOptions } from "../../src/roles/provider_assets.ts";
import { chunkBench } from "./chunk_bench.ts";
import { type BenchLine, formatBenchLines } from "./report.ts";
import { s3Bench } from "./s3_bench.ts";
import { tableBench } from "./table_bench.ts";
import { walBench } from "./wal_bench.ts";

/** What the hash functions and the cipher reach on one core: the bound of every PUT. */
function hashBench(): Promise<BenchLine[]> {
  const { provider } = chooseProvider(providerOptions({ fips: "off" }));
  const bytes = new Uint8Array(4 << 20).fill(7);
  const sealed = new Uint8Array(bytes.length + 28);
  const aead = provider.aead(crypto.getRandomValues(new Uint8Array(32)));
  const rate = (name: string, work: () => void): BenchLine => {
    work();
    const started = performance.now();
    for (let i = 0; i < 20; i++) work();
    const seconds = (performance.now() - started) / 1000;
    return { name, value: 20 * bytes.length / seconds / 1e6, unit: "MB/s" };
  };
  const { name, version } = provider.report;
  const lines = [
    rate(`SHA-256, ${name} ${version}`, () => void provider.digest("sha256", bytes)),
    rate("MD5", () => void provider.digest("md5", bytes)),
    rate("CRC-32C", () => void provider.crc32c(bytes)),
    rate("AES-256-GCM seal", () => void aead.seal(bytes, new Uint8Array(8), sealed)),
  ];
  aead.release();
  return Promise.resolve(lines);
}

const BENCHES: Readonly<Record<string, () => Promise<readonly BenchLine[]>>> = {
  hashes: hashBench,
  table: tableBench,
  log: walBench,
  chunks: chunkBench,
  s3: s3Bench,
};

const wanted = Deno.args.length === 0 ? Object.keys(BENCHES) : Deno.args;
for (const name of wanted) {
  const bench = BENCHES[name];
  if (bench === undefined) {
    console.error(`no bench "${name}": one of ${Object.keys(BENCHES).join(", ")}`);
    Deno.exit(2);
  }
  console.log(`\n${name}`);
  console.log(formatBenchLines(await bench()));
}
