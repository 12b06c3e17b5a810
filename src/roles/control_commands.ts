/**
 * The commands of `kiseki control`: their arguments, the call each makes, and how people see the
 * answer. One table; `control.ts` runs it.
 */
import { parseSize, SIZE_FORM } from "../common/config_values.ts";
import { KisekiError } from "../common/errors.ts";
import type { AdminClient } from "../control/admin_client.ts";
import type {
  AddDeviceRequest,
  CredentialMessage,
  DeviceMessage,
  KeyStatusMessage,
  PageOf,
  PoolMessage,
  ScrubMessage,
  StatusMessage,
} from "../control/admin_messages.ts";
import {
  type Arguments,
  type CommandSpec,
  type FlagSpec,
  formatTable,
  type Terminal,
  UsageError,
} from "./command_line.ts";

/** What a command answers: a value for machines, a text for people. */
export interface Answer {
  readonly value: unknown;
  readonly text: string;
}

export interface ControlCommand {
  readonly spec: CommandSpec;
  run(args: Arguments, client: AdminClient, terminal: Terminal): Promise<Answer>;
}

const CONNECTION_FLAGS: readonly FlagSpec[] = [
  {
    name: "endpoint",
    value: "HOST:PORT",
    help: "admin service of a node",
    environment: "KISEKI_ENDPOINT",
    default: "127.0.0.1:9100",
  },
  {
    name: "token-file",
    value: "FILE",
    help: "file with the admin token; KISEKI_TOKEN gives the token itself",
    environment: "KISEKI_TOKEN_FILE",
  },
  { name: "ca", value: "FILE", help: "authority of the server's certificate: use TLS" },
  { name: "cert", value: "FILE", help: "client certificate, with --key" },
  { name: "key", value: "FILE", help: "key of the client certificate" },
  { name: "timeout", value: "SECONDS", help: "longest wait", default: "60" },
];

const ORG: FlagSpec = { name: "org", value: "ORG", help: "organisation", required: true };
const PROJECT: FlagSpec = { name: "project", value: "PROJECT", help: "project", required: true };
const WORKLOAD: FlagSpec = {
  name: "workload",
  value: "WORKLOAD",
  help: "workload",
  required: true,
};

function command(
  words: string,
  summary: string,
  example: string,
  flags: readonly FlagSpec[],
  run: ControlCommand["run"],
): ControlCommand {
  const all = words.split(" ");
  const positionals = all.filter((word) => /^[A-Z]/.test(word));
  const path = ["control", ...all.filter((word) => !/^[A-Z]/.test(word))];
  return {
    spec: {
      path,
      summary,
      positionals,
      flags: [...flags, ...CONNECTION_FLAGS],
      example: `kiseki control ${example}`,
    },
    run,
  };
}

const time = (ms: number): string => ms === 0 ? "-" : new Date(ms).toISOString().slice(0, 19) + "Z";

/** A record as two columns. */
function record(terminal: Terminal, fields: Readonly<Record<string, string>>): string {
  const width = Math.max(...Object.keys(fields).map((name) => name.length)) + 2;
  return Object.entries(fields)
    .map(([name, value]) =>
      (terminal.isTerminal ? `\x1b[1m${name}\x1b[0m` : name) +
      " ".repeat(width - name.length) + value
    ).join("\n");
}

function table(
  terminal: Terminal,
  headers: readonly string[],
  rows: readonly (readonly string[])[],
  empty: string,
): string {
  return rows.length === 0 ? empty : formatTable(headers, rows, terminal);
}

/** All pages. */
async function everyPage<T>(ask: (after: string) => Promise<PageOf<T>>): Promise<readonly T[]> {
  const items: T[] = [];
  let after = "";
  do {
    const page = await ask(after);
    items.push(...page.items);
    after = page.next;
  } while (after !== "");
  return items;
}

interface Named {
  readonly id: string;
  readonly name: string;
  readonly createdMs: number;
}

