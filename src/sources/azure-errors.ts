/**
 * What a failure of @azure/identity means. The SDK tells little (a bad secret, a 429 and a web page have one class), so
 * the last HTTP exchange is kept beside it, and the meaning is read from both. No error keeps the SDK's as its `cause`:
 * that one holds the request, and the request the secret.
 */
import type { HttpClient, PipelineRequest, PipelineResponse } from "@azure/core-rest-pipeline";
import { formatDuration } from "../core/duration.ts";
import { type ErrorCode, errno, FreshkeyError } from "../core/errors.ts";
import { mask } from "../core/mask.ts";

/** Microsoft's own authorities, and what the Azure CLI calls their clouds. */
export const CLOUDS: Record<string, string> = {
  "login.microsoftonline.com": "AzureCloud",
  "login.microsoftonline.us": "AzureUSGovernment",
  "login.chinacloudapi.cn": "AzureChinaCloud",
  "login.partner.microsoftonline.cn": "AzureChinaCloud",
};

interface Exchange {
  readonly host: string;
  readonly response?: PipelineResponse;
  readonly error?: unknown;
}

/** The SDK's HTTP client with two things added: a deadline, which the SDK does not have, and a memory of one exchange. */
export class Wire implements HttpClient {
  last: Exchange | undefined;
  readonly #inner: HttpClient;
  readonly #signal: AbortSignal;

  constructor(inner: HttpClient, signal: AbortSignal) {
    this.#inner = inner;
    this.#signal = signal;
  }

  async sendRequest(request: PipelineRequest): Promise<PipelineResponse> {
    const { host } = new URL(request.url);
    request.abortSignal = this.#signal;
    try {
      const response = await this.#inner.sendRequest(request);
      this.last = { host, response };
      return response;
    } catch (error) {
      this.last = { host, error };
      throw error;
    }
  }
}

export interface AzureFailure {
  readonly options: {
    readonly credential: string;
    readonly scope: string;
    readonly tenant_id?: string | undefined;
    readonly client_id?: string | undefined;
  };
  readonly authority: URL;
  /** Milliseconds. */
  readonly deadline: number;
  /** The deadline has passed, or the agent stops. */
  readonly ended: boolean;
  readonly last: Exchange | undefined;
  readonly claims?: string | undefined;
}

/** The FreshkeyError that `error` of the SDK amounts to. */
export function azureError(error: unknown, failure: AzureFailure): FreshkeyError {
  const text = error instanceof Error ? error.message : String(error);
  if (failure.ended) return ended(failure);
  if (failure.last?.error !== undefined) return unreachable(failure.last.host, failure.last.error, failure);
  const response = failure.last?.response;
  if (response && (response.status === 429 || response.status >= 500)) {
    return new FreshkeyError("ERR_SOURCE_FAILED", `${failure.last?.host} answered with HTTP ${response.status}`, {
      hint: "This is the provider's side: freshkey tries again by itself.",
      retryAfter: retryAfter(response.headers.get("retry-after"), Date.now()),
    });
  }
  const body = response && response.status >= 400 ? (response.bodyAsText ?? "") : "";
  const code = /AADSTS(\d+)/.exec(body || text)?.[1];
  const known = code === undefined ? undefined : ENTRA[code];
  if (known) return new FreshkeyError(known[0], `AADSTS${code}: ${known[1]}`, { hint: known[2](failure) });
  if (failure.options.credential === "cli") return cliError(text, failure);
  if (response) return answerError(response, failure);
  return new FreshkeyError("ERR_SOURCE_FAILED", mask(text), {});
}

function ended({ options, last, authority, deadline }: AzureFailure): FreshkeyError {
  const local = options.credential === "managed-identity";
  const who = options.credential === "cli" ? "az" : (last?.host ?? (local ? "the managed identity" : authority.host));
  return new FreshkeyError("ERR_SOURCE_TIMEOUT", `${who} did not answer within ${formatDuration(deadline)}`, {
    hint: local ? NOT_IN_AZURE : "Look at the network and the proxy, or give it longer with timeout.",
  });
}

const NOT_IN_AZURE = "A managed identity exists only on Azure's own machines: is this one, and has it an identity?";

/** Codes of Node.js for a certificate that does not verify. */
export const UNTRUSTED = /CERT|SIGNED|ISSUER|LEAF_SIGNATURE|TLS|SSL/;
export const UNTRUSTED_HINT = "Its certificate is not trusted here: name your company's CA file as ca under [network].";

