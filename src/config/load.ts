import { readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type * as v from "valibot";
import { modelsUrl } from "../clients/probe.ts";
import { errno, FreshkeyError } from "../core/errors.ts";
import { tokenJsonPath } from "../reader/token-file.ts";
import type { AwsOptions } from "../sources/aws.ts";
import type { AzureOptions } from "../sources/azure.ts";
import type { CommandOptions } from "../sources/command.ts";
import type { FileOptions } from "../sources/file.ts";
import { parseDocument } from "./document.ts";
import { Mistakes } from "./mistakes.ts";
import { nearest } from "./nearest.ts";
import {
  type ClientOptions,
  clientOptions,
  NAME_FORM,
  RESERVED_NAMES,
  type SourceName,
  sourceOptions,
  tokenOptions,
  topOptions,
} from "./schema.ts";
import { checkLiteralSecrets } from "./secrets.ts";
import { isTable } from "./table.ts";

/** A source's name with the options that are its own. */
export type SourceConfig =
  | { readonly source: "azure"; readonly options: AzureOptions }
  | { readonly source: "aws"; readonly options: AwsOptions }
  | { readonly source: "command"; readonly options: CommandOptions }
  | { readonly source: "file"; readonly options: FileOptions };

/** One token, ready for use: durations in milliseconds, defaults filled in. */
export type TokenConfig = SourceConfig & {
  readonly name: string;
  /** The token file's path. */
  readonly path: string;
  /** The directory is freshkey's own: made when it is missing, removed with the token. */
  readonly ownDirectory: boolean;
  readonly mode?: number | undefined;
  readonly group?: string | number | undefined;
  readonly refreshBefore?: number | undefined;
  readonly minValidity?: number | undefined;
  readonly timeout: number;
  readonly cron?: string | undefined;
  readonly timezone?: string | undefined;
  readonly jitter: number;
  /** For a token of unknown expiry without `cron`. */
  readonly every?: number | undefined;
  /** Where a token can be tried (a GET that costs nothing). */
  readonly verify?: string | undefined;
  /** How its clients send it; OpenAI's way where there is none. */
  readonly clientType?: ClientOptions["type"] | undefined;
  /** Base URLs of the clients that use it. */
  readonly baseUrls: readonly string[];
};

export type ClientConfig = ClientOptions & { readonly name: string };

export interface Config {
  readonly file: string;
  readonly tokens: ReadonlyMap<string, TokenConfig>;
  readonly clients: ReadonlyMap<string, ClientConfig>;
  /** The program that is told what a person has to know; a desktop note without it. */
  readonly notify?: readonly string[] | undefined;
  /** The audit log's path. */
  readonly audit?: string | undefined;
}

/** The token file of the token `name`, where its `file` does not say otherwise. */
export function usualTokenPath(run: string, name: string): string {
  return join(run, name, "token");
}

/**
 * Reads and checks the configuration. `run` is the runtime directory that token files are in.
 *
 * @throws FreshkeyError `ERR_CONFIG_MISSING`, `ERR_CONFIG_SYNTAX`, or `ERR_CONFIG_INVALID` with every mistake in it,
 *   each with file, line and key, and what is allowed.
 */
export async function loadConfig(file: string, run: string): Promise<Config> {
  const document = parseDocument(readConfig(file), file);
  const mistakes = new Mistakes(file, document);
  const { tokens: tokenTables, clients: clientTables, ...others } = document.values;
  const top = mistakes.check(topOptions, others, [], [...Object.keys(topOptions.entries), "tokens", "clients"]);

  const clients = new Map<string, ClientConfig>();
  for (const [name, table] of tables(clientTables, ["clients"], mistakes)) {
    const path = ["clients", name];
    const options = mistakes.check(clientOptions, table, path, Object.keys(clientOptions.entries));
    if (options) clients.set(name, { ...options, name });
  }
  const tokens = new Map<string, TokenConfig>();
  for (const [name, table] of tables(tokenTables, ["tokens"], mistakes)) {
    const token = await checkToken(name, table, { mistakes, run, clients: [...clients.values()], file });
    if (token) tokens.set(name, token);
  }
  checkPlaces(tokens.values(), { run, audit: top?.audit }, mistakes);
  for (const [client, { token: named }] of tables(clientTables, ["clients"])) {
    const path = ["clients", client, "token"];
    const token = typeof named === "string" ? tokens.get(named) : undefined;
    if (token?.source === "command" && token.options.format === "aws-credential-process") {
      mistakes.add(path, `"${token.name}" is a whole set of AWS credentials: no gateway may see their secret`);
    }
    const known = isTable(tokenTables) ? Object.keys(tokenTables) : [];
    if (typeof named !== "string" || known.includes(named)) continue;
    const meant = nearest(named, known);
    mistakes.add(path, `there is no [tokens.${named}]${meant ? `; did you mean "${meant}"?` : ""}`);
  }
  if (tokens.size === 0 && !mistakes.any)
    mistakes.add([], "there is no token: add a table [tokens.NAME] with a source");
  mistakes.raise();
  return { file, tokens, clients, ...top };
}

function readConfig(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if (errno(error) !== "ENOENT") {
      throw new FreshkeyError("ERR_CONFIG_MISSING", `cannot read ${file}: ${errno(error)}`, {
        hint: "make it readable for the user who runs freshkey",
        cause: error,
      });
    }
    throw new FreshkeyError("ERR_CONFIG_MISSING", `there is no configuration: ${file}`, {
      hint: "write one (the README shows five lines), or name another with --config or FRESHKEY_CONFIG",
      cause: error,
    });
  }
}

