/**
 * Marked content and marked names go in by every door; then no file under the data directory may
 * hold a marker, in plain, base64 or UTF-16.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { open } from "node:fs/promises";
import { S3Client } from "./s3_client.ts";
import { removeData, startServer } from "./server.ts";

/** Every marker starts so; long enough that chance does not write it. */
const MARK = "mArKeRx7Q9z";

/** What a scan looks for: the mark as it is, in UTF-16 both ways, in base64 at every alignment. */
export function markerForms(mark: string): readonly (readonly [string, Buffer])[] {
  const lower = mark.toLowerCase();
  const forms: [string, Buffer][] = [];
  for (const [name, text] of [["as written", mark], ["in lower case", lower]] as const) {
    const plain = Buffer.from(text, "utf8");
    const wide = Buffer.from(text, "utf16le");
    forms.push([`plain, ${name}`, plain], [`UTF-16LE, ${name}`, wide]);
    forms.push([`UTF-16BE, ${name}`, Buffer.from(wide).swap16()]);
    for (let shift = 0; shift < 3; shift++) {
      const encoded = Buffer.concat([Buffer.alloc(shift, 0x41), plain]).toString("base64");
      // The characters that depend on the mark alone, whatever stands before and after it.
      const first = Math.ceil((shift * 8) / 6);
      const last = Math.floor(((shift + plain.length) * 8) / 6);
      forms.push([`base64 at ${shift}, ${name}`, Buffer.from(encoded.slice(first, last))]);
    }
    forms.push([`hex, ${name}`, Buffer.from(plain.toString("hex"))]);
  }
  return forms;
}

/** Next byte of data at or after `offset` (Linux lseek SEEK_DATA); -1 when only holes follow. */
function nextData(libc: SeekLibrary, fd: number, offset: number): number {
  return Number(libc.symbols.lseek(fd, BigInt(offset), SEEK_DATA));
}

const SEEK_DATA = 3;
const SEEK = { lseek: { parameters: ["i32", "i64", "i32"], result: "i64" } } as const;
type SeekLibrary = Deno.DynamicLibrary<typeof SEEK>;
const WINDOW = 4 << 20;

/** Names of the forms that a file holds; holes of sparse files are skipped. */
async function formsInFile(
  path: string,
  forms: readonly (readonly [string, Buffer])[],
  longest: number,
): Promise<string[]> {
  const found: string[] = [];
  using libc = {
    library: Deno.dlopen("libc.so.6", SEEK),
    [Symbol.dispose]() {
      this.library.close();
    },
  };
  const file = await open(path, "r");
  try {
    const { size } = await file.stat();
    const window = Buffer.alloc(WINDOW + longest);
    let offset = 0;
    while (offset < size) {
      const data = nextData(libc.library, file.fd, offset);
      if (data < 0) break;
      // A form may begin in the bytes before the data that was found: never, they are zeros.
      offset = Math.max(offset, data);
      const { bytesRead } = await file.read(window, 0, window.length, offset);
      if (bytesRead === 0) break;
      const view = window.subarray(0, bytesRead);
      for (const [name, bytes] of forms) if (view.includes(bytes)) found.push(name);
      offset += Math.min(WINDOW, bytesRead);
    }
  } finally {
    await file.close();
  }
  return found;
}

/** Files below a directory that hold one of the forms. */
export async function findMarkers(directory: string, mark: string): Promise<string[]> {
  const forms = markerForms(mark);
  const longest = Math.max(...forms.map(([, bytes]) => bytes.length));
  const found: string[] = [];
  const walk = async (path: string): Promise<void> => {
    for await (const entry of Deno.readDir(path)) {
      const child = `${path}/${entry.name}`;
      for (const [name, bytes] of forms) {
        if (Buffer.from(entry.name).includes(bytes)) found.push(`${child}: its name, ${name}`);
      }
      if (entry.isDirectory) await walk(child);
      else if (entry.isFile) {
        for (const form of await formsInFile(child, forms, longest)) {
          found.push(`${child}: ${form}`);
        }
      }
    }
  };
  await walk(directory);
  return [...new Set(found)];
}

