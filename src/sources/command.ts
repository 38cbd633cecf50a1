import { statSync } from "node:fs";
import * as v from "valibot";
import { formatDuration } from "../core/duration.ts";
import { errno, FreshkeyError } from "../core/errors.ts";
import { mask } from "../core/mask.ts";
import { type ChildResult, runChild } from "../os/child.ts";
import { BadAnswer } from "./formats/answer.ts";
import { gitQuestion, isGitUrl } from "./formats/git.ts";
import { KUBERNETES_EXEC_INFO } from "./formats/kubernetes.ts";
import { FORMATS, parseToken } from "./formats/parse.ts";
import { readSecret, secretReference } from "./secret.ts";
import type { Mint, MintRequest } from "./source.ts";

const COMMAND_FORM =
  'must be a program and its arguments, such as ["az", "account", "get-access-token"]; a string goes with shell = true';
const word = v.pipe(v.string(), v.minLength(1, COMMAND_FORM));

const field = (example: string) => {
  const message = `must be a field's name, a way to it such as "${example}", or a JSON pointer such as "/${example.replace(".", "/")}"`;
  return v.optional(v.pipe(v.string(message), v.nonEmpty(message)));
};

/** Keys of `[tokens.NAME]` with `source = "command"`. */
export const commandOptions = v.pipe(
  v.strictObject({
    command: v.union([v.pipe(v.array(word), v.minLength(1, COMMAND_FORM)), word], COMMAND_FORM),
    shell: v.optional(v.boolean("must be true or false"), false),
    format: v.optional(v.picklist(FORMATS, `must be ${FORMATS.map((name) => `"${name}"`).join(", ")}`), "auto"),
    token_field: field("auth.client_token"),
    expiry_field: field("auth.expires_at"),
    url: v.optional(v.pipe(v.string("must be a URL"), v.nonEmpty("must be a URL"))),
    env: v.optional(
      v.record(v.pipe(v.string(), v.regex(/^[A-Za-z_]\w*$/, "must be a variable's name")), secretReference),
    ),
    cwd: v.optional(v.pipe(v.string("must be a path"), v.startsWith("/", "must be an absolute path"))),
  }),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    const input = dataset.value;
    const complain = (key: keyof typeof input, message: string) =>
      addIssue({ message, path: [{ type: "object", origin: "value", input, key, value: input[key] }] });
    const { format, url } = input;
    for (const key of ["token_field", "expiry_field"] as const) {
      if (input[key] !== undefined && format !== "json" && format !== "auto") {
        complain(key, `has no meaning for format = "${format}"; it goes with "json"`);
      }
    }
    const asks = format === "git-credential" || format === "docker-credential";
    if (asks && url === undefined) complain("url", `is needed for format = "${format}": whose credential it is to be`);
    if (!asks && url !== undefined) complain("url", `has no meaning for format = "${format}"`);
    if (format === "git-credential" && url !== undefined && !isGitUrl(url)) {
      complain("url", 'must be a URL, such as "https://git.example.com/team/repository"');
    }
  }),
);
export type CommandOptions = v.InferOutput<typeof commandOptions>;

/** Far above any token with what a program prints around it. */
const MOST_OUTPUT = 256 * 1024;

/** Runs a program and takes the token out of what it prints. */
export const mintCommand: Mint<CommandOptions> = async (options, request) => {
  const [file, args] = invocation(options);
  const env = await environment(options);
  const { cwd } = options;
  checkDirectory(cwd);
  const asked = Date.now();
  const limits = { timeout: request.timeout, signal: request.signal, limit: MOST_OUTPUT };
  const result = await runChild(file, args, { ...limits, env, cwd, ...question(options) }).catch((error) => {
    throw cannotStart(file, env, error);
  });
  checkEnd(result, file, options, request);
  try {
    const fields = { token: options.token_field, expiry: options.expiry_field };
    return parseToken(result.answer, options.format, asked, fields);
  } catch (error) {
    if (error instanceof BadAnswer) throw unusable(file, error.message);
    throw error;
  }
};

