/**
 * What a release has beside `dist/kiseki`: the compressed file, checksums and the list of parts.
 *
 *     dist/kiseki.zst (or .gz where zstd is missing)   dist/sbom.cdx.json   dist/SHA256SUMS
 *
 * The list of parts is CycloneDX 1.5 JSON: the npm packages of deno.lock, Deno itself, and the
 * native libraries that were packaged, each with version and licence.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { LIBRARY_SOURCES } from "../../src/common/assets.ts";
import { VERSION } from "../../src/common/build_info.ts";
import { isFile, mustRun, ROOT } from "./bundle.ts";

const DIST = `${ROOT}dist`;

/** One part of the product, as CycloneDX writes it. */
interface Component {
  readonly type: "library" | "application";
  readonly name: string;
  readonly version: string;
  readonly purl: string;
  readonly licenses: readonly { readonly expression: string }[];
  readonly hashes?: readonly { readonly alg: "SHA-256" | "SHA-512"; readonly content: string }[];
}

/** Licences of native parts, as their crates' manifests and Debian's copyright file name them. */
const NATIVE_LICENCES: Readonly<Record<string, string>> = {
  "libcrypto.so":
    "ISC AND (Apache-2.0 OR ISC) AND Apache-2.0 AND MIT AND BSD-3-Clause AND (Apache-2.0 OR ISC OR MIT) AND (Apache-2.0 OR ISC OR MIT-0)",
  "libcrypto-fips.so": "ISC AND (Apache-2.0 OR ISC) AND OpenSSL",
  "libisal.so.2": "BSD-3-Clause",
};

async function fileHash(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(path)) hash.update(piece);
  return hash.digest("hex");
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

/** `@grpc/proto-loader@0.8.1_peer@1` -> name and version. */
function splitPackage(key: string): { name: string; version: string } {
  const at = key.indexOf("@", 1);
  const [version = ""] = key.slice(at + 1).split("_");
  return { name: key.slice(0, at), version };
}

/**
 * The licence in a package's own package.json, in Deno's npm cache.
 *
 * @returns An SPDX expression, or NOASSERTION where the package names none.
 */
function licenceOf(cache: string, name: string, version: string): string {
  for (const registry of Deno.readDirSync(cache)) {
    const path = `${cache}/${registry.name}/${name}/${version}/package.json`;
    if (!isFile(path)) continue;
    const manifest: unknown = JSON.parse(Deno.readTextFileSync(path));
    if (isRecord(manifest) && typeof manifest["license"] === "string") return manifest["license"];
  }
  return "NOASSERTION";
}

async function npmCache(): Promise<string> {
  const info: unknown = JSON.parse(await mustRun(Deno.execPath(), ["info", "--json"]));
  if (!isRecord(info) || typeof info["npmCache"] !== "string") {
    throw new Error("deno info does not tell where the npm cache is");
  }
  return info["npmCache"];
}

async function npmComponents(): Promise<Component[]> {
  const cache = await npmCache();
  const lock: unknown = JSON.parse(Deno.readTextFileSync(`${ROOT}deno.lock`));
  const packages = isRecord(lock) && isRecord(lock["npm"]) ? lock["npm"] : {};
  return Object.entries(packages).map(([key, entry]) => {
    const { name, version } = splitPackage(key);
    const integrity = isRecord(entry) ? String(entry["integrity"] ?? "") : "";
    const hash = integrity.startsWith("sha512-")
      ? Uint8Array.from(atob(integrity.slice(7)), (char) => char.charCodeAt(0)).toHex()
      : undefined;
    return {
      type: "library",
      name,
      version,
      purl: `pkg:npm/${name.replace("@", "%40")}@${version}`,
      licenses: [{ expression: licenceOf(cache, name, version) }],
      ...(hash === undefined ? {} : { hashes: [{ alg: "SHA-512", content: hash }] as const }),
    };
  });
}

/** Version and package URL of a packaged native library. */
async function nativeOrigin(path: string): Promise<{ version: string; purl: string }> {
  const stamp = `${ROOT}${path}`.replace(/[^/]*$/, "stamp");
  if (!path.startsWith("/") && isFile(stamp)) {
    const [crate = "", version = ""] = Deno.readTextFileSync(stamp).split(" ");
    return { version, purl: `pkg:cargo/${crate}@${version}` };
  }
  const file = Deno.realPathSync(path);
  for (const candidate of [file, file.replace(/^\/usr\//, "/")]) {
    const query = await new Deno.Command("dpkg-query", { args: ["-S", candidate], stderr: "null" })
      .output();
    const owner = new TextDecoder().decode(query.stdout).split(":")[0] ?? "";
    if (!query.success || owner === "") continue;
    const version = (await mustRun("dpkg-query", ["-W", "-f=${Version}", owner])).trim();
    return { version, purl: `pkg:deb/debian/${owner}@${version}` };
  }
  return { version: "unknown", purl: `pkg:generic/${path.split("/").at(-1)}` };
}

async function nativeComponents(): Promise<Component[]> {
  const components: Component[] = [{
    type: "application",
    name: "deno",
    version: Deno.version.deno,
    purl: `pkg:npm/deno@${Deno.version.deno}`,
    licenses: [{ expression: "MIT" }],
    hashes: [{ alg: "SHA-256", content: await fileHash(Deno.execPath()) }],
  }];
  for (const [name, places] of Object.entries(LIBRARY_SOURCES)) {
    const place = places.find(isFile);
    if (place === undefined) continue;
    const path = place.startsWith("/") ? place : ROOT + place;
    components.push({
      type: "library",
      name,
      ...await nativeOrigin(place),
      licenses: [{ expression: NATIVE_LICENCES[name] ?? "NOASSERTION" }],
      hashes: [{ alg: "SHA-256", content: await fileHash(path) }],
    });
  }
  return components;
}

async function compress(): Promise<string> {
  try {
    await mustRun("zstd", ["-q", "-f", "-T0", "-12", "dist/kiseki", "-o", "dist/kiseki.zst"]);
    return "kiseki.zst";
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    console.log("release: zstd is missing: gzip is used");
    await mustRun("gzip", ["-9", "-k", "-f", "dist/kiseki"]);
    return "kiseki.gz";
  }
}

async function release(): Promise<void> {
  const compressed = await compress();
  const components = [...await nativeComponents(), ...await npmComponents()];
  const sbom = {
    bomFormat: "CycloneDX",
    specVersion: "1.5",
    version: 1,
    metadata: { component: { type: "application", name: "kiseki", version: VERSION } },
    components,
  };
  Deno.writeTextFileSync(`${DIST}/sbom.cdx.json`, JSON.stringify(sbom, null, 2) + "\n");
  let sums = "";
  for (const name of ["kiseki", compressed, "sbom.cdx.json"]) {
    sums += `${await fileHash(`${DIST}/${name}`)}  ${name}\n`;
  }
  Deno.writeTextFileSync(`${DIST}/SHA256SUMS`, sums);
  const megabytes = (Deno.statSync(`${DIST}/${compressed}`).size / 1e6).toFixed(1);
  console.log(`release: dist/${compressed} (${megabytes} MB), ${components.length} parts listed`);
  const unclear = components.filter((part) => part.licenses[0]?.expression === "NOASSERTION");
  for (const part of unclear) console.log(`release: no licence is named by ${part.purl}`);
}

if (import.meta.main) await release();
