/**
 * How a native library is opened, and what is said when it cannot be.
 *
 * Bindings hold symbols and thin typed calls, no policy: a call that can fail returns what the C
 * function returns (negative errno for libc). Only opening throws, with a reason that
 * `kiseki doctor` can print as it is.
 */

/** A library, or a symbol in it, that this machine does not have. */
export class NativeLibraryError extends Error {
  override readonly name = "NativeLibraryError";
  /** What was asked for: a file name or a path. */
  readonly library: string;
  /** One line for people. */
  readonly reason: string;

  constructor(library: string, reason: string, cause?: unknown) {
    super(`${library}: ${reason}`, cause === undefined ? undefined : { cause });
    this.library = library;
    this.reason = reason;
  }
}

/**
 * Opens a library with all symbols that are not optional.
 *
 * @throws NativeLibraryError with the loader's reason.
 */
export function openLibrary<const S extends Deno.ForeignLibraryInterface>(
  path: string,
  symbols: S,
): Deno.DynamicLibrary<S> {
  try {
    return Deno.dlopen(path, symbols);
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new NativeLibraryError(path, text.split("\n")[0] ?? "cannot be opened", cause);
  }
}

const encoder = new TextEncoder();

/**
 * A NUL-terminated copy of a string.
 *
 * @throws RangeError when the string holds a NUL itself.
 */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  if (text.includes("\0")) throw new RangeError("a string for a C function holds a NUL");
  const bytes = encoder.encode(text);
  const out = new Uint8Array(bytes.length + 1);
  out.set(bytes);
  return out;
}

/** Text of a NUL-terminated C string; empty for a null pointer. */
export function stringAt(pointer: Deno.PointerValue): string {
  return pointer === null ? "" : Deno.UnsafePointerView.getCString(pointer);
}

/** Bytes that C may read and write: shared memory too. */
export type NativeBytes = Uint8Array<ArrayBufferLike>;

/** The type that Deno's declarations ask of a "buffer" argument; costs nothing. */
export function asBuffer(bytes: NativeBytes): Uint8Array<ArrayBuffer> {
  return bytes as Uint8Array<ArrayBuffer>;
}
