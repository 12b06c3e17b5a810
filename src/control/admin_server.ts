/**
 * The admin service over gRPC.
 *
 * Invariants: no method runs before its caller proved to be an administrator, by the token or by a
 * client certificate whose SPIFFE id is `spiffe://kiseki/<cluster>/admin/...`; a request is at most
 * {@link MAX_REQUEST_BYTES}; a call ends at its deadline, and at {@link MAX_CALL_MS} in any case.
 */
import {
  type sendUnaryData,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServiceDefinition,
  type UntypedHandleCall,
} from "@grpc/grpc-js";
import { Buffer } from "node:buffer";
import { formatListenAddress, type ListenAddress } from "../common/config_values.ts";
import { KisekiError } from "../common/errors.ts";
import type { Logger } from "../common/logging.ts";
import { loadControlMethods } from "./admin_messages.ts";
import type { ControlHandlers } from "./admin_service.ts";
import { toGrpcError } from "./admin_status.ts";
import { sameToken } from "./admin_token.ts";

export const MAX_REQUEST_BYTES = 1 << 20;
export const MAX_RESPONSE_BYTES = 16 << 20;
export const MAX_CALL_MS = 120_000;

export interface AdminServerOptions {
  readonly handlers: ControlHandlers;
  /** Text of `proto/kiseki/v1/control.proto`. */
  readonly protoText: string;
  readonly token: string;
  readonly cluster: string;
  readonly listen: ListenAddress;
  /** PEM texts. With it every caller needs a certificate of this authority. */
  readonly tls?: { readonly certificate: string; readonly key: string; readonly clientCa: string };
  readonly logger: Logger;
}

export interface AdminServer {
  readonly address: ListenAddress;
  /** Lets running calls finish, at most `graceMs`. */
  stop(graceMs: number): Promise<void>;
}

type Message = object;

/** Starts the service. @throws KisekiError `common.unavailable` when the address is taken. */
export async function startAdminServer(options: AdminServerOptions): Promise<AdminServer> {
  const server = new Server({
    "grpc.max_receive_message_length": MAX_REQUEST_BYTES,
    "grpc.max_send_message_length": MAX_RESPONSE_BYTES,
    "grpc.max_concurrent_streams": 128,
  });
  const definition: Record<string, ServiceDefinition[string]> = {};
  const implementation: Record<string, UntypedHandleCall> = {};
  for (const method of loadControlMethods(options.protoText).values()) {
    definition[method.name] = {
      path: method.path,
      requestStream: false,
      responseStream: false,
      requestSerialize: (message: Message) => toBuffer(method.request.encode(message)),
      requestDeserialize: (bytes: Buffer) => method.request.decode(bytes),
      responseSerialize: (message: Message) => toBuffer(method.response.encode(message)),
      responseDeserialize: (bytes: Buffer) => method.response.decode(bytes),
    };
    const handler = options.handlers[method.name] as (
      request: Message,
      principal: string,
    ) => Promise<Message>;
    implementation[method.name] = (
      call: ServerUnaryCall<Message, Message>,
      reply: sendUnaryData<Message>,
    ) => {
      void serve(options, method.name, handler, call, reply);
    };
  }
  server.addService(definition, implementation);
  const port = await bind(server, options);
  options.logger.info("admin.listening", { address: `${options.listen.host}:${port}` });
  return {
    address: { host: options.listen.host, port },
    stop: (graceMs) => stop(server, graceMs),
  };
}

async function serve(
  options: AdminServerOptions,
  method: string,
  handler: (request: Message, principal: string) => Promise<Message>,
  call: ServerUnaryCall<Message, Message>,
  reply: sendUnaryData<Message>,
): Promise<void> {
  const started = performance.now();
  let outcome = "ok";
  let principal = "";
  try {
    principal = authenticate(options, call);
    reply(null, await beforeDeadline(call, handler(call.request, principal)));
  } catch (error) {
    outcome = error instanceof KisekiError ? error.code : "common.internal";
    if (!(error instanceof KisekiError)) {
      const text = error instanceof Error ? error.stack ?? error.message : String(error);
      options.logger.error("admin.failed", { method, error: text });
    }
    reply(toGrpcError(error));
  }
  const durationMs = Math.round(performance.now() - started);
  options.logger.info("admin.call", { method, principal, outcome, durationMs });
}

