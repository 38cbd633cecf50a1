import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import {
  type CopilotProvider,
  copilotEnvironment,
  copilotHome,
  type ExtensionSettings,
  extensionPath,
  extensionText,
  installExtension,
  installedExtension,
  removeExtension,
} from "../clients/copilot.ts";
import { applySettings, experimentalEdit, experimentalMode, restoreExperimental } from "../clients/copilot-settings.ts";
import { credentialHeader, modelsUrl, probe } from "../clients/probe.ts";
import { shellExports, shellQuote } from "../clients/shell.ts";
import { FreshkeyError } from "../core/errors.ts";
import { removeFiles, replaceFiles } from "../os/atomic-file.ts";
import { makePrivateDirectory } from "../os/paths.ts";
import { openConfig, PROGRAM, READER } from "./context.ts";
import { copilotProvider } from "./copilot-provider.ts";
import { message, result } from "./output.ts";
import type { Invocation, Verb } from "./verb.ts";

const BUNDLE = fileURLToPath(import.meta.resolve("../clients/copilot-extension.bundle.mjs"));
const ENVIRONMENT_FILE = "copilot.sh";

export const connect: Verb = {
  usage: "connect CLIENT",
  summary: "that client's configuration, printed or put in place",
  details: `CLIENT is copilot (GitHub Copilot CLI). Gateway and token come from [clients.copilot] of the configuration;
without a configuration, from COPILOT_PROVIDER_BASE_URL and COPILOT_PROVIDER_API_KEY_FILE in the environment.
--write puts two things in place: a file with the environment (the command hook) for your shell's profile,
and the extension that implements COPILOT_PROVIDER_API_KEY_FILE. The CLI loads extensions only in its
experimental mode, which --enable-experimental switches on; without that the command hook is set up alone.`,
  options: {
    write: { help: "put it in place" },
    yes: { help: "with --write: ask nothing" },
    "enable-experimental": { help: "switch on Copilot CLI's experimental mode, which loads extensions" },
    remove: { help: "take away what --write put in place" },
  },
  examples: [
    ["freshkey connect copilot", "print the environment for your profile"],
    ["freshkey connect copilot --write --enable-experimental", "set it up, with the extension"],
    ["freshkey connect copilot --remove", "take it all away again"],
  ],
  operands: 1,
  run,
};

async function run(invocation: Invocation): Promise<number> {
  const [client] = invocation.operands;
  if (client !== "copilot") {
    throw new FreshkeyError("ERR_USAGE", client ? `there is no client "${client}" here` : "which client?", {
      hint: "freshkey connect copilot; any other client can run `freshkey-token NAME` where it takes a command",
    });
  }
  const copilot = copilotHome(process.env, homedir());
  // The user's own directory, even where the configuration is the system's.
  const configHome = process.env.XDG_CONFIG_HOME || join(homedir(), ".config");
  const environmentFile = join(configHome, "freshkey", ENVIRONMENT_FILE);
  if (invocation.flag("remove")) return remove(invocation, copilot, environmentFile);
  const provider = await providerOf(invocation);
  // A hook that renews, where no agent runs, has to find the same configuration.
  const config = invocation.text("config") ?? process.env.FRESHKEY_CONFIG;
  const variables = { ...copilotEnvironment(provider, READER), ...(config && { FRESHKEY_CONFIG: resolve(config) }) };
  if (!invocation.flag("write")) {
    result(invocation.flag("json") ? `${JSON.stringify({ environment: variables })}\n` : shellExports(variables));
    message(
      invocation,
      "Put these lines into your shell's profile, or let freshkey do it: freshkey connect copilot --write",
    );
    return 0;
  }
  return write(invocation, { copilot, environmentFile, provider, variables });
}

interface Plan {
  readonly copilot: string;
  readonly environmentFile: string;
  readonly provider: CopilotProvider & { baseUrl: string };
  readonly variables: Record<string, string>;
}

async function write(invocation: Invocation, { copilot, environmentFile, provider, variables }: Plan): Promise<number> {
  const before = installedExtension(copilot);
  const on = experimentalMode(copilot);
  const wanted = on || invocation.flag("enable-experimental");
  const refused = wanted ? await refusesBearer(provider) : undefined;
  const extension = wanted && !refused;
  const edit = extension && !on ? experimentalEdit(copilot) : undefined;

  const steps = [
    `write ${environmentFile} (the command hook and the gateway's address)`,
    ...(edit ? [`switch on Copilot CLI's experimental mode in ${edit.path}`] : []),
    ...(extension ? [`write ${extensionPath(copilot)}`] : []),
    ...(!extension && before ? [`remove ${extensionPath(copilot)}`] : []),
  ];
  await consent(invocation, steps);

  makePrivateDirectory(dirname(environmentFile));
  await replaceFiles(dirname(environmentFile), [{ name: ENVIRONMENT_FILE, data: environmentText(variables) }]);
  if (extension) {
    const { type = "openai", baseUrl, wireApi, tokenPath, minValidity } = provider;
    const settings = {
      provider: { type, baseUrl, ...(wireApi && { wireApi }) },
      tokenPath,
      minValidity,
      program: [process.execPath, PROGRAM] as const,
      experimentalBefore: edit?.before ?? before?.experimentalBefore,
    };
    // First, since it holds what is to come back when it is taken away.
    await installExtension(copilot, extensionText(readFileSync(BUNDLE, "utf8"), settings));
    if (edit) await applySettings(edit);
  } else if (before) {
    await takeAway(copilot, before);
  }
  const done = extension
    ? "Copilot CLI reads the token file before every request, through its extension."
    : (refused ??
      "Only the command hook is set up. For the extension as well, Copilot CLI's experimental mode must be on: add --enable-experimental.");
  message(invocation, `${done}\nLast step: add this line to your shell's profile, and open a new terminal:`);
  result(
    invocation.flag("json")
      ? `${JSON.stringify({ environment: variables, extension })}\n`
      : `. ${shellQuote(environmentFile)}\n`,
  );
  return 0;
}

