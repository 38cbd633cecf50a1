import type { TokenConfig } from "../config/load.ts";
import { formatDuration } from "../core/duration.ts";
import { FreshkeyError } from "../core/errors.ts";
import { backoff, isFresh, nextAfterSame, nextRenewal } from "../core/policy.ts";
import type { Failure } from "../core/state.ts";
import { fingerprint, type Token, UNKNOWN_EXPIRY } from "../core/token.ts";
import type { Clock } from "../os/clock.ts";
import type { RenewAnswer, RenewReason, RenewRequest } from "../os/control-client.ts";
import type { Log } from "../os/log.ts";
import { stampOf, type TokenFile } from "../reader/token-file.ts";
import type { FailureFile } from "./failure-file.ts";
import type { mint } from "./mint.ts";
import { publish, published, touch, unpublish } from "./publish.ts";
import type { Schedule } from "./schedule.ts";
import type { Slots } from "./slots.ts";
import { describeToken, type TokenStatus } from "./token-status.ts";

/** What a refresher works with; clock, randomness and the mint are injected in tests. */
export interface RefresherTools {
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
  readonly mint: typeof mint;
  readonly slots: Slots;
  readonly failures: FailureFile;
  readonly schedule: Schedule | undefined;
  /** The agent's control socket, for token.json. */
  readonly control: string;
  /** Called when `nextDue` may have become earlier. */
  readonly wake: () => void;
  /** Tells whether the source has another token to give, where one look can. Asked at every tick. */
  readonly sourceStamp?: (() => string | undefined) | undefined;
}

type Request = Omit<RenewRequest, "op" | "name" | "reason"> & { reason: RenewReason | "scheduled" };

/** A token that the gateway rejects sooner than this after its mint would be rejected again: the gateway is at fault. */
const TOO_YOUNG_TO_REJECT = 30_000;
const REJECTED_BACKOFF = 30_000;
/** A person may ask past the back-off, but not a script that says it is one. */
const MANUAL_EVERY = 5_000;
/** The token file is looked at this often, in case somebody removed or replaced it. */
const LOOK_EVERY = 5_000;
/** Below the ten days after which systemd-tmpfiles removes, and macOS's three. */
const TOUCH_EVERY = 6 * 3_600_000;

/** One token's life: when it is due, one mint at a time, one clock of failures. Only the holder of the lock has any. */
export class Refresher {
  readonly config: TokenConfig;
  readonly #tools: RefresherTools;
  readonly #stopping = new AbortController();
  #minting: Promise<RenewAnswer> | undefined;
  #failure: Failure | undefined;
  #nextRenewal: number;
  #lastManual = Number.NEGATIVE_INFINITY;
  #lastLook: number;
  #lastTouch: number;
  #stamp: string | undefined;
  #sourceStamp: string | undefined;

  constructor(config: TokenConfig, tools: RefresherTools) {
    this.config = config;
    this.#tools = tools;
    this.#failure = tools.failures.read();
    const found = published(config);
    this.#stamp = stampOf(config.path);
    this.#lastLook = this.#lastTouch = tools.clock.now();
    this.#nextRenewal = found?.matches ? this.#plan(found, true) : this.#lastLook;
  }

