/**
 * Configuration of a server: one TOML file, then the environment, checked once and handed down.
 *
 * Every scalar below can be overridden by `KISEKI_<SECTION>_<KEY>` (`KISEKI_LISTEN_S3`,
 * `KISEKI_DATA_DIR`); lists are comma-separated there. A key that is not in the table is refused.
 * An error names the file or variable, the key, what was found and what is allowed. No secret is
 * ever read from the file: the root key comes from a file of mode 0600 or from `KISEKI_ROOT_KEY`.
 */
import { parse as parseToml, TomlError } from "smol-toml";
import { z } from "zod";
import {
  DOMAIN_FORM,
  LISTEN_FORM,
  type ListenAddress,
  NAME_FORM,
  parseDomain,
  parseListenAddress,
  parseName,
  parsePath,
  parseSize,
  PATH_FORM,
  SIZE_FORM,
} from "./config_values.ts";
import { KisekiError } from "./errors.ts";
import type { LogLevel } from "./logging.ts";

/** Longest configuration file, bytes. */
export const MAX_CONFIG_BYTES = 1 << 20;

/** How a pool keeps chunks; the same shape as the chunk room's `Durability`. */
export type PoolDurability =
  | { readonly scheme: "copies"; readonly copies: number }
  | { readonly scheme: "erasure"; readonly data: number; readonly parity: number };

export interface DeviceConfig {
  readonly path: string;
  /** Size of a device file to make; undefined for raw devices and files that exist: all of it. */
  readonly sizeBytes?: number;
  /** fast-nvme, bulk-nvme, ssd, hdd or a name of your own. */
  readonly class: string;
}

export interface PoolConfig {
  readonly name: string;
  /** Paths of devices. Empty: all devices of `class`. */
  readonly devices: readonly string[];
  readonly class?: string;
  readonly durability: PoolDurability;
  /** Writes are refused once this share of the pool is used, percent. */
  readonly fullPercent: number;
}

export interface TlsConfig {
  readonly certificateFile: string;
  readonly keyFile: string;
}

export interface FabricTlsConfig extends TlsConfig {
  /** Certificates of those who may call; SPIFFE ids in URI SANs say their role. */
  readonly clientCaFile: string;
}

/** Everything that a server is told. Sizes in bytes, times in milliseconds. */
export interface ServerConfig {
  /** True under `--dev`: embedded keys, printed credential, 127.0.0.1 alone. */
  readonly dev: boolean;
  readonly dataDir: string;
  /** Name of this node. */
  readonly node: string;
  /** Name of the cluster, part of SPIFFE ids. */
  readonly cluster: string;
  readonly region: string;
  /** Base domains of virtual-host addressing (BUCKET.domain). */
  readonly domains: readonly string[];
  /** Number of gateway isolates. */
  readonly gateways: number;
  readonly fips: "off" | "require";
  readonly listen: {
    readonly s3: ListenAddress;
    readonly admin: ListenAddress;
    /** gRPC and data fabric. */
    readonly fabric: ListenAddress;
    /** undefined: not served. */
    readonly nfs?: ListenAddress;
  };
  readonly devices: readonly DeviceConfig[];
  readonly pools: readonly PoolConfig[];
  readonly log: {
    /** Directory of the write-ahead log. */
    readonly directory: string;
    readonly segmentBytes: number;
  };
  readonly memory: {
    /** Memory tables of all shards together. */
    readonly tablesBytes: number;
    /** Opened blocks of sealed runs. */
    readonly blockCacheBytes: number;
    /** Chunk buffers shared between isolates. */
    readonly chunkBuffersBytes: number;
  };
  readonly keys: {
    /** File of mode 0600 that seals the embedded key manager; made on first start. */
    readonly rootKeyFile: string;
  };
  readonly logging: { readonly level: LogLevel };
  readonly limits: {
    /** Connections of one gateway isolate. */
    readonly connections: number;
    /** Chunks in flight of one request. */
    readonly chunkWindow: number;
    readonly drainMs: number;
  };
  /** HTTPS on the S3 address. */
  readonly tls?: TlsConfig;
  /** mTLS on the fabric address. Without it the fabric takes bearer tokens in the clear. */
  readonly fabricTls?: FabricTlsConfig;
  readonly admin: {
    /** Bearer token of the admin service; made on first start, mode 0600. */
    readonly tokenFile: string;
  };
}