function namedList(terminal: Terminal, items: readonly Named[], empty: string): Answer {
  const rows = items.map((item) => [item.name, item.id, time(item.createdMs)]);
  return { value: items, text: table(terminal, ["NAME", "ID", "CREATED"], rows, empty) };
}

function namedRecord(terminal: Terminal, item: Named): Answer {
  const { name, id, createdMs } = item;
  return { value: item, text: record(terminal, { name, id, created: time(createdMs) }) };
}

function done(text: string): Answer {
  return { value: { ok: true }, text };
}

const ORGANISATIONS: readonly ControlCommand[] = [
  command(
    "org create NAME",
    "Makes an organisation: its keys, its shard.",
    "org create acme",
    [],
    async (args, client, terminal) =>
      namedRecord(terminal, await client.call("CreateOrganisation", { name: args.at(0) })),
  ),
  command(
    "org list",
    "Lists organisations.",
    "org list --json",
    [],
    async (_, client, terminal) => {
      const items = await everyPage((after) =>
        client.call("ListOrganisations", { after, limit: 1000 })
      );
      const rows = items.map((item) => [item.name, item.id, item.state, time(item.createdMs)]);
      const headers = ["NAME", "ID", "STATE", "CREATED"];
      return { value: items, text: table(terminal, headers, rows, "no organisation yet") };
    },
  ),
  command(
    "org show NAME",
    "Shows an organisation, by name or id.",
    "org show acme",
    [],
    async (args, client, terminal) => {
      const found = await client.call("GetOrganisation", { name: args.at(0) });
      const { name, id, state, createdMs } = found;
      return {
        value: found,
        text: record(terminal, { name, id, state, created: time(createdMs) }),
      };
    },
  ),
  command(
    "org delete NAME",
    "Deletes an organisation that holds nothing, with its keys.",
    "org delete acme",
    [],
    async (args, client) => {
      await client.call("DeleteOrganisation", { name: args.at(0) });
      return done(`organisation ${args.at(0)} deleted`);
    },
  ),
];

const PROJECTS: readonly ControlCommand[] = [
  command(
    "project create NAME",
    "Makes a project.",
    "project create weather --org acme",
    [ORG],
    async (args, client, terminal) =>
      namedRecord(
        terminal,
        await client.call("CreateProject", {
          organisation: args.required("org"),
          name: args.at(0),
        }),
      ),
  ),
  command(
    "project list",
    "Lists the projects of an organisation.",
    "project list --org acme",
    [ORG],
    async (args, client, terminal) => {
      const organisation = args.required("org");
      const items = await everyPage((after) =>
        client.call("ListProjects", { organisation, after, limit: 1000 })
      );
      return namedList(terminal, items, "no project yet");
    },
  ),
  command(
    "project show NAME",
    "Shows a project, by name or id.",
    "project show weather --org acme",
    [ORG],
    async (args, client, terminal) =>
      namedRecord(
        terminal,
        await client.call("GetProject", { organisation: args.required("org"), name: args.at(0) }),
      ),
  ),
  command(
    "project delete NAME",
    "Deletes a project without workloads.",
    "project delete weather --org acme",
    [ORG],
    async (args, client) => {
      const organisation = args.required("org");
      await client.call("DeleteProject", { organisation, name: args.at(0) });
      return done(`project ${args.at(0)} deleted`);
    },
  ),
];

function workloadRequest(args: Arguments) {
  return {
    organisation: args.required("org"),
    project: args.required("project"),
    name: args.at(0),
  };
}

