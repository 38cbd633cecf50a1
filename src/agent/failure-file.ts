import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { FreshkeyError } from "../core/errors.ts";
import type { Failure } from "../core/state.ts";
import { replaceFiles } from "../os/atomic-file.ts";

/**
 * Where a token's run of failures is kept, so that it outlives the process that met it: without an agent every
 * `freshkey token` is a process of its own, and a provider that is down must not meet each of them afresh.
 */
export class FailureFile {
  readonly #directory: string;
  readonly #name: string;

  /** `directory` is the agent's own; only the holder of the lock writes. */
  constructor(directory: string, token: string) {
    this.#directory = directory;
    this.#name = `${token}.failure.json`;
  }

  /** The failure that has not ended yet, if there is one. A file that cannot be understood counts for none. */
  read(): Failure | undefined {
    try {
      const failure = JSON.parse(readFileSync(this.#path, "utf8")) as Failure;
      const instants = [failure.since, failure.nextTry, failure.notBefore, failure.attempts];
      // A code of another version becomes one that is known here.
      const error = FreshkeyError.fromJSON(failure.error).toJSON();
      return instants.every(Number.isFinite) ? { ...failure, error } : undefined;
    } catch {
      return undefined;
    }
  }

  /** Best effort: on a full disk the failure is remembered in memory alone. */
  async write(failure: Failure): Promise<void> {
    await replaceFiles(this.#directory, [{ name: this.#name, data: `${JSON.stringify(failure)}\n` }]).catch(
      () => undefined,
    );
  }

  clear(): void {
    rmSync(this.#path, { force: true });
  }

  get #path(): string {
    return join(this.#directory, this.#name);
  }
}
