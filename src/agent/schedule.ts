import { createHash } from "node:crypto";
import { hostname } from "node:os";
import type { TokenConfig } from "../config/load.ts";
import { openTimeZone, type TimeZone } from "./time-zone.ts";

/** The instants of a `cron` expression, each later by an offset that is this host's own. */
export interface Schedule {
  /** The first run after the instant `after`. Both are epoch milliseconds. */
  next(after: number): number;
}

/**
 * The schedule of a token that has `cron`. node-cron knows which date comes after another and no more: its timers don't
 * notice that a laptop slept, the agent's tick does.
 */
export async function openSchedule(config: Pick<TokenConfig, "name" | "cron" | "timezone" | "jitter">) {
  const { cron, timezone } = config;
  if (cron === undefined) return undefined;
  const { createTask } = await import("node-cron");
  // In UTC every local time is there, and there once.
  const task = createTask(cron, () => undefined, { timezone: "UTC" });
  // Its public methods only count from now on. What is due since a token was minted is not among that.
  const { timeMatcher } = task as unknown as { timeMatcher: { getNextMatch(after: Date): Date } };
  const zone = openTimeZone(timezone);
  const offset = hostOffset(config.name, config.jitter);
  const schedule: Schedule = {
    next: (after) =>
      nextRun((local) => timeMatcher.getNextMatch(new Date(local)).getTime(), zone, after - offset) + offset,
  };
  return schedule;
}

/**
 * The first run after an instant, also over a change of the clock: a run whose local time is skipped comes at the
 * change, and an hour that comes twice has its runs twice. One renewal too many does no harm, a gap would. (node-cron by
 * itself leaves both out.)
 *
 * @param following the first local time of the schedule after another, both in milliseconds as if they were UTC.
 */
function nextRun(following: (local: number) => number, zone: TimeZone, after: number): number {
  let offset = zone.offsetAt(after);
  for (let from = after, local = after + offset; ; ) {
    const run = following(local) - offset;
    const change = zone.firstChange(from, run);
    if (change === undefined) return run;
    const changed = zone.offsetAt(change);
    // Set forward: what should have run between the old time and the new one runs now.
    if (run < change + (changed - offset)) return change;
    from = change;
    offset = changed;
    // A run at the very change has not been yet.
    local = change + changed - 1;
  }
}

/**
 * Evenly spread over hosts, so that a fleet does not ask at the full hour together, and always the same on one. Whole
 * seconds, as token.json's `minted` has: a run must not look as if it were still to come.
 */
function hostOffset(name: string, span: number): number {
  const hash = createHash("sha256").update(`${hostname()}\0${name}`).digest();
  return Math.floor(((hash.readUInt32BE(0) / 2 ** 32) * span) / 1_000) * 1_000;
}
