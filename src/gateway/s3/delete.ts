/** DeleteObject and DeleteObjects. */
import type { DeleteResult } from "../../namespace/api.ts";
import { receiveDocument } from "./body.ts";
import { requireKey } from "./bucket_name.ts";
import { parseEtags, writeCondition } from "./conditions.ts";
import type { S3Context } from "./context.ts";
import { invalidArgument, notImplemented, S3Error, toS3Error } from "./errors.ts";
import { versionIdOf } from "./get.ts";
import type { HeaderPair } from "./object_headers.ts";
import { emptyResponse, xmlResponse } from "./respond.ts";
import { child, childrenOf, childText, leaf, node, optionalLeaf, parseXml } from "./xml.ts";

export const MAX_DELETE_KEYS = 1000;

/** DELETE /bucket/key */
export async function deleteObject(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  for (const name of ["x-amz-if-match-last-modified-time", "x-amz-if-match-size"]) {
    if (request.header(name) !== undefined) throw notImplemented(`Header ${name}`);
  }
  const result = await namespaces.deleteObject(
    identity,
    request.bucket,
    request.key,
    versionIdOf(request),
    writeCondition(request),
  );
  const headers: HeaderPair[] = [];
  if (result.deleteMarker) headers.push(["x-amz-delete-marker", "true"]);
  if (
    result.versionId !== undefined &&
    (result.versionId !== "null" || result.deleteMarker || request.hasParameter("versionId"))
  ) headers.push(["x-amz-version-id", result.versionId]);
  return emptyResponse(204, headers);
}

interface DeleteTarget {
  readonly key: string;
  readonly versionId: string | undefined;
  readonly etag: string | undefined;
  /** Named when the target asks for what is not there. */
  readonly unsupported: string | undefined;
}

/** POST /bucket?delete: keys are worked on some at a time, answers keep the order of the request. */
export async function deleteObjects(context: S3Context): Promise<Response> {
  const { request, namespaces, identity, limits } = context;
  const body = await receiveDocument(context, { digestRequired: true });
  const { targets, quiet } = parseDelete(body);
  await namespaces.getNamespace(identity, request.bucket);
  const answers = new Array<string>(targets.length).fill("");
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < targets.length) {
      const index = next++;
      const target = targets[index] as DeleteTarget;
      answers[index] = await deleteOne(context, target, quiet);
    }
  };
  await Promise.all(
    Array.from({ length: Math.min(limits.deleteConcurrency, targets.length) }, worker),
  );
  return xmlResponse("DeleteResult", answers);
}

function parseDelete(body: Uint8Array): { targets: readonly DeleteTarget[]; quiet: boolean } {
  if (body.length === 0) throw new S3Error("MissingRequestBodyError");
  const root = parseXml(body);
  const objects = childrenOf(root, "Object");
  if (root.name !== "Delete" || objects.length === 0 || objects.length > MAX_DELETE_KEYS) {
    throw new S3Error("MalformedXML");
  }
  const targets = objects.map((object): DeleteTarget => {
    const key = childText(object, "Key");
    if (key === undefined) throw new S3Error("MalformedXML");
    return {
      key,
      versionId: childText(object, "VersionId"),
      etag: childText(object, "ETag"),
      unsupported: child(object, "LastModifiedTime") !== undefined
        ? "LastModifiedTime in DeleteObjects"
        : child(object, "Size") !== undefined
        ? "Size in DeleteObjects"
        : undefined,
    };
  });
  return { targets, quiet: childText(root, "Quiet")?.trim() === "true" };
}

async function deleteOne(
  context: S3Context,
  target: DeleteTarget,
  quiet: boolean,
): Promise<string> {
  try {
    if (target.key === "") throw new S3Error("InvalidRequest", { message: "A key is empty." });
    requireKey(target.key);
    if (target.unsupported !== undefined) throw notImplemented(target.unsupported);
    const { versionId } = target;
    if (versionId !== undefined && versionId !== "null" && !/^[0-9a-f]{32}$/.test(versionId)) {
      throw invalidArgument("versionId", versionId, "Invalid version id specified");
    }
    const result = await context.namespaces.deleteObject(
      context.identity,
      context.request.bucket,
      target.key,
      versionId,
      target.etag === undefined ? {} : { ifMatch: parseEtags(target.etag) },
    );
    return quiet ? "" : deletedXml(target, result);
  } catch (error) {
    const failure = toS3Error(error);
    if (failure.code === "InternalError") {
      context.logger.error("s3.delete_failed", {
        error: error instanceof Error ? error.message : String(error),
      });
    }
    return node(
      "Error",
      leaf("Key", target.key),
      optionalLeaf("VersionId", target.versionId),
      leaf("Code", failure.code),
      leaf("Message", failure.message),
    );
  }
}

function deletedXml(target: DeleteTarget, result: DeleteResult): string {
  return node(
    "Deleted",
    leaf("Key", target.key),
    optionalLeaf("VersionId", target.versionId),
    result.deleteMarker ? leaf("DeleteMarker", true) : "",
    result.deleteMarker ? optionalLeaf("DeleteMarkerVersionId", result.versionId) : "",
  );
}
