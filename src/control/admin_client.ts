/**
 * Client of the admin service, typed by method.
 */
import { Client, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import { Buffer } from "node:buffer";
import { isIP } from "node:net";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import { parseListenAddress } from "../common/config_values.ts";
import {
  type ControlMethod,
  loadControlMethods,
  type MethodCodec,
  type RequestOf,
  type ResponseOf,
} from "./admin_messages.ts";
import { MAX_RESPONSE_BYTES } from "./admin_server.ts";
import { fromGrpcError } from "./admin_status.ts";

export interface AdminClientOptions {
  /** HOST:PORT. */
  readonly endpoint: string;
  /** Text of `proto/kiseki/v1/control.proto`. */
  readonly protoText: string;
  readonly token?: string;
  /** PEM texts. */
  readonly tls?: { readonly ca: string; readonly certificate?: string; readonly key?: string };
  readonly timeoutMs: number;
}

export class AdminClient {
  readonly #client: Client;
  readonly #options: AdminClientOptions;
  readonly #methods: ReadonlyMap<ControlMethod, MethodCodec>;

  constructor(options: AdminClientOptions) {
    this.#options = options;
    this.#methods = loadControlMethods(options.protoText);
    const pem = (text: string | undefined) => text === undefined ? null : Buffer.from(text);
    const { tls } = options;
    const host = parseListenAddress(options.endpoint)?.host ?? options.endpoint;
    this.#client = new Client(
      options.endpoint,
      tls === undefined
        ? credentials.createInsecure()
        : credentials.createSsl(pem(tls.ca), pem(tls.key), pem(tls.certificate), {
          checkServerIdentity: (_, certificate) => checkNode(host, certificate),
        }),
      {
        "grpc.max_receive_message_length": MAX_RESPONSE_BYTES,
        "grpc.enable_retries": 0,
        "grpc.enable_http_proxy": 0,
        // An IP address may not stand in the TLS server name (RFC 6066 section 3).
        ...(isIP(host) === 0 ? {} : { "grpc.ssl_target_name_override": "kiseki.invalid" }),
      },
    );
  }

  /** @throws KisekiError: the server's, or `common.unavailable`, `common.deadline_exceeded`. */
  call<M extends ControlMethod>(method: M, request: RequestOf<M>): Promise<ResponseOf<M>> {
    const codec = this.#methods.get(method);
    if (codec === undefined) throw new TypeError(`no method ${method}`);
    const metadata = new Metadata();
    if (this.#options.token !== undefined) {
      metadata.set("authorization", `Bearer ${this.#options.token}`);
    }
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        codec.path,
        (message: object) => Buffer.from(codec.request.encode(message)),
        (bytes: Buffer) => codec.response.decode(bytes),
        request,
        metadata,
        { deadline: Date.now() + this.#options.timeoutMs },
        (error: ServiceError | null, response?: object) => {
          if (error !== null) reject(fromGrpcError(error, this.#options.endpoint));
          else resolve(response as ResponseOf<M>);
        },
      );
    });
  }

  close(): void {
    this.#client.close();
  }
}

/** A node of a Kiseki cluster by its SPIFFE id, or a certificate for the host that was asked for. */
function checkNode(host: string, certificate: PeerCertificate): Error | undefined {
  const names = certificate.subjectaltname ?? "";
  const isNode = names.split(", ").some((name) =>
    /^URI:spiffe:\/\/kiseki\/[a-z0-9._-]{1,63}\/node\/[A-Za-z0-9._-]{1,128}$/.test(name)
  );
  return isNode ? undefined : checkServerIdentity(host, certificate);
}
