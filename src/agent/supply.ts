import type { TokenConfig } from "../config/load.ts";
import { isFresh } from "../core/policy.ts";
import type { Token } from "../core/token.ts";
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

  constructor(config: TokenConfig, mintOne: typeof mint) {
    this.#config = config;
    this.#mint = mintOne;
  }

  /** Whether the next one needs no mint. */
  get hasKept(): boolean {
    return this.#kept !== undefined;
  }

  /** @throws FreshkeyError of the source. */
  async next(now: number, options: { claims: string | undefined; signal: AbortSignal }): Promise<Minted> {
    const kept = this.#kept;
    if (kept && options.claims === undefined && isFresh({ ...kept.token, minted: kept.at }, now)) return kept;
    this.#kept = undefined;
    const token = await this.#mint(this.#config, { ...options, now });
    options.signal.throwIfAborted();
    return { token, at: now, kept: false };
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
