import { spawn } from "node:child_process";
import { readdirSync, rmSync, statSync } from "node:fs";
import { constants } from "node:os";
import { basename, join } from "node:path";
import type { Agent, AgentOptions } from "../agent/agent.ts";
import { copilotEnvironment, STATIC_KEYS } from "../clients/copilot.ts";
import type { Config, TokenConfig } from "../config/load.ts";
import { errno, FreshkeyError } from "../core/errors.ts";
import { sleep } from "../os/clock.ts";
import { lockIsHeld } from "../os/lock.ts";
import { makePrivateDirectory, runDirectory } from "../os/paths.ts";
import { openKeyFile } from "../reader/key-file.ts";
import { openConfig, openVerbLog, READER } from "./context.ts";
import { copilotProvider } from "./copilot-provider.ts";
import type { Invocation, Verb } from "./verb.ts";

/** While the child runs, an agent that has gone is succeeded within this time. */
const SUCCEED_EVERY = 1_000;
/** An abandoned directory is removed when it is older than any that is just being made. */
const ABANDONED = 60_000;
/** Those by which a person or a service manager ends a program. */
const SIGNALS = ["SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP"] as const;
type Signal = (typeof SIGNALS)[number];

export const exec: Verb = {
  usage: "exec -- COMMAND …",
  summary: "run a client with a token that stays fresh; with an agent of its own if none runs",
  details: `The command gets the variables by which its client asks for the token before every request
(COPILOT_PROVIDER_API_KEY_COMMAND, COPILOT_PROVIDER_API_KEY_FILE, base URL and model of [clients.copilot]);
static keys are taken out of its environment. Nothing else is changed, and the exit code is its own.
With --mint no configuration is needed: COMMAND, run by /bin/sh, prints the token, alone or in JSON.`,
  options: {
    token: {
      value: "NAME",
      help: "the token of the configuration; by default that of [clients.copilot], or the only one",
    },
    mint: { value: "COMMAND", help: "the command that prints the token; no configuration is read" },
    every: { value: "DURATION", help: "with --mint: how often to run it where its output tells no expiry (30m)" },
  },
  examples: [
    ["freshkey exec -- copilot", "GitHub Copilot CLI with the configured token"],
    [
      "freshkey exec --mint 'az account get-access-token --resource https://example.com' -- copilot",
      "without any configuration",
    ],
  ],
  operands: Number.POSITIVE_INFINITY,
  run,
};

async function run(invocation: Invocation): Promise<number> {
  const [file, ...args] = commandOf(invocation);
  const place = invocation.text("mint") === undefined ? await configured(invocation) : await mintOnly(invocation);
  const log = await openVerbLog(invocation);
  const interrupted = new AbortController();
  for (const signal of SIGNALS) process.once(signal, () => interrupted.abort(signal));
  const key = openKeyFile(place.token.path, { wait: place.token.timeout + 5_000 });
  let stopKeeping: (() => Promise<void>) | undefined;
  try {
    stopKeeping = await keepAgent(place.config, { run: place.run, log });
    // A client that starts without a token fails in its own words; here the source's own can be shown.
    await key.get({ signal: interrupted.signal });
    interrupted.signal.throwIfAborted();
    const hooks = copilotEnvironment(copilotProvider(place.config, place.token), READER);
    return await runClient(file!, args, { ...hooks, FRESHKEY_TOKEN_FILE: place.token.path });
  } catch (error) {
    // Somebody did not want to wait for the token.
    if (error === interrupted.signal.reason) return 128 + constants.signals[error as Signal];
    throw error;
  } finally {
    await key.close();
    await stopKeeping?.();
    if (place.temporary) rmSync(place.run, { recursive: true, force: true });
  }
}

function commandOf(invocation: Invocation): readonly string[] {
  const hint = "put the command behind two hyphens: freshkey exec -- copilot";
  if (invocation.operands.length > 0) {
    throw new FreshkeyError("ERR_USAGE", `${JSON.stringify(invocation.operands[0])} stands before the --`, { hint });
  }
  if (invocation.command.length === 0) throw new FreshkeyError("ERR_USAGE", "there is no command to run", { hint });
  return invocation.command;
}

