/**
 * The one file without denort: what it needs, what it leaves alone, how it fails. Run against the
 * probe, which is packaged by the same tool and stub as `dist/kiseki`.
 */
import assert from "node:assert/strict";
import type { ProbeReport } from "./probe.ts";
import { probeImage, runBinary, type RunResult } from "./probe_image.ts";

const SUPPORTED = Deno.build.os === "linux" && Deno.build.arch === "x86_64";

function packageTest(name: string, body: (image: string) => Promise<void>): void {
  if (!SUPPORTED) console.log(`SKIPPED (x86-64 Linux only): ${name}`);
  Deno.test({ name, ignore: !SUPPORTED, fn: async () => await body(await probeImage()) });
}

function reportOf(result: RunResult): ProbeReport {
  assert.equal(result.code, 0, result.stderr);
  return JSON.parse(result.stdout);
}

packageTest(
  "it starts with an empty environment, without deno or node on the PATH",
  async (image) => {
    const result = await runBinary(image, ["report"], { clearEnv: true });
    assert.equal(reportOf(result).kind, "elf");
    assert.equal(result.stderr, "");
  },
);

packageTest("packaged libraries open in the main isolate and in a Worker", async (image) => {
  const report = reportOf(await runBinary(image, ["report"]));
  assert.deepEqual(report.libraryErrors, []);
  assert.equal(report.libraries["libisal.so.2"], true);
  assert.deepEqual(report.inWorker, report.libraries);
  assert.equal(report.workerBundles, true);
});

packageTest("the process is named kiseki and its command line is what was typed", async (image) => {
  const report = reportOf(await runBinary(image, ["report", "--dev", "-A"]));
  assert.equal(report.comm, "kiseki");
  assert.deepEqual(report.commandLine, [image, "report", "--dev", "-A"]);
  assert.equal(report.execPath, image);
});

packageTest("arguments arrive unchanged, also those that deno would understand", async (image) => {
  const args = ["echo", "--help", "-A", "--version", "", "a b", "ä\n", "--", "--v8-flags=--help"];
  assert.deepEqual(JSON.parse((await runBinary(image, args)).stdout), args);
  const many = ["echo", ...Array.from({ length: 5000 }, (_, index) => `argument-${index}`)];
  assert.deepEqual(JSON.parse((await runBinary(image, many)).stdout), many);
});

packageTest(
  "children inherit neither the hand-over variable nor the packaged files",
  async (image) => {
    const report = reportOf(await runBinary(image, ["report"], { env: { KISEKI_STAGE: "1" } }));
    assert.ok(!("KISEKI_STAGE" in report.environment));
    assert.ok(!report.childEnvironment.includes("KISEKI_STAGE"));
    assert.ok(report.childDescriptors.includes("/proc/"), "the child listed its descriptors");
    assert.ok(!report.childDescriptors.includes("memfd:"), report.childDescriptors);
  },
);

packageTest("packaged files are sealed", async (image) => {
  const report = reportOf(await runBinary(image, ["report"]));
  assert.match(report.memfdWrite, /not permitted|os error 1\)/);
});

