/**
 * Which operation of S3 a request is, by method, level and sub-resource; unknown sub-resources of S3
 * are named, so that the refusal can say what is not there.
 */
import {
  abortMultipartUpload,
  completeMultipartUpload,
  createMultipartUpload,
  listMultipartUploads,
  listParts,
  uploadPart,
} from "./multipart.ts";
import { getBucketAcl, getObjectAcl, putBucketAcl, putObjectAcl } from "./acl.ts";
import { getObjectAttributes } from "./attributes.ts";
import {
  createBucket,
  deleteBucket,
  getBucketLocation,
  headBucket,
  listBuckets,
} from "./buckets.ts";
import type { Operation } from "./context.ts";
import { copyObject } from "./copy.ts";
import { deleteBucketCors, getBucketCors, putBucketCors } from "./cors.ts";
import { deleteObject, deleteObjects } from "./delete.ts";
import { notImplemented, S3Error } from "./errors.ts";
import { getObject, headObject } from "./get.ts";
import { listObjects, listObjectsV2, listObjectVersions } from "./list.ts";
import { putObject } from "./put.ts";
import type { S3Request } from "./request.ts";
import {
  deleteBucketTagging,
  deleteObjectTagging,
  getBucketTagging,
  getObjectTagging,
  putBucketTagging,
  putObjectTagging,
} from "./tagging.ts";
import { getBucketVersioning, putBucketVersioning } from "./versioning.ts";

/** An operation by S3's name. */
export interface Route {
  readonly name: string;
  readonly run: Operation;
}

function route(name: string, run: Operation): Route {
  return { name, run };
}

/** Stands for an operation of S3 that is not there. */
function absent(name: string): Route {
  return { name, run: () => Promise.reject(notImplemented(name)) };
}

type RouteTable = Readonly<Record<string, Readonly<Record<string, Route>>>>;

/** Method, then sub-resource; "" is none. */
const BUCKET_ROUTES: RouteTable = {
  GET: {
    "": route("ListObjects", listObjects),
    location: route("GetBucketLocation", getBucketLocation),
    versioning: route("GetBucketVersioning", getBucketVersioning),
    versions: route("ListObjectVersions", listObjectVersions),
    uploads: route("ListMultipartUploads", listMultipartUploads),
    cors: route("GetBucketCors", getBucketCors),
    tagging: route("GetBucketTagging", getBucketTagging),
    acl: route("GetBucketAcl", getBucketAcl),
  },
  HEAD: { "": route("HeadBucket", headBucket) },
  PUT: {
    "": route("CreateBucket", createBucket),
    versioning: route("PutBucketVersioning", putBucketVersioning),
    cors: route("PutBucketCors", putBucketCors),
    tagging: route("PutBucketTagging", putBucketTagging),
    acl: route("PutBucketAcl", putBucketAcl),
  },
  DELETE: {
    "": route("DeleteBucket", deleteBucket),
    cors: route("DeleteBucketCors", deleteBucketCors),
    tagging: route("DeleteBucketTagging", deleteBucketTagging),
  },
  POST: {
    "": absent("PostObject"),
    delete: route("DeleteObjects", deleteObjects),
  },
};

const OBJECT_ROUTES: RouteTable = {
  GET: {
    "": route("GetObject", getObject),
    uploadId: route("ListParts", listParts),
    tagging: route("GetObjectTagging", getObjectTagging),
    acl: route("GetObjectAcl", getObjectAcl),
    attributes: route("GetObjectAttributes", getObjectAttributes),
  },
  HEAD: { "": route("HeadObject", headObject) },
  PUT: {
    "": route("PutObject", putObject),
    uploadId: route("UploadPart", uploadPart),
    tagging: route("PutObjectTagging", putObjectTagging),
    acl: route("PutObjectAcl", putObjectAcl),
  },
  DELETE: {
    "": route("DeleteObject", deleteObject),
    uploadId: route("AbortMultipartUpload", abortMultipartUpload),
    tagging: route("DeleteObjectTagging", deleteObjectTagging),
  },
  POST: {
    uploads: route("CreateMultipartUpload", createMultipartUpload),
    uploadId: route("CompleteMultipartUpload", completeMultipartUpload),
  },
};

const LIST_BUCKETS = route("ListBuckets", listBuckets);
const LIST_OBJECTS_V2 = route("ListObjectsV2", listObjectsV2);
const COPY_OBJECT = route("CopyObject", copyObject);