function invocation(options: CommandOptions): [string, string[]] {
  const { command } = options;
  if (options.shell) return ["/bin/sh", ["-c", typeof command === "string" ? command : command.join(" ")]];
  if (typeof command === "string") return [command, []];
  return [command[0]!, command.slice(1)];
}

/** Nobody is there to answer a question, neither on a terminal nor in a window. */
const UNATTENDED: Partial<Record<CommandOptions["format"], Readonly<Record<string, string>>>> = {
  "kubernetes-exec": { KUBERNETES_EXEC_INFO },
  "git-credential": { GIT_TERMINAL_PROMPT: "0", GIT_ASKPASS: "", GCM_INTERACTIVE: "never" },
};

async function environment({ env = {}, format }: CommandOptions): Promise<NodeJS.ProcessEnv> {
  const own = Object.entries(env).map(async ([name, value]) => [name, await readSecret(value)] as const);
  return { ...process.env, ...UNATTENDED[format], ...Object.fromEntries(await Promise.all(own)) };
}

/** What a credential helper is asked on stdin. It reads to the end before it answers. */
function question({ format, url }: CommandOptions): { input?: string; endInput?: boolean } {
  if (format === "git-credential") return { input: gitQuestion(url!), endInput: true };
  if (format === "docker-credential") return { input: `${url}\n`, endInput: true };
  return {};
}

/** Otherwise a missing directory looks like a missing program. */
function checkDirectory(cwd: string | undefined): void {
  if (cwd === undefined || statSync(cwd, { throwIfNoEntry: false })?.isDirectory()) return;
  throw new FreshkeyError("ERR_SOURCE_CONFIG", `there is no directory ${cwd} to run the command in`, {
    hint: "make it, or change `cwd`",
  });
}

/** @throws FreshkeyError if the program did not end well. */
function checkEnd(result: ChildResult, file: string, options: CommandOptions, { timeout }: MintRequest): void {
  // A docker-credential helper says on stdout what is wrong, once it has failed.
  const said = result.stderr.trim() || (options.format === "docker-credential" ? result.answer : "");
  const words = mask(said);
  const detail = words && `: ${words}`;
  if (result.ended === "timeout") {
    throw new FreshkeyError("ERR_SOURCE_TIMEOUT", `${file} did not end within ${formatDuration(timeout)}${detail}`, {
      hint: "run it in a terminal to see what it waits for; a program that needs longer needs a larger `timeout`",
    });
  }
  if (result.ended === "abort") throw new FreshkeyError("ERR_SOURCE_FAILED", `${file} was ended`);
  if (result.ended === "limit") throw unusable(file, `more than ${MOST_OUTPUT / 1024} KiB of output`);
  if (result.code === 0) return;
  // A shell's own codes for a program that is not there, or cannot be run.
  if (options.shell && (result.code === 127 || result.code === 126)) throw missing(words || file);
  const how = result.killed ? `was ended by ${result.killed}` : `ended with exit code ${result.code}`;
  throw new FreshkeyError("ERR_SOURCE_FAILED", `${file} ${how}${detail}`, {
    hint: "run the command of this token in a terminal; it must work there without asking anything",
  });
}

function cannotStart(file: string, env: NodeJS.ProcessEnv, error: unknown): FreshkeyError {
  const code = errno(error);
  if (code === "ENOENT" && !file.includes("/")) return missing(`${file} is not in PATH=${env.PATH ?? ""}`, error);
  if (code === "ENOENT" || code === "EACCES" || code === "ENOTDIR") return missing(`${file}: ${code}`, error);
  return new FreshkeyError("ERR_SOURCE_FAILED", `${file} cannot be started: ${code}`, { cause: error });
}

function missing(what: string, cause?: unknown): FreshkeyError {
  return new FreshkeyError("ERR_SOURCE_MISSING", `the command cannot be run (${what})`, {
    hint: "install it, or name it with its whole path: a service's PATH is shorter than a shell's",
    cause,
  });
}

function unusable(program: string, what: string): FreshkeyError {
  return new FreshkeyError("ERR_SOURCE_ANSWER", `${program} printed ${what}`, {
    hint: "run the command in a terminal: it must print one token in the form that `format` names, and nothing else",
  });
}
