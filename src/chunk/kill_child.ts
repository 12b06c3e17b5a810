/**
 * A process that puts fragments until it is killed, for `kill_test.ts`. Each number that it prints
 * was acknowledged. Arguments: device file, index, cluster id.
 */
import { openLibc } from "../../ffi/libc.ts";
import { openFileBlockFile } from "../block/file_block_file.ts";
import { crc32c } from "../common/crc32c.ts";
import type { ClusterId, OrganisationId } from "../common/ids.ts";
import { chunkIdOf, pattern } from "./device_rig.ts";
import { openLocalDevice } from "./local_device.ts";

const [path = "", indexPath = "", cluster = "", start = "0"] = Deno.args;
const file = await openFileBlockFile(path, { libc: openLibc() });
const store = await openLocalDevice(file, { cluster: cluster as ClusterId, indexPath, crc32c });
const encoder = new TextEncoder();
let next = Number(start);
await Promise.all(Array.from({ length: 8 }, async () => {
  while (true) {
    const seed = next++;
    const data = pattern(seed, 500 + (seed * 37) % 3000);
    const header = {
      chunk: chunkIdOf(seed),
      incarnation: "0".repeat(16),
      organisation: "1".repeat(32) as OrganisationId,
      fragment: 0,
      scheme: { scheme: "copies", copies: 1 },
      envelopeBytes: data.length,
      plaintextBytes: 1,
      placementVersion: 1,
      writtenMs: 1,
      wrappedDek: new Uint8Array(60),
    } as const;
    await store.put(header, data);
    Deno.stdout.writeSync(encoder.encode(`${seed}\n`));
  }
}));