/** Sub-resources of S3 and how their operations are called, after the method's verb. */
const BUCKET_SUBRESOURCES: Readonly<Record<string, string>> = {
  accelerate: "BucketAccelerateConfiguration",
  acl: "BucketAcl",
  abac: "BucketAbac",
  analytics: "BucketAnalyticsConfiguration",
  cors: "BucketCors",
  delete: "DeleteObjects",
  encryption: "BucketEncryption",
  "intelligent-tiering": "BucketIntelligentTieringConfiguration",
  inventory: "BucketInventoryConfiguration",
  lifecycle: "BucketLifecycleConfiguration",
  location: "BucketLocation",
  logging: "BucketLogging",
  metadataConfiguration: "BucketMetadataConfiguration",
  metadataInventoryTable: "BucketMetadataInventoryTableConfiguration",
  metadataJournalTable: "BucketMetadataJournalTableConfiguration",
  metadataTable: "BucketMetadataTableConfiguration",
  metrics: "BucketMetricsConfiguration",
  notification: "BucketNotificationConfiguration",
  "object-lock": "ObjectLockConfiguration",
  ownershipControls: "BucketOwnershipControls",
  policy: "BucketPolicy",
  policyStatus: "BucketPolicyStatus",
  publicAccessBlock: "PublicAccessBlock",
  replication: "BucketReplication",
  requestPayment: "BucketRequestPayment",
  session: "Session",
  tagging: "BucketTagging",
  uploads: "MultipartUploads",
  versioning: "BucketVersioning",
  versions: "ObjectVersions",
  website: "BucketWebsite",
};

const OBJECT_SUBRESOURCES: Readonly<Record<string, string>> = {
  acl: "ObjectAcl",
  annotation: "ObjectAnnotation",
  attributes: "ObjectAttributes",
  encryption: "ObjectEncryption",
  "legal-hold": "ObjectLegalHold",
  renameObject: "RenameObject",
  restore: "RestoreObject",
  retention: "ObjectRetention",
  select: "SelectObjectContent",
  tagging: "ObjectTagging",
  torrent: "ObjectTorrent",
  uploadId: "MultipartUpload",
  uploads: "MultipartUpload",
};

const VERBS: Readonly<Record<string, string>> = {
  GET: "Get",
  HEAD: "Head",
  PUT: "Put",
  DELETE: "Delete",
  POST: "Post",
};

/** @throws S3Error MethodNotAllowed for what is no operation of S3 at all. */
export function classify(request: S3Request): Route {
  const { method, bucket, key } = request;
  if (bucket === "") {
    if (key === "" && method === "GET") return LIST_BUCKETS;
    if (key === "" && method === "POST") return absent("WriteGetObjectResponse");
    throw notAllowed(request);
  }
  if (key === "") return pick(request, BUCKET_ROUTES, BUCKET_SUBRESOURCES);
  const found = pick(request, OBJECT_ROUTES, OBJECT_SUBRESOURCES);
  if (found.name === "PutObject" && request.header("x-amz-copy-source") !== undefined) {
    return COPY_OBJECT;
  }
  return found;
}

function pick(
  request: S3Request,
  routes: RouteTable,
  subresources: Readonly<Record<string, string>>,
): Route {
  const ofMethod = Object.hasOwn(routes, request.method) ? routes[request.method] : undefined;
  if (ofMethod === undefined) throw notAllowed(request);
  for (const { name } of request.query) {
    if (!Object.hasOwn(subresources, name)) continue;
    const found = Object.hasOwn(ofMethod, name) ? ofMethod[name] : undefined;
    return found ?? absent(nameOf(request.method, name, subresources));
  }
  if (request.parameter("list-type") === "2" && request.key === "" && request.method === "GET") {
    return LIST_OBJECTS_V2;
  }
  const plain = ofMethod[""];
  if (plain === undefined) throw notAllowed(request);
  return plain;
}

const WHOLE_NAMES: readonly string[] = [
  "RenameObject",
  "RestoreObject",
  "SelectObjectContent",
  "DeleteObjects",
];

function nameOf(
  method: string,
  name: string,
  subresources: Readonly<Record<string, string>>,
): string {
  const noun = subresources[name] ?? name;
  if (WHOLE_NAMES.includes(noun)) return noun;
  if (name === "session") return "CreateSession";
  return `${VERBS[method] ?? method}${noun}`;
}

function notAllowed(request: S3Request): S3Error {
  return new S3Error("MethodNotAllowed", {
    extra: {
      Method: request.method.slice(0, 32),
      ResourceType: request.bucket === "" ? "SERVICE" : request.key === "" ? "BUCKET" : "OBJECT",
    },
  });
}
