import { fstatSync } from "node:fs";

/** Priorities of syslog(3) for the levels of a log. */
const PRIORITIES = { trace: 7, debug: 7, info: 6, warn: 4, error: 3, fatal: 2 } as const;
export type JournalLevel = keyof typeof PRIORITIES;

/**
 * What each line to the descriptor `fd` begins with, so that the journal keeps its level: `<4>` for a warning
 * (sd-daemon(3)). Empty where the descriptor does not lead to the journal (`JOURNAL_STREAM`, systemd.exec(5)): the
 * variable is inherited by programs whose output goes elsewhere.
 */
export function journalPrefix(level: JournalLevel, fd = 2, env: NodeJS.ProcessEnv = process.env): string {
  return leadsToJournal(fd, env) ? `<${PRIORITIES[level]}>` : "";
}

function leadsToJournal(fd: number, { JOURNAL_STREAM }: NodeJS.ProcessEnv): boolean {
  if (!JOURNAL_STREAM) return false;
  try {
    const { dev, ino } = fstatSync(fd, { bigint: true });
    return JOURNAL_STREAM === `${dev}:${ino}`;
  } catch {
    return false;
  }
}
