/** aws-cli against a gateway: high-level commands and s3api. */
import assert from "node:assert/strict";
import {
  assertRan,
  assertSameFile,
  type Endpoint,
  findProgram,
  patternBytes,
  run,
  withScratch,
} from "./tools.ts";

/** Runs the suite; returns false when aws-cli is not installed. */
export async function runAwsCli(endpoint: Endpoint, bucket: string): Promise<boolean> {
  const aws = await findProgram("aws-cli", ["/usr/bin/aws", "/usr/local/bin/aws"]);
  if (aws === undefined) return false;
  await withScratch(async (dir) => {
    const env = {
      HOME: dir,
      AWS_ACCESS_KEY_ID: endpoint.accessKeyId,
      AWS_SECRET_ACCESS_KEY: endpoint.secretAccessKey,
      AWS_DEFAULT_REGION: "us-east-1",
      AWS_EC2_METADATA_DISABLED: "true",
    };
    const call = (...args: readonly string[]) =>
      run(aws, ["--endpoint-url", endpoint.s3, ...args], { env, cwd: dir });
    const ok = async (...args: readonly string[]): Promise<string> =>
      assertRan(await call(...args), `aws ${args.join(" ")}`);
    const refused = async (code: string, ...args: readonly string[]): Promise<void> => {
      const ran = await call(...args);
      assert.notEqual(ran.code, 0, `aws ${args.join(" ")} should have failed`);
      assert.match(ran.stderr, new RegExp(code));
    };
    const small = `${dir}/small.txt`;
    const big = `${dir}/big.bin`;
    await Deno.writeTextFile(small, "hello, object store\n");
    await Deno.writeFile(big, patternBytes(18 * 2 ** 20 + 5, 1));

    await ok("s3", "mb", `s3://${bucket}`);
    assert.match(await ok("s3", "ls"), new RegExp(bucket));
    await ok("s3", "cp", small, `s3://${bucket}/dir/small.txt`, "--metadata", "colour=blue");
    await ok("s3", "cp", big, `s3://${bucket}/big.bin`);
    await ok("s3", "cp", `s3://${bucket}/big.bin`, `${dir}/back.bin`);
    await assertSameFile(big, `${dir}/back.bin`);
    assert.match(await ok("s3", "ls", `s3://${bucket}/`), /PRE dir\//);
    assert.match(await ok("s3", "ls", "--recursive", `s3://${bucket}/`), /dir\/small\.txt/);

    const url = (await ok("s3", "presign", `s3://${bucket}/dir/small.txt`)).trim();
    const response = await fetch(url);
    assert.equal(await response.text(), "hello, object store\n");
    assert.equal(response.status, 200);

    await ok("s3", "mv", `s3://${bucket}/dir/small.txt`, `s3://${bucket}/moved/a b+ü.txt`);
    await ok("s3", "cp", `s3://${bucket}/moved/a b+ü.txt`, `${dir}/moved.txt`);
    await assertSameFile(small, `${dir}/moved.txt`);
    await refused("404", "s3", "cp", `s3://${bucket}/dir/small.txt`, `${dir}/gone.txt`);
    await syncBothWays(dir, bucket, ok);
    await s3api(dir, bucket, small, ok, refused);

    await ok("s3", "rm", "--recursive", `s3://${bucket}/`);
    await emptyVersions(bucket, ok);
    await ok("s3", "rb", `s3://${bucket}`);
  });
  return true;
}

type Ok = (...args: readonly string[]) => Promise<string>;

async function syncBothWays(dir: string, bucket: string, ok: Ok): Promise<void> {
  await Deno.mkdir(`${dir}/tree/deep/er`, { recursive: true });
  for (let i = 0; i < 12; i++) {
    await Deno.writeFile(
      `${dir}/tree/${i % 2 === 0 ? "deep/" : "deep/er/"}f${i}`,
      patternBytes(900 * i, i),
    );
  }
  await ok("s3", "sync", `${dir}/tree`, `s3://${bucket}/tree`);
  await ok("s3", "sync", `s3://${bucket}/tree`, `${dir}/copy`);
  for (let i = 0; i < 12; i++) {
    const name = `${i % 2 === 0 ? "deep/" : "deep/er/"}f${i}`;
    await assertSameFile(`${dir}/tree/${name}`, `${dir}/copy/${name}`);
  }
  await Deno.remove(`${dir}/tree/deep/f0`);
  const said = await ok("s3", "sync", "--delete", `${dir}/tree`, `s3://${bucket}/tree`);
  assert.match(said, /delete: .*f0/);
}

async function s3api(
  dir: string,
  bucket: string,
  small: string,
  ok: Ok,
  refused: (code: string, ...args: readonly string[]) => Promise<void>,
): Promise<void> {
  const at = ["--bucket", bucket];
  const key = [...at, "--key", "api/object"];
  assert.deepEqual(JSON.parse(await ok("s3api", "get-bucket-location", ...at)), {
    LocationConstraint: null,
  });
  await ok("s3api", "head-bucket", ...at);
  const put = JSON.parse(
    await ok(
      "s3api",
      "put-object",
      ...key,
      "--body",
      small,
      "--tagging",
      "a=1&b=2",
      "--content-type",
      "text/x-test",
      "--checksum-algorithm",
      "SHA256",
    ),
  ) as { ETag: string; ChecksumSHA256: string };
  assert.equal(put.ChecksumSHA256.length, 44);
  const head = JSON.parse(await ok("s3api", "head-object", ...key)) as {
    ContentType: string;
    ETag: string;
  };
  assert.equal(head.ContentType, "text/x-test");
  assert.equal(head.ETag, put.ETag);
  await ok("s3api", "get-object", ...key, "--range", "bytes=7-12", `${dir}/range`);
  assert.equal(await Deno.readTextFile(`${dir}/range`), "object");
  const tags = JSON.parse(await ok("s3api", "get-object-tagging", ...key)) as { TagSet: unknown[] };
  assert.equal(tags.TagSet.length, 2);
  await refused("InvalidRange", "s3api", "get-object", ...key, "--range", "bytes=999-", `${dir}/r`);
  await refused("NoSuchKey", "s3api", "get-object", ...at, "--key", "nothing", `${dir}/r`);
  await refused("NoSuchBucket", "s3api", "list-objects-v2", "--bucket", "no-such-bucket-at-all");
  await refused("NotImplemented", "s3api", "get-bucket-lifecycle-configuration", ...at);
  const attributes = JSON.parse(
    await ok(
      "s3api",
      "get-object-attributes",
      ...key,
      "--object-attributes",
      "ETag",
      "ObjectSize",
      "Checksum",
    ),
  ) as { ObjectSize: number; Checksum: { ChecksumSHA256: string } };
  assert.equal(attributes.ObjectSize, 20);
  assert.equal(attributes.Checksum.ChecksumSHA256, put.ChecksumSHA256);
  const page = JSON.parse(
    await ok(
      "s3api",
      "list-objects-v2",
      ...at,
      "--prefix",
      "tree/",
      "--max-items",
      "5",
      "--page-size",
      "2",
    ),
  ) as { Contents: unknown[] };
  assert.equal(page.Contents.length, 5);
  await ok(
    "s3api",
    "copy-object",
    ...at,
    "--key",
    "api/copy",
    "--copy-source",
    `${bucket}/api/object`,
  );
  const acl = JSON.parse(await ok("s3api", "get-bucket-acl", ...at)) as { Grants: unknown[] };
  assert.equal(acl.Grants.length, 1);
  await ok("s3api", "put-bucket-versioning", ...at, "--versioning-configuration", "Status=Enabled");
  await ok("s3api", "put-object", ...key, "--body", small);
  await ok("s3api", "delete-object", ...key);
  const versions = JSON.parse(
    await ok("s3api", "list-object-versions", ...at, "--prefix", "api/object"),
  ) as { Versions: unknown[]; DeleteMarkers: unknown[] };
  assert.equal(versions.Versions.length, 2);
  assert.equal(versions.DeleteMarkers.length, 1);
}

async function emptyVersions(bucket: string, ok: Ok): Promise<void> {
  const all = JSON.parse(
    await ok("s3api", "list-object-versions", "--bucket", bucket, "--output", "json") || "{}",
  ) as {
    Versions?: { Key: string; VersionId: string }[];
    DeleteMarkers?: { Key: string; VersionId: string }[];
  };
  const objects = [...all.Versions ?? [], ...all.DeleteMarkers ?? []]
    .map(({ Key, VersionId }) => ({ Key, VersionId }));
  const said = await ok(
    "s3api",
    "delete-objects",
    "--bucket",
    bucket,
    "--delete",
    JSON.stringify({ Objects: objects }),
  );
  assert.doesNotMatch(said, /"Errors"/);
}
