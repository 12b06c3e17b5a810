/**
 * A shard over the real table, the real Raft host and the real write-ahead log, on a disk in
 * memory: what commands leave behind is the same whatever was folded, and whenever power went.
 */
import assert from "node:assert/strict";
import { ByteReader, type Bytes, ByteWriter, toHex } from "../common/bytes.ts";
import { HybridClock, SYSTEM_CLOCK } from "../common/clock.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import type { NodeId, OrganisationId, ShardId } from "../common/ids.ts";
import { SILENT_LOGGER } from "../common/logging.ts";
import { chooseProvider } from "../crypto/provider_choice.ts";
import { openRaftHost, type RaftHost } from "../raft/host.ts";
import { FakeDisk } from "../raft/testing/fake_disk.ts";
import { openWriteAheadLog, type SegmentedLog } from "../raft/wal.ts";
import { openTable } from "../table/open_table.ts";
import type { Mutation } from "../table/table.ts";
import { testTenantKeys } from "../table/testing.ts";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import {
  type CommandEvaluator,
  type Evaluation,
  type EvaluationContext,
  EvaluatorTag,
  type QueryContext,
} from "./ports.ts";
import { tagRequest } from "./request.ts";
import { Shard } from "./shard.ts";

const ORGANISATION = "0a".repeat(16) as OrganisationId;
const SHARD = 5 as ShardId;
const NODE = 1 as NodeId;
const { provider } = chooseProvider();

/** Rows are counters: a request names one and what to add; 255 refuses, 254 removes. */
class Counters implements CommandEvaluator {
  readonly tag = EvaluatorTag.namespace;

  evaluate(context: EvaluationContext, request: Bytes): Evaluation {
    const key = request.slice(0, 1);
    const step = request[1] ?? 0;
    if (step === 255) throw new KisekiError("common.failed_precondition", "refused");
    const found = context.rows.get(key);
    const value = (found === undefined ? 0 : new ByteReader(found, "counter").u32()) + step;
    const result = new ByteWriter(4).u32(value).finish();
    const mutations: Mutation[] = step === 0
      ? []
      : [{ key, value: step === 254 ? undefined : result }];
    return { mutations, result, operation: 1, routingKey: new Uint8Array(8) };
  }

  query(context: QueryContext, request: Bytes): Bytes {
    return context.rows.get(request)?.slice() ?? new Uint8Array(0);
  }
}

interface Running {
  readonly shard: Shard;
  readonly raft: RaftHost;
  readonly wal: SegmentedLog;
}

async function start(disk: FakeDisk, directory: string): Promise<Running> {
  const keys = testTenantKeys(provider, ORGANISATION);
  const table = await openTable({ directory, tableId: "05".repeat(16), keys, provider });
  const wal = await openWriteAheadLog({ directory: "log", disk, logger: SILENT_LOGGER });
  const raft = await openRaftHost({ wal, logger: SILENT_LOGGER });
  const shard = new Shard({
    shard: SHARD,
    organisation: ORGANISATION,
    table,
    keys,
    evaluators: [new Counters()],
    clock: new HybridClock(SYSTEM_CLOCK),
    logger: SILENT_LOGGER,
    onWantsFold: () => {},
  });
  shard.attach(
    await raft.createGroup({ shard: SHARD, nodeId: NODE, voters: [NODE], stateMachine: shard }),
  );
  return { shard, raft, wal };
}

async function stop({ shard, raft, wal }: Running): Promise<void> {
  await raft.close();
  await wal.close();
  await shard.close();
}

const add = (shard: Shard, key: number, step: number): Promise<Bytes> =>
  shard.execute(tagRequest(EvaluatorTag.namespace, Uint8Array.of(key, step)));

function dump(shard: Shard): string[] {
  return Array.from(
    shard.table.scan(new Uint8Array(0), undefined),
    ({ key, value }) => `${toHex(key)}=${toHex(value)}`,
  );
}

async function inDirectory(body: (directory: string) => Promise<void>): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "kiseki-shard-" });
  try {
    await body(directory);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

Deno.test("commands see what is proposed before them: no increment is lost", async () => {
  await inDirectory(async (directory) => {
    const running = await start(new FakeDisk(), directory);
    const results = await Promise.all(
      Array.from({ length: 200 }, (_, i) => add(running.shard, i % 3, 1)),
    );
    assert.equal(new Set(results.map(toHex)).size, 67);
    assert.deepEqual(dump(running.shard), ["00=43000000", "01=43000000", "02=42000000"]);
    await stop(running);
  });
});

Deno.test("a refusal and a read are answered after what they may have seen is applied", async () => {
  await inDirectory(async (directory) => {
    const running = await start(new FakeDisk(), directory);
    const { shard } = running;
    const done: string[] = [];
    await Promise.all([
      add(shard, 1, 7).then(() => done.push("write")),
      add(shard, 1, 255).catch(() => done.push("refusal")),
      add(shard, 1, 0).then((value) => done.push(`read ${toHex(value)}`)),
    ]);
    assert.equal(done[0], "write");
    assert.deepEqual(done.toSorted(), ["read 07000000", "refusal", "write"]);
    const found = await shard.query(tagRequest(EvaluatorTag.namespace, Uint8Array.of(1)));
    assert.equal(toHex(found), "07000000");
    await stop(running);
  });
});

Deno.test("an unknown evaluator is refused by name", async () => {
  await inDirectory(async (directory) => {
    const running = await start(new FakeDisk(), directory);
    await assert.rejects(
      running.shard.execute(Uint8Array.of(99)),
      (error) => isKisekiError(error, "common.unsupported_version"),
    );
    await stop(running);
  });
});

Deno.test("rows from log alone, and from runs and log, are the same byte for byte", async () => {
  const random = seededRandom(testSeed("shard rebuild"));
  for (let round = 0; round < testRounds(60); round++) {
    await inDirectory(async (directory) => {
      const disk = new FakeDisk();
      let folded = await start(disk, `${directory}/folded`);
      const plain = await start(new FakeDisk(), `${directory}/plain`);
      for (let life = 0; life < 4; life++) {
        const steps = Array.from({ length: 40 }, () => [
          Math.floor(random() * 9),
          random() < 0.2 ? 254 : 1 + Math.floor(random() * 5),
        ]);
        for (const [i, [key = 0, step = 0]] of steps.entries()) {
          await Promise.all([folded, plain].map(({ shard }) => add(shard, key, step)));
          if (random() < 0.05) await folded.shard.fold();
          if (i === 20 && random() < 0.5) await folded.shard.table.compact();
        }
        // The process dies: nothing is closed in order, the table keeps its last manifest.
        await folded.raft.close();
        await folded.wal.close();
        await folded.shard.close();
        folded = await start(disk, `${directory}/folded`);
        assert.deepEqual(dump(folded.shard), dump(plain.shard));
        assert.equal(folded.shard.sequence, plain.shard.sequence);
      }
      await stop(folded);
      await stop(plain);
    });
  }
});

Deno.test("a dropped table is rebuilt from the log with the same rows", async () => {
  await inDirectory(async (directory) => {
    const disk = new FakeDisk();
    const first = await start(disk, `${directory}/table`);
    for (let i = 0; i < 300; i++) await add(first.shard, i % 50, i % 7 === 0 ? 254 : 1);
    const rows = dump(first.shard);
    const { sequence } = first.shard;
    await stop(first);
    await Deno.remove(`${directory}/table`, { recursive: true });
    const again = await start(disk, `${directory}/table`);
    assert.deepEqual(dump(again.shard), rows);
    assert.equal(again.shard.sequence, sequence);
    await stop(again);
  });
});
