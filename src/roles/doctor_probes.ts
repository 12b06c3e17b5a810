/**
 * What `kiseki doctor` looks at. Each probe answers findings and never throws: what cannot be
 * found out is a finding, too.
 */
import { openLibc } from "../../ffi/libc.ts";
import { OpenFlag, ResourceLimit, RLIM_INFINITY } from "../../ffi/libc_constants.ts";
import { buildInfo } from "../common/build_info.ts";
import { formatSize } from "../common/config_values.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import { providerOptions } from "./provider_assets.ts";

/** `ok`; `degraded`: works, slower or less; `missing`: a server does not start; `info`. */
export type FindingState = "ok" | "degraded" | "missing" | "info";

export interface Finding {
  readonly area: string;
  readonly state: FindingState;
  /** What was found. */
  readonly found: string;
  /** Why it is so, where it is not ok. */
  readonly reason?: string;
  /** What to do about it. */
  readonly advice?: string;
}

export interface DoctorOptions {
  readonly dataDir: string;
  readonly fips: "off" | "require";
}

/** Where the kernel tells; a test gives folders of its own. */
export interface SystemPaths {
  readonly proc: string;
  readonly sys: string;
  readonly dev: string;
}

export const SYSTEM_PATHS: SystemPaths = { proc: "/proc", sys: "/sys", dev: "/dev" };

/** All findings, in the order of the report. */
export async function examine(
  options: DoctorOptions,
  paths: SystemPaths = SYSTEM_PATHS,
): Promise<readonly Finding[]> {
  const probes: readonly (readonly [string, () => Promise<readonly Finding[]>])[] = [
    ["build", async () => [probeBuild()]],
    ["crypto", async () => probeCrypto(options.fips)],
    ["fuse", () => probeFuse(paths)],
    ["rdma", () => probeRdma(paths)],
    ["limits", async () => probeLimits()],
    ["cpu", () => probeCpu(paths)],
    ["numa", () => probeNuma(paths)],
    ["huge pages", () => probeHugePages(paths)],
    ["memory", () => probeMemory(paths)],
    ["clock", () => probeClock(paths)],
    ["disk", () => probeDisk(options.dataDir)],
  ];
  const findings: Finding[] = [];
  for (const [area, probe] of probes) {
    try {
      findings.push(...await probe());
    } catch (error) {
      findings.push({
        area,
        state: "degraded",
        found: "cannot be told",
        reason: reasonOf(error),
      });
    }
  }
  return findings;
}

function probeBuild(): Finding {
  const build = buildInfo();
  return {
    area: "build",
    state: "ok",
    found: `kiseki ${build.version}, ${build.kind}, deno ${build.deno}, ${Deno.build.target}`,
  };
}

function probeCrypto(fips: "off" | "require"): readonly Finding[] {
  let chosen;
  try {
    chosen = chooseProvider(providerOptions({ fips }));
  } catch (error) {
    return [{
      area: "crypto",
      state: "missing",
      found: "no provider",
      reason: reasonOf(error),
      advice: fips === "require"
        ? 'ship a FIPS module (make aws-lc-fips) or set fips = "off"'
        : "install OpenSSL 3 (libssl3)",
    }];
  }
  const { report } = chosen.provider;
  const best = report.name === "aws-lc";
  const provider: Finding = {
    area: "crypto",
    state: best ? "ok" : "degraded",
    found: `${report.name} ${report.version}, ${report.path}`,
    ...(best ? {} : {
      reason: report.passedOver.join("; "),
      advice: report.name === "openssl"
        ? "make aws-lc: seals 2.5 times as fast"
        : "install OpenSSL 3 (libssl3) or make aws-lc: seals 10 times as fast",
    }),
  };
  const fipsFinding: Finding = report.fips
    ? { area: "fips", state: "ok", found: "the module's self-test passed" }
    : { area: "fips", state: "info", found: "no FIPS module in use", advice: 'fips = "require"' };
  const isal: Finding = chosen.isal === undefined
    ? {
      area: "isa-l",
      state: "degraded",
      found: "absent",
      reason: chosen.isalReason ?? "",
      advice: "install libisal2: erasure coding is 20 times as fast with it",
    }
    : { area: "isa-l", state: "ok", found: "libisal loaded" };
  return [provider, fipsFinding, isal];
}

