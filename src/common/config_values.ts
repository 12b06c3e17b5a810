/**
 * Values of the configuration: sizes, addresses, names. Each parser takes what TOML or the
 * environment gave and answers undefined for what is not allowed; the text of what *is* allowed
 * stands beside it, so that an error can say it.
 */

/** HOST:PORT; an IPv6 host in brackets. Port 0 picks a free one. */
export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  B: 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
  kB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
};

export const SIZE_FORM = 'a size such as "64MiB" (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)';

/** Bytes of a size: a whole number, or text with a unit. */
export function parseSize(value: unknown): number | undefined {
  if (typeof value === "number") return wholeBytes(value);
  if (typeof value !== "string" || value.length > 32) return undefined;
  const match = /^([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z]{0,3})$/.exec(value);
  const unit = UNITS[match?.[2] ?? "?"];
  if (match === null || unit === undefined) return undefined;
  return wholeBytes(Number(match[1]) * unit);
}

function wholeBytes(bytes: number): number | undefined {
  return Number.isSafeInteger(bytes) && bytes >= 0 ? bytes : undefined;
}

/** A size as text with the largest unit that leaves it whole. */
export function formatSize(bytes: number): string {
  for (const unit of ["TiB", "GiB", "MiB", "KiB"]) {
    const size = UNITS[unit] as number;
    if (bytes >= size && bytes % size === 0) return `${bytes / size}${unit}`;
  }
  return `${bytes}B`;
}

export const LISTEN_FORM = 'HOST:PORT such as "0.0.0.0:9000" or "[::1]:9000", port 0 to 65535';

/** An address to listen on or to connect to. */
export function parseListenAddress(value: unknown): ListenAddress | undefined {
  if (typeof value !== "string" || value.length > 300) return undefined;
  const match = /^(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,255})):([0-9]{1,5})$/.exec(value);
  if (match === null) return undefined;
  const port = Number(match[3]);
  if (port > 65535) return undefined;
  return { host: match[1] ?? match[2] ?? "", port };
}

/** HOST:PORT of an address, brackets where they are needed. */
export function formatListenAddress(address: ListenAddress): string {
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return `${host}:${address.port}`;
}

export const NAME_FORM = "1 to 63 of a-z 0-9 . _ -, first and last a letter or digit";

/** A name of a node, pool, device class, organisation, project or workload. */
export function parseName(value: unknown): string | undefined {
  if (typeof value !== "string") return undefined;
  return /^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$/.test(value) ? value : undefined;
}

export const DOMAIN_FORM = 'a DNS name such as "s3.example.com"';

export function parseDomain(value: unknown): string | undefined {
  if (typeof value !== "string" || value.length > 253) return undefined;
  return /^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$/
      .test(value)
    ? value
    : undefined;
}

export const PATH_FORM = "a path of 1 to 4096 bytes without a zero byte";

export function parsePath(value: unknown): string | undefined {
  if (typeof value !== "string" || value.length === 0 || value.length > 4096) return undefined;
  return value.includes("\0") ? undefined : value;
}
