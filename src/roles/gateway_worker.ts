/**
 * Entry of a gateway Worker: the first message starts the isolate, the rest goes over links.
 */
import { startGateway } from "./gateway_isolate.ts";
import type { GatewayStart } from "./isolates.ts";

/** What this module needs of its global scope. */
interface WorkerScope {
  onmessage: ((event: MessageEvent<GatewayStart>) => void) | null;
}

const scope = globalThis as unknown as WorkerScope;
scope.onmessage = ({ data }) => {
  scope.onmessage = null;
  startGateway(data);
};
