/**
 * `freshkey token --format …`: any token through the hook that `aws`, `kubectl`, `git` or `docker` has for credentials.
 * git and docker say on the command line what they want, and on stdin for whom.
 */
import { FreshkeyError } from "../core/errors.ts";
import { sleep } from "../os/clock.ts";
import { isForOrigin } from "../reader/origin.ts";
import type { TokenFile } from "../reader/token-file.ts";
import { formatAwsCredentials } from "../sources/formats/aws.ts";
import { formatDockerCredential, NOT_FOUND } from "../sources/formats/docker.ts";
import { formatGitCredential, parseAttributes } from "../sources/formats/git.ts";
import { formatExecCredential } from "../sources/formats/kubernetes.ts";

export const HELPER_FORMATS = [
  "aws-credential-process",
  "kubernetes-exec",
  "git-credential",
  "docker-credential",
  "json",
] as const;
export type HelperFormat = (typeof HELPER_FORMATS)[number];

/** What git and docker put behind the helper's name. git-credential helpers pass over what they don't know. */
export const OPERATIONS = ["get", "store", "erase", "list"];

/** What a client asks a helper for. */
export interface Question {
  readonly format: HelperFormat;
  readonly operation: string;
  /** What the client wrote to stdin. */
  readonly input: string;
  /** The user's name beside the token, where the protocol has one. */
  readonly username: string;
}

/** Formats whose clients name an operation, and the server on stdin. */
export function takesOperation(format: HelperFormat | undefined): boolean {
  return format === "git-credential" || format === "docker-credential";
}

/** Most gateways that take a token as a password look at nothing else; GitLab looks for this. */
export const USUAL_USERNAME = "oauth2";

/** Far above what git or docker write. */
const MOST_INPUT = 64 * 1024;

/**
 * What the client wrote to stdin, which it closes then. Nothing is read from a terminal, and nothing is waited for
 * longer than `timeout` milliseconds.
 */
export async function readInput(timeout: number, stdin: NodeJS.ReadStream = process.stdin): Promise<string> {
  if (stdin.isTTY) return "";
  const chunks: Buffer[] = [];
  let size = 0;
  const finished = new AbortController();
  const read = new Promise<void>((resolve) => {
    stdin.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size <= MOST_INPUT) chunks.push(chunk);
    });
    stdin.once("end", resolve);
    stdin.once("error", () => resolve());
  });
  await Promise.race([read, sleep(timeout, finished.signal).catch(() => undefined)]);
  finished.abort();
  stdin.destroy();
  return Buffer.concat(chunks).toString("utf8");
}

/** The server that the client asks for: a URL; undefined where it names none. */
export function serverOf({ format, input }: Question): string | undefined {
  if (format === "docker-credential") return dockerServer(input.trim());
  const attributes = parseAttributes(input);
  const host = attributes?.get("host");
  return host && `${attributes?.get("protocol") ?? "https"}://${host}`;
}

/** A registry's address has no scheme, mostly, and is https then. */
function dockerServer(address: string): string | undefined {
  if (address === "") return undefined;
  return /^[a-z]+:\/\//i.test(address) ? address : `https://${address}`;
}

/**
 * Whether the token may go where the client wants to send it: to the origins that it is configured for, and never in
 * the clear over a network.
 */
export function mayGoTo(server: string | undefined, token: TokenFile): boolean {
  if (server === undefined) return true;
  if (!URL.canParse(server)) return false;
  const { protocol, hostname } = new URL(server);
  const loopback = ["localhost", "127.0.0.1", "[::1]"].includes(hostname);
  if (protocol !== "https:" && !(protocol === "http:" && loopback)) return false;
  return isForOrigin(token.json?.base_url ?? "", server);
}

/** Says in the client's own way that there is nothing for it here: it goes on to ask others, or without. */
export function nothingFor(format: HelperFormat): { text: string; code: number } {
  return format === "docker-credential" ? { text: `${NOT_FOUND}\n`, code: 1 } : { text: "", code: 0 };
}

/**
 * The token in the form that the client reads.
 *
 * @throws FreshkeyError `ERR_USAGE` where the token cannot be said in it.
 */
export function formatToken(token: TokenFile, { format, input, username }: Question): string {
  switch (format) {
    case "aws-credential-process": {
      const text = formatAwsCredentials(token.value);
      if (text !== undefined) return text;
      throw new FreshkeyError("ERR_USAGE", "this token is no AWS credentials, and nothing can be signed with it", {
        hint: 'aws needs an access key and its secret: a `command` whose format is "aws-credential-process" keeps them all',
      });
    }
    case "kubernetes-exec":
      return formatExecCredential(token, process.env.KUBERNETES_EXEC_INFO);
    case "git-credential":
      return formatGitCredential(token, parseAttributes(input)?.get("username") ? undefined : username);
    case "docker-credential":
      return formatDockerCredential(token, input.trim(), username);
    case "json":
      return formatJson(token);
  }
}

/** The document of `--json`. */
export function formatJson({ value, expires, fingerprint }: TokenFile): string {
  return `${JSON.stringify({ token: value, expires: Math.floor(expires / 1000), fingerprint })}\n`;
}
