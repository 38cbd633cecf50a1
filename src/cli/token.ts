import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { NoAgent } from "../os/control-client.ts";
import { runDirectory } from "../os/paths.ts";
import { openKeyFile } from "../reader/key-file.ts";
import { CLIENT_BASE_URLS, checkOrigin } from "../reader/origin.ts";
import { finishInBackground, openConfig, openVerbLog } from "./context.ts";
import { result } from "./output.ts";
import type { Invocation, Verb } from "./verb.ts";

export const token: Verb = {
  usage: "token [NAME|PATH]",
  summary: "print a fresh token; wait for one, or say why there is none",
  details: `What a client runs before its requests; \`freshkey-token\` is the same as a shell script that answers in
milliseconds and asks this verb only when the token is missing or stale. NAME is a token of the configuration,
PATH a token file (anything with a slash); without either it is COPILOT_PROVIDER_API_KEY_FILE, or the only
token there is. Nothing but the token is printed: no newline, except on a terminal. With --json the expiry
(epoch seconds, 0 if unknown) and the fingerprint are printed as well.`,
  options: {
    wait: { value: "DURATION", help: "how long to wait for a fresh token (4s)" },
    "min-validity": { value: "DURATION", help: "how much life it must have left (30s; less for short-lived ones)" },
  },
  examples: [
    ["freshkey token copilot", "print the token of that name"],
    ["freshkey token --wait 60s copilot", "wait up to a minute for whoever has to sign in"],
  ],
  operands: 1,
  run,
};

async function run(invocation: Invocation): Promise<number> {
  const path = await tokenPath(invocation);
  const minValidity = invocation.duration("min-validity");
  const wait = invocation.duration("wait");
  const key = openKeyFile(path, {
    ...(wait !== undefined && { wait }),
    ...(minValidity !== undefined && { minValidity }),
    renew: (request, limits) => renewHere(invocation, path, request, limits),
  });
  const { value, json, fingerprint, expires } = await key.read();
  for (const variable of CLIENT_BASE_URLS) checkOrigin(json?.base_url ?? "", process.env[variable], variable);
  if (invocation.flag("json")) {
    result(`${JSON.stringify({ token: value, expires: Math.floor(expires / 1000), fingerprint })}\n`);
  } else {
    result(process.stdout.isTTY ? `${value}\n` : value);
  }
  return 0;
}

/** A token that is there already is found without the configuration: that is the way most calls go. */
async function tokenPath(invocation: Invocation): Promise<string> {
  const [operand = process.env.COPILOT_PROVIDER_API_KEY_FILE || undefined] = invocation.operands;
  if (operand?.includes("/")) return resolve(operand);
  const { tokenOf, usualTokenPath } = await import("../config/load.ts");
  const usual = operand === undefined ? undefined : usualTokenPath(runDirectory().path, operand);
  if (usual !== undefined && existsSync(usual)) return usual;
  return tokenOf(await openConfig(invocation), operand).path;
}

/** No agent runs: this process gets the token, if the configuration says how. */
async function renewHere(
  invocation: Invocation,
  path: string,
  request: { name: string; seen: string; reason: "expired" | "rejected" | "suspect" | "manual" },
  limits: { timeout: number; signal: AbortSignal },
): Promise<void> {
  const { renew } = await import("../agent/renew.ts");
  const config = await openConfig(invocation).catch((error) => {
    // Without a configuration something else keeps the file: it is waited for.
    throw error.code === "ERR_CONFIG_MISSING" ? new NoAgent(error.message, { cause: error }) : error;
  });
  const known = [...config.tokens.values()].find((candidate) => candidate.path === path);
  if (!known) throw new NoAgent(`${path} is no token of ${config.file}`);
  await renew(
    config,
    { ...request, name: known.name },
    {
      run: runDirectory().path,
      log: await openVerbLog(invocation),
      ...limits,
      unfinished: () => finishInBackground(config, known.name),
    },
  );
}
