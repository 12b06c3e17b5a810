/**
 * Between the types of the API and the records in rows.
 */
import { type Bytes, toHex, utf8ToString } from "../common/bytes.ts";
import type { FileId } from "../common/ids.ts";
import type {
  ObjectAttributes,
  ObjectChecksum,
  ObjectChecksumAlgorithm,
  ObjectHeaders,
  ObjectVersion,
  Tags,
} from "./api.ts";
import {
  type AttributesRecord,
  ChecksumRecord,
  ContentKind,
  HeadersRecord,
  Pair,
  type VersionRecord,
} from "./records.ts";
import { etagText, versionText } from "./version_line.ts";
import * as w from "./wire.ts";

/** A VersionRecord as a listing needs it: where the content lies is skipped. */
const VersionSummary = w.message("VersionRecord", {
  versionId: w.bytes(1),
  isNull: w.bool(2),
  deleteMarker: w.bool(3),
  sizeBytes: w.uint(4),
  modifiedMs: w.uint(5),
  etag: w.bytes(6),
  etagParts: w.uint(7),
  checksum: w.nested(8, ChecksumRecord),
  headers: w.nested(9, HeadersRecord),
  userMetadata: w.repeated(10, Pair),
  tags: w.repeated(11, Pair),
});

const ALGORITHMS: readonly ObjectChecksumAlgorithm[] = [
  "CRC32",
  "CRC32C",
  "CRC64NVME",
  "SHA1",
  "SHA256",
];
const NO_PAIRS: readonly { readonly key: string; readonly value: string }[] = [];

export function algorithmCode(algorithm: ObjectChecksumAlgorithm | undefined): number {
  return algorithm === undefined ? 0 : ALGORITHMS.indexOf(algorithm) + 1;
}

export function algorithmOf(code: number): ObjectChecksumAlgorithm | undefined {
  return ALGORITHMS[code - 1];
}

export function checksumTypeCode(type: ObjectChecksum["type"] | undefined): number {
  return type === undefined ? 0 : type === "FULL_OBJECT" ? 1 : 2;
}

export function checksumTypeOf(code: number): ObjectChecksum["type"] | undefined {
  return code === 1 ? "FULL_OBJECT" : code === 2 ? "COMPOSITE" : undefined;
}

export function checksumToRecord(checksum: ObjectChecksum): ChecksumRecord {
  return {
    algorithm: algorithmCode(checksum.algorithm),
    type: checksumTypeCode(checksum.type),
    value: checksum.value,
  };
}

export function checksumFromRecord(record: ChecksumRecord): ObjectChecksum | undefined {
  const algorithm = algorithmOf(record.algorithm);
  if (algorithm === undefined) return undefined;
  return {
    algorithm,
    type: checksumTypeOf(record.type) ?? "FULL_OBJECT",
    value: record.value.slice(),
  };
}

export function attributesToRecord(attributes: ObjectAttributes): AttributesRecord {
  return {
    headers: headersToRecord(attributes.headers),
    userMetadata: Object.entries(attributes.userMetadata).map(([key, value]) => ({ key, value })),
    tags: tagsToPairs(attributes.tags),
  };
}

export function tagsToPairs(
  tags: Tags,
): readonly { readonly key: string; readonly value: string }[] {
  return tags.map(([key, value]) => ({ key, value }));
}

export function tagsFromPairs(
  pairs: readonly { readonly key: string; readonly value: string }[],
): Tags {
  return pairs.map(({ key, value }) => [key, value] as const);
}

function headersToRecord(headers: ObjectHeaders): HeadersRecord {
  return {
    contentType: headers.contentType,
    contentEncoding: headers.contentEncoding,
    contentLanguage: headers.contentLanguage,
    contentDisposition: headers.contentDisposition,
    cacheControl: headers.cacheControl,
    expires: headers.expires,
  };
}

function headersFromRecord(record: HeadersRecord | undefined): ObjectHeaders {
  const out: { -readonly [K in keyof ObjectHeaders]: ObjectHeaders[K] } = {};
  if (record === undefined) return out;
  if (record.contentType !== undefined) out.contentType = record.contentType;
  if (record.contentEncoding !== undefined) out.contentEncoding = record.contentEncoding;
  if (record.contentLanguage !== undefined) out.contentLanguage = record.contentLanguage;
  if (record.contentDisposition !== undefined) out.contentDisposition = record.contentDisposition;
  if (record.cacheControl !== undefined) out.cacheControl = record.cacheControl;
  if (record.expires !== undefined) out.expires = record.expires;
  return out;
}

export function attributesFromRecord(record: AttributesRecord | undefined): ObjectAttributes {
  const userMetadata: Record<string, string> = Object.create(null);
  for (const { key, value } of record?.userMetadata ?? NO_PAIRS) userMetadata[key] = value;
  return {
    headers: headersFromRecord(record?.headers),
    userMetadata,
    tags: tagsFromPairs(record?.tags ?? NO_PAIRS),
  };
}

export function objectVersion(
  key: string,
  version: VersionRecord,
  fileId: Bytes,
  isLatest: boolean,
): ObjectVersion {
  const checksum = version.checksum === undefined
    ? undefined
    : checksumFromRecord(version.checksum);
  return {
    key,
    fileId: toHex(fileId) as FileId,
    versionId: versionText(version),
    isLatest,
    deleteMarker: version.deleteMarker,
    sizeBytes: version.sizeBytes,
    etag: etagText(version),
    lastModifiedMs: version.modifiedMs,
    ...attributesFromRecord(version),
    ...(checksum === undefined ? {} : { checksum }),
    ...(version.content?.kind === ContentKind.parts ? { partCount: version.content.count } : {}),
  };
}

/** An item of a listing; `partCount` is not told. */
export function listedVersion(
  key: string,
  version: Bytes,
  fileId: Bytes,
  isLatest: boolean,
): ObjectVersion {
  return objectVersion(
    key,
    { ...VersionSummary.decode(version), content: undefined },
    fileId,
    isLatest,
  );
}

export function keyText(key: Bytes): string {
  return utf8ToString(key);
}
