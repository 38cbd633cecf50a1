import { EventEmitter } from "node:events";
import { resolve } from "node:path";
import { formatDuration } from "../core/duration.ts";
import { FreshkeyError } from "../core/errors.ts";
import { fingerprint } from "../core/token.ts";
import { abortable, deadline, sleep } from "../os/clock.ts";
import { NoAgent } from "../os/control-client.ts";
import { askInTime, isKept, type Need, type Renew } from "./ask.ts";
import { isUnchanged, isUsable, readTokenFile, type TokenFile } from "./token-file.ts";
import { watchToken } from "./watch.ts";

export interface KeyFileOptions {
  /** How long `get()` may wait for a fresh token, in milliseconds. 4,000 unless told. */
  readonly wait?: number;
  /** How much life a token must have left, in milliseconds: 30 s, at most a tenth of its lifetime, at least 2 s unless told. */
  readonly minValidity?: number;
  /**
   * What to do where no agent runs: gets a new token into the file, or throws. Without it the reader only waits for
   * whoever keeps the file fresh. The request has the `reason`: `expired`, or `rejected` for a 401.
   */
  readonly renew?: Renew;
  /** Epoch milliseconds; for tests. */
  readonly now?: () => number;
}

export interface GetOptions {
  /** Ends the wait of this caller alone: it is rejected with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** The token that the gateway answered with a 401, or its fingerprint. It is not given again. */
  readonly rejected?: string | undefined;
  /** With `rejected`: the `claims` of the gateway's challenge, JSON text (OpenID Connect Core 1.0, section 5.5). */
  readonly claims?: string | undefined;
}

/** A token that was put in the place of another. It never holds the token: ask `get()` for it. */
export interface Rotation {
  readonly fingerprint: string;
  /** Epoch milliseconds, 0 where unknown. */
  readonly expires: number;
}

/** What names a token without being one. */
const FINGERPRINT = /^[0-9a-f]{12}$/;
const DEFAULT_WAIT = 4_000;
/** Between the writer's two renames the files don't match: microseconds, unless it was killed just there. */
const MISMATCH_PAUSE = 5;
const MISMATCH_LOOKS = 20;
/** While waiting the file is looked at this often even if no event arrives. */
const LOOK_EVERY = 200;
/** How long whoever was asked has to say why it gave up. */
const LAST_WORDS = 100;

/**
 * Opens the key file at `path` (default: `COPILOT_PROVIDER_API_KEY_FILE`) for reading before every request.
 *
 *     const key = openKeyFile();
 *     const response = await fetch(url, { headers: { Authorization: `Bearer ${await key.get()}` } });
 *
 * Nothing is read before the first `get()`. The file may be one that freshkey keeps, or a bare token that something
 * else keeps fresh.
 *
 * @throws FreshkeyError `ERR_USAGE` if there is no path.
 */
export function openKeyFile(
  path: string | undefined = process.env.COPILOT_PROVIDER_API_KEY_FILE,
  options: KeyFileOptions = {},
) {
  if (!path) {
    throw new FreshkeyError("ERR_USAGE", "no key file is named", {
      hint: "set COPILOT_PROVIDER_API_KEY_FILE to the token file, or pass its path",
    });
  }
  return new KeyFile(resolve(path), options);
}

/**
 * A key file that is read again before each request. Emits `rotated` with a `Rotation` when another token has been
 * put in place; listening starts a watch that does not keep the process alive.
 */
export class KeyFile extends EventEmitter<{ rotated: [Rotation]; newListener: [event: string | symbol] }> {
  readonly path: string;
  readonly #options: KeyFileOptions;
  readonly #now: () => number;
  #known: TokenFile | undefined;
  /** Of the last look at the file: empty where there was no token, undefined before the first look. */
  #seen: string | undefined;
  /** Those under way, by the fingerprint of the token that was rejected; "" where none was. */
  readonly #renewals = new Map<string, Promise<TokenFile>>();
  #watch: { close(): void } | undefined;
  readonly #closing = new AbortController();

