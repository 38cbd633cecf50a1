/** Entra's error codes that people meet: of which class each is, what it means, and what to do. */
import type { ErrorCode } from "../core/errors.ts";
import type { AzureFailure } from "./azure-errors.ts";

/** Microsoft's own authorities, and what the Azure CLI calls their clouds. */
export const CLOUDS: Record<string, string> = {
  "login.microsoftonline.com": "AzureCloud",
  "login.microsoftonline.us": "AzureUSGovernment",
  "login.chinacloudapi.cn": "AzureChinaCloud",
  "login.partner.microsoftonline.cn": "AzureChinaCloud",
};

export function resourceOf({ options }: AzureFailure): string {
  return options.scope.replace(/\/\.default$/, "");
}

/** The command that signs in: to the cloud that the authority belongs to, which `az` does not take from a scope. */
export function azLogin({ options, authority }: AzureFailure, rest = ""): string {
  const cloud = CLOUDS[authority.host] ?? "AzureCloud";
  const first = cloud === "AzureCloud" ? "" : `az cloud set --name ${cloud} && `;
  return `${first}az login${options.tenant_id ? ` --tenant ${options.tenant_id}` : ""}${rest}`;
}

export function withClient({ options }: AzureFailure): string {
  return options.client_id ? ` ${options.client_id}` : "";
}

function withTenant({ options }: AzureFailure): string {
  return options.tenant_id ? ` ${options.tenant_id}` : "";
}

/** Who can sign in again: a person can, an application cannot. */
function signIn(failure: AzureFailure): string {
  if (failure.kind === "cli") return `Run: ${azLogin(failure, ` --scope ${failure.options.scope}`)}`;
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

const BUSY: Advice = [
  "ERR_SOURCE_FAILED",
  "Entra is busy, or has a problem of its own",
  () => "This is the provider's side: freshkey tries again by itself.",
];
const FEDERATION: Advice = [
  "ERR_SOURCE_REFUSED",
  "the application does not trust the federated token",
  (failure) =>
    `Add a federated credential to the application${withClient(failure)} with this token's issuer, subject and audience.`,
];

/** Entra's error codes that somebody has to act on. Any other is transient: it may pass. */
export const ENTRA: Record<string, Advice> = {
  50076: MFA,
  50078: MFA,
  50079: MFA,
  50105: ROLE,
  501051: ROLE,
  50173: ["ERR_SIGN_IN", "the sign-in was revoked: a password was changed, or the sessions were ended", signIn],
  50196: BUSY,
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
      const self = failure.kind === "cli" ? `, or run: ${azLogin(failure, ` --scope ${failure.options.scope}`)}` : "";
      return `Have an administrator grant consent for ${resourceOf(failure)}${self}`;
    },
  ],
  70011: SCOPE,
  70021: FEDERATION,
  1002012: SCOPE,
  70043: ["ERR_SIGN_IN", "the sign-in has expired: a policy says how often to sign in", signIn],
  700016: [
    "ERR_SOURCE_REFUSED",
    "the application is not known in the tenant",
    (failure) =>
      `Mend client_id${withClient(failure)} or tenant_id${withTenant(failure)}, or the authority: it is ${failure.authority.host}.`,
  ],
  700024: [
    "ERR_SOURCE_FAILED",
    "what the application signs in with is not valid now",
    (failure) =>
      failure.kind === "workload-identity"
        ? "Look whether something still renews the file of the federated token, and compare this machine's clock."
        : "Compare this machine's clock with another's.",
  ],
  700027: [
    "ERR_SOURCE_REFUSED",
    "the certificate is none of the application's",
    (failure) => `Upload the certificate to the application${withClient(failure)}, or mend client_certificate.`,
  ],
  700082: ["ERR_SIGN_IN", "the sign-in has expired: it was not used for too long", signIn],
  700211: FEDERATION,
  700212: FEDERATION,
  700213: FEDERATION,
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
  90006: BUSY,
  90012: BUSY,
  90033: BUSY,
  90055: BUSY,
  90002: [
    "ERR_SOURCE_REFUSED",
    "there is no such tenant",
    (failure) => `Mend tenant_id${withTenant(failure)}, or the authority: it is ${failure.authority.host}.`,
  ],
};
