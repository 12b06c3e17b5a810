import assert from "node:assert/strict";
import { openLibc } from "../../ffi/libc.ts";
import { toHex } from "../common/bytes.ts";
import { VirtualClock } from "../common/clock.ts";
import { isKisekiError } from "../common/errors.ts";
import { SYSTEM_ORGANISATION } from "../crypto/sealer.ts";
import { testProvider } from "../../test/providers.ts";
import { createKeySlots, openEmbeddedKeyManager } from "./embedded_key_manager.ts";
import type { KeyManager } from "./key_manager.ts";
import { parseRootKey, readRootKey } from "./root_key.ts";
import { createSlotFile, openSlotStorage } from "./slot_storage.ts";

const libc = openLibc();
const provider = testProvider();
const KEY = Uint8Array.from({ length: 32 }, (_, i) => 255 - i);

async function inFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "kiseki-keys-" });
  try {
    await run(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function read(path: string, create: boolean, environment?: string): Promise<Uint8Array> {
  return readRootKey({ libc, provider, path, environment, create });
}

async function modeOf(path: string): Promise<number> {
  return ((await Deno.stat(path)).mode ?? 0) & 0o777;
}

Deno.test("the first start makes a random root key of mode 0600; the next one reads it", () =>
  inFolder(async (folder) => {
    const path = `${folder}/root.key`;
    const made = await read(path, true);
    assert.equal(await modeOf(path), 0o600);
    assert.deepEqual(await read(path, false), made);
    assert.deepEqual(await read(path, true), made, "an interrupted first start made another key");
    assert.notDeepEqual(await read(`${folder}/other.key`, true), made);
  }));

Deno.test("a missing root key is refused after the first start, with what to do", () =>
  inFolder(async (folder) => {
    await assert.rejects(
      read(`${folder}/root.key`, false),
      (error) => isKisekiError(error, "keys.unavailable") && /restore it/.test(error.message),
    );
    assert.deepEqual([...Deno.readDirSync(folder)], []);
  }));

Deno.test("a root key file that others may read or write is refused", () =>
  inFolder(async (folder) => {
    const path = `${folder}/root.key`;
    await Deno.writeFile(path, KEY);
    for (const mode of [0o644, 0o640, 0o604, 0o660, 0o602, 0o610]) {
      await Deno.chmod(path, mode);
      await assert.rejects(
        read(path, true),
        (error) => isKisekiError(error, "keys.unavailable") && /chmod 600/.test(error.message),
      );
    }
    for (const mode of [0o600, 0o400]) {
      await Deno.chmod(path, mode);
      assert.deepEqual(await read(path, false), KEY);
    }
  }));

Deno.test("a root key of wrong size, of one repeated byte, a link or a folder is refused", () =>
  inFolder(async (folder) => {
    const long = Uint8Array.from({ length: 64 }, (_, i) => i);
    const bad = [0, 31, 33, 64].map((size) => long.slice(0, size));
    for (const [i, content] of [...bad, new Uint8Array(32), new Uint8Array(32).fill(9)].entries()) {
      const path = `${folder}/${i}.key`;
      await Deno.writeFile(path, content, { mode: 0o600 });
      await assert.rejects(read(path, true), { code: "keys.unavailable" });
      assert.deepEqual(await Deno.readFile(path), content);
    }
    await Deno.writeFile(`${folder}/good.key`, KEY, { mode: 0o600 });
    await Deno.symlink(`${folder}/good.key`, `${folder}/link.key`);
    await assert.rejects(read(`${folder}/link.key`, true), { code: "keys.unavailable" });
    await Deno.symlink(`${folder}/nowhere`, `${folder}/dangling.key`);
    await assert.rejects(read(`${folder}/dangling.key`, true), { code: "keys.unavailable" });
    await Deno.mkdir(`${folder}/d`, { mode: 0o700 });
    await assert.rejects(read(`${folder}/d`, true), { code: "keys.unavailable" });
  }));

Deno.test("the environment gives hex or base64, wins over the file, and then none is made", () =>
  inFolder(async (folder) => {
    const path = `${folder}/root.key`;
    for (const text of [toHex(KEY), toHex(KEY).toUpperCase(), KEY.toBase64()]) {
      assert.deepEqual(await read(path, true, text), KEY);
    }
    assert.deepEqual([...Deno.readDirSync(folder)], []);
  }));

Deno.test("an environment value that is no key is refused, and its text is in no error", () => {
  const hex = toHex(KEY);
  const bad = [
    "",
    hex.slice(1),
    `${hex}0`,
    `${hex}\n`,
    `${hex.slice(1)}g`,
    KEY.toBase64().slice(0, -1),
    KEY.slice(1).toBase64(),
    "00".repeat(32),
    new Uint8Array(32).fill(7).toBase64(),
  ];
  for (const text of bad) {
    assert.throws(
      () => parseRootKey(text),
      (error) => {
        assert.ok(isKisekiError(error, "keys.unavailable"));
        const shown = `${error.message} ${error.stack} ${JSON.stringify(error)}`;
        return text === "" || !shown.includes(text.trim().slice(0, 20));
      },
    );
  }
});

// ---- the slot file beside it ----

function opened(path: string, rootKey: Uint8Array): Promise<KeyManager> {
  const storage = openSlotStorage(libc, path);
  return openEmbeddedKeyManager({
    libc,
    provider,
    clock: new VirtualClock(),
    storage,
    rootKey,
  });
}

Deno.test("a slot file is of mode 0600, keeps its keys, and refuses another root key", () =>
  inFolder(async (folder) => {
    const path = `${folder}/keys.slots`;
    await createKeySlots(libc, provider, path, KEY, 1.5);
    assert.equal(await modeOf(path), 0o600);
    const manager = await opened(path, KEY);
    const { chunkIdKey } = await manager.lease(SYSTEM_ORGANISATION);
    manager.close();
    await assert.rejects(opened(path, KEY.toReversed()), { code: "keys.unavailable" });
    const again = await opened(path, KEY);
    assert.deepEqual((await again.lease(SYSTEM_ORGANISATION)).chunkIdKey, chunkIdKey);
    again.close();
  }));

Deno.test("a slot file that others may read, a link and a missing one are refused", () =>
  inFolder(async (folder) => {
    const path = `${folder}/keys.slots`;
    const refused = (name: string): void =>
      assert.throws(() => openSlotStorage(libc, `${folder}/${name}`), { code: "keys.unavailable" });
    await createKeySlots(libc, provider, path, KEY, 1);
    await Deno.symlink(path, `${folder}/link`);
    refused("link");
    refused("missing");
    for (const mode of [0o644, 0o640, 0o606]) {
      await Deno.chmod(path, mode);
      refused("keys.slots");
    }
  }));

Deno.test("one process at a time has the slot file; a refused start lets go of it", () =>
  inFolder(async (folder) => {
    const path = `${folder}/keys.slots`;
    await createKeySlots(libc, provider, path, KEY, 1);
    const first = openSlotStorage(libc, path);
    assert.throws(
      () => openSlotStorage(libc, path),
      (error) => isKisekiError(error, "keys.unavailable") && /in use/.test(error.message),
    );
    first.close();
    await assert.rejects(opened(path, KEY.toReversed()), { code: "keys.unavailable" });
    openSlotStorage(libc, path).close();
  }));

Deno.test("a closed slot file is refused, also while a sync is on its way", () =>
  inFolder(async (folder) => {
    const path = `${folder}/keys.slots`;
    await createKeySlots(libc, provider, path, KEY, 1);
    const storage = openSlotStorage(libc, path);
    storage.write(8192, new Uint8Array(512));
    const syncing = storage.sync();
    storage.close();
    assert.throws(() => storage.write(0, KEY), { code: "keys.unavailable" });
    await syncing;
    assert.throws(() => storage.read(0, 1), { code: "keys.unavailable" });
    await assert.rejects(storage.sync(), { code: "keys.unavailable" });
    openSlotStorage(libc, path).close();
  }));

Deno.test("what a crash left of a new file, of any mode, is never written into", () =>
  inFolder(async (folder) => {
    const path = `${folder}/root.key`;
    await Deno.writeFile(`${path}.new`, new Uint8Array(100), { mode: 0o644 });
    const spy = await Deno.open(`${path}.new`);
    await createSlotFile(libc, path, KEY);
    assert.equal(await modeOf(path), 0o600);
    assert.deepEqual(await Deno.readFile(path), KEY);
    const seen = new Uint8Array(100);
    await spy.read(seen);
    spy.close();
    assert.ok(seen.every((byte) => byte === 0));
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["root.key"]);
  }));
