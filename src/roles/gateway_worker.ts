/**
 * Entry of a gateway Worker: the first message starts the isolate, the rest goes over links.
 */
import { startGateway } from "./gateway_isolate.ts";
import type { GatewayStart } from "./isolates.ts";

self.addEventListener("message", (event: MessageEvent<GatewayStart>) => {
  startGateway(event.data);
}, { once: true });
