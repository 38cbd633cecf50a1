/**
 * COPILOT_PROVIDER_API_KEY_FILE for the unmodified GitHub Copilot CLI: an extension that gives each session a token
 * callback, which reads the key file again before every request. Bundled to one file; `connect` puts the settings in
 * front of it.
 *
 * Whatever ends this process before it has joined the session leaves the CLI to the command hook; what ends it later
 * ends the session. So doubts come first, and afterwards nothing may throw but the callback.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { joinSession, type Session, type SessionEvent } from "@github/copilot-sdk/extension";
import { errno, FreshkeyError } from "../core/errors.ts";
import type { Renew } from "../reader/ask.ts";
import { openKeyFile } from "../reader/key-file.ts";
import { checkOrigin } from "../reader/origin.ts";
import { readTokenJson } from "../reader/token-file.ts";
import type { ExtensionSettings } from "./copilot.ts";

declare const settings: ExtensionSettings;

// stdout is the channel to the CLI: one line of text on it would end the session.
console.log = console.info = console.debug = console.error;

/** The CLI waits for the callback: longer than for a command, not for ever. */
const WAIT = 20_000;
/** By so much a process that renews gives up earlier: it needs time to start, and to say why. */
const HEAD_START = 1_000;

const named = process.env.COPILOT_PROVIDER_API_KEY_FILE;
const path = resolve(named || settings.tokenPath);
const key = openKeyFile(path, {
  wait: WAIT,
  ...(settings.minValidity !== undefined && { minValidity: settings.minValidity }),
  renew: (request, { timeout, signal }) => renewApart(request, timeout, signal),
});
let session: Session | undefined;
let told = false;
/** The rejected token of which the user was told that there is no other. */
let complained = "";
/** The last tokens that were handed out, and when each was for the first time. */
const given: { fingerprint: string; at: number }[] = [];
/** Of so many: a request that fails was seldom sent before the last renewal but one. */
const REMEMBERED = 3;

const doubt = named ? doubtAbout(path) : undefined;
if (!named || doubt) {
  // Not joining at all would keep the CLI waiting for half a minute; joined like this, it goes by its environment.
  session = await joinSession({});
  if (doubt && path === settings.tokenPath) warn(`${doubt}; to mend this: freshkey connect copilot --write`);
} else {
  session = await joinSession({ provider: { ...settings.provider, bearerTokenProvider: token } });
  session.on?.(observe);
}
process.on("uncaughtException", (error) => console.error(error));

/**
 * What speaks against this token: a session may use another gateway than the one that this extension was written for
 * (`freshkey exec`, a changed configuration), and a token goes nowhere but to its own.
 */
function doubtAbout(path: string): string | undefined {
  const configured = readTokenJson(path)?.base_url ?? "";
  if (configured === "" && path !== settings.tokenPath) return "nothing says which gateway this token is for";
  try {
    checkOrigin(configured, settings.provider.baseUrl, "freshkey's extension");
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

async function token(): Promise<string> {
  try {
    const { value, json, fingerprint } = await key.read();
    checkOrigin(json?.base_url ?? "", settings.provider.baseUrl, "freshkey's extension");
    told = false;
    if (given.at(-1)?.fingerprint !== fingerprint) given.push({ fingerprint, at: performance.now() });
    if (given.length > REMEMBERED) given.shift();
    return value;
  } catch (thrown) {
    // Of an error the CLI shows the message and nothing else, and only after five more attempts.
    const text = textOf(thrown);
    if (!told) warn(text);
    told = true;
    throw new Error(text);
  }
}

/** A 401 is known here a second before the CLI asks for a token again: it is then given the new one. */
function observe({ type, data }: SessionEvent): void {
  if (type !== "model.call_failure" || data?.statusCode !== 401) return;
  // Sub-agents send at the same time: one of them may have been handed a newer token since.
  const sent = performance.now() - (data.durationMs ?? 0);
  const rejected = given.findLast(({ at }) => at <= sent) ?? given[0];
  if (!rejected) return;
  key.get({ rejected: rejected.fingerprint }).catch((error) => {
    // The CLI goes on with what there is, and shows the gateway's 401: why there is no other token, only we know.
    const act = ["sign-in", "permanent"].includes(FreshkeyError.from(error).class);
    if (act && complained !== rejected.fingerprint) warn(textOf(error));
    if (act) complained = rejected.fingerprint;
  });
}

function textOf(thrown: unknown): string {
  const { message, hint } = FreshkeyError.from(thrown);
  return hint ? `${message}\n  → ${hint}` : message;
}

/** Tells the user, in the session's timeline. */
function warn(text: string): void {
  session?.log(`freshkey: ${text}`, { level: "warning" }).catch(() => undefined);
}

/** No agent runs: the program renews in a process of its own. What it prints, the token, is not read. */
function renewApart(request: Parameters<Renew>[0], timeout: number, signal: AbortSignal): Promise<void> {
  const [node, program] = settings.program;
  const gone = [node, program].find((file) => !existsSync(file));
  if (gone) return Promise.reject(cannotRenew(`${gone} is not there any more`));
  const wait = Math.max(1, Math.floor(timeout) - HEAD_START);
  const rejected = request.reason === "rejected" ? ["--rejected", request.seen] : [];
  const child = spawn(node, [program, "token", path, "--wait", `${wait}ms`, ...rejected], {
    stdio: ["ignore", "ignore", "pipe"],
    signal,
  });
  return new Promise((resolve, reject) => {
    let said = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
    child.once("error", (error) => reject(signal.aborted ? signal.reason : cannotRenew(String(errno(error)))));
    child.once("close", (code) => {
      if (code === 0) return resolve();
      const why = said.replaceAll(/^freshkey: /gm, "").trim();
      reject(new FreshkeyError("ERR_TOKEN_EXPIRED", why || `freshkey token ended with exit code ${code}`));
    });
  });
}

function cannotRenew(why: string): FreshkeyError {
  return new FreshkeyError("ERR_CLIENT", `no agent runs, and freshkey cannot be started: ${why}`, {
    hint: "start the agent (freshkey agent), or put this extension in place again: freshkey connect copilot --write",
  });
}