  constructor(path: string, options: KeyFileOptions) {
    super();
    this.path = path;
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.on("newListener", (event) => {
      if (event === "rotated") this.#startWatch();
    });
  }

  /**
   * A token that is good to send now. As long as the file is unchanged and the token has life left, this costs one
   * `stat`. Otherwise the file is read again; where what it holds has (nearly) expired, the agent is asked for a new
   * one and waited for, `wait` milliseconds at most.
   *
   *     const token = await key.get({ signal: AbortSignal.timeout(2_000) });
   *
   * After a 401, `get({ rejected: token })` gives another one: what is in the file by now, else what the agent has been
   * made to mint. All who report the same token share one request. A plain `get()` waits with them, and falls back to
   * what there is: one gateway's 401 need not be another's.
   *
   * @throws FreshkeyError that says what failed and what to do: never an expired or the rejected token as if it were
   *   good. `ERR_BACKOFF` if the token was rejected so soon after its mint that another would be, too. What `signal`
   *   aborts with, where it does.
   */
  get(options?: GetOptions): Promise<string> {
    // Nearly every request goes this way: nothing is done here that a `stat` does not need.
    const known = options === undefined ? this.getSync() : undefined;
    return known === undefined ? this.read(options).then(({ value }) => value) : Promise.resolve(known);
  }

  /**
   * The token in memory as long as it is good to send, for callers that cannot wait; undefined where the file has
   * changed, the token has (nearly) expired or is being replaced after a 401, or nothing was read yet. Costs one `stat`.
   *
   *     const token = key.getSync() ?? (await key.get());
   */
  getSync(): string | undefined {
    const known = this.#unchanged();
    return known && !this.#renewals.has(known.fingerprint) ? known.value : undefined;
  }

  /** Like `get()`, with what is known of the token: its fingerprint and times. */
  async read(options: GetOptions = {}): Promise<TokenFile> {
    const { signal, rejected, claims } = options;
    signal?.throwIfAborted();
    const current = await this.#current();
    if (rejected !== undefined) return this.#other(current, { rejected, claims, signal });
    if (!current || !this.#isFresh(current)) {
      const need = { seen: current?.fingerprint ?? "", reason: "expired" } as const;
      return abortable(this.#shared("", need), signal);
    }
    const replacement = this.#renewals.get(current.fingerprint);
    if (!replacement) return current;
    const other = replacement.catch((error) => {
      if (this.#isFresh(current)) return current;
      throw error;
    });
    return abortable(other, signal);
  }

  /** Ends the watch; a `get()` that waits is rejected. */
  async close(): Promise<void> {
    this.#closing.abort(new FreshkeyError("ERR_DEADLINE", "the key file was closed"));
    this.#watch?.close();
    this.removeAllListeners();
  }

  #isFresh(token: TokenFile): boolean {
    return isUsable(token, this.#now(), this.#options.minValidity);
  }

  /** Another token than the rejected one. */
  async #other(
    current: TokenFile | undefined,
    { rejected, claims, signal }: GetOptions & { rejected: string },
  ): Promise<TokenFile> {
    const unwanted = FINGERPRINT.test(rejected) ? rejected : fingerprint(rejected);
    if (current && current.fingerprint !== unwanted && this.#isFresh(current)) return current;
    const need = { seen: unwanted, reason: "rejected", ...(claims !== undefined && { claims }) } as const;
    return abortable(this.#shared(unwanted, need), signal);
  }

  /** All who ask meanwhile wait for the same renewal. */
  #shared(unwanted: string, need: Need): Promise<TokenFile> {
    let renewal = this.#renewals.get(unwanted);
    if (!renewal) {
      renewal = this.#renew(unwanted, need).finally(() => this.#renewals.delete(unwanted));
      this.#renewals.set(unwanted, renewal);
    }
    return renewal;
  }

  /** Only a fresh token is taken from memory: of a stale one token.json may say more by now. */
  #unchanged(): TokenFile | undefined {
    const known = this.#known;
    return known && isUnchanged(this.path, known) && this.#isFresh(known) ? known : undefined;
  }

  /** The token in the file, out of memory as long as the file is the same. */
  async #current(): Promise<TokenFile | undefined> {
    for (let look = 1; ; look++) {
      const known = this.#unchanged();
      if (known) return known;
      const read = readTokenFile(this.path);
      if (read === undefined || read.matches || look >= MISMATCH_LOOKS) return this.#remember(read);
      await sleep(MISMATCH_PAUSE, this.#closing.signal);
    }
  }

  #remember(read: TokenFile | undefined): TokenFile | undefined {
    const before = this.#seen;
    this.#known = read;
    this.#seen = read?.fingerprint ?? "";
    if (read && before !== undefined && before !== read.fingerprint) {
      this.emit("rotated", { fingerprint: read.fingerprint, expires: read.expires });
    }
    return read;
  }

