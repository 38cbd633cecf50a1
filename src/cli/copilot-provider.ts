import type { CopilotProvider } from "../clients/copilot.ts";
import type { Config, TokenConfig } from "../config/load.ts";

/** What Copilot CLI is to be told of `token`, and of the gateway that [clients.copilot] names, where it does. */
export function copilotProvider(config: Config, token: TokenConfig): CopilotProvider {
  const client = config.clients.get("copilot");
  return {
    tokenPath: token.path,
    minValidity: token.minValidity,
    verify: token.verify,
    ...(client && { baseUrl: client.base_url, type: client.type, wireApi: client.wire_api, model: client.model }),
  };
}
