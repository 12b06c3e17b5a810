/** Tags of objects and of buckets. */
import type { Tags } from "../../namespace/api.ts";
import { receiveDocument } from "./body.ts";
import type { S3Context } from "./context.ts";
import { S3Error } from "./errors.ts";
import { versionIdOf } from "./get.ts";
import { checkTags, MAX_BUCKET_TAGS, MAX_OBJECT_TAGS } from "./object_headers.ts";
import { emptyResponse, versionIdHeader, xmlResponse } from "./respond.ts";
import { child, childrenOf, childText, leaf, node, parseXml } from "./xml.ts";

function tagSetXml(tags: Tags): string {
  return node(
    "TagSet",
    ...tags.map(([key, value]) => node("Tag", leaf("Key", key), leaf("Value", value))),
  );
}

async function receiveTags(context: S3Context, max: number): Promise<Tags> {
  const body = await receiveDocument(context);
  if (body.length === 0) throw new S3Error("MissingRequestBodyError");
  const root = parseXml(body);
  const set = child(root, "TagSet");
  if (root.name !== "Tagging" || set === undefined) throw new S3Error("MalformedXML");
  const tags = childrenOf(set, "Tag").map((tag): readonly [string, string] => {
    const key = childText(tag, "Key");
    const value = childText(tag, "Value");
    if (key === undefined || value === undefined) throw new S3Error("MalformedXML");
    return [key, value];
  });
  checkTags(tags, max);
  return tags;
}

/** GET /bucket/key?tagging */
export async function getObjectTagging(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const version = await namespaces.headObject(
    identity,
    request.bucket,
    request.key,
    versionIdOf(request),
  );
  return xmlResponse("Tagging", [tagSetXml(version.tags)], versionIdHeader(version));
}

/** PUT /bucket/key?tagging */
export async function putObjectTagging(context: S3Context): Promise<Response> {
  return await setObjectTags(context, await receiveTags(context, MAX_OBJECT_TAGS), 200);
}

/** DELETE /bucket/key?tagging */
export async function deleteObjectTagging(context: S3Context): Promise<Response> {
  return await setObjectTags(context, [], 204);
}

async function setObjectTags(context: S3Context, tags: Tags, status: number): Promise<Response> {
  const { request, namespaces, identity } = context;
  const result = await namespaces.setTags(
    identity,
    request.bucket,
    request.key,
    versionIdOf(request),
    tags,
  );
  return emptyResponse(status, versionIdHeader(result));
}

/** GET /bucket?tagging */
export async function getBucketTagging(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const { tags } = await namespaces.getNamespace(identity, request.bucket);
  if (tags === undefined || tags.length === 0) {
    throw new S3Error("NoSuchTagSet", { extra: { BucketName: request.bucket } });
  }
  return xmlResponse("Tagging", [tagSetXml(tags)]);
}

/** PUT /bucket?tagging */
export async function putBucketTagging(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const tags = await receiveTags(context, MAX_BUCKET_TAGS);
  await namespaces.updateNamespace(identity, request.bucket, { tags });
  return emptyResponse(204);
}

/** DELETE /bucket?tagging */
export async function deleteBucketTagging(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  await namespaces.updateNamespace(identity, request.bucket, { tags: null });
  return emptyResponse(204);
}
