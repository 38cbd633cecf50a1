/**
 * The token file, as docs/token-file.md specifies it: `token`, the credential and nothing else, and beside it
 * `token.json`, one line without secrets. This is the form of both and how they are read; who writes them is the agent.
 */
import { closeSync, fstatSync, openSync, readFileSync, type Stats, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { errno, FreshkeyError } from "../core/errors.ts";
import { isFresh, minValidity } from "../core/policy.ts";
import { fingerprint, jwtTimes, UNKNOWN_EXPIRY, unpublishable } from "../core/token.ts";
import { unsafeDirectory } from "../os/paths.ts";

export const SCHEMA = 1;

/** The content of `token.json`. Instants are whole epoch seconds, rounded down; 0 where unknown. */
export interface TokenJson {
  readonly expires: number;
  readonly minted: number;
  readonly fingerprint: string;
  readonly name: string;
  readonly source: string;
  /** The agent's control socket. */
  readonly control: string;
  /** Base URLs of the clients that use the token, separated by spaces; empty where none is configured. */
  readonly base_url: string;
  readonly verify: boolean;
  readonly schema: number;
}

/** The line of `token.json`. `expires` comes first: a shell script finds it without a parser. */
export function formatTokenJson(json: TokenJson): string {
  const { expires, ...rest } = json;
  return `${JSON.stringify({ expires, ...rest })}\n`;
}

/** The path of `token.json` that belongs to the token file `path`. */
export function tokenJsonPath(path: string): string {
  return join(dirname(path), tokenJsonName(basename(path)));
}

export function tokenJsonName(tokenName: string): string {
  return `${tokenName}.json`;
}

/** What a read of the two files gives. Instants are epoch milliseconds. */
export interface TokenFile {
  readonly value: string;
  readonly fingerprint: string;
  /** `UNKNOWN_EXPIRY` where none is known. */
  readonly expires: number;
  /** 0 where unknown. */
  readonly minted: number;
  /** Undefined for a bare token, which something else keeps fresh. */
  readonly json: TokenJson | undefined;
  /** The two files belong together. False for the moment between two renames; a bare token always matches. */
  readonly matches: boolean;
  /** Tells whether `token` was replaced since, by one `stat`: see `isUnchanged`. */
  readonly stamp: Stamp;
}

/** Identifies the content of a file without reading it: a replaced file has another inode or another time. */
type Stamp = Pick<Stats, "ino" | "mtimeMs" | "ctimeMs" | "size">;

/** Whether the file at `path` is the one that was read. Costs one `stat`, and hardly more: it is asked before every request. */
export function isUnchanged(path: string, { stamp }: TokenFile): boolean {
  try {
    const stats = statSync(path);
    return (
      stats.mtimeMs === stamp.mtimeMs &&
      stats.ctimeMs === stamp.ctimeMs &&
      stats.ino === stamp.ino &&
      stats.size === stamp.size
    );
  } catch {
    return false;
  }
}

/** The same as text, for who keeps nothing else of the file. */
export function stampOf(path: string): string | undefined {
  try {
    return Object.values(stampFrom(statSync(path))).join(":");
  } catch {
    // There is none, or it cannot be got at (ENOTDIR, EACCES): who reads it says so.
    return undefined;
  }
}

function stampFrom({ ino, mtimeMs, ctimeMs, size }: Stats): Stamp {
  return { ino, mtimeMs, ctimeMs, size };
}

/**
 * Reads the token file at `path` once: token.json first, then token. In that order, whatever the two show together
 * errs on the safe side, since the writer replaces them in the opposite one.
 *
 * @returns undefined if there is no token.
 * @throws FreshkeyError `ERR_TOKEN_UNREADABLE`, `ERR_TOKEN_INVALID`, `ERR_TOKEN_DIRECTORY`.
 */
export function readTokenFile(path: string): TokenFile | undefined {
  const json = readTokenJson(path);
  const content = readContent(path);
  if (content === undefined) return undefined;
  // What `echo` and `az … -o tsv` write ends with one newline, which is not part of the token.
  const value = json ? content.text : content.text.replace(/\r?\n$/, "");
  const problem = unpublishable(value);
  if (problem) {
    throw new FreshkeyError("ERR_TOKEN_INVALID", `${path} does not hold a token: ${problem}`, {
      hint: json ? `renew it: freshkey renew ${json.name} --force` : "mend what writes that file",
    });
  }
  const own = fingerprint(value);
  const matches = json === undefined || json.fingerprint === own;
  return { value, fingerprint: own, ...times(value, json, matches), json, matches, stamp: content.stamp };
}

/** A token whose mint lies in the future was minted before the clock was set back: nobody knows its expiry any more. */
const CLOCK_TOLERANCE = 2_000;

/** Whether a client may be given the token now: it has `required` milliseconds of life left, by a clock that can be trusted. */
export function isUsable(file: TokenFile, now: number, required: number = minValidity(file)): boolean {
  if (file.expires === UNKNOWN_EXPIRY) return true;
  // Of a bare token `minted` is the provider's clock, which may well be ahead of this one.
  const setBack = file.json !== undefined && file.matches && file.minted - now > CLOCK_TOLERANCE;
  return !setBack && isFresh(file, now, required);
}

/**
 * Whose word counts for the expiry: token.json where it is about this token. Where it is about another one (a bare
 * token, or one laid there by hand), the JWT's own `exp`; for an opaque token the other's expiry is the safe side.
 */
function times(value: string, json: TokenJson | undefined, matches: boolean): { expires: number; minted: number } {
  if (json && matches) return { expires: json.expires * 1000, minted: json.minted * 1000 };
  const jwt = jwtTimes(value);
  if (jwt) return { expires: jwt.expires, minted: jwt.issued ?? 0 };
  return { expires: json ? json.expires * 1000 : UNKNOWN_EXPIRY, minted: 0 };
}

/** The `token.json` beside the token file `path`; undefined where there is none. */
export function readTokenJson(path: string): TokenJson | undefined {
  const jsonPath = tokenJsonPath(path);
  let text: string;
  let unsafe: ReturnType<typeof unsafeDirectory>;
  try {
    text = readFileSync(jsonPath, "utf8");
    unsafe = unsafeDirectory(dirname(path), undefined, { sharedIsFine: true });
  } catch (error) {
    if (errno(error) === "ENOENT" || errno(error) === "ENOTDIR") return undefined;
    throw unreadable(jsonPath, error);
  }
  if (unsafe) {
    throw new FreshkeyError("ERR_TOKEN_DIRECTORY", `${dirname(path)} ${unsafe.problem}`, { hint: unsafe.hint });
  }
  try {
    const json = JSON.parse(text) as TokenJson;
    if (Number.isSafeInteger(json.expires) && typeof json.fingerprint === "string") return json;
  } catch {
    // Not JSON: said below.
  }
  throw new FreshkeyError("ERR_TOKEN_INVALID", `${jsonPath} is not what freshkey writes`, {
    hint: `remove it if something else keeps ${path} fresh; else renew: freshkey renew --force`,
  });
}

/** Content and stamp of one and the same file, even while it is being replaced. */
function readContent(path: string): { text: string; stamp: Stamp } | undefined {
  let fd: number | undefined;
  try {
    fd = openSync(path, "r");
    // In this order: what is written over in place while it is read then has another stamp, and is read again.
    const own = stampFrom(fstatSync(fd));
    return { text: readFileSync(fd, "latin1"), stamp: own };
  } catch (error) {
    if (errno(error) === "ENOENT" || errno(error) === "ENOTDIR") return undefined;
    throw unreadable(path, error);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

function unreadable(path: string, error: unknown): FreshkeyError {
  return new FreshkeyError("ERR_TOKEN_UNREADABLE", `cannot read ${path}: ${errno(error)}`, {
    hint:
      errno(error) === "EISDIR"
        ? `name the token file in it, ${join(path, "token")}, or move it out of the token's place`
        : "it must be readable for the user who runs the client; to share one, set `mode` and `group`",
    cause: error,
  });
}
