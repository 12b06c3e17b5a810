/** Real S3 clients against the real server: aws-cli, s3cmd, rclone, boto3. */
import { runAwsCli } from "./clients/aws_cli.ts";
import { runBoto3 } from "./clients/boto3.ts";
import { runRclone } from "./clients/rclone.ts";
import { runS3cmd } from "./clients/s3cmd.ts";
import type { Endpoint } from "./clients/tools.ts";
import { startServer } from "./server.ts";

/** Buckets are named after the time, so that a suite can run twice on one server. */
function bucketName(client: string): string {
  return `${client}-${Date.now().toString(36)}`;
}

async function withServer(use: (endpoint: Endpoint) => Promise<unknown>): Promise<void> {
  const server = await startServer();
  try {
    await use(server);
  } finally {
    await server.stop();
  }
}

Deno.test("aws-cli works against the server", async () => {
  await withServer((endpoint) => runAwsCli(endpoint, bucketName("awscli")));
});

Deno.test("s3cmd works against the server", async () => {
  await withServer((endpoint) => runS3cmd(endpoint, bucketName("s3cmd")));
});

Deno.test("rclone works against the server", async () => {
  await withServer((endpoint) => runRclone(endpoint, bucketName("rclone")));
});

Deno.test("boto3 works against the server", async () => {
  await withServer((endpoint) => runBoto3(endpoint, bucketName("boto3")));
});
