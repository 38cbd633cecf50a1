import type { TokenConfig } from "../config/load.ts";
import { formatDuration } from "../core/duration.ts";
import { FreshkeyError } from "../core/errors.ts";
import { nextAfterSame, nextRenewal } from "../core/policy.ts";
import { fingerprint, type Token, UNKNOWN_EXPIRY } from "../core/token.ts";
import type { RenewAnswer, RenewReason, RenewRequest } from "../os/control-client.ts";
import { isUsable, type TokenFile } from "../reader/token-file.ts";
import { Caretaker } from "./caretaker.ts";
import { Challenges } from "./challenges.ts";
import { FailureClock, publishPause } from "./failure-clock.ts";
import { inPlace, publish, published, restate, unpublish } from "./publish.ts";
import type { RefresherTools } from "./refresher-tools.ts";
import { gatewayAtFault, newOneRejected, Stopped, sameTokenAgain } from "./refusals.ts";
import { SourceWatch } from "./source-watch.ts";
import { Supply } from "./supply.ts";
import { describeToken, type TokenStatus } from "./token-status.ts";

type Request = Omit<RenewRequest, "op" | "name" | "reason"> & { reason: RenewReason | "scheduled" };

/** A token that the gateway rejects sooner than this after its mint would be rejected again: the gateway is at fault. */
const TOO_YOUNG_TO_REJECT = 30_000;
/** A person may ask past the back-off, but not a script that says it is one. */
const MANUAL_EVERY = 5_000;
/** A token as young as this has not expired, whatever a client says of it. */
const JUST_MINTED = 5_000;

/** One token's life: when it is due, one mint at a time, one clock of failures. Only the holder of the lock has any. */
export class Refresher {
  readonly config: TokenConfig;
  readonly #tools: RefresherTools;
  readonly #stopping = new AbortController();
  #minting: Promise<RenewAnswer> | undefined;
  readonly #failures: FailureClock;
  #nextRenewal: number;
  /** The next plan is spread wide: the agent has just started, or the machine has just woken up. */
  #spread = false;
  #lastManual = Number.NEGATIVE_INFINITY;
  readonly #challenges = new Challenges();
  readonly #supply: Supply;
  /** The source, or the clock, has changed during a mint: what comes of that may be from before. */
  #changedMeanwhile = false;
  readonly #caretaker: Caretaker;
  readonly #sourceWatch: SourceWatch;

  constructor(config: TokenConfig, tools: RefresherTools) {
    this.config = config;
    this.#tools = tools;
    this.#failures = new FailureClock(tools.failures, tools.clock.now());
    this.#caretaker = new Caretaker(config, tools.clock.now(), tools.log);
    this.#supply = new Supply(config, tools.mint);
    this.#sourceWatch = new SourceWatch(tools.sourceStamp);
    this.#nextRenewal = this.#planFromDisk();
  }

  /** Begins to renew at its ticks. A fleet that starts, or wakes up, at nine must not stay in step ever after. */
  start(): void {
    this.#spread = true;
    this.#nextRenewal = this.#planFromDisk();
  }

  /** The machine has slept: what is due is due, the plan after it is spread. */
  resumed(): void {
    this.#spread = true;
  }

  /** Somebody set the wall clock by `by` milliseconds: no instant from before is worth anything now. */
  async clockSet(by: number): Promise<void> {
    const now = this.#tools.clock.now();
    this.#nextRenewal = now;
    this.#changedMeanwhile = this.#minting !== undefined;
    this.#supply.clockSet(by);
    this.#challenges.clockSet();
    this.#lastManual = Number.NEGATIVE_INFINITY;
    this.#failures.hurry(now);
    await this.#caretaker
      .write(() => restate(this.config, by))
      .catch((error) => {
        this.#tools.log.warn({ name: this.config.name }, `the expiry could not be corrected: ${error.message}`);
      });
    this.#caretaker.begin(now);
    this.#tools.wake();
  }

  /** What the source depends on (a secret's file) has changed: what failed before may work now. */
  sourceChanged(): void {
    const now = this.#tools.clock.now();
    this.#changedMeanwhile = this.#minting !== undefined;
    this.#supply.drop();
    this.#failures.hurry(now);
    this.#nextRenewal = now;
    this.#tools.wake();
  }

