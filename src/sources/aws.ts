import type { fromIni } from "@aws-sdk/credential-providers";
import * as v from "valibot";
import { formatDuration, parseDuration } from "../core/duration.ts";
import { FreshkeyError } from "../core/errors.ts";
import type { Token } from "../core/token.ts";
import { deadline } from "../os/clock.ts";
import { awsError, loginCommand, type Profile, watchHttp } from "./aws-errors.ts";
import type { Mint } from "./source.ts";

/** Milliseconds. Amazon Bedrock accepts no key that was signed for longer. */
const LONGEST = 12 * 3_600_000;

/** Milliseconds. Credentials that end sooner make no token: a client would barely start with it. */
const LEAST_LEFT = 60_000;

const lifetime = v.pipe(
  v.string('must be a duration up to 12h, such as "12h" or "90m"'),
  v.transform((text) => parseDuration(text) ?? 0),
  v.check((ms) => ms >= 1_000 && ms <= LONGEST, 'must be a duration up to 12h, such as "12h" or "90m"'),
);

/** The keys of a token with `source = "aws"`, beside those that every source has. Durations are milliseconds. */
export const awsOptions = v.strictObject({
  kind: v.picklist(["bedrock-api-key"], 'must be "bedrock-api-key"'),
  region: v.optional(
    v.pipe(v.string(), v.regex(/^[a-z]+(-[a-z]+)+-\d+$/, 'must be the name of a region, such as "us-west-2"')),
  ),
  profile: v.optional(v.pipe(v.string(), v.nonEmpty("must be the name of a profile"))),
  expires_in: v.optional(lifetime, "12h"),
});

export type AwsOptions = v.InferOutput<typeof awsOptions>;

type Credentials = Awaited<ReturnType<ReturnType<typeof fromIni>>>;

/**
 * A new token of Amazon Web Services: an API key for Amazon Bedrock, signed here with fresh AWS credentials.
 *
 * @throws FreshkeyError of any `ERR_SOURCE_…` code, or `ERR_SIGN_IN`.
 */
export const mintAws: Mint<AwsOptions> = async (options, request) => {
  // The SDK warns on stderr about the Node.js that versions after January 2027 will need.
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = "true";
  // What is left of the time is for this process to start, and for its answer to arrive.
  const allowed = Math.round(request.timeout * 0.9);
  const { signal, end } = deadline(allowed, request.signal);
  const profile = await profileOf(options);
  const http = watchHttp();
  try {
    const region = regionOf(options, profile);
    const credentials = await Promise.race([resolveCredentials(options, profile, region), rejectedBy(signal)]);
    return await bedrockKey(credentials, region, options, profile);
  } catch (error) {
    throw awsError(error, { profile, http, deadline: allowed, ended: signal.aborted });
  } finally {
    // Neither the watching nor a request that nobody waits for any more may keep the process alive.
    http.close();
    end();
  }
};

/** The profile that is in force, read from AWS's own files. */
async function profileOf({ profile }: AwsOptions): Promise<Profile> {
  const { parseKnownFiles } = await import("@smithy/core/config");
  const name = profile ?? process.env.AWS_PROFILE ?? "default";
  const settings = (await parseKnownFiles({}))[name];
  if (profile !== undefined && settings === undefined) {
    throw new FreshkeyError("ERR_SOURCE_CONFIG", `there is no AWS profile ${profile}`, {
      hint: "See which there are: aws configure list-profiles. A service may have another home directory than you.",
    });
  }
  return { name, settings: settings ?? {} };
}

function regionOf({ region }: AwsOptions, { name, settings }: Profile): string {
  const found = region ?? process.env.AWS_REGION ?? process.env.AWS_DEFAULT_REGION ?? settings.region;
  if (found) return found;
  throw new FreshkeyError("ERR_SOURCE_CONFIG", "no AWS region is set", {
    hint: `Set region in the configuration, AWS_REGION, or region in the AWS profile ${name}.`,
  });
}

/** Credentials straight from where they come from: the SDK's own memory is not asked. */
async function resolveCredentials(
  { profile }: AwsOptions,
  { settings }: Profile,
  region: string,
): Promise<Credentials> {
  const { fromIni, fromNodeProviderChain } = await import("@aws-sdk/credential-providers");
  const init = {
    // The agent does the retries.
    maxRetries: 0,
    clientConfig: { maxAttempts: 1 },
    // For STS, where the profile says nothing else; AWS GovCloud and China have no global one.
    parentClientConfig: { region: settings.region ?? region },
  };
  // A profile that was named is the only place: the chain would go on, and speak for whatever this machine is.
  if (profile !== undefined) return fromIni({ ...init, profile })();
  return fromNodeProviderChain(init)({ forceRefresh: true });
}

function rejectedBy(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

async function bedrockKey(
  credentials: Credentials,
  region: string,
  options: AwsOptions,
  profile: Profile,
): Promise<Token> {
  const credentialsEnd = endOf(credentials);
  const left = credentialsEnd - Date.now();
  if (left < LEAST_LEFT) {
    const what = left <= 0 ? "have expired" : `end in ${formatDuration(left)}`;
    const login = loginCommand(profile);
    throw new FreshkeyError(login ? "ERR_SIGN_IN" : "ERR_SOURCE_FAILED", `the AWS credentials ${what}`, {
      hint: login ? `Run: ${login}` : "Whatever provides them must give new ones before their last minute.",
    });
  }
  const { getToken } = await import("@aws/bedrock-token-generator");
  const seconds = Math.floor(options.expires_in / 1000);
  const value = await getToken({ credentials, region, expiresInSeconds: seconds });
  return { value, expires: Math.min(credentialsEnd, signedAt(value) + seconds * 1000) };
}

/** When the credentials end. The SDK gives an instance's expired ones a later end while their endpoint is down. */
function endOf(credentials: Credentials & { originalExpiration?: Date }): number {
  const end = credentials.originalExpiration ?? credentials.expiration;
  return end === undefined ? Number.POSITIVE_INFINITY : end.getTime();
}

/** `X-Amz-Date` of the URL within the key: whole seconds, rounded down, by the clock that signed it. */
function signedAt(key: string): number {
  const url = Buffer.from(key.replace(/^bedrock-api-key-/, ""), "base64").toString("utf8");
  const [, y, mo, d, h, mi, s] = /[?&]X-Amz-Date=(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z/.exec(url) ?? [];
  const at = Date.parse(`${y}-${mo}-${d}T${h}:${mi}:${s}Z`);
  if (Number.isFinite(at)) return at;
  throw new FreshkeyError("ERR_SOURCE_ANSWER", "the Bedrock API key says not when it was signed");
}
