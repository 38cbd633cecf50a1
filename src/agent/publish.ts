import { chmodSync, chownSync, existsSync, readFileSync, rmdirSync, utimesSync } from "node:fs";
import { basename } from "node:path";
import { type TokenConfig, tokenDirectory } from "../config/load.ts";
import { errno, FreshkeyError } from "../core/errors.ts";
import { fingerprint, type Token, UNKNOWN_EXPIRY } from "../core/token.ts";
import { type NewFile, removeFiles, replaceFiles } from "../os/atomic-file.ts";
import { sleep } from "../os/clock.ts";
import { makePrivateDirectory, unsafeDirectory } from "../os/paths.ts";
import {
  formatTokenJson,
  readTokenFile,
  readTokenJson,
  SCHEMA,
  type TokenFile,
  type TokenJson,
  tokenJsonName,
  tokenJsonPath,
} from "../reader/token-file.ts";

/** Where a token is going and what is to be said of it beside the token itself. */
export interface Publication {
  readonly token: Token;
  /** Epoch milliseconds. */
  readonly minted: number;
  /** The agent's control socket. */
  readonly control: string;
  /** Overwrite a token file that freshkey did not write. */
  readonly force?: boolean | undefined;
}

/**
 * How long an earlier expiry is announced before its token, milliseconds. A reader that had read token.json before the
 * announcement must have read the old token by then; however busy the machine, it gets that far in this time.
 */
const ANNOUNCED_FOR = 100;

/**
 * Puts a minted token into its token file (docs/token-file.md). Readers look at token.json first and at token second;
 * the writer goes the other way round, so that a reader in between sees the new token with the old, earlier expiry.
 * Where the new token ends *earlier*, its expiry is announced first, under the old token's name.
 *
 * @throws FreshkeyError `ERR_TOKEN_DIRECTORY`, `ERR_TOKEN_FOREIGN`, `ERR_TOKEN_WRITE`; the old token stays.
 */
export async function publish(config: TokenConfig, { token, minted, control, force }: Publication): Promise<void> {
  const directory = tokenDirectory(config);
  const access = accessOf(config);
  prepareDirectory(config, directory, { shared: (access.mode & 0o040) !== 0, group: access.group });
  if (!force) refuseForeign(config);

  const json: TokenJson = {
    expires: Math.floor(token.expires / 1000),
    minted: Math.floor(minted / 1000),
    fingerprint: fingerprint(token.value),
    name: config.name,
    source: config.source,
    control,
    base_url: config.baseUrls.join(" "),
    verify: false,
    schema: SCHEMA,
  };
  const before = readJson(config.path);
  if (!existsSync(tokenJsonPath(config.path))) {
    // Without one the token would be a bare token for a moment, or, were this process killed, for good.
    await replaceFiles(directory, [jsonFile(config, json)]);
  } else if (before && endsBefore(json.expires, before.expires)) {
    await replaceFiles(directory, [jsonFile(config, { ...before, expires: json.expires })]);
    await sleep(ANNOUNCED_FOR);
  }
  await replaceFiles(directory, [
    { ...access, name: basename(config.path), data: token.value },
    jsonFile(config, json),
  ]);
}

function jsonFile(config: TokenConfig, content: TokenJson): NewFile {
  return { ...accessOf(config), name: tokenJsonName(basename(config.path)), data: formatTokenJson(content) };
}

function accessOf({ mode = 0o600, group }: TokenConfig): { mode: number; group: number | undefined } {
  return { mode, group: group === undefined ? undefined : groupId(group) };
}

/** Whether the expiry `a` (epoch seconds) is earlier than `b`, an unknown one being the latest of all. */
function endsBefore(a: number, b: number): boolean {
  return a !== UNKNOWN_EXPIRY && (b === UNKNOWN_EXPIRY || a < b);
}

/** The token that is in place, or undefined where there is none that can be used. */
export function published(config: TokenConfig): TokenFile | undefined {
  try {
    return readTokenFile(config.path);
  } catch (error) {
    // Unreadable or spoilt by somebody: as good as none, and replaced by the next mint.
    if (error instanceof FreshkeyError) return undefined;
    throw error;
  }
}

