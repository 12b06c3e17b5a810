import assert from "node:assert/strict";
import { main } from "./doctor.ts";
import type { Terminal } from "./command_line.ts";
import { SYSTEM_PATHS, type SystemPaths } from "./doctor_probes.ts";
import { main as version } from "./version.ts";

async function doctor(args: readonly string[], paths: SystemPaths = SYSTEM_PATHS) {
  let out = "";
  let error = "";
  const terminal: Terminal = {
    isTerminal: false,
    out: (text) => void (out += text + "\n"),
    error: (text) => void (error += text + "\n"),
  };
  const exitCode = await main(["doctor", ...args], terminal, paths);
  return { exitCode, out, error };
}

// Libraries that a provider opens stay open as in a running program: first outside any test.
await doctor(["--json"]);

interface Report {
  readonly ok: boolean;
  readonly findings: readonly {
    readonly area: string;
    readonly state: string;
    readonly found: string;
    readonly reason?: string;
    readonly advice?: string;
  }[];
}

async function report(args: readonly string[], paths?: SystemPaths): Promise<Report> {
  return JSON.parse((await doctor([...args, "--json"], paths)).out);
}

const AREAS = ["build", "crypto", "fips", "isa-l", "fuse", "rdma", "open files"];

Deno.test("every area is reported, and this machine's disk is measured", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const { findings, ok } = await report(["--data-dir", directory]);
    assert.equal(ok, true);
    const areas = findings.map((finding) => finding.area);
    for (const area of [...AREAS, "cpu", "memory", "clock", "disk sync", "disk space"]) {
      assert.ok(areas.includes(area), area);
    }
    for (const finding of findings) {
      const explained = finding.reason !== undefined || finding.advice !== undefined;
      if (finding.state === "degraded") assert.ok(explained, JSON.stringify(finding));
    }
    assert.match(findings.find((f) => f.area === "disk sync")?.found ?? "", /p50 [0-9.]+ ms/);
    assert.deepEqual([...Deno.readDirSync(directory)], [], "the probe leaves nothing behind");
    const people = await doctor(["--data-dir", directory]);
    assert.match(people.out, /^AREA +STATE +FOUND\nbuild +ok/);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("a bare machine is degraded with reason and advice, not refused", async () => {
  const root = await Deno.makeTempDir();
  try {
    await Deno.mkdir(`${root}/proc`);
    await Deno.writeTextFile(`${root}/proc/cpuinfo`, "model name : Old\nflags : fpu sse2\n");
    await Deno.writeTextFile(
      `${root}/proc/meminfo`,
      "MemTotal: 1048576 kB\nMemAvailable: 524288 kB\nHugepagesize: 2048 kB\n",
    );
    const paths = { proc: `${root}/proc`, sys: `${root}/sys`, dev: `${root}/dev` };
    const { findings, ok } = await report(["--data-dir", root], paths);
    assert.equal(ok, true);
    const found = (area: string) => findings.find((finding) => finding.area === area);
    assert.equal(found("cpu")?.state, "degraded");
    assert.equal(found("cpu")?.reason, "without aes, sha_ni");
    assert.equal(found("memory")?.state, "degraded");
    assert.equal(found("rdma")?.state, "info");
    assert.match(found("fuse")?.reason ?? "", /dev\/fuse is not there/);
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});

Deno.test("a probe that fails is a finding", async () => {
  const nowhere = { proc: "/nowhere", sys: "/nowhere", dev: "/nowhere" };
  const { findings } = await report(["--data-dir", "/nowhere"], nowhere);
  const cpu = findings.find((finding) => finding.area === "cpu");
  assert.equal(cpu?.found, "cannot be told");
  assert.equal(findings.find((finding) => finding.area === "disk")?.state, "info");
});

Deno.test("what a server needs and is missing is exit code 1", async () => {
  const strict = await doctor(["--fips", "--json"]);
  const { ok, findings }: Report = JSON.parse(strict.out);
  const state = findings.find((finding) => finding.area === "crypto")?.state;
  assert.equal(strict.exitCode, ok ? 0 : 1);
  assert.equal(ok, state !== "missing");
  assert.equal((await doctor(["--nonsense"])).exitCode, 2);
});

Deno.test("version says which build this is", async () => {
  let out = "";
  const terminal: Terminal = { isTerminal: false, out: (text) => void (out = text), error() {} };
  assert.equal(await version(["version", "--json"], terminal), 0);
  assert.equal(JSON.parse(out).kind, "source");
});