packageTest("nothing of a caller's deno or node set-up is used", async (image) => {
  const folder = Deno.makeTempDirSync();
  try {
    Deno.writeTextFileSync(`${folder}/deno.json`, `{"imports": broken`);
    Deno.writeTextFileSync(`${folder}/package.json`, `{"type": "commonjs"`);
    const env = { DENO_DIR: `${folder}/cache`, NODE_OPTIONS: "--require=/nowhere.js" };
    reportOf(await runBinary(image, ["report"], { cwd: folder, env }));
    const left = [...Deno.readDirSync(folder)].map((entry) => entry.name).sort();
    assert.deepEqual(left, ["deno.json", "package.json"]);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

packageTest("exit codes and signals pass through, and the pid stays", async (image) => {
  assert.equal((await runBinary(image, ["exit", "7"])).code, 7);
  for (const [argument, code, signal] of [["graceful", 5, null], ["", 143, "SIGTERM"]] as const) {
    const child = new Deno.Command(image, {
      args: ["wait", argument],
      stdin: "null",
      stdout: "piped",
    }).spawn();
    const reader = child.stdout.getReader();
    const { value } = await reader.read();
    assert.equal(new TextDecoder().decode(value), "waiting\n");
    assert.equal(Deno.readTextFileSync(`/proc/${child.pid}/comm`), "kiseki\n");
    child.kill("SIGTERM");
    const status = await child.status;
    await reader.cancel();
    assert.deepEqual([status.code, status.signal], [code, signal]);
  }
});

packageTest("eight starts at once do not disturb each other", async (image) => {
  const runs = Array.from({ length: 8 }, (_, index) => runBinary(image, ["echo", `${index}`]));
  for (const [index, result] of (await Promise.all(runs)).entries()) {
    assert.deepEqual(JSON.parse(result.stdout), ["echo", `${index}`], result.stderr);
  }
});

/** Copies the image, lets `change` spoil the copy, and runs it. */
async function runSpoiled(image: string, change: (file: Deno.FsFile, size: number) => void) {
  const copy = Deno.makeTempFileSync({ prefix: "kiseki-spoiled-" });
  try {
    Deno.copyFileSync(image, copy);
    Deno.chmodSync(copy, 0o755);
    const file = Deno.openSync(copy, { read: true, write: true });
    change(file, file.statSync().size);
    file.close();
    return await runBinary(copy, ["echo", "started"]);
  } finally {
    Deno.removeSync(copy);
  }
}

function flipByteAt(file: Deno.FsFile, at: number): void {
  const byte = new Uint8Array(1);
  file.seekSync(at, Deno.SeekMode.Start);
  file.readSync(byte);
  byte[0] = (byte[0] ?? 0) ^ 0x10;
  file.seekSync(at, Deno.SeekMode.Start);
  file.writeSync(byte);
}

packageTest("a damaged payload is refused with exit code 126", async (image) => {
  const bytes = Deno.readFileSync(image);
  const start = new TextDecoder("latin1").decode(bytes.subarray(90_000_000))
    .lastIndexOf("KISEKIPK") + 90_000_000;
  assert.ok(start > 90_000_000, "the payload was found (the stub names its magic before it)");
  // Magic, size (low and high), hash, version, count, an entry, the first file.
  for (
    const at of [0, 9, 14, 30, 64, 68, 130, 3000].map((at) => start + at)
  ) {
    const result = await runSpoiled(image, (file) => flipByteAt(file, at));
    assert.equal(result.code, 126, `byte ${at - start}: ${result.stdout}${result.stderr}`);
    assert.match(result.stderr, /^kiseki: the payload is /);
    assert.equal(result.stdout, "");
  }
  const late = await runSpoiled(image, (file, size) => flipByteAt(file, size - 10_000));
  assert.equal(late.code, 126);
});

packageTest("a file that was cut off is refused with exit code 126", async (image) => {
  for (const missing of [10_000, 1_000_000]) {
    const result = await runSpoiled(image, (file, size) => file.truncateSync(size - missing));
    assert.equal(result.code, 126, result.stderr);
    assert.match(result.stderr, /^kiseki: this file is cut off/);
  }
});

packageTest("a stripped file still starts as kiseki", async (image) => {
  const copy = Deno.makeTempFileSync({ prefix: "kiseki-stripped-" });
  try {
    Deno.copyFileSync(image, copy);
    const stripped = await runBinary("strip", [copy]);
    assert.equal(stripped.code, 0, stripped.stderr);
    Deno.chmodSync(copy, 0o755);
    assert.equal(reportOf(await runBinary(copy, ["report"])).kind, "elf");
  } finally {
    Deno.removeSync(copy);
  }
});

/** Runs a script in a mount namespace of its own; undefined where that is not permitted. */
async function inMountNamespace(script: string): Promise<RunResult | undefined> {
  const user = Deno.uid() === 0 ? [] : ["--map-root-user"];
  const probe = await runBinary("unshare", [...user, "--mount", "true"]);
  if (probe.code !== 0) {
    console.log(`SKIPPED: no mount namespace here: ${probe.stderr.trim()}`);
    return undefined;
  }
  return await runBinary("unshare", [...user, "--mount", "sh", "-ec", script]);
}

packageTest("a read-only root, an unwritable HOME and a noexec /tmp are enough", async (image) => {
  const place = "/var/tmp/kiseki-package-test";
  await Deno.mkdir(place, { recursive: true });
  try {
    Deno.copyFileSync(image, `${place}/kiseki`);
    Deno.chmodSync(`${place}/kiseki`, 0o755);
    const result = await inMountNamespace(`
      cd /
      mount -t tmpfs -o noexec,nosuid tmpfs /tmp
      mount --bind / / && mount -o remount,ro,bind /
      if touch ${place}/x 2>/dev/null; then exit 99; fi
      HOME=${place} exec ${place}/kiseki report`);
    if (result === undefined) return;
    const report = reportOf(result);
    assert.equal(report.libraries["libisal.so.2"], true);
    assert.equal(report.inWorker["libisal.so.2"], true);
  } finally {
    Deno.removeSync(place, { recursive: true });
  }
});

packageTest("without /proc there is one clear line and exit code 126", async (image) => {
  const result = await inMountNamespace(`mount -t tmpfs tmpfs /proc; exec ${image} echo x`);
  if (result === undefined) return;
  assert.equal(result.code, 126);
  assert.match(result.stderr, /^kiseki: \/proc is not mounted here.*\n$/);
});