const WORKLOADS: readonly ControlCommand[] = [
  command(
    "workload create NAME",
    "Makes a workload: what a credential belongs to.",
    "workload create train --org acme --project weather",
    [ORG, PROJECT],
    async (args, client, terminal) =>
      namedRecord(terminal, await client.call("CreateWorkload", workloadRequest(args))),
  ),
  command(
    "workload list",
    "Lists the workloads of a project.",
    "workload list --org acme --project weather",
    [ORG, PROJECT],
    async (args, client, terminal) => {
      const place = { organisation: args.required("org"), project: args.required("project") };
      const items = await everyPage((after) =>
        client.call("ListWorkloads", { ...place, after, limit: 1000 })
      );
      return namedList(terminal, items, "no workload yet");
    },
  ),
  command(
    "workload show NAME",
    "Shows a workload, by name or id.",
    "workload show train --org acme --project weather",
    [ORG, PROJECT],
    async (args, client, terminal) =>
      namedRecord(terminal, await client.call("GetWorkload", workloadRequest(args))),
  ),
  command(
    "workload delete NAME",
    "Deletes a workload without credentials.",
    "workload delete train --org acme --project weather",
    [ORG, PROJECT],
    async (args, client) => {
      await client.call("DeleteWorkload", workloadRequest(args));
      return done(`workload ${args.at(0)} deleted`);
    },
  ),
];

function credentialAnswer(terminal: Terminal, credential: CredentialMessage): Answer {
  const { secretAccessKey, ...rest } = credential;
  const fields: Record<string, string> = {
    "access key id": credential.accessKeyId,
    ...(secretAccessKey === "" ? {} : { "secret access key": secretAccessKey }),
    state: credential.state,
    workload: credential.workload,
    comment: credential.comment,
    created: time(credential.createdMs),
  };
  const note = secretAccessKey === "" ? "" : "\n\nThe secret is shown this once.";
  return {
    value: secretAccessKey === "" ? rest : credential,
    text: record(terminal, fields) + note,
  };
}

function credentialSwitch(verb: "enable" | "disable", summary: string): ControlCommand {
  return command(
    `credential ${verb} ACCESS_KEY_ID`,
    summary,
    `credential ${verb} KSKIABCDEFGHIJKLMNOP`,
    [],
    async (args, client, terminal) =>
      credentialAnswer(
        terminal,
        await client.call("SetCredentialState", {
          accessKeyId: args.at(0),
          enabled: verb === "enable",
        }),
      ),
  );
}

const CREDENTIALS: readonly ControlCommand[] = [
  command(
    "credential create",
    "Makes an access key for a workload; its secret is shown this once.",
    "credential create --org acme --project weather --workload train --comment laptop",
    [ORG, PROJECT, WORKLOAD, { name: "comment", value: "TEXT", help: "what it is for" }],
    async (args, client, terminal) =>
      credentialAnswer(
        terminal,
        await client.call("CreateCredential", {
          organisation: args.required("org"),
          project: args.required("project"),
          workload: args.required("workload"),
          comment: args.text("comment") ?? "",
          accessKeyId: "",
          secretAccessKey: "",
        }),
      ),
  ),
  command(
    "credential list",
    "Lists the access keys of a workload, without secrets.",
    "credential list --org acme --project weather --workload train",
    [ORG, PROJECT, WORKLOAD],
    async (args, client, terminal) => {
      const place = {
        organisation: args.required("org"),
        project: args.required("project"),
        workload: args.required("workload"),
      };
      const items = await everyPage((after) =>
        client.call("ListCredentials", { ...place, after, limit: 1000 })
      );
      const value = items.map((credential) => credentialAnswer(terminal, credential).value);
      const rows = items.map((c) => [c.accessKeyId, c.state, c.comment, time(c.createdMs)]);
      const headers = ["ACCESS KEY ID", "STATE", "COMMENT", "CREATED"];
      return { value, text: table(terminal, headers, rows, "no credential yet") };
    },
  ),
  credentialSwitch("disable", "Refuses an access key from now on."),
  credentialSwitch("enable", "Takes an access key again."),
  command(
    "credential delete ACCESS_KEY_ID",
    "Deletes an access key.",
    "credential delete KSKIABCDEFGHIJKLMNOP",
    [],
    async (args, client) => {
      await client.call("DeleteCredential", { accessKeyId: args.at(0) });
      return done(`credential ${args.at(0)} deleted`);
    },
  ),
];

function namespaceRequest(args: Arguments) {
  return { organisation: args.required("org"), name: args.at(0) };
}

