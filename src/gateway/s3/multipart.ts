/** Multipart uploads: create, parts, list, complete, abort. */
import { equalBytes } from "../../common/bytes.ts";
import {
  type CompletedPart,
  MAX_PART_BYTES,
  MAX_PARTS,
  type ObjectChecksum,
  type UploadInfo,
  type UploadPartInfo,
} from "../../namespace/api.ts";
import { receiveContent, receiveDocument } from "./body.ts";
import { ownerXml } from "./buckets.ts";
import {
  CHECKSUM_ALGORITHMS,
  checksumOfParts,
  CHECKSUMS,
  checksumText,
  fromBase64,
  multipartChecksumType,
  parseAlgorithm,
} from "./checksums.ts";
import { writeCondition } from "./conditions.ts";
import type { S3Context } from "./context.ts";
import { uploadPartCopy } from "./copy.ts";
import { invalidArgument, S3Error } from "./errors.ts";
import { listLimit, nameEncoder, prefixXml } from "./list.ts";
import { attributesOf, type HeaderPair, refuseUnsupportedHeaders } from "./object_headers.ts";
import { publish, storedChecksumHeaders } from "./put.ts";
import type { S3Request } from "./request.ts";
import { emptyResponse, isoDate, versionIdHeader, xmlResponse } from "./respond.ts";
import { childrenOf, childText, leaf, node, parseXml, type XmlElement } from "./xml.ts";

const PARTS_PAGE = 1000;

/** POST /bucket/key?uploads */
export async function createMultipartUpload(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  refuseUnsupportedHeaders(request);
  const attributes = attributesOf(request);
  await receiveDocument(context);
  const algorithmText = request.header("x-amz-checksum-algorithm");
  const typeText = request.header("x-amz-checksum-type");
  if (algorithmText === undefined && typeText !== undefined) {
    throw new S3Error("InvalidRequest", {
      message:
        "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
    });
  }
  const checksum = algorithmText === undefined ? undefined : algorithmAndType(
    algorithmText,
    typeText,
  );
  const upload = await namespaces.createUpload(identity, request.bucket, request.key, {
    ...attributes,
    ...(checksum ?? {}),
  });
  const headers: HeaderPair[] = [["x-amz-server-side-encryption", "AES256"]];
  if (checksum !== undefined) {
    headers.push(
      ["x-amz-checksum-algorithm", checksum.checksumAlgorithm],
      ["x-amz-checksum-type", checksum.checksumType],
    );
  }
  return xmlResponse("InitiateMultipartUploadResult", [
    leaf("Bucket", request.bucket),
    leaf("Key", request.key),
    leaf("UploadId", upload.uploadId),
  ], headers);
}

function algorithmAndType(algorithmText: string, typeText: string | undefined): {
  checksumAlgorithm: ObjectChecksum["algorithm"];
  checksumType: ObjectChecksum["type"];
} {
  const checksumAlgorithm = parseAlgorithm(algorithmText);
  return {
    checksumAlgorithm,
    checksumType: multipartChecksumType(checksumAlgorithm, typeText?.toUpperCase()),
  };
}

/** The upload that a request names. An id that could not be one is an upload that is not there. */
function uploadIdOf(request: S3Request): string {
  const uploadId = request.parameter("uploadId") ?? "";
  if (!/^[0-9a-f]{32}$/.test(uploadId)) {
    throw new S3Error("NoSuchUpload", { extra: { UploadId: uploadId.slice(0, 128) } });
  }
  return uploadId;
}

function partNumberOf(request: S3Request): number {
  const text = request.parameter("partNumber") ?? "";
  const number = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (number < 1 || number > MAX_PARTS) {
    throw invalidArgument(
      "partNumber",
      text,
      "Part number must be an integer between 1 and 10000, inclusive",
    );
  }
  return number;
}

