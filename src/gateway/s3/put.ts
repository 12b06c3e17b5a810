/** PutObject. */
import type { ObjectChecksum } from "../../namespace/api.ts";
import { receiveContent, type ReceivedContent } from "./body.ts";
import { CHECKSUMS, checksumText } from "./checksums.ts";
import { writeCondition } from "./conditions.ts";
import type { S3Context } from "./context.ts";
import { attributesOf, type HeaderPair, refuseUnsupportedHeaders } from "./object_headers.ts";
import { emptyResponse, versionIdHeader } from "./respond.ts";

/** PUT /bucket/key */
export async function putObject(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  refuseUnsupportedHeaders(request);
  const attributes = attributesOf(request);
  const condition = writeCondition(request);
  const content = await receiveContent(context);
  const result = await publish(content, () =>
    namespaces.putObject(
      identity,
      request.bucket,
      request.key,
      content.writer,
      content.checksum === undefined ? attributes : { ...attributes, checksum: content.checksum },
      condition,
    ));
  const { version } = result;
  return emptyResponse(200, [
    ["etag", `"${version.etag}"`],
    ["x-amz-server-side-encryption", "AES256"],
    ...storedChecksumHeaders(version.checksum ?? content.checksum, true),
    ...versionIdHeader(version),
  ]);
}

/** Publishes received content; aborts it when that fails. */
export async function publish<T>(content: ReceivedContent, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    await content.writer.abort();
    throw error;
  }
}

/** Headers that confirm what was stored. */
export function storedChecksumHeaders(
  checksum: ObjectChecksum | undefined,
  withType: boolean,
): HeaderPair[] {
  if (checksum === undefined) return [];
  const headers: HeaderPair[] = [[CHECKSUMS[checksum.algorithm].header, checksumText(checksum)]];
  if (withType) headers.push(["x-amz-checksum-type", checksum.type]);
  return headers;
}
