/**
 * Real S3 clients against the gateway over the in-memory namespace, through Deno.serve. aws-cli takes
 * two seconds a call and runs against the real server alone (test/e2e/s3_clients_test.ts).
 */
import { runBoto3 } from "../../../test/e2e/clients/boto3.ts";
import { runRclone } from "../../../test/e2e/clients/rclone.ts";
import { runS3cmd } from "../../../test/e2e/clients/s3cmd.ts";
import type { Endpoint } from "../../../test/e2e/clients/tools.ts";
import { SYSTEM_CLOCK } from "../../common/clock.ts";
import { stderrLogger } from "../../common/logging.ts";
import { createS3Handler } from "./handler.ts";
import { MemoryNamespaces, tableResolver, testCrypto, testIdentity } from "./testing.ts";

const ACCESS_KEY = "AKIACLIENTS";
const SECRET_KEY = "a/secret+key/for=clients";

async function withGateway(use: (endpoint: Endpoint) => Promise<unknown>): Promise<void> {
  const crypto = testCrypto();
  const identity = testIdentity(ACCESS_KEY);
  const handler = createS3Handler({
    namespaces: new MemoryNamespaces(crypto, SYSTEM_CLOCK),
    credentials: tableResolver(new Map([[ACCESS_KEY, { secret: SECRET_KEY, identity }]])),
    crypto,
    clock: SYSTEM_CLOCK,
    region: "us-east-1",
    domains: ["localhost"],
    logger: stderrLogger("warn"),
    preflight: { ownerOf: () => Promise.resolve(identity) },
  });
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, handler);
  try {
    await use({
      s3: `http://127.0.0.1:${server.addr.port}`,
      accessKeyId: ACCESS_KEY,
      secretAccessKey: SECRET_KEY,
    });
  } finally {
    await server.shutdown();
  }
}

Deno.test("s3cmd works against the gateway", async () => {
  await withGateway((endpoint) => runS3cmd(endpoint, "s3cmd-bucket"));
});

Deno.test("rclone works against the gateway", async () => {
  await withGateway((endpoint) => runRclone(endpoint, "rclone-bucket"));
});

Deno.test("boto3 works against the gateway", async () => {
  await withGateway((endpoint) => runBoto3(endpoint, "boto3-bucket"));
});
