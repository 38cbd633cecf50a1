import * as v from "valibot";
import { formatDuration } from "../core/duration.ts";
import { errno, FreshkeyError } from "../core/errors.ts";
import { mask } from "../core/mask.ts";
import { jwtTimes, type Token, UNKNOWN_EXPIRY, unpublishable } from "../core/token.ts";
import { runChild } from "../os/child.ts";
import type { Mint } from "./source.ts";

const COMMAND_FORM =
  'must be a program and its arguments, such as ["az", "account", "get-access-token"]; a string goes with shell = true';
const word = v.pipe(v.string(), v.minLength(1, COMMAND_FORM));

/** Keys of `[tokens.NAME]` with `source = "command"`. */
export const commandOptions = v.strictObject({
  command: v.union([v.pipe(v.array(word), v.minLength(1, COMMAND_FORM)), word], COMMAND_FORM),
  shell: v.optional(v.boolean("must be true or false"), false),
  format: v.optional(v.picklist(["auto", "raw", "json"], 'must be "auto", "raw" or "json"'), "auto"),
});
export type CommandOptions = v.InferOutput<typeof commandOptions>;

/** Far above any token with what a program prints around it. */
const MOST_OUTPUT = 256 * 1024;

/** Runs a program and takes the token that it prints: alone (`raw`), or in the JSON that `az` and its like print. */
export const mintCommand: Mint<CommandOptions> = async (options, request) => {
  const [file, args] = invocation(options);
  const result = await runChild(file, args, { ...request, limit: MOST_OUTPUT }).catch((error) => {
    throw cannotStart(file, error);
  });
  const words = mask(result.stderr);
  const detail = words && `: ${words}`;
  if (result.ended === "timeout") {
    throw new FreshkeyError(
      "ERR_SOURCE_TIMEOUT",
      `${file} did not end within ${formatDuration(request.timeout)}${detail}`,
      {
        hint: "run it in a terminal to see what it waits for; a program that needs longer needs a larger `timeout`",
      },
    );
  }
  if (result.ended === "abort") throw new FreshkeyError("ERR_SOURCE_FAILED", `${file} was ended`);
  if (result.ended === "limit") throw unusable(file, `more than ${MOST_OUTPUT / 1024} KiB of output`);
  if (result.code !== 0) {
    const how = result.killed ? `was ended by ${result.killed}` : `ended with exit code ${result.code}`;
    // A shell's own codes for a program that is not there, or cannot be run.
    if (options.shell && (result.code === 127 || result.code === 126)) throw missing(words || file);
    throw new FreshkeyError("ERR_SOURCE_FAILED", `${file} ${how}${detail}`, {
      hint: "run the command of this token in a terminal; it must work there without asking anything",
    });
  }
  return parseOutput(result.answer, options.format, file);
};

function invocation(options: CommandOptions): [string, string[]] {
  const { command } = options;
  if (options.shell) return ["/bin/sh", ["-c", typeof command === "string" ? command : command.join(" ")]];
  if (typeof command === "string") return [command, []];
  return [command[0]!, command.slice(1)];
}

/**
 * The token in what a program printed. `auto` takes an answer that begins with a brace for JSON.
 *
 * @throws FreshkeyError `ERR_SOURCE_ANSWER` that says what is wrong with it, never what it is.
 */
export function parseOutput(output: string, format: CommandOptions["format"], program: string): Token {
  const text = output.trim();
  if (text === "") throw unusable(program, "nothing");
  const asJson = format === "json" || (format === "auto" && text.startsWith("{"));
  const token = asJson ? parseJson(text, program) : { value: text, expires: jwtTimes(text)?.expires ?? UNKNOWN_EXPIRY };
  const problem = unpublishable(token.value);
  if (problem) throw unusable(program, `what is not a token: ${problem}`);
  return token;
}

/** Where `az account get-access-token`, OAuth token endpoints (RFC 6749 5.1) and most helpers put the token. */
const TOKEN_FIELDS = ["accessToken", "access_token", "token", "id_token"];

function parseJson(text: string, program: string): Token {
  let json: Record<string, unknown>;
  try {
    json = JSON.parse(text) as Record<string, unknown>;
  } catch (error) {
    throw unusable(program, "what is not JSON", error);
  }
  const field = TOKEN_FIELDS.find((name) => typeof json?.[name] === "string");
  if (field === undefined) throw unusable(program, `JSON without any of the fields ${TOKEN_FIELDS.join(", ")}`);
  const value = json[field] as string;
  return { value, expires: jsonExpiry(json) ?? jwtTimes(value)?.expires ?? UNKNOWN_EXPIRY };
}

/** `expires_on` (epoch seconds) before `expiresOn`, which old versions of `az` give in local time without saying so. */
function jsonExpiry(json: Record<string, unknown>): number | undefined {
  const seconds = Number(json.expires_on ?? Number.NaN);
  if (Number.isFinite(seconds)) return Math.floor(seconds * 1000);
  const within = Number(json.expires_in ?? Number.NaN);
  if (Number.isFinite(within)) return Math.floor(Date.now() + within * 1000);
  for (const field of ["expiresOn", "expires_at", "expiration", "Expiration", "expiry"]) {
    const stated = json[field];
    const instant = typeof stated === "string" ? Date.parse(stated.replace(" ", "T")) : Number.NaN;
    if (Number.isFinite(instant)) return instant;
  }
  return undefined;
}

function cannotStart(file: string, error: unknown): FreshkeyError {
  const code = errno(error);
  if (code === "ENOENT" || code === "EACCES" || code === "ENOTDIR") return missing(`${file}: ${code}`, error);
  return new FreshkeyError("ERR_SOURCE_FAILED", `${file} cannot be started: ${code}`, { cause: error });
}

function missing(what: string, cause?: unknown): FreshkeyError {
  return new FreshkeyError("ERR_SOURCE_MISSING", `the command cannot be run (${what})`, {
    hint: "install it, or name it with its whole path: a service's PATH is shorter than a shell's",
    cause,
  });
}

function unusable(program: string, what: string, cause?: unknown): FreshkeyError {
  return new FreshkeyError("ERR_SOURCE_ANSWER", `${program} printed ${what}`, {
    hint: "run the command in a terminal: it must print one token, or JSON with the token in it, and nothing else",
    cause,
  });
}
