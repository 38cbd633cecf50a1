import { UNKNOWN_EXPIRY } from "../../core/token.ts";
import { BadAnswer } from "./answer.ts";

/** The end of the year 9999: what is later is nonsense, and would not fit into an RFC 3339 time. */
const LATEST = 253_402_300_799_999;
/** In seconds. Below it a number is a lifetime (30 years), not an instant (before September 2001). */
const LEAST_INSTANT = 1_000_000_000;
/** Above it a number is milliseconds (after March 1973), not seconds (after the year 5000). */
const LEAST_MILLISECONDS = 100_000_000_000;

const RFC3339 = /^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d(?:\.\d+)?)(?:([Zz])|([+-]\d\d):?(\d\d))$/;
/** How programs in Go print a time that they do not have. */
const GO_ZERO = "0001-01-01T00:00:00Z";
/** `2026-11-23 20:46:46.000000`, with nothing to say of which time zone. */
const LOCAL = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.\d+)?$/;

/**
 * An instant of RFC 3339 in epoch milliseconds; undefined where there is none (no value, null, an empty text).
 *
 * @throws BadAnswer
 */
export function rfc3339(value: unknown, field: string): number | undefined {
  if (isNone(value)) return undefined;
  const [, date, time, utc, hours, minutes] = (typeof value === "string" && RFC3339.exec(value)) || [];
  if (date === undefined) throw new BadAnswer(`${field} that is no time of RFC 3339`);
  return within(Date.parse(`${date}T${time}${utc ? "Z" : `${hours}:${minutes}`}`), field);
}

/** Epoch seconds, as a number or a text, in epoch milliseconds; 0 is none, as for git. @throws BadAnswer */
export function epochSeconds(value: unknown, field: string): number | undefined {
  if (isNone(value)) return undefined;
  const seconds = numberOf(value, field);
  return seconds === 0 ? undefined : within(seconds * 1000, field);
}

/** A lifetime in seconds that began at `asked`, as an instant in epoch milliseconds. @throws BadAnswer */
export function lifetime(value: unknown, field: string, asked: number): number | undefined {
  return isNone(value) ? undefined : within(asked + numberOf(value, field) * 1000, field);
}

/**
 * An expiry of a form that nobody has written down: RFC 3339 or the same in local time, epoch seconds or milliseconds,
 * or a lifetime in seconds. The orders of magnitude tell them apart.
 *
 * @throws BadAnswer
 */
export function anyInstant(value: unknown, field: string, asked: number): number | undefined {
  if (isNone(value)) return undefined;
  if (typeof value === "string" && /^\d{4}-/.test(value)) {
    const [, date, time] = LOCAL.exec(value) ?? [];
    return date === undefined ? rfc3339(value, field) : within(Date.parse(`${date}T${time}`), field);
  }
  const number = numberOf(value, field);
  if (number === 0) return undefined;
  if (number < LEAST_INSTANT) return lifetime(number, field, asked);
  return number < LEAST_MILLISECONDS ? epochSeconds(number, field) : within(number, field);
}

function isNone(value: unknown): boolean {
  return value === undefined || value === null || value === "" || value === GO_ZERO;
}

function numberOf(value: unknown, field: string): number {
  const number = typeof value === "string" && /^-?\d+(\.\d+)?$/.test(value) ? Number(value) : value;
  if (typeof number === "number" && Number.isFinite(number)) return number;
  throw new BadAnswer(`${field} that is neither a time nor a number`);
}

function within(instant: number, field: string): number {
  // Whatever was before 1970 is over; 0 itself is the sign for an expiry that nobody knows.
  if (instant <= LATEST) return Math.max(UNKNOWN_EXPIRY + 1, Math.floor(instant));
  throw new BadAnswer(`${field} that is no time`);
}
