/** What a client is told that asks for another token and does not get one, or not now. Durations are milliseconds. */
import { formatDuration } from "../core/duration.ts";
import { FreshkeyError } from "../core/errors.ts";

/** How a mint ends that was under way when its refresher was stopped: nobody's failure. */
export class Stopped extends FreshkeyError {
  constructor() {
    super("ERR_AGENT", "the agent stops");
  }
}

/** The pause before the gateway is given another one. */
const REJECTED_BACKOFF = 30_000;

/** The gateway rejects what has just been minted. */
export function gatewayAtFault(name: string, age: number): FreshkeyError {
  const told = `the gateway rejected a token of ${name} minted ${formatDuration(age)} ago`;
  const hint = "a new one would fare no better: compare the token's audience and scope with what the gateway expects";
  return new FreshkeyError("ERR_BACKOFF", told, { hint, retryAfter: REJECTED_BACKOFF });
}

/** The source has a cache of its own, which has no other token yet. */
export function sameTokenAgain(name: string, retryAfter: number): FreshkeyError {
  const told = `the source of ${name} hands out the same token from its cache`;
  const hint = `it is asked again in ${formatDuration(retryAfter)}; a new sign-in gives a new token at once`;
  return new FreshkeyError("ERR_BACKOFF", told, { hint, retryAfter });
}

/** The gateway rejects a new token and takes the one that is in place. */
export function newOneRejected(name: string): FreshkeyError {
  const told = `the gateway answered 401 to a new token of ${name}; the one before still works, and stays`;
  const hint = `compare the token's audience and scope with what the gateway expects; to use it all the same: freshkey renew ${name} --force`;
  return new FreshkeyError("ERR_SOURCE_ANSWER", told, { hint });
}