/** The same, as far as it is a token that freshkey wrote with its token.json. */
export function inPlace(config: TokenConfig): TokenFile | undefined {
  const found = published(config);
  return found?.json && found.matches ? found : undefined;
}

/**
 * The clock was set by `by` milliseconds: what token.json says was measured by the old one. An expiry that is too early
 * is on the safe side and stays; one that would be too late is corrected.
 */
export async function restate(config: TokenConfig, by: number): Promise<void> {
  const json = readJson(config.path);
  if (!json || json.expires === UNKNOWN_EXPIRY || by >= 0) return;
  const seconds = Math.floor(by / 1000);
  const corrected = { ...json, expires: json.expires + seconds, minted: json.minted + seconds };
  await replaceFiles(tokenDirectory(config), [jsonFile(config, corrected)]);
}

/** Writes the token.json that belongs to the token in place once more; nothing where that is another one by now. */
export async function putBack(config: TokenConfig, json: TokenJson): Promise<void> {
  if (fingerprintInPlace(config) !== json.fingerprint) return;
  await replaceFiles(tokenDirectory(config), [jsonFile(config, json)]);
}

/** Of the token itself, whatever token.json says; undefined where there is none that can be read. */
export function fingerprintInPlace(config: TokenConfig): string | undefined {
  try {
    return fingerprint(readFileSync(config.path, "latin1"));
  } catch {
    return undefined;
  }
}

/** Removes the token's files, and its directory where freshkey made it. token.json goes last: it says whose the token is. */
export async function unpublish(config: TokenConfig): Promise<void> {
  const directory = tokenDirectory(config);
  const name = basename(config.path);
  if (readJson(config.path) === undefined) return;
  await removeFiles(directory, [name, tokenJsonName(name)]);
  if (!config.ownDirectory) return;
  try {
    rmdirSync(directory);
  } catch {
    // Somebody keeps something else there.
  }
}

/** Marks the files as in use: clean-up of runtime directories goes by their age. */
export function touch(config: TokenConfig, now: number): void {
  for (const path of [config.path, tokenJsonPath(config.path)]) {
    try {
      utimesSync(path, now / 1000, now / 1000);
    } catch {
      // It is not there: the next look at it says so.
    }
  }
}

function prepareDirectory(
  config: TokenConfig,
  directory: string,
  wanted: { shared: boolean; group: number | undefined },
): void {
  if (config.ownDirectory) {
    makePrivateDirectory(directory);
    if (wanted.shared) {
      if (wanted.group !== undefined) chownSync(directory, -1, wanted.group);
      chmodSync(directory, 0o710);
    }
  } else if (!existsSync(directory)) {
    throw new FreshkeyError("ERR_TOKEN_DIRECTORY", `the directory ${directory} is not there`, {
      hint: `make it (mkdir -m 700 ${directory}), or leave out \`file\`: freshkey makes only its own directories`,
    });
  }
  const unsafe = unsafeDirectory(directory);
  if (unsafe) throw new FreshkeyError("ERR_TOKEN_DIRECTORY", `${directory} ${unsafe.problem}`, { hint: unsafe.hint });
}

function refuseForeign(config: TokenConfig): void {
  if (config.ownDirectory || !existsSync(config.path) || readJson(config.path)?.name === config.name) return;
  throw new FreshkeyError(
    "ERR_TOKEN_FOREIGN",
    `${config.path} was not written by freshkey for the token ${config.name}`,
    {
      hint: `if it may be overwritten: freshkey renew ${config.name} --force`,
    },
  );
}

function readJson(path: string): TokenJson | undefined {
  try {
    return readTokenJson(path);
  } catch {
    return undefined;
  }
}

/** Node.js cannot look a group up; its file can be read. */
function groupId(group: string | number): number {
  if (typeof group === "number") return group;
  try {
    const line = readFileSync("/etc/group", "utf8")
      .split("\n")
      .find((entry) => entry.startsWith(`${group}:`));
    const id = Number(line?.split(":")[2]);
    if (Number.isInteger(id)) return id;
  } catch (error) {
    if (errno(error) !== "ENOENT") throw error;
  }
  throw new FreshkeyError("ERR_TOKEN_DIRECTORY", `there is no group "${group}" in /etc/group`, {
    hint: "give the group's number: group = 1234",
  });
}
