import { deadline } from "../os/clock.ts";

/** Headers that carry a credential, by the way a client sends it. */
export function credentialHeader(
  type: "openai" | "azure" | "anthropic" | "bearer",
  token: string,
): Record<string, string> {
  if (type === "azure") return { "api-key": token };
  if (type === "anthropic") return { "x-api-key": token };
  return { Authorization: `Bearer ${token}` };
}

/**
 * What a gateway answers to a GET of `url` with `headers`: the HTTP status, or undefined where none came within
 * `timeout` milliseconds or before one of `ends` was aborted. A redirect is not followed: a credential goes to no other place
 * than the one configured.
 */
export async function probe(
  url: string,
  headers: Record<string, string>,
  timeout = 5_000,
  ...ends: AbortSignal[]
): Promise<number | undefined> {
  const { signal, end } = deadline(timeout, ...ends);
  try {
    const response = await fetch(url, { headers, redirect: "manual", signal });
    await response.body?.cancel();
    return response.status;
  } catch {
    return undefined;
  } finally {
    end();
  }
}

/** Where a gateway of that type lists its models: a GET that costs nothing and needs the credential. */
export function modelsUrl(type: "openai" | "azure" | "anthropic", baseUrl: string): string {
  const base = baseUrl.replace(/\/+$/, "");
  if (type === "anthropic") return `${base}/v1/models`;
  // Copilot CLI takes an Azure base URL with and without that path.
  if (type === "azure" && !base.endsWith("/openai/v1")) return `${base}/openai/v1/models`;
  return `${base}/models`;
}
