/**
 * First argument -> role; nothing else. Each role is loaded when it is asked for, so that
 * `kiseki version` does not pay for a server.
 */
import { ExitCode, PROCESS_TERMINAL } from "./roles/command_line.ts";

/** Every role module answers an exit code for the arguments from its own name on. */
interface Role {
  main(args: readonly string[]): Promise<number>;
}

const ROLES: Readonly<Record<string, { readonly help: string; load(): Promise<Role> }>> = {
  server: {
    help: "storage node: S3 gateway, log, chunks, admin service",
    load: () => import("./roles/server.ts"),
  },
  control: {
    help: "administration: org, project, workload, credential, namespace, device, pool, ...",
    load: () => import("./roles/control.ts"),
  },
  doctor: {
    help: "what this node can really do",
    load: () => import("./roles/doctor.ts"),
  },
  bench: {
    help: "rates and latencies of an S3 endpoint",
    load: () => import("./roles/bench.ts"),
  },
  version: {
    help: "which build this is",
    load: () => import("./roles/version.ts"),
  },
};

function usage(): string {
  return [
    "Kiseki: distributed, encrypted, multi-tenant storage in one file",
    "",
    "usage: kiseki ROLE ... (kiseki ROLE --help tells more)",
    "",
    ...Object.entries(ROLES).map(([name, role]) => `  ${name.padEnd(9)}${role.help}`),
    "",
    "example:",
    "  kiseki server --dev --data-dir /tmp/kiseki",
  ].join("\n");
}

async function main(args: readonly string[]): Promise<number> {
  const [name] = args;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    if (name !== undefined) PROCESS_TERMINAL.out(usage());
    else PROCESS_TERMINAL.error(usage());
    return name === undefined ? ExitCode.usage : ExitCode.ok;
  }
  const role = Object.hasOwn(ROLES, name) ? ROLES[name] : undefined;
  if (role === undefined) {
    PROCESS_TERMINAL.error(`error: ${name}: no such role\n\n${usage()}`);
    return ExitCode.usage;
  }
  return await (await role.load()).main(args);
}

// No top-level await: the packaged program is evaluated as a script (deploy/build/bundle.ts).
main(Deno.args).then((code) => Deno.exit(code));