/** PUT /bucket/key?partNumber&uploadId, with or without x-amz-copy-source */
export async function uploadPart(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  refuseUnsupportedHeaders(request);
  const uploadId = uploadIdOf(request);
  const partNumber = partNumberOf(request);
  if (request.header("x-amz-copy-source") !== undefined) {
    return await uploadPartCopy(context, { uploadId, partNumber });
  }
  const upload = await namespaces.getUpload(identity, request.bucket, request.key, uploadId);
  const content = await receiveContent(context, MAX_PART_BYTES, upload.checksumAlgorithm);
  const { checksum } = content;
  if (
    checksum !== undefined && upload.checksumAlgorithm !== undefined &&
    checksum.algorithm !== upload.checksumAlgorithm
  ) {
    await content.writer.abort();
    throw new S3Error("InvalidRequest", {
      message:
        `Checksum Type mismatch occurred, expected checksum Type: ${upload.checksumAlgorithm.toLowerCase()}, actual checksum Type: ${checksum.algorithm.toLowerCase()}`,
    });
  }
  const part = await publish(content, () =>
    namespaces.putPart(
      identity,
      request.bucket,
      request.key,
      uploadId,
      partNumber,
      content.writer,
      checksum,
    ));
  return emptyResponse(200, [
    ["etag", `"${part.etag}"`],
    ["x-amz-server-side-encryption", "AES256"],
    ...storedChecksumHeaders(checksum, false),
  ]);
}

function partChecksumXml(part: UploadPartInfo): string {
  return part.checksum === undefined
    ? ""
    : leaf(CHECKSUMS[part.checksum.algorithm].element, checksumText(part.checksum));
}

/** GET /bucket/key?uploadId */
export async function listParts(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const uploadId = uploadIdOf(request);
  const encode = nameEncoder(request);
  const limit = listLimit(request, "max-parts");
  const markerText = request.parameter("part-number-marker") ?? "0";
  if (!/^\d{1,9}$/.test(markerText)) throw invalidArgument("part-number-marker", markerText);
  const marker = Number(markerText);
  const upload = await namespaces.getUpload(identity, request.bucket, request.key, uploadId);
  const page = await namespaces.listParts(
    identity,
    request.bucket,
    request.key,
    uploadId,
    marker,
    limit,
  );
  const last = page.parts.at(-1)?.partNumber ?? 0;
  return xmlResponse("ListPartsResult", [
    leaf("Bucket", request.bucket),
    leaf("Key", encode(request.key)),
    leaf("UploadId", uploadId),
    ownerXml(context, "Initiator"),
    ownerXml(context),
    leaf("StorageClass", "STANDARD"),
    checksumOfUploadXml(upload),
    leaf("PartNumberMarker", marker),
    leaf("NextPartNumberMarker", last),
    leaf("MaxParts", limit),
    leaf("IsTruncated", limit > 0 && page.truncated),
    ...page.parts.map((part) =>
      node(
        "Part",
        leaf("PartNumber", part.partNumber),
        leaf("LastModified", isoDate(part.lastModifiedMs)),
        leaf("ETag", `"${part.etag}"`),
        leaf("Size", part.sizeBytes),
        partChecksumXml(part),
      )
    ),
  ]);
}

function checksumOfUploadXml(upload: UploadInfo): string {
  return upload.checksumAlgorithm === undefined
    ? ""
    : leaf("ChecksumAlgorithm", upload.checksumAlgorithm) +
      leaf("ChecksumType", upload.checksumType ?? "FULL_OBJECT");
}

