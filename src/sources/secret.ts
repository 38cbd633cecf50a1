import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { isAbsolute } from "node:path";
import * as v from "valibot";
import { errno, FreshkeyError } from "../core/errors.ts";
import { mask } from "../core/mask.ts";
import { expandHome } from "../os/paths.ts";

const path = v.pipe(
  v.string(),
  v.check((file) => isAbsolute(file) || file.startsWith("~/"), 'must be an absolute path or begin with "~/"'),
);
const name = v.pipe(v.string(), v.nonEmpty("must be the name of an environment variable"));
const argv = v.pipe(
  v.array(v.string()),
  v.check(([program]) => Boolean(program), 'must be a program and its arguments, such as ["pass", "show", "entra"]'),
);

/**
 * Where a secret is: in the configuration itself, in a file, in an environment variable, or in what a program prints.
 * Each message is written here, because valibot's own would quote the value.
 */
export const secretReference = v.union(
  [
    v.pipe(v.string(), v.nonEmpty("must not be empty")),
    v.strictObject({ file: path }),
    v.strictObject({ env: name }),
    v.strictObject({ command: argv }),
  ],
  'must be a string, { file = "/path" }, { env = "NAME" } or { command = ["program", "argument"] }',
);

export type SecretReference = v.InferOutput<typeof secretReference>;

/** Milliseconds. A password manager that asks a person cannot be waited for; one that does not is much faster. */
const COMMAND_TIMEOUT = 10_000;
/** Bytes. No client secret is longer, so more than that is something else. */
const LIMIT = 64 * 1024;

/**
 * The secret itself, without its one trailing newline.
 *
 * @throws FreshkeyError `ERR_SOURCE_CONFIG` where it is missing, empty or unreadable; never with its content.
 */
export async function readSecret(reference: SecretReference): Promise<string> {
  if (typeof reference === "string") return notEmpty(reference, "the secret in the configuration");
  if ("env" in reference) {
    const value = process.env[reference.env];
    if (value === undefined) {
      throw new FreshkeyError("ERR_SOURCE_CONFIG", `the environment variable ${reference.env} is not set`, {
        hint: `Set ${reference.env} where freshkey runs (a service does not see a shell's variables), or use { file = … }.`,
      });
    }
    return notEmpty(value, `the environment variable ${reference.env}`);
  }
  if ("file" in reference) return notEmpty(await contentOf(reference.file), `the secret's file ${reference.file}`);
  const [program = "", ...args] = reference.command;
  return notEmpty(await outputOf(program, args), `the output of the secret's command ${program}`);
}

function notEmpty(text: string, what: string): string {
  const secret = text.replace(/\r?\n$/, "");
  if (secret !== "") return secret;
  throw new FreshkeyError("ERR_SOURCE_CONFIG", `${what} is empty`, { hint: "Put the secret there." });
}

async function contentOf(file: string): Promise<string> {
  try {
    return await readFile(expandHome(file), "utf8");
  } catch (error) {
    throw new FreshkeyError("ERR_SOURCE_CONFIG", `the secret's file ${file} cannot be read (${errno(error)})`, {
      hint: `Let ${file} exist and be readable by the user that freshkey runs as.`,
      cause: error,
    });
  }
}

/** Not in a process group of its own: whoever ends this mint with its group ends the program too. */
function outputOf(program: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { timeout: COMMAND_TIMEOUT, killSignal: "SIGKILL", maxBuffer: LIMIT } as const;
    const child = execFile(program, args, options, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout);
      const why = error.killed ? `no end within ${COMMAND_TIMEOUT / 1000} s` : `${error.code ?? error.signal}`;
      // The error's own message quotes the arguments, so it goes no further.
      const said = mask(stderr, 200);
      const message = `the secret's command ${program} failed (${why})${said && `: ${said}`}`;
      reject(
        new FreshkeyError("ERR_SOURCE_CONFIG", message, {
          hint: "Run the command by hand, as the user that freshkey runs as: it must print the secret and ask nothing.",
        }),
      );
    });
    child.stdin?.on("error", () => undefined);
    child.stdin?.end();
  });
}
