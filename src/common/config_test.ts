import assert from "node:assert/strict";
import fc from "fast-check";
import { testRounds, testSeed } from "../../test/rounds.ts";
import { devConfig, parseServerConfig } from "./config.ts";
import {
  formatListenAddress,
  formatSize,
  parseListenAddress,
  parseName,
  parseSize,
} from "./config_values.ts";
import { isKisekiError, KisekiError } from "./errors.ts";

const WHOLE = `
data_dir = "/var/lib/kiseki"
node = "storage-7"
cluster = "hpc"
region = "eu-central-1"
domains = ["s3.example.com"]
gateways = 4
fips = "require"

[listen]
s3 = "[::]:9000"
admin = "127.0.0.1:9090"
fabric = "10.0.0.7:9100"
nfs = "0.0.0.0:2049"

[[devices]]
path = "/dev/nvme0n1"
class = "fast-nvme"

[[devices]]
path = "/srv/device1"
size = "64GiB"
class = "fast-nvme"

[[devices]]
path = "/srv/device2"
size = 68719476736
class = "hdd"

[[pools]]
name = "fast"
class = "fast-nvme"
copies = 2

[[pools]]
name = "wide"
devices = ["/dev/nvme0n1", "/srv/device1", "/srv/device2"]
data = 2
parity = 1
full_percent = 90

[log]
directory = "/var/lib/kiseki-log"
segment_size = "32MiB"

[memory]
tables = "1GiB"
block_cache = "128MiB"
chunk_buffers = "256MiB"

[keys]
root_key_file = "/etc/kiseki/root.key"

[logging]
level = "debug"

[limits]
connections = 500
chunk_window = 8
drain_ms = 1000

[tls]
certificate_file = "/etc/kiseki/s3.pem"
key_file = "/etc/kiseki/s3.key"

[fabric_tls]
certificate_file = "/etc/kiseki/node.pem"
key_file = "/etc/kiseki/node.key"
client_ca_file = "/etc/kiseki/ca.pem"

[admin]
token_file = "/etc/kiseki/token"
`;

const LEAST = 'data_dir = "/d"\n';

function refusal(text: string, environment: Record<string, string> = {}): string {
  try {
    parseServerConfig(text, "kiseki.toml", environment);
  } catch (error) {
    assert.ok(isKisekiError(error, "config.invalid"), String(error));
    return error.message;
  }
  throw new assert.AssertionError({ message: `accepted: ${text}` });
}

Deno.test("a whole file becomes a typed configuration", () => {
  const config = parseServerConfig(WHOLE, "kiseki.toml");
  assert.equal(config.node, "storage-7");
  assert.deepEqual(config.listen.s3, { host: "::", port: 9000 });
  assert.deepEqual(config.listen.nfs, { host: "0.0.0.0", port: 2049 });
  assert.deepEqual(config.devices[1], {
    path: "/srv/device1",
    sizeBytes: 64 * 2 ** 30,
    class: "fast-nvme",
  });
  assert.deepEqual(config.pools[0]?.durability, { scheme: "copies", copies: 2 });
  assert.deepEqual(config.pools[1]?.durability, { scheme: "erasure", data: 2, parity: 1 });
  assert.equal(config.pools[1]?.fullPercent, 90);
  assert.equal(config.log.segmentBytes, 32 * 2 ** 20);
  assert.equal(config.fabricTls?.clientCaFile, "/etc/kiseki/ca.pem");
  assert.equal(config.limits.drainMs, 1000);
});

Deno.test("what is left out has defaults below the data directory", () => {
  const config = parseServerConfig(LEAST, "kiseki.toml");
  assert.equal(config.log.directory, "/d/log");
  assert.equal(config.keys.rootKeyFile, "/d/root.key");
  assert.equal(config.admin.tokenFile, "/d/admin.token");
  assert.equal(formatListenAddress(config.listen.fabric), "0.0.0.0:9100");
  assert.equal(config.tls, undefined);
});

Deno.test("--dev listens on 127.0.0.1 with one device and one pool of one copy", () => {
  const config = devConfig(
    { dataDir: '/tmp/a "b"', s3Listen: { host: "127.0.0.1", port: 0 } },
    { KISEKI_GATEWAYS: "2" },
  );
  assert.equal(config.dev, true);
  assert.equal(config.gateways, 2);
  assert.deepEqual(config.listen.s3, { host: "127.0.0.1", port: 0 });
  assert.equal(config.listen.admin.host, "127.0.0.1");
  assert.equal(config.devices[0]?.path, '/tmp/a "b"/device0');
  assert.deepEqual(config.pools[0]?.durability, { scheme: "copies", copies: 1 });
});

