import { FreshkeyError } from "../core/errors.ts";
import { jwtTimes, type Token, UNKNOWN_EXPIRY } from "../core/token.ts";
import { deadline } from "../os/clock.ts";
import { type Credentials, ensureLife, profileOf, regionOf, resolveCredentials } from "./aws-credentials.ts";
import { awsError, type Profile } from "./aws-errors.ts";
import type { AwsOptions } from "./aws-options.ts";
import { assumeRole, getWebIdentityToken } from "./aws-sts.ts";
import { watchHttp } from "./http-watch.ts";
import type { Mint, MintRequest } from "./source.ts";

export { type AwsOptions, awsOptions } from "./aws-options.ts";

/** Milliseconds. Credentials that end sooner make no token: a client would barely start with it. */
const LEAST_LEFT = 60_000;

/** Milliseconds that the clock of STS may be behind this one. */
const CLOCKS_APART = 2_000;

/** What one mint is made of. */
interface Setting {
  readonly options: AwsOptions;
  readonly profile: Profile;
  readonly request: MintRequest;
  readonly signal: AbortSignal;
}

/**
 * A new token of Amazon Web Services, made with fresh AWS credentials: an API key for Amazon Bedrock, a JWT of the
 * account's own OpenID provider, or the session token of the credentials themselves.
 *
 * @throws FreshkeyError of any `ERR_SOURCE_…` code, or `ERR_SIGN_IN`.
 */
export const mintAws: Mint<AwsOptions> = async (options, request) => {
  // The SDK warns on stderr about the Node.js that versions after January 2027 will need.
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = "true";
  // The agent does the retries; some of the clients that the SDK makes inside can be told so only here.
  process.env.AWS_MAX_ATTEMPTS = "1";
  const profile = await profileOf(options);
  // What is left of the time is for this process to start, and for its answer to arrive.
  const allowed = Math.round(request.timeout * 0.9);
  const { signal, end } = deadline(allowed, request.signal);
  const http = watchHttp();
  try {
    return await Promise.race([MINT[options.kind]({ options, profile, request, signal }), rejectedBy(signal)]);
  } catch (error) {
    throw awsError(error, { profile, http, deadline: allowed, ended: signal.aborted });
  } finally {
    // Neither the watching nor a request that nobody waits for any more may keep the process alive.
    http.close();
    end();
  }
};

function rejectedBy(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/** The credentials to make a token with: those that are found, or those of the role that they are to assume. */
async function credentialsFor({ options, profile, request, signal }: Setting): Promise<Credentials> {
  const found = await resolveCredentials(options, profile);
  if (options.role_arn === undefined) return found;
  ensureLife(found, profile, 0);
  const client = { credentials: found, region: regionOf(options, profile), signal };
  return assumeRole(client, {
    arn: options.role_arn,
    // CloudTrail shows it: who looks there sees which program it was.
    session: options.session_name ?? `freshkey-${request.name}`.slice(0, 64),
    externalId: options.external_id,
    duration: options.duration,
  });
}

const MINT: Record<AwsOptions["kind"], (setting: Setting) => Promise<Token>> = {
  "bedrock-api-key": async (setting) => {
    const { options, profile } = setting;
    const region = regionOf(options, profile);
    const credentials = await credentialsFor(setting);
    const credentialsEnd = ensureLife(credentials, profile, LEAST_LEFT);
    const { getToken } = await import("@aws/bedrock-token-generator");
    const seconds = Math.floor(options.expires_in / 1000);
    const value = await getToken({ credentials, region, expiresInSeconds: seconds });
    return { value, expires: Math.min(credentialsEnd, signedAt(value) + seconds * 1000) };
  },

  "web-identity-token": async (setting) => {
    const { options, profile, signal } = setting;
    const region = regionOf(options, profile);
    const credentials = await credentialsFor(setting);
    const credentialsEnd = ensureLife(credentials, profile, LEAST_LEFT + CLOCKS_APART);
    const token = await getWebIdentityToken(
      { credentials, region, signal },
      {
        audience: [options.audience ?? []].flat(),
        // OpenID Connect Core 1.0 has every verifier understand it; ES384 not all of them do (Azure API Management).
        algorithm: options.signing_algorithm ?? "RS256",
        // STS refuses a token that would outlive the session that asks for it.
        lifetime: Math.min(options.expires_in, credentialsEnd - Date.now() - CLOCKS_APART),
      },
    );
    const exp = jwtTimes(token.value)?.expires;
    if (exp !== undefined) return { ...token, expires: Math.min(credentialsEnd, token.expires, exp) };
    throw new FreshkeyError("ERR_SOURCE_ANSWER", "the web identity token of STS is not a JWT with an expiry");
  },

  "session-token": async (setting) => {
    const credentials = await credentialsFor(setting);
    const end = ensureLife(credentials, setting.profile, LEAST_LEFT);
    if (credentials.sessionToken) {
      return { value: credentials.sessionToken, expires: Number.isFinite(end) ? end : UNKNOWN_EXPIRY };
    }
    throw new FreshkeyError("ERR_SOURCE_CONFIG", "the AWS credentials are a long-term key: it has no session token", {
      hint: "Set role_arn to a role that the key may assume, or name a profile with temporary credentials.",
    });
  },
};

/** `X-Amz-Date` of the URL within the key: whole seconds, rounded down, by the clock that signed it. */
function signedAt(key: string): number {
  const url = Buffer.from(key.replace(/^bedrock-api-key-/, ""), "base64").toString("utf8");
  const [, y, mo, d, h, mi, s] = /[?&]X-Amz-Date=(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z/.exec(url) ?? [];
  const at = Date.parse(`${y}-${mo}-${d}T${h}:${mi}:${s}Z`);
  if (Number.isFinite(at)) return at;
  throw new FreshkeyError("ERR_SOURCE_ANSWER", "the Bedrock API key says not when it was signed");
}
