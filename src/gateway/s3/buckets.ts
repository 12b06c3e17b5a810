/** ListBuckets, CreateBucket, HeadBucket, DeleteBucket, GetBucketLocation. */
import { EMPTY_BYTES } from "../../common/bytes.ts";
import type { NamespaceInfo } from "../../namespace/api.ts";
import { receiveDocument } from "./body.ts";
import { requireNewBucketName } from "./bucket_name.ts";
import type { S3Context } from "./context.ts";
import { invalidArgument, notImplemented, S3Error } from "./errors.ts";
import { refuseUnsupportedHeaders } from "./object_headers.ts";
import { emptyResponse, isoDate, xmlResponse } from "./respond.ts";
import { child, childText, leaf, node, optionalLeaf, parseXml } from "./xml.ts";

const MAX_LISTED_BUCKETS = 10_000;

/** The owner of everything a caller sees: its organisation. */
export function ownerXml(context: S3Context, element = "Owner"): string {
  const id = context.identity.organisation;
  return node(element, leaf("ID", id), leaf("DisplayName", id));
}

/** GET / */
export async function listBuckets(context: S3Context): Promise<Response> {
  const { request } = context;
  const prefix = request.parameter("prefix") ?? "";
  const token = request.parameter("continuation-token") ?? "";
  const maxText = request.parameter("max-buckets");
  const max = maxText === undefined ? MAX_LISTED_BUCKETS : Number(maxText);
  if (!Number.isInteger(max) || max < 1 || max > MAX_LISTED_BUCKETS) {
    throw invalidArgument("max-buckets", maxText ?? "");
  }
  const all = (await context.namespaces.listNamespaces(context.identity))
    .filter((one) => one.name.startsWith(prefix) && one.name > token)
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  const page = all.slice(0, max);
  const next = all.length > page.length ? page.at(-1)?.name : undefined;
  return xmlResponse("ListAllMyBucketsResult", [
    ownerXml(context),
    node("Buckets", ...page.map((one) => bucketXml(one))),
    optionalLeaf("ContinuationToken", next),
    request.hasParameter("prefix") ? leaf("Prefix", prefix) : "",
  ]);
}

function bucketXml(info: NamespaceInfo): string {
  return node("Bucket", leaf("Name", info.name), leaf("CreationDate", isoDate(info.createdMs)));
}

/** PUT /bucket */
export async function createBucket(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  requireNewBucketName(request.bucket);
  refuseUnsupportedHeaders(request);
  const body = await receiveDocument(context);
  if (body.length > 0) checkLocation(context, body);
  await namespaces.createNamespace(identity, request.bucket);
  return emptyResponse(200, [["location", `/${request.bucket}`]]);
}

function checkLocation(context: S3Context, body: Uint8Array = EMPTY_BYTES): void {
  const root = parseXml(body);
  if (root.name !== "CreateBucketConfiguration") throw new S3Error("MalformedXML");
  if (child(root, "Location") !== undefined || child(root, "Bucket") !== undefined) {
    throw notImplemented("CreateBucket of directory buckets");
  }
  if (child(root, "Tags") !== undefined) throw notImplemented("CreateBucket with Tags");
  const location = childText(root, "LocationConstraint")?.trim() ?? "";
  if (location !== "" && location !== context.region) {
    throw new S3Error("InvalidLocationConstraint", {
      extra: { LocationConstraint: location.slice(0, 64), Region: context.region },
    });
  }
}

/** HEAD /bucket */
export async function headBucket(context: S3Context): Promise<Response> {
  await context.namespaces.getNamespace(context.identity, context.request.bucket);
  return emptyResponse(200, [
    ["x-amz-bucket-region", context.region],
    ["x-amz-access-point-alias", "false"],
    ["content-type", "application/xml"],
  ]);
}

/** DELETE /bucket */
export async function deleteBucket(context: S3Context): Promise<Response> {
  await context.namespaces.deleteNamespace(context.identity, context.request.bucket);
  return emptyResponse(204);
}

/** GET /bucket?location: empty for us-east-1, as in S3. */
export async function getBucketLocation(context: S3Context): Promise<Response> {
  await context.namespaces.getNamespace(context.identity, context.request.bucket);
  return xmlResponse("LocationConstraint", [
    context.region === "us-east-1" ? "" : context.region,
  ]);
}
