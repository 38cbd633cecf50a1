import type { ErrorRecord } from "../core/errors.ts";
import type { Token } from "../core/token.ts";

/** What every source is told beside its own options. */
export interface MintRequest {
  /** The token's name: for messages only. */
  readonly name: string;
  /** `claims` of a gateway's challenge (OpenID Connect 5.5; continuous access evaluation), JSON text. */
  readonly claims?: string | undefined;
  /** Milliseconds until the whole mint is given up. A source sets its SDK's own time-outs below it, and never retries. */
  readonly timeout: number;
  /** Ends the mint: the deadline has passed or the agent stops. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * A place where tokens come from. `mint` gets a *new* token, never one out of a cache of its own, or throws a
 * FreshkeyError that says which class of failure it is. It loads its SDK only when it is called.
 */
export type Mint<Options> = (options: Options, request: MintRequest) => Promise<Token>;

/** The one JSON line that a mint process answers with. */
export type MintAnswer = { ok: true; token: Token } | { ok: false; error: ErrorRecord };
