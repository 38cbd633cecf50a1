/** The configuration's keys, DESIGN by table: what each may be, in words that an error can quote. */
import * as v from "valibot";
import { DURATION_FORM, parseDuration } from "../core/duration.ts";
import { awsOptions } from "../sources/aws.ts";
import { azureOptions } from "../sources/azure.ts";
import { commandOptions } from "../sources/command.ts";
import { fileOptions } from "../sources/file.ts";

/** Longer than this, setTimeout overflows. */
const LONGEST = 24 * 24 * 3_600_000;

const duration = v.pipe(
  v.string(`must be ${DURATION_FORM}`),
  v.check((text) => parseDuration(text) !== undefined && parseDuration(text)! <= LONGEST, `must be ${DURATION_FORM}`),
  v.transform((text) => parseDuration(text)!),
);
const positive = v.pipe(duration, v.minValue(1, "must be longer than 0"));

/** Where a token may be sent: never in the clear over a network. */
const gatewayUrl = v.pipe(
  v.string("must be a URL"),
  v.check(isSafeUrl, "must be an https URL without user name, query or fragment (http only on this machine)"),
  v.transform((text) => text.replace(/\/+$/, "")),
);

function isSafeUrl(text: string): boolean {
  if (!URL.canParse(text) || /\s/.test(text)) return false;
  const url = new URL(text);
  const loopback = ["localhost", "127.0.0.1", "[::1]"].includes(url.hostname);
  const plain = url.username === "" && url.password === "" && url.search === "" && url.hash === "";
  return plain && (url.protocol === "https:" || (url.protocol === "http:" && loopback));
}

const MODE_FORM = 'must be "0600" or "0640": a token is never for everybody';
const mode = v.pipe(
  v.union([v.pipe(v.string(), v.regex(/^0?[46][04]0$/, MODE_FORM)), v.number()], MODE_FORM),
  v.transform((value) => (typeof value === "string" ? Number.parseInt(value, 8) : value)),
  v.check((value) => [0o600, 0o640, 0o400, 0o440].includes(value), MODE_FORM),
);

/** Keys of every `[tokens.NAME]`, whatever its source. */
export const tokenOptions = v.strictObject({
  file: v.optional(
    v.pipe(
      v.string(),
      v.startsWith("/", "must be an absolute path"),
      v.regex(/[^/]$/, "must be a file's path, not a directory's"),
    ),
  ),
  mode: v.optional(mode),
  group: v.optional(
    v.union([v.pipe(v.string(), v.minLength(1)), v.pipe(v.number(), v.integer())], "must be a group's name or number"),
  ),
  refresh_before: v.optional(positive),
  min_validity: v.optional(positive),
  timeout: v.optional(positive, "30s"),
  cron: v.optional(v.pipe(v.string(), v.minLength(1, "must not be empty"))),
  timezone: v.optional(
    v.pipe(v.string(), v.check(isTimezone, 'must be an IANA time zone, such as "Europe/Berlin" or "UTC"')),
  ),
  jitter: v.optional(duration, "1m"),
  verify: v.optional(v.union([gatewayUrl, v.literal(false)], "must be a URL, or false")),
});

function isTimezone(name: string): boolean {
  try {
    new Intl.DateTimeFormat("en", { timeZone: name });
    return true;
  } catch {
    return false;
  }
}

/** Keys of `[tokens.NAME]` by its `source`. */
export const sourceOptions = {
  azure: azureOptions,
  aws: awsOptions,
  command: commandOptions,
  file: fileOptions,
} as const;
export type SourceName = keyof typeof sourceOptions;

/** Keys of every `[clients.NAME]`. */
export const clientOptions = v.strictObject({
  token: v.string("must be the name of a token"),
  base_url: gatewayUrl,
  type: v.optional(v.picklist(["openai", "azure", "anthropic"], 'must be "openai", "azure" or "anthropic"'), "openai"),
  wire_api: v.optional(v.picklist(["completions", "responses"], 'must be "completions" or "responses"')),
  model: v.optional(v.pipe(v.string(), v.minLength(1))),
});
export type ClientOptions = v.InferOutput<typeof clientOptions>;

/** Keys outside every table. */
export const topOptions = v.strictObject({
  notify: v.optional(
    v.pipe(
      v.array(
        v.pipe(v.string(), v.minLength(1)),
        'must be a program and its arguments, such as ["notify-send", "freshkey"]',
      ),
      v.minLength(1, "must name a program"),
    ),
  ),
  audit: v.optional(v.pipe(v.string("must be a path"), v.startsWith("/", "must be an absolute path"))),
});

/** A token's name: it becomes a directory's. */
export const NAME_FORM = /^[a-z0-9][a-z0-9-]{0,62}$/;
/** `RUN/agent` is the agent's own. */
export const RESERVED_NAMES = ["agent"];
