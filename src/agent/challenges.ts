/** A challenge that changes with every answer must not make a mint of every request: one of its own in so long. */
const NEW_ONE_EVERY = 30_000;

/** Claims challenges (OpenID Connect, continuous access evaluation) of the gateway, and the mints that were to answer them. */
export class Challenges {
  /** Of the last mint, which may have had none. */
  #claims: string | undefined;
  #lastAt = Number.NEGATIVE_INFINITY;

  /** Whether the last mint, also one that is under way, is an answer to these claims, or none are asked for. */
  metBy(claims: string | undefined): boolean {
    return claims === undefined || claims === this.#claims;
  }

  /** Whether it takes a mint to answer, whatever token is in place. `now` is epoch milliseconds. */
  isNew(claims: string | undefined, now: number): boolean {
    return !this.metBy(claims) && now - this.#lastAt >= NEW_ONE_EVERY;
  }

  /** A mint begins with these claims. */
  answer(claims: string | undefined, now: number): void {
    this.#claims = claims;
    if (claims !== undefined) this.#lastAt = now;
  }

  /** The clock was set: instants from before say nothing. */
  clockSet(): void {
    this.#lastAt = Number.NEGATIVE_INFINITY;
  }
}
