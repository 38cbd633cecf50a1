import { createHash } from "node:crypto";
import { hostname } from "node:os";
import type { TokenConfig } from "../config/load.ts";

/** The instants of a `cron` expression, each later by an offset that is this host's own. */
export interface Schedule {
  /** Epoch milliseconds of the first run after now. */
  next(): number;
}

/**
 * The schedule of a token that has `cron`. node-cron computes the dates (time zones, daylight saving) and no more: its
 * timers don't notice that a laptop slept, the agent's tick does.
 */
export async function openSchedule(config: TokenConfig): Promise<Schedule | undefined> {
  if (config.cron === undefined) return undefined;
  const { createTask } = await import("node-cron");
  const task = createTask(
    config.cron,
    () => undefined,
    config.timezone === undefined ? {} : { timezone: config.timezone },
  );
  return {
    next() {
      const [first, second] = task.getNextRuns(2).map((date) => date.getTime());
      if (first === undefined) return Number.POSITIVE_INFINITY;
      // An offset beyond the next run would skip runs.
      const gap = second === undefined ? config.jitter : second - first;
      return first + hostOffset(config.name, Math.min(config.jitter, gap * 0.9));
    },
  };
}

/** The same for every run on this host, and evenly spread over hosts: a fleet does not ask at the full hour together. */
function hostOffset(name: string, span: number): number {
  const hash = createHash("sha256").update(`${hostname()}\0${name}`).digest();
  return (hash.readUInt32BE(0) / 2 ** 32) * span;
}
