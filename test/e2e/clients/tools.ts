/** What the client suites share: an endpoint, a scratch directory, and running a program. */
import assert from "node:assert/strict";

/** Where a gateway answers and with which credential. */
export interface Endpoint {
  /** e.g. "http://127.0.0.1:9000" */
  readonly s3: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program with nothing of this environment but PATH. */
export async function run(
  program: string,
  args: readonly string[],
  options: { readonly env?: Readonly<Record<string, string>>; readonly cwd?: string } = {},
): Promise<Ran> {
  const output = await new Deno.Command(program, {
    args: [...args],
    clearEnv: true,
    env: { PATH: "/usr/local/bin:/usr/bin:/bin", LC_ALL: "C.UTF-8", ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  return {
    code: output.code,
    stdout: decoder.decode(output.stdout),
    stderr: decoder.decode(output.stderr),
  };
}

/** The first of these programs that is there; says loudly when none is. */
export async function findProgram(
  suite: string,
  candidates: readonly string[],
): Promise<string | undefined> {
  for (const candidate of candidates) {
    try {
      if ((await Deno.stat(candidate)).isFile) return candidate;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  console.error(`SKIPPED: ${suite}: none of ${candidates.join(", ")} is installed`);
  return undefined;
}

/** Asserts on a program's success, showing what it said. */
export function assertRan(ran: Ran, what: string): string {
  assert.equal(ran.code, 0, `${what} failed (${ran.code}):\n${ran.stdout}\n${ran.stderr}`);
  return ran.stdout;
}

/** A scratch directory for the time of a call. */
export async function withScratch(use: (dir: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "kiseki-clients-" });
  try {
    await use(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

/** Bytes that do not repeat, the same for the same seed. */
export function patternBytes(size: number, seed: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(size / 4));
  let state = (seed ^ 0x9e3779b9) >>> 0 || 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state >>> 0;
  }
  return new Uint8Array(words.buffer, 0, size);
}

/** Asserts that two files hold the same bytes. */
export async function assertSameFile(a: string, b: string): Promise<void> {
  const [left, right] = await Promise.all([Deno.readFile(a), Deno.readFile(b)]);
  assert.equal(left.length, right.length, `${a} and ${b} differ in size`);
  for (let i = 0; i < left.length; i++) {
    if (left[i] !== right[i]) assert.fail(`${a} and ${b} differ at byte ${i}`);
  }
}
