/** CORS: configuration of a bucket, preflight requests, headers on answers (Fetch Standard). */
import type { CorsRule, NamespaceInfo } from "../../namespace/api.ts";
import { receiveDocument } from "./body.ts";
import type { S3Context } from "./context.ts";
import { S3Error } from "./errors.ts";
import type { HeaderPair } from "./object_headers.ts";
import type { S3Request } from "./request.ts";
import { emptyResponse, xmlResponse } from "./respond.ts";
import {
  childrenOf,
  childText,
  leaf,
  node,
  optionalLeaf,
  parseXml,
  type XmlElement,
} from "./xml.ts";

export const MAX_CORS_RULES = 100;
const METHODS = ["GET", "PUT", "HEAD", "POST", "DELETE"];
const ANY_ORIGIN = "*";

/** GET /bucket?cors */
export async function getBucketCors(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const { cors } = await namespaces.getNamespace(identity, request.bucket);
  if (cors === undefined) {
    throw new S3Error("NoSuchCORSConfiguration", { extra: { BucketName: request.bucket } });
  }
  return xmlResponse("CORSConfiguration", cors.map((rule) => ruleXml(rule)));
}

function ruleXml(rule: CorsRule): string {
  const all = (name: string, values: readonly string[]): string =>
    values.map((value) => leaf(name, value)).join("");
  return node(
    "CORSRule",
    optionalLeaf("ID", rule.id),
    all("AllowedOrigin", rule.allowedOrigins),
    all("AllowedMethod", rule.allowedMethods),
    all("AllowedHeader", rule.allowedHeaders),
    all("ExposeHeader", rule.exposeHeaders),
    optionalLeaf("MaxAgeSeconds", rule.maxAgeSeconds),
  );
}

/** PUT /bucket?cors */
export async function putBucketCors(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  const body = await receiveDocument(context);
  if (body.length === 0) throw new S3Error("MissingRequestBodyError");
  const root = parseXml(body);
  const elements = childrenOf(root, "CORSRule");
  if (
    root.name !== "CORSConfiguration" || elements.length === 0 || elements.length > MAX_CORS_RULES
  ) throw new S3Error("MalformedXML");
  const cors = elements.map((element) => parseRule(element));
  await namespaces.updateNamespace(identity, request.bucket, { cors });
  return emptyResponse(200);
}

/** DELETE /bucket?cors */
export async function deleteBucketCors(context: S3Context): Promise<Response> {
  const { request, namespaces, identity } = context;
  await namespaces.updateNamespace(identity, request.bucket, { cors: null });
  return emptyResponse(204);
}

function parseRule(element: XmlElement): CorsRule {
  const texts = (name: string): readonly string[] =>
    childrenOf(element, name).map((one) => one.text.trim());
  const id = childText(element, "ID");
  const maxAge = childText(element, "MaxAgeSeconds")?.trim();
  const rule: CorsRule = {
    ...(id === undefined ? {} : { id }),
    allowedOrigins: texts("AllowedOrigin"),
    allowedMethods: texts("AllowedMethod"),
    allowedHeaders: texts("AllowedHeader"),
    exposeHeaders: texts("ExposeHeader"),
    ...(maxAge === undefined ? {} : { maxAgeSeconds: Number(maxAge) }),
  };
  if (rule.allowedOrigins.length === 0 || rule.allowedMethods.length === 0) {
    throw new S3Error("MalformedXML");
  }
  if ((id?.length ?? 0) > 255 || (maxAge !== undefined && !/^\d{1,9}$/.test(maxAge))) {
    throw new S3Error("MalformedXML");
  }
  for (const method of rule.allowedMethods) {
    if (!METHODS.includes(method)) {
      throw new S3Error("InvalidRequest", {
        message: `Found unsupported HTTP method in CORS config. Unsupported method is ${
          method.slice(0, 32)
        }`,
      });
    }
  }
  for (const pattern of [...rule.allowedOrigins, ...rule.allowedHeaders]) {
    if (pattern.split("*").length > 2) {
      throw new S3Error("InvalidRequest", {
        message: `"${pattern.slice(0, 128)}" can not have more than one wildcard.`,
      });
    }
  }
  return rule;
}

