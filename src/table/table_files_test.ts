import assert from "node:assert/strict";
import { isKisekiError } from "../common/errors.ts";
import { directoryFiles } from "./table_files.ts";

Deno.test("a directory of the operating system makes, reads, renames and removes files", async () => {
  const root = await Deno.makeTempDir({ prefix: "kiseki-table-files-" });
  try {
    const files = directoryFiles(`${root}/a/b/c/`);
    files.make();
    files.make();
    const writer = files.create("one");
    writer.write(Uint8Array.of(1, 2, 3));
    writer.write(Uint8Array.of(4));
    writer.sync();
    writer.close();
    files.rename("one", "two");
    files.syncDirectory();
    assert.deepEqual(files.list(), ["two"]);
    const reader = files.open("two");
    const into = new Uint8Array(2);
    reader.readAt(1, into);
    assert.deepEqual([...into, reader.sizeBytes], [2, 3, 4]);
    assert.throws(() => reader.readAt(3, into), (error) => isKisekiError(error, "table.corrupt"));
    reader.close();
    assert.throws(() => files.open("one"), (error) => isKisekiError(error, "common.not_found"));
    files.remove("two");
    files.remove("two");
    assert.deepEqual(files.list(), []);
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});
