import assert from "node:assert/strict";
import { Client, credentials, Metadata } from "@grpc/grpc-js";
import { Buffer } from "node:buffer";
import { testProvider } from "../../test/providers.ts";
import { SYSTEM_CLOCK } from "../common/clock.ts";
import { KisekiError } from "../common/errors.ts";
import { SILENT_LOGGER } from "../common/logging.ts";
import { memoryNamespaces, memoryNode } from "../control/admin_testing.ts";
import { adminOf, type AdminServer, startAdminServer } from "../control/admin_server.ts";
import { adminHandlers, type AdminServiceOptions } from "../control/admin_service.ts";
import { loadOrCreateAdminToken, readAdminToken } from "../control/admin_token.ts";
import { createTenancy, type Tenancy } from "../control/tenancy.ts";
import { TenancyEvaluator } from "../control/tenancy_evaluator.ts";
import { MemoryKeys, MemoryShard, protoText } from "../control/testing.ts";
import { ExitCode, type Terminal } from "./command_line.ts";
import { main } from "./control.ts";
import { CONTROL_COMMANDS } from "./control_commands.ts";

const TOKEN = "t".repeat(43);

interface Tls {
  readonly certificate: string;
  readonly key: string;
  readonly clientCa: string;
}

async function withServer(
  use: (endpoint: string, server: AdminServer) => Promise<void>,
  options: { readonly tls?: Tls; readonly broken?: Partial<AdminServiceOptions["node"]> } = {},
): Promise<void> {
  const keys = new MemoryKeys(testProvider());
  const namespaces = memoryNamespaces();
  const tenancyProto = protoText("tenancy.proto");
  const tenancy: Tenancy = createTenancy({
    shards: new MemoryShard(new TenancyEvaluator(tenancyProto)),
    keys,
    crypto: testProvider(),
    clock: SYSTEM_CLOCK,
    organisationKeys: keys,
    shardAdmin: {
      createShard: (organisation) => tenancy.allocateShard(organisation),
      removeShard: async () => {},
    },
    contents: { isEmpty: async (organisation) => namespaces.isEmpty(organisation) },
    protoText: tenancyProto,
  });
  const server = await startAdminServer({
    handlers: adminHandlers({
      tenancy,
      namespaces: namespaces.service,
      node: { ...memoryNode(), ...options.broken },
    }),
    protoText: protoText("control.proto"),
    token: TOKEN,
    cluster: "kiseki",
    listen: { host: "127.0.0.1", port: 0 },
    logger: SILENT_LOGGER,
    ...(options.tls === undefined ? {} : { tls: options.tls }),
  });
  try {
    await use(`127.0.0.1:${server.address.port}`, server);
  } finally {
    await server.stop(1000);
  }
}

interface Ran {
  readonly exitCode: number;
  readonly out: string;
  readonly error: string;
}

async function kiseki(
  line: string,
  environment: Readonly<Record<string, string>>,
  isTerminal = false,
): Promise<Ran> {
  let out = "";
  let error = "";
  const terminal: Terminal = {
    isTerminal,
    out: (text) => void (out += text + "\n"),
    error: (text) => void (error += text + "\n"),
  };
  const args = line.split(" ").filter((word) => word !== "");
  const exitCode = await main(args, terminal, (name) => environment[name]);
  return { exitCode, out, error };
}