const NAMESPACES: readonly ControlCommand[] = [
  command(
    "namespace create NAME",
    "Makes a namespace (S3 bucket).",
    "namespace create models --org acme",
    [ORG],
    async (args, client, terminal) =>
      namedRecord(terminal, await client.call("CreateNamespace", namespaceRequest(args))),
  ),
  command(
    "namespace list",
    "Lists the namespaces of an organisation.",
    "namespace list --org acme",
    [ORG],
    async (args, client, terminal) => {
      const { items } = await client.call("ListNamespaces", {
        organisation: args.required("org"),
      });
      const rows = items.map((n) => [n.name, n.id, n.versioning, time(n.createdMs)]);
      const headers = ["NAME", "ID", "VERSIONING", "CREATED"];
      return { value: items, text: table(terminal, headers, rows, "no namespace yet") };
    },
  ),
  command(
    "namespace show NAME",
    "Shows a namespace.",
    "namespace show models --org acme",
    [ORG],
    async (args, client, terminal) => {
      const found = await client.call("GetNamespace", namespaceRequest(args));
      const { name, id, versioning, createdMs } = found;
      return {
        value: found,
        text: record(terminal, { name, id, versioning, created: time(createdMs) }),
      };
    },
  ),
  command(
    "namespace delete NAME",
    "Deletes an empty namespace.",
    "namespace delete models --org acme",
    [ORG],
    async (args, client) => {
      await client.call("DeleteNamespace", namespaceRequest(args));
      return done(`namespace ${args.at(0)} deleted`);
    },
  ),
];

const DEVICE_FLAGS: readonly FlagSpec[] = [
  { name: "class", value: "CLASS", help: "fast-nvme, bulk-nvme, ssd, hdd, ...", default: "ssd" },
  { name: "size", value: "SIZE", help: "size of a file to make, e.g. 64GiB" },
  {
    name: "pool",
    value: "POOL",
    help: "pool to join; default: those of its class",
    repeated: true,
  },
  { name: "force", help: "format what holds something else" },
];

function newDevice(args: Arguments, path: string): AddDeviceRequest {
  return {
    path,
    class: args.text("class") ?? "ssd",
    sizeBytes: args.parsed("size", SIZE_FORM, parseSize) ?? 0,
    force: args.has("force"),
    pools: args.all("pool"),
  };
}

function deviceRows(devices: readonly DeviceMessage[]): readonly (readonly string[])[] {
  return devices.map((d) => [
    d.device,
    d.path,
    d.class,
    d.state,
    bytes(d.usedBytes),
    bytes(d.capacityBytes),
    d.pools.join(","),
  ]);
}

const DEVICE_HEADERS = ["DEVICE", "PATH", "CLASS", "STATE", "USED", "SIZE", "POOLS"];

function deviceAnswer(terminal: Terminal, device: DeviceMessage): Answer {
  return { value: device, text: formatTable(DEVICE_HEADERS, deviceRows([device]), terminal) };
}

const DEVICES: readonly ControlCommand[] = [
  command("device list", "Lists devices.", "device list", [], async (_, client, terminal) => {
    const { items } = await client.call("ListDevices", {});
    return { value: items, text: table(terminal, DEVICE_HEADERS, deviceRows(items), "no device") };
  }),
  command(
    "device add PATH",
    "Takes a raw device or a file into use.",
    "device add /dev/nvme1n1 --class fast-nvme --pool fast",
    DEVICE_FLAGS,
    async (args, client, terminal) =>
      deviceAnswer(terminal, await client.call("AddDevice", newDevice(args, args.at(0)))),
  ),
  command(
    "device replace DEVICE PATH",
    "Puts a new device in the place of a lost one; repair fills it.",
    "device replace 0123456789abcdef0123456789abcdef /dev/nvme2n1",
    DEVICE_FLAGS,
    async (args, client, terminal) =>
      deviceAnswer(
        terminal,
        await client.call("ReplaceDevice", {
          device: args.at(0),
          with: newDevice(args, args.at(1)),
        }),
      ),
  ),
  command(
    "device remove DEVICE",
    "Takes a device out of use.",
    "device remove 0123456789abcdef0123456789abcdef",
    [{ name: "force", help: "even where chunks lose their durability" }],
    async (args, client) => {
      await client.call("RemoveDevice", { device: args.at(0), force: args.has("force") });
      return done(`device ${args.at(0)} removed`);
    },
  ),
];

