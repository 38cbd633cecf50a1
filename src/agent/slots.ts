const IN_ALL = 16;
const PER_SOURCE = 4;
/** A mint that takes longer gives its place to others: a source that hangs must not delay the rest. */
const PLACE_KEPT = 5_000;

/** How many mints may run at once: sixteen, four of one source. Whoever comes later waits for a place, in turn. */
export class Slots {
  readonly #running = new Map<string, number>();
  readonly #waiting: { source: string; start: () => void }[] = [];
  #total = 0;

  async run<T>(source: string, task: () => Promise<T>): Promise<T> {
    await this.#enter(source);
    let inside = true;
    const leave = () => {
      if (inside) this.#leave(source);
      inside = false;
    };
    const timer = setTimeout(leave, PLACE_KEPT);
    try {
      return await task();
    } finally {
      clearTimeout(timer);
      leave();
    }
  }

  #enter(source: string): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push({ source, start: resolve });
      this.#admit();
    });
  }

  #leave(source: string): void {
    this.#total--;
    this.#running.set(source, this.#count(source) - 1);
    this.#admit();
  }

  #admit(): void {
    for (let i = 0; i < this.#waiting.length && this.#total < IN_ALL; ) {
      const next = this.#waiting[i]!;
      if (this.#count(next.source) >= PER_SOURCE) {
        i++;
        continue;
      }
      this.#waiting.splice(i, 1);
      this.#total++;
      this.#running.set(next.source, this.#count(next.source) + 1);
      next.start();
    }
  }

  #count(source: string): number {
    return this.#running.get(source) ?? 0;
  }
}