Deno.test("the environment overrides the file, and is named when it is wrong", () => {
  const config = parseServerConfig(LEAST, "kiseki.toml", {
    KISEKI_LISTEN_S3: "127.0.0.1:0",
    KISEKI_DOMAINS: "a.example, b.example",
    KISEKI_LOG_SEGMENT_SIZE: "2MiB",
    KISEKI_GATEWAYS: "3",
  });
  assert.deepEqual(config.listen.s3, { host: "127.0.0.1", port: 0 });
  assert.deepEqual(config.domains, ["a.example", "b.example"]);
  assert.equal(config.log.segmentBytes, 2 ** 21);
  assert.equal(config.gateways, 3);
  assert.equal(
    refusal(LEAST, { KISEKI_GATEWAYS: "many" }),
    'environment variable KISEKI_GATEWAYS: gateways: found "many"; allowed: a whole number, 1 to 256',
  );
});

const REFUSALS: readonly (readonly [text: string, expected: string])[] = [
  ["", "kiseki.toml: data_dir: found nothing; allowed: a path of 1 to 4096 bytes"],
  ['data_dir = ""', 'data_dir: found ""; allowed: a path'],
  [LEAST + 'node = "A b"', 'kiseki.toml: node: found "A b"; allowed: 1 to 63 of'],
  [LEAST + "cluster = 3", "kiseki.toml: cluster: found 3; allowed: 1 to 63"],
  [LEAST + "region = []", "kiseki.toml: region: found a list of 0; allowed: 1 to 63"],
  [LEAST + 'domains = ["a_b"]', 'kiseki.toml: domains.0: found "a_b"; allowed: a DNS name'],
  [LEAST + "domains = 7", "kiseki.toml: domains: found 7; allowed: a list of DNS names"],
  [LEAST + "gateways = 0", "gateways: found 0; allowed: a whole number, 1 to 256"],
  [LEAST + "gateways = 1.5", "gateways: found 1.5; allowed: a whole number, 1 to 256"],
  [LEAST + 'fips = "on"', 'fips: found "on"; allowed: "off" or "require"'],
  [LEAST + "listen = 4", "kiseki.toml: listen: found 4; allowed: a table with s3, admin, fabric"],
  [LEAST + '[listen]\ns3 = "9000"', 'listen.s3: found "9000"; allowed: HOST:PORT'],
  [LEAST + '[listen]\nadmin = "a:65536"', 'listen.admin: found "a:65536"; allowed: HOST:PORT'],
  [LEAST + "[listen]\nfabric = true", "listen.fabric: found true; allowed: HOST:PORT"],
  [LEAST + '[listen]\nnfs = ""', 'listen.nfs: found ""; allowed: HOST:PORT'],
  [LEAST + '[listen]\ns4 = "a:1"', "listen.s4: found an unknown key; allowed: s3, admin, fabric"],
  [LEAST + "secret = 1", "secret: found an unknown key; allowed: data_dir, node"],
  [LEAST + "[[devices]]\nsize = 1", "devices.0.path: found nothing; allowed: a path"],
  [LEAST + '[[devices]]\npath="/a"\nsize="1MiB"', 'devices.0.size: found "1MiB"; allowed: a size'],
  [LEAST + '[[devices]]\npath="/a"\nsize="1XB"', 'devices.0.size: found "1XB"; allowed: a size'],
  [LEAST + '[[devices]]\npath="/a"\nclass=1', "devices.0.class: found 1; allowed: 1 to 63"],
  [LEAST + '[[devices]]\npath="/a"\nx=1', "devices.0.x: found an unknown key; allowed: path, size"],
  [LEAST + '[[devices]]\npath="/a"\n[[devices]]\npath="/a"', 'devices: found "/a" twice'],
  [LEAST + '[[pools]]\nclass="ssd"\ncopies=1', "pools.0.name: found nothing"],
  [LEAST + '[[pools]]\nname="p"\ncopies=1', "pools.0: found neither devices nor class"],
  [
    LEAST + '[[pools]]\nname="p"\nclass="ssd"\ncopies=1',
    "pools.0: found 0 devices for 1 fragments",
  ],
  [LEAST + '[[pools]]\nname="p"\nclass="ssd"', "pools.0: found no durability; allowed: copies"],
  [LEAST + '[[pools]]\nname="p"\ndevices=["/x"]\ncopies=1', 'pools.0.devices: found "/x"; allowed'],
  [
    LEAST + '[[pools]]\nname="p"\nclass="ssd"\ncopies=6',
    "pools.0.copies: found 6; allowed: a whole",
  ],
  [LEAST + '[[pools]]\nname="p"\nclass="ssd"\ndata=1\nparity=1', "pools.0.data: found 1; allowed"],
  [LEAST + '[[pools]]\nname="p"\nclass="s"\nfull_percent=100', "full_percent: found 100; allowed"],
  [LEAST + '[log]\nsegment_size="1B"', 'log.segment_size: found "1B"; allowed: a size'],
  [LEAST + "[log]\ndirectory=1", "log.directory: found 1; allowed: a path"],
  [LEAST + '[memory]\ntables="1"', 'memory.tables: found "1"; allowed: a size'],
  [LEAST + "[memory]\nblock_cache=1", "memory.block_cache: found 1; allowed: a size"],
  [LEAST + "[memory]\nchunk_buffers=1", "memory.chunk_buffers: found 1; allowed: a size"],
  [LEAST + "[keys]\nroot_key_file=1", "keys.root_key_file: found 1; allowed: a path"],
  [LEAST + '[keys]\nroot_key="aa"', "keys.root_key: found an unknown key; allowed: root_key_file"],
  [LEAST + '[logging]\nlevel="loud"', 'logging.level: found "loud"; allowed: "debug" or "info"'],
  [LEAST + "[limits]\nconnections=0", "limits.connections: found 0; allowed: a whole number"],
  [LEAST + "[limits]\nchunk_window=65", "limits.chunk_window: found 65; allowed: a whole number"],
  [LEAST + "[limits]\ndrain_ms=-1", "limits.drain_ms: found -1; allowed: a whole number"],
  [LEAST + '[tls]\ncertificate_file="/a"', "tls.key_file: found nothing; allowed: a path"],
  [LEAST + '[fabric_tls]\nkey_file="/a"', "fabric_tls.certificate_file: found nothing"],
  [LEAST + "[admin]\ntoken_file=1", "admin.token_file: found 1; allowed: a path"],
];

