/**
 * The client's side of multipart uploads: checks, part lists in slices, ETags and checksums of the
 * whole.
 */
import {
  type Bytes,
  concatBytes,
  EMPTY_BYTES,
  equalBytes,
  fromHex,
  toHex,
} from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import { newId128, type UploadId } from "../common/ids.ts";
import type { CryptoProvider } from "../crypto/provider.ts";
import * as api from "./api.ts";
import type { StreamedContent } from "./content_writer.ts";
import { type CombinableCrc, CrcCombiner } from "./crc_combine.ts";
import * as m from "./messages.ts";
import type { OpenNamespace } from "./namespace_directory.ts";
import { keyBytes } from "./object_key.ts";
import {
  algorithmCode,
  algorithmOf,
  attributesFromRecord,
  attributesToRecord,
  checksumFromRecord,
  checksumToRecord,
  checksumTypeCode,
  checksumTypeOf,
} from "./object_records.ts";
import { MAX_PER_ROW, type UploadRecord } from "./records.ts";
import type { ShardLink } from "./shard_link.ts";
import { MAX_SLICE_PARTS } from "./uploads.ts";
import type { Of } from "./wire.ts";

type StagedPart = Of<typeof m.PartAnswer>;
const MAX_COMPLETE_ATTEMPTS = 3;

export class UploadService {
  readonly #link: ShardLink;
  readonly #crypto: CryptoProvider;

  constructor(link: ShardLink, crypto: CryptoProvider) {
    this.#link = link;
    this.#crypto = crypto;
  }

