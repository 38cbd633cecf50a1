import { pino } from "pino";
import { mask } from "../core/mask.ts";
import { type JournalLevel, journalPrefix } from "./journal.ts";

export type Log = pino.Logger;
export type LogLevel = "trace" | "debug" | "info" | "warn" | "error" | "silent";

/**
 * The agent's log on stderr: JSON lines (pino), with their priority where they go to the journal, or lines for a person
 * on a terminal. Nobody passes a token in, only fingerprints; should a foreign message hold one, it is masked on its way
 * out all the same.
 */
export function openLog(
  level: LogLevel,
  stream: { write(line: string): unknown; isTTY?: boolean } = process.stderr,
): Log {
  const forPerson = stream.isTTY === true;
  const forJournal = !forPerson && stream === process.stderr && journalPrefix("info") !== "";
  const form = forPerson ? readable : forJournal ? withPriority : (line: string) => line;
  const destination = { write: (line: string) => void stream.write(form(line)) };
  return pino(
    {
      level,
      base: null,
      formatters: { level: (label) => ({ level: label }) },
      hooks: { streamWrite: maskValues },
    },
    destination,
  );
}

/** Masks every string value of a JSON line; keys and the shape stay. */
function maskValues(line: string): string {
  return `${JSON.stringify(JSON.parse(line, (_key, value) => (typeof value === "string" ? mask(value, 2_000) : value)))}\n`;
}

function withPriority(line: string): string {
  const { level } = JSON.parse(line) as { level: JournalLevel };
  return `${journalPrefix(level)}${line}`;
}

/** `14:05:09 info  copilot: renewed (expires in 58m)`: what a person at a terminal wants of a line. */
function readable(line: string): string {
  const { level, time, msg, name, ...rest } = JSON.parse(line) as Record<string, unknown>;
  const clock = new Date(Number(time)).toTimeString().slice(0, 8);
  const details = Object.entries(rest).map(
    ([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`,
  );
  const text = [clock, String(level).padEnd(5), name === undefined ? undefined : `${name}:`, msg, ...details];
  return `${text.filter((part) => part !== undefined).join(" ")}\n`;
}
