import type { Failure } from "../core/state.ts";

/** What happens to a token, for whoever keeps an account of it. No event holds the token. Instants: epoch milliseconds. */
export type TokenEvent =
  | {
      readonly kind: "minted" | "published";
      readonly fingerprint: string;
      readonly expires: number;
      readonly identity: string | undefined;
      readonly reason: string;
    }
  /** A client reported that the gateway does not take the token. */
  | { readonly kind: "rejected"; readonly fingerprint: string; readonly reason: string }
  /** Another token was wanted and not minted, since it would fare no better; or minted, and the gateway does not take it. */
  | { readonly kind: "refused"; readonly fingerprint: string; readonly reason: string }
  /** `usable`: the token that is in place is still good. */
  | { readonly kind: "failed"; readonly failure: Failure; readonly usable: boolean }
  /** The first success after `failure`. */
  | { readonly kind: "recovered"; readonly failure: Failure }
  | { readonly kind: "removed" };

export type Observer = (token: { readonly name: string; readonly source: string }, event: TokenEvent) => void;
