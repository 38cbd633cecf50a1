/**
 * An API gateway in front of a model, on this machine: it checks the JWT of every request as Azure API Management's
 * `validate-jwt` or Envoy's `jwt_authn` would, without a second of tolerance, and answers as a chat API.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { createRemoteJWKSet, errors, jwtVerify } from "jose";
import { fingerprint } from "../core/token.ts";
import { answer, apiOf, MODELS, type Script } from "./chat-api.ts";
import { HttpError, readJson, sendJson, serve } from "./loopback.ts";

/** Where a client puts its credential. Copilot CLI chooses by provider type: openai, azure, anthropic. */
export type CredentialHeader = "authorization" | "api-key" | "x-api-key";

export interface GatewayOptions extends Script {
  /** Whose tokens are accepted: its discovery document names the keys. */
  readonly issuer: string;
  readonly audience: string;
  /** Which headers may carry the token; the first that is there counts. `authorization` alone unless told. */
  readonly accepts?: readonly CredentialHeader[];
  /** Called once a request has its status. */
  readonly onRequest?: (request: GatewayRequest) => void;
  /** Epoch milliseconds; for tests. */
  readonly now?: () => number;
}

/** What the gateway tells of a request: never the token. */
export interface GatewayRequest {
  readonly method: string;
  readonly path: string;
  /** The header that the token came in, where there was one. */
  readonly header: CredentialHeader | undefined;
  readonly fingerprint: string | undefined;
  readonly status: number;
  /** Why it was refused, where it was. */
  readonly reason: string | undefined;
}

export interface Gateway {
  /** `http://127.0.0.1:PORT`: what Copilot CLI's types azure and anthropic have as their base URL. */
  readonly origin: string;
  /** `origin` with `/v1`: the base URL of everything that speaks as OpenAI's API does. */
  readonly baseUrl: string;
  /** How many requests there were, and how many of them got a 401. */
  readonly counts: { readonly requests: number; readonly refused: number };
  /** From now on the token with this fingerprint is refused, as after a sign-out or a revocation by an administrator. */
  revoke(fingerprint: string): void;
  close(): Promise<void>;
}

/** Why a credential is refused. `error` is left out where there was no credential at all (RFC 6750, section 3.1). */
class Refusal extends Error {
  readonly challenge: string;

  constructor(reason: string, error?: "invalid_token") {
    super(reason);
    this.challenge = error
      ? `Bearer realm="freshkey demo", error="${error}", error_description="${reason}"`
      : 'Bearer realm="freshkey demo"';
  }
}

/**
 * Starts the gateway on loopback.
 *
 * @throws Error if the issuer's discovery document cannot be had.
 */
export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  const { accepts = ["authorization"], now = Date.now } = options;
  const verify = await verifier(options, now);
  const revoked = new Set<string>();
  const counts = { requests: 0, refused: 0 };

  async function authenticate(token: string | undefined): Promise<void> {
    if (token === undefined) throw new Refusal(`there is no token in the header ${accepts.join(" or ")}`);
    if (revoked.has(fingerprint(token))) throw new Refusal("the token was revoked", "invalid_token");
    await verify(token);
  }

  const server = await serve(async (request, response, url) => {
    const credential = credentialOf(request, accepts);
    let reason: string | undefined;
    try {
      await authenticate(credential?.token);
      await respond(request, response, url, options);
    } catch (error) {
      const known = error instanceof Refusal || error instanceof HttpError;
      const failure = known ? error : new HttpError(500, "the gateway failed");
      reason = failure.message;
      refuse(response, failure);
    } finally {
      counts.requests++;
      if (response.statusCode === 401) counts.refused++;
      options.onRequest?.({
        method: request.method ?? "",
        path: url.pathname,
        header: credential?.header,
        fingerprint: credential && fingerprint(credential.token),
        status: response.statusCode,
        reason,
      });
    }
  });

  return {
    origin: server.origin,
    baseUrl: `${server.origin}/v1`,
    counts,
    revoke: (print) => void revoked.add(print),
    close: server.close,
  };
}

