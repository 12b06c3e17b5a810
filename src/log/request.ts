/**
 * A request to a shard as it travels: one byte that selects the evaluator, then its message.
 */
import type { Bytes } from "../common/bytes.ts";
import type { EvaluatorTag } from "./ports.ts";

/** A copy of `message` behind its evaluator's tag. */
export function tagRequest(tag: EvaluatorTag, message: Bytes): Bytes {
  const request = new Uint8Array(1 + message.length);
  request[0] = tag;
  request.set(message, 1);
  return request;
}
