import type { ErrorRecord } from "./errors.ts";
import { isFresh, type Lifetime } from "./policy.ts";
import { UNKNOWN_EXPIRY } from "./token.ts";

/** One token as `status` shows it: exactly one of these at any instant. */
export type State = "fresh" | "renewing" | "failing" | "sign-in-needed" | "expired" | "missing";

/** A run of failures that has not ended yet. Instants are epoch milliseconds. */
export interface Failure {
  readonly since: number;
  readonly attempts: number;
  /** When the agent tries again by itself. */
  readonly nextTry: number;
  /** Until when nobody else can make it try: sooner than `nextTry` where a person may have mended it meanwhile. */
  readonly notBefore: number;
  readonly error: ErrorRecord;
}

/** The state of a token from what is published, what is under way and what failed. */
export function stateOf(
  published: Lifetime | undefined,
  failure: Failure | undefined,
  minting: boolean,
  now: number,
): State {
  if (failure?.error.class === "sign-in") return "sign-in-needed";
  if (published === undefined) return minting ? "renewing" : failure ? "failing" : "missing";
  if (published.expires !== UNKNOWN_EXPIRY && published.expires <= now) return minting ? "renewing" : "expired";
  if (failure) return "failing";
  if (minting) return "renewing";
  return isFresh(published, now) ? "fresh" : "expired";
}