function credentialOf(request: IncomingMessage, accepts: readonly CredentialHeader[]) {
  for (const header of accepts) {
    const value = request.headers[header];
    const token = header === "authorization" ? /^Bearer +(\S+)$/i.exec(String(value))?.[1] : value;
    if (typeof token === "string" && token !== "") return { header, token };
  }
  return undefined;
}

/** A function that throws a Refusal unless a token was signed by the issuer, for the audience, and has not expired. */
async function verifier({ issuer, audience }: GatewayOptions, now: () => number) {
  const discovery = await fetch(`${issuer}/.well-known/openid-configuration`, { redirect: "error" });
  const metadata = (await discovery.json()) as { issuer?: unknown; jwks_uri?: unknown };
  // OpenID Connect Discovery 1.0, section 4.3: else one issuer could speak for another.
  if (metadata.issuer !== issuer || typeof metadata.jwks_uri !== "string") {
    throw new Error(`the discovery document of ${issuer} is not its own`);
  }
  const keys = createRemoteJWKSet(new URL(metadata.jwks_uri));

  return async (token: string): Promise<void> => {
    try {
      await jwtVerify(token, keys, {
        issuer,
        audience,
        // Named, so that no token can choose a weaker one (RFC 8725, section 3.1).
        algorithms: ["ES256", "RS256"],
        requiredClaims: ["exp"],
        clockTolerance: 0,
        currentDate: new Date(now()),
      });
    } catch (error) {
      throw refusalOf(error);
    }
  };
}

/** In words of its own: what goes into a quoted string of a header has no quotes and nothing of the token in it. */
function refusalOf(error: unknown): Refusal | HttpError {
  if (error instanceof errors.JWTExpired) {
    const at = new Date(Number(error.payload.exp) * 1000).toISOString();
    return new Refusal(`the token expired at ${at}`, "invalid_token");
  }
  if (error instanceof errors.JWTClaimValidationFailed) {
    return new Refusal(`the token's claim ${error.claim} is not the one expected`, "invalid_token");
  }
  if (error instanceof errors.JWSSignatureVerificationFailed || error instanceof errors.JWKSNoMatchingKey) {
    return new Refusal("the token's signature is not the issuer's", "invalid_token");
  }
  const malformed = [errors.JWSInvalid, errors.JWTInvalid, errors.JOSEAlgNotAllowed, errors.JOSENotSupported];
  if (malformed.some((kind) => error instanceof kind)) return new Refusal("this is not a JWT", "invalid_token");
  // The issuer's keys cannot be had: no fault of the client's, so a 401 would mislead it.
  return new HttpError(503, "the issuer's keys cannot be fetched");
}

/** In the form that both OpenAI's and Anthropic's clients understand. */
function refuse(response: ServerResponse, failure: Refusal | HttpError): void {
  const { message } = failure;
  const [status, type, headers] =
    failure instanceof Refusal
      ? ([401, "authentication_error", { "www-authenticate": failure.challenge }] as const)
      : ([failure.status, failure.status < 500 ? "invalid_request_error" : "api_error", {}] as const);
  sendJson(response, status, { type: "error", error: { type, code: status, message } }, headers);
}

async function respond(request: IncomingMessage, response: ServerResponse, url: URL, script: Script): Promise<void> {
  const api = apiOf(url.pathname);
  if (api === undefined) throw new HttpError(404, `there is nothing at ${url.pathname}`);
  const expected = api === "models" ? "GET" : "POST";
  if (request.method !== expected) throw new HttpError(405, `${url.pathname} takes ${expected}`);
  if (api === "models") return sendJson(response, 200, MODELS);

  const body = await readJson(request);
  const { json, events } = answer(api, body, script);
  if (body.stream !== true) return sendJson(response, 200, json);
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
  response.end(events);
}
