/**
 * Bodies: read in constant memory, unwrapped from `aws-chunked`, checked against all that the
 * request said of them, before anything is published.
 */
import { type Bytes, concatBytes, EMPTY_BYTES, equalBytes, toHex } from "../../common/bytes.ts";
import {
  type ContentDigests,
  type ContentWriter,
  MAX_PART_BYTES,
  type ObjectChecksum,
  type ObjectChecksumAlgorithm,
} from "../../namespace/api.ts";
import {
  CHECKSUMS,
  computeChecksum,
  type ExpectedChecksum,
  expectedChecksum,
  expectedMd5,
  parseChecksumValue,
} from "./checksums.ts";
import { AwsChunkedDecoder } from "./chunked.ts";
import type { S3Context } from "./context.ts";
import { S3Error } from "./errors.ts";
import type { S3Request } from "./request.ts";

/** A finished body: give it to the namespace, or abort it. */
export interface ReceivedContent {
  readonly writer: ContentWriter;
  readonly digests: ContentDigests;
  /** The checksum to store, verified; undefined when none was asked for. */
  readonly checksum: ObjectChecksum | undefined;
}

interface BodyPlan {
  /** Of the content itself. */
  readonly decodedBytes: number;
  readonly md5: Bytes | undefined;
  readonly checksum: ExpectedChecksum | undefined;
  readonly sha256: string | undefined;
  readonly decoder: AwsChunkedDecoder | undefined;
}

/** A length in a header. @throws S3Error InvalidArgument when it is not a number. */
function lengthHeader(request: S3Request, name: string): number | undefined {
  const text = request.header(name);
  if (text === undefined) return undefined;
  if (!/^\d{1,15}$/.test(text)) {
    throw new S3Error("InvalidArgument", {
      message: `${name} is not a length in bytes.`,
      extra: { ArgumentName: name, ArgumentValue: text.slice(0, 64) },
    });
  }
  return Number(text);
}

/** @param withoutLength What a plain request without Content-Length means: no body, or a refusal. */
function planBody(
  context: S3Context,
  withoutLength: 0 | undefined,
  checksummed = true,
): BodyPlan {
  const { request, authentication } = context;
  const { payload } = authentication;
  const chunked = payload.kind === "chunked";
  const decodedBytes = chunked
    ? lengthHeader(request, "x-amz-decoded-content-length")
    : lengthHeader(request, "content-length") ??
      (request.header("transfer-encoding") === undefined ? withoutLength : undefined);
  if (decodedBytes === undefined) throw new S3Error("MissingContentLength");
  const checksum = checksummed ? expectedChecksum(request) : undefined;
  if (checksum?.inTrailer === true && !(chunked && payload.trailer)) {
    throw new S3Error("InvalidRequest", {
      message: "x-amz-trailer needs an x-amz-content-sha256 that announces a trailer.",
    });
  }
  return {
    decodedBytes,
    md5: expectedMd5(request),
    checksum,
    sha256: payload.kind === "sha256" ? payload.hex : undefined,
    decoder: chunked
      ? new AwsChunkedDecoder({
        trailer: payload.trailer,
        decodedBytes,
        ...(payload.signed
          ? {
            signer: {
              crypto: context.crypto,
              signingKey: authentication.signingKey,
              amzDate: authentication.amzDate,
              scope: authentication.scope,
              seedSignature: authentication.signature,
            },
          }
          : {}),
      })
      : undefined,
  };
}

/**
 * Streams the body of a request into new content and checks it: length, payload hash, Content-MD5,
 * checksum. The content is aborted on every failure, a client that went away included.
 */
export async function receiveContent(
  context: S3Context,
  maxBytes: number = MAX_PART_BYTES,
  also?: ObjectChecksumAlgorithm,
): Promise<ReceivedContent> {
  const plan = planBody(context, undefined);
  if (plan.decodedBytes > maxBytes) {
    throw new S3Error("EntityTooLarge", {
      extra: { ProposedSize: String(plan.decodedBytes), MaxSizeAllowed: String(maxBytes) },
    });
  }
  const wanted = new Set<ObjectChecksumAlgorithm>();
  if (plan.sha256 !== undefined) wanted.add("SHA256");
  if (plan.checksum !== undefined) wanted.add(plan.checksum.algorithm);
  if (also !== undefined) wanted.add(also);
  const writer = await context.namespaces.beginContent(context.identity, context.request.bucket, {
    checksums: [...wanted],
    expectedBytes: plan.decodedBytes,
  });
  try {
    await pump(context, plan, (bytes) => writer.write(bytes));
    const digests = await writer.finish();
    const checksum = verify(plan, digests, also);
    return { writer, digests, checksum };
  } catch (error) {
    plan.decoder?.release();
    await writer.abort();
    throw error;
  }
}

/** Moves the body to `write`, unwrapped. */
async function pump(
  context: S3Context,
  plan: BodyPlan,
  write: (bytes: Bytes) => Promise<void>,
): Promise<void> {
  const { request, counts, limits } = context;
  const { decoder, decodedBytes } = plan;
  let received = 0;
  const take = async (bytes: Bytes): Promise<void> => {
    counts.bytesIn += bytes.length;
    if (decoder === undefined) {
      received += bytes.length;
      if (received > decodedBytes) throw incompleteBody();
      if (bytes.length > 0) await write(bytes);
      return;
    }
    const views = decoder.feed(bytes);
    if (views.length === 1) await write(views[0] as Bytes);
    else if (views.length > 1) await write(concatBytes(...views));
  };
  if (request.source.body !== null) {
    const wireBytes = lengthHeader(request, "content-length");
    if (wireBytes !== undefined && wireBytes <= limits.smallBodyBytes) {
      await take(await smallBody(request));
    } else {
      await eachPiece(request, take);
    }
  }
  if (decoder !== undefined) decoder.finish();
  else if (received !== decodedBytes) throw incompleteBody();
}