async function remove(invocation: Invocation, copilot: string, environmentFile: string): Promise<number> {
  const settings = installedExtension(copilot);
  await removeFiles(dirname(environmentFile), [ENVIRONMENT_FILE]);
  if (settings) await takeAway(copilot, settings);
  message(invocation, `Removed. If your profile has the line, take it out: . ${shellQuote(environmentFile)}`);
  return 0;
}

async function takeAway(copilot: string, { experimentalBefore }: ExtensionSettings): Promise<void> {
  try {
    if (experimentalBefore) await restoreExperimental(copilot, experimentalBefore);
  } finally {
    await removeExtension(copilot);
  }
}

async function providerOf(invocation: Invocation): Promise<CopilotProvider & { baseUrl: string }> {
  const { COPILOT_PROVIDER_BASE_URL: baseUrl, COPILOT_PROVIDER_API_KEY_FILE: tokenPath, ...env } = process.env;
  try {
    const config = await openConfig(invocation);
    const client = config.clients.get("copilot");
    if (client) {
      return { ...copilotProvider(config, config.tokens.get(client.token)!), baseUrl: client.base_url };
    }
    throw new FreshkeyError("ERR_CONFIG_CLIENT", `${config.file} has no table [clients.copilot]`, {
      hint: 'add it, with token = "NAME" and base_url = "https://…"',
    });
  } catch (error) {
    // A token that something else keeps needs no configuration: the environment says it all.
    const missing = error instanceof FreshkeyError && error.code === "ERR_CONFIG_MISSING";
    if (!missing || !baseUrl || !tokenPath) throw error;
    const type = env.COPILOT_PROVIDER_TYPE as CopilotProvider["type"];
    return {
      tokenPath: resolve(tokenPath),
      baseUrl,
      type,
      wireApi: env.COPILOT_PROVIDER_WIRE_API as CopilotProvider["wireApi"],
      model: env.COPILOT_MODEL,
      verify: modelsUrl(type ?? "openai", baseUrl),
    };
  }
}

/**
 * The extension always sends `Authorization: Bearer` and wins over the hook: where the gateway wants another header
 * it must not be installed. Asked of the gateway itself, with either header and with none.
 *
 * @returns what to tell the user, or undefined where Bearer is fine.
 */
async function refusesBearer(provider: CopilotProvider & { baseUrl: string }): Promise<string | undefined> {
  const { type = "openai", tokenPath, verify } = provider;
  if (type === "openai") return undefined;
  const { openKeyFile } = await import("../reader/key-file.ts");
  const only = "Only the command hook is set up";
  const header = Object.keys(credentialHeader(type, ""))[0];
  let token: string;
  try {
    token = await openKeyFile(tokenPath).get();
  } catch (error) {
    return `${only}: whether the gateway takes Authorization instead of ${header} cannot be tried without a token (${FreshkeyError.from(error).message}).`;
  }
  if (verify === undefined) {
    return `${only}: without \`verify\` the gateway cannot be asked whether it takes Authorization instead of ${header}.`;
  }
  const [bearer, own, none] = await Promise.all([
    probe(verify, credentialHeader("bearer", token)),
    probe(verify, credentialHeader(type, token)),
    probe(verify, {}),
  ]);
  // There need be nothing at that address: a gateway that asks for a credential first answers 404 only to a good one.
  if (isRefusal(none) && bearer !== undefined && bearer < 500 && !isRefusal(bearer)) return undefined;
  if (isRefusal(bearer)) {
    return `${only}: the gateway refuses \`Authorization: Bearer\` (${bearer}; with ${header}: ${own ?? "no answer"}), and the extension can send nothing else.`;
  }
  return `${only}: whether the gateway takes Authorization instead of ${header} cannot be told (${verify}: ${bearer ?? "no answer"}; without a credential: ${none ?? "no answer"}).`;
}

function isRefusal(status: number | undefined): boolean {
  return status === 401 || status === 403;
}

async function consent(invocation: Invocation, steps: readonly string[]): Promise<void> {
  if (invocation.flag("yes")) return;
  process.stderr.write(`freshkey will\n${steps.map((step) => `  - ${step}\n`).join("")}`);
  if (!process.stdin.isTTY) {
    throw new FreshkeyError("ERR_USAGE", "there is no terminal to ask on", {
      hint: "add --yes if that is what you want",
    });
  }
  const { createInterface } = await import("node:readline/promises");
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await terminal.question("Go on? [y/N] ");
  terminal.close();
  if (!/^y(es)?$/i.test(answer.trim())) throw new FreshkeyError("ERR_USAGE", "nothing was changed");
}

function environmentText(variables: Record<string, string>): string {
  return `# GitHub Copilot CLI with a token that freshkey keeps fresh; written by \`freshkey connect copilot --write\`.\n${shellExports(variables)}`;
}
