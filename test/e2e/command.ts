/** Runs `kiseki ROLE ...` of the binary under test to its end. */
import assert from "node:assert/strict";
import { binaryUnderTest } from "./server.ts";

export interface CommandEnd {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Nothing of this environment but PATH reaches it. */
export async function kiseki(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<CommandEnd> {
  const output = await new Deno.Command(binaryUnderTest(), {
    args: [...args],
    clearEnv: true,
    env: { PATH: "/usr/bin:/bin", HOME: "/nonexistent", ...env },
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  return {
    code: output.code,
    stdout: decoder.decode(output.stdout),
    stderr: decoder.decode(output.stderr),
  };
}

/** `kiseki control` of one server, authorised by the token file in its data directory. */
export class Control {
  readonly #environment: Readonly<Record<string, string>>;

  constructor(server: { readonly fabric: string; readonly dataDir: string }) {
    this.#environment = {
      KISEKI_ENDPOINT: server.fabric,
      KISEKI_TOKEN_FILE: `${server.dataDir}/admin.token`,
    };
  }

  run(...args: readonly string[]): Promise<CommandEnd> {
    return kiseki(["control", ...args], this.#environment);
  }

  /** Text for people of a command that succeeds. */
  async text(...args: readonly string[]): Promise<string> {
    const end = await this.run(...args);
    assert.equal(end.code, 0, `control ${args.join(" ")}: ${end.stderr}`);
    return end.stdout;
  }

  /** The `--json` answer of a command that succeeds. */
  async json<T>(...args: readonly string[]): Promise<T> {
    const text = await this.text(...args, "--json");
    assert.equal(text.trim().split("\n").length, 1, "one JSON value on one line");
    return JSON.parse(text) as T;
  }

  /** A refusal: exit code and what stderr says. */
  async refused(code: number, said: RegExp, ...args: readonly string[]): Promise<void> {
    const end = await this.run(...args);
    assert.equal(end.code, code, `control ${args.join(" ")}: ${end.stdout}${end.stderr}`);
    assert.match(end.stderr, said);
    assert.equal(end.stdout, "", "a refusal prints nothing to stdout");
  }

  /** Starts a scrub and waits until it ends. */
  async scrub(): Promise<Scrub> {
    await this.json("scrub", "start");
    for (let i = 0; i < 300; i++) {
      const scrub = await this.json<Scrub>("scrub", "status");
      if (scrub.state !== "running") return scrub;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error("the scrub did not end in 30 s");
  }
}

export interface Scrub {
  readonly state: string;
  readonly checkedFragments: number;
  readonly totalFragments: number;
  readonly badFragments: number;
  readonly repairedFragments: number;
  readonly lostChunks: number;
}

export interface Device {
  readonly device: string;
  readonly path: string;
  readonly state: string;
  readonly fragments: number;
  readonly pools: readonly string[];
}

export interface Credential {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly state: string;
}

/** Organisation, project and workload of one name each, and a credential. */
export async function newTenant(control: Control, organisation: string): Promise<Credential> {
  const place = ["--org", organisation];
  await control.json("org", "create", organisation);
  await control.json("project", "create", "weather", ...place);
  place.push("--project", "weather");
  await control.json("workload", "create", "train", ...place);
  return await control.json("credential", "create", ...place, "--workload", "train");
}
