import { isDeepStrictEqual } from "node:util";
import type { TokenConfig } from "./load.ts";

/** Options that do not decide whose token it is. */
const NOT_THE_IDENTITY: readonly string[] = [
  ...["client_secret", "client_certificate", "client_certificate_password"],
  ...["expires_in", "format", "shell", "cwd"],
  ...["token_field", "expiry_field", "pointer", "expiry_pointer"],
];

/** Whether the token of the one configuration may stay in place until there is one of the other. */
export function samePlaceAndIdentity(a: TokenConfig, b: TokenConfig): boolean {
  const identity = ({ options }: TokenConfig) =>
    Object.entries(options).filter(([key]) => !NOT_THE_IDENTITY.includes(key));
  return a.path === b.path && a.source === b.source && isDeepStrictEqual(identity(a), identity(b));
}