async function probeFuse(paths: SystemPaths): Promise<readonly Finding[]> {
  const advice = "only `kiseki mount` needs it: install fuse3 and libfuse3-3";
  const device = await exists(`${paths.dev}/fuse`);
  const helper = await findProgram("fusermount3");
  const library = canOpen("libfuse3.so.3") ?? canOpen("libfuse3.so.4");
  const lacking = [
    device ? "" : `${paths.dev}/fuse is not there`,
    helper === undefined ? "fusermount3 is not on the PATH" : "",
    library === undefined ? "libfuse3.so.3 cannot be opened" : "",
  ].filter((text) => text !== "");
  return [
    lacking.length === 0 ? { area: "fuse", state: "ok", found: `${helper}, ${library}` } : {
      area: "fuse",
      state: "degraded",
      found: "incomplete",
      reason: lacking.join("; "),
      advice,
    },
  ];
}

async function probeRdma(paths: SystemPaths): Promise<readonly Finding[]> {
  const devices = await names(`${paths.sys}/class/infiniband`);
  const library = canOpen("libibverbs.so.1");
  if (devices.length === 0) {
    return [{
      area: "rdma",
      state: "info",
      found: "no RDMA device",
      reason: `${paths.sys}/class/infiniband is empty`,
      advice: "data goes over TCP and TLS",
    }];
  }
  return [
    library === undefined
      ? {
        area: "rdma",
        state: "degraded",
        found: devices.join(", "),
        reason: "libibverbs.so.1 cannot be opened",
        advice: "install libibverbs1 and ibverbs-providers",
      }
      : { area: "rdma", state: "ok", found: devices.join(", ") },
  ];
}

function probeLimits(): readonly Finding[] {
  const libc = openLibc();
  try {
    const limit = (resource: number): bigint | undefined => {
      const pair = libc.getLimit(resource);
      return typeof pair === "number" ? undefined : pair.soft;
    };
    const files = limit(ResourceLimit.openFiles);
    const locked = limit(ResourceLimit.lockedMemory);
    const core = limit(ResourceLimit.core);
    return [
      judged("open files", files, 16_384n, "ulimit -n 65536, LimitNOFILE= in the unit", String),
      judged(
        "locked memory",
        locked,
        64n << 20n,
        "ulimit -l unlimited, LimitMEMLOCK= in the unit: keys could be swapped out",
        (value) => formatSize(Number(value)),
      ),
      {
        area: "core dumps",
        state: core === 0n ? "ok" : "info",
        found: core === 0n ? "off" : "on",
        ...(core === 0n
          ? {}
          : { advice: "key memory is excluded from them; ulimit -c 0 is safer" }),
      },
    ];
  } finally {
    libc.unload();
  }
}

function judged(
  area: string,
  found: bigint | undefined,
  least: bigint,
  advice: string,
  format: (value: bigint) => string,
): Finding {
  if (found === undefined) return { area, state: "degraded", found: "cannot be told" };
  const text = found === RLIM_INFINITY ? "unlimited" : format(found);
  return found >= least
    ? { area, state: "ok", found: text }
    : { area, state: "degraded", found: text, reason: `below ${format(least)}`, advice };
}

