/**
 * What a failure of @azure/identity means. The SDK tells little (a bad secret, a 429 and a web page have one class), so
 * the last HTTP exchange is kept beside it, and the meaning is read from both. No error keeps the SDK's as its `cause`:
 * that one holds the request, and the request the secret.
 */
import type { PipelineResponse } from "@azure/core-rest-pipeline";
import { formatDuration } from "../core/duration.ts";
import { errno, FreshkeyError } from "../core/errors.ts";
import { mask } from "../core/mask.ts";
import { azLogin, ENTRA, resourceOf, withClient } from "./azure-codes.ts";
import type { CredentialKind } from "./azure-options.ts";
import type { Exchange } from "./azure-wire.ts";

export interface AzureFailure {
  /** Which credential failed. */
  readonly kind: CredentialKind;
  readonly options: {
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
  /** What `az` wrote to stderr. */
  readonly said?: string | undefined;
}

/** The FreshkeyError that `error` of the SDK amounts to. */
export function azureError(error: unknown, failure: AzureFailure): FreshkeyError {
  const text = failure.said?.trim() || (error instanceof Error ? error.message : String(error));
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
  if (failure.kind === "cli") return cliError(text, failure);
  if (response) return answerError(response, failure);
  return new FreshkeyError("ERR_SOURCE_FAILED", mask(text), {});
}

function ended({ kind, last, authority, deadline }: AzureFailure): FreshkeyError {
  const local = kind === "managed-identity";
  const who = kind === "cli" ? "az" : (last?.host ?? (local ? "the managed identity" : authority.host));
  return new FreshkeyError("ERR_SOURCE_TIMEOUT", `${who} did not answer within ${formatDuration(deadline)}`, {
    hint: local ? NOT_IN_AZURE : "Look at the network and the proxy, or give it longer with timeout.",
  });
}

const NOT_IN_AZURE = "A managed identity exists only on Azure's own machines: is this one, and has it an identity?";

/** Codes of Node.js for a certificate that does not verify. */
export const UNTRUSTED = /CERT|SIGNED|ISSUER|LEAF_SIGNATURE|TLS|SSL/;
export const UNTRUSTED_HINT = "Its certificate is not trusted here: name your company's CA file as ca under [network].";

function unreachable(host: string, error: unknown, { kind }: AzureFailure): FreshkeyError {
  const code = errno(error) ?? "no answer";
  let hint = "Look at the network, the name service and the proxy.";
  if (UNTRUSTED.test(code)) {
    hint = UNTRUSTED_HINT;
  } else if (kind === "managed-identity") {
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
  if (failure.kind === "managed-identity" && /identity not found|no .*managed identity/i.test(told.text)) {
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
  if (/could not be found|\baz:.* not found/i.test(text)) {
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
  // It says so of every error that Entra answers with; without a code of Entra's it is one that passes.
  const busy = /Interactive authentication is needed/.test(text) && !/AADSTS\d/.test(text);
  if (/az login/.test(text) && !busy) {
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

/** `Retry-After` (RFC 9110 10.2.3: seconds or a date) in milliseconds; undefined where it says nothing. */
export function retryAfter(header: string | undefined, now: number): number | undefined {
  if (header === undefined) return undefined;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - now;
  return Number.isFinite(ms) && ms > 0 ? ms : undefined;
}
