import type { TokenConfig } from "../config/load.ts";
import type { ErrorRecord } from "../core/errors.ts";
import { type Failure, type State, stateOf } from "../core/state.ts";
import type { TokenFile } from "../reader/token-file.ts";

/** One token as `status` shows it. Instants are epoch seconds, 0 where unknown. */
export interface TokenStatus {
  readonly name: string;
  readonly source: string;
  readonly state: State;
  readonly path: string;
  readonly fingerprint: string;
  readonly expires: number;
  readonly minted: number;
  readonly next_renewal: number;
  readonly error?: ErrorRecord & { since: number; attempts: number; next_try: number };
}

/** What is known of a token, whether an agent runs or not. */
export function describeToken(
  config: TokenConfig,
  about: {
    found: TokenFile | undefined;
    failure: Failure | undefined;
    minting: boolean;
    nextRenewal: number;
    now: number;
  },
): TokenStatus {
  const { found, failure, minting, nextRenewal: next, now } = about;
  const seconds = (instant: number) => (Number.isFinite(instant) ? Math.floor(instant / 1000) : 0);
  return {
    name: config.name,
    source: config.source,
    state: stateOf(found, failure, minting, now),
    path: config.path,
    fingerprint: found?.fingerprint ?? "",
    expires: seconds(found?.expires ?? 0),
    minted: seconds(found?.minted ?? 0),
    next_renewal: seconds(next),
    ...(failure && {
      error: {
        ...failure.error,
        since: seconds(failure.since),
        attempts: failure.attempts,
        next_try: seconds(failure.nextTry),
      },
    }),
  };
}
