import { sleep } from "../os/clock.ts";

/** What became of a request: answered, or refused with a 401. */
export type Outcome = "ok" | "refused";

const PAUSE = 1_000;

/**
 * A client that asks the chat API at `baseUrl` once a second, each time with what `token` gives it, until `signal`.
 * The gateway counts; what fails on the way is a request without a token, which it refuses.
 */
export async function askOnceASecond(
  baseUrl: string,
  token: () => Promise<string>,
  signal: AbortSignal,
): Promise<void> {
  try {
    for (;;) {
      const next = sleep(PAUSE, signal);
      // Handled where it is awaited; until then an abort must not count as unhandled.
      next.catch(() => undefined);
      const value = await token().catch(() => "");
      const response = await fetch(`${baseUrl}/chat/completions`, {
        method: "POST",
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${value}` },
        body: JSON.stringify({ model: "gpt-5.1", messages: [{ role: "user", content: "Still there?" }] }),
        redirect: "manual",
      });
      await response.arrayBuffer();
      await next;
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
