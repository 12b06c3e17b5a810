/**
 * Requests to the control shard's tenancy evaluator, typed. No policy, no keys.
 */
import { type Bytes, EMPTY_BYTES } from "../common/bytes.ts";
import { CONTROL_SHARD } from "../common/ids.ts";
import { EvaluatorTag, type ShardPort } from "../log/ports.ts";
import { tagRequest } from "../log/request.ts";
import {
  loadTenancyMessages,
  type RecordClass,
  type TenancyCommand,
  type TenancyMessages,
  type TenancyQuery,
  type TenancyResult,
  type TenantClass,
  type TenantRow,
} from "./tenancy_rows.ts";

export interface ScannedRow {
  readonly key: Bytes;
  readonly value: Bytes;
}

export class TenancyStore {
  readonly messages: TenancyMessages;
  readonly #shards: ShardPort;

  /** @param protoText Text of `proto/kiseki/v1/tenancy.proto`. */
  constructor(shards: ShardPort, protoText: string) {
    this.#shards = shards;
    this.messages = loadTenancyMessages(protoText);
  }

  async execute(command: TenancyCommand): Promise<TenancyResult> {
    const request = tagRequest(EvaluatorTag.tenancy, this.messages.command.encode(command));
    return this.messages.result.decode(await this.#shards.execute(CONTROL_SHARD, request));
  }

  async find(tenantClass: TenantClass, lookupHash: Bytes): Promise<TenantRow | undefined> {
    const [row] = (await this.#query({ find: { class: tenantClass, lookupHash } })).rows;
    return row === undefined ? undefined : this.messages.tenantRow.decode(row.value);
  }

  async get(recordClass: RecordClass, key: Bytes): Promise<Bytes | undefined> {
    const [row] = (await this.#query({ get: { class: recordClass, key } })).rows;
    return row?.value;
  }

  async scan(
    recordClass: RecordClass,
    prefix: Bytes,
    after: Bytes = EMPTY_BYTES,
    limit = 1000,
  ): Promise<{ readonly rows: readonly ScannedRow[]; readonly more: boolean }> {
    const answer = await this.#query({ scan: { class: recordClass, prefix, after, limit } });
    return { rows: answer.rows, more: answer.more };
  }

  /** All rows of a prefix, page after page. */
  async *all(recordClass: RecordClass, prefix: Bytes): AsyncGenerator<ScannedRow, void, void> {
    let after: Bytes = EMPTY_BYTES;
    while (true) {
      const page = await this.scan(recordClass, prefix, after);
      yield* page.rows;
      const last = page.rows.at(-1);
      if (!page.more || last === undefined) return;
      after = last.key;
    }
  }

  async #query(query: TenancyQuery) {
    const request = tagRequest(EvaluatorTag.tenancy, this.messages.query.encode(query));
    return this.messages.answer.decode(await this.#shards.query(CONTROL_SHARD, request));
  }
}