function durabilityText(pool: PoolMessage): string {
  return pool.copies > 0 ? `copies ${pool.copies}` : `ec ${pool.data}+${pool.parity}`;
}

const POOL_HEADERS = ["POOL", "DURABILITY", "CLASS", "DEVICES", "STATE", "USED", "SIZE", "FULL AT"];

function poolRows(pools: readonly PoolMessage[]): readonly (readonly string[])[] {
  return pools.map((pool) => [
    pool.name,
    durabilityText(pool),
    pool.class === "" ? "-" : pool.class,
    String(pool.devices.length),
    pool.state,
    bytes(pool.usedBytes),
    bytes(pool.capacityBytes),
    `${pool.fullPercent}%`,
  ]);
}

function poolAnswer(terminal: Terminal, pool: PoolMessage): Answer {
  return { value: pool, text: formatTable(POOL_HEADERS, poolRows([pool]), terminal) };
}

const POOLS: readonly ControlCommand[] = [
  command("pool list", "Lists pools.", "pool list", [], async (_, client, terminal) => {
    const { items } = await client.call("ListPools", {});
    return { value: items, text: table(terminal, POOL_HEADERS, poolRows(items), "no pool") };
  }),
  command(
    "pool create NAME",
    "Makes a pool of devices: copies, or erasure coding.",
    "pool create wide --class hdd --data 4 --parity 2",
    [
      { name: "class", value: "CLASS", help: "all devices of this class" },
      { name: "device", value: "DEVICE", help: "a member, by id", repeated: true },
      { name: "copies", value: "N", help: "copies of every chunk, 1 to 5" },
      { name: "data", value: "K", help: "data fragments, 2 to 16" },
      { name: "parity", value: "M", help: "parity fragments, 1 to 8" },
      { name: "full-percent", value: "P", help: "refuse writes above", default: "95" },
    ],
    async (args, client, terminal) => {
      const devices = args.all("device");
      if ((devices.length === 0) === !args.has("class")) {
        throw new UsageError(args.spec, "one of --class, --device");
      }
      return poolAnswer(
        terminal,
        await client.call("CreatePool", {
          name: args.at(0),
          class: args.text("class") ?? "",
          devices,
          copies: args.whole("copies", 1, 5) ?? 0,
          data: args.whole("data", 2, 16) ?? 0,
          parity: args.whole("parity", 1, 8) ?? 0,
          fullPercent: args.whole("full-percent", 50, 99) ?? 95,
        }),
      );
    },
  ),
  command(
    "pool show NAME",
    "Shows a pool and its devices.",
    "pool show default",
    [],
    async (args, client, terminal) => {
      const { items } = await client.call("ListPools", {});
      const pool = items.find((one) => one.name === args.at(0));
      if (pool === undefined) {
        throw new KisekiError("common.not_found", `no such pool: ${args.at(0)}`);
      }
      const devices = (await client.call("ListDevices", {})).items
        .filter((device) => pool.devices.includes(device.device));
      const members = table(terminal, DEVICE_HEADERS, deviceRows(devices), "no device");
      return {
        value: { ...pool, members: devices },
        text: `${poolAnswer(terminal, pool).text}\n\n${members}`,
      };
    },
  ),
  command(
    "pool set NAME",
    "Changes a pool.",
    "pool set default --full-percent 90",
    [{ name: "full-percent", value: "P", help: "refuse writes above", required: true }],
    async (args, client, terminal) =>
      poolAnswer(
        terminal,
        await client.call("ChangePool", {
          name: args.at(0),
          fullPercent: args.whole("full-percent", 50, 99) ?? 0,
        }),
      ),
  ),
];

