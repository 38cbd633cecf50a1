import { fileURLToPath } from "node:url";
import type { TokenConfig } from "../config/load.ts";
import { formatDuration } from "../core/duration.ts";
import { errno, FreshkeyError } from "../core/errors.ts";
import { mask } from "../core/mask.ts";
import { type Token, UNKNOWN_EXPIRY, unpublishable } from "../core/token.ts";
import { runChild } from "../os/child.ts";
import { mintCommand } from "../sources/command.ts";
import { mintFile } from "../sources/file.ts";
import type { MintAnswer, MintRequest } from "../sources/source.ts";

/** The program of the mint process: beside this file's folder, compiled or not. */
const MINT_PROCESS = fileURLToPath(import.meta.resolve("../sources/mint-process.js"));
const LONGEST_ANSWER = 256 * 1024;
/** The mint process gives up by itself a little before it is killed: its own error says more. */
const GRACE = 500;

/**
 * Gets a new token from the token's source, in a process of its own: it starts with empty caches, is killed with its
 * children at the deadline, gives its memory back, and takes nothing along when it crashes.
 *
 * @throws FreshkeyError of the source, or `ERR_SOURCE_…`; whatever it is, nothing has changed.
 */
export async function mint(
  config: TokenConfig,
  request: Pick<MintRequest, "claims" | "signal"> & { now: number },
): Promise<Token> {
  const full: MintRequest = { name: config.name, timeout: config.timeout, ...request };
  const token = await mintFrom(config, full);
  const problem = unpublishable(token.value);
  if (problem) throw new FreshkeyError("ERR_SOURCE_ANSWER", `the source's answer is not a token: ${problem}`);
  if (token.expires !== UNKNOWN_EXPIRY && token.expires <= request.now) {
    const ago = formatDuration(request.now - token.expires);
    throw new FreshkeyError("ERR_SOURCE_ANSWER", `${nameOf(config)} a token that expired ${ago} ago`, {
      hint:
        config.source === "file"
          ? "see to what writes that file: it has not put a new token there in time"
          : "compare this machine's clock with the source's; a command must not print an old token from a cache",
    });
  }
  return token;
}

/** A program is a process of its own already, and a file needs none. */
function mintFrom(config: TokenConfig, request: MintRequest): Promise<Token> {
  if (config.source === "command") return mintCommand(config.options, request);
  if (config.source === "file") return mintFile(config.options, request);
  return mintApart(config, request);
}

function nameOf(config: TokenConfig): string {
  return config.source === "file" ? `${config.options.path} holds` : "the source handed out";
}

async function mintApart(config: TokenConfig, request: MintRequest): Promise<Token> {
  const { source, options } = config;
  const { name, claims, timeout } = request;
  const input = `${JSON.stringify({ source, options, request: { name, claims, timeout: Math.max(1, timeout - GRACE) } })}\n`;
  const result = await runChild(process.execPath, [MINT_PROCESS], {
    env: mintEnvironment(),
    input,
    answerOn: 3,
    timeout,
    signal: request.signal,
    limit: LONGEST_ANSWER,
  }).catch((error) => {
    throw new FreshkeyError("ERR_SOURCE_FAILED", `the mint process cannot be started: ${errno(error)}`, {
      cause: error,
    });
  });
  if (result.ended === "timeout") {
    throw new FreshkeyError("ERR_SOURCE_TIMEOUT", `the source did not answer within ${formatDuration(timeout)}`, {
      hint: "see that its endpoint can be reached from here; a slow one needs a larger `timeout`",
    });
  }
  const answer = parseAnswer(result.answer);
  if (!answer) {
    const how = result.killed ?? `exit code ${result.code}`;
    throw new FreshkeyError(
      "ERR_SOURCE_FAILED",
      `the mint process ended without an answer (${how})${detail(result.stderr)}`,
      {
        hint: "if it happens again, run `freshkey renew --verbose` and report what it says",
      },
    );
  }
  if (!answer.ok) throw FreshkeyError.fromJSON(answer.error);
  return answer.token;
}

function parseAnswer(line: string): MintAnswer | undefined {
  try {
    return JSON.parse(line) as MintAnswer;
  } catch {
    return undefined;
  }
}

function detail(stderr: string): string {
  const words = mask(stderr);
  return words && `: ${words}`;
}

/** What would change how Node.js or an SDK behaves, or make an SDK write its requests, tokens and all, to stderr. */
const NOT_FOR_A_MINT = ["NODE_OPTIONS", "NODE_DEBUG", "NODE_DEBUG_NATIVE", "DEBUG", "AZURE_LOG_LEVEL"];

function mintEnvironment(): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = { ...process.env, AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED: "true" };
  for (const name of NOT_FOR_A_MINT) delete env[name];
  return env;
}
