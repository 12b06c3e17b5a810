/**
 * Where packaged files and Workers are, in every kind of build.
 *
 * - From the sources: assets lie in `.tools/`, in the system's library folders or in `proto/`, and
 *   a Worker is its TypeScript file.
 * - `compile` (deno compile): everything lies in the embedded file system beside the bundle.
 * - `elf` (stub in the ELF): the stub put every packaged file into a sealed memfd named
 *   `kiseki:<name>` before Deno started; this file finds them by name under /proc/self/fd. They
 *   are close-on-exec, so no child inherits them, and nothing is handed over in the environment.
 *
 * Invariants: the lists below are the only ones, shared by the build and by the running code; the
 * same calls answer in the main isolate and in Workers, because both see one file table.
 */
import { KisekiError } from "./errors.ts";

/** Every Worker: name -> source file, relative to the repository root. */
export const WORKER_SOURCES = {
  gateway: "src/roles/gateway_worker.ts",
  storage: "src/roles/storage_worker.ts",
  table: "src/table/fold_worker.ts",
} as const;

export type WorkerName = keyof typeof WORKER_SOURCES;

/**
 * Native libraries that are packaged when the build host has them: name -> where they may lie.
 * Relative paths start at the repository root; the first that exists is taken.
 */
export const LIBRARY_SOURCES: Readonly<Record<string, readonly string[]>> = {
  "libcrypto.so": [".tools/aws-lc/libcrypto.so"],
  "libcrypto-fips.so": [".tools/aws-lc-fips/libcrypto.so"],
  "libisal.so.2": [
    "/usr/lib/x86_64-linux-gnu/libisal.so.2",
    "/usr/lib/aarch64-linux-gnu/libisal.so.2",
    "/usr/lib64/libisal.so.2",
  ],
};

/** Folder whose `.proto` files are packaged under their path from the repository root. */
export const PROTO_FOLDER = "proto";

/** Prefix of the memfds that the stub makes (deploy/build/stub.c uses the same). */
export const MEMFD_PREFIX = "kiseki:";

/** How the running code was packaged. */
export type PackageKind = "source" | "compile" | "elf";

let memfds: ReadonlyMap<string, string> | undefined;

/** Tells how the running code was packaged. */
export function packageKind(): PackageKind {
  if (Deno.build.standalone) return "compile";
  return packagedMemfds().has("build.json") ? "elf" : "source";
}

/**
 * The path of a packaged file, fit for `Deno.readFile` and `Deno.dlopen`.
 *
 * @param name E.g. `libcrypto.so`, `libisal.so.2`, `proto/kiseki/v1/records.proto`.
 * @returns An absolute path; in the `elf` kind one under /proc/self/fd.
 * @throws KisekiError `common.not_found` when this build carries no such file.
 */
export function assetPath(name: string): string {
  const kind = packageKind();
  const path = kind === "elf"
    ? packagedMemfds().get(name)
    : kind === "compile"
    ? existing([new URL(`./assets/${name}`, import.meta.url).pathname])
    : existing((LIBRARY_SOURCES[name] ?? [name]).map(fromRoot));
  if (path === undefined) {
    throw new KisekiError("common.not_found", `this ${kind} build carries no file "${name}"`, {
      details: { name },
    });
  }
  return path;
}

/** The names of the packaged files whose name starts with `prefix`, sorted. Packaged kinds only. */
export function packagedNames(prefix: string): readonly string[] {
  return [...packagedMemfds().keys()].filter((name) => name.startsWith(prefix)).sort();
}

/**
 * The module to start a Worker from: `new Worker(workerUrl("table"), { type: "module" })`.
 *
 * @throws KisekiError `common.not_found` when this build carries no such Worker.
 */
export function workerUrl(name: WorkerName): URL {
  const kind = packageKind();
  if (kind === "source") return new URL(`../../${WORKER_SOURCES[name]}`, import.meta.url);
  if (kind === "compile") return new URL(`./${workerBundleName(name)}`, import.meta.url);
  return new URL(`file://${assetPath(workerBundleName(name))}`);
}

/** The name under which a Worker's bundle is packaged. */
export function workerBundleName(name: string): string {
  return `worker_${name}.js`;
}

function fromRoot(path: string): string {
  return path.startsWith("/") ? path : new URL(`../../${path}`, import.meta.url).pathname;
}

function existing(paths: readonly string[]): string | undefined {
  return paths.find((path) => {
    try {
      return Deno.statSync(path).isFile;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return false;
      throw error;
    }
  });
}

/** Packaged name -> /proc/self/fd/N. Read once: the stub made them all before Deno started. */
function packagedMemfds(): ReadonlyMap<string, string> {
  if (memfds !== undefined) return memfds;
  const found = new Map<string, string>();
  const start = `/memfd:${MEMFD_PREFIX}`;
  const end = " (deleted)";
  for (const name of descriptors()) {
    const path = `/proc/self/fd/${name}`;
    const target = linkTarget(path);
    if (target?.startsWith(start) && target.endsWith(end)) {
      found.set(target.slice(start.length, -end.length), path);
    }
  }
  memfds = found;
  return found;
}

function descriptors(): string[] {
  try {
    return [...Deno.readDirSync("/proc/self/fd")].map((entry) => entry.name);
  } catch (error) {
    // Without /proc there are no packaged memfds: the stub would not have started us.
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

function linkTarget(path: string): string | undefined {
  try {
    return Deno.readLinkSync(path);
  } catch (error) {
    // The descriptor of the directory listing itself is closed by now.
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}
