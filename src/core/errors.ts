/**
 * What kind of failure an error is. The class decides what freshkey does next: `transient` is tried again with
 * back-off, `permanent` and `sign-in` are told to the user and tried again slowly, the others end the command.
 * An error of unknown kind counts as `transient`: a usable token is never dropped for a misunderstanding.
 */
export type ErrorClass = "usage" | "config" | "transient" | "permanent" | "sign-in" | "internal";

interface Meaning {
  readonly class: ErrorClass;
  /** Exit code of the command line, after sysexits(3). */
  readonly exit: number;
  readonly meaning: string;
}

/** Every stable code, with its class and exit code. Other people's scripts depend on both. */
export const CODES = {
  ERR_USAGE: { class: "usage", exit: 64, meaning: "the command line cannot be understood" },
  ERR_PLATFORM: { class: "config", exit: 78, meaning: "this operating system is not supported" },
  ERR_CONFIG_MISSING: { class: "config", exit: 78, meaning: "there is no configuration file" },
  ERR_CONFIG_SYNTAX: { class: "config", exit: 78, meaning: "the configuration file is not valid TOML" },
  ERR_CONFIG_INVALID: {
    class: "config",
    exit: 78,
    meaning: "a key in the configuration is unknown or its value wrong",
  },
  ERR_CONFIG_TOKEN: { class: "config", exit: 78, meaning: "the configuration has no token of that name" },
  ERR_CONFIG_CLIENT: { class: "config", exit: 78, meaning: "the client's configuration is missing or incomplete" },
  ERR_RUN_DIRECTORY: { class: "config", exit: 78, meaning: "the runtime directory cannot be used" },
  ERR_TOKEN_DIRECTORY: { class: "config", exit: 78, meaning: "a token's directory is not safe to use" },
  ERR_TOKEN_FOREIGN: { class: "config", exit: 78, meaning: "a file that freshkey did not write is in the way" },
  ERR_TOKEN_WRITE: { class: "transient", exit: 1, meaning: "the token file cannot be written" },
  ERR_TOKEN_UNREADABLE: { class: "config", exit: 78, meaning: "the token file exists and cannot be read" },
  ERR_TOKEN_MISSING: { class: "transient", exit: 69, meaning: "there is no token file" },
  ERR_TOKEN_INVALID: { class: "transient", exit: 69, meaning: "the token file does not hold a token" },
  ERR_TOKEN_EXPIRED: { class: "transient", exit: 69, meaning: "the token has expired and nothing renewed it" },
  ERR_SOURCE_MISSING: { class: "permanent", exit: 78, meaning: "the source's program or SDK is not there" },
  ERR_SOURCE_CONFIG: { class: "permanent", exit: 78, meaning: "the source lacks something that it needs" },
  ERR_SOURCE_FAILED: { class: "transient", exit: 69, meaning: "the source failed" },
  ERR_SOURCE_UNREACHABLE: { class: "transient", exit: 69, meaning: "the source cannot be reached" },
  ERR_SOURCE_ANSWER: { class: "transient", exit: 69, meaning: "the source's answer is not a usable token" },
  ERR_SOURCE_TIMEOUT: { class: "transient", exit: 75, meaning: "the source did not answer within its deadline" },
  ERR_SOURCE_REFUSED: { class: "permanent", exit: 77, meaning: "the source refused the request" },
  ERR_SIGN_IN: { class: "sign-in", exit: 77, meaning: "somebody has to sign in" },
  ERR_BACKOFF: { class: "transient", exit: 75, meaning: "the source failed lately and is not asked again yet" },
  ERR_DEADLINE: { class: "transient", exit: 75, meaning: "no fresh token within the time given" },
  ERR_ORIGIN: { class: "permanent", exit: 77, meaning: "the client's base URL is not the configured one" },
  ERR_AGENT_RUNNING: { class: "internal", exit: 1, meaning: "another agent is running" },
  ERR_AGENT: { class: "transient", exit: 75, meaning: "the agent could not be asked" },
  ERR_CLIENT: { class: "internal", exit: 1, meaning: "the client's program or files could not be used" },
  ERR_INTERNAL: { class: "internal", exit: 1, meaning: "freshkey itself failed" },
} as const satisfies Record<string, Meaning>;

export type ErrorCode = keyof typeof CODES;

/** The form in which an error crosses a pipe or a socket, and in which `--json` prints it. It never holds a token. */
export interface ErrorRecord {
  code: ErrorCode;
  class: ErrorClass;
  message: string;
  hint?: string;
  /** Milliseconds. */
  retryAfter?: number;
}

export interface ErrorDetails {
  /** What to do next: one sentence, where possible with the exact command. */
  hint?: string | undefined;
  /** The source's own wish (`Retry-After`, RFC 9110 10.2.3): not before this many milliseconds. */
  retryAfter?: number | undefined;
  cause?: unknown;
}

/** The one error that freshkey throws: what failed and why (`message`), of which stable `code`, and what to do (`hint`). */
export class FreshkeyError extends Error {
  override readonly name = "FreshkeyError";
  readonly code: ErrorCode;
  readonly hint?: string;
  readonly retryAfter?: number;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    if (details.hint !== undefined) this.hint = details.hint;
    if (details.retryAfter !== undefined) this.retryAfter = details.retryAfter;
  }

  get class(): ErrorClass {
    return CODES[this.code].class;
  }

  get exitCode(): number {
    return CODES[this.code].exit;
  }

  toJSON(): ErrorRecord {
    return {
      code: this.code,
      class: this.class,
      message: this.message,
      ...(this.hint !== undefined && { hint: this.hint }),
      ...(this.retryAfter !== undefined && { retryAfter: this.retryAfter }),
    };
  }

  /** The inverse of `toJSON`. A record of another version with a code that is not known here becomes `ERR_INTERNAL`. */
  static fromJSON(record: Partial<ErrorRecord>): FreshkeyError {
    const code = record.code !== undefined && Object.hasOwn(CODES, record.code) ? record.code : "ERR_INTERNAL";
    return new FreshkeyError(code, String(record.message ?? "unknown error"), record);
  }

  /** Anything thrown, as a FreshkeyError: `code` where it is not one already. */
  static from(error: unknown, code: ErrorCode = "ERR_INTERNAL"): FreshkeyError {
    if (error instanceof FreshkeyError) return error;
    return new FreshkeyError(code, error instanceof Error ? error.message : String(error), { cause: error });
  }
}

/** The `code` of a system error (`ENOENT`, …), or undefined. */
export function errno(error: unknown): string | undefined {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return typeof code === "string" ? code : undefined;
}