/** GET /bucket?uploads */
export async function listMultipartUploads(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const encode = nameEncoder(request);
  const prefix = request.parameter("prefix") ?? "";
  const delimiter = request.parameter("delimiter") ?? "";
  const keyMarker = request.parameter("key-marker") ?? "";
  // Without a key marker the upload marker says nothing (API Reference, ListMultipartUploads).
  const uploadIdMarker = keyMarker === "" ? "" : request.parameter("upload-id-marker") ?? "";
  const limit = listLimit(request, "max-uploads");
  const page = await namespaces.listUploads(identity, request.bucket, {
    prefix,
    delimiter,
    after: keyMarker,
    uploadIdMarker,
    limit,
  });
  const next = limit > 0 ? page.next : undefined;
  let uploads = "";
  let prefixes = "";
  for (const item of page.items) {
    if (item.type === "upload") uploads += uploadXml(context, item.upload, encode);
    else prefixes += prefixXml(item.prefix, encode);
  }
  return xmlResponse("ListMultipartUploadsResult", [
    leaf("Bucket", request.bucket),
    leaf("KeyMarker", encode(keyMarker)),
    leaf("UploadIdMarker", uploadIdMarker),
    next === undefined ? "" : leaf("NextKeyMarker", encode(next.keyMarker)) +
      leaf("NextUploadIdMarker", next.uploadIdMarker),
    leaf("Prefix", encode(prefix)),
    delimiter === "" ? "" : leaf("Delimiter", encode(delimiter)),
    request.parameter("encoding-type") === "url" ? leaf("EncodingType", "url") : "",
    leaf("MaxUploads", limit),
    leaf("IsTruncated", next !== undefined),
    uploads,
    prefixes,
  ]);
}

function uploadXml(
  context: S3Context,
  upload: UploadInfo,
  encode: (name: string) => string,
): string {
  return node(
    "Upload",
    leaf("Key", encode(upload.key)),
    leaf("UploadId", upload.uploadId),
    ownerXml(context, "Initiator"),
    ownerXml(context),
    leaf("StorageClass", "STANDARD"),
    leaf("Initiated", isoDate(upload.initiatedMs)),
    checksumOfUploadXml(upload),
  );
}

/** DELETE /bucket/key?uploadId */
export async function abortMultipartUpload(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const uploadId = uploadIdOf(request);
  await namespaces.abortUpload(identity, request.bucket, request.key, uploadId);
  return emptyResponse(204);
}

/** POST /bucket/key?uploadId */
export async function completeMultipartUpload(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const uploadId = uploadIdOf(request);
  const condition = writeCondition(request);
  // Checksum headers of this request speak of the object, not of the document.
  const body = await receiveDocument(context, { objectChecksum: true });
  if (body.length === 0) throw new S3Error("MalformedXML");
  const parts = parseComplete(parseXml(body));
  const checksum = await checksumOfUpload(context, uploadId, parts);
  const { version } = await namespaces.completeUpload(
    identity,
    request.bucket,
    request.key,
    uploadId,
    parts,
    checksum,
    condition,
  );
  return xmlResponse("CompleteMultipartUploadResult", [
    leaf("Location", locationOf(request)),
    leaf("Bucket", request.bucket),
    leaf("Key", request.key),
    leaf("ETag", `"${version.etag}"`),
    version.checksum === undefined ? "" : leaf(
      CHECKSUMS[version.checksum.algorithm].element,
      checksumText(version.checksum, version.partCount ?? parts.length),
    ) + leaf("ChecksumType", version.checksum.type),
  ], [["x-amz-server-side-encryption", "AES256"], ...versionIdHeader(version)]);
}

function locationOf(request: S3Request): string {
  return `http://${request.host}${request.rawPath}`;
}

function parseComplete(root: XmlElement): readonly CompletedPart[] {
  const elements = childrenOf(root, "Part");
  if (root.name !== "CompleteMultipartUpload" || elements.length === 0) {
    throw new S3Error("MalformedXML");
  }
  if (elements.length > MAX_PARTS) throw new S3Error("MalformedXML");
  let previous = 0;
  return elements.map((element): CompletedPart => {
    const number = childText(element, "PartNumber")?.trim() ?? "";
    const etag = childText(element, "ETag")?.trim();
    if (!/^\d{1,6}$/.test(number) || etag === undefined) throw new S3Error("MalformedXML");
    const partNumber = Number(number);
    if (partNumber < 1 || partNumber > MAX_PARTS) {
      throw invalidArgument(
        "partNumber",
        number,
        "Part number must be an integer between 1 and 10000, inclusive",
      );
    }
    if (partNumber <= previous) throw new S3Error("InvalidPartOrder");
    previous = partNumber;
    const checksum = partChecksum(element);
    return {
      partNumber,
      etag: etag.replace(/^"(.*)"$/, "$1"),
      ...(checksum === undefined ? {} : { checksum }),
    };
  });
}

