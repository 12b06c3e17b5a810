/**
 * Small files that must survive: written aside, synced, renamed, and the directory synced.
 */

/** @param mode Permission bits, 0600 by default. */
export async function writeDurably(path: string, text: string, mode = 0o600): Promise<void> {
  const temporary = `${path}.new`;
  {
    using out = await Deno.open(temporary, { write: true, create: true, truncate: true, mode });
    const bytes = new TextEncoder().encode(text);
    for (let at = 0; at < bytes.length;) at += await out.write(bytes.subarray(at));
    await out.syncData();
  }
  await Deno.rename(temporary, path);
  using directory = await Deno.open(path.slice(0, path.lastIndexOf("/")) || "/");
  await directory.sync();
}
