/**
 * One keep-alive HTTP/1.1 connection for the S3 client: small heads, bodies read into one buffer,
 * or counted and dropped. A load generator must cost less than what it measures, so this does not
 * go through `fetch`.
 *
 * Invariants: one request at a time; after any error, an unexpected byte or `connection: close`
 * the connection is not used again; a response's head is at most {@link MAX_HEAD_BYTES}.
 */
import { concatBytes, EMPTY_BYTES, utf8 } from "../common/bytes.ts";
import { KisekiError } from "../common/errors.ts";

const MAX_HEAD_BYTES = 64 * 1024;
const BUFFER_BYTES = 256 * 1024;

export interface HttpTarget {
  readonly host: string;
  readonly port: number;
  readonly tls: boolean;
}

export interface HttpResponse {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: ReadonlyMap<string, string>;
  /** Empty when it was dropped. */
  readonly body: Uint8Array;
  readonly bodyBytes: number;
}

export interface HttpRequestOptions {
  readonly head: string;
  readonly body?: Uint8Array;
  /** The response has no body whatever its headers say (HEAD). */
  readonly headOnly?: boolean;
  /** Counts the body and drops it. */
  readonly dropBody?: boolean;
}

export class HttpConnection {
  readonly #conn: Deno.Conn;
  readonly #buffer = new Uint8Array(BUFFER_BYTES);
  #start = 0;
  #end = 0;
  #usable = true;
  #received = false;

  private constructor(conn: Deno.Conn) {
    this.#conn = conn;
  }

  /** @throws KisekiError `common.unavailable`. */
  static async open(target: HttpTarget): Promise<HttpConnection> {
    const { host: hostname, port } = target;
    try {
      if (target.tls) return new HttpConnection(await Deno.connectTls({ hostname, port }));
      const conn = await Deno.connect({ hostname, port });
      conn.setNoDelay(true);
      return new HttpConnection(conn);
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new KisekiError(
        "common.unavailable",
        `${hostname}:${port} cannot be reached: ${reason}`,
        { retriable: true, cause },
      );
    }
  }

  get usable(): boolean {
    return this.#usable;
  }

  /** True once a byte of the last response arrived: the server has seen the request. */
  get received(): boolean {
    return this.#received;
  }

  /** @throws KisekiError `common.unavailable` when the connection broke, `common.corrupt_format`. */
  async request(options: HttpRequestOptions): Promise<HttpResponse> {
    this.#received = false;
    try {
      await this.#send(options);
      return await this.#receive(options);
    } catch (cause) {
      this.close();
      if (cause instanceof KisekiError) throw cause;
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new KisekiError("common.unavailable", `the connection broke: ${reason}`, {
        retriable: true,
        cause,
      });
    }
  }

  close(): void {
    if (!this.#usable) return;
    this.#usable = false;
    this.#conn.close();
  }

  async #send({ head, body }: HttpRequestOptions): Promise<void> {
    const headBytes = utf8(head);
    if (body === undefined || body.length === 0) return await this.#write(headBytes);
    if (body.length <= 64 * 1024) return await this.#write(concatBytes(headBytes, body));
    await this.#write(headBytes);
    await this.#write(body);
  }

