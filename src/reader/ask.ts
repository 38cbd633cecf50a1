/** Who is asked for another token than the one in the file: the agent, else whatever the caller brought along. */
import { basename, dirname, join } from "node:path";
import { FreshkeyError } from "../core/errors.ts";
import { sleep } from "../os/clock.ts";
import { askAgent, NoAgent, type RenewRequest } from "../os/control-client.ts";
import { unsafeDirectory } from "../os/paths.ts";
import { readTokenJson, type TokenJson } from "./token-file.ts";

/** Gets a new token into the file, or throws. `timeout` is in milliseconds; `signal` ends the wait. */
export type Renew = (
  request: Omit<RenewRequest, "op">,
  options: { timeout: number; signal: AbortSignal },
) => Promise<unknown>;

/** Why another token is wanted, and which one (its fingerprint; empty: none was there) will not do. */
export type Need = Pick<RenewRequest, "seen" | "reason" | "claims">;

/** The agent has this much longer to answer than it is waited for: the signal ends that, and says why. */
const GRACE = 200;

/**
 * Asks; and where the answer is that a source failed lately and is tried again in time, asks again then.
 *
 * @throws NoAgent if there is nobody to ask.
 * @throws FreshkeyError of whoever was asked; the signal's reason.
 */
export async function askInTime(
  path: string,
  need: Need,
  options: { wait: number; signal: AbortSignal; renew: Renew | undefined },
): Promise<void> {
  const { wait, signal, renew } = options;
  const end = performance.now() + wait;
  let last: FreshkeyError | undefined;
  for (;;) {
    try {
      return await ask(path, need, { timeout: Math.max(1, Math.round(end - performance.now())), signal, renew });
    } catch (error) {
      // Of the time that is over, the source's own failure says more.
      if (signal.aborted) throw last ?? error;
      const backoff = error instanceof FreshkeyError && error.code === "ERR_BACKOFF" ? error.retryAfter : undefined;
      if (backoff === undefined || performance.now() + backoff >= end) throw error;
      last = error as FreshkeyError;
      await sleep(backoff, signal).catch(() => undefined);
    }
  }
}

async function ask(
  path: string,
  need: Need,
  options: { timeout: number; signal: AbortSignal; renew: Renew | undefined },
): Promise<void> {
  const { timeout, signal, renew } = options;
  const json = readTokenJson(path);
  const request = { name: json?.name ?? basename(dirname(path)), ...need };
  try {
    const control = json?.control || usualControl(path);
    // Beside a bare token there may be anybody's directory of that name.
    if (!isSafeDirectory(dirname(control))) throw new NoAgent(`no agent on ${control}`);
    await askAgent(control, { op: "renew", ...request }, { timeout: timeout + GRACE, signal });
  } catch (error) {
    if (!(error instanceof NoAgent) || !renew) throw error;
    await renew(request, { timeout, signal });
  }
}

/** Whether freshkey keeps the token at `path`, or would if its agent ran. */
export function isKept(path: string, json: TokenJson | undefined): boolean {
  return json !== undefined || isSafeDirectory(dirname(usualControl(path)));
}

/** Where the agent of a token that has never been written listens: `RUN/agent`, beside `RUN/NAME`. */
function usualControl(path: string): string {
  return join(dirname(dirname(path)), "agent", "control.sock");
}

function isSafeDirectory(path: string): boolean {
  try {
    return unsafeDirectory(path, undefined, { sharedIsFine: true }) === undefined;
  } catch {
    // ENOENT, ENOTDIR, EACCES: there is none that could be used.
    return false;
  }
}
