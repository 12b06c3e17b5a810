import assert from "node:assert/strict";
import fc from "fast-check";
import { seededRandom, testRounds, testSeed } from "../../test/rounds.ts";
import { newRingMemory, RingConsumer, RingProducer } from "./ring.ts";

Deno.test("messages arrive whole, in order and once, whatever their sizes", async () => {
  const seed = testSeed("ring");
  const random = seededRandom(seed);
  const memory = newRingMemory(65_536);
  const producer = new RingProducer(memory);
  const consumer = new RingConsumer(memory);
  const sizes = Array.from(
    { length: testRounds(20_000) },
    () => Math.floor(random() ** 4 * producer.maxMessageBytes),
  );
  let received = 0;
  const running = consumer.run((message) => {
    assert.equal(message.length, sizes[received]);
    assert.ok(message.every((byte) => byte === (received & 0xff)));
    received++;
    if (received === sizes.length) consumer.close();
  });
  for (const [i, size] of sizes.entries()) {
    await producer.send([new Uint8Array(size).fill(i & 0xff)]);
  }
  await running;
  assert.equal(received, sizes.length);
});

Deno.test("a full ring makes the producer wait, not lose", async () => {
  const memory = newRingMemory(65_536);
  const producer = new RingProducer(memory);
  const consumer = new RingConsumer(memory);
  const message = new Uint8Array(16_000);
  const sends = Array.from({ length: 10 }, () => producer.send([message]));
  assert.ok(producer.queued > 0);
  let received = 0;
  const running = consumer.run(() => {
    if (++received === 10) consumer.close();
  });
  await Promise.all(sends);
  await running;
  assert.equal(received, 10);
});

Deno.test("parts of a message are joined", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 8 }),
      async (parts) => {
        const memory = newRingMemory(65_536);
        const producer = new RingProducer(memory);
        const consumer = new RingConsumer(memory);
        await producer.send(parts);
        await consumer.run((message) => {
          assert.deepEqual([...message], parts.flatMap((part) => [...part]));
          consumer.close();
        });
      },
    ),
    { numRuns: testRounds(500), seed: testSeed("ring parts") },
  );
});

Deno.test("a message over a quarter of the ring and a closed ring are refused", () => {
  const memory = newRingMemory(65_536);
  const producer = new RingProducer(memory);
  assert.throws(() => producer.send([new Uint8Array(16_385)]), /max 16384/);
  producer.close();
  assert.throws(() => producer.send([new Uint8Array(1)]), /has stopped/);
});
