import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { join } from "node:path";
import { errno, FreshkeyError } from "../core/errors.ts";
import { sleep } from "./clock.ts";

/**
 * The one lock of a runtime directory: a listening Unix socket `lock.XXXX`. The kernel holds it, so it ends with its
 * process, however that ends, and stays with one that is suspended.
 *
 * A socket's path alone is no lock: "connection refused, so unlink and bind" lets two processes through, since the
 * other may have bound between the two steps. Here every contender listens on a path of its own, whose name is never
 * used again, and holds the lock only if then nobody else's path answers and its own is still there. Only a holder
 * removes paths, those that did not answer it. So of two contenders whoever looks last sees the other: both may give
 * up, never do both win.
 */
export interface Lock {
  /** Whether the lock's path is still there: without it (somebody emptied the directory) others no longer see it. */
  holds(): boolean;
  release(): Promise<void>;
}

/** sun_path holds 104 bytes on macOS, with the closing NUL. */
const LONGEST_PATH = 103;

/**
 * Takes the lock of `directory`.
 *
 * @returns undefined if somebody else has it, or is just taking it.
 * @throws FreshkeyError `ERR_RUN_DIRECTORY` if no socket can be made there.
 */
export async function acquireLock(
  directory: string,
  options: { random?: () => number; signal?: AbortSignal | undefined } = {},
): Promise<Lock | undefined> {
  for (;;) {
    options.signal?.throwIfAborted();
    if (await lockIsHeld(directory)) return undefined;
    const own = join(directory, `lock.${randomBytes(6).toString("hex")}`);
    const close = await listen(own);
    const others = lockPaths(directory).filter((path) => path !== own);
    if (!(await somebodyAnswers(others)) && existsSync(own)) {
      for (const dead of others) rmSync(dead, { force: true });
      return { holds: () => existsSync(own), release: close };
    }
    await close();
    await sleep(1 + (options.random ?? Math.random)() * 20, options.signal);
  }
}

/** Whether somebody holds the lock of `directory`, or is just taking it. */
export async function lockIsHeld(directory: string): Promise<boolean> {
  return somebodyAnswers(lockPaths(directory));
}

/** @throws FreshkeyError `ERR_RUN_DIRECTORY` where `path` is too long for a Unix socket. */
export function checkSocketPath(path: string): void {
  const length = Buffer.byteLength(path);
  if (length <= LONGEST_PATH) return;
  throw new FreshkeyError(
    "ERR_RUN_DIRECTORY",
    `${path} has ${length} bytes; a socket's path has at most ${LONGEST_PATH}`,
    {
      hint: "set XDG_RUNTIME_DIR to a private directory of yours with a shorter path",
    },
  );
}

function lockPaths(directory: string): string[] {
  return readdirSync(directory)
    .filter((name) => name.startsWith("lock."))
    .map((name) => join(directory, name));
}

async function somebodyAnswers(paths: readonly string[]): Promise<boolean> {
  return (await Promise.all(paths.map(answers))).includes(true);
}

/** What says that nobody listens any more. Whatever else fails (no descriptor left, say) proves nothing. */
const DEAD = ["ENOENT", "ECONNREFUSED", "ENOTSOCK"];

/** Whether a process listens on `path`. A full backlog (EAGAIN) is one that listens and is suspended. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", (error) => resolve(!DEAD.includes(errno(error) ?? "")));
  });
}

/** Listens on `path` and returns what ends that; the path goes with it. */
function listen(path: string): Promise<() => Promise<void>> {
  checkSocketPath(path);
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.on("error", () => undefined).destroy());
    server.on("error", (error) => {
      reject(
        new FreshkeyError("ERR_RUN_DIRECTORY", `cannot make the socket ${path}: ${errno(error)}`, {
          hint: "see that the directory is yours and writable, on a file system that can hold Unix sockets",
          cause: error,
        }),
      );
    });
    server.listen(path, () => resolve(() => new Promise((closed) => server.close(() => closed()))));
  });
}