  /** When something is to be done next, epoch milliseconds. */
  get nextDue(): number {
    if (this.#minting) return Number.POSITIVE_INFINITY;
    return Math.max(this.#nextRenewal, this.#failure?.nextTry ?? 0);
  }

  /** Called at every turn of the agent's loop: renews if it is time to. Never throws; what fails is logged and kept. */
  tick(): void {
    const now = this.#tools.clock.now();
    if (now - this.#lastLook >= LOOK_EVERY) this.#look(now);
    if (now - this.#lastTouch >= TOUCH_EVERY) {
      this.#lastTouch = now;
      touch(this.config, now);
      this.#stamp = stampOf(this.config.path);
    }
    // Back-off is for a source that is asked in vain: this one has something new.
    if (!this.#minting && this.#sourceHasChanged())
      this.#mint({ seen: "", reason: "scheduled" }).catch(() => undefined);
    else if (now >= this.nextDue) this.#mint({ seen: "", reason: "scheduled" }).catch(() => undefined);
  }

  /** Renews if the token is due, as cron's `freshkey renew` wants it. */
  async renewIfDue(): Promise<RenewAnswer> {
    const found = published(this.config);
    const changed = this.#sourceHasChanged();
    const now = this.#tools.clock.now();
    if (found?.matches && isFresh(found, now) && now < this.#nextRenewal && !changed) {
      return answerOf("already-renewed", found);
    }
    if (!changed) this.#refuseDuringBackoff("expired");
    return this.#mint({ seen: "", reason: "scheduled" });
  }

  /**
   * Answers a client that needs another token than the one it has seen. All who ask at once share one mint.
   *
   * @throws FreshkeyError of the source; during back-off the last one, with the time of the next try.
   */
  async renew(request: Request): Promise<RenewAnswer> {
    if (this.#minting) return this.#minting;
    const now = this.#tools.clock.now();
    const found = published(this.config);
    if (found?.matches && isFresh(found, now) && request.reason !== "manual") {
      // The one that failed is not the one that is in place: somebody else has had it renewed.
      if (request.seen !== found.fingerprint) return answerOf("already-renewed", found);
      if (request.reason === "expired" && now - found.minted < LOOK_EVERY) return answerOf("already-renewed", found);
      if (request.reason !== "expired" && now - found.minted < TOO_YOUNG_TO_REJECT) this.#blameGateway(found, now);
    }
    this.#refuseDuringBackoff(request.reason);
    return this.#mint(request);
  }

  status(): TokenStatus {
    return describeToken(this.config, {
      found: published(this.config),
      failure: this.#failure,
      minting: this.#minting !== undefined,
      nextRenewal: this.nextDue,
      now: this.#tools.clock.now(),
    });
  }

  /** Ends a mint that is under way; the token file stays. */
  async stop(): Promise<void> {
    this.#stopping.abort(new FreshkeyError("ERR_AGENT", "the agent stops"));
    await this.#minting?.catch(() => undefined);
  }

  /** The token has left the configuration: its files go with it. */
  async remove(): Promise<void> {
    await this.stop();
    this.#tools.failures.clear();
    await unpublish(this.config);
  }

  #mint(request: Request): Promise<RenewAnswer> {
    this.#minting ??= this.#tools.slots
      .run(this.config.source, () => this.#mintAndPublish(request))
      .finally(() => {
        this.#minting = undefined;
        this.#tools.wake();
      });
    return this.#minting;
  }

  async #mintAndPublish(request: Request): Promise<RenewAnswer> {
    const { clock, log, control } = this.#tools;
    const name = this.config.name;
    const minted = clock.now();
    try {
      const signal = this.#stopping.signal;
      const token = await this.#tools.mint(this.config, { claims: request.claims, signal, now: minted });
      signal.throwIfAborted();
      const before = published(this.config);
      const own = fingerprint(token.value);
      if (before?.matches && before.fingerprint === own) return this.#gotTheSame(before, request);
      await publish(this.config, { token, minted, control, force: request.reason === "manual" });
      this.#succeeded(token, minted);
      const life = token.expires === UNKNOWN_EXPIRY ? "unknown" : formatDuration(token.expires - clock.now());
      log.info({ name, fingerprint: own, expires_in: life, reason: request.reason }, "renewed");
      return { result: "renewed", fingerprint: own, expires: Math.floor(token.expires / 1000) };
    } catch (error) {
      throw await this.#failed(FreshkeyError.from(error, "ERR_SOURCE_FAILED"));
    }
  }

  #succeeded(token: Token, minted: number): void {
    if (this.#failure) {
      const lasted = formatDuration(this.#tools.clock.now() - this.#failure.since);
      this.#tools.log.info({ name: this.config.name, attempts: this.#failure.attempts }, `works again after ${lasted}`);
      this.#failure = undefined;
      this.#tools.failures.clear();
    }
    this.#stamp = stampOf(this.config.path);
    this.#nextRenewal = this.#plan({ ...token, minted }, false);
  }

  /** A source with a cache of its own handed out the token that is in place: no renewal, and no reason to ask at once. */
  #gotTheSame(before: TokenFile, request: Request): RenewAnswer {
    const now = this.#tools.clock.now();
    this.#nextRenewal = nextAfterSame(before, now, this.#tools.random());
    this.#failure = undefined;
    this.#tools.failures.clear();
    const again = formatDuration(this.#nextRenewal - now);
    this.#tools.log.debug({ name: this.config.name }, `the source handed out the same token, asked again in ${again}`);
    if (request.reason === "scheduled" || request.reason === "manual") return answerOf("already-renewed", before);
    throw new FreshkeyError(
      "ERR_BACKOFF",
      `the source of ${this.config.name} hands out the same token from its cache`,
      {
        hint: `it is asked again in ${again}; a new sign-in gives a new token at once`,
      },
    );
  }

  async #failed(error: FreshkeyError): Promise<FreshkeyError> {
    if (this.#stopping.signal.aborted) return error;
    const { clock, random, log } = this.#tools;
    const now = clock.now();
    const attempts = (this.#failure?.attempts ?? 0) + 1;
    const wait = backoff(attempts, random(), {
      permanent: error.class === "permanent" || error.class === "sign-in" || error.class === "config",
      ...(error.retryAfter !== undefined && { retryAfter: error.retryAfter }),
    });
    this.#failure = { since: this.#failure?.since ?? now, attempts, nextTry: now + wait, error: error.toJSON() };
    await this.#tools.failures.write(this.#failure);
    const details = { name: this.config.name, code: error.code, hint: error.hint, attempt: attempts };
    log[attempts === 1 ? "warn" : "debug"](details, `${error.message}; next try in ${formatDuration(wait)}`);
    return error;
  }

  #blameGateway(found: TokenFile, now: number): never {
    const age = formatDuration(now - found.minted);
    const error = new FreshkeyError(
      "ERR_BACKOFF",
      `the gateway rejected a token of ${this.config.name} minted ${age} ago`,
      {
        hint: `a new one would fare no better: compare the token's audience and scope with what the gateway expects`,
        retryAfter: REJECTED_BACKOFF,
      },
    );
    this.#tools.log.warn({ name: this.config.name, fingerprint: found.fingerprint }, error.message);
    throw error;
  }

  /** One failure clock for all who ask: the source is not asked more often because many want it. */
  #refuseDuringBackoff(reason: Request["reason"]): void {
    const now = this.#tools.clock.now();
    if (reason === "manual" && now - this.#lastManual >= MANUAL_EVERY) {
      this.#lastManual = now;
      return;
    }
    if (!this.#failure || now >= this.#failure.nextTry) return;
    const { error, since, nextTry } = this.#failure;
    const told = `${error.message} (since ${formatDuration(now - since)}, next try in ${formatDuration(nextTry - now)})`;
    const code = error.class === "transient" ? "ERR_BACKOFF" : error.code;
    throw new FreshkeyError(code, told, { hint: error.hint, retryAfter: nextTry - now });
  }

  #look(now: number): void {
    this.#lastLook = now;
    const stamp = stampOf(this.config.path);
    if (stamp === this.#stamp) return;
    this.#stamp = stamp;
    const found = published(this.config);
    if (found?.matches) return;
    this.#tools.log.warn(
      { name: this.config.name },
      "the token file was removed or changed by somebody else; renewing",
    );
    this.#nextRenewal = now;
  }

  /** Also at the first look: nobody knows what has been put there since the published token was. */
  #sourceHasChanged(): boolean {
    const stamp = this.#tools.sourceStamp?.();
    // What is gone for a moment, while it is replaced, is no news.
    if (stamp === undefined || stamp === this.#sourceStamp) return false;
    this.#sourceStamp = stamp;
    return true;
  }

  #plan(token: { minted: number; expires: number; renewAt?: number }, first: boolean): number {
    const rules = {
      refreshBefore: this.config.refreshBefore,
      every: this.config.every,
      cron: this.#tools.schedule?.next(token.minted),
      first,
    };
    return nextRenewal(token, rules, this.#tools.random());
  }
}

function answerOf(result: RenewAnswer["result"], token: TokenFile): RenewAnswer {
  return { result, fingerprint: token.fingerprint, expires: Math.floor(token.expires / 1000) };
}
