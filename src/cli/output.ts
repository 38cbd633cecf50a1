import { FreshkeyError } from "../core/errors.ts";
import { type JournalLevel, journalPrefix } from "../os/journal.ts";
import type { Invocation } from "./verb.ts";

/** Writes the result: stdout carries nothing else. */
export function result(text: string): void {
  process.stdout.write(text);
}

/** Writes a message for the person to stderr. */
export function message(invocation: Invocation, text: string): void {
  if (!invocation.flag("quiet")) tell("info", `${text}\n`);
}

/** Writes to stderr; what a service's verb says there has its priority in the journal. */
function tell(level: JournalLevel, lines: string): void {
  process.stderr.write(lines.replace(/^(?=.)/gm, journalPrefix(level)));
}

/**
 * Reports an error in the one style of all verbs: what failed and why, then what to do. With `--json` it goes to
 * stdout, for the program that reads the result from there.
 *
 * @returns the exit code.
 */
export function report(thrown: unknown, options: { json: boolean; verbose: boolean }): number {
  const error = FreshkeyError.from(thrown);
  if (options.json) {
    const { code, message: text, hint } = error.toJSON();
    result(`${JSON.stringify({ error: { code, message: text, hint } })}\n`);
  } else {
    const lines = error.message.split("\n");
    tell("error", `freshkey: ${lines.join("\nfreshkey: ")}\n${error.hint ? `  → ${error.hint}\n` : ""}`);
  }
  if (options.verbose) tell("debug", causes(error));
  else if (error.code === "ERR_INTERNAL") tell("error", "  → run it again with --verbose for where it happened\n");
  return error.exitCode;
}

function causes(error: Error): string {
  const lines = [`  code: ${(error as FreshkeyError).code}`];
  for (let at: unknown = error; at instanceof Error; at = at.cause) lines.push(at.stack ?? at.message);
  return `${lines.join("\ncaused by: ")}\n`;
}