/** What overrides the file. Values are text. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** One value: `parse` answers undefined for what is not allowed. */
function value<T>(allowed: string, parse: (raw: unknown) => T | undefined) {
  return z.unknown().transform((raw, context): T => {
    const parsed = parse(raw);
    if (parsed !== undefined) return parsed;
    context.issues.push({ code: "custom", message: allowed, input: raw });
    return z.NEVER;
  });
}

function whole(minimum: number, maximum: number) {
  return value(`a whole number, ${minimum} to ${maximum}`, (raw) => {
    const number = typeof raw === "string" && /^[0-9]{1,15}$/.test(raw) ? Number(raw) : raw;
    return Number.isInteger(number) && (number as number) >= minimum &&
        (number as number) <= maximum
      ? number as number
      : undefined;
  });
}

function choice<T extends string>(...names: readonly T[]) {
  return value(
    names.map((name) => `"${name}"`).join(" or "),
    (raw) => names.find((name) => name === raw),
  );
}

function size(minimum: number, maximum: number, bounds: string) {
  return value(`${SIZE_FORM}, ${bounds}`, (raw) => {
    const bytes = parseSize(raw);
    return bytes !== undefined && bytes >= minimum && bytes <= maximum ? bytes : undefined;
  });
}

const path = () => value(PATH_FORM, parsePath);
const name = () => value(NAME_FORM, parseName);
const listen = () => value(LISTEN_FORM, parseListenAddress);

const MAX_DEVICES = 256;
const MAX_POOLS = 64;

const DEVICE = z.strictObject({
  path: path(),
  size: size(64 * 2 ** 20, 2 ** 52, "64MiB to 4096TiB").optional(),
  class: name().default("ssd"),
});

const POOL = z.strictObject({
  name: name(),
  devices: list("a list of device paths", path(), MAX_DEVICES).default([]),
  class: name().optional(),
  copies: whole(1, 5).optional(),
  data: whole(2, 16).optional(),
  parity: whole(1, 8).optional(),
  full_percent: whole(50, 99).default(95),
});

const SECTIONS = {
  listen: z.strictObject({
    s3: listen().default({ host: "0.0.0.0", port: 9000 }),
    admin: listen().default({ host: "0.0.0.0", port: 9090 }),
    fabric: listen().default({ host: "0.0.0.0", port: 9100 }),
    nfs: listen().optional(),
  }),
  log: z.strictObject({
    directory: path().optional(),
    segment_size: size(2 ** 20, 2 ** 30, "1MiB to 1GiB").default(64 * 2 ** 20),
  }),
  memory: z.strictObject({
    tables: size(16 * 2 ** 20, 2 ** 40, "16MiB to 1TiB").default(512 * 2 ** 20),
    block_cache: size(8 * 2 ** 20, 2 ** 40, "8MiB to 1TiB").default(64 * 2 ** 20),
    chunk_buffers: size(32 * 2 ** 20, 2 ** 40, "32MiB to 1TiB").default(128 * 2 ** 20),
  }),
  keys: z.strictObject({ root_key_file: path().optional() }),
  logging: z.strictObject({ level: choice("debug", "info", "warn", "error").default("info") }),
  limits: z.strictObject({
    connections: whole(1, 1_000_000).default(10_000),
    chunk_window: whole(1, 64).default(4),
    drain_ms: whole(0, 600_000).default(8_000),
  }),
  tls: z.strictObject({ certificate_file: path(), key_file: path() }),
  fabric_tls: z.strictObject({
    certificate_file: path(),
    key_file: path(),
    client_ca_file: path(),
  }),
  admin: z.strictObject({ token_file: path().optional() }),
};

const TOP = {
  data_dir: path(),
  node: name().default("node1"),
  cluster: name().default("kiseki"),
  region: name().default("us-east-1"),
  domains: list("a list of DNS names", value(DOMAIN_FORM, parseDomain), 64).default([]),
  gateways: whole(1, 256).default(1),
  fips: choice("off", "require").default("off"),
};

