/** rclone against a gateway: copy, sync, check, multipart for big files. */
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

/** Runs the suite; returns false when rclone is not installed. */
export async function runRclone(endpoint: Endpoint, bucket: string): Promise<boolean> {
  const rclone = await findProgram("rclone", ["/usr/bin/rclone", "/usr/local/bin/rclone"]);
  if (rclone === undefined) return false;
  await withScratch(async (dir) => {
    const config = `${dir}/rclone.conf`;
    await Deno.writeTextFile(
      config,
      `[kiseki]
type = s3
provider = Other
access_key_id = ${endpoint.accessKeyId}
secret_access_key = ${endpoint.secretAccessKey}
endpoint = ${endpoint.s3}
region = us-east-1
acl = private
upload_cutoff = 8M
chunk_size = 5M
`,
    );
    const call = (...args: readonly string[]) =>
      run(rclone, ["--config", config, "--retries", "1", ...args], {
        env: { HOME: dir },
        cwd: dir,
      });
    const ok = async (...args: readonly string[]): Promise<string> =>
      assertRan(await call(...args), `rclone ${args.join(" ")}`);
    const remote = `kiseki:${bucket}`;
    await Deno.mkdir(`${dir}/tree/sub dir/ü`, { recursive: true });
    for (let i = 0; i < 30; i++) {
      const at = ["", "sub dir/", "sub dir/ü/"][i % 3] ?? "";
      await Deno.writeFile(`${dir}/tree/${at}file+${i} &%.bin`, patternBytes(777 * i, i));
    }
    await Deno.writeFile(`${dir}/tree/big.bin`, patternBytes(21 * 2 ** 20 + 11, 3));
    await ok("mkdir", remote);
    await ok("copy", `${dir}/tree`, `${remote}/tree`);
    await ok("check", `${dir}/tree`, `${remote}/tree`);
    await ok("check", "--download", `${dir}/tree`, `${remote}/tree`);
    await ok("copy", `${remote}/tree`, `${dir}/copy`);
    await assertSameFile(`${dir}/tree/big.bin`, `${dir}/copy/big.bin`);
    await assertSameFile(
      `${dir}/tree/sub dir/ü/file+29 &%.bin`,
      `${dir}/copy/sub dir/ü/file+29 &%.bin`,
    );
    assert.equal(
      (await ok("lsf", "-R", "--files-only", `${remote}/tree`)).trim().split("\n").length,
      31,
    );
    await Deno.remove(`${dir}/tree/file+0 &%.bin`);
    await Deno.writeTextFile(`${dir}/tree/new.txt`, "new");
    await ok("sync", `${dir}/tree`, `${remote}/tree`);
    await ok("check", `${dir}/tree`, `${remote}/tree`);
    await Deno.writeTextFile(`${dir}/tree/new.txt`, "changed since");
    assert.notEqual((await call("check", `${dir}/tree`, `${remote}/tree`)).code, 0);
    await ok("copy", `${remote}/tree`, `${remote}/second`);
    await ok("check", `${remote}/tree`, `${remote}/second`);
    await ok("moveto", `${remote}/second/big.bin`, `${remote}/third.bin`);
    assert.equal((await ok("cat", `${remote}/tree/new.txt`)).trim(), "new");
    await ok("purge", remote);
  });
  return true;
}