/** Who calls. @throws KisekiError `common.unauthenticated`, `common.permission_denied`. */
function authenticate(
  options: AdminServerOptions,
  call: ServerUnaryCall<Message, Message>,
): string {
  const header = call.metadata.get("authorization")[0];
  if (typeof header === "string") {
    const token = /^Bearer ([\x21-\x7e]{1,256})$/.exec(header)?.[1];
    if (token !== undefined && sameToken(token, options.token)) return "admin-token";
    throw new KisekiError("common.unauthenticated", "this token is not the admin token");
  }
  const names = call.getAuthContext().sslPeerCertificate?.subjectaltname ?? "";
  if (names === "") {
    throw new KisekiError(
      "common.unauthenticated",
      "who are you? Give the admin token (KISEKI_TOKEN, --token-file) or a client certificate",
    );
  }
  const principal = adminOf(names, options.cluster);
  if (principal === undefined) {
    throw new KisekiError(
      "common.permission_denied",
      `this certificate is no administrator's: spiffe://kiseki/${options.cluster}/admin/NAME`,
    );
  }
  return principal;
}

/** The administrator's SPIFFE id among a certificate's names, as Node prints them. */
export function adminOf(subjectAltName: string, cluster: string): string | undefined {
  const prefix = `spiffe://kiseki/${cluster}/admin/`;
  for (const name of subjectAltName.split(", ")) {
    // Node quotes names that hold a comma: those never match.
    if (!name.startsWith(`URI:${prefix}`)) continue;
    const rest = name.slice(4 + prefix.length);
    if (/^[A-Za-z0-9._-]{1,128}$/.test(rest)) return prefix + rest;
  }
  return undefined;
}

async function beforeDeadline(
  call: ServerUnaryCall<Message, Message>,
  work: Promise<Message>,
): Promise<Message> {
  const deadline = call.getDeadline();
  const leftMs = (deadline instanceof Date ? deadline.getTime() : deadline) - Date.now();
  const limitMs = Math.max(0, Math.min(MAX_CALL_MS, leftMs));
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new KisekiError("common.deadline_exceeded", "the call ran past its deadline")),
      limitMs,
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

function credentials(options: AdminServerOptions): ServerCredentials {
  const { tls } = options;
  if (tls === undefined) return ServerCredentials.createInsecure();
  return ServerCredentials.createSsl(
    toBuffer(new TextEncoder().encode(tls.clientCa)),
    [{
      private_key: toBuffer(new TextEncoder().encode(tls.key)),
      cert_chain: toBuffer(new TextEncoder().encode(tls.certificate)),
    }],
    true,
  );
}

function bind(server: Server, options: AdminServerOptions): Promise<number> {
  const address = formatListenAddress(options.listen);
  return new Promise((resolve, reject) => {
    server.bindAsync(address, credentials(options), (cause, port) => {
      if (cause === null) resolve(port);
      else {
        reject(
          new KisekiError("common.unavailable", `${address}: cannot listen: ${cause.message}`, {
            cause,
          }),
        );
      }
    });
  });
}

/**
 * Waits until the last client has gone, at most `graceMs`, and shuts the server down; with clients
 * still connected it is left to the end of the process. The runtime's HTTP/2 crashes the process
 * (an assertion of nghttp2, or a segmentation fault) when a server closes a connection that has
 * closed streams; a connection that its client closed is safe.
 */
async function stop(server: Server, graceMs: number): Promise<void> {
  const until = performance.now() + graceMs;
  while (openConnections(server) > 0) {
    if (performance.now() >= until) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  await new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
}

/** grpc-js keeps its connections in a private map; without it, some are assumed. */
function openConnections(server: Server): number {
  const { sessions } = server as unknown as { readonly sessions?: ReadonlyMap<unknown, unknown> };
  return sessions instanceof Map ? sessions.size : 1;
}

function toBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
