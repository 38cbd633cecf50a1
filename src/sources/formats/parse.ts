import { type Token, unpublishable } from "../../core/token.ts";
import { BadAnswer, member, type Parse, parseJson, tokenOf } from "./answer.ts";
import { parseAwsCredentials } from "./aws.ts";
import { isDockerCredential, parseDockerCredential } from "./docker.ts";
import { isGitCredential, parseGitCredential } from "./git.ts";
import { type Fields, parseAnyJson, parseAzureCli, parseGcloud } from "./json.ts";
import { isExecCredential, parseExecCredential } from "./kubernetes.ts";

const PARSERS = {
  raw: (text) => tokenOf(text, undefined),
  json: parseAnyJson,
  "aws-credential-process": parseAwsCredentials,
  "kubernetes-exec": parseExecCredential,
  "git-credential": parseGitCredential,
  "docker-credential": parseDockerCredential,
  "azure-cli": parseAzureCli,
  gcloud: parseGcloud,
} as const satisfies Record<string, Parse>;

type Named = keyof typeof PARSERS;
export type Format = Named | "auto";
export const FORMATS: readonly [Format, ...Format[]] = ["auto", ...(Object.keys(PARSERS) as Named[])];

/**
 * The token in what a program printed or a file holds.
 *
 * @throws BadAnswer whatever `output` is, if it is no token of that format that can be published.
 */
export function parseToken(output: string, format: Format, asked: number, fields: Fields = {}): Token {
  const text = output.trim();
  if (text === "") throw new BadAnswer("nothing");
  const named = fields.token !== undefined || fields.expiry !== undefined;
  const kind = format === "auto" ? (named ? "json" : formatOf(text)) : format;
  const token = kind === "json" ? parseAnyJson(text, asked, fields) : PARSERS[kind](text, asked);
  const problem = unpublishable(token.value);
  if (problem) throw new BadAnswer(`what is not a token: ${problem}`);
  return token;
}

/** The format by its shape. A token begins with no brace, and no quotation mark. */
function formatOf(text: string): Named {
  if (isGitCredential(text)) return "git-credential";
  if (text.startsWith('"') || text.startsWith("[")) return "json";
  if (!text.startsWith("{")) return "raw";
  const json = parseJson(text);
  if (isExecCredential(json)) return "kubernetes-exec";
  if (member(json, "AccessKeyId") !== undefined && member(json, "SecretAccessKey") !== undefined) {
    return "aws-credential-process";
  }
  if (isDockerCredential(json)) return "docker-credential";
  if (member(member(json, "credential"), "access_token") !== undefined) return "gcloud";
  return "json";
}
