/**
 * The bare baseline of `make bench`: `Deno.serve` that writes PUT bodies to a file and serves GET
 * bodies from memory. No signatures, no hashes, no sync.
 *
 * Arguments: directory for files. Prints its port on one line.
 */
const directory = Deno.args[0] ?? ".";
const bodies = new Map<string, Uint8Array<ArrayBuffer>>();

const server = Deno.serve(
  { hostname: "127.0.0.1", port: 0, onListen: ({ port }) => console.log(String(port)) },
  async (request) => {
    const path = new URL(request.url).pathname;
    if (request.method === "PUT") {
      using file = await Deno.open(`${directory}/${path.replaceAll("/", "_")}`, {
        write: true,
        create: true,
        truncate: true,
      });
      if (request.body !== null) await request.body.pipeTo(file.writable, { preventClose: true });
      return new Response(null);
    }
    const size = Number(path.slice(1));
    let body = bodies.get(path);
    if (body === undefined) {
      body = new Uint8Array(size).fill(7);
      bodies.set(path, body);
    }
    if (size <= 1 << 20) return new Response(body);
    const whole = body;
    let at = 0;
    return new Response(
      new ReadableStream<Uint8Array<ArrayBuffer>>({
        pull(controller) {
          if (at === whole.length) return controller.close();
          controller.enqueue(whole.slice(at, at + (1 << 20)));
          at += 1 << 20;
        },
      }),
      { headers: { "content-length": String(size) } },
    );
  },
);
await server.finished;