  #startWatch(): void {
    if (this.#watch || this.#closing.signal.aborted) return;
    // What cannot be read now is for `get()` to report; the next event brings the next look.
    const look = () => void this.#current().catch(() => undefined);
    // The token of now is what a rotation is told from.
    look();
    this.#watch = watchToken(this.path, look);
  }

  async #renew(unwanted: string, need: Need): Promise<TokenFile> {
    const wait = this.#options.wait ?? DEFAULT_WAIT;
    const finished = new AbortController();
    const { signal, end } = deadline(wait, this.#closing.signal, finished.signal);
    let answered = false;
    let failed: unknown;
    // Whoever keeps the file may write it any time: that ends the wait as well as the agent's answer does.
    const asked = askInTime(this.path, need, { wait, signal, renew: this.#options.renew })
      .catch((error) => {
        failed = error;
      })
      .finally(() => {
        answered = true;
      });
    try {
      for (;;) {
        const current = await this.#current();
        if (current && current.fingerprint !== unwanted && this.#isFresh(current)) return current;
        if (this.#closing.signal.aborted) throw this.#closing.signal.reason;
        // Whoever was asked gives up on the same signal, and may say more than that the time is over.
        if (signal.aborted) await Promise.race([asked, sleep(LAST_WORDS)]);
        if (failed !== undefined && failed !== signal.reason && !(failed instanceof NoAgent)) throw failed;
        if (signal.aborted) throw this.#nothing(current, { unwanted, wait, failed });
        const pause = sleep(LOOK_EVERY, signal).catch(() => undefined);
        await Promise.race(answered ? [pause] : [pause, asked]);
      }
    } finally {
      finished.abort();
      end();
    }
  }

  /** Nothing fresh came in time: what is there instead, and whose turn it is. */
  #nothing(current: TokenFile | undefined, about: { unwanted: string; wait: number; failed: unknown }): FreshkeyError {
    const { unwanted, wait, failed } = about;
    const nobody = failed instanceof NoAgent;
    const hint = !isKept(this.path, current?.json)
      ? "see to what writes that file; freshkey does not keep it"
      : nobody
        ? "no agent runs: start one with `freshkey agent`, or see `freshkey status`"
        : "see what the agent is doing: freshkey status";
    const rejected = current?.fingerprint === unwanted;
    const missing = current ? "ERR_TOKEN_EXPIRED" : "ERR_TOKEN_MISSING";
    const state = current && (rejected ? "was rejected by the gateway" : this.#age(current));
    const what = current ? `the token in ${this.path} ${state}` : `there is no token in ${this.path}`;
    const message = `${what}, and ${formatDuration(wait)} brought ${current ? "no other" : "none"}`;
    return new FreshkeyError(nobody && !rejected ? missing : "ERR_DEADLINE", message, { hint, cause: failed });
  }

  #age(token: TokenFile): string {
    const left = token.expires - this.#now();
    return left > 0 ? `expires in ${formatDuration(left)}` : `expired ${formatDuration(-left)} ago`;
  }
}
