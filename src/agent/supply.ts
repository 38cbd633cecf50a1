import type { TokenConfig } from "../config/load.ts";
import { isFresh } from "../core/policy.ts";
import { type Token, UNKNOWN_EXPIRY } from "../core/token.ts";
import type { mint } from "./mint.ts";

/** A new token, and when it was asked for, epoch milliseconds. */
export interface Minted {
  readonly token: Token;
  readonly at: number;
  /** It was minted before and could not be put in place then. */
  readonly kept: boolean;
}

/** Mints, and keeps what could not be put in place: while a disk is full the provider need not be asked again. */
export class Supply {
  readonly #config: TokenConfig;
  readonly #mint: typeof mint;
  #kept: Minted | undefined;
  /** All that the clock has been set by. */
  #setBy = 0;

  constructor(config: TokenConfig, mintOne: typeof mint) {
    this.#config = config;
    this.#mint = mintOne;
  }

  /** Whether the next one needs no mint. */
  get hasKept(): boolean {
    return this.#kept !== undefined;
  }

  /**
   * @param renewed whoever asks wants another one than what was minted before: `--force`, or other claims.
   * @throws FreshkeyError of the source.
   */
  async next(now: number, renewed: boolean, options: { claims: string | undefined; signal: AbortSignal }) {
    const kept = this.#kept;
    if (kept && !renewed && isFresh({ ...kept.token, minted: kept.at }, now)) return kept;
    const setBefore = this.#setBy;
    const token = await this.#mint(this.#config, { ...options, now });
    options.signal.throwIfAborted();
    this.#kept = undefined;
    return bySetClock({ token, at: now, kept: false }, this.#setBy - setBefore);
  }

  /** The clock was set by `by` milliseconds: what was measured by the old one is of no worth. */
  clockSet(by: number): void {
    this.#setBy += by;
    this.#kept = undefined;
  }

  /** It is not in place yet. */
  keep(minted: Minted): void {
    this.#kept = { ...minted, kept: true };
  }

  /** It is in place, or of no worth any more. */
  drop(): void {
    this.#kept = undefined;
  }
}

/** The clock was set during the mint: an expiry that is too early is on the safe side, one that is too late is not. */
function bySetClock(minted: Minted, by: number): Minted {
  if (by === 0) return minted;
  const { token, at } = minted;
  const expires = token.expires === UNKNOWN_EXPIRY ? UNKNOWN_EXPIRY : token.expires + Math.min(0, by);
  return { ...minted, token: { ...token, expires }, at: at + by };
}
