/** `kiseki control` against the real server: tenants, namespaces, the node, exit codes. */
import assert from "node:assert/strict";
import { Control, type Credential, type Device, kiseki, newTenant } from "./command.ts";
import { S3Client } from "./s3_client.ts";
import { removeData, startServer, type TestServer } from "./server.ts";

async function withServer(
  use: (server: TestServer, control: Control) => Promise<void>,
): Promise<void> {
  const server = await startServer();
  try {
    await use(server, new Control(server));
    assert.equal(await server.stop(), 0);
  } catch (error) {
    console.error(server.log().slice(-4000));
    throw error;
  } finally {
    await server.kill();
    await removeData(server.dataDir);
  }
}

function clientOf(server: TestServer, credential: Credential): S3Client {
  const { accessKeyId, secretAccessKey } = credential;
  return new S3Client({ s3: server.s3, accessKeyId, secretAccessKey });
}

Deno.test("an organisation made by control stores objects that no other one sees", async () => {
  await withServer(async (server, control) => {
    const acme = clientOf(server, await newTenant(control, "acme"));
    const rival = clientOf(server, await newTenant(control, "rival"));
    assert.equal((await acme.createBucket("models")).status, 200);
    assert.equal((await acme.put("models", "a", "acme's")).status, 200);

    assert.doesNotMatch((await rival.send({ method: "GET" })).text(), /models/);
    assert.match((await acme.send({ method: "GET" })).text(), /<Name>models<\/Name>/);
    assert.equal((await rival.get("models", "a")).code(), "NoSuchBucket");
    assert.equal((await rival.put("models", "a", "x")).code(), "NoSuchBucket");
    const list = await rival.send({ method: "GET", bucket: "models" });
    assert.equal(list.code(), "NoSuchBucket");

    // The same name is free for the other organisation.
    assert.equal((await rival.createBucket("models")).status, 200);
    assert.equal((await rival.put("models", "a", "rival's")).status, 200);
    assert.equal((await acme.get("models", "a")).text(), "acme's");
    assert.equal((await rival.get("models", "a")).text(), "rival's");
  });
});

Deno.test("a disabled credential is refused at once, and taken again when enabled", async () => {
  await withServer(async (server, control) => {
    const credential = await newTenant(control, "acme");
    const s3 = clientOf(server, credential);
    assert.equal((await s3.createBucket("models")).status, 200);
    await control.json("credential", "disable", credential.accessKeyId);
    const refused = await s3.put("models", "a", "x");
    assert.equal(refused.status, 403);
    assert.equal(refused.code(), "InvalidAccessKeyId");
    await control.json("credential", "enable", credential.accessKeyId);
    assert.equal((await s3.put("models", "a", "x")).status, 200);

    const place = ["--org", "acme", "--project", "weather", "--workload", "train"];
    const listed = await control.run("credential", "list", ...place, "--json");
    assert.match(listed.stdout, new RegExp(credential.accessKeyId));
    assert.doesNotMatch(listed.stdout, new RegExp(credential.secretAccessKey.slice(0, 16)));
    await control.json("credential", "delete", credential.accessKeyId);
    assert.equal((await s3.get("models", "a")).code(), "InvalidAccessKeyId");
  });
});

Deno.test("what still holds something is not deleted; emptied, it is", async () => {
  await withServer(async (server, control) => {
    const credential = await newTenant(control, "acme");
    const s3 = clientOf(server, credential);
    const org = ["--org", "acme"];
    const project = [...org, "--project", "weather"];
    await control.refused(1, /acme/, "org", "create", "acme");
    await control.refused(1, /weather|workload/, "project", "delete", "weather", ...org);
    await control.refused(1, /train|credential/, "workload", "delete", "train", ...project);

    await control.json("namespace", "create", "models", ...org);
    assert.equal((await s3.put("models", "a", "x")).status, 200, "a bucket made by control serves");
    await control.refused(1, /still holds/, "namespace", "delete", "models", ...org);
    await s3.remove("models", "a");
    await control.json("credential", "delete", credential.accessKeyId);
    await control.json("workload", "delete", "train", ...project);
    await control.json("project", "delete", "weather", ...org);
    await control.refused(1, /acme|namespace|holds/, "org", "delete", "acme");
    await control.json("namespace", "delete", "models", ...org);
    await control.json("org", "delete", "acme");
    const organisations = await control.json<readonly { name: string; state: string }[]>(
      "org",
      "list",
    );
    assert.deepEqual(organisations.map(({ name }) => name), ["dev"]);
  });
});

