/** Runs the boto3 suite (boto3_suite.py) against a gateway. */
import { fileURLToPath } from "node:url";
import { assertRan, type Endpoint, run, withScratch } from "./tools.ts";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const SUITE = fileURLToPath(new URL("./boto3_suite.py", import.meta.url));

/** A python that has boto3: the project's own environment, or what KISEKI_PYTHON names. */
async function findPython(): Promise<string | undefined> {
  const candidates = [
    Deno.env.get("KISEKI_PYTHON"),
    `${ROOT}.tools/venv/bin/python`,
    "/usr/bin/python3",
  ];
  for (const python of candidates) {
    if (python === undefined) continue;
    try {
      if ((await run(python, ["-c", "import boto3"])).code === 0) return python;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  console.error("SKIPPED: boto3: no python with boto3 (KISEKI_PYTHON, .tools/venv, python3)");
  return undefined;
}

/** Runs the suite; returns false when boto3 is not installed. */
export async function runBoto3(endpoint: Endpoint, bucket: string): Promise<boolean> {
  const python = await findPython();
  if (python === undefined) return false;
  await withScratch(async (dir) => {
    const ran = await run(python, ["-B", SUITE, endpoint.s3, bucket], {
      env: {
        HOME: dir,
        AWS_ACCESS_KEY_ID: endpoint.accessKeyId,
        AWS_SECRET_ACCESS_KEY: endpoint.secretAccessKey,
        AWS_DEFAULT_REGION: "us-east-1",
        AWS_EC2_METADATA_DISABLED: "true",
      },
      cwd: dir,
    });
    console.log(assertRan(ran, "boto3_suite.py").trim());
  });
  return true;
}
