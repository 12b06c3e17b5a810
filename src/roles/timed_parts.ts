/**
 * Parts that count what they do: the same ports, with times and bytes into metrics.
 *
 * Invariant: nothing is changed, held back or caught; a call that fails is timed like any other.
 */
import type { HistogramCell, Metrics } from "../common/metrics.ts";
import type { ErasureCoder } from "../chunk/erasure_code.ts";
import type { FragmentStore } from "../chunk/ports.ts";
import type { LogDisk, LogFile } from "../raft/log_disk.ts";

async function timed<T>(cell: HistogramCell, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  try {
    return await work();
  } finally {
    cell.observe((performance.now() - started) / 1000);
  }
}

function timedNow(cell: HistogramCell, work: () => void): void {
  const started = performance.now();
  try {
    work();
  } finally {
    cell.observe((performance.now() - started) / 1000);
  }
}

/** A device's store: fragments put and got, as the calling isolate waits for them. */
export function timedStore(store: FragmentStore, metrics: Metrics): FragmentStore {
  const seconds = (step: string) => metrics.chunkSeconds.with({ step });
  const bytes = (step: string) => metrics.chunkBytes.with({ step });
  const [putSeconds, getSeconds] = [seconds("put"), seconds("get")];
  const [putBytes, getBytes] = [bytes("put"), bytes("get")];
  return {
    device: store.device,
    async put(header, data) {
      const length = data.length;
      await timed(putSeconds, () => store.put(header, data));
      putBytes.add(length);
    },
    async get(chunk, incarnation, fragment, offset, length, into) {
      const read = await timed(
        getSeconds,
        () => store.get(chunk, incarnation, fragment, offset, length, into),
      );
      getBytes.add(read?.data.length ?? 0);
      return read;
    },
    head: (chunk, incarnation, fragment) => store.head(chunk, incarnation, fragment),
    remove: (chunk, incarnation, fragment) => store.remove(chunk, incarnation, fragment),
    rewrap: (chunk, incarnation, fragment, wrapped) =>
      store.rewrap(chunk, incarnation, fragment, wrapped),
    list: (cursor, limit) => store.list(cursor, limit),
    usage: () => store.usage(),
  };
}

/** Erasure coding, a chunk a call. */
export function timedCoder(coder: ErasureCoder, metrics: Metrics): ErasureCoder {
  const encode = metrics.erasureSeconds.with({ step: "encode" });
  const decode = metrics.erasureSeconds.with({ step: "decode" });
  return {
    name: coder.name,
    encode: (scheme, data, parity) => timedNow(encode, () => coder.encode(scheme, data, parity)),
    rebuild: (scheme, from, wanted) => timedNow(decode, () => coder.rebuild(scheme, from, wanted)),
  };
}

/** The log's disk: every sync of a file. */
export function timedLogDisk(disk: LogDisk, metrics: Metrics): LogDisk {
  const cell = metrics.walSyncSeconds.with({});
  const timedFile = (file: LogFile): LogFile => ({
    size: () => file.size(),
    read: (into, offset) => file.read(into, offset),
    write: (bytes, offset) => file.write(bytes, offset),
    sync: () => timed(cell, () => file.sync()),
    close: () => file.close(),
  });
  return {
    makeDirectory: (path) => disk.makeDirectory(path),
    list: (directory) => disk.list(directory),
    open: async (path, create) => timedFile(await disk.open(path, create)),
    rename: (from, to) => disk.rename(from, to),
    unlink: (path) => disk.unlink(path),
    syncDirectory: (directory) => disk.syncDirectory(directory),
  };
}
