/**
 * Where a chunk's fragments go: weighted rendezvous hashing (Thaler and Ravishankar, 1998; weights
 * after Schindelhauer and Schomaker, 2005), spread over nodes and racks.
 *
 * A pure function of the chunk id and the map: adding a device moves only what goes to it, losing
 * one moves only what it held. The real placement is recorded with the chunk, so that a map may
 * change at any time; its version tells which map chose a place.
 */
import type { ChunkId, DeviceId, NodeId } from "../common/ids.ts";

/** A device that may hold fragments. */
export interface PlacementDevice {
  readonly device: DeviceId;
  /** Its share of the data: its capacity in bytes, or any positive number in proportion. */
  readonly weight: number;
  readonly node: NodeId;
  readonly rack?: string;
}

/**
 * All devices in the order in which they take a chunk's fragments: fragment i goes to the i-th. The
 * order first avoids nodes, then racks, that already have a fragment; then the greater score wins.
 *
 * @param spread How many of the first are spread; the rest come by score alone, as spares.
 */
export function placementOrder(
  chunk: ChunkId,
  devices: readonly PlacementDevice[],
  spread: number,
): readonly PlacementDevice[] {
  const high = Number.parseInt(chunk.slice(0, 8), 16);
  const low = Number.parseInt(chunk.slice(8, 16), 16);
  const ranked = devices.filter((device) => device.weight > 0)
    .map((device) => ({ device, score: score(high, low, device) }))
    .sort((a, b) => b.score - a.score || (a.device.device < b.device.device ? -1 : 1));
  const order: PlacementDevice[] = [];
  const onNode = new Map<NodeId, number>();
  const onRack = new Map<string, number>();
  while (order.length < spread && ranked.length > 0) {
    let best = 0;
    let bestUse = Number.POSITIVE_INFINITY;
    for (let i = 0; i < ranked.length && bestUse > 0; i++) {
      const { node, rack } = (ranked[i] as typeof ranked[number]).device;
      const use = (onNode.get(node) ?? 0) * 1000 +
        (rack === undefined ? 0 : onRack.get(rack) ?? 0);
      if (use < bestUse) [best, bestUse] = [i, use];
    }
    const [taken] = ranked.splice(best, 1);
    if (taken === undefined) break;
    const { device } = taken;
    order.push(device);
    onNode.set(device.node, (onNode.get(device.node) ?? 0) + 1);
    if (device.rack !== undefined) onRack.set(device.rack, (onRack.get(device.rack) ?? 0) + 1);
  }
  for (const { device } of ranked) order.push(device);
  return order;
}

/** -weight / ln(u) with u uniform in (0, 1): the greatest of n wins with its share of the weights. */
function score(high: number, low: number, { device, weight }: PlacementDevice): number {
  let a = high ^ Number.parseInt(device.slice(0, 8), 16);
  let b = low ^ Number.parseInt(device.slice(8, 16), 16);
  for (let word = 16; word < 32; word += 8) {
    a = mix(a ^ b);
    b = mix(b ^ a ^ Number.parseInt(device.slice(word, word + 8), 16));
  }
  a = mix(a ^ b);
  // 53 bits, never 0 nor 1.
  const uniform = ((a >>> 5) * 0x400_0000 + (b >>> 6) + 0.5) / 2 ** 53;
  return -weight / Math.log(uniform);
}

/** Finaliser of MurmurHash3 (Appleby, public domain). */
function mix(value: number): number {
  let h = value;
  h = Math.imul(h ^ (h >>> 16), 0x85eb_ca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2_ae35);
  return h ^ (h >>> 16);
}
