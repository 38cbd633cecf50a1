import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { FreshkeyError } from "../core/errors.ts";
import { fingerprint } from "../core/token.ts";
import { deadline } from "../os/clock.ts";
import { NoAgent, type RenewRequest } from "../os/control-client.ts";
import { runDirectory } from "../os/paths.ts";
import { openKeyFile } from "../reader/key-file.ts";
import { CLIENT_BASE_URLS, checkOrigin } from "../reader/origin.ts";
import { readTokenFile, type TokenFile } from "../reader/token-file.ts";
import { parseAttributes } from "../sources/formats/git.ts";
import { finishInBackground, openConfig, openVerbLog } from "./context.ts";
import {
  formatJson,
  formatToken,
  HELPER_FORMATS,
  type HelperFormat,
  mayGoTo,
  nothingFor,
  OPERATIONS,
  type Question,
  readInput,
  serverOf,
  takesOperation,
  USUAL_USERNAME,
} from "./helper.ts";
import { result } from "./output.ts";
import type { Invocation, Verb } from "./verb.ts";

/** Milliseconds. Unlike coding clients, aws, kubectl, git and docker have all the time that a source may take. */
const HELPER_WAIT = 30_000;
/** Milliseconds for git and docker to say what they want, and for git to be kept by what it says by the way. */
const SHORT_WAIT = 4_000;

export const token: Verb = {
  usage: "token [NAME|PATH]",
  summary: "print a fresh token; wait for one, or say why there is none",
  details: `What a client runs before its requests; \`freshkey-token\` is the same as a shell script that answers in
milliseconds and asks this verb only when the token is missing or stale. NAME is a token of the configuration,
PATH a token file (anything with a slash); without either it is COPILOT_PROVIDER_API_KEY_FILE, or the only
token there is. Nothing but the token is printed: no newline, except on a terminal. With --json the expiry
(epoch seconds, 0 if unknown) and the fingerprint are printed as well.

With --format it is the credential helper of another program: a credential_process of aws, an exec plug-in of
kubectl, a helper of git or docker. The last two put get, store or erase behind NAME and name their server on
stdin; a token that has a base_url in the configuration is given to them for that origin only. Nothing is
stored; a token that git has erased, because the server refused it, is renewed.`,
  options: {
    wait: { value: "DURATION", help: "how long to wait for a fresh token (4s; as a helper of another program 30s)" },
    format: { value: "FORMAT", help: HELPER_FORMATS.join(", ") },
    username: { value: "NAME", help: `for git and docker: the user's name beside the token (${USUAL_USERNAME})` },
    rejected: { value: "FINGERPRINT", help: "of the token that was answered with a 401: get another one" },
    "min-validity": { value: "DURATION", help: "how much life it must have left (30s; less for short-lived ones)" },
  },
  examples: [
    ["freshkey token copilot", "print the token of that name"],
    [
      "git config credential.https://git.example.com.helper '!freshkey token --format git-credential copilot'",
      "let git use the token for that server",
    ],
    ["freshkey token --wait 60s copilot", "wait up to a minute for whoever has to sign in"],
  ],
  operands: 2,
  run,
};

async function run(invocation: Invocation): Promise<number> {
  const format = formatOf(invocation);
  const { target, operation } = operandsOf(invocation, format);
  if (takesOperation(format)) return help(invocation, target, format!, operation);
  const path = await tokenPath(invocation, target);
  const token = await readToken(invocation, path, format === "json" ? undefined : format);
  if (format) result(formatToken(token, { format, operation, input: "", username: "" }));
  else if (invocation.flag("json")) result(formatJson(token));
  else result(process.stdout.isTTY ? `${token.value}\n` : token.value);
  return 0;
}

