import type { AccessToken } from "@azure/identity";
import { claimsProblem } from "../core/claims.ts";
import { FreshkeyError } from "../core/errors.ts";
import type { Token } from "../core/token.ts";
import { deadline } from "../os/clock.ts";
import { CREATE } from "./azure-credentials.ts";
import { azureError } from "./azure-errors.ts";
import { failureOfAll, type KindFailure, tryNext } from "./azure-list.ts";
import { type AzureOptions, type CredentialKind, isAuthority, kindsOf } from "./azure-options.ts";
import { Wire } from "./azure-wire.ts";
import type { Mint } from "./source.ts";
import { watchStderr } from "./stderr-watch.ts";

export { type AzureOptions, azureOptions } from "./azure-options.ts";

/** What the credentials of one mint have in common. */
interface Surrounding {
  readonly options: AzureOptions;
  readonly authority: URL;
  readonly claims: string | undefined;
  readonly sdk: typeof import("@azure/identity");
  readonly client: import("@azure/core-rest-pipeline").HttpClient;
  readonly signal: AbortSignal;
  /** Milliseconds from the start. */
  readonly allowed: number;
  /** The deadline, by `performance.now()`. */
  readonly until: number;
}

/**
 * A new token of Microsoft Entra ID, by way of @azure/identity: of the first credential of the list that there is.
 *
 * @throws FreshkeyError of any `ERR_SOURCE_…` code, `ERR_SIGN_IN`, or `ERR_USAGE` where the claims are none.
 */
export const mintAzure: Mint<AzureOptions> = async (options, request) => {
  // What is left of the time is for this process to start, and for its answer to arrive.
  const allowed = Math.round(request.timeout * 0.9);
  const until = performance.now() + allowed;
  const authority = authorityOf(options);
  const { claims } = request;
  const problem = claims === undefined ? undefined : claimsProblem(claims);
  if (problem) throw new FreshkeyError("ERR_USAGE", `the claims of the challenge cannot be used: ${problem}`);
  const { signal, end } = deadline(allowed, request.signal);
  try {
    const [sdk, { createDefaultHttpClient }] = await Promise.all([
      import("@azure/identity"),
      import("@azure/core-rest-pipeline"),
    ]);
    const client = createDefaultHttpClient();
    return await mintOfList({ options, authority, claims, sdk, client, signal, allowed, until });
  } finally {
    end();
  }
};

async function mintOfList(surrounding: Surrounding): Promise<Token> {
  const kinds = kindsOf(surrounding.options);
  const failures: KindFailure[] = [];
  for (const kind of kinds) {
    try {
      return await mintWith(kind, surrounding, kind !== kinds.at(-1));
    } catch (error) {
      failures.push({ kind, error: FreshkeyError.from(error, "ERR_SOURCE_FAILED") });
      if (surrounding.signal.aborted || !tryNext(failures.at(-1)!)) break;
    }
  }
  throw failureOfAll(failures);
}

async function mintWith(kind: CredentialKind, surrounding: Surrounding, probe: boolean): Promise<Token> {
  const { options, authority, claims, sdk, client, signal, allowed, until } = surrounding;
  const wire = new Wire(client, signal);
  // The SDK takes every failure of `az` whose text names `az login` for a missing sign-in, an outage as well.
  const az = kind === "cli" ? watchStderr() : undefined;
  let answer: AccessToken | null;
  try {
    const credential = await CREATE[kind](options, { sdk, authority, wire, end: until, probe });
    answer = await credential.getToken(options.scope, claims === undefined ? {} : { claims });
  } catch (error) {
    if (error instanceof FreshkeyError) throw error;
    const names = namesOf(kind, options);
    const ended = signal.aborted;
    const failure = { kind, options: names, authority, claims, deadline: allowed, ended, last: wire.last };
    throw azureError(error, { ...failure, said: az?.said });
  } finally {
    az?.close();
  }
  if (typeof answer?.token !== "string" || answer.token === "" || !(answer.expiresOnTimestamp > 0)) {
    throw new FreshkeyError("ERR_SOURCE_ANSWER", "the answer holds no access token with an expiry", {
      hint: kind === "cli" ? "Update the Azure CLI: az upgrade" : undefined,
    });
  }
  return tokenOf(answer, kind, Date.now());
}

/** What an error's sentence may name: it is what the environment says where the configuration does not. */
function namesOf(kind: CredentialKind, { scope, tenant_id, client_id }: AzureOptions) {
  const { AZURE_TENANT_ID: tenant, AZURE_CLIENT_ID: client } = process.env;
  if (kind === "environment") return { scope, tenant_id: tenant, client_id: client };
  if (kind === "workload-identity") return { scope, tenant_id: tenant_id ?? tenant, client_id: client_id ?? client };
  return { scope, tenant_id, client_id };
}

/** The SDK's own order, with its own variable (Kubernetes sets it for a workload). */
function authorityOf({ authority }: AzureOptions): URL {
  const text = authority ?? process.env.AZURE_AUTHORITY_HOST ?? "https://login.microsoftonline.com";
  if (isAuthority(text)) return new URL(text);
  throw new FreshkeyError("ERR_SOURCE_CONFIG", "the environment variable AZURE_AUTHORITY_HOST is not an https URL", {
    hint: "Set authority in the configuration, or mend the variable.",
  });
}

function tokenOf(answer: AccessToken, credential: CredentialKind, now: number): Token {
  const { token: value, expiresOnTimestamp: expires, refreshAfterTimestamp: renewAt } = answer;
  const identity = identityOf(value);
  return {
    value,
    expires,
    credential,
    // A hint that has passed already would mean: again, at once.
    ...(renewAt !== undefined && renewAt > now && renewAt < expires && { renewAt }),
    ...(identity !== undefined && { identity }),
  };
}

/** A user's name, else the application's client id, else the object id: from the token's claims, which it does not check. */
function identityOf(token: string): string | undefined {
  try {
    const claims = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString()) as Record<
      string,
      unknown
    >;
    const who = claims.upn ?? claims.preferred_username ?? claims.appid ?? claims.azp ?? claims.oid;
    return typeof who === "string" && /^[\x20-\x7e]{1,128}$/.test(who) ? who : undefined;
  } catch {
    return undefined;
  }
}