interface Place {
  readonly config: Config;
  readonly token: TokenConfig;
  readonly run: string;
  readonly temporary: boolean;
}

async function configured(invocation: Invocation): Promise<Place> {
  const { tokenOf } = await import("../config/load.ts");
  if (invocation.text("every") !== undefined) {
    throw new FreshkeyError("ERR_USAGE", "--every goes with --mint", {
      hint: "in the configuration, give the token a `cron`",
    });
  }
  const config = await openConfig(invocation);
  const token = tokenOf(config, invocation.text("token") ?? config.clients.get("copilot")?.token);
  return { config, token, run: runDirectory().path, temporary: false };
}

/** A runtime directory of this process's own, with one token in it: any number of these may run side by side. */
async function mintOnly(invocation: Invocation): Promise<Place> {
  const { usualTokenPath } = await import("../config/load.ts");
  if (invocation.text("token") !== undefined)
    throw new FreshkeyError("ERR_USAGE", "--token and --mint exclude each other");
  const every = invocation.duration("every");
  const parent = runDirectory().path;
  const run = join(parent, `exec-${process.pid}`);
  // Pids come round again: another's token must not be taken for this one's.
  rmSync(run, { recursive: true, force: true });
  makePrivateDirectory(run);
  await removeAbandoned(parent, run);
  const token: TokenConfig = {
    name: "mint",
    source: "command",
    options: { command: invocation.text("mint")!, shell: true, format: "auto" },
    path: usualTokenPath(run, "mint"),
    ownDirectory: true,
    timeout: 30_000,
    jitter: 0,
    every,
    baseUrls: process.env.COPILOT_PROVIDER_BASE_URL ? [process.env.COPILOT_PROVIDER_BASE_URL] : [],
  };
  return { config: { file: "", tokens: new Map([["mint", token]]), clients: new Map() }, token, run, temporary: true };
}

/** Directories of processes that were killed. The lock, not the pid, tells whether one is in use. */
async function removeAbandoned(parent: string, own: string): Promise<void> {
  for (const name of readdirSync(parent).filter((entry) => /^exec-\d+$/.test(entry))) {
    const path = join(parent, name);
    const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    if (path === own || age < ABANDONED) continue;
    // One that never got so far has no directory for its lock.
    if (await lockIsHeld(join(path, "agent")).catch(() => false)) continue;
    rmSync(path, { recursive: true, force: true });
  }
}

/** Sees to it that there is an agent: this process becomes it whenever nobody else is. */
async function keepAgent(config: Config, options: AgentOptions): Promise<() => Promise<void>> {
  const { Agent } = await import("../agent/agent.ts");
  let agent: Agent | undefined;
  const succeed = async () => {
    if (agent) return;
    agent = await Agent.open(config, options);
    agent?.start();
  };
  await succeed();
  const stop = new AbortController();
  const kept = (async () => {
    for (;;) {
      await sleep(SUCCEED_EVERY, stop.signal);
      await succeed().catch((error) => options.log.warn(error.message));
    }
  })().catch(() => undefined);
  return async () => {
    stop.abort();
    await kept;
    await agent?.close();
  };
}

/** Runs the client in this terminal as if it had been started there, and returns what its exit code would be in a shell. */
function runClient(file: string, args: readonly string[], hooks: Record<string, string>): Promise<number> {
  const env = { ...process.env, ...hooks };
  for (const name of STATIC_KEYS) delete env[name as keyof typeof env];
  const child = spawn(file, args, { stdio: "inherit", env });
  // The terminal sends these to the whole group: the client decides what they mean.
  for (const signal of ["SIGINT", "SIGQUIT"] as const) process.on(signal, () => undefined);
  for (const signal of ["SIGTERM", "SIGHUP"] as const) process.on(signal, () => child.kill(signal));
  return new Promise((resolve, reject) => {
    child.once("error", (error) => {
      const hint = errno(error) === "ENOENT" ? `install ${basename(file)}, or name it with its whole path` : undefined;
      reject(new FreshkeyError("ERR_CLIENT", `cannot run ${file}: ${errno(error)}`, { hint, cause: error }));
    });
    child.once("exit", (code, signal) => resolve(code ?? 128 + (signal ? constants.signals[signal] : 0)));
  });
}
