import assert from "node:assert/strict";
import { utf8, utf8ToString } from "../common/bytes.ts";
import { isKisekiError, KisekiError } from "../common/errors.ts";
import { Link, newLinkMemory } from "./link.ts";

function pair(): { a: Link; b: Link; stop: () => Promise<void> } {
  const [left, right] = newLinkMemory(1 << 20);
  const a = new Link(left, "right");
  const b = new Link(right, "left");
  const running = [a.run(), b.run()];
  return {
    a,
    b,
    stop: async () => {
      a.close();
      b.close();
      await Promise.all(running);
    },
  };
}

Deno.test("calls are answered each to its caller, both ways at once", async () => {
  const { a, b, stop } = pair();
  for (const link of [a, b]) {
    link.handle(1, (payload) => utf8(`${utf8ToString(payload)}!`));
    link.handle(2, async (payload) => {
      await Promise.resolve();
      return payload;
    });
  }
  const answers = await Promise.all(
    Array.from({ length: 500 }, async (_, i) => {
      const [link, method] = [i % 2 === 0 ? a : b, 1 + (i % 3 === 0 ? 1 : 0)];
      return utf8ToString(await link.call(method, utf8(String(i)))) +
        (method === 2 ? "!" : "");
    }),
  );
  assert.deepEqual(answers, Array.from({ length: 500 }, (_, i) => `${i}!`));
  await stop();
});

Deno.test("an error crosses with its code, message and details", async () => {
  const { a, b, stop } = pair();
  b.handle(7, () => {
    throw new KisekiError("chunk.no_space", "pool full", {
      retriable: true,
      details: { pool: "p" },
    });
  });
  await assert.rejects(a.call(7, utf8("")), (error) => {
    assert.ok(isKisekiError(error, "chunk.no_space"));
    assert.equal(error.message, "pool full");
    assert.equal(error.retriable, true);
    assert.deepEqual(error.details, { pool: "p" });
    return true;
  });
  await assert.rejects(a.call(8, utf8("")), /no handler for method 8/);
  await stop();
});

Deno.test("callers in flight are told when the other side goes", async () => {
  const { a, b, stop } = pair();
  b.handle(1, () => new Promise(() => undefined));
  const call = a.call(1, utf8("x"));
  b.close();
  await assert.rejects(call, (error) => isKisekiError(error, "common.unavailable"));
  await assert.rejects(a.call(1, utf8("x")), (error) => isKisekiError(error, "common.unavailable"));
  await stop();
});

Deno.test("an answer too large for the ring is an error at the caller", async () => {
  const { a, b, stop } = pair();
  b.handle(1, () => new Uint8Array(1 << 19));
  await assert.rejects(
    a.call(1, utf8("")),
    (error) => isKisekiError(error, "common.limit_exceeded"),
  );
  await stop();
});
