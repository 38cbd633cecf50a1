import { isDeepStrictEqual } from "node:util";
import type { TokenConfig } from "../config/load.ts";
import type { Log } from "../os/log.ts";
import { stampOf, type TokenFile, type TokenJson, tokenJsonPath } from "../reader/token-file.ts";
import { fingerprintInPlace, published, putBack, touch } from "./publish.ts";

/** The token's files are looked at this often, in case somebody removed or changed them. */
const LOOK_EVERY = 5_000;
/** Below the ten days after which systemd-tmpfiles removes, and macOS's three. */
const TOUCH_EVERY = 6 * 3_600_000;

/** Looks after a token's two files between two renewals. Instants are epoch milliseconds. */
export class Caretaker {
  readonly #config: TokenConfig;
  readonly #log: Pick<Log, "warn">;
  /** What is known to be in place. */
  #left: TokenFile | undefined;
  #stamp = "";
  #mending = false;
  #writing: Promise<unknown> = Promise.resolve();
  #lastLook = 0;
  #lastTouch = 0;

  constructor(config: TokenConfig, now: number, log: Pick<Log, "warn">) {
    this.#config = config;
    this.#log = log;
    this.begin(now);
  }

  /** The files are accepted as they are found. Also when the clock has been set. */
  begin(now: number): void {
    this.#lastLook = this.#lastTouch = now;
    this.#stamp = this.#stampOfBoth();
    this.#left = published(this.#config);
  }

  /** A token has just been put in place. Should it be gone already, the next look finds that it was there. */
  written(now: number): void {
    this.begin(now);
    if (!this.#left?.json) this.#stamp = "as written";
  }

  /**
   * Whether the token is not in place any more as it was left, so that a new one is needed. Where only token.json was
   * removed or changed, that is written again: the token is as good as before. Keeps both from looking old.
   */
  findsItSpoilt(now: number): boolean {
    if (this.#mending || now - this.#lastLook < LOOK_EVERY) return false;
    this.#lastLook = now;
    const before = this.#stamp;
    this.#stamp = this.#stampOfBoth();
    if (this.#stamp !== before) return this.#isSpoilt(now);
    if (now - this.#lastTouch >= TOUCH_EVERY) {
      touch(this.#config, now);
      this.begin(now);
    }
    return false;
  }

  /** Runs what writes to the token's files, once nothing else does. */
  write<T>(task: () => Promise<T>): Promise<T> {
    const run = this.#writing.then(task);
    this.#writing = run.catch(() => undefined);
    return run;
  }

  /** Resolves once nothing is being written any more. */
  async idle(): Promise<void> {
    await this.#writing;
  }

  #isSpoilt(now: number): boolean {
    const found = published(this.#config);
    const { json, fingerprint } = this.#left ?? {};
    if (!json) return !found?.matches;
    if (fingerprintInPlace(this.#config) !== fingerprint) return true;
    if (isDeepStrictEqual(whatReadersGoBy(found?.json), whatReadersGoBy(json))) return false;
    this.#log.warn({ name: this.#config.name }, "somebody else removed or changed token.json; it is written again");
    this.#mending = true;
    this.write(() => putBack(this.#config, json))
      .then(() => this.begin(now))
      .catch(() => {
        this.#stamp = "still to be written";
      })
      .finally(() => {
        this.#mending = false;
      });
    return false;
  }

  #stampOfBoth(): string {
    return `${stampOf(this.#config.path)} ${stampOf(tokenJsonPath(this.#config.path))}`;
  }
}

/** All but `minted`, which says nothing of whether, where and how long the token may be sent. */
function whatReadersGoBy(json: TokenJson | undefined): object {
  const { minted: _minted, ...others } = json ?? {};
  return others;
}
