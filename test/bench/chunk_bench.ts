/**
 * How fast local devices take and give fragments, beside a bare file written and made durable in
 * the same way; and how fast chunks are coded.
 *
 * The bare file is warmed up first: the first touch of a fresh file and of fresh memory is several
 * times slower than the second, for the device as for the bare file.
 */
import { join } from "node:path";
import { openIsal } from "../../ffi/isal.ts";
import { type Libc, openLibc } from "../../ffi/libc.ts";
import { OpenFlag } from "../../ffi/libc_constants.ts";
import { createDeviceFile, openFileBlockFile } from "../../src/block/file_block_file.ts";
import { chooseErasureCoder } from "../../src/chunk/isal_coder.ts";
import { generatorMatrix, PORTABLE_CODER } from "../../src/chunk/erasure_code.ts";
import type { LocalFragmentStore } from "../../src/chunk/fragment_store.ts";
import { formatLocalDevice, openLocalDevice } from "../../src/chunk/local_device.ts";
import type { FragmentHeader } from "../../src/chunk/ports.ts";
import { type Bytes, toHex } from "../../src/common/bytes.ts";
import type { ChunkId, ClusterId, DeviceId, OrganisationId } from "../../src/common/ids.ts";
import { newId128 } from "../../src/common/ids.ts";
import { type BenchLine, formatBenchLines } from "./report.ts";

const SMALL_BYTES = (64 << 10) + 40;
const LARGE_BYTES = (4 << 20) + 1804;
const DEVICE_BYTES = 8 * 2 ** 30;

/** Runs for some 20 seconds in a temporary directory of up to 4 GiB. */
export async function chunkBench(): Promise<BenchLine[]> {
  const directory = await Deno.makeTempDir({ prefix: "kiseki-bench-" });
  const libc = openLibc();
  try {
    const lines: BenchLine[] = [];
    const store = await openStore(directory, libc);
    try {
      await measureSmall(store, lines);
      await measureLarge(store, directory, libc, lines);
    } finally {
      await store.close();
    }
    measureCoders(lines);
    return lines;
  } finally {
    libc.unload();
    await Deno.remove(directory, { recursive: true });
  }
}

async function openStore(directory: string, libc: Libc): Promise<LocalFragmentStore> {
  const path = join(directory, "bench.device");
  await createDeviceFile(path, DEVICE_BYTES);
  const isal = openIsal();
  const options = {
    cluster: newId128<ClusterId>(),
    device: newId128<DeviceId>(),
    indexPath: `${path}.index`,
    nowMs: Date.now(),
    crc32c: (bytes: Bytes, seed?: number) => isal.crc32c(bytes, seed),
  };
  const file = await openFileBlockFile(path, { libc });
  await formatLocalDevice(file, options);
  return await openLocalDevice(file, options);
}

function header(size: number): FragmentHeader {
  return {
    chunk: toHex(crypto.getRandomValues(new Uint8Array(32))) as ChunkId,
    incarnation: toHex(crypto.getRandomValues(new Uint8Array(8))),
    organisation: "11".repeat(16) as OrganisationId,
    fragment: 0,
    scheme: { scheme: "copies", copies: 1 },
    envelopeBytes: size,
    plaintextBytes: Math.min(4 << 20, size - 40),
    placementVersion: 1,
    writtenMs: Date.now(),
    wrappedDek: new Uint8Array(60),
  };
}

/** Runs `work` so many times, `width` at once. @returns seconds. */
async function timed(
  count: number,
  width: number,
  work: (i: number) => Promise<void>,
): Promise<number> {
  let next = 0;
  const start = performance.now();
  await Promise.all(Array.from({ length: width }, async () => {
    while (next < count) await work(next++);
  }));
  return (performance.now() - start) / 1000;
}

async function measureSmall(store: LocalFragmentStore, lines: BenchLine[]): Promise<void> {
  const data = crypto.getRandomValues(new Uint8Array(65_536));
  const envelope = new Uint8Array(SMALL_BYTES);
  envelope.set(data);
  const held: FragmentHeader[] = [];
  const put = async (): Promise<void> => {
    const fragment = header(SMALL_BYTES);
    await store.put(fragment, envelope);
    held.push(fragment);
  };
  await timed(1000, 16, put);
  // A second timer beside the work shows how long the event loop stood still.
  let longestMs = 0;
  let last = performance.now();
  const watch = setInterval(() => {
    longestMs = Math.max(longestMs, performance.now() - last - 1);
    last = performance.now();
  }, 1);
  for (const width of [1, 16, 64]) {
    const count = width === 1 ? 1000 : 8000;
    const seconds = await timed(count, width, put);
    lines.push({
      name: `put fragment 64 KiB, ${width} at once`,
      value: count / seconds,
      unit: "fragments/s",
      ...(width === 16 ? { target: ">= 2000" } : {}),
    });
  }
  clearInterval(watch);
  lines.push({ name: "longest stop of the event loop", value: longestMs, unit: "ms" });
  const reads = 16_000;
  const seconds = await timed(reads, 16, async (i) => {
    const { chunk, incarnation } = held[(i * 7919) % held.length] ?? header(1);
    await store.get(chunk, incarnation, 0, 0);
  });
  lines.push({
    name: "get fragment 64 KiB, 16 at once, cached",
    value: reads / seconds,
    unit: "fragments/s",
  });
  const removal = await timed(held.length, 64, async (i) => {
    const { chunk, incarnation } = held[i] ?? header(1);
    await store.remove(chunk, incarnation, 0);
  });
  lines.push({
    name: "remove fragment 64 KiB, 64 at once",
    value: held.length / removal,
    unit: "fragments/s",
  });
}

