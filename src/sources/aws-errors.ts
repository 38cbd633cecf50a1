/**
 * What a failure of the AWS SDK means. Its chain of providers drops the reason ("Could not load credentials from any
 * providers"), and its providers have HTTP clients of their own, so the requests are watched where Node.js makes them.
 */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { errorMonitor } from "node:events";
import type { ClientRequest, IncomingMessage } from "node:http";
import { formatDuration } from "../core/duration.ts";
import { errno, FreshkeyError } from "../core/errors.ts";
import { mask } from "../core/mask.ts";
import { retryAfter, UNTRUSTED, UNTRUSTED_HINT } from "./azure-errors.ts";

/** A profile of AWS's own configuration files. */
export interface Profile {
  readonly name: string;
  readonly settings: Readonly<Record<string, string | undefined>>;
}

interface Exchange {
  readonly host: string;
  status?: number | undefined;
  retryAfter?: string | undefined;
  error?: string | undefined;
}

export interface HttpWatch {
  /** The last request of this process, and what came of it. */
  readonly last: Exchange | undefined;
  /** Ends the watching, and all requests that are still under way. */
  close(): void;
}

/** Watches the HTTP requests of this process: host, status, error; never a path, a header that is sent, or a body. */
export function watchHttp(): HttpWatch {
  const pending = new Set<ClientRequest>();
  const exchanges = new WeakMap<ClientRequest, Exchange>();
  let last: Exchange | undefined;
  const started = (message: unknown) => {
    const { request } = message as { request: ClientRequest };
    const exchange: Exchange = { host: request.host };
    last = exchange;
    exchanges.set(request, exchange);
    pending.add(request);
    request.on("close", () => pending.delete(request));
    request.on(errorMonitor, (error) => {
      exchange.error = errno(error) ?? "no answer";
    });
  };
  const answered = (message: unknown) => {
    const { request, response } = message as { request: ClientRequest; response: IncomingMessage };
    const exchange = exchanges.get(request);
    if (!exchange) return;
    exchange.status = response.statusCode;
    exchange.retryAfter = response.headers["retry-after"];
  };
  subscribe("http.client.request.start", started);
  subscribe("http.client.response.finish", answered);
  return {
    get last() {
      return last;
    },
    close() {
      unsubscribe("http.client.request.start", started);
      unsubscribe("http.client.response.finish", answered);
      for (const request of pending) request.destroy();
    },
  };
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
    const who = last && last.status === undefined ? last.host : "whatever provides the AWS credentials";
    return new FreshkeyError("ERR_SOURCE_TIMEOUT", `${who} did not answer within ${formatDuration(failure.deadline)}`, {
      hint: "Look at the network, or give it longer with timeout.",
    });
  }
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  // The outage first: the SDK says "sign in again" also where it could not reach the place that would renew a sign-in.
  return outage(text, last) ?? signInError(text, failure) ?? answerError(text, last) ?? credentialsError(text, failure);
}

/** The last request got no answer, or one that says "later". */
function outage(text: string, last: Exchange | undefined): FreshkeyError | undefined {
  if (last === undefined) return undefined;
  const { host, status, error = "no answer" } = last;
  if (status === undefined) {
    if (INSTANCE.test(host)) return undefined;
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

/** The last request was answered, but not with credentials. */
function answerError(text: string, last: Exchange | undefined): FreshkeyError | undefined {
  if (last?.status === undefined) return undefined;
  const { host, status } = last;
  if (/ExpiredToken/.test(text)) {
    return new FreshkeyError("ERR_SIGN_IN", `${host} says that the AWS credentials to sign with have expired`, {
      hint: "Sign in again where they come from, or renew them in the profile or the environment.",
    });
  }
  if (/AccessDenied|Forbidden|InvalidClientTokenId|InvalidIdentityToken|SignatureDoesNotMatch|IDPRejected/.test(text)) {
    return new FreshkeyError("ERR_SOURCE_REFUSED", `${host} refused: ${mask(text, 200)}`, {
      hint: "Mend the credentials, or have an administrator allow them the role (its trust policy and your permissions).",
    });
  }
  if (status < 300) {
    return new FreshkeyError("ERR_SOURCE_ANSWER", `${host} answered with something that is no AWS credentials`, {
      hint: "Look at what answers there: it must be JSON with AccessKeyId, SecretAccessKey, Token and Expiration.",
    });
  }
  const said = /any providers|instance metadata/.test(text) ? "" : `: ${mask(text, 200)}`;
  return new FreshkeyError("ERR_SOURCE_FAILED", `${host} answered with HTTP ${status}${said}`, {
    hint: "Look whether this machine, container or profile has a role.",
  });
}

/** No request failed: the credentials, or what is said about them, are not there. */
function credentialsError(text: string, { profile }: AwsFailure): FreshkeyError {
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
  if (profile.settings.credential_process) {
    return new FreshkeyError("ERR_SOURCE_FAILED", `the credential_process of the AWS profile ${profile.name} failed`, {
      hint: `Run it by hand: aws configure export-credentials --profile ${profile.name}`,
    });
  }
  return new FreshkeyError("ERR_SOURCE_FAILED", `no AWS credentials: ${mask(text, 200)}`);
}
