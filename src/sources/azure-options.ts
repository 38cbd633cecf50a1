/** The configuration's keys of `source = "azure"`: which there are, and which go together. */
import * as v from "valibot";
import { secretReference } from "./secret.ts";

interface Keys {
  readonly needs: readonly string[];
  readonly takes: readonly string[];
  /** Entra's client credentials flow, which knows no other form of a scope (AADSTS1002012). */
  readonly application: boolean;
}

/** Which of the other keys each credential needs and takes. One of these and one of `CREATE` make a new credential. */
const KEYS = {
  cli: { needs: [], takes: ["tenant_id"], application: false },
  environment: { needs: [], takes: [], application: true },
  "managed-identity": { needs: [], takes: ["client_id"], application: false },
  "workload-identity": { needs: [], takes: ["tenant_id", "client_id", "federated_token_file"], application: true },
  "client-secret": { needs: ["tenant_id", "client_id", "client_secret"], takes: [], application: true },
  "client-certificate": {
    needs: ["tenant_id", "client_id", "client_certificate"],
    takes: ["client_certificate_password"],
    application: true,
  },
} as const satisfies Record<string, Keys>;

export type CredentialKind = keyof typeof KEYS;

const KINDS = Object.keys(KEYS) as CredentialKind[];

/** What `default` stands for: those of DefaultAzureCredential that need no desktop, in its order. */
const DEFAULT: readonly CredentialKind[] = ["environment", "workload-identity", "managed-identity", "cli"];

const OWN_KEYS = [
  "tenant_id",
  "client_id",
  "client_secret",
  "client_certificate",
  "client_certificate_password",
  "federated_token_file",
] as const;

const CREDENTIAL = `must be one of ${["default", ...KINDS].map((kind) => `"${kind}"`).join(", ")}`;
const LIST = `${CREDENTIAL}; or a list of these without "default", each once, to be tried in order`;

const identifier = v.pipe(
  v.string(),
  v.regex(/^[0-9A-Za-z.-]+$/, "must be an identifier such as 00000000-0000-0000-0000-000000000000, or a domain name"),
);

/** The keys of a token with `source = "azure"`, beside those that every source has. */
export const azureOptions = v.pipe(
  v.strictObject({
    credential: v.union(
      [
        v.picklist(["default", ...KINDS], CREDENTIAL),
        v.pipe(
          v.array(v.picklist(KINDS, LIST)),
          v.minLength(1, LIST),
          v.check((kinds) => new Set(kinds).size === kinds.length, LIST),
        ),
      ],
      LIST,
    ),
    scope: v.pipe(
      v.string(),
      // The Azure CLI is run through a shell; its SDK allows the same characters.
      v.regex(/^[0-9A-Za-z_.:/-]+$/, 'must be one scope, such as "api://5c211941/.default"'),
    ),
    tenant_id: v.optional(identifier),
    client_id: v.optional(identifier),
    client_secret: v.optional(secretReference),
    client_certificate: v.optional(secretReference),
    client_certificate_password: v.optional(secretReference),
    federated_token_file: v.optional(v.pipe(v.string(), v.startsWith("/", "must be an absolute path"))),
    authority: v.optional(
      v.pipe(v.string(), v.check(isAuthority, 'must be an https URL, such as "https://login.microsoftonline.us"')),
    ),
  }),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    const input = dataset.value;
    const complain = (key: keyof typeof input, message: string) =>
      addIssue({ message, path: [{ type: "object", origin: "value", input, key, value: input[key] }] });
    const kinds: readonly Keys[] = kindsOf(input).map((kind) => KEYS[kind]);
    const credential = `credential = ${JSON.stringify(input.credential)}`;
    for (const key of OWN_KEYS) {
      const given = input[key] !== undefined;
      if (!given && kinds.some(({ needs }) => needs.includes(key))) complain(key, `is needed for ${credential}`);
      if (given && !kinds.some(({ needs, takes }) => [...needs, ...takes].includes(key))) {
        complain(key, `has no meaning for ${credential}`);
      }
    }
    if (kinds.some(({ application }) => application) && !input.scope.endsWith("/.default")) {
      complain("scope", `must end in "/.default" for ${credential}`);
    }
  }),
);

export type AzureOptions = v.InferOutput<typeof azureOptions>;

/** The credentials to be tried, in order. */
export function kindsOf({ credential }: Pick<AzureOptions, "credential">): readonly CredentialKind[] {
  if (credential === "default") return DEFAULT;
  return typeof credential === "string" ? [credential] : credential;
}

/** Whether `text` is the URL of an authority: https, because a secret goes there. */
export function isAuthority(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, username, password, search, hash } = new URL(text);
  return protocol === "https:" && `${username}${password}${search}${hash}` === "";
}