function scrubAnswer(terminal: Terminal, scrub: ScrubMessage): Answer {
  const share = scrub.totalFragments === 0
    ? ""
    : ` (${Math.floor(100 * scrub.checkedFragments / scrub.totalFragments)}%)`;
  return {
    value: scrub,
    text: record(terminal, {
      state: scrub.state,
      started: time(scrub.startedMs),
      finished: time(scrub.finishedMs),
      checked: `${scrub.checkedFragments} of ${scrub.totalFragments} fragments${share}, ` +
        bytes(scrub.checkedBytes),
      bad: `${scrub.badFragments} fragments, ${scrub.repairedFragments} repaired`,
      lost: `${scrub.lostChunks} chunks`,
    }),
  };
}

function statusAnswer(terminal: Terminal, status: StatusMessage): Answer {
  const fields = {
    node: `${status.node} (${status.name}), cluster ${status.cluster}`,
    build: `${status.version}, ${status.packageKind}`,
    started: time(status.startedMs),
    ready: status.ready ? "yes" : "no",
    s3: status.s3Address,
    admin: status.adminAddress,
    holds: `${status.organisations} organisations, ${status.shards} shards, ` +
      `${status.devices} devices`,
    memory: bytes(status.residentBytes),
  };
  const reasons = status.reasons.map((reason) => `  - ${reason}\n`).join("");
  const pools = table(terminal, POOL_HEADERS, poolRows(status.pools), "no pool");
  return { value: status, text: `${record(terminal, fields)}\n${reasons}\n${pools}` };
}

function keyAnswer(terminal: Terminal, keys: KeyStatusMessage): Answer {
  return {
    value: keys,
    text: record(terminal, {
      provider: `${keys.provider} (${keys.providerVersion})`,
      fips: keys.fips ? "yes" : "no",
      "passed over": keys.passedOver.join("; ") || "-",
      manager: keys.manager,
      "system epoch": String(keys.systemEpoch),
      organisations: String(keys.organisations),
    }),
  };
}

const NODE: readonly ControlCommand[] = [
  command("shard list", "Lists the shards of this node.", "shard list", [], async (
    _,
    client,
    terminal,
  ) => {
    const { items } = await client.call("ListShards", {});
    const headers = ["SHARD", "ORGANISATION", "STATE", "LEADER", "TERM", "APPLIED", "RUNS", "SIZE"];
    const rows = items.map((s) => [
      String(s.shard),
      s.organisation,
      s.state,
      String(s.leader),
      String(s.term),
      String(s.appliedIndex),
      String(s.runs),
      bytes(s.runBytes),
    ]);
    return { value: items, text: table(terminal, headers, rows, "no shard") };
  }),
  command(
    "scrub start",
    "Reads and checks every fragment, and repairs what is bad.",
    "scrub start",
    [],
    async (_, client, terminal) => scrubAnswer(terminal, await client.call("StartScrub", {})),
  ),
  command(
    "scrub status",
    "How far the scrub is.",
    "scrub status --json",
    [],
    async (_, client, terminal) => scrubAnswer(terminal, await client.call("GetScrub", {})),
  ),
  command(
    "status",
    "The node in one page.",
    "status",
    [],
    async (_, client, terminal) => statusAnswer(terminal, await client.call("GetStatus", {})),
  ),
  command(
    "key status",
    "Crypto provider and key manager.",
    "key status",
    [],
    async (_, client, terminal) => keyAnswer(terminal, await client.call("GetKeyStatus", {})),
  ),
];

/** All commands, in the order of the help text. */
export const CONTROL_COMMANDS: readonly ControlCommand[] = [
  ...NODE,
  ...ORGANISATIONS,
  ...PROJECTS,
  ...WORKLOADS,
  ...CREDENTIALS,
  ...NAMESPACES,
  ...DEVICES,
  ...POOLS,
];

function bytes(size: number): string {
  if (size < 1024) return `${size} B`;
  let value = size;
  let unit = "";
  for (const next of ["KiB", "MiB", "GiB", "TiB"]) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}