function unreachable(host: string, error: unknown, { options }: AzureFailure): FreshkeyError {
  const code = errno(error) ?? "no answer";
  let hint = "Look at the network, the name service and the proxy.";
  if (UNTRUSTED.test(code)) {
    hint = UNTRUSTED_HINT;
  } else if (options.credential === "managed-identity") {
    hint = NOT_IN_AZURE;
  }
  return new FreshkeyError("ERR_SOURCE_UNREACHABLE", `${host} cannot be reached (${code})`, { hint });
}

/** An answer that came, is no 429 and no 5xx, has no code that is known, and was not what the SDK needs. */
function answerError(response: PipelineResponse, failure: AzureFailure): FreshkeyError {
  const { host = "" } = failure.last ?? {};
  const { status, bodyAsText: body = "" } = response;
  const told = tell(body ?? "");
  if (told === undefined) {
    const what = /^\s*</.test(body ?? "") || (status >= 300 && status < 400) ? "a web page" : "something";
    return new FreshkeyError("ERR_SOURCE_ANSWER", `${host} answered with ${what} that is no token (HTTP ${status})`, {
      hint: "A proxy or a sign-in page of the network may be in between: open a browser there, or set proxy under [network].",
    });
  }
  if (status < 400) {
    return new FreshkeyError("ERR_SOURCE_ANSWER", `${host} answered without an access token and its expiry`, {
      hint: "Is the authority an Entra ID (or one that speaks its protocol)?",
    });
  }
  const what = `${host} answered with HTTP ${status}${told.text && `: ${told.text}`}`;
  if (
    failure.options.credential === "managed-identity" &&
    /identity not found|no .*managed identity/i.test(told.text)
  ) {
    const hint = `Assign the identity${withClient(failure)} to this machine, or mend client_id.`;
    return new FreshkeyError("ERR_SOURCE_REFUSED", what, { hint });
  }
  const code = /AADSTS(\d+)/.exec(told.text)?.[1];
  const hint = code && `Look the code up: https://login.microsoftonline.com/error?code=${code}`;
  // RFC 6749 5.2: what these name is wrong until somebody mends it. Anything else may pass.
  const refused = /^(invalid_client|unauthorized_client|invalid_scope|access_denied)$/.test(told.error);
  return new FreshkeyError(refused ? "ERR_SOURCE_REFUSED" : "ERR_SOURCE_FAILED", what, { hint });
}

/** The error and its description in a JSON answer (RFC 6749 5.2; managed identities say `message`), masked. */
function tell(body: string): { error: string; text: string } | undefined {
  try {
    const { error, error_description, message } = JSON.parse(body) as Record<string, unknown>;
    const text = String(error_description ?? message ?? error ?? "").replace(/\s*(Trace|Correlation) ID:.*/s, "");
    return { error: String(error ?? ""), text: mask(text, 200) };
  } catch {
    return undefined;
  }
}

/** What `az` said on stderr, or what the SDK made of it. */
function cliError(text: string, failure: AzureFailure): FreshkeyError {
  if (/could not be found/i.test(text)) {
    return new FreshkeyError("ERR_SOURCE_MISSING", "the Azure CLI (az) is not installed, or not on the PATH", {
      hint: `Install it (https://aka.ms/azure-cli), then: ${azLogin(failure)}. A service's PATH is not your shell's.`,
    });
  }
  if (failure.claims !== undefined) {
    const challenge = Buffer.from(failure.claims).toString("base64");
    return new FreshkeyError("ERR_SIGN_IN", "the gateway asks for a new sign-in (a claims challenge)", {
      hint: `Run: ${azLogin(failure, ` --scope ${failure.options.scope} --claims-challenge ${challenge}`)}`,
    });
  }
  if (/az login/.test(text)) {
    const scope = /--scope|interactive/i.test(text) ? ` --scope ${failure.options.scope}` : "";
    const message = "the Azure CLI is not signed in, or its sign-in is no longer valid";
    return new FreshkeyError("ERR_SIGN_IN", message, { hint: `Run: ${azLogin(failure, scope)}` });
  }
  if (
    /Max retries exceeded|Connection ?Error|NameResolution|Failed to establish|CERTIFICATE_VERIFY|SSLError/i.test(text)
  ) {
    return new FreshkeyError("ERR_SOURCE_UNREACHABLE", `az cannot reach Entra: ${mask(text, 200)}`, {
      hint: "Look at the network and the proxy; az takes a company's CA file from REQUESTS_CA_BUNDLE.",
    });
  }
  if (/JSON/.test(text) && /Unexpected|not valid/.test(text)) {
    return new FreshkeyError("ERR_SOURCE_ANSWER", "az printed no JSON", {
      hint: `Run it by hand: az account get-access-token --output json --resource ${resourceOf(failure)}`,
    });
  }
  return new FreshkeyError("ERR_SOURCE_FAILED", `az failed: ${mask(text, 200)}`, {
    hint: `Run it by hand: az account get-access-token --resource ${resourceOf(failure)}`,
  });
}