Deno.test("an operator's whole day: every noun and verb of the control command", async () => {
  await withServer(async (endpoint) => {
    const environment = { KISEKI_TOKEN: TOKEN, KISEKI_ENDPOINT: endpoint };
    const run = async (line: string) => {
      const ran = await kiseki(`control ${line}`, environment);
      assert.equal(ran.exitCode, 0, `${line}: ${ran.error}`);
      assert.equal(ran.error, "", line);
      return ran.out;
    };
    const json = async (line: string) => JSON.parse(await run(`${line} --json`));

    assert.match(await run("org list"), /no organisation yet/);
    assert.deepEqual(await json("org list"), []);
    const acme = await json("org create acme");
    assert.match(acme.id, /^[0-9a-f]{32}$/);
    assert.equal(acme.state, "active");
    assert.match(await run("org show acme"), /state +active/);
    assert.equal((await json(`org show ${acme.id}`)).name, "acme");
    await run("project create weather --org acme");
    await run("workload create train --org acme --project weather");
    assert.match(await run("project list --org acme"), /^NAME +ID +CREATED\nweather/);
    assert.equal((await json("workload list --org acme --project weather")).length, 1);
    assert.equal((await json("project show weather --org acme")).name, "weather");
    await run("workload show train --org=acme --project=weather");

    const place = "--org acme --project weather --workload train";
    const credential = await json(`credential create ${place} --comment laptop`);
    assert.match(credential.secretAccessKey, /^.{40}$/);
    const listed = await run(`credential list ${place}`);
    assert.ok(listed.includes(credential.accessKeyId) && listed.includes("laptop"));
    assert.ok(!listed.includes(credential.secretAccessKey));
    assert.ok(!JSON.stringify(await json(`credential list ${place}`)).includes("secret"));
    const disabled = await json(`credential disable ${credential.accessKeyId}`);
    assert.equal(disabled.state, "disabled");
    assert.equal((await json(`credential enable ${credential.accessKeyId}`)).state, "active");

    await run("namespace create models --org acme");
    assert.match(await run("namespace list --org acme"), /models +[0-9a-f]{32} +unversioned/);
    assert.equal((await json("namespace show models --org acme")).name, "models");

    const device = await json("device add /srv/device1 --size 64GiB --class hdd --pool wide");
    assert.equal(device.capacityBytes, 64 * 2 ** 30);
    assert.match(await run("device list"), /64 GiB/);
    const next = await json(`device replace ${device.device} /srv/device2 --class hdd`);
    const pool = await json(
      `pool create wide --device ${next.device} --data 2 --parity 1 --full-percent 90`,
    );
    assert.deepEqual([pool.data, pool.parity, pool.copies], [2, 1, 0]);
    assert.match(await run("pool list"), /wide +ec 2\+1/);
    assert.match(await run("pool show wide"), /\/srv\/device2/);
    assert.equal((await json("pool set wide --full-percent 80")).fullPercent, 80);
    await run(`device remove ${next.device} --force`);

    assert.match(await run("shard list"), /leader/);
    assert.equal((await json("scrub start")).state, "running");
    assert.match(await run("scrub status"), /state +running/);
    assert.match(await run("status"), /cluster kiseki/);
    assert.equal((await json("key status")).provider, "openssl");

    await run("namespace delete models --org acme");
    await run(`credential delete ${credential.accessKeyId}`);
    await run("workload delete train --org acme --project weather");
    await run("project delete weather --org acme");
    assert.deepEqual(await json("org delete acme"), { ok: true });
  });
});

Deno.test("exit codes: 1 failed, 2 bad arguments, 3 unreachable, 4 not authorised", async () => {
  await withServer(async (endpoint) => {
    const environment = { KISEKI_TOKEN: TOKEN, KISEKI_ENDPOINT: endpoint };
    const expect = async (line: string, exitCode: number, text: RegExp, more = {}) => {
      const ran = await kiseki(`control ${line}`, { ...environment, ...more });
      assert.equal(ran.exitCode, exitCode, `${line}: ${ran.error}`);
      assert.match(ran.error, text, line);
      assert.equal(ran.out, "", line);
    };
    await expect("org show nobody", ExitCode.failed, /no such organisation: nobody/);
    await expect("device add /foreign", ExitCode.failed, /holds something else/);
    await expect("org create Bad!", ExitCode.usage, /allowed: 1 to 63/);
    await expect("org create", ExitCode.usage, /NAME is missing\nusage: kiseki control org create/);
    await expect("org create a b", ExitCode.usage, /too many arguments: b/);
    await expect("org mend a", ExitCode.usage, /kiseki control org mend: no such command/);
    await expect("org list --colour", ExitCode.usage, /--colour: no such option/);
    await expect("project list", ExitCode.usage, /--org is missing/);
    await expect("device add /a --size 1furlong", ExitCode.usage, /--size: found "1furlong"/);
    await expect("pool create p --class a --copies 9", ExitCode.usage, /--copies: found "9"/);
    await expect("pool create p --class a", ExitCode.usage, /durability: found copies 0/);
    await expect("device remove xyz", ExitCode.usage, /device: not a 128-bit id/);
    await expect("status --endpoint here", ExitCode.usage, /--endpoint: found "here"/);
    await expect("status --cert a --key b", ExitCode.usage, /--cert goes with --ca/);
    await expect("status", ExitCode.unreachable, /127\.0\.0\.1:1 cannot be reached/, {
      KISEKI_ENDPOINT: "127.0.0.1:1",
    });
    await expect("status", ExitCode.unauthorised, /not the admin token/, {
      KISEKI_TOKEN: "u".repeat(43),
    });
    const nobody = await kiseki("control status", { KISEKI_ENDPOINT: endpoint });
    assert.equal(nobody.exitCode, ExitCode.unauthorised);
    assert.match(nobody.error, /who are you\?/);
    const machine = await kiseki("control org show nobody --json", environment);
    assert.deepEqual(JSON.parse(machine.error), {
      error: { code: "common.not_found", message: "no such organisation: nobody" },
      exitCode: 1,
    });
  });
});

