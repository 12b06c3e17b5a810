/** CopyObject and UploadPartCopy. */
import {
  MAX_PART_BYTES,
  type ObjectAttributes,
  type ObjectVersion,
  type PutResult,
} from "../../namespace/api.ts";
import { isKisekiError } from "../../common/errors.ts";
import { receiveDocument } from "./body.ts";
import { requireBucketName, requireKey } from "./bucket_name.ts";
import { CHECKSUMS, checksumText, parseAlgorithm } from "./checksums.ts";
import { checkCopySource, writeCondition } from "./conditions.ts";
import type { S3Context } from "./context.ts";
import { invalidArgument, notImplemented, S3Error } from "./errors.ts";
import {
  type HeaderPair,
  refuseUnsupportedHeaders,
  systemHeaders,
  tagsOfHeader,
  userMetadata,
} from "./object_headers.ts";
import { parseCopyRange } from "./range.ts";
import type { S3Request } from "./request.ts";
import { isoDate, versionIdHeader, xmlResponse } from "./respond.ts";
import { leaf } from "./xml.ts";

interface CopySource {
  readonly namespace: string;
  readonly key: string;
  readonly versionId?: string;
}

/** `x-amz-copy-source`: [/]bucket/key[?versionId=id], percent-encoded. */
export function parseCopySource(request: S3Request): CopySource {
  const header = request.header("x-amz-copy-source") ?? "";
  const wrong = (message: string): S3Error => invalidArgument("x-amz-copy-source", header, message);
  if (header.startsWith("arn:")) throw notImplemented("x-amz-copy-source with an ARN");
  const mark = header.indexOf("?versionId=");
  const path = mark < 0 ? header : header.slice(0, mark);
  const versionId = mark < 0 ? undefined : header.slice(mark + "?versionId=".length);
  let decoded: string;
  try {
    decoded = decodeURIComponent(
      path.includes("%") ? path : request.text("x-amz-copy-source")
        ?.slice(0, mark < 0 ? undefined : -(header.length - mark)) ?? path,
    );
  } catch (error) {
    if (!(error instanceof URIError)) throw error;
    throw wrong("Invalid copy source encoding.");
  }
  const relative = decoded.startsWith("/") ? decoded.slice(1) : decoded;
  const slash = relative.indexOf("/");
  if (slash <= 0 || slash === relative.length - 1) {
    throw wrong("Invalid copy source object key");
  }
  const namespace = relative.slice(0, slash);
  const key = relative.slice(slash + 1);
  requireBucketName(namespace);
  requireKey(key);
  if (versionId === undefined) return { namespace, key };
  if (versionId !== "null" && !/^[0-9a-f]{32}$/.test(versionId)) {
    throw wrong("Invalid version id specified");
  }
  return { namespace, key, versionId };
}

/** The source version, checked against x-amz-copy-source-if-*. */
async function judgeSource(context: S3Context, source: CopySource): Promise<ObjectVersion> {
  const { request, namespaces, identity } = context;
  let version: ObjectVersion;
  try {
    version = await namespaces.headObject(
      identity,
      source.namespace,
      source.key,
      source.versionId,
    );
  } catch (error) {
    if (isKisekiError(error, "namespace.method_not_allowed")) {
      throw new S3Error("InvalidRequest", {
        message:
          "The source of a copy request may not specifically refer to a delete marker by version id.",
        cause: error,
      });
    }
    if (isKisekiError(error, "namespace.no_such_entry")) {
      throw new S3Error("NoSuchKey", { extra: { Key: source.key }, cause: error });
    }
    throw error;
  }
  checkCopySource(request, version);
  return version;
}

function directive(request: S3Request, name: string): "COPY" | "REPLACE" {
  const text = request.header(name) ?? "COPY";
  if (text === "COPY" || text === "REPLACE") return text;
  throw invalidArgument(name, text, `Unknown ${name.slice("x-amz-".length)}.`);
}

