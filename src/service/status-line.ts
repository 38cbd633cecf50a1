import type { AgentStatus } from "../agent/agent.ts";
import type { TokenStatus } from "../agent/token-status.ts";
import { CODES } from "../core/errors.ts";

/** Tokens that are not fresh and still named; the others are counted. */
const MOST_NAMED = 3;
const DAY = 24 * 3_600_000;

/** How the agent is, in the one line that `systemctl status` shows: "3 tokens fresh, next renewal 14:05 (copilot)". */
export function statusLine(
  { tokens, config_error }: Pick<AgentStatus, "tokens" | "config_error">,
  now: number,
): string {
  const troubled = tokens.filter((one) => one.state !== "fresh" && !(one.state === "renewing" && isUsable(one, now)));
  const fresh = tokens.length - troubled.length;
  const count = troubled.length === 0 ? `${fresh}` : `${fresh} of ${tokens.length}`;
  const parts = [
    `${count} ${tokens.length === 1 ? "token" : "tokens"} fresh`,
    ...troubled.slice(0, MOST_NAMED).map(trouble),
    ...(troubled.length > MOST_NAMED ? [`${troubled.length - MOST_NAMED} more not fresh`] : []),
    ...next(tokens, now),
    ...(config_error ? ["the configuration on disk has a mistake and is not in force"] : []),
  ];
  return parts.join(", ");
}

/** A token that is being renewed is still as good as before, unless there is none. */
function isUsable({ fingerprint, expires }: TokenStatus, now: number): boolean {
  return fingerprint !== "" && (expires === 0 || expires * 1_000 > now);
}

/** By the error's kind and not by its message: any user of the machine may read a status. */
function trouble({ name, state, error }: TokenStatus): string {
  return `${name} ${state.replaceAll("-", " ")}${error && state !== "sign-in-needed" ? `: ${CODES[error.code].meaning}` : ""}`;
}

function next(tokens: readonly TokenStatus[], now: number): string[] {
  const planned = tokens.filter((one) => one.next_renewal > 0);
  const first = planned.sort((a, b) => a.next_renewal - b.next_renewal)[0];
  return first ? [`next renewal ${clock(first.next_renewal * 1_000, now)} (${first.name})`] : [];
}

/** `14:05`, or with its date where that would leave a doubt. */
function clock(instant: number, now: number): string {
  const date = new Date(instant);
  const two = (number: number) => String(number).padStart(2, "0");
  const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (instant - now < DAY) return time;
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${time}`;
}