Deno.test("namespaces of control and buckets of S3 are the same things", async () => {
  await withServer(async (server, control) => {
    const s3 = new S3Client(server);
    const org = ["--org", "dev"];
    const names = async () =>
      (await control.json<readonly { name: string }[]>("namespace", "list", ...org))
        .map(({ name }) => name).sort();
    await s3.createBucket("from-s3");
    await control.json("namespace", "create", "from-control", ...org);
    assert.deepEqual(await names(), ["from-control", "from-s3"]);
    assert.equal((await s3.put("from-control", "k", "v")).status, 200);
    assert.equal((await s3.get("from-control", "k")).text(), "v");
    await s3.remove("from-control", "k");
    await control.json("namespace", "delete", "from-control", ...org);
    assert.equal((await s3.put("from-control", "k", "v")).code(), "NoSuchBucket");
    await control.json("namespace", "create", "from-control", ...org);
    assert.equal((await s3.put("from-control", "k", "again")).status, 200);
    assert.equal((await s3.get("from-control", "k")).text(), "again");
    await control.refused(1, /exists/, "namespace", "create", "from-s3", ...org);
    const shown = await control.json<{ name: string; versioning: string }>(
      "namespace",
      "show",
      "from-s3",
      ...org,
    );
    assert.equal(shown.name, "from-s3");
  });
});

Deno.test("control shows the node: devices, pools, shards, keys, status", async () => {
  await withServer(async (server, control) => {
    const s3 = new S3Client(server);
    await s3.createBucket("shown");
    assert.equal((await s3.put("shown", "big", new Uint8Array(100_000).fill(7))).status, 200);

    const devices = await control.json<readonly Device[]>("device", "list");
    assert.equal(devices.length, 1);
    assert.equal(devices[0]?.state, "ok");
    assert.equal(devices[0]?.fragments, 1);
    assert.deepEqual(devices[0]?.pools, ["default"]);
    const pools = await control.json<readonly { name: string; usedBytes: number }[]>(
      "pool",
      "list",
    );
    assert.equal(pools[0]?.name, "default");
    assert.ok((pools[0]?.usedBytes ?? 0) >= 100_000);
    await control.json("pool", "show", "default");
    const shards = await control.json<readonly { shard: number; state: string }[]>(
      "shard",
      "list",
    );
    assert.ok(shards.length >= 2, "the control shard and one of the organisation");
    assert.ok(shards.every(({ state }) => state === "leader"));
    const keys = await control.json<{ provider: string; manager: string }>("key", "status");
    assert.ok(["aws-lc", "openssl", "webcrypto"].includes(keys.provider));
    assert.equal(keys.manager, "embedded");
    const status = await control.json<{ ready: boolean; s3Address: string }>("status");
    assert.equal(status.ready, true);
    assert.equal(status.s3Address, server.s3);

    const scrub = await control.scrub();
    assert.equal(scrub.state, "done");
    assert.equal(scrub.badFragments, 0);
    assert.equal(scrub.checkedFragments, 1);
    assert.match(await control.text("status"), /ready +yes/);
    assert.match(await control.text("device", "list"), /DEVICE +PATH/);
  });
});

Deno.test("exit codes: 1 refused, 2 bad arguments, 3 nobody there, 4 wrong token", async () => {
  await withServer(async (server, control) => {
    await control.refused(1, /nobody/, "org", "show", "nobody");
    await control.refused(2, /no-such-flag/, "org", "list", "--no-such-flag");
    await control.refused(2, /--org/, "project", "list");
    await control.refused(2, /Not A Name|NAME|allowed/, "org", "create", "Not A Name");
    await control.refused(1, /configuration/, "device", "add", "/nowhere");
    assert.equal((await kiseki(["control", "no", "such"])).code, 2);
    assert.equal((await kiseki(["nothing"])).code, 2);
    assert.equal((await kiseki([])).code, 2);
    assert.equal((await kiseki(["--help"])).code, 0);
    assert.equal((await kiseki(["control", "org", "--help"])).code, 0);

    const endpoint = { KISEKI_ENDPOINT: server.fabric };
    const list = ["control", "org", "list"];
    const wrong = await kiseki(list, { ...endpoint, KISEKI_TOKEN: "a".repeat(43) });
    assert.equal(wrong.code, 4, wrong.stderr);
    assert.match(wrong.stderr, /token/);
    assert.equal((await kiseki(list, endpoint)).code, 4, "no token at all");
    const json = await kiseki([...list, "--json"], endpoint);
    const said = JSON.parse(json.stderr) as { error: { code: string }; exitCode: number };
    assert.deepEqual([said.error.code, said.exitCode], ["common.unauthenticated", 4]);

    const free = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = free.addr as Deno.NetAddr;
    free.close();
    const nobody = await kiseki([...list, "--timeout", "5"], {
      KISEKI_ENDPOINT: `127.0.0.1:${port}`,
      KISEKI_TOKEN: "a".repeat(43),
    });
    assert.equal(nobody.code, 3, nobody.stderr);
    assert.match(nobody.stderr, new RegExp(`127\\.0\\.0\\.1:${port}`));
  });
});
