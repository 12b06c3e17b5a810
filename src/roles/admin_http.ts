/**
 * The admin HTTP address: /health, /ready, /metrics.
 *
 * Invariants: /health says only that the process answers; /ready is 200 when the node serves and
 * 503 with its reasons otherwise; nothing here tells of tenants, and nothing changes anything.
 */
import { METRICS_CONTENT_TYPE } from "../common/metrics.ts";

export interface AdminHttpOptions {
  /** Reasons not to be ready; empty = ready. */
  readonly notReady: () => readonly string[];
  /** The metrics page of all isolates. */
  readonly metrics: () => Promise<string>;
  /** Version, for the front page. */
  readonly version: string;
}

const TEXT = "text/plain; charset=utf-8";

/** Handler for `Deno.serve` on the admin address. */
export function adminHttpHandler(
  options: AdminHttpOptions,
): (request: Request) => Promise<Response> {
  return async (request) => {
    const path = new URL(request.url).pathname;
    if (request.method !== "GET" && request.method !== "HEAD") {
      return text(405, "only GET and HEAD\n", { allow: "GET, HEAD" });
    }
    switch (path) {
      case "/":
        return text(200, `kiseki ${options.version}\n\n/health\n/ready\n/metrics\n`);
      case "/health":
        return text(200, "alive\n");
      case "/ready": {
        const reasons = options.notReady();
        return reasons.length === 0
          ? text(200, "ready\n")
          : text(503, `not ready\n${reasons.map((reason) => `- ${reason}\n`).join("")}`, {
            "retry-after": "1",
          });
      }
      case "/metrics":
        return new Response(await options.metrics(), {
          headers: { "content-type": METRICS_CONTENT_TYPE, "cache-control": "no-store" },
        });
      default:
        return text(404, "no such page: /health, /ready, /metrics\n");
    }
  };
}

function text(status: number, body: string, headers: Record<string, string> = {}): Response {
  return new Response(body, {
    status,
    headers: { "content-type": TEXT, "cache-control": "no-store", ...headers },
  });
}