Deno.test("the scan finds a marker in each form, so that its silence means something", async () => {
  const directory = await Deno.makeTempDir();
  try {
    for (const [i, [, bytes]] of markerForms(MARK).entries()) {
      await Deno.writeFile(
        `${directory}/${i}`,
        Buffer.concat([Buffer.alloc((4 << 20) - 3, 1), bytes, Buffer.alloc(5, 2)]),
      );
    }
    await Deno.writeTextFile(`${directory}/encoded`, btoa(`xy${MARK}z`));
    const found = await findMarkers(directory, MARK);
    for (const i of markerForms(MARK).keys()) {
      assert.ok(found.some((f) => f.startsWith(`${directory}/${i}: `)), `form ${i} is not found`);
    }
    assert.ok(found.some((f) => f.includes("/encoded")));
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("no content and no name is on disk in the clear", async () => {
  const server = await startServer();
  try {
    const client = new S3Client(server);
    const bucket = `bucket-${MARK.toLowerCase()}`;
    const repeated = (size: number): Uint8Array<ArrayBuffer> =>
      new TextEncoder().encode(MARK.repeat(Math.ceil(size / MARK.length)).slice(0, size));
    const ok = async (what: string, reply: Promise<{ status: number; text(): string }>) => {
      const { status, text } = await reply;
      assert.ok(status === 200 || status === 204, `${what}: ${status} ${text()}`);
    };
    await ok("bucket", client.createBucket(bucket));
    for (const size of [11, 400, 4_000, 5_000, 70_000, 9_000_000]) {
      await ok(
        "put",
        client.put(bucket, `dir-${MARK}/key-${MARK}-${size}`, repeated(size), {
          "content-type": `text/${MARK}`,
          "x-amz-meta-note": `meta ${MARK}`,
          "x-amz-tagging": `tag${MARK}=value${MARK}`,
          "content-disposition": `attachment; filename="${MARK}"`,
        }),
      );
    }
    await ok(
      "multipart",
      client.multipart(bucket, `multi-${MARK}`, [repeated(5 << 20), repeated(1000)]),
    );
    await ok("copy", client.copy(bucket, `multi-${MARK}`, `copy-${MARK}`));
    await ok("remove", client.remove(bucket, `copy-${MARK}`));
    const open = await client.send({
      method: "POST",
      bucket,
      key: `open-${MARK}`,
      query: { uploads: "" },
    });
    assert.equal(open.status, 200);
    await ok(
      "versioning",
      client.send({
        method: "PUT",
        bucket,
        query: { versioning: "" },
        body: "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
      }),
    );
    await ok("second version", client.put(bucket, `multi-${MARK}`, repeated(2_000)));
    await ok(
      "bucket tags",
      client.send({
        method: "PUT",
        bucket,
        query: { tagging: "" },
        body:
          `<Tagging><TagSet><Tag><Key>${MARK}</Key><Value>${MARK}</Value></Tag></TagSet></Tagging>`,
      }),
    );
    assert.deepEqual(await findMarkers(server.dataDir, MARK), [], "while it runs");
    assert.equal(await server.stop(), 0);
    assert.deepEqual(await findMarkers(server.dataDir, MARK), [], "after it stopped");
    const again = await startServer({ dataDir: server.dataDir });
    const reply = await new S3Client(again).get(bucket, `dir-${MARK}/key-${MARK}-4000`);
    assert.equal(reply.text(), MARK.repeat(400).slice(0, 4000));
    await again.stop();
    assert.deepEqual(await findMarkers(server.dataDir, MARK), [], "after a restart");
    assert.ok(!server.log().includes(MARK), "a name is in the log");
  } finally {
    await server.kill();
    await removeData(server.dataDir);
  }
});
