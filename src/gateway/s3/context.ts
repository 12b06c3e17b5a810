/** What every operation of the gateway is given: the parts it may call and the checked request. */
import type { Clock } from "../../common/clock.ts";
import type { Logger } from "../../common/logging.ts";
import type { CryptoProvider } from "../../crypto/provider.ts";
import type { NamespaceService } from "../../namespace/api.ts";
import type { Identity } from "../../namespace/identity.ts";
import type { Authentication } from "./authenticate.ts";
import type { S3Request } from "./request.ts";

/** Bounds on what one request may make the gateway hold. */
export interface S3Limits {
  /** Largest XML body, bytes. DeleteObjects of 1,000 keys of 1,024 bytes fits. */
  readonly xmlBytes: number;
  /** Bodies up to this size are read in one piece, bytes. */
  readonly smallBodyBytes: number;
  /** Content up to this size is answered from one buffer, bytes. */
  readonly smallAnswerBytes: number;
  /** Keys of one DeleteObjects that are worked on at once. */
  readonly deleteConcurrency: number;
}

export const DEFAULT_LIMITS: S3Limits = {
  xmlBytes: 2 << 20,
  smallBodyBytes: 1 << 20,
  smallAnswerBytes: 256 << 10,
  deleteConcurrency: 16,
};

/** Port: what the gateway tells of its work. */
export interface S3Metrics {
  /** One request is over. `bytesOut` counts a streamed answer in full or up to its break. */
  request(record: {
    readonly operation: string;
    readonly status: number;
    readonly durationMs: number;
    readonly bytesIn: number;
    readonly bytesOut: number;
  }): void;
}

/** The parts, the same for all requests. */
export interface S3Dependencies {
  readonly namespaces: NamespaceService;
  readonly crypto: CryptoProvider;
  readonly clock: Clock;
  readonly region: string;
  readonly logger: Logger;
  readonly limits: S3Limits;
}

/** One request whose signature held. */
export interface S3Context extends S3Dependencies {
  readonly request: S3Request;
  readonly identity: Identity;
  readonly authentication: Authentication;
  readonly counts: RequestCounts;
}

/** Counts of one request, told to the metrics when it is over. */
export interface RequestCounts {
  bytesIn: number;
  bytesOut: number;
  /** Set by an operation whose answer goes on as a stream; it then calls `ended` once. */
  streaming: boolean;
  ended: () => void;
}

export type Operation = (context: S3Context) => Promise<Response>;
