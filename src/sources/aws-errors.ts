/**
 * What a failure of the AWS SDK means. Its chain of providers drops the reason ("Could not load credentials from any
 * providers"), so what became of the last request says more.
 */
import { formatDuration } from "../core/duration.ts";
import { type ErrorCode, errno, FreshkeyError } from "../core/errors.ts";
import { mask } from "../core/mask.ts";
import { retryAfter, UNTRUSTED, UNTRUSTED_HINT } from "./azure-errors.ts";
import { type Exchange, type HttpWatch, NO_ANSWER } from "./http-watch.ts";

/** A profile of AWS's own configuration files. */
export interface Profile {
  readonly name: string;
  readonly settings: Readonly<Record<string, string | undefined>>;
}

export interface AwsFailure {
  readonly profile: Profile;
  readonly http: HttpWatch;
  /** Milliseconds. */
  readonly deadline: number;
  /** The deadline has passed, or the agent stops. */
  readonly ended: boolean;
}

/** The command that signs in to a profile of IAM Identity Center or of `aws login`; undefined for any other profile. */
export function loginCommand({ name, settings }: Profile): string | undefined {
  const profile =
    name === "default" ? "" : ` --profile ${/^[\w.@+-]+$/.test(name) ? name : `'${name.replaceAll("'", `'\\''`)}'`}`;
  if (settings.sso_session ?? settings.sso_start_url) return `aws sso login${profile}`;
  return settings.login_session ? `aws login${profile}` : undefined;
}

/** Where an instance finds its own role: link-local, so nothing answers on any other machine. */
const INSTANCE = /^(169\.254\.169\.254|\[?fd00:ec2::254\]?)/;

/** The FreshkeyError that `error` of the SDK amounts to. */
export function awsError(error: unknown, failure: AwsFailure): FreshkeyError {
  if (error instanceof FreshkeyError) return error;
  const { last } = failure.http;
  if (failure.ended) {
    return new FreshkeyError("ERR_SOURCE_TIMEOUT", `${whoHangs(failure)} within ${formatDuration(failure.deadline)}`, {
      hint: "Look at the network, or give it longer with timeout.",
    });
  }
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  // The outage first: the SDK says "sign in again" also where it could not reach the place that would renew a sign-in.
  return (
    outage(text, last) ??
    signInError(text, failure) ??
    answerError(text, last) ??
    fileError(error) ??
    credentialsError(text, failure)
  );
}

function whoHangs({ http: { last }, profile: { name, settings } }: AwsFailure): string {
  if (last && last.status === undefined) return `${last.host} did not answer`;
  if (last === undefined && settings.credential_process) {
    return `the credential_process of the AWS profile ${name} did not end`;
  }
  return "whatever provides the AWS credentials did not answer";
}

/** The last request got no answer, or one that says "later". */
function outage(text: string, last: Exchange | undefined): FreshkeyError | undefined {
  if (last === undefined) return undefined;
  const { host, status, connected, error = NO_ANSWER } = last;
  if (status === undefined) {
    // Nobody there means that this is no instance. One whose endpoint takes the call and stays silent is ill.
    if (INSTANCE.test(host) && !connected) return undefined;
    if (connected && error === NO_ANSWER) {
      return new FreshkeyError("ERR_SOURCE_TIMEOUT", `${host} did not answer in time`, {
        hint: "This is the provider's side: freshkey tries again by itself.",
      });
    }
    return new FreshkeyError("ERR_SOURCE_UNREACHABLE", `${host} cannot be reached (${error})`, {
      hint: UNTRUSTED.test(error) ? UNTRUSTED_HINT : "Look at the network, the name service and the proxy.",
    });
  }
  if (status !== 429 && status < 500 && !/Throttl|TooManyRequests|RequestLimitExceeded/.test(text)) return undefined;
  return new FreshkeyError("ERR_SOURCE_FAILED", `${host} answered with HTTP ${status}`, {
    hint: "This is the provider's side: freshkey tries again by itself.",
    retryAfter: retryAfter(last.retryAfter, Date.now()),
  });
}

function signInError(text: string, { profile }: AwsFailure): FreshkeyError | undefined {
  const asked = /SSO session|SSO Token|aws sso login|aws login|re-?authenticate|Session token not found/i.test(text);
  if (!asked) return undefined;
  // A role's profile may sign in through another one, its source_profile: then the command has to name that.
  const source = profile.settings.source_profile;
  const login = loginCommand(profile) ?? `aws sso login --profile ${source ?? profile.name}`;
  return new FreshkeyError("ERR_SIGN_IN", `the sign-in of the AWS profile ${profile.name} is missing or has expired`, {
    hint: `Run: ${login}`,
  });
}

type Advice = readonly [answer: RegExp, code: ErrorCode, says: string | undefined, hint: string];