/** PUT /bucket/key with x-amz-copy-source */
export async function copyObject(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  refuseUnsupportedHeaders(request);
  const source = parseCopySource(request);
  const metadata = directive(request, "x-amz-metadata-directive");
  const tagging = directive(request, "x-amz-tagging-directive");
  const condition = writeCondition(request);
  await receiveDocument(context);
  const changed: Partial<ObjectAttributes> = {
    ...(metadata === "REPLACE"
      ? { headers: systemHeaders(request), userMetadata: userMetadata(request) }
      : {}),
    ...(tagging === "REPLACE" ? { tags: tagsOfHeader(request.text("x-amz-tagging")) } : {}),
  };
  const version = await judgeSource(context, source);
  if (version.sizeBytes > MAX_PART_BYTES) {
    throw new S3Error("InvalidRequest", {
      message:
        `The specified copy source is larger than the maximum allowable size for a copy source: ${MAX_PART_BYTES}`,
    });
  }
  if (
    source.namespace === request.bucket && source.key === request.key &&
    source.versionId === undefined && Object.keys(changed).length === 0 &&
    request.header("x-amz-checksum-algorithm") === undefined
  ) {
    throw new S3Error("InvalidRequest", {
      message:
        "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.",
    });
  }
  const wanted = request.header("x-amz-checksum-algorithm");
  const algorithm = wanted === undefined ? undefined : parseAlgorithm(wanted);
  const target = { namespace: request.bucket, key: request.key };
  const attributes = Object.keys(changed).length === 0 ? undefined : changed;
  const rewrite = algorithm !== undefined &&
    (version.checksum?.algorithm !== algorithm || version.checksum.type !== "FULL_OBJECT");
  const result: PutResult = rewrite
    ? await copyByRewriting(context, source, version, { ...version, ...changed }, algorithm)
    : await namespaces.copyObject(identity, source, target, version, attributes, condition);
  return copyResult("CopyObjectResult", result.version, [
    ...(version.versionId === "null"
      ? []
      : [["x-amz-copy-source-version-id", version.versionId] as HeaderPair]),
    ...versionIdHeader(result.version),
  ]);
}

/** A copy that must carry another checksum than its source reads and writes the content. */
async function copyByRewriting(
  context: S3Context,
  source: CopySource,
  judged: ObjectVersion,
  attributes: ObjectAttributes,
  algorithm: keyof typeof CHECKSUMS,
): Promise<PutResult> {
  const { request, namespaces, identity } = context;
  const handle = await namespaces.openObject(
    identity,
    source.namespace,
    source.key,
    source.versionId,
  );
  if (handle.version.fileId !== judged.fileId || handle.version.etag !== judged.etag) {
    throw new S3Error("PreconditionFailed", { extra: { Condition: "the source changed" } });
  }
  const writer = await namespaces.beginContent(identity, request.bucket, {
    checksums: [algorithm],
    expectedBytes: judged.sizeBytes,
  });
  try {
    if (judged.sizeBytes > 0) {
      for await (const piece of handle.read(0, judged.sizeBytes)) await writer.write(piece);
    }
    const { checksums } = await writer.finish();
    const value = checksums[algorithm];
    if (value === undefined) throw new S3Error("InternalError");
    return await namespaces.putObject(identity, request.bucket, request.key, writer, {
      headers: attributes.headers,
      userMetadata: attributes.userMetadata,
      tags: attributes.tags,
      checksum: { algorithm, type: "FULL_OBJECT", value: value.slice() },
    }, writeCondition(request));
  } catch (error) {
    await writer.abort();
    throw error;
  }
}

function copyResult(
  root: string,
  version: Pick<ObjectVersion, "etag" | "lastModifiedMs" | "checksum" | "partCount">,
  headers: readonly HeaderPair[],
): Response {
  const { checksum } = version;
  return xmlResponse(root, [
    leaf("LastModified", isoDate(version.lastModifiedMs)),
    leaf("ETag", `"${version.etag}"`),
    checksum === undefined
      ? ""
      : leaf(CHECKSUMS[checksum.algorithm].element, checksumText(checksum, version.partCount)) +
        leaf("ChecksumType", checksum.type),
  ], [["x-amz-server-side-encryption", "AES256"], ...headers]);
}

/** PUT /bucket/key?partNumber&uploadId with x-amz-copy-source */
export async function uploadPartCopy(
  context: S3Context,
  part: { readonly uploadId: string; readonly partNumber: number },
): Promise<Response> {
  const { request, namespaces, identity } = context;
  const source = parseCopySource(request);
  await receiveDocument(context);
  const version = await judgeSource(context, source);
  const range = parseCopyRange(request.header("x-amz-copy-source-range"), version.sizeBytes);
  if (range.length > MAX_PART_BYTES) {
    throw new S3Error("InvalidRequest", {
      message:
        `The specified copy source is larger than the maximum allowable size for a copy source: ${MAX_PART_BYTES}`,
    });
  }
  const result = await namespaces.copyPart(identity, source, version, range, {
    namespace: request.bucket,
    key: request.key,
    uploadId: part.uploadId,
    partNumber: part.partNumber,
  });
  const headers: HeaderPair[] = version.versionId === "null"
    ? []
    : [["x-amz-copy-source-version-id", version.versionId]];
  const { checksum } = result;
  return xmlResponse("CopyPartResult", [
    leaf("LastModified", isoDate(result.lastModifiedMs)),
    leaf("ETag", `"${result.etag}"`),
    checksum === undefined
      ? ""
      : leaf(CHECKSUMS[checksum.algorithm].element, checksumText(checksum)),
  ], [["x-amz-server-side-encryption", "AES256"], ...headers]);
}
