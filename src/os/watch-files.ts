import { unwatchFile, watchFile } from "node:fs";

/** By `stat` and not by events: it sees a file that is replaced, made anew, or on another machine's disk just as well. */
const LOOK_EVERY = 500;

/** Calls `changed` with the path of a file within a second after it was changed, replaced, made or removed. */
export function watchFiles(paths: Iterable<string>, changed: (path: string) => void): { close(): void } {
  const watched = [...new Set(paths)].map((path) => {
    const listener = (now: { mtimeMs: number; ino: number }, before: { mtimeMs: number; ino: number }) => {
      if (now.mtimeMs !== before.mtimeMs || now.ino !== before.ino) changed(path);
    };
    watchFile(path, { interval: LOOK_EVERY, persistent: false }, listener);
    return () => unwatchFile(path, listener);
  });
  return {
    close() {
      for (const stop of watched) stop();
    },
  };
}
