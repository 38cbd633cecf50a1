/**
 * Copilot CLI's `settings.json`, of which one key matters here: without its experimental mode the CLI loads no
 * extensions. The file is the user's, so an edit leaves every other byte of it as it was, and can be taken back.
 */
import { readFileSync, realpathSync, rmSync, statSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { errno, FreshkeyError } from "../core/errors.ts";
import { replaceFiles } from "../os/atomic-file.ts";

/** What there was before the mode was switched on, and what is to come back when it is switched off. */
export type ExperimentalBefore = "no file" | "no key" | "false";

/** An edit of the file that is still to be made. */
export interface SettingsEdit {
  readonly path: string;
  readonly text: string;
  readonly before: ExperimentalBefore;
}

type Settings = Record<string, unknown>;

const KEY = '\n  "experimental": true';
/** Each matches strings as well, and keeps them, so that what looks like it inside one is left alone. */
const COMMENT = /("(?:\\.|[^"\\])*")|\/\/.*|\/\*[\s\S]*?\*\//g;
const COMMA_TOO_MANY = /("(?:\\.|[^"\\])*")|,(?=\s*[}\]])/g;
const NEW_FILE = `{${KEY}\n}\n`;

export function settingsPath(copilot: string): string {
  return join(copilot, "settings.json");
}

/** Whether the CLI loads extensions. Like the CLI, this reads a file with comments in it as well. */
export function experimentalMode(copilot: string): boolean {
  const text = read(settingsPath(copilot)) ?? "";
  try {
    const plain = text.replace(COMMENT, "$1").replace(COMMA_TOO_MANY, "$1");
    return (JSON.parse(plain) as Settings | null)?.experimental === true;
  } catch {
    return false;
  }
}

/**
 * The edit that switches the experimental mode on.
 *
 * @throws FreshkeyError `ERR_CLIENT` if the file is not plain JSON: whoever put comments there wants to keep them.
 */
export function experimentalEdit(copilot: string): SettingsEdit {
  const path = settingsPath(copilot);
  const text = read(path);
  if (text === undefined || text.trim() === "") return { path, text: NEW_FILE, before: "no file" };
  const settings = parse(path, text, 'add "experimental": true to it by hand, then run this again');
  const wanted = { ...settings, experimental: true };
  if (settings.experimental === false) {
    const flipped = text.replace(/("experimental"\s*:\s*)false/, "$1true");
    return { path, text: checked(flipped, wanted), before: "false" };
  }
  const comma = Object.keys(settings).length === 0 ? "" : ",";
  return { path, text: checked(text.replace("{", `{${KEY}${comma}`), wanted), before: "no key" };
}

/** Writes an edit; the file keeps its mode, and a symbolic link to it stays one. */
export async function applySettings({ path, text }: Pick<SettingsEdit, "path" | "text">): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const stats = statSync(path, { throwIfNoEntry: false });
  const file = stats ? realpathSync(path) : path;
  await replaceFiles(dirname(file), [{ name: basename(file), data: text, mode: stats && stats.mode & 0o777 }]);
}

/** Switches the experimental mode off again, unless somebody else has done so. */
export async function restoreExperimental(copilot: string, before: ExperimentalBefore): Promise<void> {
  const path = settingsPath(copilot);
  const text = read(path);
  if (text === undefined) return;
  if (before === "no file" && text === NEW_FILE) return rmSync(realpathSync(path));
  const settings = parse(path, text, 'take "experimental" out of it by hand, unless you want to keep it');
  if (settings.experimental !== true) return;
  const { experimental: _on, ...others } = settings;
  if (before === "false") {
    const flipped = text.replace(/("experimental"\s*:\s*)true/, "$1false");
    return applySettings({ path, text: checked(flipped, { ...settings, experimental: false }) });
  }
  const comma = Object.keys(others).length === 0 ? "" : ",";
  await applySettings({ path, text: checked(text.replace(`${KEY}${comma}`, ""), others) });
}

/** The edited text where it means what it is to mean; else, in a form of its own, what does. */
function checked(edited: string, wanted: Settings): string {
  try {
    if (isDeepStrictEqual(JSON.parse(edited), wanted)) return edited;
  } catch {
    // The key stood where, or as, it was not looked for.
  }
  return `${JSON.stringify(wanted, null, 2)}\n`;
}

function parse(path: string, text: string, hint: string): Settings {
  let cause: unknown;
  try {
    const settings: unknown = JSON.parse(text);
    if (typeof settings === "object" && settings !== null && !Array.isArray(settings)) return settings as Settings;
  } catch (error) {
    cause = error;
  }
  throw new FreshkeyError("ERR_CLIENT", `${path} is not a plain JSON object: it is left as it is`, { hint, cause });
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (errno(error) === "ENOENT" || errno(error) === "ENOTDIR") return undefined;
    throw new FreshkeyError("ERR_CLIENT", `cannot read ${path}: ${errno(error)}`, {
      hint: "see that it is your own file",
      cause: error,
    });
  }
}
