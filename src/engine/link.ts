/**
 * A two-way link between isolates: calls with answers over a pair of rings.
 *
 * Frame: kind (1), reserved (1), method u16, call id u32, payload. Kinds: 0 request, 1 answer,
 * 2 error (JSON of an `ErrorRecord`). Bulk data does not travel here: it lies in shared memory
 * (`bulk_memory.ts`), and a payload names its place.
 *
 * Invariants: every call is answered once or rejected when the link closes; calls in flight are
 * bounded; a handler gets bytes of its own.
 */
import { type Bytes, ByteWriter, utf8, utf8ToString } from "../common/bytes.ts";
import { errorFromRecord, type ErrorRecord, errorToRecord, KisekiError } from "../common/errors.ts";
import { newRingMemory, RingConsumer, RingProducer } from "./ring.ts";

const REQUEST = 0;
const ANSWER = 1;
const FAILURE = 2;
const FRAME_HEADER_BYTES = 8;
/** Calls in flight on one link, each way. */
export const MAX_CALLS_IN_FLIGHT = 16_384;

/** What crosses to the other isolate in the first message. */
export interface LinkMemory {
  readonly out: SharedArrayBuffer;
  readonly in: SharedArrayBuffer;
}

/** Both ends of a new link. */
export function newLinkMemory(capacity = 8 << 20): readonly [LinkMemory, LinkMemory] {
  const a = newRingMemory(capacity);
  const b = newRingMemory(capacity);
  return [{ out: a, in: b }, { out: b, in: a }];
}

export type LinkHandler = (payload: Bytes) => Bytes | Promise<Bytes>;

interface Waiting {
  readonly resolve: (answer: Bytes) => void;
  readonly reject: (error: unknown) => void;
}

export class Link {
  readonly #producer: RingProducer;
  readonly #consumer: RingConsumer;
  readonly #handlers = new Map<number, LinkHandler>();
  readonly #waiting = new Map<number, Waiting>();
  readonly #header = new ByteWriter(FRAME_HEADER_BYTES);
  readonly #peer: string;
  #nextCall = 1;
  #closed = false;

  /** @param peer Names the other end in errors. */
  constructor(memory: LinkMemory, peer: string) {
    this.#producer = new RingProducer(memory.out);
    this.#consumer = new RingConsumer(memory.in);
    this.#peer = peer;
  }

  get callsInFlight(): number {
    return this.#waiting.size;
  }

  /** Declares what this end answers. Before `run`. */
  handle(method: number, handler: LinkHandler): void {
    this.#handlers.set(method, handler);
  }

  /** Serves until the link is closed. */
  async run(): Promise<void> {
    try {
      await this.#consumer.run((message) => this.#receive(message));
    } finally {
      this.#fail();
    }
  }

  /**
   * Asks the other end.
   *
   * @throws KisekiError as the handler threw it, or `common.unavailable` when the link closes,
   *   or when {@link MAX_CALLS_IN_FLIGHT} calls are waiting.
   */
  call(method: number, payload: Bytes): Promise<Bytes> {
    if (this.#closed) return Promise.reject(this.#gone());
    if (this.#waiting.size >= MAX_CALLS_IN_FLIGHT) {
      return Promise.reject(
        new KisekiError("common.unavailable", `too many calls to the ${this.#peer} isolate`, {
          retriable: true,
        }),
      );
    }
    const id = this.#nextCall;
    this.#nextCall = (this.#nextCall + 1) >>> 0;
    const { promise, resolve, reject } = Promise.withResolvers<Bytes>();
    this.#waiting.set(id, { resolve, reject });
    this.#send(REQUEST, method, id, payload, (error) => {
      this.#waiting.delete(id);
      reject(error);
    });
    return promise;
  }

  close(): void {
    this.#producer.close();
    this.#consumer.close();
    this.#fail();
  }

  #receive(message: Bytes): void {
    const view = new DataView(message.buffer, message.byteOffset, message.length);
    const kind = view.getUint8(0);
    const method = view.getUint16(2, true);
    const id = view.getUint32(4, true);
    const payload = message.slice(FRAME_HEADER_BYTES);
    if (kind === REQUEST) {
      this.#serve(method, id, payload);
      return;
    }
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return; // answered after its caller gave up
    this.#waiting.delete(id);
    if (kind === ANSWER) waiting.resolve(payload);
    else waiting.reject(errorFromRecord(JSON.parse(utf8ToString(payload)) as ErrorRecord));
  }

  #serve(method: number, id: number, payload: Bytes): void {
    const handler = this.#handlers.get(method);
    const failed = (error: unknown): void => {
      this.#send(
        FAILURE,
        method,
        id,
        utf8(JSON.stringify(errorToRecord(error))),
        () => this.#fail(),
      );
    };
    const answered = (answer: Bytes): void => {
      try {
        this.#send(ANSWER, method, id, answer, () => this.#fail());
      } catch (error) {
        failed(error);
      }
    };
    if (handler === undefined) {
      failed(new KisekiError("common.internal", `no handler for method ${method} in this isolate`));
      return;
    }
    try {
      const answer = handler(payload);
      if (answer instanceof Promise) answer.then(answered, failed);
      else answered(answer);
    } catch (error) {
      failed(error);
    }
  }

  #send(
    kind: number,
    method: number,
    id: number,
    payload: Bytes,
    lost: (error: unknown) => void,
  ): void {
    this.#header.reset();
    this.#header.u8(kind).u8(0).u16(method).u32(id);
    if (kind === REQUEST) {
      try {
        const sent = this.#producer.send([this.#header.view(), payload]);
        if (sent instanceof Promise) sent.catch(lost);
      } catch (error) {
        lost(error);
      }
      return;
    }
    const sent = this.#producer.send([this.#header.view(), payload]);
    if (sent instanceof Promise) sent.catch(lost);
  }

  #fail(): void {
    this.#closed = true;
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject } of waiting) reject(this.#gone());
  }

  #gone(): KisekiError {
    return new KisekiError("common.unavailable", `the ${this.#peer} isolate has stopped`, {
      retriable: true,
    });
  }
}