interface Surrounding {
  readonly mistakes: Mistakes;
  readonly run: string;
  readonly clients: readonly ClientConfig[];
  readonly file: string;
}

async function checkToken(
  name: string,
  table: Record<string, unknown>,
  around: Surrounding,
): Promise<TokenConfig | undefined> {
  const { mistakes } = around;
  const path = ["tokens", name];
  if (!NAME_FORM.test(name) || RESERVED_NAMES.includes(name)) {
    mistakes.add(
      path,
      'a token\'s name has lower-case letters, digits and hyphens, begins with no hyphen, and is not "agent"',
    );
    return undefined;
  }
  const { source, ...keys } = table;
  if (typeof source !== "string" || !Object.hasOwn(sourceOptions, source)) {
    const known = Object.keys(sourceOptions);
    const meant = typeof source === "string" ? nearest(source, known) : undefined;
    const given = source === undefined ? "is missing; it" : `${JSON.stringify(source)} is unknown; it`;
    mistakes.add(
      [...path, "source"],
      `${given} must be ${quoteList(known)}${meant ? `: did you mean "${meant}"?` : ""}`,
    );
    return undefined;
  }
  const schema = sourceOptions[source as SourceName];
  const commonKeys = Object.keys(tokenOptions.entries);
  const allowed = [...commonKeys, ...Object.keys(entriesOf(schema)), "source"];
  const isCommon = ([key]: [string, unknown]) => commonKeys.includes(key);
  const common = mistakes.check(tokenOptions, Object.fromEntries(Object.entries(keys).filter(isCommon)), path, allowed);
  const own = Object.fromEntries(Object.entries(keys).filter((entry) => !isCommon(entry)));
  const options = mistakes.check(schema as v.GenericSchema, own, path, allowed);
  checkLiteralSecrets(own, path, around);
  if (!common || !options) return undefined;
  const tokenPath = common.file ?? usualTokenPath(around.run, name);
  if (source === "file" && (options as FileOptions).path === tokenPath) {
    mistakes.add([...path, "path"], "is where this token itself is put: name the file that something else writes");
  }
  if (common.cron !== undefined) await checkCron(common.cron, path, mistakes);

  const users = around.clients.filter((client) => client.token === name);
  const verify =
    common.verify === undefined ? users[0] && modelsUrl(users[0].type, users[0].base_url) : common.verify || undefined;
  return {
    ...({ source, options } as SourceConfig),
    name,
    path: tokenPath,
    ownDirectory: common.file === undefined,
    mode: common.mode,
    group: common.group,
    refreshBefore: common.refresh_before,
    minValidity: common.min_validity,
    timeout: common.timeout,
    cron: common.cron,
    timezone: common.timezone,
    jitter: common.jitter,
    verify,
    clientType: users[0]?.type,
    baseUrls: [...new Set(users.map((client) => client.base_url))],
  };
}

