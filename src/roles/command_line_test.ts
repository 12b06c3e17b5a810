import assert from "node:assert/strict";
import { KisekiError } from "../common/errors.ts";
import {
  type CommandSpec,
  exitCodeOf,
  formatTable,
  HelpRequest,
  parseArguments,
  runCommand,
  type Terminal,
  UsageError,
} from "./command_line.ts";
import { parseServerArguments } from "./server_command.ts";

const SPEC: CommandSpec = {
  path: ["thing", "make"],
  summary: "Makes a thing.",
  positionals: ["NAME", "PLACE?"],
  flags: [
    { name: "size", value: "SIZE", help: "how big", environment: "THING_SIZE", default: "1" },
    { name: "tag", value: "TAG", help: "label", repeated: true },
    { name: "force", help: "even so" },
    { name: "owner", value: "WHO", help: "whose", required: true },
  ],
  example: "kiseki thing make chair --owner eve",
};

function parse(line: string, environment: Record<string, string> = {}) {
  return parseArguments(line.split(" "), [SPEC], (name) => environment[name]);
}

Deno.test("flags come with a space or an equals sign, before or after positionals", () => {
  const args = parse("thing make --owner=eve chair --tag a --tag b --force -- --odd");
  assert.deepEqual(args.positionals, ["chair", "--odd"]);
  assert.deepEqual(args.all("tag"), ["a", "b"]);
  assert.equal(args.text("owner"), "eve");
  assert.equal(args.has("force"), true);
  assert.equal(args.text("size"), "1");
  assert.equal(parse("thing make x --owner e", { THING_SIZE: "9" }).text("size"), "9");
  assert.equal(parse("thing make x --owner e --size 2", { THING_SIZE: "9" }).text("size"), "2");
});

Deno.test("wrong arguments are named", () => {
  const refused: readonly (readonly [string, RegExp])[] = [
    ["thing make", /--owner is missing/],
    ["thing make --owner e", /NAME is missing/],
    ["thing make a b c --owner e", /too many arguments: c/],
    ["thing make a --owner", /--owner wants WHO/],
    ["thing make a --owner e --owner f", /--owner stands twice/],
    ["thing make a --force=yes --owner e", /--force takes no value/],
    ["thing make a --nope", /--nope: no such option/],
    ["thing", /a command is missing/],
    ["thing break", /kiseki thing break: no such command/],
  ];
  for (const [line, expected] of refused) {
    assert.throws(() => parse(line), (error) => {
      assert.ok(error instanceof UsageError, line);
      assert.match(error.message, expected, line);
      return true;
    });
  }
  assert.throws(() => parse("thing make a --owner e --size x").whole("size", 1, 9), UsageError);
  assert.throws(() => parse("thing make --help"), HelpRequest);
  assert.throws(() => parse("--help"), HelpRequest);
});

Deno.test("errors mean exit codes, and machines get them as JSON", async () => {
  assert.equal(exitCodeOf(new KisekiError("common.unavailable", "")), 3);
  assert.equal(exitCodeOf(new KisekiError("common.deadline_exceeded", "")), 3);
  assert.equal(exitCodeOf(new KisekiError("common.unauthenticated", "")), 4);
  assert.equal(exitCodeOf(new KisekiError("config.invalid", "")), 2);
  assert.equal(exitCodeOf(new TypeError("x")), 1);
  let error = "";
  const terminal: Terminal = { isTerminal: false, out() {}, error: (text) => void (error = text) };
  const failing = () => Promise.reject(new KisekiError("block.io", "EIO"));
  assert.equal(await runCommand(terminal, true, failing), 1);
  assert.deepEqual(JSON.parse(error), {
    error: { code: "block.io", message: "EIO" },
    exitCode: 1,
  });
});

Deno.test("tables align words left and numbers right", () => {
  assert.equal(
    formatTable(["NAME", "SIZE"], [["a", "1 MiB"], ["long", "20 MiB"]]),
    "NAME    SIZE\na      1 MiB\nlong  20 MiB",
  );
});

Deno.test("the server takes a file or --dev, not both and not neither", async () => {
  const parseServer = (line: string, environment: Record<string, string> = {}) =>
    parseServerArguments(line.split(" "), environment);
  const dev = await parseServer("server --dev --data-dir /d --s3-listen 127.0.0.1:0", {
    KISEKI_DEV_ACCESS_KEY: "dev-key",
    KISEKI_DEV_SECRET_KEY: "dev-secret",
    KISEKI_GATEWAYS: "2",
  });
  assert.equal(dev.config.dev, true);
  assert.equal(dev.config.gateways, 2);
  assert.deepEqual(dev.config.listen.s3, { host: "127.0.0.1", port: 0 });
  assert.deepEqual(dev.devCredential, {
    accessKeyId: "dev-key",
    secretAccessKey: "dev-secret",
  });
  await assert.rejects(parseServer("server"), /one of --config FILE, --dev/);
  await assert.rejects(parseServer("server --dev --config f"), /--dev takes no --config/);
  await assert.rejects(parseServer("server --config f --s3-listen a:1"), /goes with --dev/);
  await assert.rejects(parseServer("server --dev --s3-listen a"), /--s3-listen: found "a"/);
  await assert.rejects(
    parseServer("server --dev", { KISEKI_DEV_ACCESS_KEY: "x" }),
    /go together/,
  );
  await assert.rejects(parseServer("server --config /nowhere/k.toml"), /cannot be read/);
  const directory = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${directory}/k.toml`, 'data_dir = "/d"\n');
    const { config } = await parseServer(`server --config ${directory}/k.toml`);
    assert.equal(config.dataDir, "/d");
    assert.equal(config.dev, false);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