async function smallBody(request: S3Request): Promise<Bytes> {
  try {
    return await request.source.bytes();
  } catch (cause) {
    throw incompleteBody(cause);
  }
}

async function eachPiece(
  request: S3Request,
  take: (bytes: Bytes) => Promise<void>,
): Promise<void> {
  const reader = request.source.body?.getReader();
  if (reader === undefined) return;
  try {
    while (true) {
      let result: ReadableStreamReadResult<Bytes>;
      try {
        result = await reader.read();
      } catch (cause) {
        throw incompleteBody(cause);
      }
      if (result.done) return;
      await take(result.value);
    }
  } finally {
    reader.releaseLock();
  }
}

function incompleteBody(cause?: unknown): S3Error {
  return new S3Error("IncompleteBody", cause === undefined ? {} : { cause });
}

function verify(
  plan: BodyPlan,
  digests: ContentDigests,
  also: ObjectChecksumAlgorithm | undefined,
): ObjectChecksum | undefined {
  if (plan.sha256 !== undefined) {
    const computed = toHex(digests.checksums.SHA256 ?? EMPTY_BYTES);
    if (computed !== plan.sha256) throw hashMismatch(plan.sha256, computed);
  }
  if (plan.md5 !== undefined && !equalBytes(plan.md5, digests.md5)) throw badMd5();
  const { checksum, decoder } = plan;
  const algorithm = checksum?.algorithm ?? also;
  if (algorithm === undefined) return undefined;
  const value = digests.checksums[algorithm];
  if (value === undefined) throw new S3Error("InternalError");
  const expected = checksum?.inTrailer === true
    ? trailerValue(algorithm, decoder?.trailers)
    : checksum?.value;
  if (expected !== undefined && !equalBytes(expected, value)) throw badChecksum(algorithm);
  return { algorithm, value: value.slice(), type: "FULL_OBJECT" };
}

function trailerValue(
  algorithm: ObjectChecksumAlgorithm,
  trailers: ReadonlyMap<string, string> | undefined,
): Bytes {
  const text = trailers?.get(CHECKSUMS[algorithm].header);
  if (text === undefined) {
    throw new S3Error("InvalidRequest", {
      message: `The trailing header ${CHECKSUMS[algorithm].header} that was announced is missing.`,
    });
  }
  return parseChecksumValue(algorithm, text);
}

function hashMismatch(client: string, computed: string): S3Error {
  return new S3Error("XAmzContentSHA256Mismatch", {
    extra: { ClientComputedContentSHA256: client, S3ComputedContentSHA256: computed },
  });
}

function badMd5(): S3Error {
  return new S3Error("BadDigest", {
    message: "The Content-MD5 you specified did not match what we received.",
  });
}

function badChecksum(algorithm: ObjectChecksumAlgorithm): S3Error {
  return new S3Error("BadDigest", {
    message: `The ${algorithm} you specified did not match the calculated checksum.`,
  });
}

/** How a small document's integrity must be assured. */
export interface DocumentRule {
  /** Refuse a body without Content-MD5 or checksum (DeleteObjects). */
  readonly digestRequired?: boolean;
  /** Checksum headers speak of an object, not of this document (CompleteMultipartUpload). */
  readonly objectChecksum?: boolean;
}

/**
 * A whole small body (XML), checked like content.
 *
 * @throws S3Error MaxMessageLengthExceeded beyond `limits.xmlBytes`, and all digest errors.
 */
export async function receiveDocument(
  context: S3Context,
  rule: DocumentRule = {},
): Promise<Bytes> {
  const { limits, crypto } = context;
  const plan = planBody(context, 0, rule.objectChecksum !== true);
  if (plan.decodedBytes > limits.xmlBytes) throw new S3Error("MaxMessageLengthExceeded");
  if (rule.digestRequired === true && plan.md5 === undefined && plan.checksum === undefined) {
    throw new S3Error("InvalidRequest", {
      message: "Missing required header for this request: Content-MD5 OR x-amz-checksum-*",
    });
  }
  const pieces: Bytes[] = [];
  let size = 0;
  try {
    await pump(context, plan, (bytes) => {
      size += bytes.length;
      if (size > limits.xmlBytes) throw new S3Error("MaxMessageLengthExceeded");
      pieces.push(bytes.slice());
      return Promise.resolve();
    });
  } finally {
    plan.decoder?.release();
  }
  const body = pieces.length === 1 ? pieces[0] as Bytes : concatBytes(...pieces);
  const algorithm = plan.checksum?.algorithm;
  verify(plan, {
    sizeBytes: body.length,
    md5: plan.md5 === undefined ? EMPTY_BYTES : crypto.digest("md5", body),
    checksums: {
      ...(algorithm === undefined ? {} : { [algorithm]: computeChecksum(crypto, algorithm, body) }),
      ...(plan.sha256 === undefined ? {} : { SHA256: crypto.digest("sha256", body) }),
    },
  }, undefined);
  return body;
}
