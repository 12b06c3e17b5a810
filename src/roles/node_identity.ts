/**
 * Who this node is, and the lock of its data directory.
 *
 * `node.json` holds the cluster id and the node's number; it is written once, durably, before
 * anything else is. `lock` is held (flock) for as long as the process lives: the kernel lets go of
 * it however the process ends.
 */
import { KisekiError } from "../common/errors.ts";
import { type ClusterId, newId128, type NodeId, parseId128 } from "../common/ids.ts";
import { writeDurably } from "./durable_file.ts";

export interface NodeIdentity {
  readonly cluster: ClusterId;
  readonly node: NodeId;
}

/** Number of the first node of a cluster. */
const FIRST_NODE = 1 as NodeId;

/**
 * Takes the lock; hold the file open.
 *
 * @throws KisekiError `block.locked` when another process has it.
 */
export async function lockDataDirectory(dataDir: string): Promise<Deno.FsFile> {
  await Deno.mkdir(dataDir, { recursive: true, mode: 0o700 });
  const file = await Deno.open(`${dataDir}/lock`, { read: true, write: true, create: true });
  if (file.tryLockSync(true)) return file;
  file.close();
  throw new KisekiError(
    "block.locked",
    `${dataDir} is in use by another kiseki: stop it, or take another --data-dir`,
  );
}

/** Reads who this node is, or makes the first node of a new cluster. */
export async function openNodeIdentity(dataDir: string): Promise<NodeIdentity> {
  const path = `${dataDir}/node.json`;
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    const identity = { cluster: newId128<ClusterId>(), node: FIRST_NODE };
    await writeDurably(path, JSON.stringify(identity));
    return identity;
  }
  try {
    const value = JSON.parse(text) as Partial<NodeIdentity>;
    const node = value.node;
    if (!Number.isSafeInteger(node) || (node ?? 0) < 1) throw new Error("node is no number");
    return { cluster: parseId128(String(value.cluster), "cluster"), node: node as NodeId };
  } catch (cause) {
    throw new KisekiError("common.corrupt_format", `${path}: not a node's identity`, { cause });
  }
}
