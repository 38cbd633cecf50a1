import { createHash } from "node:crypto";
import { hostname } from "node:os";
import type { TokenConfig } from "../config/load.ts";

/** The instants of a `cron` expression, each later by an offset that is this host's own. */
export interface Schedule {
  /** The first run after the instant `after`. Both are epoch milliseconds. */
  next(after: number): number;
}

/**
 * The schedule of a token that has `cron`. node-cron computes the dates (time zones, daylight saving) and no more: its
 * timers don't notice that a laptop slept, the agent's tick does.
 */
export async function openSchedule(config: Pick<TokenConfig, "name" | "cron" | "timezone" | "jitter">) {
  const { cron, timezone } = config;
  if (cron === undefined) return undefined;
  const { createTask } = await import("node-cron");
  const task = createTask(cron, () => undefined, timezone === undefined ? {} : { timezone });
  // Its public methods only count from now on. What is due since a token was minted is not among that.
  const { timeMatcher } = task as unknown as { timeMatcher: { getNextMatch(after: Date): Date } };
  const offset = hostOffset(config.name, config.jitter);
  const schedule: Schedule = { next: (after) => timeMatcher.getNextMatch(new Date(after - offset)).getTime() + offset };
  return schedule;
}

/**
 * Evenly spread over hosts, so that a fleet does not ask at the full hour together, and always the same on one. Whole
 * seconds, as token.json's `minted` has: a run must not look as if it were still to come.
 */
function hostOffset(name: string, span: number): number {
  const hash = createHash("sha256").update(`${hostname()}\0${name}`).digest();
  return Math.floor(((hash.readUInt32BE(0) / 2 ** 32) * span) / 1_000) * 1_000;
}
