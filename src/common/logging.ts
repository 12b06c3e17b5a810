/**
 * Logs are events with fields, one JSON object a line on stderr. No prose, no secrets.
 */

export type LogLevel = "debug" | "info" | "warn" | "error";
export type LogFields = Readonly<Record<string, string | number | boolean | null | undefined>>;

export interface Logger {
  debug(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  error(event: string, fields?: LogFields): void;
  /** A logger that adds these fields to every event. */
  with(fields: LogFields): Logger;
}

const ORDER: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 };

/** A logger that writes JSON lines at or above `level` through `write`. */
export function jsonLogger(
  write: (line: string) => void,
  level: LogLevel = "info",
  bound: LogFields = {},
): Logger {
  const emit = (at: LogLevel, event: string, fields: LogFields | undefined): void => {
    if (ORDER[at] < ORDER[level]) return;
    write(
      JSON.stringify({ time: new Date().toISOString(), level: at, event, ...bound, ...fields }),
    );
  };
  return {
    debug: (event, fields) => emit("debug", event, fields),
    info: (event, fields) => emit("info", event, fields),
    warn: (event, fields) => emit("warn", event, fields),
    error: (event, fields) => emit("error", event, fields),
    with: (fields) => jsonLogger(write, level, { ...bound, ...fields }),
  };
}

/** JSON lines on stderr. */
export function stderrLogger(level: LogLevel = "info"): Logger {
  const encoder = new TextEncoder();
  return jsonLogger((line) => void Deno.stderr.writeSync(encoder.encode(line + "\n")), level);
}

/** Drops everything: for tests and tools. */
export const SILENT_LOGGER: Logger = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  with: () => SILENT_LOGGER,
};
