/**
 * Chooses the provider of an isolate: AWS-LC, then OpenSSL 3, then the built-in fallback, each
 * passed over with a reason that `kiseki doctor` and the log show.
 */
import { openAwsLc } from "../../ffi/aws_lc.ts";
import { type Isal, openIsal } from "../../ffi/isal.ts";
import { openOpenSsl } from "../../ffi/openssl.ts";
import { KisekiError } from "../common/errors.ts";
import { awsLcProvider } from "./aws_lc_provider.ts";
import { nodeProvider } from "./node_provider.ts";
import { openSslProvider } from "./openssl_provider.ts";
import type { CryptoProvider, ProviderReport } from "./provider.ts";

/** What may be chosen from. */
export interface ProviderOptions {
  /** Path of AWS-LC's libcrypto.so; undefined where none was shipped. */
  readonly awsLcPath?: string | undefined;
  /** Path or name of OpenSSL's libcrypto. Default `libcrypto.so.3`. */
  readonly openSslPath?: string | undefined;
  /** Path or name of ISA-L. Default `libisal.so.2`. */
  readonly isalPath?: string | undefined;
  /** "require" refuses every provider that is no FIPS module. Default "allow". */
  readonly fips?: "allow" | "require" | undefined;
  /** Takes this provider alone: for tests and comparisons. */
  readonly only?: ProviderReport["name"] | undefined;
}

/** The choice and what stands beside it. */
export interface ChosenProvider {
  readonly provider: CryptoProvider;
  /** For erasure coding; undefined where it was not found. */
  readonly isal: Isal | undefined;
  /** Why ISA-L is absent, where it is. */
  readonly isalReason: string | undefined;
}

/**
 * Opens the best provider there is.
 *
 * @throws KisekiError `crypto.provider_missing` with all reasons when nothing fits.
 */
export function chooseProvider(options: ProviderOptions = {}): ChosenProvider {
  let isal: Isal | undefined;
  let isalReason: string | undefined;
  try {
    isal = openIsal(options.isalPath);
  } catch (error) {
    isalReason = reasonOf(error);
  }
  const needFips = options.fips === "require";
  const passedOver: string[] = [];
  const candidates: readonly (readonly [ProviderReport["name"], () => CryptoProvider])[] = [
    ["aws-lc", () => {
      if (options.awsLcPath === undefined) throw new Error("no libcrypto.so of AWS-LC was given");
      return awsLcProvider(openAwsLc(options.awsLcPath), isal, passedOver);
    }],
    ["openssl", () => openSslProvider(openOpenSsl(options.openSslPath), isal, passedOver)],
    ["webcrypto", () => nodeProvider(isal, passedOver)],
  ];
  for (const [name, open] of candidates) {
    if (options.only !== undefined && options.only !== name) continue;
    try {
      const provider = open();
      if (!needFips || provider.report.fips) return { provider, isal, isalReason };
      passedOver.push(`${name}: ${provider.report.version} is not a FIPS module`);
    } catch (error) {
      passedOver.push(`${name}: ${reasonOf(error)}`);
    }
  }
  throw new KisekiError(
    "crypto.provider_missing",
    `no crypto provider${needFips ? " with a FIPS module" : ""}: ${passedOver.join("; ")}`,
  );
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
