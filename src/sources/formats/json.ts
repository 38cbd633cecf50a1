/** JSON of no particular protocol, and the two programs that print some of their own: `az` and `gcloud`. */
import type { Token } from "../../core/token.ts";
import {
  BadAnswer,
  type JsonObject,
  member,
  objectOf,
  type Parse,
  parseJson,
  parseObject,
  textMember,
  tokenOf,
} from "./answer.ts";
import { anyInstant, epochSeconds, lifetime, rfc3339 } from "./instant.ts";
import { fieldSteps, follow } from "./pointer.ts";

/** Where to find the token in a JSON document: names joined by dots, or a JSON pointer (RFC 6901). */
export interface Fields {
  readonly token?: string | undefined;
  readonly expiry?: string | undefined;
}

/** Where OAuth token endpoints (RFC 6749 5.1), `az` and most helpers put the token. */
const TOKEN_FIELDS = ["accessToken", "access_token", "token", "id_token"];

/** Where they put its expiry. `expires_on` comes before `expiresOn`: old versions of `az` give that in local time. */
const EXPIRY_FIELDS: Readonly<Record<string, typeof anyInstant>> = {
  expires_on: epochSeconds,
  expires_in: lifetime,
  expiresOn: anyInstant,
  expires_at: anyInstant,
  expiration: anyInstant,
  Expiration: anyInstant,
  expiry: anyInstant,
  // Vault's word for a lease; 0 is one that does not end.
  lease_duration: (value, field, asked) => (value === 0 ? undefined : lifetime(value, field, asked)),
};

/** A JSON document with the token in the named field, or in one of those where tokens usually are; or a text alone. */
export function parseAnyJson(text: string, asked: number, fields: Fields = {}): Token {
  const json = parseJson(text);
  if (typeof json === "string" && fields.token === undefined) return tokenOf(json, undefined);
  const { value, parent } = fields.token === undefined ? usualToken(objectOf(json)) : namedToken(json, fields.token);
  return tokenOf(value, expiryIn(json, parent, fields.expiry, asked));
}

function usualToken(json: JsonObject): { value: string; parent: JsonObject } {
  const field = TOKEN_FIELDS.find((name) => typeof member(json, name) === "string");
  if (field !== undefined) return { value: textMember(json, field), parent: json };
  // RFC 6749 5.2: a word of the protocol. Anything else may be what must not be quoted.
  const { error } = json;
  if (typeof error === "string" && /^[a-z_]{1,60}$/.test(error)) {
    throw new BadAnswer(`an error instead of a token: ${error}`);
  }
  throw new BadAnswer(`JSON without any of the fields ${TOKEN_FIELDS.join(", ")}`);
}

function namedToken(json: unknown, field: string): { value: string; parent: unknown } {
  const { value, parent } = follow(json, fieldSteps(field));
  if (typeof value === "string") return { value, parent };
  throw new BadAnswer(`JSON whose ${field} is not a text`);
}

/** In the field that is named; else beside the token, where one of the usual fields says something. */
function expiryIn(json: unknown, beside: unknown, field: string | undefined, asked: number): number | undefined {
  if (field !== undefined) return anyInstant(follow(json, fieldSteps(field)).value, field, asked);
  for (const [name, read] of Object.entries(EXPIRY_FIELDS)) {
    const instant = read(member(beside, name), name, asked);
    if (instant !== undefined) return instant;
  }
  return undefined;
}

/** `az account get-access-token`. */
export const parseAzureCli: Parse = (text, asked) => {
  const json = parseObject(text);
  const value = textMember(json, "accessToken");
  return tokenOf(value, expiryIn(json, json, undefined, asked));
};

/** `gcloud config config-helper --format=json`. */
export const parseGcloud: Parse = (text) => {
  const credential = member(parseObject(text), "credential");
  const value = textMember(credential, "access_token", "credential.access_token");
  return tokenOf(value, rfc3339(member(credential, "token_expiry"), "credential.token_expiry"));
};
