/** The part of the SDK that Copilot CLI gives to its extensions, as CLI 1.0.88 to 1.0.102 have it; experimental there. */
declare module "@github/copilot-sdk/extension" {
  export interface ProviderConfig {
    type: "openai" | "azure" | "anthropic";
    baseUrl: string;
    wireApi?: "completions" | "responses";
    bearerTokenProvider: (request: { sessionId?: string }) => Promise<string>;
  }
  export interface SessionEvent {
    type: string;
    /** Of `model.call_failure`: what the provider answered, and how long it took, in milliseconds. */
    data?: { statusCode?: number; durationMs?: number };
  }
  export interface Session {
    on?(listener: (event: SessionEvent) => void): unknown;
    /** A line in the session's timeline; with `-p`, on stdout, from `warning` on stderr. */
    log(text: string, options?: { level?: "info" | "warning" | "error" }): Promise<unknown>;
  }
  export function joinSession(options: { provider?: ProviderConfig }): Promise<Session>;
}