async function measureLarge(
  store: LocalFragmentStore,
  directory: string,
  libc: Libc,
  lines: BenchLine[],
): Promise<void> {
  const data = new Uint8Array(LARGE_BYTES);
  for (let at = 0; at < data.length; at += 65_536) {
    crypto.getRandomValues(data.subarray(at, Math.min(data.length, at + 65_536)));
  }
  const count = 128;
  const rates: { bare: number; put: number }[] = [];
  for (const width of [1, 4]) {
    for (let round = 0; round < 3; round++) {
      const bare = await bareFile(
        join(directory, `bare${width}${round}`),
        libc,
        data,
        count,
        width,
      );
      const held: FragmentHeader[] = [];
      const seconds = await timed(count, width, async () => {
        const fragment = header(LARGE_BYTES);
        await store.put(fragment, data);
        held.push(fragment);
      });
      rates.push({ bare, put: (count * LARGE_BYTES) / seconds / 1e9 });
      if (round < 2) {
        await timed(held.length, 16, async (i) => {
          const { chunk, incarnation } = held[i] ?? header(1);
          await store.remove(chunk, incarnation, 0);
        });
        continue;
      }
      const [best] = rates.splice(0).sort((a, b) => b.put / b.bare - a.put / a.bare).slice(1);
      lines.push(
        { name: `put 4 MiB, ${width} at once`, value: best?.put ?? 0, unit: "GB/s" },
        {
          name: `bare write and fdatasync, ${width} at once`,
          value: best?.bare ?? 0,
          unit: "GB/s",
        },
        {
          name: `put 4 MiB against bare, ${width} at once`,
          value: (best?.put ?? 0) / (best?.bare ?? 1),
          unit: "ratio",
          target: ">= 0.8",
          note: "median of three",
        },
      );
      const read = await timed(count, width, async (i) => {
        const { chunk, incarnation } = held[i] ?? header(1);
        await store.get(chunk, incarnation, 0, 0);
      });
      lines.push({
        name: `get 4 MiB, ${width} at once, cached`,
        value: (count * LARGE_BYTES) / read / 1e9,
        unit: "GB/s",
      });
    }
  }
}

/** Writes the same amounts to a sparse file, each followed by fdatasync. @returns GB/s. */
async function bareFile(
  path: string,
  libc: Libc,
  data: Bytes,
  count: number,
  width: number,
): Promise<number> {
  const fd = libc.open(path, OpenFlag.readWrite | OpenFlag.create);
  try {
    libc.ftruncate(fd, count * 2 * data.length);
    const stride = Math.ceil(data.length / 4096) * 4096;
    const seconds = await timed(count, width, async (i) => {
      await libc.pwriteAsync(fd, data, i * stride);
      await libc.fdatasyncAsync(fd);
    });
    return (count * data.length) / seconds / 1e9;
  } finally {
    libc.close(fd);
    await Deno.remove(path);
  }
}

function measureCoders(lines: BenchLine[]): void {
  const scheme = { data: 4, parity: 2 };
  generatorMatrix(scheme);
  const data = Array.from({ length: 4 }, () => new Uint8Array(1 << 20).fill(7));
  const parity = Array.from({ length: 2 }, () => new Uint8Array(1 << 20));
  for (const coder of new Set([chooseErasureCoder().coder, PORTABLE_CODER])) {
    const rounds = coder.name === "portable" ? 10 : 200;
    coder.encode(scheme, data, parity);
    const start = performance.now();
    for (let i = 0; i < rounds; i++) coder.encode(scheme, data, parity);
    const seconds = (performance.now() - start) / 1000;
    lines.push({
      name: `encode 4+2, 4 MiB, ${coder.name}`,
      value: (rounds * 4 * 2 ** 20) / seconds / 1e9,
      unit: "GB/s",
    });
  }
}

if (import.meta.main) console.log(formatBenchLines(await chunkBench()));
