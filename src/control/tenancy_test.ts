import assert from "node:assert/strict";
import fc from "fast-check";
import { testProvider } from "../../test/providers.ts";
import { testRounds, testSeed } from "../../test/rounds.ts";
import { concatBytes, fromHex, toHex, utf8 } from "../common/bytes.ts";
import { VirtualClock } from "../common/clock.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { OrganisationId, ProjectId, ShardId, WorkloadId } from "../common/ids.ts";
import { SYSTEM_ORGANISATION } from "../crypto/sealer.ts";
import { CACHE_ENTRIES, CachingCredentialResolver } from "./credential_resolver.ts";
import { readShardMap, ShardMap } from "./shard_map.ts";
import { createTenancy, type Tenancy } from "./tenancy.ts";
import { TenancyEvaluator } from "./tenancy_evaluator.ts";
import { loadTenancyMessages, tenancyKey, TenantClass } from "./tenancy_rows.ts";
import { TenancyStore } from "./tenancy_store.ts";
import { MemoryKeys, MemoryShard, protoText } from "./testing.ts";

const PROTO = protoText("tenancy.proto");

function world() {
  const shards = new MemoryShard(new TenancyEvaluator(PROTO));
  const keys = new MemoryKeys(testProvider());
  const clock = new VirtualClock();
  const started: ShardId[] = [];
  const full = new Set<OrganisationId>();
  const options: { failCreate?: KisekiError } = {};
  const resolver = new CachingCredentialResolver({ shards, keys, clock, protoText: PROTO });
  const tenancy: Tenancy = createTenancy({
    shards,
    keys,
    crypto: testProvider(),
    clock,
    organisationKeys: keys,
    shardAdmin: {
      async createShard(organisation) {
        if (options.failCreate !== undefined) throw options.failCreate;
        const shard = await tenancy.allocateShard(organisation);
        if (!started.includes(shard)) started.push(shard);
        return shard;
      },
      async removeShard(_organisation, shard) {
        started.splice(started.indexOf(shard), 1);
      },
    },
    contents: { isEmpty: async (organisation) => !full.has(organisation) },
    protoText: PROTO,
    onCredentialChange: (id) => resolver.invalidate(id),
  });
  return { shards, keys, clock, started, full, options, resolver, tenancy };
}

async function rejects(promise: Promise<unknown>, code: string): Promise<KisekiError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof KisekiError, String(error));
    assert.equal(error.code, code, error.message);
    return error;
  }
  throw new assert.AssertionError({ message: `no ${code}` });
}

async function workloadOf(tenancy: Tenancy, name = "acme") {
  const organisation = await tenancy.createOrganisation(name);
  const project = await tenancy.createProject(organisation.id, "weather");
  return await tenancy.createWorkload(organisation.id, project.id, "train");
}

Deno.test("an organisation gets keys and a shard, is listed, found by name and id, and goes", async () => {
  const { tenancy, keys, started } = world();
  const acme = await tenancy.createOrganisation("acme");
  assert.equal(acme.state, "active");
  assert.ok(keys.has(acme.id));
  assert.deepEqual(started, [2]);
  assert.deepEqual(await tenancy.getOrganisation("acme"), acme);
  assert.deepEqual(await tenancy.getOrganisation(acme.id), acme);
  await rejects(tenancy.createOrganisation("acme"), "common.already_exists");
  await rejects(tenancy.createOrganisation("Acme!"), "common.invalid_argument");
  await tenancy.deleteOrganisation("acme");
  assert.deepEqual(started, []);
  assert.ok(!keys.has(acme.id));
  assert.deepEqual((await tenancy.listOrganisations()).items, []);
  const again = await tenancy.createOrganisation("acme");
  assert.notEqual(again.id, acme.id);
  assert.deepEqual(started, [3], "a shard number is never given twice");
});

