/**
 * AWS credentials, as a `credential_process` prints them
 * (https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html).
 *
 * A session token without its access key and secret opens nothing, so here the token is all of them together: the
 * document itself, in one line without spaces.
 */
import { type Token, UNKNOWN_EXPIRY } from "../../core/token.ts";
import { BadAnswer, member, parseObject, textMember } from "./answer.ts";
import { rfc3339 } from "./instant.ts";

/** The whole document is the token's value; it is written anew, so that the same credentials are the same token. */
export function parseAwsCredentials(text: string): Token {
  const json = parseObject(text);
  if (member(json, "Version") !== 1) throw new BadAnswer("JSON whose Version is not 1");
  const { SessionToken, Expiration, AccountId } = json;
  const expires = rfc3339(Expiration, "an Expiration");
  const document = {
    Version: 1,
    AccessKeyId: textMember(json, "AccessKeyId"),
    SecretAccessKey: textMember(json, "SecretAccessKey"),
    ...(SessionToken != null && { SessionToken: textMember(json, "SessionToken") }),
    ...(AccountId != null && { AccountId: textMember(json, "AccountId") }),
    // The SDKs take what they are given until then, and ask again a little before.
    ...(expires !== undefined && { Expiration: new Date(expires).toISOString() }),
  };
  return { value: JSON.stringify(document), expires: expires ?? UNKNOWN_EXPIRY };
}

/** The answer of a `credential_process`; undefined where the token is no AWS credentials. */
export function formatAwsCredentials(value: string): string | undefined {
  try {
    return `${parseAwsCredentials(value).value}\n`;
  } catch {
    return undefined;
  }
}
