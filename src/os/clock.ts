import { uptime } from "node:os";

/**
 * The wall clock, and a timer that only ever sleeps for a short while before it asks that clock: a monotonic timer
 * stands still while a laptop sleeps, so a long one wakes up with dead tokens. Injected wherever time matters.
 */
export interface Clock {
  /** Epoch milliseconds. */
  now(): number;
  /** Milliseconds since the machine was started, time asleep included, whoever sets the wall clock. */
  uptime(): number;
  /** Calls back once after `ms` of the machine's waking time. The timer does not keep the process alive by itself. */
  after(ms: number, callback: () => void): { cancel(): void };
}

export const systemClock: Clock = {
  now: () => Date.now(),
  uptime: () => uptime() * 1_000,
  after(ms, callback) {
    const timer = setTimeout(callback, ms);
    return { cancel: () => clearTimeout(timer) };
  },
};

/** Waits `ms`, or until `signal` aborts: then it rejects with the signal's reason. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** Milliseconds, almost 25 days: setTimeout fires at once for anything longer. */
const LONGEST_TIMER = 2 ** 31 - 1;

/**
 * A signal that aborts after `ms`, or when one of `others` does. Call `end` when it is no longer needed.
 * (`AbortSignal.any` over `AbortSignal.timeout` is collected as garbage before it fires in Node.js 20.)
 */
export function deadline(
  ms: number,
  ...others: readonly (AbortSignal | undefined)[]
): { signal: AbortSignal; end(): void } {
  const controller = new AbortController();
  const abort = (event: Event) => controller.abort((event.target as AbortSignal).reason);
  const over = () => controller.abort(new DOMException("the time is over", "TimeoutError"));
  const timer = setTimeout(over, Math.min(ms, LONGEST_TIMER));
  for (const other of others) {
    if (other?.aborted) controller.abort(other.reason);
    other?.addEventListener("abort", abort, { once: true });
  }
  return {
    signal: controller.signal,
    end() {
      clearTimeout(timer);
      for (const other of others) other?.removeEventListener("abort", abort);
    },
  };
}

/** Whether a signal aborted for want of time, as `deadline` and `AbortSignal.timeout` do. */
export function isTimeout(reason: unknown): boolean {
  return reason instanceof DOMException && reason.name === "TimeoutError";
}

/** What `promise` gives, or a rejection with the signal's reason as soon as `signal` aborts. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}
