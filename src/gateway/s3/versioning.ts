/** GetBucketVersioning and PutBucketVersioning. */
import { receiveDocument } from "./body.ts";
import type { S3Context } from "./context.ts";
import { notImplemented, S3Error } from "./errors.ts";
import { emptyResponse, xmlResponse } from "./respond.ts";
import { childText, leaf, parseXml } from "./xml.ts";

/** GET /bucket?versioning: a bucket that never had versioning answers an empty configuration. */
export async function getBucketVersioning(context: S3Context): Promise<Response> {
  const { versioning } = await context.namespaces.getNamespace(
    context.identity,
    context.request.bucket,
  );
  return xmlResponse("VersioningConfiguration", [
    versioning === "unversioned"
      ? ""
      : leaf("Status", versioning === "enabled" ? "Enabled" : "Suspended"),
  ]);
}

/** PUT /bucket?versioning */
export async function putBucketVersioning(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const body = await receiveDocument(context);
  if (body.length === 0) throw new S3Error("MissingRequestBodyError");
  const root = parseXml(body);
  if (root.name !== "VersioningConfiguration") throw new S3Error("MalformedXML");
  const mfa = childText(root, "MfaDelete")?.trim();
  if (mfa === "Enabled") throw notImplemented("MfaDelete");
  if (mfa !== undefined && mfa !== "Disabled") throw new S3Error("MalformedXML");
  const status = childText(root, "Status")?.trim();
  if (status === undefined) throw new S3Error("IllegalVersioningConfigurationException");
  if (status !== "Enabled" && status !== "Suspended") throw new S3Error("MalformedXML");
  await namespaces.updateNamespace(identity, request.bucket, {
    versioning: status === "Enabled" ? "enabled" : "suspended",
  });
  return emptyResponse(200);
}
