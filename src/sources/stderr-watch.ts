/** What the programs that an SDK runs say on stderr: where the SDK makes a sentence of its own of it, the reason is lost. */
import type { ChildProcess } from "node:child_process";
import { subscribe, unsubscribe } from "node:diagnostics_channel";

/** Characters. What went wrong is said at the end; nobody needs more of it. */
const KEPT = 8 * 1024;

export interface StderrWatch {
  /** The end of what was written since the watching began. Of foreign origin: mask it before anybody sees it. */
  readonly said: string;
  /** Ends the watching. */
  close(): void;
}

/** Watches the standard error of every program that this process starts from now on. */
export function watchStderr(): StderrWatch {
  let said = "";
  const started = (message: unknown) => {
    const { process: child } = message as { process: ChildProcess };
    // The message comes before the program's pipes are there.
    queueMicrotask(() =>
      child.stderr?.on("data", (chunk: Buffer | string) => {
        said = (said + String(chunk)).slice(-KEPT);
      }),
    );
  };
  subscribe("child_process", started);
  return {
    get said() {
      return said;
    },
    close: () => unsubscribe("child_process", started),
  };
}