const SCHEMA = z.strictObject({
  ...TOP,
  listen: SECTIONS.listen.prefault({}),
  devices: list("a list of [[devices]]", DEVICE, MAX_DEVICES).default([]),
  pools: list("a list of [[pools]]", POOL, MAX_POOLS).default([]),
  log: SECTIONS.log.prefault({}),
  memory: SECTIONS.memory.prefault({}),
  keys: SECTIONS.keys.prefault({}),
  logging: SECTIONS.logging.prefault({}),
  limits: SECTIONS.limits.prefault({}),
  tls: SECTIONS.tls.optional(),
  fabric_tls: SECTIONS.fabric_tls.optional(),
  admin: SECTIONS.admin.prefault({}),
});

/** A list; in the environment its items stand between commas. */
function list<T extends z.ZodType>(allowed: string, item: T, maximum: number) {
  return z.preprocess(
    (raw) =>
      typeof raw === "string" ? raw.split(",").map((s) => s.trim()).filter((s) => s !== "") : raw,
    z.array(item, { error: `${allowed}, at most ${maximum}` })
      .max(maximum, { error: `${allowed}, at most ${maximum}` }),
  );
}

/** All keys that the environment may set: variable -> path. */
function environmentKeys(): ReadonlyMap<string, readonly string[]> {
  const keys = new Map<string, readonly string[]>();
  for (const key of Object.keys(TOP)) keys.set(`KISEKI_${key.toUpperCase()}`, [key]);
  for (const [head, schema] of Object.entries(SECTIONS)) {
    for (const key of Object.keys(schema.shape)) {
      keys.set(`KISEKI_${head}_${key}`.toUpperCase(), [head, key]);
    }
  }
  return keys;
}

type Table = Record<string, unknown>;

function isTable(raw: unknown): raw is Table {
  return typeof raw === "object" && raw !== null && !Array.isArray(raw) && !(raw instanceof Date);
}

/**
 * Parses and checks a configuration.
 *
 * @param text TOML, at most {@link MAX_CONFIG_BYTES}.
 * @param source Name of the file, for errors.
 * @throws KisekiError `config.invalid` that names file, key, found and allowed, one line each.
 */
export function parseServerConfig(
  text: string,
  source: string,
  environment: Environment = {},
): ServerConfig {
  const raw = readToml(text, source);
  const origins = new Map<string, string>();
  for (const [variable, keyPath] of environmentKeys()) {
    const override = environment[variable];
    if (override === undefined) continue;
    setPath(raw, keyPath, override);
    origins.set(keyPath.join("."), variable);
  }
  const parsed = SCHEMA.safeParse(raw);
  if (!parsed.success) throw invalid(parsed.error.issues, raw, source, origins);
  return toServerConfig(parsed.data, source);
}

/**
 * Reads a configuration file.
 *
 * @throws KisekiError `config.invalid` also when the file cannot be read.
 */
