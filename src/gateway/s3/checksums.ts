/**
 * Object checksums as S3 speaks of them: header names, encoding, composites, full-object values of
 * multipart uploads.
 *
 * A full-object CRC of parts is made from the parts' CRCs alone: appending n bytes multiplies the
 * first CRC by x^(8n) modulo the polynomial (the method of zlib's crc32_combine). Source of the
 * rules: Amazon S3 User Guide, "Checking object integrity".
 */
import { type Bytes, concatBytes, equalBytes } from "../../common/bytes.ts";
import { KisekiError } from "../../common/errors.ts";
import type { CryptoProvider } from "../../crypto/provider.ts";
import type { ObjectChecksum, ObjectChecksumAlgorithm } from "../../namespace/api.ts";
import { invalidArgument, S3Error } from "./errors.ts";
import type { S3Request } from "./request.ts";

interface AlgorithmFacts {
  readonly header: string;
  /** Element name in XML. */
  readonly element: string;
  readonly bytes: number;
  readonly multipart: readonly ("FULL_OBJECT" | "COMPOSITE")[];
}

/** First in `multipart` is the default of an upload. */
export const CHECKSUMS: Readonly<Record<ObjectChecksumAlgorithm, AlgorithmFacts>> = {
  CRC32: facts("CRC32", 4, ["COMPOSITE", "FULL_OBJECT"]),
  CRC32C: facts("CRC32C", 4, ["COMPOSITE", "FULL_OBJECT"]),
  CRC64NVME: facts("CRC64NVME", 8, ["FULL_OBJECT"]),
  SHA1: facts("SHA1", 20, ["COMPOSITE"]),
  SHA256: facts("SHA256", 32, ["COMPOSITE"]),
};

export const CHECKSUM_ALGORITHMS = Object.keys(CHECKSUMS) as readonly ObjectChecksumAlgorithm[];

function facts(
  name: ObjectChecksumAlgorithm,
  bytes: number,
  multipart: readonly ("FULL_OBJECT" | "COMPOSITE")[],
): AlgorithmFacts {
  return {
    header: `x-amz-checksum-${name.toLowerCase()}`,
    element: `Checksum${name}`,
    bytes,
    multipart,
  };
}

/** @throws S3Error InvalidRequest for a name that is none of the five. */
export function parseAlgorithm(text: string): ObjectChecksumAlgorithm {
  const upper = text.toUpperCase();
  for (const algorithm of CHECKSUM_ALGORITHMS) if (algorithm === upper) return algorithm;
  throw new S3Error("InvalidRequest", {
    message:
      "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
  });
}

/** The algorithm of a header name; undefined when it is no checksum header. */
export function algorithmOfHeader(name: string): ObjectChecksumAlgorithm | undefined {
  return CHECKSUM_ALGORITHMS.find((algorithm) => CHECKSUMS[algorithm].header === name);
}

/** Standard base64. */
export function toBase64(bytes: Bytes): string {
  let binary = "";
  for (let i = 0; i < bytes.length; i++) binary += String.fromCharCode(bytes[i] as number);
  return btoa(binary);
}

