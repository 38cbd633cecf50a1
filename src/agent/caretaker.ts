import type { TokenConfig } from "../config/load.ts";
import { stampOf } from "../reader/token-file.ts";
import { published, touch } from "./publish.ts";

/** The token file is looked at this often, in case somebody removed or replaced it. */
const LOOK_EVERY = 5_000;
/** Below the ten days after which systemd-tmpfiles removes, and macOS's three. */
const TOUCH_EVERY = 6 * 3_600_000;

/** Looks after a token file between two renewals. Instants are epoch milliseconds. */
export class Caretaker {
  readonly #config: TokenConfig;
  #stamp: string | undefined;
  #lastLook = 0;
  #lastTouch = 0;

  constructor(config: TokenConfig, now: number) {
    this.#config = config;
    this.begin(now);
  }

  /** The file is accepted as it is found. Also when the clock has been set. */
  begin(now: number): void {
    this.#lastLook = this.#lastTouch = now;
    this.#stamp = stampOf(this.#config.path);
  }

  /** A token has just been put in place. Should it be gone already, the next look finds that it was there. */
  written(now: number): void {
    this.begin(now);
    this.#stamp ??= "gone";
  }

  /** Whether the token is not in place any more as it was left; keeps its files from looking old. */
  findsItSpoilt(now: number): boolean {
    if (now - this.#lastLook < LOOK_EVERY) return false;
    this.#lastLook = now;
    const before = this.#stamp;
    this.#stamp = stampOf(this.#config.path);
    if (this.#stamp !== before) return !published(this.#config)?.matches;
    if (now - this.#lastTouch >= TOUCH_EVERY) {
      touch(this.#config, now);
      this.begin(now);
    }
    return false;
  }
}
