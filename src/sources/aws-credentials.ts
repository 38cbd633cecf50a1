/** AWS credentials from wherever they come from: a profile, the environment, a container, an instance, a program. */
import type { fromIni } from "@aws-sdk/credential-providers";
import { formatDuration } from "../core/duration.ts";
import { FreshkeyError } from "../core/errors.ts";
import { loginCommand, type Profile } from "./aws-errors.ts";
import type { AwsOptions } from "./aws-options.ts";

export type Credentials = Awaited<ReturnType<ReturnType<typeof fromIni>>>;

/**
 * The profile that is in force, read from AWS's own files.
 *
 * @throws FreshkeyError `ERR_SOURCE_CONFIG` if the one that the configuration names is in neither.
 */
export async function profileOf({ profile }: AwsOptions): Promise<Profile> {
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

function regionIn({ region }: AwsOptions, { settings }: Profile): string | undefined {
  return region ?? process.env.AWS_REGION ?? process.env.AWS_DEFAULT_REGION ?? settings.region;
}

/** The region to sign for, and of the STS to ask. @throws FreshkeyError `ERR_SOURCE_CONFIG` if nothing says it. */
export function regionOf(options: AwsOptions, profile: Profile): string {
  const found = regionIn(options, profile);
  if (found) return found;
  throw new FreshkeyError("ERR_SOURCE_CONFIG", "no AWS region is set", {
    hint: `Set region in the configuration, AWS_REGION, or region in the AWS profile ${profile.name}.`,
  });
}

/** Credentials straight from where they come from: the SDK's own memory is not asked. */
export async function resolveCredentials(options: AwsOptions, profile: Profile): Promise<Credentials> {
  const { fromIni, fromNodeProviderChain } = await import("@aws-sdk/credential-providers");
  // For STS, where the profile says nothing else; AWS GovCloud and China have no global one.
  const region = profile.settings.region ?? regionIn(options, profile);
  const init = {
    // The agent does the retries.
    maxRetries: 0,
    clientConfig: { maxAttempts: 1 },
    ...(region && { parentClientConfig: { region } }),
  };
  // A profile that was named is the only place: the chain would go on, and speak for whatever this machine is.
  const found =
    options.profile === undefined
      ? await fromNodeProviderChain(init)({ forceRefresh: true })
      : await fromIni({ ...init, profile: options.profile })();
  return withWrittenEnd(found, profile);
}

/** Programs that sign in (saml2aws, aws-azure-login) put temporary keys into a profile, with their end as a comment. */
function withWrittenEnd(credentials: Credentials, { settings }: Profile): Credentials {
  if (credentials.expiration || credentials.accessKeyId !== settings.aws_access_key_id) return credentials;
  const end = Date.parse(settings.x_security_token_expires ?? settings.aws_expiration ?? "");
  return Number.isNaN(end) ? credentials : { ...credentials, expiration: new Date(end) };
}

/**
 * When the credentials end, in epoch milliseconds; `Infinity` where they say nothing of it.
 *
 * @throws FreshkeyError if they have less than `least` milliseconds left: nothing may be made that outlives them.
 */
export function ensureLife(credentials: Credentials, profile: Profile, least: number): number {
  // The SDK gives an instance's expired ones a later end while their endpoint is down.
  const { originalExpiration, expiration } = credentials as Credentials & { originalExpiration?: Date };
  const end = (originalExpiration ?? expiration)?.getTime() ?? Number.POSITIVE_INFINITY;
  const left = end - Date.now();
  if (left >= least) return end;
  const what = left <= 0 ? "have expired" : `end in ${formatDuration(left)}`;
  const login = loginCommand(profile);
  throw new FreshkeyError(login ? "ERR_SIGN_IN" : "ERR_SOURCE_FAILED", `the AWS credentials ${what}`, {
    hint: login ? `Run: ${login}` : "Whatever provides them must give new ones before their last minute.",
  });
}
