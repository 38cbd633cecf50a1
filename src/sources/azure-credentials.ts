/** How each credential of @azure/identity is made: with the time-outs and the transport that are ours, not its own. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { TokenCredential } from "@azure/identity";
import { errno, FreshkeyError } from "../core/errors.ts";
import { CLOUDS } from "./azure-codes.ts";
import type { AzureOptions, CredentialKind } from "./azure-options.ts";
import type { Wire } from "./azure-wire.ts";
import { readSecret } from "./secret.ts";

/** What every credential of the SDK is made with. */
export interface Setting {
  readonly sdk: typeof import("@azure/identity");
  readonly authority: URL;
  readonly wire: Wire;
  /** The deadline, by `performance.now()`. */
  readonly end: number;
  /** Another credential follows it: one that is not there must not use up the time. */
  readonly probe: boolean;
}

type Create = (options: AzureOptions, setting: Setting) => Promise<TokenCredential>;

export const CREATE: Record<CredentialKind, Create> = {
  cli: async (o, { sdk, end }) => {
    // A little later than the deadline itself: then it is known why `az` was ended. The SDK ends the shell alone; `az`
    // goes with the mint process's group.
    const processTimeoutInMs = Math.max(1, Math.round(end - performance.now())) + 50;
    return new sdk.AzureCliCredential({ processTimeoutInMs, ...(o.tenant_id && { tenantId: o.tenant_id }) });
  },
  environment: async (_, setting) => {
    const { AZURE_CLIENT_CERTIFICATE_PATH: file, AZURE_CLIENT_CERTIFICATE_PASSWORD: password } = checkedEnvironment();
    if (file !== undefined) await checkCertificate(await contentOf(file, "AZURE_CLIENT_CERTIFICATE_PATH"), password);
    return new setting.sdk.EnvironmentCredential(entra(setting));
  },
  "managed-identity": async (o, { sdk, wire, probe }) => {
    // DefaultAzureCredential reads this variable for it; the credential by itself does not.
    const clientId = o.client_id ?? (o.credential === "default" ? process.env.AZURE_CLIENT_ID : undefined);
    // The SDK's own probe, which only its DefaultAzureCredential sets: a second instead of the whole deadline.
    const options = { ...transport(wire), ...(clientId && { clientId }), sendProbeRequest: probe };
    return new sdk.ManagedIdentityCredential(options);
  },
  "workload-identity": async (o, setting) => {
    const tokenFilePath = o.federated_token_file ?? process.env.AZURE_FEDERATED_TOKEN_FILE;
    const tenantId = o.tenant_id ?? process.env.AZURE_TENANT_ID;
    const clientId = o.client_id ?? process.env.AZURE_CLIENT_ID;
    if (!tokenFilePath || !tenantId || !clientId) {
      const missing = [
        ...(tokenFilePath ? [] : ["AZURE_FEDERATED_TOKEN_FILE"]),
        ...(tenantId ? [] : ["AZURE_TENANT_ID"]),
        ...(clientId ? [] : ["AZURE_CLIENT_ID"]),
      ];
      throw new FreshkeyError(
        "ERR_SOURCE_CONFIG",
        `there is no workload identity here: ${missing.join(", ")} not set`,
        {
          hint: "Label the pod azure.workload.identity/use, or set federated_token_file, tenant_id and client_id.",
        },
      );
    }
    // Looked at here, because the SDK's error for it says nothing. It keeps the file's content for five minutes, which
    // no instance in a mint process lives.
    if ((await contentOf(tokenFilePath, "the federated token's file")).trim() === "") {
      throw new FreshkeyError("ERR_SOURCE_CONFIG", `the federated token's file ${tokenFilePath} is empty`, {
        hint: "See to what writes it.",
      });
    }
    return new setting.sdk.WorkloadIdentityCredential({ ...entra(setting), tokenFilePath, tenantId, clientId });
  },
  "client-secret": async (o, setting) => {
    const secret = await readSecret(o.client_secret ?? "");
    return new setting.sdk.ClientSecretCredential(o.tenant_id ?? "", o.client_id ?? "", secret, entra(setting));
  },
  "client-certificate": async (o, setting) => {
    const certificate = await readSecret(o.client_certificate ?? "");
    const reference = o.client_certificate_password;
    const certificatePassword = reference === undefined ? undefined : await readSecret(reference);
    await checkCertificate(certificate, certificatePassword);
    const configuration = { certificate, ...(certificatePassword !== undefined && { certificatePassword }) };
    return new setting.sdk.ClientCertificateCredential(
      o.tenant_id ?? "",
      o.client_id ?? "",
      configuration,
      entra(setting),
    );
  },
};

/** A redirect would carry the secret to another host; a retry would wait inside for what the agent plans itself. */
function transport(httpClient: Wire) {
  return { httpClient, retryOptions: { maxRetries: 0 }, redirectOptions: { maxRetries: 0 } };
}

function entra({ wire, authority }: Setting) {
  return {
    ...transport(wire),
    authorityHost: authority.href.replace(/\/$/, ""),
    // An authority that Microsoft's directory of authorities does not know: the SDK would ask that and refuse it.
    disableInstanceDiscovery: !Object.hasOwn(CLOUDS, authority.host),
  };
}

/** The variables of EnvironmentCredential, whose own error does not say which is missing. */
function checkedEnvironment(): NodeJS.ProcessEnv {
  const { env } = process;
  const missing = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"].filter((name) => !env[name]);
  const secret =
    env.AZURE_CLIENT_SECRET || env.AZURE_CLIENT_CERTIFICATE_PATH || (env.AZURE_USERNAME && env.AZURE_PASSWORD);
  if (!secret) missing.push("AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH");
  if (missing.length === 0) return env.AZURE_CLIENT_SECRET ? {} : env;
  throw new FreshkeyError("ERR_SOURCE_CONFIG", `the environment has no credential: ${missing.join(", ")} not set`, {
    hint: "Set them where freshkey runs (a service does not see a shell's variables), or use another credential.",
  });
}

async function contentOf(file: string, what: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw new FreshkeyError("ERR_SOURCE_CONFIG", `${what}, ${file}, cannot be read (${errno(error)})`, {
      hint: "Let it exist and be readable by the user that freshkey runs as.",
    });
  }
}

/** A certificate and its key as PEM, looked at here: the SDK finds out too late, and its errors name neither. */
async function checkCertificate(pem: string, passphrase: string | undefined): Promise<void> {
  const complain = (what: string, hint: string) => new FreshkeyError("ERR_SOURCE_CONFIG", what, { hint });
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(pem);
  } catch {
    throw complain(
      "the client certificate is not a PEM text with a certificate in it",
      "Make one text of the certificate and its key; of a PFX: openssl pkcs12 -in FILE.pfx -out FILE.pem -nodes",
    );
  }
  const end = new Date(certificate.validTo);
  if (end.getTime() <= Date.now()) {
    throw complain(
      `the client certificate expired on ${end.toISOString().slice(0, 10)}`,
      "Make a new one, upload it to the application, and put it there.",
    );
  }
  let fits: boolean;
  try {
    fits = certificate.checkPrivateKey(createPrivateKey({ key: pem, passphrase }));
  } catch {
    const locked = pem.includes("ENCRYPTED");
    throw complain(
      locked ? "the client certificate's key cannot be decrypted" : "the client certificate has no private key with it",
      locked ? "Mend client_certificate_password." : "Put the key into the same PEM text, after the certificate.",
    );
  }
  if (!fits) throw complain("the client certificate and its key do not belong together", "Put the right key there.");
}
