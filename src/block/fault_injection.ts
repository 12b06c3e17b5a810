/**
 * Faults below the block layer, for tests of everything above: a wrapper around a `BlockFile` that
 * fails, tears or lies as a plan says. A role uses it only when it is given a plan explicitly.
 *
 * Plan: rules separated by `;`, for example `seed=7; write:eio@0.01; read:flip@#3; sync:eio@#10+`.
 *
 * | rule                 | meaning                                                              |
 * |----------------------|----------------------------------------------------------------------|
 * | `seed=N`             | the seed of all chances, 0 to 2^31-1; default 1                      |
 * | `OPERATION:FAULT@P`  | with probability P (0 to 1, decimal) at each operation               |
 * | `OPERATION:FAULT@#N` | at the N-th operation of that kind, counted from 1                   |
 * | `OPERATION:FAULT@#N+`| at the N-th and at every later one                                   |
 *
 * | operation         | faults                                                                  |
 * |-------------------|-------------------------------------------------------------------------|
 * | `read`            | `eio` (fails), `flip` (one bit of the answer is wrong)                  |
 * | `write`           | `eio`, `enospc` (nothing is written), `torn` (a part of it is written,  |
 * |                   | then it fails), `flip` (one bit is stored wrong), `lost` (it says yes   |
 * |                   | and writes nothing)                                                     |
 * | `sync`, `discard` | `eio`                                                                   |
 */
import type { Bytes } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";
import type { BlockFile } from "./ports.ts";

const FAULTS = {
  read: ["eio", "flip"],
  write: ["eio", "enospc", "torn", "flip", "lost"],
  sync: ["eio"],
  discard: ["eio"],
} as const;

export type FaultOperation = keyof typeof FAULTS;
export type Fault = "eio" | "enospc" | "torn" | "flip" | "lost";

/** When a rule strikes: by chance, or at a count of operations. */
export type FaultTrigger =
  | { readonly kind: "chance"; readonly probability: number }
  | { readonly kind: "count"; readonly at: number; readonly andLater: boolean };

export interface FaultRule {
  readonly operation: FaultOperation;
  readonly fault: Fault;
  readonly trigger: FaultTrigger;
}

export interface FaultPlan {
  readonly seed: number;
  readonly rules: readonly FaultRule[];
}

const MAX_RULES = 64;
const SECTOR_BYTES = 512;

/** @throws KisekiError `config.invalid` that quotes the rule it does not understand. */
export function parseFaultPlan(text: string): FaultPlan {
  let seed = 1;
  const rules: FaultRule[] = [];
  for (const part of text.split(";").map((rule) => rule.trim()).filter((rule) => rule !== "")) {
    const seeded = /^seed=(\d{1,10})$/.exec(part);
    if (seeded !== null) {
      seed = Number(seeded[1]);
      if (seed > 0x7fff_ffff) throw invalid(part, "the seed is at most 2147483647");
      continue;
    }
    if (rules.length === MAX_RULES) throw invalid(part, `at most ${MAX_RULES} rules`);
    rules.push(parseRule(part));
  }
  return { seed, rules };
}

