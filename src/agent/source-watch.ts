/** Notices that a source has another token to give, where one look (`stamp`) can tell. */
export class SourceWatch {
  readonly #stamp: (() => string | undefined) | undefined;
  #seen: string | undefined;

  constructor(stamp: (() => string | undefined) | undefined) {
    this.#stamp = stamp;
  }

  /** Also true at the first look: nobody knows what has been put there since the published token was. */
  changed(): boolean {
    const stamp = this.#stamp?.();
    // What is gone for a moment, while it is replaced, is no news.
    if (stamp === undefined || stamp === this.#seen) return false;
    this.#seen = stamp;
    return true;
  }
}