function resourceOf({ options }: AzureFailure): string {
  return options.scope.replace(/\/\.default$/, "");
}

/** The command that signs in: to the cloud that the authority belongs to, which `az` does not take from a scope. */
function azLogin({ options, authority }: AzureFailure, rest = ""): string {
  const cloud = CLOUDS[authority.host] ?? "AzureCloud";
  const first = cloud === "AzureCloud" ? "" : `az cloud set --name ${cloud} && `;
  return `${first}az login${options.tenant_id ? ` --tenant ${options.tenant_id}` : ""}${rest}`;
}

function withClient({ options }: AzureFailure): string {
  return options.client_id ? ` ${options.client_id}` : "";
}

function withTenant({ options }: AzureFailure): string {
  return options.tenant_id ? ` ${options.tenant_id}` : "";
}

/** Who can sign in again: a person can, an application cannot. */
function signIn(failure: AzureFailure): string {
  if (failure.options.credential === "cli") return `Run: ${azLogin(failure, ` --scope ${failure.options.scope}`)}`;
  return `Application${withClient(failure)} cannot sign in by itself: have an administrator exempt it, or use credential = "cli".`;
}

type Advice = readonly [ErrorCode, string, (failure: AzureFailure) => string];

const MFA: Advice = ["ERR_SIGN_IN", "multi-factor authentication is required", signIn];
const SCOPE: Advice = [
  "ERR_SOURCE_REFUSED",
  "the scope is not valid",
  ({ options }) => `Mend scope: it is ${options.scope}, and mostly has the form api://CLIENT_ID/.default.`,
];
const ROLE: Advice = [
  "ERR_SOURCE_REFUSED",
  "whoever asks is not assigned to a role of the application",
  (failure) =>
    `Have an administrator assign${withClient(failure) || " the user"} to the application of ${resourceOf(failure)}.`,
];

/** Entra's error codes that somebody has to act on. Any other is transient: it may pass. */
const ENTRA: Record<string, Advice> = {
  50076: MFA,
  50078: MFA,
  50079: MFA,
  50105: ROLE,
  501051: ROLE,
  50173: ["ERR_SIGN_IN", "the sign-in was revoked: a password was changed, or the sessions were ended", signIn],
  53003: [
    "ERR_SOURCE_REFUSED",
    "a Conditional Access policy blocks the token",
    (failure) =>
      `Ask an administrator which policy it is (Entra's sign-in logs name it): the device, network or client${withClient(failure)} does not meet it.`,
  ],
  65001: [
    "ERR_SOURCE_REFUSED",
    "nobody has consented to this use of the API",
    (failure) => {
      const self =
        failure.options.credential === "cli"
          ? `, or run: ${azLogin(failure, ` --scope ${failure.options.scope}`)}`
          : "";
      return `Have an administrator grant consent for ${resourceOf(failure)}${self}`;
    },
  ],
  70011: SCOPE,
  1002012: SCOPE,
  70043: ["ERR_SIGN_IN", "the sign-in has expired: a policy says how often to sign in", signIn],
  700016: [
    "ERR_SOURCE_REFUSED",
    "the application is not known in the tenant",
    (failure) =>
      `Mend client_id${withClient(failure)} or tenant_id${withTenant(failure)}, or the authority: it is ${failure.authority.host}.`,
  ],
  700082: ["ERR_SIGN_IN", "the sign-in has expired: it was not used for too long", signIn],
  7000215: [
    "ERR_SOURCE_REFUSED",
    "the client secret is wrong",
    () => "Put the secret's value there, not its ID: Entra shows the value once, when the secret is made.",
  ],
  7000222: [
    "ERR_SOURCE_REFUSED",
    "the client secret has expired",
    ({ options }) => `Make a new one: az ad app credential reset --append --id ${options.client_id ?? "CLIENT_ID"}`,
  ],
  500011: [
    "ERR_SOURCE_REFUSED",
    "the API is not known in the tenant",
    (failure) =>
      `Mend scope (${failure.options.scope}) or tenant_id${withTenant(failure)}: the API's application must exist in that tenant.`,
  ],
  90002: [
    "ERR_SOURCE_REFUSED",
    "there is no such tenant",
    (failure) => `Mend tenant_id${withTenant(failure)}, or the authority: it is ${failure.authority.host}.`,
  ],
};

/** `Retry-After` (RFC 9110 10.2.3: seconds or a date) in milliseconds; undefined where it says nothing. */
export function retryAfter(header: string | undefined, now: number): number | undefined {
  if (header === undefined) return undefined;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - now;
  return Number.isFinite(ms) && ms > 0 ? ms : undefined;
}