Deno.test("what still holds something is not deleted", async () => {
  const { tenancy, full } = world();
  const workload = await workloadOf(tenancy);
  const credential = await tenancy.createCredential(workload);
  const { organisation, project } = workload;
  await rejects(tenancy.deleteOrganisation("acme"), "common.failed_precondition");
  await rejects(tenancy.deleteProject(organisation, "weather"), "common.failed_precondition");
  await rejects(
    tenancy.deleteWorkload(organisation, project, "train"),
    "common.failed_precondition",
  );
  assert.equal((await tenancy.getOrganisation("acme")).state, "active");
  await tenancy.deleteCredential(credential.accessKeyId);
  await tenancy.deleteWorkload(organisation, project, "train");
  await tenancy.deleteProject(organisation, "weather");
  full.add(organisation);
  const refusal = await rejects(tenancy.deleteOrganisation("acme"), "common.failed_precondition");
  assert.match(refusal.message, /still holds a namespace/);
  assert.equal((await tenancy.getOrganisation("acme")).state, "active");
  full.clear();
  await tenancy.deleteOrganisation("acme");
});

Deno.test("names are unique inside their parent and unknown outside their organisation", async () => {
  const { tenancy } = world();
  const one = await workloadOf(tenancy, "one");
  const two = await tenancy.createOrganisation("two");
  await rejects(tenancy.createProject(one.organisation, "weather"), "common.already_exists");
  await tenancy.createProject(two.id, "weather");
  await rejects(tenancy.getProject(two.id, one.project), "common.not_found");
  await rejects(tenancy.listWorkloads(two.id, one.project), "common.not_found");
  await rejects(tenancy.getWorkload(two.id, one.project, one.id), "common.not_found");
  await rejects(tenancy.createWorkload(two.id, one.project, "x"), "common.not_found");
  await rejects(
    tenancy.createCredential({ ...one, organisation: two.id }),
    "common.not_found",
  );
  assert.equal((await tenancy.listWorkloads(one.organisation, one.project)).items.length, 1);
});

Deno.test("a credential resolves to its identity until it is disabled or deleted", async () => {
  const { tenancy, resolver } = world();
  const workload = await workloadOf(tenancy);
  const made = await tenancy.createCredential(workload, { comment: "laptop" });
  assert.match(made.accessKeyId, /^KSKI[A-Z2-7]{16}$/);
  assert.match(made.secretAccessKey, /^[A-Za-z0-9_-]{40}$/);
  assert.deepEqual(await resolver.resolve(made.accessKeyId), {
    identity: {
      organisation: workload.organisation,
      project: workload.project,
      workload: workload.id,
      principal: made.accessKeyId,
    },
    secretAccessKey: made.secretAccessKey,
  });
  const listed = (await tenancy.listCredentials(workload)).items;
  assert.equal(listed.length, 1);
  assert.equal(listed[0]?.comment, "laptop");
  assert.ok(!JSON.stringify(listed).includes(made.secretAccessKey), "a secret is shown once");
  await tenancy.setCredentialEnabled(made.accessKeyId, false);
  assert.equal(await resolver.resolve(made.accessKeyId), undefined);
  await tenancy.setCredentialEnabled(made.accessKeyId, true);
  assert.notEqual(await resolver.resolve(made.accessKeyId), undefined);
  await tenancy.deleteCredential(made.accessKeyId);
  assert.equal(await resolver.resolve(made.accessKeyId), undefined);
  await rejects(tenancy.deleteCredential(made.accessKeyId), "common.not_found");
});

Deno.test("a given credential is checked and unique everywhere", async () => {
  const { tenancy } = world();
  const one = await workloadOf(tenancy, "one");
  const two = await workloadOf(tenancy, "two");
  const given = { accessKeyId: "dev-key", secretAccessKey: "dev-secret" };
  await tenancy.createCredential(one, { given });
  await rejects(tenancy.createCredential(two, { given }), "common.already_exists");
  const short = { accessKeyId: "ok.", secretAccessKey: "short" };
  await rejects(tenancy.createCredential(one, { given: short }), "common.invalid_argument");
  const odd = { accessKeyId: "a/b", secretAccessKey: "long enough!" };
  await rejects(tenancy.createCredential(one, { given: odd }), "common.invalid_argument");
});

