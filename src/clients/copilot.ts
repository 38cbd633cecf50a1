/** GitHub Copilot CLI: its hook, its environment, and the extension that implements COPILOT_PROVIDER_API_KEY_FILE in it. */
import { readFileSync, rmdirSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { errno, FreshkeyError } from "../core/errors.ts";
import { removeFiles, replaceFiles } from "../os/atomic-file.ts";
import type { ExperimentalBefore } from "./copilot-settings.ts";
import { shellQuote } from "./shell.ts";

/** What one gateway and one token file mean to Copilot CLI. */
export interface CopilotProvider {
  readonly tokenPath: string;
  readonly baseUrl?: string | undefined;
  readonly type?: "openai" | "azure" | "anthropic" | undefined;
  readonly wireApi?: "completions" | "responses" | undefined;
  readonly model?: string | undefined;
  /** Milliseconds of life that a token must have left for this client; the reader's own rule without it. */
  readonly minValidity?: number | undefined;
  /** Where the gateway can be asked which header it takes. */
  readonly verify?: string | undefined;
}

/** What the extension is told when it is installed: it has no other way to learn it (CLI 1.0.102 strips its environment). */
export interface ExtensionSettings {
  readonly provider: { type: "openai" | "azure" | "anthropic"; baseUrl: string; wireApi?: "completions" | "responses" };
  readonly tokenPath: string;
  readonly minValidity?: number | undefined;
  /** The command that renews where no agent runs: `node`, the program. */
  readonly program: readonly [string, string];
  /** `connect` switched the CLI's experimental mode on: what `--remove` brings back. */
  readonly experimentalBefore?: ExperimentalBefore | undefined;
}

/**
 * The environment in which Copilot CLI runs `reader` before every request. Values are static: they may stand in a
 * profile. COPILOT_PROVIDER_API_KEY_FILE is what the extension goes by, where it is installed.
 */
export function copilotEnvironment(provider: CopilotProvider, reader: string): Record<string, string> {
  // Whole seconds: with those the shell script needs no help.
  const seconds = provider.minValidity === undefined ? undefined : Math.ceil(provider.minValidity / 1000);
  const minValidity = seconds === undefined ? [] : ["--min-validity", `${seconds}s`];
  const hook = [reader, ...minValidity, provider.tokenPath];
  return {
    ...(provider.baseUrl && { COPILOT_PROVIDER_BASE_URL: provider.baseUrl }),
    ...(provider.type && provider.type !== "openai" && { COPILOT_PROVIDER_TYPE: provider.type }),
    ...(provider.wireApi && { COPILOT_PROVIDER_WIRE_API: provider.wireApi }),
    ...(provider.model && { COPILOT_MODEL: provider.model }),
    COPILOT_PROVIDER_API_KEY_FILE: provider.tokenPath,
    COPILOT_PROVIDER_API_KEY_COMMAND: `exec ${hook.map(shellQuote).join(" ")}`,
  };
}

/** Variables that would win over the hook: a key that was put there by hand is what freshkey replaces. */
export const STATIC_KEYS = ["COPILOT_PROVIDER_API_KEY", "COPILOT_PROVIDER_BEARER_TOKEN"];

/** `$COPILOT_HOME`, by default `~/.copilot`. */
export function copilotHome(env: NodeJS.ProcessEnv, home: string): string {
  return env.COPILOT_HOME || join(home, ".copilot");
}

const MARK = "// freshkey's extension for GitHub Copilot CLI, written by `freshkey connect copilot --write`.";
const EXTENSION = "extension.mjs";

export function extensionPath(copilot: string): string {
  return join(copilot, "extensions", "freshkey", EXTENSION);
}

/** The text of the extension: `bundle` with its settings in front. */
export function extensionText(bundle: string, settings: ExtensionSettings): string {
  return `${MARK}\nconst settings = ${JSON.stringify(settings)};\n\n${bundle}`;
}

/**
 * The settings of the extension that is installed; undefined where there is none.
 *
 * @throws FreshkeyError `ERR_CLIENT` if another extension is in its place.
 */
export function installedExtension(copilot: string): ExtensionSettings | undefined {
  const text = readIfThere(extensionPath(copilot));
  if (text === undefined) return undefined;
  if (!text.startsWith(MARK)) {
    throw new FreshkeyError("ERR_CLIENT", `${extensionPath(copilot)} is not freshkey's`, {
      hint: "move that extension to a folder of another name",
    });
  }
  return JSON.parse(/^const settings = (.*);$/m.exec(text)?.[1] ?? "null") ?? undefined;
}

/** Puts the extension in place, or a newer one in the place of an older. */
export async function installExtension(copilot: string, text: string): Promise<void> {
  const directory = dirname(extensionPath(copilot));
  await mkdir(directory, { recursive: true, mode: 0o700 }).catch((error) => {
    throw new FreshkeyError("ERR_CLIENT", `cannot make ${directory}: ${errno(error)}`, { cause: error });
  });
  await replaceFiles(directory, [{ name: EXTENSION, data: text }]);
}

export async function removeExtension(copilot: string): Promise<void> {
  const directory = dirname(extensionPath(copilot));
  await removeFiles(directory, [EXTENSION]);
  for (const empty of [directory, dirname(directory), copilot]) {
    try {
      rmdirSync(empty);
    } catch {
      // Somebody keeps other files there.
    }
  }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (errno(error) === "ENOENT" || errno(error) === "ENOTDIR") return undefined;
    throw new FreshkeyError("ERR_CLIENT", `cannot read ${path}: ${errno(error)}`, { cause: error });
  }
}