/** At most one `*` stands for any text. */
function patternMatches(pattern: string, text: string): boolean {
  const star = pattern.indexOf("*");
  if (star < 0) return pattern === text;
  return text.length >= pattern.length - 1 && text.startsWith(pattern.slice(0, star)) &&
    text.endsWith(pattern.slice(star + 1));
}

/** The first rule that allows it. */
export function findRule(
  rules: readonly CorsRule[],
  origin: string,
  method: string,
  headers: readonly string[],
): CorsRule | undefined {
  return rules.find((rule) =>
    rule.allowedOrigins.some((pattern) => patternMatches(pattern, origin)) &&
    rule.allowedMethods.includes(method) &&
    headers.every((header) =>
      rule.allowedHeaders.some((pattern) => patternMatches(pattern.toLowerCase(), header))
    )
  );
}

function allowHeaders(rule: CorsRule, origin: string): HeaderPair[] {
  const any = rule.allowedOrigins.includes(ANY_ORIGIN);
  const headers: HeaderPair[] = [["access-control-allow-origin", any ? ANY_ORIGIN : origin]];
  if (!any) headers.push(["access-control-allow-credentials", "true"]);
  headers.push(["access-control-allow-methods", rule.allowedMethods.join(", ")]);
  if (rule.exposeHeaders.length > 0) {
    headers.push(["access-control-expose-headers", rule.exposeHeaders.join(", ")]);
  }
  headers.push(["vary", "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"]);
  return headers;
}

/** Headers for the answer to a real request with an Origin; none where no rule allows it. */
export function corsHeaders(
  request: S3Request,
  info: NamespaceInfo,
): readonly HeaderPair[] {
  const origin = request.header("origin");
  if (origin === undefined || info.cors === undefined) return [];
  const rule = findRule(info.cors, origin, request.method, []);
  return rule === undefined ? [] : allowHeaders(rule, origin);
}

/**
 * Answers a preflight request.
 *
 * @param rules undefined when the bucket is not known or has no configuration: one refusal for
 *   all, so that nobody learns which buckets exist.
 * @throws S3Error AccessForbidden, BadRequest.
 */
export function preflightResponse(
  request: S3Request,
  rules: readonly CorsRule[] | undefined,
): Response {
  const origin = request.header("origin");
  const method = request.header("access-control-request-method");
  if (origin === undefined) {
    throw new S3Error("BadRequest", {
      message: "Insufficient information. Origin request header needed.",
    });
  }
  if (method === undefined || !METHODS.includes(method)) {
    throw new S3Error("BadRequest", {
      message: `Invalid Access-Control-Request-Method: ${(method ?? "null").slice(0, 32)}`,
    });
  }
  const wanted = (request.header("access-control-request-headers") ?? "").split(",")
    .map((one) => one.trim().toLowerCase()).filter((one) => one !== "");
  const rule = rules === undefined ? undefined : findRule(rules, origin, method, wanted);
  if (rule === undefined) {
    throw new S3Error("AccessForbidden", {
      message:
        "CORSResponse: This CORS request is not allowed. This is usually because the evaluation of Origin, request method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the resource's CORS spec.",
      extra: { Method: method, ResourceType: request.key === "" ? "BUCKET" : "OBJECT" },
    });
  }
  const headers = allowHeaders(rule, origin);
  if (wanted.length > 0) headers.push(["access-control-allow-headers", wanted.join(", ")]);
  if (rule.maxAgeSeconds !== undefined) {
    headers.push(["access-control-max-age", String(rule.maxAgeSeconds)]);
  }
  return emptyResponse(200, headers);
}