Deno.test("the resolver caches for a bounded time and a bounded number of ids", async () => {
  const { tenancy, resolver, shards, clock } = world();
  const workload = await workloadOf(tenancy);
  const { accessKeyId } = await tenancy.createCredential(workload);
  await Promise.all([resolver.resolve(accessKeyId), resolver.resolve(accessKeyId)]);
  const calls = shards.calls;
  await resolver.resolve(accessKeyId);
  assert.equal(shards.calls, calls, "a known id is cached");
  await resolver.resolve("nobody");
  await resolver.resolve("nobody");
  assert.equal(shards.calls, calls + 1, "so is an unknown one");
  clock.advance(6_000);
  await resolver.resolve(accessKeyId);
  assert.equal(shards.calls, calls + 2);
  for (let i = 0; i < CACHE_ENTRIES; i++) await resolver.resolve(`flood${i}`);
  const before = shards.calls;
  await resolver.resolve(accessKeyId);
  assert.equal(shards.calls, before + 1, "the oldest went");
  assert.equal(await resolver.resolve("x".repeat(129)), undefined);
  assert.equal(await resolver.resolve(""), undefined);
});

Deno.test("a look-up that was under way during a change is not kept", async () => {
  const { tenancy, resolver } = world();
  const { accessKeyId } = await tenancy.createCredential(await workloadOf(tenancy));
  const early = resolver.resolve(accessKeyId);
  await tenancy.setCredentialEnabled(accessKeyId, false);
  await early;
  assert.equal(await resolver.resolve(accessKeyId), undefined);
});

Deno.test("an unreachable control shard is an error, never an absent or a known credential", async () => {
  const { tenancy, resolver, shards } = world();
  const { accessKeyId } = await tenancy.createCredential(await workloadOf(tenancy));
  shards.failure = new KisekiError("raft.not_leader", "elsewhere", { retriable: true });
  await rejects(resolver.resolve(accessKeyId), "raft.not_leader");
  shards.failure = undefined;
  assert.notEqual(await resolver.resolve(accessKeyId), undefined);
});

Deno.test("a creation cut short is finished by recovery", async () => {
  const { tenancy, options, started } = world();
  options.failCreate = new KisekiError("block.no_space", "full");
  await rejects(tenancy.createOrganisation("acme"), "block.no_space");
  assert.equal((await tenancy.getOrganisation("acme")).state, "creating");
  delete options.failCreate;
  await tenancy.recover();
  assert.equal((await tenancy.getOrganisation("acme")).state, "active");
  assert.deepEqual(started, [2]);
});

Deno.test("long lists come in pages", async () => {
  const { tenancy } = world();
  const organisation = await tenancy.createOrganisation("acme");
  const names = Array.from({ length: 25 }, (_, i) => `project-${i}`);
  for (const name of names) await tenancy.createProject(organisation.id, name);
  const seen: string[] = [];
  let after: string | undefined;
  do {
    const page = await tenancy.listProjects(organisation.id, after, 10);
    assert.ok(page.items.length <= 10);
    seen.push(...page.items.map((project) => project.name));
    after = page.next;
  } while (after !== undefined);
  assert.deepEqual(seen.sort(), names.sort());
});

Deno.test("names and secrets are sealed, and a sealed record opens in its own row alone", async () => {
  const { tenancy, shards, keys, resolver } = world();
  const workload = await workloadOf(tenancy, "secretorgname");
  const one = await tenancy.createCredential(workload);
  const two = await tenancy.createCredential(workload);
  const rows = [...shards.rows.scan(new Uint8Array(0), undefined)];
  const dump = concatBytes(...rows.flatMap((row) => [row.key, row.value]));
  const text = new TextDecoder("latin1").decode(dump);
  for (const marker of ["secretorgname", "weather", "train", one.accessKeyId]) {
    assert.ok(!text.includes(marker), marker);
  }
  assert.ok(!text.includes(one.secretAccessKey));
  const messages = loadTenancyMessages(PROTO);
  const credentials = rows.filter((row) => row.key[25] === TenantClass.credential);
  const [a, b] = credentials.map((row) => messages.tenantRow.decode(row.value));
  assert.ok(a !== undefined && b !== undefined && credentials[0] !== undefined);
  const swapped = messages.tenantRow.encode({ ...a, sealed: b.sealed });
  shards.rows.apply([{ key: credentials[0].key.slice(), value: swapped }]);
  resolver.invalidate();
  const outcomes = await Promise.allSettled(
    [one, two].map((made) => resolver.resolve(made.accessKeyId)),
  );
  const failed = outcomes.filter((outcome) => outcome.status === "rejected");
  assert.equal(failed.length, 1);
  assert.ok(failed[0]?.status === "rejected");
  assert.ok(isKisekiError(failed[0].reason, "crypto.open_failed"));
  assert.ok(keys.has(SYSTEM_ORGANISATION));
});

