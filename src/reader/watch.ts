import { statSync } from "node:fs";
import { dirname } from "node:path";

/** How long a directory that is not there (yet, or any more) is left alone before it is looked for again. */
const LOOK_AGAIN = 1_000;

/**
 * Calls `changed` soon after something happens in the token's directory. It is a hint and no more: an event may be
 * late, doubled or lost (a network file system, inotify used up), so whoever is called looks at the file itself.
 *
 * chokidar watches the directory and not the file, since a rename replaces what a watch on the file holds on to; and
 * never the directory above, where every other token's events would arrive as well.
 */
export function watchToken(path: string, changed: () => void, load = () => import("chokidar")): { close(): void } {
  const directory = dirname(path);
  let closed = false;
  let timer: NodeJS.Timeout | undefined;
  let stop: (() => void) | undefined;

  const start = async () => {
    timer = undefined;
    if (closed) return;
    if (!isDirectory(directory)) return again();
    const { watch } = await load();
    if (closed) return;
    const watcher = watch(directory, { depth: 0, ignoreInitial: true, persistent: false });
    stop = () => {
      stop = undefined;
      void watcher.close();
    };
    watcher.on("error", () => {
      stop?.();
      again();
    });
    watcher.on("all", (event, subject) => {
      if (event === "unlinkDir" && subject === directory) {
        stop?.();
        again();
      }
      changed();
    });
    // What happened before the watch was in place sends no event.
    watcher.on("ready", changed);
  };
  // Nothing rests on the watch, so nothing may fail with it: no permission, no chokidar where only the reader was copied.
  const begin = () => void start().catch(again);
  const again = () => {
    timer ??= setTimeout(begin, LOOK_AGAIN).unref();
  };
  begin();
  return {
    close() {
      closed = true;
      clearTimeout(timer);
      stop?.();
    },
  };
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}
