import type { Log } from "../os/log.ts";
import { watchFiles } from "../os/watch-files.ts";
import type { Agent } from "./agent.ts";

/** Puts a good edit of the configuration in force without a restart, and notices that a secret was replaced. */
export class ConfigWatch {
  readonly #agent: Agent;
  readonly #log: Log;
  #watch: { close(): void };

  constructor(agent: Agent, log: Log) {
    this.#agent = agent;
    this.#log = log;
    this.#watch = this.#begin();
  }

  /** Reads the configuration again. One with a mistake changes nothing: it is logged, and `status` shows it. */
  async reload(): Promise<void> {
    try {
      await this.#agent.reload();
    } catch (error) {
      this.#log.error({ code: (error as { code?: string }).code }, `not reloaded: ${(error as Error).message}`);
    }
    // The new one first: of a file that both watch, the next change is still one since the last look.
    const before = this.#watch;
    this.#watch = this.#begin();
    before.close();
  }

  close(): void {
    this.#watch.close();
  }

  #begin(): { close(): void } {
    const { config, secrets } = this.#agent.files;
    return watchFiles([config, ...secrets], (path) => {
      if (path === config) void this.reload();
      else this.#agent.secretChanged(path);
    });
  }
}
