import { EventEmitter } from "node:events";
import { basename, dirname, join, resolve } from "node:path";
import { formatDuration } from "../core/duration.ts";
import { FreshkeyError } from "../core/errors.ts";
import { abortable, deadline, sleep } from "../os/clock.ts";
import { askAgent, NoAgent, type RenewRequest } from "../os/control-client.ts";
import { unsafeDirectory } from "../os/paths.ts";
import { isUsable, readTokenFile, readTokenJson, stampOf, type TokenFile } from "./token-file.ts";
import { watchToken } from "./watch.ts";

export interface KeyFileOptions {
  /** How long `get()` may wait for a fresh token, in milliseconds. 4,000 unless told. */
  readonly wait?: number;
  /** How much life a token must have left, in milliseconds: 30 s, at most a tenth of its lifetime, at least 2 s unless told. */
  readonly minValidity?: number;
  /**
   * What to do where no agent runs: gets a new token into the file, or throws. Without it the reader only waits for
   * whoever keeps the file fresh.
   */
  readonly renew?: (
    request: Omit<RenewRequest, "op">,
    options: { timeout: number; signal: AbortSignal },
  ) => Promise<unknown>;
  /** Epoch milliseconds; for tests. */
  readonly now?: () => number;
}

/** A token that was put in the place of another. It never holds the token: ask `get()` for it. */
export interface Rotation {
  readonly fingerprint: string;
  /** Epoch milliseconds, 0 where unknown. */
  readonly expires: number;
}

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
  #renewal: Promise<TokenFile> | undefined;
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
   * @throws FreshkeyError that says what failed and what to do: never an expired token as if it were good. What
   *   `signal` aborts with, where it does.
   */
  async get(options: { signal?: AbortSignal } = {}): Promise<string> {
    const { value } = await this.read(options);
    return value;
  }

  /** Like `get()`, with what is known of the token: its fingerprint and times. */
  async read(options: { signal?: AbortSignal } = {}): Promise<TokenFile> {
    options.signal?.throwIfAborted();
    const current = await this.#current();
    if (current && this.#isFresh(current)) return current;
    // All who ask meanwhile wait for the same renewal.
    this.#renewal ??= this.#renew(current).finally(() => {
      this.#renewal = undefined;
    });
    return abortable(this.#renewal, options.signal);
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

  /** The token in the file, out of memory as long as the file is the same. */
  async #current(): Promise<TokenFile | undefined> {
    for (let look = 1; ; look++) {
      const known = this.#known;
      // Only a fresh token is taken from memory: of a stale one token.json may say more by now.
      if (known && known.stamp === stampOf(this.path) && this.#isFresh(known)) return known;
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

  async #renew(stale: TokenFile | undefined): Promise<TokenFile> {
    const wait = this.#options.wait ?? DEFAULT_WAIT;
    const finished = new AbortController();
    const { signal, end } = deadline(wait, this.#closing.signal, finished.signal);
    let answered = false;
    let failed: unknown;
    // Whoever keeps the file may write it any time: that ends the wait as well as the agent's answer does.
    const asked = this.#askInTime(stale, wait, signal)
      .catch((error) => {
        failed = error;
      })
      .finally(() => {
        answered = true;
      });
    try {
      for (;;) {
        const current = await this.#current();
        if (current && this.#isFresh(current)) return current;
        if (this.#closing.signal.aborted) throw this.#closing.signal.reason;
        // Whoever was asked gives up on the same signal, and may say more than that the time is over.
        if (signal.aborted) await Promise.race([asked, sleep(LAST_WORDS)]);
        if (failed !== undefined && failed !== signal.reason && !(failed instanceof NoAgent)) throw failed;
        if (signal.aborted) throw this.#nothing(current, wait, failed);
        const pause = sleep(LOOK_EVERY, signal).catch(() => undefined);
        await Promise.race(answered ? [pause] : [pause, asked]);
      }
    } finally {
      finished.abort();
      end();
    }
  }

  /** Asks; and where the answer is that a source failed lately and is tried again in time, asks again then. */
  async #askInTime(stale: TokenFile | undefined, wait: number, signal: AbortSignal): Promise<void> {
    const end = performance.now() + wait;
    let last: FreshkeyError | undefined;
    for (;;) {
      try {
        return await this.#ask(stale, Math.max(1, Math.round(end - performance.now())), signal);
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

  /** Has the token renewed: by the agent, else by the function that the caller passed in. */
  async #ask(stale: TokenFile | undefined, timeout: number, signal: AbortSignal): Promise<void> {
    const json = stale?.json ?? readTokenJson(this.path);
    const name = json?.name ?? basename(dirname(this.path));
    const request = { name, seen: stale?.fingerprint ?? "", reason: "expired" as const };
    try {
      const control = json?.control || usualControl(this.path);
      // Beside a bare token there may be anybody's directory of that name.
      if (!isSafeDirectory(dirname(control))) throw new NoAgent(`no agent on ${control}`);
      // The signal ends it in time; its own time-out is for who asks without one.
      await askAgent(control, { op: "renew", ...request }, { timeout: timeout + LOOK_EVERY, signal });
    } catch (error) {
      if (!(error instanceof NoAgent) || !this.#options.renew) throw error;
      await this.#options.renew(request, { timeout, signal });
    }
  }

  /** Nothing fresh came in time: what is there instead, and whose turn it is. */
  #nothing(current: TokenFile | undefined, wait: number, failed: unknown): FreshkeyError {
    const kept = current?.json !== undefined || isSafeDirectory(dirname(usualControl(this.path)));
    const nobody = failed instanceof NoAgent;
    const hint = !kept
      ? "see to what writes that file; freshkey does not keep it"
      : nobody
        ? "no agent runs: start one with `freshkey agent`, or see `freshkey status`"
        : "see what the agent is doing: freshkey status";
    const code = !nobody ? "ERR_DEADLINE" : current ? "ERR_TOKEN_EXPIRED" : "ERR_TOKEN_MISSING";
    const what = current ? `the token in ${this.path} ${this.#age(current)}` : `there is no token in ${this.path}`;
    const message = `${what}, and ${formatDuration(wait)} brought ${current ? "no other" : "none"}`;
    return new FreshkeyError(code, message, { hint, cause: failed });
  }

  #age(token: TokenFile): string {
    const left = token.expires - this.#now();
    return left > 0 ? `expires in ${formatDuration(left)}` : `expired ${formatDuration(-left)} ago`;
  }
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