  async #write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) at += await this.#conn.write(bytes.subarray(at));
  }

  async #receive(options: HttpRequestOptions): Promise<HttpResponse> {
    let head = await this.#readHead();
    while (head.status >= 100 && head.status < 200) head = await this.#readHead();
    const { status, headers } = head;
    const sink = new BodySink(options.dropBody === true);
    const bodyless = options.headOnly === true || status === 204 || status === 304;
    const length = headers.get("content-length");
    if (!bodyless) {
      if (headers.get("transfer-encoding")?.toLowerCase() === "chunked") {
        await this.#readChunks(sink);
      } else if (length !== undefined) {
        if (!/^[0-9]{1,15}$/.test(length)) throw corrupt(`content-length ${length}`);
        sink.expect(Number(length));
        await this.#readBody(Number(length), sink);
      } else {
        await this.#readToEnd(sink);
        this.close();
      }
    }
    if (headers.get("connection")?.toLowerCase() === "close") this.close();
    return { status, headers, body: sink.finish(), bodyBytes: sink.size };
  }

  async #readHead(): Promise<{ status: number; headers: Map<string, string> }> {
    const lines = (await this.#readUntil("\r\n\r\n")).split("\r\n");
    const status = /^HTTP\/1\.[01] ([0-9]{3})(?: |$)/.exec(lines[0] ?? "")?.[1];
    if (status === undefined) throw corrupt(`status line ${(lines[0] ?? "").slice(0, 80)}`);
    const headers = new Map<string, string>();
    for (let i = 1; i < lines.length; i++) {
      const line = lines[i] as string;
      const colon = line.indexOf(":");
      if (colon <= 0) throw corrupt(`header line ${line.slice(0, 80)}`);
      headers.set(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim());
    }
    return { status: Number(status), headers };
  }

  /** Text up to a mark, which is consumed. */
  async #readUntil(mark: "\r\n\r\n" | "\r\n"): Promise<string> {
    const markBytes = utf8(mark);
    let from = 0;
    while (true) {
      const view = this.#buffer.subarray(this.#start, this.#end);
      const at = indexOf(view, markBytes, from);
      if (at >= 0) {
        this.#start += at + markBytes.length;
        return new TextDecoder("latin1").decode(view.subarray(0, at));
      }
      if (view.length > MAX_HEAD_BYTES) throw corrupt("a head over 64 KiB");
      from = Math.max(0, view.length - markBytes.length + 1);
      await this.#fill();
    }
  }

  async #readBody(length: number, sink: BodySink): Promise<void> {
    let left = length;
    while (left > 0) {
      if (this.#start === this.#end) await this.#fill();
      const size = Math.min(left, this.#end - this.#start);
      sink.take(this.#buffer.subarray(this.#start, this.#start + size));
      this.#start += size;
      left -= size;
    }
  }

  async #readChunks(sink: BodySink): Promise<void> {
    while (true) {
      const line = await this.#readUntil("\r\n");
      const size = /^([0-9A-Fa-f]{1,12})(?:;.*)?$/.exec(line)?.[1];
      if (size === undefined) throw corrupt(`chunk size ${line.slice(0, 40)}`);
      const length = Number.parseInt(size, 16);
      if (length === 0) break;
      await this.#readBody(length, sink);
      if (await this.#readUntil("\r\n") !== "") throw corrupt("bytes behind a chunk");
    }
    while (await this.#readUntil("\r\n") !== "") continue;
  }

  async #readToEnd(sink: BodySink): Promise<void> {
    while (true) {
      if (this.#start === this.#end && !await this.#tryFill()) return;
      sink.take(this.#buffer.subarray(this.#start, this.#end));
      this.#start = this.#end;
    }
  }

  async #fill(): Promise<void> {
    if (await this.#tryFill()) return;
    throw new KisekiError("common.unavailable", "the server closed the connection", {
      retriable: true,
    });
  }

  async #tryFill(): Promise<boolean> {
    if (this.#start === this.#end) this.#start = this.#end = 0;
    else if (this.#end === this.#buffer.length) {
      this.#buffer.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    const size = await this.#conn.read(this.#buffer.subarray(this.#end));
    if (size === null) return false;
    this.#received = true;
    this.#end += size;
    return true;
  }
}

/** Collects a body, or counts it. */
class BodySink {
  readonly #drop: boolean;
  #whole: Uint8Array | undefined;
  #parts: Uint8Array[] = [];
  size = 0;

  constructor(drop: boolean) {
    this.#drop = drop;
  }

  expect(length: number): void {
    if (!this.#drop) this.#whole = new Uint8Array(length);
  }

  take(bytes: Uint8Array): void {
    if (!this.#drop) {
      if (this.#whole !== undefined) this.#whole.set(bytes, this.size);
      else this.#parts.push(bytes.slice());
    }
    this.size += bytes.length;
  }

  finish(): Uint8Array {
    if (this.#drop) return EMPTY_BYTES;
    return this.#whole ?? concatBytes(...this.#parts);
  }
}

function indexOf(bytes: Uint8Array, mark: Uint8Array, from: number): number {
  const first = mark[0] as number;
  let at = bytes.indexOf(first, from);
  while (at >= 0 && at + mark.length <= bytes.length) {
    let i = 1;
    while (i < mark.length && bytes[at + i] === mark[i]) i++;
    if (i === mark.length) return at;
    at = bytes.indexOf(first, at + 1);
  }
  return -1;
}

function corrupt(what: string): KisekiError {
  return new KisekiError("common.corrupt_format", `HTTP response: ${what}`);
}
