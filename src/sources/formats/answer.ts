import { jwtTimes, type Token, UNKNOWN_EXPIRY } from "../../core/token.ts";

/**
 * What a program printed, or a file holds, is not what its format says. The message completes "PROGRAM printed …"; it
 * may name a field, and never quotes a value: whatever is there may be half a token.
 */
export class BadAnswer extends Error {}

/**
 * Takes the token out of `text`, which has no white space around it. `asked` is when it was asked for (epoch
 * milliseconds): a lifetime counts from there, which errs on the safe side.
 *
 * @throws BadAnswer
 */
export type Parse = (text: string, asked: number) => Token;

/** Words by which scripts say that they have no token: `jq -r .token` prints `null` and succeeds. */
const NOTHING = ["null", "undefined", "None", "nil", "NaN", "true", "false"];

/** The token `value`, which ends when the source or its own JWT says, whichever is earlier. */
export function tokenOf(value: string, stated: number | undefined): Token {
  if (NOTHING.includes(value)) throw new BadAnswer(`the word ${value} instead of a token`);
  const ends = [stated, jwtTimes(value)?.expires].filter((instant) => instant !== undefined);
  return { value, expires: ends.length === 0 ? UNKNOWN_EXPIRY : Math.min(...ends) };
}

export type JsonObject = Readonly<Record<string, unknown>>;

/** @throws BadAnswer */
export function parseObject(text: string): JsonObject {
  return objectOf(parseJson(text));
}

/** @throws BadAnswer */
export function objectOf(json: unknown): JsonObject {
  if (isObject(json)) return json;
  throw new BadAnswer(`JSON that is ${Array.isArray(json) ? "a list" : "no object"}`);
}

/** @throws BadAnswer; without the parser's own message, which quotes the text. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new BadAnswer("what is not JSON");
  }
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A member of `object` itself: nothing that every object inherits. */
export function member(object: unknown, name: string): unknown {
  return isObject(object) && Object.hasOwn(object, name) ? object[name] : undefined;
}

/** The member `name`, which must be a text that is not empty. `where` names it for the error. */
export function textMember(object: unknown, name: string, where = name): string {
  const value = member(object, name);
  if (typeof value === "string" && value !== "") return value;
  throw new BadAnswer(value === undefined ? `JSON without ${where}` : `JSON whose ${where} is not a text`);
}