function parseRule(part: string): FaultRule {
  const match = /^([a-z]+):([a-z]+)@(?:#(\d{1,9})(\+?)|([01]|0?\.\d{1,9}|1\.0))$/.exec(part);
  if (match === null) throw invalid(part, "OPERATION:FAULT@P, @#N or @#N+ is wanted");
  const [, operation = "", fault = "", count, later, chance] = match;
  if (!isOperation(operation)) throw invalid(part, "the operations are read, write, sync, discard");
  const known: readonly string[] = FAULTS[operation];
  if (!isFault(fault) || !known.includes(fault)) {
    throw invalid(part, `${operation} knows ${known.join(", ")}`);
  }
  if (chance !== undefined) {
    return { operation, fault, trigger: { kind: "chance", probability: Number(chance) } };
  }
  const at = Number(count);
  if (at < 1) throw invalid(part, "operations are counted from 1");
  return { operation, fault, trigger: { kind: "count", at, andLater: later === "+" } };
}

function isOperation(text: string): text is FaultOperation {
  return Object.hasOwn(FAULTS, text);
}

function isFault(text: string): text is Fault {
  return ["eio", "enospc", "torn", "flip", "lost"].includes(text);
}

function invalid(rule: string, reason: string): KisekiError {
  return new KisekiError("config.invalid", `fault plan: "${rule.slice(0, 80)}": ${reason}`);
}

/** A faulty file, and how often each fault struck. */
export interface FaultyBlockFile extends BlockFile {
  readonly struck: ReadonlyMap<string, number>;
  /** While false, nothing strikes and nothing is counted. Starts true. */
  armed: boolean;
}

/** `inner` with the faults of `plan`. Closing it closes `inner`. */
export function faultyBlockFile(inner: BlockFile, plan: FaultPlan): FaultyBlockFile {
  return new FaultInjector(inner, plan);
}

class FaultInjector implements FaultyBlockFile {
  readonly struck = new Map<string, number>();
  armed = true;
  readonly #counts = new Map<FaultOperation, number>();
  #state: number;

  constructor(private readonly inner: BlockFile, private readonly plan: FaultPlan) {
    this.#state = plan.seed;
  }

  get name(): string {
    return this.inner.name;
  }

  get sizeBytes(): number {
    return this.inner.sizeBytes;
  }

  async read(offset: number, into: Bytes): Promise<void> {
    const fault = this.#strike("read");
    if (fault === "eio") throw this.#failed("block.io", "reading");
    await this.inner.read(offset, into);
    if (fault === "flip") this.#flip(into);
  }

  async write(offset: number, bytes: Bytes): Promise<void> {
    const fault = this.#strike("write");
    if (fault === undefined) return await this.inner.write(offset, bytes);
    if (fault === "lost") return;
    if (fault === "flip") {
      const wrong = bytes.slice();
      this.#flip(wrong);
      return await this.inner.write(offset, wrong);
    }
    if (fault === "torn") await this.#writePart(offset, bytes);
    throw this.#failed(fault === "enospc" ? "block.no_space" : "block.io", "writing");
  }

  /** The front of what was to be written, cut at a sector; the rest of its block is as before. */
  async #writePart(offset: number, bytes: Bytes): Promise<void> {
    const sectors = Math.floor(this.#random() * (bytes.length / SECTOR_BYTES));
    const torn = new Uint8Array(bytes.length);
    await this.inner.read(offset, torn);
    torn.set(bytes.subarray(0, sectors * SECTOR_BYTES));
    await this.inner.write(offset, torn);
  }

  async sync(): Promise<void> {
    if (this.#strike("sync") !== undefined) throw this.#failed("block.io", "a sync");
    await this.inner.sync();
  }

  async discard(offset: number, length: number): Promise<void> {
    if (this.#strike("discard") !== undefined) throw this.#failed("block.io", "a discard");
    await this.inner.discard(offset, length);
  }

  async hostFreeBytes(): Promise<number> {
    return await this.inner.hostFreeBytes?.() ?? Number.POSITIVE_INFINITY;
  }

  async close(): Promise<void> {
    await this.inner.close();
  }

  #strike(operation: FaultOperation): Fault | undefined {
    if (!this.armed) return undefined;
    const count = (this.#counts.get(operation) ?? 0) + 1;
    this.#counts.set(operation, count);
    for (const rule of this.plan.rules) {
      if (rule.operation !== operation) continue;
      const { trigger } = rule;
      const strikes = trigger.kind === "chance"
        ? this.#random() < trigger.probability
        : count === trigger.at || (trigger.andLater && count > trigger.at);
      if (!strikes) continue;
      const key = `${operation}:${rule.fault}`;
      this.struck.set(key, (this.struck.get(key) ?? 0) + 1);
      return rule.fault;
    }
    return undefined;
  }

  #flip(bytes: Bytes): void {
    const bit = Math.floor(this.#random() * bytes.length * 8);
    bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
  }

  #failed(code: "block.io" | "block.no_space", doing: string): KisekiError {
    return new KisekiError(code, `${this.name}: ${doing} failed by plan`);
  }

  /** mulberry32: the same plan gives the same faults. */
  #random(): number {
    this.#state = (this.#state + 0x6d2b_79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }
}
