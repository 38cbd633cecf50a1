/** The two requests to AWS's Security Token Service that freshkey makes itself, to its regional endpoint. */
import { FreshkeyError } from "../core/errors.ts";
import type { Credentials } from "./aws-credentials.ts";

export interface StsAccess {
  readonly credentials: Credentials;
  readonly region: string;
  /** Ends the request. */
  readonly signal: AbortSignal;
}

async function client({ credentials, region }: StsAccess) {
  const sdk = await import("@aws-sdk/client-sts");
  // The global endpoint has no GetWebIdentityToken, and its sessions are not valid in every region.
  const sts = new sdk.STSClient({ credentials, region, useGlobalEndpoint: false, maxAttempts: 1 });
  return { sts, sdk };
}

export interface Role {
  readonly arn: string;
  readonly session: string;
  readonly externalId?: string | undefined;
  /** Milliseconds; an hour where it says nothing. */
  readonly duration?: number | undefined;
}

/** Credentials of another role (AssumeRole). @throws what the SDK throws, or FreshkeyError `ERR_SOURCE_ANSWER`. */
export async function assumeRole(access: StsAccess, role: Role): Promise<Credentials> {
  const { sts, sdk } = await client(access);
  const command = new sdk.AssumeRoleCommand({
    RoleArn: role.arn,
    RoleSessionName: role.session,
    ...(role.externalId !== undefined && { ExternalId: role.externalId }),
    ...(role.duration !== undefined && { DurationSeconds: Math.floor(role.duration / 1000) }),
  });
  const { Credentials: given } = await sts.send(command, { abortSignal: access.signal });
  if (given?.AccessKeyId && given.SecretAccessKey && given.SessionToken && isDate(given.Expiration)) {
    return {
      accessKeyId: given.AccessKeyId,
      secretAccessKey: given.SecretAccessKey,
      sessionToken: given.SessionToken,
      expiration: given.Expiration,
    };
  }
  throw new FreshkeyError("ERR_SOURCE_ANSWER", `STS answered without credentials for ${role.arn}`, UNUSABLE);
}

export interface WebIdentity {
  /** Who the token is for: the JWT's `aud`. */
  readonly audience: string[];
  readonly algorithm: "RS256" | "ES384";
  /** Milliseconds, 60,000 to 3,600,000. */
  readonly lifetime: number;
}

/**
 * A JWT that says who the credentials are, signed by the AWS account's own OpenID provider (GetWebIdentityToken).
 *
 * @returns the JWT, and its end in epoch milliseconds.
 * @throws what the SDK throws, or FreshkeyError `ERR_SOURCE_ANSWER`.
 */
export async function getWebIdentityToken(access: StsAccess, wanted: WebIdentity) {
  const { sts, sdk } = await client(access);
  const command = new sdk.GetWebIdentityTokenCommand({
    Audience: wanted.audience,
    SigningAlgorithm: wanted.algorithm,
    DurationSeconds: Math.floor(wanted.lifetime / 1000),
  });
  const { WebIdentityToken: value, Expiration: end } = await sts.send(command, { abortSignal: access.signal });
  if (value && isDate(end)) return { value, expires: end.getTime() };
  throw new FreshkeyError("ERR_SOURCE_ANSWER", "STS answered without a web identity token", UNUSABLE);
}

const UNUSABLE = { hint: "Look at what answers there: AWS_ENDPOINT_URL_STS, endpoint_url in the profile, a proxy." };

function isDate(date: Date | undefined): date is Date {
  return date !== undefined && !Number.isNaN(date.getTime());
}
