import { type ChildProcess, spawn } from "node:child_process";
import { withoutServiceManager } from "./sd-notify.ts";

export interface ChildOptions {
  readonly env?: NodeJS.ProcessEnv | undefined;
  readonly cwd?: string | undefined;
  /** Written to the child's stdin, which then stays open until the child ends: its end is the sign to give up. */
  readonly input?: string | undefined;
  /** Close stdin after the input, for a program that reads to the end before it does anything. */
  readonly endInput?: boolean;
  /** Read the answer from this descriptor instead of stdout: what a library prints by the way cannot spoil it. */
  readonly answerOn?: 1 | 3;
  /** Milliseconds until the child and all its children are killed. */
  readonly timeout: number;
  readonly signal?: AbortSignal | undefined;
  /** Bytes kept of the answer; what comes after it ends the child. */
  readonly limit: number;
}

export interface ChildResult {
  readonly answer: string;
  /** The first 8 KiB. Of foreign origin: mask it before anybody sees it. */
  readonly stderr: string;
  readonly code: number | null;
  readonly killed: NodeJS.Signals | null;
  /** Why it was ended from here, if it was. */
  readonly ended?: "timeout" | "abort" | "limit";
}

const STDERR_KEPT = 8 * 1024;
/** Milliseconds for what a program wrote last to arrive, once it has ended. */
const LAST_WORDS = 250;

/**
 * Runs a program without a shell, in a process group of its own, and reads one answer from it. At the deadline, on
 * `signal` and when it ends, the whole group is killed: no child of it stays behind.
 *
 * @throws the system's error (`ENOENT`, `EACCES`, …) if it cannot be started.
 */
export function runChild(file: string, args: readonly string[], options: ChildOptions): Promise<ChildResult> {
  return new Promise((resolve, reject) => {
    const answerOn = options.answerOn ?? 1;
    const child = spawn(file, args, {
      env: withoutServiceManager(options.env ?? process.env),
      cwd: options.cwd,
      detached: true,
      stdio: [
        options.input === undefined ? "ignore" : "pipe",
        answerOn === 1 ? "pipe" : "ignore",
        "pipe",
        "pipe",
      ].slice(0, answerOn === 1 ? 3 : 4) as ("ignore" | "pipe")[],
    });
    const answer: Buffer[] = [];
    const stderr: Buffer[] = [];
    let size = 0;
    let ended: ChildResult["ended"];
    const destroyPipes = () => {
      for (const stream of child.stdio) stream?.destroy();
    };
    const end = (why: NonNullable<ChildResult["ended"]>) => {
      ended ??= why;
      killGroup(child);
      destroyPipes();
    };
    const timer = setTimeout(end, options.timeout, "timeout");
    const abort = () => end("abort");
    options.signal?.addEventListener("abort", abort, { once: true });
    if (options.signal?.aborted) abort();

    collect(child.stdio[answerOn], (chunk) => {
      size += chunk.length;
      if (size > options.limit) return end("limit");
      answer.push(chunk);
    });
    let stderrSize = 0;
    collect(child.stderr, (chunk) => {
      if (stderrSize < STDERR_KEPT) stderr.push(chunk.subarray(0, STDERR_KEPT - stderrSize));
      stderrSize += chunk.length;
    });
    child.stdin?.on("error", () => undefined);
    child.stdin?.write(options.input ?? "");
    if (options.endInput) child.stdin?.end();

    const settle = () => {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", abort);
    };
    child.once("error", (error) => {
      settle();
      reject(error);
    });
    // The program has ended: whatever it left running is not waited for, in its group or, with the pipes open, outside.
    child.once("exit", () => {
      killGroup(child);
      // What it wrote is in the pipes by now; setImmediate comes after they have been read, however late the timer is.
      setTimeout(() => setImmediate(destroyPipes), LAST_WORDS).unref();
    });
    child.once("close", (code, killed) => {
      settle();
      const text = (parts: Buffer[]) => Buffer.concat(parts).toString("utf8");
      resolve({ answer: text(answer), stderr: text(stderr), code, killed, ...(ended && { ended }) });
    });
  });
}

function collect(stream: unknown, take: (chunk: Buffer) => void): void {
  const readable = stream as NodeJS.ReadableStream | null | undefined;
  readable?.on("data", take);
  readable?.on("error", () => undefined);
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // ESRCH: nobody is left.
  }
}
