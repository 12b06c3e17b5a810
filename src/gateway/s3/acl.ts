/**
 * ACLs as they are: every bucket and object is private to its organisation, which has full control.
 * `private` may be set, since it changes nothing; anything else is refused.
 */
import { receiveDocument } from "./body.ts";
import { ownerXml } from "./buckets.ts";
import type { S3Context } from "./context.ts";
import { S3Error } from "./errors.ts";
import { versionIdOf } from "./get.ts";
import { refuseUnsupportedHeaders } from "./object_headers.ts";
import { emptyResponse, versionIdHeader, xmlResponse } from "./respond.ts";
import { canonicalUserGrantee, child, childrenOf, childText, leaf, node, parseXml } from "./xml.ts";

function aclResponse(context: S3Context): Response {
  return xmlResponse("AccessControlPolicy", [
    ownerXml(context),
    node(
      "AccessControlList",
      node(
        "Grant",
        canonicalUserGrantee(context.identity.organisation),
        leaf("Permission", "FULL_CONTROL"),
      ),
    ),
  ]);
}

/** GET /bucket?acl */
export async function getBucketAcl(context: S3Context): Promise<Response> {
  await context.namespaces.getNamespace(context.identity, context.request.bucket);
  return aclResponse(context);
}

/** GET /bucket/key?acl */
export async function getObjectAcl(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  await namespaces.headObject(identity, request.bucket, request.key, versionIdOf(request));
  return aclResponse(context);
}

/** PUT /bucket?acl */
export async function putBucketAcl(context: S3Context): Promise<Response> {
  await context.namespaces.getNamespace(context.identity, context.request.bucket);
  await requirePrivate(context);
  return emptyResponse(200);
}

/** PUT /bucket/key?acl */
export async function putObjectAcl(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const version = await namespaces.headObject(
    identity,
    request.bucket,
    request.key,
    versionIdOf(request),
  );
  await requirePrivate(context);
  return emptyResponse(200, versionIdHeader(version));
}

async function requirePrivate(context: S3Context): Promise<void> {
  refuseUnsupportedHeaders(context.request);
  const body = await receiveDocument(context);
  if (body.length === 0) {
    if (context.request.header("x-amz-acl") === undefined) {
      throw new S3Error("MissingSecurityHeader", {
        message: "An ACL is wanted: x-amz-acl: private, or an AccessControlPolicy document.",
      });
    }
    return;
  }
  const root = parseXml(body);
  const list = child(root, "AccessControlList");
  if (root.name !== "AccessControlPolicy" || list === undefined) {
    throw new S3Error("MalformedACLError");
  }
  const onlyOwner = childrenOf(list, "Grant").every((grant) => {
    const grantee = child(grant, "Grantee");
    return grantee !== undefined &&
      childText(grantee, "ID") === context.identity.organisation &&
      childText(grant, "Permission") === "FULL_CONTROL";
  });
  if (!onlyOwner) throw new S3Error("AccessControlListNotSupported");
}