  async create(
    found: OpenNamespace,
    key: string,
    options: api.UploadOptions,
  ): Promise<api.UploadInfo> {
    const path = uploadPath(found, key);
    const uploadId = newId128<UploadId>();
    const type = options.checksumType ?? defaultType(options.checksumAlgorithm);
    checkType(options.checksumAlgorithm, type);
    const answer = await this.#link.command(
      found.organisation,
      path.placement,
      m.CommandNumber.createUpload,
      m.CreateUpload,
      {
        path,
        upload: fromHex(uploadId),
        attributes: attributesToRecord(options),
        checksumAlgorithm: algorithmCode(options.checksumAlgorithm),
        checksumType: checksumTypeCode(type),
      },
      m.UploadAnswer,
    );
    return uploadInfo(key, uploadId, m.need(answer.record, "upload"));
  }

  async get(found: OpenNamespace, key: string, uploadId: string): Promise<api.UploadInfo> {
    const path = uploadPath(found, key);
    const upload = parseUpload(uploadId);
    const answer = await this.#link.query(
      found.organisation,
      path.placement,
      m.QueryNumber.getUpload,
      m.UploadPath,
      { path, upload },
      m.UploadAnswer,
    );
    return uploadInfo(key, uploadId, m.need(answer.record, "upload"));
  }

  async putPart(
    found: OpenNamespace,
    key: string,
    uploadId: string,
    partNumber: number,
    content: StreamedContent,
    checksum: api.ObjectChecksum | undefined,
  ): Promise<api.UploadPartInfo> {
    checkPartNumber(partNumber);
    const path = uploadPath(found, key);
    const answer = await this.#link.command(
      found.organisation,
      path.placement,
      m.CommandNumber.putPart,
      m.PutPart,
      {
        path,
        upload: parseUpload(uploadId),
        partNumber,
        content: content.publishable(),
        checksum: checksum === undefined ? undefined : checksumToRecord(checksum),
      },
      m.PartAnswer,
    );
    content.published();
    return partInfo(answer);
  }

  async listParts(
    found: OpenNamespace,
    key: string,
    uploadId: string,
    afterPart: number,
    limit: number,
  ): Promise<{ readonly parts: readonly api.UploadPartInfo[]; readonly truncated: boolean }> {
    const path = uploadPath(found, key);
    const answer = await this.#link.query(
      found.organisation,
      path.placement,
      m.QueryNumber.listParts,
      m.ListParts,
      { path, upload: parseUpload(uploadId), after: afterPart, limit },
      m.ListPartsAnswer,
    );
    return { parts: answer.parts.map(partInfo), truncated: answer.truncated };
  }

  async abort(found: OpenNamespace, key: string, uploadId: string): Promise<void> {
    const path = uploadPath(found, key);
    await this.#link.command(
      found.organisation,
      path.placement,
      m.CommandNumber.abortUpload,
      m.UploadPath,
      { path, upload: parseUpload(uploadId) },
      m.EmptyAnswer,
    );
  }

  async complete(
    found: OpenNamespace,
    key: string,
    uploadId: string,
    parts: readonly api.CompletedPart[],
    checksum: api.ObjectChecksum | undefined,
    condition: m.Condition,
  ): Promise<Of<typeof m.VersionAnswer>> {
    checkOrder(parts);
    const path = uploadPath(found, key);
    const upload = parseUpload(uploadId);
    const named = parts.map(namedPart);
    const partListHash = this.#crypto.digest(
      "sha256",
      concatBytes(...named.map((part) => m.NamedPart.encode(part))),
    );
    for (let attempt = 1;; attempt++) {
      try {
        return await this.#completeOnce(
          found,
          path,
          upload,
          named,
          partListHash,
          checksum,
          condition,
        );
      } catch (error) {
        const again = error instanceof KisekiError && error.code === "namespace.conflict" &&
          error.retriable && attempt < MAX_COMPLETE_ATTEMPTS;
        if (!again) throw error;
      }
    }
  }

  async #completeOnce(
    found: OpenNamespace,
    path: m.Path,
    upload: Bytes,
    named: readonly m.NamedPart[],
    partListHash: Bytes,
    checksum: api.ObjectChecksum | undefined,
    condition: m.Condition,
  ): Promise<Of<typeof m.VersionAnswer>> {
    const staged: StagedPart[] = [];
    let changes = 0;
    let record: UploadRecord | undefined;
    for (let first = 0; first < named.length; first += MAX_SLICE_PARTS) {
      const answer = await this.#link.command(
        found.organisation,
        path.placement,
        m.CommandNumber.stageParts,
        m.StageParts,
        {
          path,
          upload,
          firstIndex: first,
          parts: named.slice(first, first + MAX_SLICE_PARTS),
          more: first + MAX_SLICE_PARTS < named.length,
          changes,
          partListHash,
        },
        m.StagePartsAnswer,
      );
      if (answer.published !== undefined) return answer.published;
      staged.push(...answer.parts);
      changes = answer.changes;
      record = answer.upload;
    }
    const whole = this.#whole(m.need(record, "upload"), staged, checksum);
    return await this.#link.walk(
      "execute",
      found.organisation,
      m.CommandNumber.complete,
      m.Complete,
      path,
      { upload, changes, partCount: staged.length, ...whole, condition, partListHash },
      m.VersionAnswer,
    );
  }

  /** ETag, checksum, size and offsets of the rows. */
  #whole(
    record: UploadRecord,
    parts: readonly StagedPart[],
    claimed: api.ObjectChecksum | undefined,
  ): Partial<Of<typeof m.Complete>> {
    const rowOffsets: number[] = [];
    const md5s: Bytes[] = [];
    let sizeBytes = 0;
    for (const [i, part] of parts.entries()) {
      const what = m.need(part.record, "part");
      if (i % MAX_PER_ROW === 0) rowOffsets.push(sizeBytes);
      md5s.push(what.md5);
      sizeBytes += what.sizeBytes;
    }
    if (sizeBytes > api.MAX_OBJECT_BYTES) {
      throw new KisekiError("common.limit_exceeded", "an object over 5 TiB");
    }
    const checksum = this.#checksum(record, parts);
    if (
      claimed !== undefined &&
      (checksum === undefined || checksum.algorithm !== claimed.algorithm ||
        checksum.type !== claimed.type || !equalBytes(checksum.value, claimed.value))
    ) {
      throw new KisekiError("namespace.bad_digest", "the object has another checksum");
    }
    return {
      sizeBytes,
      rowOffsets,
      etag: this.#crypto.digest("md5", concatBytes(...md5s)),
      checksum: checksum === undefined ? undefined : checksumToRecord(checksum),
    };
  }

  #checksum(
    record: UploadRecord,
    parts: readonly StagedPart[],
  ): api.ObjectChecksum | undefined {
    const algorithm = algorithmOf(record.checksumAlgorithm);
    if (algorithm === undefined) return undefined;
    const type = checksumTypeOf(record.checksumType) ?? defaultType(algorithm) ?? "COMPOSITE";
    const values = parts.map((part) => {
      const found = part.record?.checksum;
      if (found === undefined || algorithmOf(found.algorithm) !== algorithm) {
        throw new KisekiError(
          "namespace.invalid_part",
          `part ${part.partNumber} was uploaded without the ${algorithm} of its upload`,
          { details: { partNumber: part.partNumber } },
        );
      }
      return { value: found.value, sizeBytes: part.record?.sizeBytes ?? 0 };
    });
    if (type === "FULL_OBJECT") {
      const combiner = new CrcCombiner(algorithm as CombinableCrc);
      for (const { value, sizeBytes } of values) combiner.append(value, sizeBytes);
      return { algorithm, type, value: combiner.digest() };
    }
    const all = concatBytes(...values.map(({ value }) => value));
    return { algorithm, type, value: this.#digest(algorithm, all) };
  }

  #digest(algorithm: api.ObjectChecksumAlgorithm, bytes: Bytes): Bytes {
    switch (algorithm) {
      case "SHA1":
        return this.#crypto.digest("sha1", bytes);
      case "SHA256":
        return this.#crypto.digest("sha256", bytes);
      case "CRC32":
      case "CRC32C":
      case "CRC64NVME": {
        const name = { CRC32: "crc32", CRC32C: "crc32c", CRC64NVME: "crc64nvme" } as const;
        const checksum = this.#crypto.checksum(name[algorithm]);
        checksum.update(bytes);
        return checksum.digest();
      }
    }
  }
}