Deno.test("a refusal names file, key, what was found and what is allowed", () => {
  for (const [text, expected] of REFUSALS) {
    const message = refusal(text);
    assert.ok(message.includes(expected), `${JSON.stringify(text)}\n  ${message}\n  ${expected}`);
    assert.ok(message.startsWith("kiseki.toml: "), message);
    assert.ok(message.includes("; allowed: "), message);
  }
});

Deno.test("durability is copies or erasure coding, not both and not neither", () => {
  const base = LEAST + '[[devices]]\npath="/a"\n[[devices]]\npath="/b"\n[[devices]]\npath="/c"\n';
  const pool = '[[pools]]\nname="p"\nclass="ssd"\n';
  assert.match(refusal(base + pool), /pools\.0: found no durability; allowed: copies, or data and/);
  assert.match(refusal(base + pool + "copies=1\ndata=2\nparity=1"), /found copies, data, parity/);
  assert.match(refusal(base + pool + "data=2"), /found data; allowed: copies, or data and parity/);
  assert.match(refusal(base + pool + "data=2\nparity=2"), /3 devices for 4 fragments/);
  assert.match(
    refusal(base + pool + 'copies=1\ndevices=["/a"]'),
    /found devices and class; allowed: one of/,
  );
});

Deno.test("text that is not TOML is refused with its place", () => {
  assert.match(refusal('data_dir = "/d"\nnode = '), /^kiseki\.toml:2:\d+: not TOML: /);
  assert.match(refusal("a = " + "[".repeat(200_000)), /^kiseki\.toml.*: not TOML: /);
  assert.match(refusal("#".repeat((1 << 20) + 1)), /at most 1048576/);
});

Deno.test("sizes, addresses and names parse as documented", () => {
  assert.equal(parseSize("64MiB"), 64 * 2 ** 20);
  assert.equal(parseSize("1.5 GiB"), 1.5 * 2 ** 30);
  assert.equal(parseSize("2TB"), 2e12);
  for (const bad of ["", "-1", "1.23456B", "1e3", "MiB", "9999999TiB", NaN, -1, null]) {
    assert.equal(parseSize(bad), undefined, String(bad));
  }
  assert.equal(formatSize(64 * 2 ** 20), "64MiB");
  assert.equal(formatSize(1500), "1500B");
  for (const bad of ["", ":1", "a:", "a:99999", "[::1:5", "a b:1", "::1:5"]) {
    assert.equal(parseListenAddress(bad), undefined, bad);
  }
  assert.equal(parseName("a".repeat(64)), undefined);
  assert.equal(parseName("-a"), undefined);
  assert.equal(parseName("a.b_c-d0"), "a.b_c-d0");
});

Deno.test("random and mutated TOML gives a configuration or one clear refusal", () => {
  const seed = testSeed("config fuzz");
  const lines = WHOLE.split("\n");
  const mutated = fc.tuple(
    fc.nat(lines.length - 1),
    fc.oneof(
      fc.constantFrom("", "[", "]]", "= 1", "[a.b]", "x = {a={b=[1,{}]}}", '"', "'''", "\u0000"),
      fc.string(),
      fc.constantFrom("[listen]", "[[pools]]", "[log]\nx=inf", "tls = []", "__proto__ = 1"),
      fc.constantFrom("[__proto__]\na=1", "constructor = {}", "d = 1979-05-27T07:32:00Z"),
    ),
    fc.boolean(),
  ).map(([at, text, replace]) => lines.toSpliced(at, replace ? 1 : 0, text).join("\n"));
  fc.assert(
    fc.property(fc.oneof(mutated, fc.string({ unit: "binary", maxLength: 200 })), (text) => {
      try {
        parseServerConfig(text, "kiseki.toml");
      } catch (error) {
        assert.ok(error instanceof KisekiError && error.code === "config.invalid", String(error));
        assert.ok(error.message.length < 20_000);
      }
    }),
    { seed, numRuns: testRounds(100_000) },
  );
});
