import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { chunkIdOf, DeviceRig, indexPath, pattern } from "./device_rig.ts";

Deno.test("after kill -9 every fragment that was acknowledged is there, round after round", async () => {
  const random = seededRandom(testSeed("kill -9 of a device's process"));
  await using rig = await DeviceRig.create(1, 256 << 20);
  const [device] = rig.devices;
  assert.ok(device !== undefined);
  const acknowledged: number[] = [];
  for (let round = 0; round < testRounds(30); round++) {
    await rig.close(device);
    const start = (acknowledged.reduce((a, b) => Math.max(a, b), -1) + 100).toString();
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "-A",
        "--unstable-net",
        fileURLToPath(new URL("./kill_child.ts", import.meta.url)),
        device.path,
        indexPath(device),
        rig.cluster,
        start,
      ],
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const enough = 100 + Math.floor(random() * 700);
    let text = "";
    const decoder = new TextDecoder();
    let lines = 0;
    let killed = false;
    for await (const bytes of child.stdout) {
      const part = decoder.decode(bytes, { stream: true });
      text += part;
      lines += part.split("\n").length - 1;
      if (lines >= enough && !killed) {
        child.kill("SIGKILL");
        killed = true;
      }
    }
    await child.status;
    assert.ok(killed, "the child ended by itself");
    acknowledged.push(...text.split("\n").slice(0, -1).map(Number));
    const store = await rig.open(device);
    for (const seed of acknowledged) {
      const read = await store.get(chunkIdOf(seed), "0".repeat(16), 0, 0);
      assert.deepEqual(read?.data, pattern(seed, 500 + (seed * 37) % 3000));
    }
  }
  console.log(`${acknowledged.length} acknowledged fragments`);
});
