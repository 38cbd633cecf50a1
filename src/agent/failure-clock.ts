import { formatDuration } from "../core/duration.ts";
import { FreshkeyError } from "../core/errors.ts";
import { backoff, PERMANENT_ON_DEMAND } from "../core/policy.ts";
import type { Failure } from "../core/state.ts";
import type { FailureFile } from "./failure-file.ts";

const FIRST_PUBLISH_PAUSE = 2_000;
const LONGEST_PUBLISH_PAUSE = 60_000;

/** How long to wait before a token that could not be put in place is tried again: that asks nothing of the provider. */
export function publishPause(attempt: number): number {
  return Math.min(LONGEST_PUBLISH_PAUSE, FIRST_PUBLISH_PAUSE * attempt);
}

/** One clock of failures a token, for all who ask: the source is not asked more often because many want it. */
export class FailureClock {
  readonly #file: FailureFile;
  #failure: Failure | undefined;

  constructor(file: FailureFile, now: number) {
    this.#file = file;
    this.#failure = file.read();
    // Noted by a clock that was ahead: its pauses may be years.
    if (this.#failure && this.#failure.since > now) this.hurry(now);
  }

  /** The run of failures that has not ended yet. */
  get failure(): Failure | undefined {
    return this.#failure;
  }

  /** When to try again without being asked, epoch milliseconds; 0 where nothing has failed. */
  get nextTry(): number {
    return this.#failure?.nextTry ?? 0;
  }

  /**
   * One more failure in a row. `pause` tells how long to wait after so many where waiting does not spare the source; it is
   * this process's own: another one would have to ask the source.
   */
  async add(error: FreshkeyError, now: number, random: number, pause?: (attempt: number) => number): Promise<Failure> {
    const attempts = (this.#failure?.attempts ?? 0) + 1;
    const permanent = error.class !== "transient" && error.class !== "internal";
    const { retryAfter } = error;
    const wait = backoff(attempts, random, { permanent, ...(retryAfter !== undefined && { retryAfter }) });
    const failure: Failure = {
      since: this.#failure?.since ?? now,
      attempts,
      nextTry: now + wait,
      notBefore: now + (permanent ? Math.min(wait, Math.max(PERMANENT_ON_DEMAND, retryAfter ?? 0)) : wait),
      error: error.toJSON(),
    };
    const own = pause && now + pause(attempts);
    this.#failure = own === undefined ? failure : { ...failure, nextTry: own, notBefore: own };
    await this.#file.write(failure);
    return this.#failure;
  }

  /** Success: returns the run of failures that it ends, if there was one. */
  end(): Failure | undefined {
    const ended = this.#failure;
    this.#failure = undefined;
    if (ended) this.#file.clear();
    return ended;
  }

  /** The pause is over: the clock was set, or what failed has been changed. */
  hurry(now: number): void {
    if (!this.#failure) return;
    const since = Math.min(this.#failure.since, now);
    this.#failure = { ...this.#failure, since, nextTry: now, notBefore: now };
  }

  /** @throws FreshkeyError the last one with the time of the next try, as long as it is too early for another. */
  refuse(now: number): void {
    if (!this.#failure || now >= this.#failure.notBefore) return;
    const { error, since, notBefore } = this.#failure;
    const wait = notBefore - now;
    const told = `${error.message} (since ${formatDuration(now - since)}, next try in ${formatDuration(wait)})`;
    const code = error.class === "transient" ? "ERR_BACKOFF" : error.code;
    throw new FreshkeyError(code, told, { hint: error.hint, retryAfter: wait });
  }
}