  /** When something is to be done next, epoch milliseconds. */
  get nextDue(): number {
    if (this.#minting) return Number.POSITIVE_INFINITY;
    return Math.max(this.#nextRenewal, this.#failures.nextTry);
  }

  /** Called at every turn of the agent's loop: renews if it is time to. Never throws; what fails is logged and kept. */
  tick(): void {
    const now = this.#tools.clock.now();
    if (!this.#minting && this.#caretaker.findsItSpoilt(now)) {
      this.#tools.log.warn({ name: this.config.name }, "somebody else removed or changed the token file; renewing");
      this.#nextRenewal = now;
    }
    // Back-off is for a source that is asked in vain: this one has something new.
    if (!this.#minting && this.#sourceWatch.changed()) this.sourceChanged();
    if (now >= this.nextDue) this.#mint({ seen: "", reason: "scheduled" }).catch(() => undefined);
  }

  /** Renews if the token is due, as cron's `freshkey renew` wants it. */
  async renewIfDue(): Promise<RenewAnswer> {
    if (this.#sourceWatch.changed()) this.sourceChanged();
    const now = this.#tools.clock.now();
    const found = inPlace(this.config);
    if (found && isUsable(found, now) && now < this.#nextRenewal) return answerOf("already-renewed", found);
    this.#failures.refuse(now);
    return this.#mint({ seen: "", reason: "scheduled" });
  }

  /**
   * Answers a client that needs another token than the one it has seen. All who ask at once share one mint.
   *
   * @throws FreshkeyError of the source; during back-off the last one, with the time of the next try.
   */
  async renew(request: Request): Promise<RenewAnswer> {
    // A challenge's claims have to be in the mint: one without them is waited for, and not taken for an answer.
    while (this.#minting) {
      if (this.#challenges.metBy(request.claims)) return this.#minting;
      await this.#minting.catch(() => undefined);
    }
    const now = this.#tools.clock.now();
    const found = inPlace(this.config);
    if (request.reason === "rejected" || request.reason === "suspect") {
      this.#tools.observe?.({ kind: "rejected", fingerprint: request.seen, reason: request.reason });
    }
    const wanted = request.reason === "manual" || this.#challenges.isNew(request.claims, now);
    if (found && isUsable(found, now) && !wanted) {
      // The one that failed is not the one that is in place: somebody else has had it renewed.
      if (request.seen !== found.fingerprint) return answerOf("already-renewed", found);
      if (request.reason === "expired" && now - found.minted < JUST_MINTED) return answerOf("already-renewed", found);
      if (request.reason !== "expired" && now - found.minted < TOO_YOUNG_TO_REJECT) this.#blameGateway(found, now);
    }
    if (request.reason === "manual" && now - this.#lastManual >= MANUAL_EVERY) this.#lastManual = now;
    else this.#failures.refuse(now);
    return this.#mint(request);
  }

  status(): TokenStatus {
    return describeToken(this.config, {
      found: published(this.config),
      failure: this.#failures.failure,
      minting: this.#minting !== undefined,
      nextRenewal: this.nextDue,
      now: this.#tools.clock.now(),
    });
  }

  /** Ends a mint that is under way; the token file stays. */
  async stop(): Promise<void> {
    this.#stopping.abort(new Stopped());
    await this.#minting?.catch(() => undefined);
    await this.#caretaker.idle();
  }

  /** The token has left the configuration: its files go with it. */
  async remove(): Promise<void> {
    await this.hand();
    await unpublish(this.config);
    this.#tools.observe?.({ kind: "removed" });
  }

  /** Another configuration takes over: its source has not failed yet. */
  async hand(): Promise<void> {
    await this.stop();
    this.#failures.end();
  }

  #mint(request: Request): Promise<RenewAnswer> {
    if (this.#minting) return this.#minting;
    const { slots, wake, clock } = this.#tools;
    this.#challenges.answer(request.claims, clock.now());
    this.#minting = slots
      .run(this.config.source, () => this.#mintAndPublish(request))
      .finally(() => {
        this.#minting = undefined;
        if (this.#changedMeanwhile) this.sourceChanged();
        wake();
      });
    return this.#minting;
  }

  async #mintAndPublish(request: Request): Promise<RenewAnswer> {
    const { clock, log, control } = this.#tools;
    try {
      const options = { claims: request.claims, signal: this.#stopping.signal };
      const renewed = request.reason === "manual" || request.claims !== undefined;
      const minted = await this.#supply.next(clock.now(), renewed, options);
      const { token, at } = minted;
      const before = inPlace(this.config);
      const own = fingerprint(token.value);
      if (before?.fingerprint === own) return this.#gotTheSame(before, request);
      const { expires, identity, credential } = token;
      const about = { fingerprint: own, expires, identity, reason: request.reason };
      if (!minted.kept) this.#tools.observe?.({ kind: "minted", ...about });
      if (before) await this.#ensureTaken(token, before, request);
      this.#supply.keep(minted);
      const publication = { token, minted: at, control, force: request.reason === "manual" };
      await this.#caretaker.write(() => publish(this.config, publication));
      this.#supply.drop();
      this.#succeeded(token, at);
      this.#tools.observe?.({ kind: "published", ...about });
      const expires_in = expires === UNKNOWN_EXPIRY ? "unknown" : formatDuration(expires - clock.now());
      log.info({ name: this.config.name, credential, fingerprint: own, expires_in, reason: request.reason }, "renewed");
      return { result: "renewed", fingerprint: own, expires: Math.floor(token.expires / 1000) };
    } catch (error) {
      throw await this.#failed(FreshkeyError.from(error, "ERR_SOURCE_FAILED"));
    }
  }

  /** A token that the gateway does not take must not replace one that it takes. What was rejected is not asked for. */
  async #ensureTaken(token: Token, before: TokenFile, { reason }: Request): Promise<void> {
    const { gatewayRejects: rejects, clock, observe } = this.#tools;
    if (!rejects || (reason !== "scheduled" && reason !== "expired") || !isUsable(before, clock.now())) return;
    const { signal } = this.#stopping;
    const rejected = (await rejects(token.value, signal)) && !(await rejects(before.value, signal));
    signal.throwIfAborted();
    if (!rejected) return;
    this.#supply.drop();
    observe?.({ kind: "refused", fingerprint: fingerprint(token.value), reason: "the gateway answered 401" });
    throw newOneRejected(this.config.name);
  }

  #succeeded(token: Token, minted: number): void {
    this.#ended();
    this.#caretaker.written(this.#tools.clock.now());
    this.#nextRenewal = this.#plan({ ...token, minted });
  }

  #ended(): void {
    const failure = this.#failures.end();
    if (!failure) return;
    const lasted = formatDuration(this.#tools.clock.now() - failure.since);
    this.#tools.log.info({ name: this.config.name, attempts: failure.attempts }, `works again after ${lasted}`);
    this.#tools.observe?.({ kind: "recovered", failure });
  }

  /** A source with a cache of its own handed out the token that is in place: no renewal, and no reason to ask at once. */
  #gotTheSame(before: TokenFile, request: Request): RenewAnswer {
    const now = this.#tools.clock.now();
    const { schedule, random } = this.#tools;
    this.#supply.drop();
    this.#nextRenewal = Math.min(nextAfterSame(before, now, random()), schedule?.next(now) ?? Number.POSITIVE_INFINITY);
    this.#ended();
    const again = formatDuration(this.#nextRenewal - now);
    this.#tools.log.debug({ name: this.config.name }, `the source handed out the same token, asked again in ${again}`);
    if (request.reason === "scheduled" || request.reason === "manual") return answerOf("already-renewed", before);
    throw sameTokenAgain(this.config.name, this.#nextRenewal - now);
  }

  async #failed(error: FreshkeyError): Promise<FreshkeyError> {
    if (this.#stopping.signal.aborted) return this.#stopping.signal.reason as Stopped;
    const { clock, random, log } = this.#tools;
    const now = clock.now();
    const failure = await this.#failures.add(error, now, random(), this.#supply.hasKept ? publishPause : undefined);
    // Whoever wanted another token still does, due or not: it is tried again until there is one.
    this.#nextRenewal = Math.min(this.#nextRenewal, now);
    const { attempts, nextTry } = failure;
    const details = { name: this.config.name, code: error.code, hint: error.hint, attempt: attempts };
    log[attempts === 1 ? "warn" : "debug"](details, `${error.message}; next try in ${formatDuration(nextTry - now)}`);
    const found = published(this.config);
    this.#tools.observe?.({ kind: "failed", failure, usable: found !== undefined && isUsable(found, now) });
    return error;
  }

  #blameGateway(found: TokenFile, now: number): never {
    const error = gatewayAtFault(this.config.name, now - found.minted);
    this.#tools.log.warn({ name: this.config.name, fingerprint: found.fingerprint }, error.message);
    this.#tools.observe?.({ kind: "refused", fingerprint: found.fingerprint, reason: "minted a moment ago" });
    throw error;
  }

  #planFromDisk(): number {
    const found = inPlace(this.config);
    return found ? this.#plan(found) : this.#tools.clock.now();
  }

  #plan(token: { minted: number; expires: number; renewAt?: number }): number {
    const { refreshBefore, every } = this.config;
    const { schedule, random } = this.#tools;
    const rules = { refreshBefore, every, cron: schedule?.next(token.minted), first: this.#spread };
    this.#spread = false;
    return nextRenewal(token, rules, random());
  }
}

function answerOf(result: RenewAnswer["result"], token: TokenFile): RenewAnswer {
  return { result, fingerprint: token.fingerprint, expires: Math.floor(token.expires / 1000) };
}