function formatOf(invocation: Invocation): HelperFormat | undefined {
  const named = invocation.text("format");
  const format = HELPER_FORMATS.find((known) => known === named);
  const usage = (problem: string) =>
    new FreshkeyError("ERR_USAGE", problem, { hint: `the formats are ${HELPER_FORMATS.join(", ")}` });
  if (named !== undefined && format === undefined) throw usage(`there is no format "${named}"`);
  if (format && format !== "json" && invocation.flag("json"))
    throw usage(`--json and --format ${format} exclude each other`);
  const username = invocation.text("username");
  if (username !== undefined && !takesOperation(format)) throw usage("--username goes with a format of git or docker");
  if (username !== undefined && /[\x00-\x1f]/.test(username)) throw usage("--username has control characters in it");
  return format;
}

/** `[NAME] [OPERATION]`; git and docker always name an operation, a person who tries it out does not. */
function operandsOf(invocation: Invocation, format: HelperFormat | undefined): { target?: string; operation: string } {
  const [first, second] = invocation.operands;
  if (second !== undefined && !takesOperation(format)) {
    throw new FreshkeyError("ERR_USAGE", `${JSON.stringify(second)} is one word too many`, {
      hint: "see: freshkey token --help",
    });
  }
  if (second === undefined && takesOperation(format) && OPERATIONS.includes(first ?? "")) return { operation: first! };
  return { ...(first !== undefined && { target: first }), operation: second ?? "get" };
}

/** Answers git or docker. What docker is to see of an error goes to stdout, too. */
async function help(
  invocation: Invocation,
  target: string | undefined,
  format: HelperFormat,
  operation: string,
): Promise<number> {
  const wait = Math.min(invocation.duration("wait") ?? SHORT_WAIT, SHORT_WAIT);
  const input = await readInput(wait);
  const question: Question = { format, operation, input, username: invocation.text("username") ?? USUAL_USERNAME };
  if (operation === "list" && format === "docker-credential") result("{}\n");
  if (operation === "erase" && format === "git-credential") await reject(invocation, target, input, wait);
  if (operation !== "get") return 0;
  try {
    const token = await readToken(invocation, await tokenPath(invocation, target), format);
    if (mayGoTo(serverOf(question), token)) {
      result(formatToken(token, question));
      return 0;
    }
    const { text, code } = nothingFor(format);
    result(text);
    return code;
  } catch (error) {
    if (format === "docker-credential") result(`${FreshkeyError.from(error).message}\n`);
    throw error;
  }
}

/** git erases a password that the server has refused: a hint that another token is needed, if it was this one. */
async function reject(
  invocation: Invocation,
  target: string | undefined,
  input: string,
  timeout: number,
): Promise<void> {
  const { signal, end } = deadline(timeout);
  try {
    const path = await tokenPath(invocation, target);
    const found = readTokenFile(path);
    const refused = parseAttributes(input)?.get("password");
    if (!found?.json || refused === undefined || fingerprint(refused) !== found.fingerprint) return;
    const request = { name: found.json.name, seen: found.fingerprint, reason: "rejected" as const };
    await renewHere(invocation, path, request, { timeout, signal });
  } catch {
    // It was a hint. Whoever asks for the token next is told what is wrong.
  } finally {
    end();
  }
}

async function readToken(invocation: Invocation, path: string, helper?: HelperFormat): Promise<TokenFile> {
  const minValidity = invocation.duration("min-validity");
  const wait = invocation.duration("wait") ?? (helper && HELPER_WAIT);
  const key = openKeyFile(path, {
    ...(wait !== undefined && { wait }),
    ...(minValidity !== undefined && { minValidity }),
    renew: (request, limits) => renewHere(invocation, path, request, limits),
  });
  const token = await key.read({ rejected: invocation.text("rejected") });
  for (const variable of CLIENT_BASE_URLS) checkOrigin(token.json?.base_url ?? "", process.env[variable], variable);
  return token;
}

/** A token that is there already is found without the configuration: that is the way most calls go. */
async function tokenPath(invocation: Invocation, target: string | undefined): Promise<string> {
  const operand = target ?? (process.env.COPILOT_PROVIDER_API_KEY_FILE || undefined);
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
  request: Omit<RenewRequest, "op">,
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
