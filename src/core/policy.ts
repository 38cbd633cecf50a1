/**
 * When to renew: pure functions of a token, an instant and a random number. All instants are epoch milliseconds, all
 * durations milliseconds, `random` is uniform in [0, 1).
 */
import { UNKNOWN_EXPIRY } from "./token.ts";

/** What the policy has to know of a token that is in place. */
export interface Lifetime {
  readonly minted: number;
  /** `UNKNOWN_EXPIRY` where none is known. */
  readonly expires: number;
  /** The source's own wish, where it has one. */
  readonly renewAt?: number | undefined;
}

export interface RenewalRules {
  /** The token is to be replaced no later than this long before its expiry. */
  readonly refreshBefore?: number | undefined;
  /** How often to replace a token of unknown expiry that has no schedule of its own. */
  readonly every?: number | undefined;
  /** The next run of the token's `cron` schedule. */
  readonly cron?: number | undefined;
  /** The first renewal after a start or a resume: spread wide, so that a fleet that starts at nine does not stay in step. */
  readonly first?: boolean;
}

/** Two thirds of the life: late enough to spare the provider, early enough for an outage of a third of it. */
const RENEW_AT = 2 / 3;
/** A random twentieth earlier: machines that once minted together drift apart. */
const SPREAD = 1 / 20;
/** SDKs, `az` and managed identities hand out the same token until so long before its expiry. */
const SOURCE_CACHE = 300_000;
/** No token is renewed more often than this, whatever its source, its lifetime or `refresh_before` say. */
const SHORTEST_LIFE = 1_000;
/** A token whose expiry nobody knows: most live for an hour, so half of that is on the safe side. */
export const EVERY = 30 * 60_000;

/** When the token that is in place is to be replaced. In the past means now. */
export function nextRenewal(token: Lifetime, rules: RenewalRules, random: number): number {
  const cron = rules.cron ?? Number.POSITIVE_INFINITY;
  if (token.expires === UNKNOWN_EXPIRY) {
    // Only a schedule can know when to rotate it; without one, regularly.
    return rules.cron ?? token.minted + (rules.every ?? EVERY) * (1 - random * SPREAD);
  }
  const lifetime = Math.max(0, token.expires - token.minted);
  const share = rules.first ? SPREAD + random * (RENEW_AT - SPREAD) : RENEW_AT - random * SPREAD;
  let at = token.minted + lifetime * share;
  if (token.renewAt !== undefined && token.renewAt < token.expires && !rules.first) at = token.renewAt;
  if (rules.refreshBefore !== undefined) at = Math.min(at, token.expires - rules.refreshBefore);
  // Of a token that lives for seconds, the least validity is a large share: it is replaced before it runs into that.
  at = Math.min(at, token.expires - minValidity(token) - lifetime * SPREAD);
  // A `refresh_before` near or above the lifetime must not become a busy loop.
  const earliest = token.minted + Math.max(SHORTEST_LIFE, lifetime * SPREAD);
  return Math.min(Math.max(at, earliest), cron);
}

/**
 * When to ask again a source that handed out the token that is in place already: when it can give a new one. Before
 * the last five minutes that is what its cache says; within them it is a matter of trying, ever closer to the end.
 */
export function nextAfterSame(token: Lifetime, now: number, random: number): number {
  if (token.expires === UNKNOWN_EXPIRY) return now + EVERY * (1 - random * SPREAD);
  const cacheEnds = token.expires - SOURCE_CACHE;
  if (now < cacheEnds) return cacheEnds + random * SHORTEST_LIFE * 10;
  const left = token.expires - now;
  return now + Math.max(SHORTEST_LIFE, Math.min(60_000, left / 4)) * (1 - random / 4);
}

const FIRST_BACKOFF = 1_000;
const LONGEST_BACKOFF = 60_000;
/** Only a person can mend a permanent error; whether they have is looked at this often. */
const PERMANENT_BACKOFF = 10 * 60_000;
/**
 * A client that asks may find out sooner: somebody who has just signed in does not wait for ten minutes. With clients that
 * ask all the while that makes thirty attempts in ten minutes.
 */
export const PERMANENT_ON_DEMAND = 20_000;

/**
 * How long to wait after the `attempt`th failure in a row (from 1): exponential from 1 s to 60 s, with half of it random,
 * so that a provider that comes back is not met by everybody at once. (With all of it random, one outage of ten minutes
 * in a hundred sees more than 30 attempts; so, none can see more than 24.) `retryAfter` (RFC 9110 10.2.3) is a lower
 * bound.
 */
export function backoff(attempt: number, random: number, options: { permanent?: boolean; retryAfter?: number } = {}) {
  if (options.permanent) return PERMANENT_BACKOFF * (0.75 + random / 4);
  const ceiling = Math.min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** Math.min(attempt, 16));
  const floor = Math.max(FIRST_BACKOFF, ceiling / 2);
  const wait = floor + random * (ceiling - floor);
  return Math.max(wait, (options.retryAfter ?? 0) * (1 + random / 10));
}

const MIN_VALIDITY = 30_000;
/** Below two seconds a request may be on its way when the token ends. */
const LEAST_VALIDITY = 2_000;

/** How much life a token must have left to be handed out: 30 s, at most a tenth of its lifetime, at least 2 s. */
export function minValidity(token: Lifetime): number {
  const tenth = token.minted > 0 ? (token.expires - token.minted) / 10 : MIN_VALIDITY;
  return Math.max(LEAST_VALIDITY, Math.min(MIN_VALIDITY, tenth));
}

/** Whether a client may be given the token now. */
export function isFresh(token: Lifetime, now: number, required = minValidity(token)): boolean {
  return token.expires === UNKNOWN_EXPIRY || token.expires - now >= required;
}