function defaultType(
  algorithm: api.ObjectChecksumAlgorithm | undefined,
): "FULL_OBJECT" | "COMPOSITE" | undefined {
  if (algorithm === undefined) return undefined;
  return algorithm === "CRC64NVME" ? "FULL_OBJECT" : "COMPOSITE";
}

/** SHA-1 and SHA-256 cannot be combined; CRC-64/NVME is of the whole object alone. */
function checkType(
  algorithm: api.ObjectChecksumAlgorithm | undefined,
  type: "FULL_OBJECT" | "COMPOSITE" | undefined,
): void {
  const wrong = algorithm === undefined
    ? type !== undefined
    : (type === "FULL_OBJECT" && (algorithm === "SHA1" || algorithm === "SHA256")) ||
      (type === "COMPOSITE" && algorithm === "CRC64NVME");
  if (wrong) {
    throw new KisekiError(
      "common.invalid_argument",
      `checksum type ${type} does not go with ${algorithm ?? "no checksum algorithm"}`,
    );
  }
}

/** Uploads lie with the root, by full key. */
function uploadPath(found: OpenNamespace, key: string): m.Path {
  return {
    directory: found.record.root,
    placement: found.record.placement,
    key: keyBytes(key),
  };
}

function parseUpload(uploadId: string): Bytes {
  if (!/^[0-9a-f]{32}$/.test(uploadId)) {
    throw new KisekiError("namespace.no_such_upload", "the upload does not exist or has ended");
  }
  return fromHex(uploadId);
}

function checkPartNumber(partNumber: number): void {
  if (!Number.isInteger(partNumber) || partNumber < 1 || partNumber > api.MAX_PARTS) {
    throw new KisekiError(
      "common.invalid_argument",
      `part number ${partNumber} (1 to ${api.MAX_PARTS})`,
    );
  }
}

function checkOrder(parts: readonly api.CompletedPart[]): void {
  if (parts.length === 0) {
    throw new KisekiError("common.invalid_argument", "a part list without parts");
  }
  if (parts.length > api.MAX_PARTS) {
    throw new KisekiError("namespace.too_many_parts", `${parts.length} parts`);
  }
  let last = 0;
  for (const { partNumber } of parts) {
    if (!Number.isInteger(partNumber) || partNumber > api.MAX_PARTS || partNumber < 1) {
      throw new KisekiError("namespace.invalid_part", `part number ${partNumber}`);
    }
    if (partNumber <= last) {
      throw new KisekiError("namespace.invalid_part_order", "part numbers must ascend");
    }
    last = partNumber;
  }
}

function namedPart(part: api.CompletedPart): m.NamedPart {
  return {
    partNumber: part.partNumber,
    etag: /^[0-9a-fA-F]{32}$/.test(part.etag) ? fromHex(part.etag) : EMPTY_BYTES,
    checksum: part.checksum === undefined ? undefined : checksumToRecord(part.checksum),
  };
}

function partInfo(part: StagedPart): api.UploadPartInfo {
  const record = m.need(part.record, "part");
  const checksum = record.checksum === undefined ? undefined : checksumFromRecord(record.checksum);
  return {
    partNumber: part.partNumber,
    sizeBytes: record.sizeBytes,
    etag: toHex(record.md5),
    lastModifiedMs: record.modifiedMs,
    ...(checksum === undefined ? {} : { checksum }),
  };
}

export function uploadInfo(key: string, uploadId: string, record: UploadRecord): api.UploadInfo {
  const algorithm = algorithmOf(record.checksumAlgorithm);
  const type = checksumTypeOf(record.checksumType);
  return {
    key,
    uploadId: uploadId as UploadId,
    initiatedMs: record.initiatedMs,
    ...attributesFromRecord(record.attributes),
    ...(algorithm === undefined ? {} : { checksumAlgorithm: algorithm }),
    ...(type === undefined ? {} : { checksumType: type }),
  };
}