/** Bytes of canonical base64 of exactly `size` bytes; undefined when it is anything else. */
export function fromBase64(text: string, size: number): Bytes | undefined {
  if (text.length !== 4 * Math.ceil(size / 3) || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) {
    return undefined;
  }
  let binary: string;
  try {
    binary = atob(text);
  } catch (error) {
    if (error instanceof DOMException) return undefined;
    throw error;
  }
  if (binary.length !== size) return undefined;
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** @throws S3Error InvalidRequest when the value has not the form of its algorithm. */
export function parseChecksumValue(algorithm: ObjectChecksumAlgorithm, text: string): Bytes {
  const value = fromBase64(text.trim(), CHECKSUMS[algorithm].bytes);
  if (value === undefined) {
    throw new S3Error("InvalidRequest", {
      message: `Value for ${CHECKSUMS[algorithm].header} header is invalid.`,
    });
  }
  return value;
}

/** What a request says of its body's checksum. */
export interface ExpectedChecksum {
  readonly algorithm: ObjectChecksumAlgorithm;
  /** undefined: it comes in the trailer, or is only to be computed. */
  readonly value?: Bytes;
  readonly inTrailer: boolean;
}

/** @throws S3Error on several checksums, unknown algorithms or malformed values. */
export function expectedChecksum(request: S3Request): ExpectedChecksum | undefined {
  let found: ExpectedChecksum | undefined;
  for (const algorithm of CHECKSUM_ALGORITHMS) {
    const text = request.header(CHECKSUMS[algorithm].header);
    if (text === undefined) continue;
    if (found !== undefined) {
      throw new S3Error("InvalidRequest", {
        message:
          "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
      });
    }
    found = { algorithm, value: parseChecksumValue(algorithm, text), inTrailer: false };
  }
  const trailer = request.header("x-amz-trailer");
  if (trailer !== undefined) {
    const name = trailer.trim().toLowerCase();
    const algorithm = algorithmOfHeader(name);
    if (algorithm === undefined) {
      throw new S3Error("InvalidRequest", {
        message: "The value specified in the x-amz-trailer header is not supported",
      });
    }
    if (found !== undefined) {
      throw new S3Error("InvalidRequest", {
        message:
          "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
      });
    }
    found = { algorithm, inTrailer: true };
  }
  const wanted = request.header("x-amz-sdk-checksum-algorithm") ??
    request.header("x-amz-checksum-algorithm");
  if (wanted !== undefined) {
    const algorithm = parseAlgorithm(wanted);
    if (found !== undefined && found.algorithm !== algorithm) {
      throw new S3Error("InvalidRequest", {
        message: "Value for x-amz-sdk-checksum-algorithm header is invalid.",
      });
    }
    found ??= { algorithm, inTrailer: false };
  }
  return found;
}

/** The expected MD5 of the body. @throws S3Error InvalidDigest. */
export function expectedMd5(request: S3Request): Bytes | undefined {
  const text = request.header("content-md5");
  if (text === undefined) return undefined;
  const value = fromBase64(text.trim(), 16);
  if (value === undefined) {
    throw new S3Error("InvalidDigest", {
      message: "The Content-MD5 you specified was invalid.",
      extra: { "Content-MD5": text.slice(0, 256) },
    });
  }
  return value;
}

/** The text of a checksum in a header or an element: composites name their number of parts. */
export function checksumText(checksum: ObjectChecksum, partCount?: number): string {
  const text = toBase64(checksum.value);
  return checksum.type === "COMPOSITE" && partCount !== undefined ? `${text}-${partCount}` : text;
}

/** One-shot checksum of a buffer. */
export function computeChecksum(
  crypto: CryptoProvider,
  algorithm: ObjectChecksumAlgorithm,
  bytes: Bytes,
): Bytes {
  switch (algorithm) {
    case "SHA1":
      return crypto.digest("sha1", bytes);
    case "SHA256":
      return crypto.digest("sha256", bytes);
    default: {
      const name = algorithm === "CRC32"
        ? "crc32"
        : algorithm === "CRC32C"
        ? "crc32c"
        : "crc64nvme";
      const checksum = crypto.checksum(name);
      checksum.update(bytes);
      return checksum.digest();
    }
  }
}

/** @throws S3Error InvalidArgument for an x-amz-checksum-type that does not fit the algorithm. */
export function multipartChecksumType(
  algorithm: ObjectChecksumAlgorithm,
  text: string | undefined,
): "FULL_OBJECT" | "COMPOSITE" {
  const allowed = CHECKSUMS[algorithm].multipart;
  const chosen = text === undefined ? allowed[0] : allowed.find((one) => one === text);
  if (chosen !== undefined) return chosen;
  if (text !== "FULL_OBJECT" && text !== "COMPOSITE") {
    throw invalidArgument("x-amz-checksum-type", text ?? "");
  }
  throw new S3Error("InvalidRequest", {
    message:
      `The ${text} checksum type cannot be used with the ${algorithm.toLowerCase()} checksum algorithm.`,
  });
}

/** The checksum of an object made of parts. All parts must carry one of the same algorithm. */
export function checksumOfParts(
  crypto: CryptoProvider,
  algorithm: ObjectChecksumAlgorithm,
  type: "FULL_OBJECT" | "COMPOSITE",
  parts: readonly { readonly value: Bytes; readonly sizeBytes: number }[],
): ObjectChecksum {
  if (type === "COMPOSITE") {
    const joined = concatBytes(...parts.map((part) => part.value));
    return { algorithm, type, value: computeChecksum(crypto, algorithm, joined) };
  }
  const polynomial = POLYNOMIALS[algorithm];
  if (polynomial === undefined) {
    throw new KisekiError("common.internal", `${algorithm} has no full-object value of parts`);
  }
  const combiner = new CrcCombiner(polynomial);
  let value = 0n;
  for (const part of parts) value = combiner.append(value, toBigInt(part.value), part.sizeBytes);
  return { algorithm, type, value: fromBigInt(value, CHECKSUMS[algorithm].bytes) };
}

interface Polynomial {
  readonly bits: number;
  /** Reflected, without the leading term. */
  readonly value: bigint;
}

const POLYNOMIALS: Readonly<Partial<Record<ObjectChecksumAlgorithm, Polynomial>>> = {
  CRC32: { bits: 32, value: 0xedb88320n },
  CRC32C: { bits: 32, value: 0x82f63b78n },
  CRC64NVME: { bits: 64, value: 0x9a6c9329ac4bc9b5n },
};

/** Arithmetic of reflected CRCs: bit `bits - 1` is x^0. */
class CrcCombiner {
  readonly #polynomial: Polynomial;
  /** x^(8 * length) by length: parts are mostly of one size. */
  readonly #shifts = new Map<number, bigint>();

  constructor(polynomial: Polynomial) {
    this.#polynomial = polynomial;
  }

  /** CRC of a followed by b, b being `bytes` long. */
  append(a: bigint, b: bigint, bytes: number): bigint {
    let shift = this.#shifts.get(bytes);
    if (shift === undefined) {
      shift = this.#power(BigInt(bytes) * 8n);
      this.#shifts.set(bytes, shift);
    }
    return this.#multiply(shift, a) ^ b;
  }

  #multiply(a: bigint, b: bigint): bigint {
    const { bits, value } = this.#polynomial;
    let product = 0n;
    let factor = b;
    for (let bit = bits - 1; bit >= 0; bit--) {
      if (((a >> BigInt(bit)) & 1n) === 1n) product ^= factor;
      factor = (factor & 1n) === 1n ? (factor >> 1n) ^ value : factor >> 1n;
    }
    return product;
  }

  /** x^exponent. */
  #power(exponent: bigint): bigint {
    const top = BigInt(this.#polynomial.bits - 1);
    let result = 1n << top;
    let base = 1n << (top - 1n);
    for (let rest = exponent; rest > 0n; rest >>= 1n) {
      if ((rest & 1n) === 1n) result = this.#multiply(result, base);
      base = this.#multiply(base, base);
    }
    return result;
  }
}

function toBigInt(bytes: Bytes): bigint {
  let value = 0n;
  for (const byte of bytes) value = (value << 8n) | BigInt(byte);
  return value;
}

function fromBigInt(value: bigint, size: number): Bytes {
  const bytes = new Uint8Array(size);
  let rest = value;
  for (let i = size - 1; i >= 0; i--) {
    bytes[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  return bytes;
}

/** Equality of two checksums' values. */
export function sameChecksum(a: Bytes, b: Bytes): boolean {
  return equalBytes(a, b);
}