Deno.test("the shard map routes every key of an organisation, and no other's", async () => {
  const { tenancy, shards } = world();
  const one = await tenancy.createOrganisation("one");
  const map = new ShardMap(await readShardMap(shards, PROTO));
  assert.equal(map.shardOf(one.id, new Uint8Array(8)), 2);
  assert.equal(map.shardOf(one.id, new Uint8Array(8).fill(255)), 2);
  const two = await tenancy.createOrganisation("two");
  assert.throws(() => map.shardOf(two.id, new Uint8Array(8)), /no shard owns/);
  map.replace(await readShardMap(shards, PROTO));
  assert.equal(map.shardOf(two.id, new Uint8Array(8)), 3);
  map.replace({ version: 0, ranges: [] });
  assert.deepEqual(map.shardsOf(two.id), [3], "an older snapshot is not taken");
  const half = fromHex("8000000000000000");
  map.replace({
    version: 99,
    ranges: [
      { organisation: one.id, start: half, end: new Uint8Array(0), shard: 9 as ShardId },
      { organisation: one.id, start: new Uint8Array(8), end: half, shard: 8 as ShardId },
    ],
  });
  assert.equal(map.shardOf(one.id, fromHex("7fffffffffffffff")), 8);
  assert.equal(map.shardOf(one.id, half), 9);
});

Deno.test("a node keeps its number; a start counter that went back marks it", async () => {
  const { shards } = world();
  const store = new TenancyStore(shards, PROTO);
  const register = async (name: string, startCounter: number) =>
    (await store.execute({ registerNode: { name, startCounter, registeredMs: 5 } })).node;
  assert.equal((await register("a", 1))?.node, 1);
  assert.equal((await register("b", 1))?.node, 2);
  assert.deepEqual(await register("a", 2), {
    node: 1,
    name: "a",
    startCounter: 2,
    registeredMs: 5,
    regressed: false,
  });
  assert.equal((await register("a", 2))?.regressed, true);
});

Deno.test("rows and keys have the bytes that are on disk", () => {
  const messages = loadTenancyMessages(PROTO);
  const id = (byte: number) => new Uint8Array(16).fill(byte);
  assert.equal(
    toHex(tenancyKey(TenantClass.project, id(1), id(2))),
    "00".repeat(8) + "00".repeat(16) + "20" + "02" + "01".repeat(16) + "02".repeat(16),
  );
  const golden: readonly (readonly [string, Uint8Array, string])[] = [
    [
      "TenantRow",
      messages.tenantRow.encode({
        organisation: id(1),
        parent: id(2),
        id: id(3),
        state: 2,
        createdMs: 1_700_000_000_000,
        lookupHash: new Uint8Array(32).fill(4),
        sealed: Uint8Array.of(5, 6),
        project: id(7),
      }),
      "0a10" + "01".repeat(16) + "1210" + "02".repeat(16) + "1a10" + "03".repeat(16) +
      "2002" + "2880d095ffbc31" + "3220" + "04".repeat(32) + "3a020506" + "4210" + "07".repeat(16),
    ],
    [
      "TenantSecret",
      messages.tenantSecret.encode({ name: "a", secret: "bc", comment: "" }),
      "0a01611202" + "6263",
    ],
    [
      "LookupRow",
      messages.lookupRow.encode({ parent: id(1), id: id(2) }),
      "0a10" + "01".repeat(16) + "1210" + "02".repeat(16),
    ],
    [
      "ShardRow",
      messages.shardRow.encode({ shard: 2, organisation: id(9), createdMs: 1 }),
      "08021210" + "09".repeat(16) + "1801",
    ],
    [
      "RangeRow",
      messages.rangeRow.encode({ shard: 300, end: id(0).subarray(0, 8) }),
      "08ac021208" + "00".repeat(8),
    ],
    ["CounterRow", messages.counterRow.encode({ value: 3 }), "0803"],
    [
      "NodeRow",
      messages.nodeRow.encode({
        node: 1,
        name: "n",
        startCounter: 7,
        registeredMs: 8,
        regressed: true,
      }),
      "080112016e180720082801",
    ],
    [
      "PoolRow",
      messages.poolRow.encode({
        name: "p",
        class: "ssd",
        devices: [id(1)],
        copies: 0,
        data: 4,
        parity: 2,
        fullPercent: 95,
        createdMs: 1,
      }),
      "0a01701203737364" + "1a10" + "01".repeat(16) + "28043002385f4001",
    ],
    [
      "DeviceRow",
      messages.deviceRow.encode({
        device: id(1),
        node: 1,
        path: "/d",
        class: "hdd",
        capacityBytes: 4096,
        state: 1,
        seenMs: 9,
      }),
      "0a10" + "01".repeat(16) + "10011a022f64220368646428802030013809",
    ],
  ];
  for (const [name, bytes, expected] of golden) assert.equal(toHex(bytes), expected, name);
  for (const [name, bytes] of golden) {
    const key = name.charAt(0).toLowerCase() + name.slice(1) as "tenantRow";
    assert.equal(toHex(messages[key].encode(messages[key].decode(bytes))), toHex(bytes), name);
  }
});

