/** Names of buckets and keys, after the rules for general purpose buckets of Amazon S3. */
import { utf8 } from "../../common/bytes.ts";
import { MAX_KEY_UTF8_BYTES } from "../../namespace/api.ts";
import { S3Error } from "./errors.ts";

const SHAPE = /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;
const ADDRESS = /^\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}$/;
const RESERVED_PREFIXES = ["xn--", "sthree-", "amzn-s3-demo-"];
const RESERVED_SUFFIXES = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];

/** True for a name that could be a bucket's. */
export function isBucketName(name: string): boolean {
  return SHAPE.test(name) && !name.includes("..");
}

/** @throws S3Error InvalidBucketName for a name that no bucket can have. */
export function requireBucketName(name: string): void {
  if (!isBucketName(name)) throw invalid(name);
}

/** The rules for a new bucket: reserved names and addresses as well. */
export function requireNewBucketName(name: string): void {
  if (
    !isBucketName(name) || ADDRESS.test(name) ||
    RESERVED_PREFIXES.some((prefix) => name.startsWith(prefix)) ||
    RESERVED_SUFFIXES.some((suffix) => name.endsWith(suffix))
  ) throw invalid(name);
}

function invalid(name: string): S3Error {
  return new S3Error("InvalidBucketName", { extra: { BucketName: name.slice(0, 255) } });
}

/** @throws S3Error KeyTooLongError. */
export function requireKey(key: string): void {
  // A UTF-16 unit is at most three bytes of UTF-8.
  if (key.length * 3 <= MAX_KEY_UTF8_BYTES) return;
  const size = utf8(key).length;
  if (size > MAX_KEY_UTF8_BYTES) {
    throw new S3Error("KeyTooLongError", {
      extra: { Size: String(size), MaxSizeAllowed: String(MAX_KEY_UTF8_BYTES) },
    });
  }
}