Deno.test("a stranger's error tells the caller nothing", async () => {
  const broken = {
    status: () => Promise.reject(new TypeError("secret inner state")),
    keyStatus: () => Promise.reject(new KisekiError("keys.unavailable", "no lease")),
  };
  await withServer(async (endpoint) => {
    const environment = { KISEKI_TOKEN: TOKEN, KISEKI_ENDPOINT: endpoint };
    const ran = await kiseki("control status", environment);
    assert.equal(ran.exitCode, 1);
    assert.match(ran.error, /internal error: see the server's log/);
    assert.ok(!ran.error.includes("secret"));
    const keys = await kiseki("control key status --json", environment);
    assert.equal(JSON.parse(keys.error).error.code, "keys.unavailable");
  }, { broken });
});

Deno.test("a call ends at its deadline", async () => {
  const broken = { status: () => new Promise<never>(() => {}) };
  await withServer(async (endpoint) => {
    const ran = await kiseki("control status --timeout 1", {
      KISEKI_TOKEN: TOKEN,
      KISEKI_ENDPOINT: endpoint,
    });
    assert.equal(ran.exitCode, ExitCode.unreachable);
    assert.match(ran.error, /in time|deadline/);
  }, { broken });
});

Deno.test("bytes that are no message and messages too long are refused", async () => {
  await withServer(async (endpoint) => {
    const client = new Client(endpoint, credentials.createInsecure());
    const metadata = new Metadata();
    metadata.set("authorization", `Bearer ${TOKEN}`);
    const send = (bytes: Uint8Array) =>
      new Promise<number>((resolve) => {
        client.makeUnaryRequest(
          "/kiseki.v1.Control/CreateOrganisation",
          (message: Uint8Array) => Buffer.from(message),
          (answer: Buffer) => answer,
          bytes,
          metadata,
          (error) => resolve(error?.code ?? 0),
        );
      });
    const seen = new Set<number>();
    for (let i = 0; i < 200; i++) {
      const bytes = crypto.getRandomValues(new Uint8Array(1 + i));
      seen.add(await send(bytes));
    }
    assert.ok(!seen.has(0), "random bytes made an organisation");
    assert.equal(await send(new Uint8Array(2 << 20)), 8, "RESOURCE_EXHAUSTED");
    client.close();
  });
});

Deno.test("every command has help with an example that parses", async () => {
  for (const { spec } of CONTROL_COMMANDS) {
    const ran = await kiseki(`${spec.path.join(" ")} --help`, {});
    assert.equal(ran.exitCode, 0);
    assert.ok(ran.out.includes(`example:\n  ${spec.example}`), ran.out);
    assert.ok(spec.example.startsWith(`kiseki ${spec.path.join(" ")}`), spec.example);
    const tried = await kiseki(spec.example.slice("kiseki ".length), {
      KISEKI_ENDPOINT: "127.0.0.1:1",
      KISEKI_TOKEN: TOKEN,
    });
    assert.equal(tried.exitCode, ExitCode.unreachable, `${spec.example}: ${tried.error}`);
  }
  const listing = await kiseki("control --help", {});
  assert.equal(listing.exitCode, 0);
  assert.match(listing.out, /kiseki control credential create/);
});

Deno.test("colours are for terminals alone", async () => {
  await withServer(async (endpoint) => {
    const environment = { KISEKI_TOKEN: TOKEN, KISEKI_ENDPOINT: endpoint };
    const esc = String.fromCharCode(27);
    assert.ok(!(await kiseki("control status", environment)).out.includes(esc));
    assert.ok((await kiseki("control status", environment, true)).out.includes(esc));
    assert.ok(!(await kiseki("control status --json", environment, true)).out.includes(esc));
  });
});

Deno.test("the token file is made once, for its owner alone, and refused when others may read", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const file = `${directory}/admin.token`;
    const token = await loadOrCreateAdminToken(file);
    assert.match(token, /^[A-Za-z0-9_-]{43}$/);
    assert.equal(await loadOrCreateAdminToken(file), token);
    assert.equal(((await Deno.stat(file)).mode ?? 0) & 0o777, 0o600);
    await Deno.chmod(file, 0o644);
    await assert.rejects(readAdminToken(file), /found mode 644; allowed: 600/);
    await Deno.chmod(file, 0o600);
    await Deno.writeTextFile(file, "short\n");
    await assert.rejects(loadOrCreateAdminToken(file), /holds no token/);
    await assert.rejects(readAdminToken(`${directory}/none`), /no such token file/);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("only a SPIFFE id of an administrator of this cluster is one", () => {
  const name = "spiffe://kiseki/hpc/admin/eve";
  assert.equal(adminOf(`DNS:a, URI:${name}`, "hpc"), name);
  assert.equal(adminOf(`URI:${name}`, "other"), undefined);
  assert.equal(adminOf("URI:spiffe://kiseki/hpc/node/1", "hpc"), undefined);
  assert.equal(adminOf("URI:spiffe://kiseki/hpc/admin/", "hpc"), undefined);
  assert.equal(adminOf("URI:spiffe://kiseki/hpc/admin/a/b", "hpc"), undefined);
  assert.equal(adminOf(`DNS:${name}`, "hpc"), undefined);
  assert.equal(adminOf(`"URI:x, URI:${name}"`, "hpc"), undefined);
});

Deno.test("with TLS, an administrator's certificate opens the door and a node's does not", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const authority = await makeAuthority(directory);
    const server = await authority("server", "DNS:localhost,IP:127.0.0.1");
    const admin = await authority("admin", "URI:spiffe://kiseki/kiseki/admin/ada");
    const node = await authority("node", "URI:spiffe://kiseki/kiseki/node/1");
    const clientCa = await Deno.readTextFile(`${directory}/ca.pem`);
    const tls = {
      certificate: await Deno.readTextFile(server.cert),
      key: await Deno.readTextFile(server.key),
      clientCa,
    };
    await withServer(async (endpoint) => {
      const as = (who: { cert: string; key: string }) =>
        kiseki(
          `control status --json --ca ${directory}/ca.pem --cert ${who.cert} --key ${who.key}`,
          { KISEKI_ENDPOINT: endpoint },
        );
      const ada = await as(admin);
      assert.equal(ada.exitCode, 0, ada.error);
      const one = await as(node);
      assert.equal(one.exitCode, ExitCode.unauthorised, one.error);
      assert.match(one.error, /no administrator's/);
      const bare = await kiseki(`control status --ca ${directory}/ca.pem --timeout 5`, {
        KISEKI_ENDPOINT: endpoint,
        KISEKI_TOKEN: TOKEN,
      });
      assert.equal(bare.exitCode, ExitCode.unreachable, "no certificate, no connection");
    }, { tls });
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

async function openssl(...args: string[]): Promise<void> {
  const ran = await new Deno.Command("openssl", { args, stdout: "null", stderr: "piped" }).output();
  assert.ok(ran.success, new TextDecoder().decode(ran.stderr));
}

async function makeAuthority(directory: string) {
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  const caKey = `${directory}/ca.key`;
  const ca = `${directory}/ca.pem`;
  const caArgs = ["-x509", ...curve, "-keyout", caKey, "-out", ca, "-subj", "/CN=ca"];
  await openssl("req", ...caArgs, "-days", "1");
  return async (name: string, subjectAltName: string) => {
    const key = `${directory}/${name}.key`;
    const cert = `${directory}/${name}.pem`;
    await openssl(
      ...["req", "-x509", ...curve, "-keyout", key, "-out", cert, "-subj", `/CN=${name}`],
      ...["-CA", ca, "-CAkey", caKey, "-days", "1", "-addext", `subjectAltName=${subjectAltName}`],
      ...["-addext", "basicConstraints=critical,CA:FALSE"],
    );
    return { key, cert };
  };
}
