import type { AccessToken, TokenCredential } from "@azure/identity";
import * as v from "valibot";
import { FreshkeyError } from "../core/errors.ts";
import type { Token } from "../core/token.ts";
import { deadline } from "../os/clock.ts";
import { type AzureFailure, azureError, CLOUDS, Wire } from "./azure-errors.ts";
import { readSecret, secretReference } from "./secret.ts";
import type { Mint, MintRequest } from "./source.ts";

/** Which of the other keys each credential needs and takes. One of these and one of `CREATE` make a new credential. */
const KEYS = {
  cli: { needs: [], takes: ["tenant_id"] },
  "managed-identity": { needs: [], takes: ["client_id"] },
  "client-secret": { needs: ["tenant_id", "client_id", "client_secret"], takes: [] },
} as const;

const KINDS = Object.keys(KEYS) as (keyof typeof KEYS)[];
const OWN_KEYS = ["tenant_id", "client_id", "client_secret"] as const;

const identifier = v.pipe(
  v.string(),
  v.regex(/^[0-9A-Za-z.-]+$/, "must be an identifier such as 00000000-0000-0000-0000-000000000000, or a domain name"),
);

/** The keys of a token with `source = "azure"`, beside those that every source has. */
export const azureOptions = v.pipe(
  v.strictObject({
    credential: v.picklist(KINDS, `must be one of ${KINDS.map((kind) => `"${kind}"`).join(", ")}`),
    scope: v.pipe(
      v.string(),
      // The Azure CLI is run through a shell; its SDK allows the same characters.
      v.regex(/^[0-9A-Za-z_.:/-]+$/, 'must be one scope, such as "api://5c211941/.default"'),
    ),
    tenant_id: v.optional(identifier),
    client_id: v.optional(identifier),
    client_secret: v.optional(secretReference),
    authority: v.optional(
      v.pipe(v.string(), v.check(isAuthority, 'must be an https URL, such as "https://login.microsoftonline.us"')),
    ),
  }),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    const input = dataset.value;
    const complain = (key: keyof typeof input, message: string) =>
      addIssue({ message, path: [{ type: "object", origin: "value", input, key, value: input[key] }] });
    const { needs, takes }: { needs: readonly string[]; takes: readonly string[] } = KEYS[input.credential];
    for (const key of OWN_KEYS) {
      const given = input[key] !== undefined;
      if (needs.includes(key) && !given) complain(key, `is needed for credential = "${input.credential}"`);
      if (given && ![...needs, ...takes].includes(key)) {
        complain(key, `has no meaning for credential = "${input.credential}"`);
      }
    }
    // Entra's client credentials flow knows no other form (AADSTS1002012).
    if (input.credential === "client-secret" && !input.scope.endsWith("/.default")) {
      complain("scope", 'must end in "/.default" for credential = "client-secret"');
    }
  }),
);

export type AzureOptions = v.InferOutput<typeof azureOptions>;

type Identity = typeof import("@azure/identity");

/** What every credential of the SDK is made with. */
interface Setting {
  readonly sdk: Identity;
  readonly authority: URL;
  readonly wire: Wire;
  /** The deadline, by `performance.now()`. */
  readonly end: number;
}

const CREATE: Record<AzureOptions["credential"], (o: AzureOptions, setting: Setting) => Promise<TokenCredential>> = {
  cli: async (o, { sdk, end }) => {
    // A little later than the deadline itself: then it is known why `az` was ended.
    const processTimeoutInMs = Math.max(1, Math.round(end - performance.now())) + 50;
    return new sdk.AzureCliCredential({ processTimeoutInMs, ...(o.tenant_id && { tenantId: o.tenant_id }) });
  },
  "managed-identity": async (o, { sdk, wire }) =>
    new sdk.ManagedIdentityCredential({ ...transport(wire), ...(o.client_id && { clientId: o.client_id }) }),
  "client-secret": async (o, { sdk, wire, authority }) =>
    new sdk.ClientSecretCredential(o.tenant_id ?? "", o.client_id ?? "", await readSecret(o.client_secret ?? ""), {
      ...transport(wire),
      authorityHost: authority.href.replace(/\/$/, ""),
      // An authority that Microsoft's directory of authorities does not know: the SDK would ask that and refuse it.
      disableInstanceDiscovery: !Object.hasOwn(CLOUDS, authority.host),
    }),
};

/**
 * A new token of Microsoft Entra ID, by way of @azure/identity.
 *
 * @throws FreshkeyError of any `ERR_SOURCE_…` code, or `ERR_SIGN_IN`.
 */
export const mintAzure: Mint<AzureOptions> = async (options, request) => {
  // What is left of the time is for this process to start, and for its answer to arrive.
  const allowed = Math.round(request.timeout * 0.9);
  const until = performance.now() + allowed;
  const { signal, end } = deadline(allowed, request.signal);
  const [sdk, { createDefaultHttpClient }] = await Promise.all([
    import("@azure/identity"),
    import("@azure/core-rest-pipeline"),
  ]);
  const wire = new Wire(createDefaultHttpClient(), signal);
  const authority = authorityOf(options);
  const failure = (): AzureFailure => ({
    options,
    authority,
    deadline: allowed,
    ended: signal.aborted,
    last: wire.last,
  });

  const claims = usableClaims(request);
  let answer: AccessToken | null;
  try {
    const credential = await CREATE[options.credential](options, { sdk, authority, wire, end: until });
    answer = await credential.getToken(options.scope, claims === undefined ? {} : { claims });
  } catch (error) {
    if (error instanceof FreshkeyError) throw error;
    throw azureError(error, { ...failure(), claims });
  } finally {
    end();
  }
  if (typeof answer?.token !== "string" || answer.token === "" || !(answer.expiresOnTimestamp > 0)) {
    throw new FreshkeyError("ERR_SOURCE_ANSWER", "the answer holds no access token with an expiry", {
      hint: options.credential === "cli" ? "Update the Azure CLI: az upgrade" : undefined,
    });
  }
  return tokenOf(answer, Date.now());
};

/** The SDK's own order, with its own variable (Kubernetes sets it for a workload). */
function authorityOf({ authority }: AzureOptions): URL {
  const text = authority ?? process.env.AZURE_AUTHORITY_HOST ?? "https://login.microsoftonline.com";
  if (isAuthority(text)) return new URL(text);
  throw new FreshkeyError("ERR_SOURCE_CONFIG", "the environment variable AZURE_AUTHORITY_HOST is not an https URL", {
    hint: "Set authority in the configuration, or mend the variable.",
  });
}

function tokenOf(answer: AccessToken, now: number): Token {
  const { token: value, expiresOnTimestamp: expires, refreshAfterTimestamp: renewAt } = answer;
  const identity = identityOf(value);
  return {
    value,
    expires,
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

/** A gateway's broken challenge must not be what keeps a new token away: the SDK would refuse it. */
function usableClaims({ claims }: MintRequest): string | undefined {
  try {
    const value: unknown = JSON.parse(claims ?? "");
    return typeof value === "object" && value !== null ? claims : undefined;
  } catch {
    return undefined;
  }
}

function transport(httpClient: Wire) {
  // A redirect would carry the secret to another host; a retry would wait inside for what the agent plans itself.
  return { httpClient, retryOptions: { maxRetries: 0 }, redirectOptions: { maxRetries: 0 } };
}

function isAuthority(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, username, password, search, hash } = new URL(text);
  return protocol === "https:" && `${username}${password}${search}${hash}` === "";
}