function partChecksum(element: XmlElement): ObjectChecksum | undefined {
  for (const algorithm of CHECKSUM_ALGORITHMS) {
    const text = childText(element, CHECKSUMS[algorithm].element);
    if (text === undefined) continue;
    const value = fromBase64(text.trim(), CHECKSUMS[algorithm].bytes);
    if (value === undefined) throw new S3Error("InvalidPart");
    return { algorithm, value, type: "FULL_OBJECT" };
  }
  return undefined;
}

/**
 * The checksum of the object to be: made from the parts' stored checksums, compared with what the
 * client claims of parts and of the whole. undefined for an upload without checksums.
 */
async function checksumOfUpload(
  context: S3Context,
  uploadId: string,
  parts: readonly CompletedPart[],
): Promise<ObjectChecksum | undefined> {
  const { request, namespaces, identity, crypto } = context;
  const upload = await namespaces.getUpload(identity, request.bucket, request.key, uploadId);
  const algorithm = upload.checksumAlgorithm;
  if (algorithm === undefined) return undefined;
  const type = upload.checksumType ?? multipartChecksumType(algorithm, undefined);
  const stored = await storedParts(context, uploadId, parts.at(-1)?.partNumber ?? 0);
  const values = parts.map((part) => {
    const info = stored.get(part.partNumber);
    const value = info?.checksum?.algorithm === algorithm ? info.checksum.value : undefined;
    if (info === undefined || value === undefined || info.etag !== part.etag) {
      throw invalidPart(part);
    }
    if (
      part.checksum !== undefined &&
      (part.checksum.algorithm !== algorithm || !equalBytes(part.checksum.value, value))
    ) throw invalidPart(part);
    return { value, sizeBytes: info.sizeBytes };
  });
  const checksum = checksumOfParts(crypto, algorithm, type, values);
  const claimedType = request.header("x-amz-checksum-type");
  if (claimedType !== undefined && claimedType.toUpperCase() !== type) {
    throw new S3Error("InvalidRequest", {
      message: "The x-amz-checksum-type does not match the one of the upload.",
    });
  }
  const claimed = request.header(CHECKSUMS[algorithm].header);
  if (claimed !== undefined && !claimHolds(claimed, checksum, parts.length)) {
    throw new S3Error("BadDigest", {
      message: `The ${algorithm} you specified did not match the calculated checksum.`,
    });
  }
  const size = request.header("x-amz-mp-object-size");
  if (size !== undefined && Number(size) !== values.reduce((sum, one) => sum + one.sizeBytes, 0)) {
    throw new S3Error("InvalidRequest", {
      message: "The provided 'x-amz-mp-object-size' header does not match what was computed.",
    });
  }
  return checksum;
}

function claimHolds(claimed: string, checksum: ObjectChecksum, parts: number): boolean {
  return claimed === checksumText(checksum, parts) || claimed === checksumText(checksum);
}

function invalidPart(part: CompletedPart): S3Error {
  return new S3Error("InvalidPart", {
    extra: { PartNumber: String(part.partNumber), ETag: part.etag.slice(0, 128) },
  });
}

async function storedParts(
  context: S3Context,
  uploadId: string,
  last: number,
): Promise<ReadonlyMap<number, UploadPartInfo>> {
  const { request, namespaces, identity } = context;
  const found = new Map<number, UploadPartInfo>();
  let after = 0;
  while (after < last) {
    const page = await namespaces.listParts(
      identity,
      request.bucket,
      request.key,
      uploadId,
      after,
      PARTS_PAGE,
    );
    for (const part of page.parts) found.set(part.partNumber, part);
    const next = page.parts.at(-1)?.partNumber;
    if (!page.truncated || next === undefined) break;
    after = next;
  }
  return found;
}