Deno.test("any bytes as a command or query are answered or refused, and rows stay readable", () => {
  const evaluator = new TenancyEvaluator(PROTO);
  const shard = new MemoryShard(evaluator);
  const messages = loadTenancyMessages(PROTO);
  const id = (byte: number) => new Uint8Array(16).fill(byte);
  const valid = [
    messages.command.encode({
      insert: {
        class: 1,
        row: {
          organisation: id(1),
          parent: id(0),
          id: id(1),
          state: 1,
          createdMs: 1,
          lookupHash: new Uint8Array(32),
          sealed: utf8("x"),
          project: new Uint8Array(0),
        },
      },
    }),
    messages.command.encode({ insert: { class: 1 } }),
    messages.command.encode({ registerNode: { name: "n", startCounter: 1, registeredMs: 1 } }),
    messages.command.encode({ allocateShard: { organisation: id(1), createdMs: 1 } }),
    messages.query.encode({ scan: { class: 1, prefix: id(0), after: id(0), limit: 5 } }),
    messages.query.encode({ find: { class: 1, lookupHash: new Uint8Array(32) } }),
  ];
  const context = {
    shard: 1 as ShardId,
    organisation: SYSTEM_ORGANISATION,
    rows: shard.rows,
    timestamp: 1n,
    newId: () => "0".repeat(32),
    nowMs: 0,
  };
  const seed = testSeed("tenancy requests");
  const mutated = fc.tuple(fc.constantFrom(...valid), fc.nat(), fc.nat(255), fc.nat(200)).map(
    ([bytes, at, value, cut]) => {
      const out = bytes.slice(0, Math.max(1, bytes.length - (cut < 20 ? cut : 0)));
      out[at % out.length] = value;
      return out;
    },
  );
  fc.assert(
    fc.property(
      fc.oneof(mutated, fc.uint8Array({ maxLength: 100 })),
      fc.boolean(),
      (bytes, ask) => {
        try {
          if (ask) evaluator.query(context, bytes);
          else shard.rows.apply(evaluator.evaluate(context, bytes).mutations);
        } catch (error) {
          assert.ok(error instanceof KisekiError, String(error));
          assert.notEqual(error.code, "table.corrupt", error.message);
        }
      },
    ),
    { seed, numRuns: testRounds(100_000) },
  );
});

