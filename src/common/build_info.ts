/**
 * Which build this is: version, how it was packaged, and the hash of what was packaged.
 *
 * A packaged file carries `build.json` beside its bundles; a run from the sources has none. The
 * same code answers in the main isolate and in Workers.
 */
import { assetPath, packageKind } from "./assets.ts";
import { KisekiError } from "./errors.ts";

/** The version of the sources; `make check` holds it equal to deno.json's. */
export const VERSION = "0.1.0";

/** `source`: deno run; `compile`: deno compile; `elf`: stub and payload inside deno's own file. */
export type BuildKind = "source" | "compile" | "elf";

export interface BuildInfo {
  readonly version: string;
  readonly kind: BuildKind;
  /** SHA-256 (hex) over all packaged files but build.json; undefined when run from the sources. */
  readonly payloadSha256: string | undefined;
  /** Deno's version, e.g. `2.9.6`. */
  readonly deno: string;
}

/** What `build.json` holds, as the build tool writes it. */
export interface BuildRecord {
  readonly version: string;
  readonly kind: "compile" | "elf";
  readonly payloadSha256: string;
}

/**
 * Tells which build is running.
 *
 * @returns Version, kind and payload hash.
 * @throws KisekiError `common.corrupt_format` when the packaged build.json cannot be understood.
 */
export function buildInfo(): BuildInfo {
  const deno = Deno.version.deno;
  const kind = packageKind();
  if (kind === "source") return { version: VERSION, kind, payloadSha256: undefined, deno };
  const record: unknown = JSON.parse(Deno.readTextFileSync(assetPath("build.json")));
  if (!isBuildRecord(record) || record.kind !== kind) {
    throw new KisekiError("common.corrupt_format", "the packaged build.json is not understood");
  }
  return { version: record.version, kind, payloadSha256: record.payloadSha256, deno };
}

function isBuildRecord(value: unknown): value is BuildRecord {
  return typeof value === "object" && value !== null &&
    "version" in value && typeof value.version === "string" &&
    "kind" in value && (value.kind === "compile" || value.kind === "elf") &&
    "payloadSha256" in value && typeof value.payloadSha256 === "string";
}