async function probeCpu(paths: SystemPaths): Promise<readonly Finding[]> {
  const text = await Deno.readTextFile(`${paths.proc}/cpuinfo`);
  const line = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(text)?.[1] ?? "";
  const flags = new Set(line.split(/\s+/));
  const model = /^model name\s*:\s*(.*)$/m.exec(text)?.[1] ?? Deno.build.arch;
  const cores = navigator.hardwareConcurrency;
  const wanted = ["aes", "vaes", "sha_ni", "sha2", "avx2", "gfni"].filter((flag) =>
    flags.has(flag)
  );
  const sha = flags.has("sha_ni") || flags.has("sha2");
  const lacking = [flags.has("aes") ? "" : "aes", sha ? "" : "sha_ni"].filter((f) => f !== "");
  return [{
    area: "cpu",
    state: lacking.length === 0 ? "ok" : "degraded",
    found: `${model}, ${cores} threads, ${wanted.join(" ")}`,
    ...(lacking.length === 0 ? {} : {
      reason: `without ${lacking.join(", ")}`,
      advice: "sealing and hashing are slow here; look whether the hypervisor hides the flags",
    }),
  }];
}

async function probeNuma(paths: SystemPaths): Promise<readonly Finding[]> {
  const nodes = (await names(`${paths.sys}/devices/system/node`)).filter((name) =>
    /^node[0-9]+$/.test(name)
  );
  const found = nodes.length <= 1 ? "one node" : `${nodes.length} nodes`;
  return [{
    area: "numa",
    state: "info",
    found,
    ...(nodes.length > 1 ? { advice: "isolates are not pinned: numactl may help" } : {}),
  }];
}

async function probeHugePages(paths: SystemPaths): Promise<readonly Finding[]> {
  const info = await memoryInfo(paths);
  const total = info.get("HugePages_Total") ?? 0;
  const free = info.get("HugePages_Free") ?? 0;
  const size = formatSize((info.get("Hugepagesize") ?? 0) * 1024);
  return [{
    area: "huge pages",
    state: "info",
    found: `${free} of ${total} free, ${size} each`,
    ...(total === 0 ? { advice: "sysctl vm.nr_hugepages: only RDMA gains" } : {}),
  }];
}

const LEAST_MEMORY_BYTES = 2 ** 31;

async function probeMemory(paths: SystemPaths): Promise<readonly Finding[]> {
  const info = await memoryInfo(paths);
  const total = (info.get("MemTotal") ?? 0) * 1024;
  const available = (info.get("MemAvailable") ?? 0) * 1024;
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  const found = `${gib(available)} of ${gib(total)} available`;
  return [
    available >= LEAST_MEMORY_BYTES ? { area: "memory", state: "ok", found } : {
      area: "memory",
      state: "degraded",
      found,
      reason: `below ${gib(LEAST_MEMORY_BYTES)}`,
      advice: "lower [memory] tables and chunk_buffers in the configuration",
    },
  ];
}

async function memoryInfo(paths: SystemPaths): Promise<ReadonlyMap<string, number>> {
  const text = await Deno.readTextFile(`${paths.proc}/meminfo`);
  return new Map(
    [...text.matchAll(/^(\w+):\s+([0-9]+)/gm)].map(([, name = "", value]) => [name, Number(value)]),
  );
}

async function probeClock(paths: SystemPaths): Promise<readonly Finding[]> {
  const file = `${paths.sys}/devices/system/clocksource/clocksource0/current_clocksource`;
  if (!await exists(file)) return [{ area: "clock", state: "info", found: "source unknown" }];
  const source = (await Deno.readTextFile(file)).trim();
  const fast = ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"];
  return [
    fast.includes(source) ? { area: "clock", state: "ok", found: source } : {
      area: "clock",
      state: "degraded",
      found: source,
      reason: "reading it is a system call",
      advice: "clocksource=tsc, where the machine's is stable",
    },
  ];
}

const SYNC_ROUNDS = 50;
const SLOW_SYNC_MS = 10;

