import { credentialHeader, probe } from "../clients/probe.ts";
import type { TokenConfig } from "../config/load.ts";

/** So long a gateway may take to answer, milliseconds; a renewal waits for it, and a client may wait for the renewal. */
const ANSWER_WITHIN = 2_000;

/**
 * Whether the gateway of a token rejects it, by a GET of `verify`. Only a 401 says so: a gateway that is down, slow or
 * has no such page says nothing of the token. undefined where no page is known that could be asked.
 */
export function gatewayOf({
  verify,
  clientType = "openai",
}: TokenConfig): ((token: string, signal: AbortSignal) => Promise<boolean>) | undefined {
  if (verify === undefined) return undefined;
  // Copilot CLI's extension sends every token as Bearer, its command hook by the provider's type.
  const ways = clientType === "openai" ? (["bearer"] as const) : ([clientType, "bearer"] as const);
  return async (token, signal) => {
    for (const way of ways) {
      if ((await probe(verify, credentialHeader(way, token), ANSWER_WITHIN, signal)) !== 401) return false;
    }
    return true;
  };
}
