/** s3cmd against a gateway. */
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

/** Runs the suite; returns false when s3cmd is not installed. */
export async function runS3cmd(endpoint: Endpoint, bucket: string): Promise<boolean> {
  const s3cmd = await findProgram("s3cmd", ["/usr/bin/s3cmd", "/usr/local/bin/s3cmd"]);
  if (s3cmd === undefined) return false;
  await withScratch(async (dir) => {
    const host = new URL(endpoint.s3).host;
    const config = `${dir}/s3cfg`;
    await Deno.writeTextFile(
      config,
      `[default]
access_key = ${endpoint.accessKeyId}
secret_key = ${endpoint.secretAccessKey}
host_base = ${host}
host_bucket = ${host}
bucket_location = us-east-1
use_https = False
signature_v2 = False
`,
    );
    const ok = async (...args: readonly string[]): Promise<string> =>
      assertRan(
        await run(s3cmd, ["-c", config, "--no-progress", ...args], {
          env: { HOME: dir },
          cwd: dir,
        }),
        `s3cmd ${args.join(" ")}`,
      );
    const small = `${dir}/small file ü.txt`;
    const big = `${dir}/big.bin`;
    await Deno.writeTextFile(small, "hello, s3cmd\n");
    await Deno.writeFile(big, patternBytes(17 * 2 ** 20 + 3, 2));
    await ok("mb", `s3://${bucket}`);
    assert.match(await ok("ls"), new RegExp(bucket));
    await ok("put", small, `s3://${bucket}/a/small file ü.txt`);
    await ok("put", "--multipart-chunk-size-mb=6", big, `s3://${bucket}/big.bin`);
    await ok("get", `s3://${bucket}/a/small file ü.txt`, `${dir}/back.txt`);
    await assertSameFile(small, `${dir}/back.txt`);
    await ok("get", `s3://${bucket}/big.bin`, `${dir}/back.bin`);
    await assertSameFile(big, `${dir}/back.bin`);
    assert.match(await ok("ls", `s3://${bucket}/`), /DIR .*a\//);
    assert.match(await ok("info", `s3://${bucket}/big.bin`), /File size: 17825795/);
    await ok("info", `s3://${bucket}`);
    await Deno.mkdir(`${dir}/tree/in`, { recursive: true });
    for (let i = 0; i < 8; i++) {
      await Deno.writeFile(`${dir}/tree/${i % 2 ? "in/" : ""}f${i}`, patternBytes(1000 * i, i));
    }
    await ok("sync", `${dir}/tree/`, `s3://${bucket}/tree/`);
    await Deno.mkdir(`${dir}/copy`);
    await ok("sync", `s3://${bucket}/tree/`, `${dir}/copy/`);
    for (let i = 0; i < 8; i++) {
      const name = `${i % 2 ? "in/" : ""}f${i}`;
      await assertSameFile(`${dir}/tree/${name}`, `${dir}/copy/${name}`);
    }
    await ok("cp", `s3://${bucket}/big.bin`, `s3://${bucket}/big2.bin`);
    await ok("mv", `s3://${bucket}/big2.bin`, `s3://${bucket}/big3.bin`);
    assert.match(await ok("du", `s3://${bucket}`), /\d+/);
    await ok("del", `s3://${bucket}/big3.bin`);
    await ok("del", "--recursive", "--force", `s3://${bucket}/`);
    await ok("rb", `s3://${bucket}`);
  });
  return true;
}