/** Opens a file of its own in the data directory with O_DIRECT, writes and syncs it. */
async function probeDisk(dataDir: string): Promise<readonly Finding[]> {
  const area = "disk";
  if (!await exists(dataDir)) {
    return [{
      area,
      state: "info",
      found: `${dataDir} is not there yet`,
      advice: "give --data-dir DIR to measure where the data will be",
    }];
  }
  const libc = openLibc();
  const path = `${dataDir}/.kiseki-doctor-${crypto.randomUUID()}`;
  const block = libc.allocateAligned(4096);
  block.bytes.fill(0x4b);
  let descriptor = -1;
  try {
    const flags = OpenFlag.create | OpenFlag.exclusive | OpenFlag.readWrite;
    descriptor = libc.open(path, flags | OpenFlag.direct);
    const direct = descriptor >= 0;
    if (!direct) descriptor = libc.open(path, flags);
    if (descriptor < 0) {
      return [{
        area,
        state: "missing",
        found: `${dataDir} cannot be written (errno ${-descriptor})`,
        advice: "give the user of the server write access, or another data_dir",
      }];
    }
    const latencies: number[] = [];
    for (let i = 0; i < SYNC_ROUNDS; i++) {
      const before = performance.now();
      const wrote = libc.pwrite(descriptor, block.bytes, i * 4096);
      const synced = libc.fdatasync(descriptor);
      if (wrote !== 4096 || synced < 0) {
        return [{ area, state: "missing", found: `${dataDir}: write or sync failed` }];
      }
      latencies.push(performance.now() - before);
    }
    return diskFindings(dataDir, direct, latencies, libc.statfs(dataDir));
  } finally {
    if (descriptor >= 0) {
      libc.close(descriptor);
      await Deno.remove(path);
    }
    block.free();
    libc.unload();
  }
}

function diskFindings(
  dataDir: string,
  direct: boolean,
  latencies: readonly number[],
  space: { readonly availableBytes: number; readonly totalBytes: number } | number,
): readonly Finding[] {
  const sorted = latencies.toSorted((a, b) => a - b);
  const p50 = sorted[Math.floor(sorted.length / 2)] ?? 0;
  const worst = sorted.at(-1) ?? 0;
  const times = `4 KiB write and sync: p50 ${p50.toFixed(2)} ms, worst ${worst.toFixed(2)} ms`;
  const findings: Finding[] = [
    p50 <= SLOW_SYNC_MS ? { area: "disk sync", state: "ok", found: times } : {
      area: "disk sync",
      state: "degraded",
      found: times,
      reason: `p50 over ${SLOW_SYNC_MS} ms`,
      advice: "put [log] directory on flash: every acknowledged write waits for this",
    },
    direct ? { area: "disk direct I/O", state: "ok", found: `O_DIRECT on ${dataDir}` } : {
      area: "disk direct I/O",
      state: "degraded",
      found: "no O_DIRECT",
      reason: "this file system refuses it",
      advice: "data goes through the page cache; ext4 and xfs take it",
    },
  ];
  if (typeof space !== "number") {
    const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
    const low = space.availableBytes < 2 ** 30;
    findings.push({
      area: "disk space",
      state: low ? "degraded" : "ok",
      found: `${gib(space.availableBytes)} of ${gib(space.totalBytes)} free`,
      ...(low ? { reason: "below 1 GiB", advice: "free some, or move data_dir" } : {}),
    });
  }
  return findings;
}

function canOpen(library: string): string | undefined {
  try {
    Deno.dlopen(library, {}).close();
    return library;
  } catch (error) {
    // Absence is the answer; anything but a load error is a fault of ours.
    if (error instanceof TypeError && /signature|symbol/i.test(error.message)) throw error;
    return undefined;
  }
}

async function findProgram(name: string): Promise<string | undefined> {
  for (const directory of (Deno.env.get("PATH") ?? "").split(":")) {
    if (directory !== "" && await exists(`${directory}/${name}`)) return `${directory}/${name}`;
  }
  return undefined;
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.PermissionDenied) {
      return false;
    }
    throw error;
  }
}

async function names(directory: string): Promise<readonly string[]> {
  try {
    const found: string[] = [];
    for await (const entry of Deno.readDir(directory)) found.push(entry.name);
    return found.sort();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
