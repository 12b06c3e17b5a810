/**
 * Who asks, and the port by which a gateway finds out.
 *
 * A missing identity is nobody: no call of the namespace API takes an absent one.
 */
import type { OrganisationId, ProjectId, WorkloadId } from "../common/ids.ts";

/** An authenticated workload. */
export interface Identity {
  readonly organisation: OrganisationId;
  readonly project: ProjectId;
  readonly workload: WorkloadId;
  /** How it proved itself, e.g. an access key id; for audit, never for decisions. */
  readonly principal: string;
}

export interface ResolvedCredential {
  readonly identity: Identity;
  readonly secretAccessKey: string;
}

/** Port: implemented by `src/control`. */
export interface CredentialResolver {
  /** undefined for an unknown, disabled or expired key: the caller refuses. */
  resolve(accessKeyId: string): Promise<ResolvedCredential | undefined>;
}
