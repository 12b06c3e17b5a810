/** GetObjectAttributes. */
import {
  MAX_PARTS,
  type ObjectChecksum,
  type ObjectPart,
  type ObjectVersion,
} from "../../namespace/api.ts";
import { CHECKSUMS, checksumText } from "./checksums.ts";
import type { S3Context } from "./context.ts";
import { invalidArgument, S3Error } from "./errors.ts";
import { versionIdOf } from "./get.ts";
import { type HeaderPair, refuseCustomerKeys } from "./object_headers.ts";
import type { S3Request } from "./request.ts";
import { versionIdHeader, xmlResponse } from "./respond.ts";
import { leaf, node } from "./xml.ts";

const KNOWN = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];
const MAX_PARTS_ANSWERED = 1000;

/** GET /bucket/key?attributes */
export async function getObjectAttributes(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  refuseCustomerKeys(request);
  const wanted = wantedAttributes(request);
  const handle = await namespaces.openObject(
    identity,
    request.bucket,
    request.key,
    versionIdOf(request),
  );
  const { version } = handle;
  const content: string[] = [];
  if (wanted.has("ETag")) content.push(leaf("ETag", version.etag));
  if (wanted.has("Checksum") && version.checksum !== undefined) {
    content.push(node(
      "Checksum",
      checksumXml(version.checksum, version.partCount),
      leaf("ChecksumType", version.checksum.type),
    ));
  }
  if (wanted.has("ObjectParts") && version.partCount !== undefined) {
    content.push(partsXml(request, version, await handle.parts()));
  }
  if (wanted.has("StorageClass")) content.push(leaf("StorageClass", "STANDARD"));
  if (wanted.has("ObjectSize")) content.push(leaf("ObjectSize", version.sizeBytes));
  const headers: HeaderPair[] = [
    ["last-modified", new Date(version.lastModifiedMs).toUTCString()],
    ...versionIdHeader(version),
  ];
  return xmlResponse("GetObjectAttributesResponse", content, headers);
}

function wantedAttributes(request: S3Request): ReadonlySet<string> {
  const text = request.header("x-amz-object-attributes");
  if (text === undefined) {
    throw new S3Error("InvalidRequest", {
      message: "Missing required header for this request: x-amz-object-attributes",
    });
  }
  const names = text.split(",").map((one) => one.trim()).filter((one) => one !== "");
  if (names.length === 0 || names.some((name) => !KNOWN.includes(name))) {
    throw invalidArgument(
      "x-amz-object-attributes",
      text,
      "Invalid attribute name specified.",
    );
  }
  return new Set(names);
}

function checksumXml(checksum: ObjectChecksum, partCount?: number): string {
  return leaf(CHECKSUMS[checksum.algorithm].element, checksumText(checksum, partCount));
}

function numberHeader(request: S3Request, name: string, fallback: number): number {
  const text = request.header(name);
  if (text === undefined) return fallback;
  if (!/^\d{1,6}$/.test(text)) throw invalidArgument(name, text);
  return Number(text);
}

/** Parts are told one by one only where they carry checksums, as S3 does. */
function partsXml(
  request: S3Request,
  version: ObjectVersion,
  parts: readonly ObjectPart[],
): string {
  const marker = Math.min(MAX_PARTS, numberHeader(request, "x-amz-part-number-marker", 0));
  const max = Math.min(
    MAX_PARTS_ANSWERED,
    numberHeader(request, "x-amz-max-parts", MAX_PARTS_ANSWERED),
  );
  const total = leaf("PartsCount", version.partCount ?? parts.length);
  if (!parts.some((part) => part.checksum !== undefined)) return node("ObjectParts", total);
  const page = parts.map((part, index) => ({ ...part, partNumber: index + 1 }))
    .filter((part) => part.partNumber > marker).slice(0, max);
  const last = page.at(-1)?.partNumber ?? marker;
  return node(
    "ObjectParts",
    total,
    leaf("PartNumberMarker", marker),
    leaf("NextPartNumberMarker", last),
    leaf("MaxParts", max),
    leaf("IsTruncated", last < parts.length),
    ...page.map((part) =>
      node(
        "Part",
        leaf("PartNumber", part.partNumber),
        leaf("Size", part.sizeBytes),
        part.checksum === undefined ? "" : checksumXml(part.checksum),
      )
    ),
  );
}