Deno.test("any bytes as a row or answer decode or are refused as corrupt", () => {
  const codecs = Object.values(loadTenancyMessages(PROTO));
  const id = new Uint8Array(16).fill(1);
  const row = loadTenancyMessages(PROTO).tenantRow.encode({
    organisation: id,
    parent: id,
    id,
    state: 2,
    createdMs: 1,
    lookupHash: new Uint8Array(32),
    sealed: id,
    project: id,
  });
  const mutated = fc.tuple(fc.nat(row.length - 1), fc.nat(255), fc.nat(row.length)).map(
    ([at, value, length]) => {
      const out = row.slice();
      out[at] = value;
      return out.subarray(0, length);
    },
  );
  const seed = testSeed("tenancy rows");
  fc.assert(
    fc.property(fc.oneof(mutated, fc.uint8Array({ maxLength: 120 })), (bytes) => {
      for (const codec of codecs) {
        try {
          codec.decode(bytes);
        } catch (error) {
          assert.ok(isKisekiError(error, "common.corrupt_format"), String(error));
        }
      }
    }),
    { seed, numRuns: testRounds(100_000) },
  );
});

/** What the model test does; names from a small set, so that they collide. */
type Step =
  | { readonly do: "createProject"; readonly project: string }
  | { readonly do: "deleteProject"; readonly project: string }
  | { readonly do: "createWorkload"; readonly project: string; readonly workload: string }
  | { readonly do: "deleteWorkload"; readonly project: string; readonly workload: string };

Deno.test("random creations and deletions agree with a model of nested sets", async () => {
  const seed = testSeed("tenancy model");
  const project = fc.constantFrom("p1", "p2");
  const workload = fc.constantFrom("w1", "w2");
  const step: fc.Arbitrary<Step> = fc.oneof(
    fc.record({ do: fc.constant("createProject" as const), project }),
    fc.record({ do: fc.constant("deleteProject" as const), project }),
    fc.record({ do: fc.constant("createWorkload" as const), project, workload }),
    fc.record({ do: fc.constant("deleteWorkload" as const), project, workload }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
      const { tenancy } = world();
      const { id } = await tenancy.createOrganisation("acme");
      const model = new Map<string, Set<string>>();
      for (const one of steps) {
        const expected = modelStep(model, one);
        let found = "ok";
        try {
          await realStep(tenancy, id, one);
        } catch (error) {
          assert.ok(error instanceof KisekiError, String(error));
          found = error.code;
        }
        assert.equal(found, expected, JSON.stringify(one));
      }
      const projects = (await tenancy.listProjects(id)).items;
      assert.deepEqual(projects.map((p) => p.name).sort(), [...model.keys()].sort());
      for (const p of projects) {
        const workloads = (await tenancy.listWorkloads(id, p.id)).items.map((w) => w.name);
        assert.deepEqual(workloads.sort(), [...model.get(p.name) ?? []].sort());
      }
    }),
    { seed, numRuns: testRounds(500) },
  );
});

function modelStep(model: Map<string, Set<string>>, step: Step): string {
  const workloads = model.get(step.project);
  if (step.do === "createProject") {
    if (workloads !== undefined) return "common.already_exists";
    model.set(step.project, new Set());
    return "ok";
  }
  if (workloads === undefined) return "common.not_found";
  if (step.do === "deleteProject") {
    if (workloads.size > 0) return "common.failed_precondition";
    model.delete(step.project);
    return "ok";
  }
  if (step.do === "createWorkload") {
    if (workloads.has(step.workload)) return "common.already_exists";
    workloads.add(step.workload);
    return "ok";
  }
  return workloads.delete(step.workload) ? "ok" : "common.not_found";
}

async function realStep(tenancy: Tenancy, organisation: OrganisationId, step: Step) {
  if (step.do === "createProject") {
    await tenancy.createProject(organisation, step.project);
    return;
  }
  if (step.do === "deleteProject") {
    await tenancy.deleteProject(organisation, step.project);
    return;
  }
  const project: ProjectId = (await tenancy.getProject(organisation, step.project)).id;
  if (step.do === "createWorkload") {
    const made: { id: WorkloadId } = await tenancy.createWorkload(
      organisation,
      project,
      step.workload,
    );
    assert.match(made.id, /^[0-9a-f]{32}$/);
    return;
  }
  await tenancy.deleteWorkload(organisation, project, step.workload);
}
