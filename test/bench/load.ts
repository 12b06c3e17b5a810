/**
 * A load generator that costs little: keep-alive HTTP/1.1 over raw sockets, requests built and
 * signed before the clock starts, answers read into one buffer a connection and only counted.
 */

/** A request as it goes on the wire. */
export interface WireRequest {
  readonly head: Uint8Array;
  /** Sent after the head; may be shared by many requests. */
  readonly body?: Uint8Array;
}

export interface LoadResult {
  readonly requests: number;
  readonly bytes: number;
  readonly seconds: number;
  readonly perSecond: number;
  readonly bytesPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
}

/**
 * Sends `total` requests over `connections` sockets, as fast as answers come.
 *
 * @throws Error on the first answer that is no 2xx, with the start of its body.
 */
export async function runLoad(
  port: number,
  connections: number,
  total: number,
  requestOf: (i: number) => WireRequest,
): Promise<LoadResult> {
  let next = 0;
  let bytes = 0;
  const latencies = new Float64Array(total);
  const sockets = await Promise.all(
    Array.from({ length: connections }, () => Deno.connect({ hostname: "127.0.0.1", port })),
  );
  const started = performance.now();
  try {
    await Promise.all(sockets.map(async (socket) => {
      socket.setNoDelay(true);
      const connection = new Connection(socket);
      while (next < total) {
        const i = next++;
        const sent = performance.now();
        const moved = await connection.exchange(requestOf(i));
        bytes += moved;
        latencies[i] = performance.now() - sent;
      }
    }));
  } finally {
    for (const socket of sockets) socket.close();
  }
  const seconds = (performance.now() - started) / 1000;
  latencies.sort();
  const at = (share: number): number =>
    latencies[Math.min(total - 1, Math.floor(total * share))] ?? 0;
  return {
    requests: total,
    bytes,
    seconds,
    perSecond: total / seconds,
    bytesPerSecond: bytes / seconds,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    p999Ms: at(0.999),
  };
}

class Connection {
  readonly #socket: Deno.TcpConn;
  readonly #buffer = new Uint8Array(1 << 20);
  readonly #decoder = new TextDecoder();

  constructor(socket: Deno.TcpConn) {
    this.#socket = socket;
  }

  /** One request and its answer; returns body bytes moved, whichever way. */
  async exchange(request: WireRequest): Promise<number> {
    const bodyBytes = request.body?.length ?? 0;
    const writing = this.#write(request);
    let filled = 0;
    let headEnd = -1;
    while (headEnd < 0) {
      const n = await this.#socket.read(this.#buffer.subarray(filled));
      if (n === null) throw new Error("the server closed the connection");
      filled += n;
      headEnd = endOfHead(this.#buffer, filled);
    }
    const head = this.#decoder.decode(this.#buffer.subarray(0, headEnd));
    const length = /\r\ncontent-length: *(\d+)/i.exec(head);
    let left = (length === null ? 0 : Number(length[1])) - (filled - headEnd);
    if (length === null && /transfer-encoding: *chunked/i.test(head)) {
      throw new Error("a chunked answer, which this generator does not read");
    }
    if (!/^HTTP\/1\.1 2/.test(head)) {
      throw new Error(`${head}${this.#decoder.decode(this.#buffer.subarray(headEnd, filled))}`);
    }
    const received = filled - headEnd + Math.max(0, left);
    while (left > 0) {
      const n = await this.#socket.read(this.#buffer);
      if (n === null) throw new Error("the server closed the connection");
      left -= n;
    }
    await writing;
    return bodyBytes + received;
  }

  async #write(request: WireRequest): Promise<void> {
    if (request.body === undefined || request.body.length === 0) {
      await writeAll(this.#socket, request.head);
    } else if (request.body.length <= 65_536) {
      const joined = new Uint8Array(request.head.length + request.body.length);
      joined.set(request.head);
      joined.set(request.body, request.head.length);
      await writeAll(this.#socket, joined);
    } else {
      await writeAll(this.#socket, request.head);
      await writeAll(this.#socket, request.body);
    }
  }
}

async function writeAll(socket: Deno.TcpConn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    at += await socket.write(bytes.subarray(at, at + (1 << 20)));
  }
}

function endOfHead(buffer: Uint8Array, filled: number): number {
  for (let i = 3; i < filled; i++) {
    if (buffer[i] === 10 && buffer[i - 1] === 13 && buffer[i - 2] === 10 && buffer[i - 3] === 13) {
      return i + 1;
    }
  }
  return -1;
}