/** What STS and IAM Identity Center answer that somebody has to act on. Where `says` is missing, it is quoted. */
const ANSWERS: readonly Advice[] = [
  [
    /OutboundWebIdentityFederationDisabled/,
    "ERR_SOURCE_REFUSED",
    "says that outbound identity federation is off in this AWS account",
    "Have an administrator switch it on, once an account: aws iam enable-outbound-web-identity-federation",
  ],
  [
    /SessionDurationEscalation/,
    "ERR_SOURCE_FAILED",
    "gives no token that outlives the AWS session that asks for it",
    "Set a shorter expires_in, or renew the AWS credentials first.",
  ],
  [
    // The name that STS has for the token of another provider; ExpiredToken is one of its own.
    /ExpiredTokenException|Token expired: current date/,
    "ERR_SOURCE_FAILED",
    "says that the web identity token to sign in with has expired",
    "Whatever writes the file that AWS_WEB_IDENTITY_TOKEN_FILE or the profile names must keep it fresh.",
  ],
  [
    /ExpiredToken/,
    "ERR_SIGN_IN",
    "says that the AWS credentials to sign with have expired",
    "Sign in again where they come from, or renew them in the profile or the environment.",
  ],
  [
    /RegionDisabled/,
    "ERR_SOURCE_REFUSED",
    "says that STS is not active for this region in the AWS account",
    "Set another region, or have an administrator activate it: IAM, Account settings, Security Token Service.",
  ],
  [
    /AccessDenied|Forbidden|InvalidClientTokenId|InvalidIdentityToken|SignatureDoesNotMatch|IDPRejected/,
    "ERR_SOURCE_REFUSED",
    undefined,
    "Mend the credentials, or have an administrator allow what it names: in the role's trust policy, or in yours.",
  ],
  [
    /ValidationError|MalformedPolicy|PackedPolicyTooLarge|PayloadSizeExceeded/,
    "ERR_SOURCE_REFUSED",
    undefined,
    "Mend what it names. The role limits duration, to 1h where it is assumed with another role's credentials.",
  ],
];

/** The last request was answered, but not with credentials. */
function answerError(text: string, last: Exchange | undefined): FreshkeyError | undefined {
  if (last?.status === undefined) return undefined;
  const { host, status } = last;
  for (const [answer, code, says, hint] of ANSWERS) {
    if (!answer.test(text)) continue;
    return new FreshkeyError(code, `${host} ${says ?? `refused: ${mask(text, 200)}`}`, { hint });
  }
  if (status < 300) {
    return new FreshkeyError("ERR_SOURCE_ANSWER", `${host} answered with something that is no AWS credentials`, {
      hint: "Look at what answers there: a container's must be JSON with AccessKeyId, SecretAccessKey, Token, Expiration.",
    });
  }
  // The endpoints of a container and of an instance have no codes of error, and the SDK drops what they say.
  const silent = /any providers|instance metadata/.test(text);
  if (silent && [401, 403, 404].includes(status)) {
    const what = status === 404 ? "has no role for this machine" : "refused";
    return new FreshkeyError("ERR_SOURCE_REFUSED", `${host} ${what} (HTTP ${status})`, {
      hint: "Look whether this machine or container has a role, and at AWS_CONTAINER_AUTHORIZATION_TOKEN(_FILE).",
    });
  }
  return new FreshkeyError(
    "ERR_SOURCE_FAILED",
    `${host} answered with HTTP ${status}${silent ? "" : `: ${mask(text, 200)}`}`,
    { hint: "Look whether this machine, container or profile has a role." },
  );
}

/** A file that the credentials come from (a web identity token, a container's authorization) cannot be read. */
function fileError(error: unknown): FreshkeyError | undefined {
  const { path } = error as NodeJS.ErrnoException;
  if (errno(error) === undefined || path === undefined) return undefined;
  return new FreshkeyError("ERR_SOURCE_CONFIG", `${path} cannot be read (${errno(error)})`, {
    hint: "AWS_WEB_IDENTITY_TOKEN_FILE, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE or the profile names it: let it be there.",
  });
}

/** No request failed: the credentials, or what is said about them, are not there. */
function credentialsError(text: string, { profile }: AwsFailure): FreshkeyError {
  if (profile.settings.credential_process) {
    // What the SDK has to say of the output is safe; of a failure it quotes the command and all that it printed.
    const output = /credential_process ((?:returned|did not return) [\w ]+)\./.exec(text)?.[1];
    const code = output === undefined ? "ERR_SOURCE_FAILED" : "ERR_SOURCE_ANSWER";
    return new FreshkeyError(code, `the credential_process of the AWS profile ${profile.name} ${output ?? "failed"}`, {
      hint: `Run it by hand: aws configure export-credentials --profile ${profile.name}`,
    });
  }
  if (/any providers|Could not resolve credentials|Unable to connect to instance metadata|TimeoutError/.test(text)) {
    return new FreshkeyError("ERR_SOURCE_CONFIG", "there are no AWS credentials", {
      hint: "Name a profile with profile = … (aws configure sso makes one), or run freshkey where there is a role.",
    });
  }
  if (/multi-factor/.test(text)) {
    return new FreshkeyError("ERR_SOURCE_CONFIG", `the AWS profile ${profile.name} asks for an MFA code`, {
      hint: "Nobody is there to type it: use a profile of IAM Identity Center (aws configure sso), or aws login.",
    });
  }
  return new FreshkeyError("ERR_SOURCE_FAILED", `no AWS credentials: ${mask(text, 200)}`);
}