export async function loadServerConfig(
  file: string,
  environment: Environment,
): Promise<ServerConfig> {
  let text: string;
  try {
    const bytes = await Deno.readFile(file);
    if (bytes.length > MAX_CONFIG_BYTES) throw tooLarge(file, bytes.length);
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    if (cause instanceof KisekiError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new KisekiError("config.invalid", `${file}: cannot be read: ${reason}`, { cause });
  }
  return parseServerConfig(text, file, environment);
}

function tooLarge(source: string, length: number): KisekiError {
  return new KisekiError(
    "config.invalid",
    `${source}: found ${length} bytes; allowed: at most ${MAX_CONFIG_BYTES}`,
  );
}

function readToml(text: string, source: string): Table {
  if (text.length > MAX_CONFIG_BYTES) throw tooLarge(source, text.length);
  try {
    return parseToml(text, { maxDepth: 32 }) as Table;
  } catch (cause) {
    const place = cause instanceof TomlError ? `:${cause.line}:${cause.column}` : "";
    const reason = (cause instanceof Error ? cause.message : String(cause)).split("\n")[0] ?? "";
    throw new KisekiError("config.invalid", `${source}${place}: not TOML: ${reason}`, { cause });
  }
}

function setPath(raw: Table, keyPath: readonly string[], override: string): void {
  const [head, tail] = keyPath;
  if (head === undefined) return;
  if (tail === undefined) {
    raw[head] = override;
    return;
  }
  const inner = raw[head];
  if (isTable(inner)) inner[tail] = override;
  else if (inner === undefined) raw[head] = { [tail]: override };
}

function invalid(
  issues: readonly z.core.$ZodIssue[],
  raw: unknown,
  source: string,
  origins: ReadonlyMap<string, string>,
): KisekiError {
  const lines: string[] = [];
  for (const issue of issues.slice(0, 20)) {
    const keys = issue.path.map(String);
    const key = keys.join(".");
    if (issue.code === "unrecognized_keys") {
      for (const unknown of issue.keys) {
        const full = key === "" ? unknown : `${key}.${unknown}`;
        lines.push(`${source}: ${full}: found an unknown key; allowed: ${knownKeys(keys)}`);
      }
      continue;
    }
    const variable = origins.get(key);
    const origin = variable === undefined ? source : `environment variable ${variable}`;
    const allowed = issue.code === "invalid_type" && issue.expected === "object"
      ? `a table with ${knownKeys(keys)}`
      : issue.message;
    lines.push(
      `${origin}: ${key === "" ? "(top)" : key}: found ${found(raw, keys)}; allowed: ${allowed}`,
    );
  }
  if (issues.length > 20) lines.push(`and ${issues.length - 20} more`);
  return new KisekiError("config.invalid", lines.join("\n"));
}

function knownKeys(keys: readonly string[]): string {
  const head = keys[0];
  let shape: Readonly<Record<string, unknown>> = SCHEMA.shape;
  if (head === "devices") shape = DEVICE.shape;
  else if (head === "pools") shape = POOL.shape;
  else if (head !== undefined && head in SECTIONS) {
    shape = SECTIONS[head as keyof typeof SECTIONS].shape;
  }
  return Object.keys(shape).join(", ");
}

function found(raw: unknown, keys: readonly string[]): string {
  let at: unknown = raw;
  for (const key of keys) {
    if (typeof at !== "object" || at === null) return "nothing";
    at = Object.hasOwn(at, key) ? (at as Table)[key] : undefined;
  }
  if (at === undefined) return "nothing";
  if (Array.isArray(at)) return `a list of ${at.length}`;
  if (isTable(at)) return "a table";
  const text = typeof at === "string" ? JSON.stringify(at) : String(at);
  return text.length > 100 ? `${text.slice(0, 100)}...` : text;
}

function refuse(source: string, key: string, wasFound: string, allowed: string): never {
  throw new KisekiError(
    "config.invalid",
    `${source}: ${key}: found ${wasFound}; allowed: ${allowed}`,
  );
}

/** The checks that span keys, and the typed shape. */
function toServerConfig(raw: z.output<typeof SCHEMA>, source: string): ServerConfig {
  const dataDir = raw.data_dir;
  const devices = raw.devices.map((device): DeviceConfig => ({
    path: device.path,
    class: device.class,
    ...(device.size === undefined ? {} : { sizeBytes: device.size }),
  }));
  const duplicate = firstDuplicate(devices.map((device) => device.path));
  if (duplicate !== undefined) {
    refuse(source, "devices", `"${duplicate}" twice`, "every path once");
  }
  const pools = raw.pools.map((pool, i) => toPool(pool, `pools.${i}`, devices, source));
  const twice = firstDuplicate(pools.map((pool) => pool.name));
  if (twice !== undefined) refuse(source, "pools", `"${twice}" twice`, "every name once");
  return {
    dev: false,
    dataDir,
    node: raw.node,
    cluster: raw.cluster,
    region: raw.region,
    domains: raw.domains,
    gateways: raw.gateways,
    fips: raw.fips,
    listen: {
      s3: raw.listen.s3,
      admin: raw.listen.admin,
      fabric: raw.listen.fabric,
      ...(raw.listen.nfs === undefined ? {} : { nfs: raw.listen.nfs }),
    },
    devices,
    pools,
    log: {
      directory: raw.log.directory ?? `${dataDir}/log`,
      segmentBytes: raw.log.segment_size,
    },
    memory: {
      tablesBytes: raw.memory.tables,
      blockCacheBytes: raw.memory.block_cache,
      chunkBuffersBytes: raw.memory.chunk_buffers,
    },
    keys: { rootKeyFile: raw.keys.root_key_file ?? `${dataDir}/root.key` },
    logging: { level: raw.logging.level },
    limits: {
      connections: raw.limits.connections,
      chunkWindow: raw.limits.chunk_window,
      drainMs: raw.limits.drain_ms,
    },
    ...(raw.tls === undefined
      ? {}
      : { tls: { certificateFile: raw.tls.certificate_file, keyFile: raw.tls.key_file } }),
    ...(raw.fabric_tls === undefined ? {} : {
      fabricTls: {
        certificateFile: raw.fabric_tls.certificate_file,
        keyFile: raw.fabric_tls.key_file,
        clientCaFile: raw.fabric_tls.client_ca_file,
      },
    }),
    admin: { tokenFile: raw.admin.token_file ?? `${dataDir}/admin.token` },
  };
}

function toPool(
  pool: z.output<typeof POOL>,
  key: string,
  devices: readonly DeviceConfig[],
  source: string,
): PoolConfig {
  if (pool.devices.length > 0 && pool.class !== undefined) {
    refuse(source, key, "devices and class", "one of devices, class");
  }
  if (pool.devices.length === 0 && pool.class === undefined) {
    refuse(source, key, "neither devices nor class", "one of devices, class");
  }
  for (const path of pool.devices) {
    if (!devices.some((device) => device.path === path)) {
      refuse(source, `${key}.devices`, `"${path}"`, "paths that stand in [[devices]]");
    }
  }
  const members = pool.class === undefined
    ? pool.devices.length
    : devices.filter((device) => device.class === pool.class).length;
  const durability = toDurability(pool, key, source);
  const fragments = durability.scheme === "copies"
    ? durability.copies
    : durability.data + durability.parity;
  if (members < fragments) {
    refuse(
      source,
      key,
      `${members} devices for ${fragments} fragments of a chunk`,
      `at least ${fragments} devices, as no two fragments share one`,
    );
  }
  return {
    name: pool.name,
    devices: pool.devices,
    ...(pool.class === undefined ? {} : { class: pool.class }),
    durability,
    fullPercent: pool.full_percent,
  };
}

function toDurability(
  pool: z.output<typeof POOL>,
  key: string,
  source: string,
): PoolDurability {
  const { copies, data, parity } = pool;
  if (copies !== undefined && data === undefined && parity === undefined) {
    return { scheme: "copies", copies };
  }
  if (copies === undefined && data !== undefined && parity !== undefined) {
    return { scheme: "erasure", data, parity };
  }
  const given = [
    copies === undefined ? "" : "copies",
    data === undefined ? "" : "data",
    parity === undefined ? "" : "parity",
  ].filter((part) => part !== "").join(", ");
  return refuse(source, key, given === "" ? "no durability" : given, "copies, or data and parity");
}

function firstDuplicate(names: readonly string[]): string | undefined {
  const seen = new Set<string>();
  for (const one of names) {
    if (seen.has(one)) return one;
    seen.add(one);
  }
  return undefined;
}

/** What `--dev` may be told. */
export interface DevOptions {
  readonly dataDir: string;
  readonly s3Listen?: ListenAddress;
  readonly adminListen?: ListenAddress;
  readonly fabricListen?: ListenAddress;
  readonly nfsListen?: ListenAddress;
}

/** Size of the one device file of `--dev`; sparse, so that it takes only what is written. */
export const DEV_DEVICE_BYTES = 64 * 2 ** 30;

/** Everything on 127.0.0.1, one device file, one pool of one copy; the environment overrides. */
export function devConfig(options: DevOptions, environment: Environment = {}): ServerConfig {
  const local = (port: number): ListenAddress => ({ host: "127.0.0.1", port });
  const { dataDir } = options;
  const device = JSON.stringify(`${dataDir}/device0`);
  const text = `data_dir = ${JSON.stringify(dataDir)}
node = "dev"
domains = ["localhost"]
devices = [{ path = ${device}, size = ${DEV_DEVICE_BYTES} }]
pools = [{ name = "default", devices = [${device}], copies = 1 }]
`;
  const config = parseServerConfig(text, "--dev", environment);
  return {
    ...config,
    dev: true,
    listen: {
      s3: options.s3Listen ?? local(9000),
      admin: options.adminListen ?? local(9090),
      fabric: options.fabricListen ?? local(9100),
      ...(options.nfsListen === undefined ? {} : { nfs: options.nfsListen }),
    },
  };
}