/** Each token has a place of its own: of two that write to one file, each would take the other's away. */
function checkPlaces(
  tokens: Iterable<TokenConfig>,
  { run, audit }: { run: string; audit: string | undefined },
  mistakes: Mistakes,
): void {
  const taken = new Map<string, string>();
  for (const { name, path, ownDirectory } of tokens) {
    const files = [path, tokenJsonPath(path)];
    const other = files.map((file) => taken.get(file)).find((found) => found !== undefined);
    for (const file of files) taken.set(file, name);
    const key = ["tokens", name, "file"];
    if (audit !== undefined && files.includes(audit)) mistakes.add(["audit"], `is where the token "${name}" is put`);
    if (other !== undefined) mistakes.add(key, `is where the token "${other}" is put: each needs a file of its own`);
    else if (!ownDirectory && path.startsWith(`${run}/`)) {
      mistakes.add(key, `is in ${run}, which is freshkey's own: leave \`file\` out, or name a place outside`);
    }
  }
}

/** node-cron costs 8 ms: loaded only where there is a schedule. */
async function checkCron(expression: string, path: readonly string[], mistakes: Mistakes): Promise<void> {
  const { validateDetailed } = await import("node-cron");
  const { valid, errors } = validateDetailed(expression);
  if (valid) return;
  const why = errors.map((error) => error.message).join(", ");
  mistakes.add(
    [...path, "cron"],
    `${JSON.stringify(expression)} is not a schedule (${why}); an example: "*/30 * * * *"`,
  );
}

function tables(value: unknown, path: readonly string[], mistakes?: Mistakes): [string, Record<string, unknown>][] {
  if (value === undefined) return [];
  const entries = isTable(value) ? Object.entries(value) : [];
  if (!isTable(value)) mistakes?.add(path, `must be tables: [${path.join(".")}.NAME]`);
  return entries.filter((entry): entry is [string, Record<string, unknown>] => {
    if (isTable(entry[1])) return true;
    mistakes?.add([...path, entry[0]], `must be a table: [${path.join(".")}.NAME]`);
    return false;
  });
}

/** The keys of an object schema, also where it is wrapped in a pipe. */
function entriesOf(schema: unknown): Record<string, unknown> {
  const { entries, pipe } = schema as { entries?: Record<string, unknown>; pipe?: readonly unknown[] };
  return entries ?? (pipe ? entriesOf(pipe[0]) : {});
}

function quoteList(words: readonly string[]): string {
  return words.map((word) => JSON.stringify(word)).join(", ");
}

/** The token `name` of the configuration, or its only one where no name is given. */
export function tokenOf(config: Config, name: string | undefined): TokenConfig {
  const names = [...config.tokens.keys()];
  if (name === undefined && names.length === 1) return config.tokens.get(names[0]!)!;
  const found = name === undefined ? undefined : config.tokens.get(name);
  if (found) return found;
  if (name === undefined) {
    throw new FreshkeyError("ERR_USAGE", `which token? ${basename(config.file)} has ${names.join(", ")}`, {
      hint: `name one: ${names[0]}`,
    });
  }
  const meant = nearest(name, names);
  throw new FreshkeyError("ERR_CONFIG_TOKEN", `${config.file} has no token "${name}"`, {
    hint: meant ? `did you mean "${meant}"?` : `it has ${names.join(", ")}`,
  });
}

/** The directory that holds a token's files. */
export function tokenDirectory(token: TokenConfig): string {
  return dirname(token.path);
}
