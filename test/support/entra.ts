/**
 * A local authority that speaks as much of Entra ID's protocol as @azure/identity asks for, and the managed identity
 * endpoint of an App Service: real HTTP, so that the real SDK is what is tested.
 */
import { createHmac, randomBytes, randomUUID, X509Certificate } from "node:crypto";
import { createServer as createHttpServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { decodeProtectedHeader, jwtVerify } from "jose";
import type { Certificates } from "./certificates.ts";

/** How a token endpoint answers; `hang`: never; `reset`: by closing the connection. */
export type Answer = "hang" | "reset" | { status: number; headers?: Record<string, string>; body: string };

export interface Entra {
  /** `https://127.0.0.1:PORT` */
  readonly authority: string;
  /** What was posted to each tenant's token endpoint. */
  readonly posted: Map<string, URLSearchParams[]>;
  /** How long its tokens live, in seconds. */
  lifetime: number;
  /** `refresh_in` of its answers, in seconds. */
  refreshIn: number | undefined;
  /** The application's certificate, PEM: it signs what an application may sign in with instead of a secret. */
  certificate: string | undefined;
  /** The only token that the application's federated credential trusts. */
  federatedToken: string | undefined;
  /** From now on, that tenant's token endpoint answers so. Without it: a token, if client id and secret are right. */
  answer(tenant: string, answer: Answer | undefined): void;
  /** From now on, that tenant's discovery document is answered so. */
  discovery(tenant: string, answer: Answer): void;
  close(): Promise<void>;
}

export const CLIENT_ID = "11111111-2222-3333-4444-555555555555";
export const CLIENT_SECRET = "correct-horse~battery.staple";
export const IDENTITY_HEADER = "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a";

/** A JWT as Entra makes them, of which no two are the same. Signed with a key that nobody knows. */
export function accessToken(lifetime: number, claims: Record<string, unknown>): string {
  const part = (content: unknown) => Buffer.from(JSON.stringify(content)).toString("base64url");
  const iat = Math.floor(Date.now() / 1000);
  const head = `${part({ alg: "HS256", typ: "JWT" })}.${part({ iat, exp: iat + lifetime, uti: randomUUID(), ...claims })}`;
  return `${head}.${createHmac("sha256", randomBytes(32)).update(head).digest("base64url")}`;
}

/** The body of Entra's error answers. */
export function entraError(code: number, error = "invalid_grant"): Answer {
  const description = `AADSTS${code}: Something in prose. Trace ID: ${randomUUID()} Correlation ID: ${randomUUID()}`;
  const body = JSON.stringify({ error, error_description: description, error_codes: [code] });
  return { status: error === "invalid_client" ? 401 : 400, headers: { "content-type": "application/json" }, body };
}

export function json(body: unknown, status = 200): Answer {
  return { status, headers: { "content-type": "application/json; charset=utf-8" }, body: JSON.stringify(body) };
}

/** What a captive portal, or a proxy that wants a login, says instead. */
export function webPage(status = 200): Answer {
  const body = `<!DOCTYPE html><html><body>${"<p>Please accept the terms of the Hotel Wi-Fi.</p>".repeat(50)}</body></html>`;
  return { status, headers: { "content-type": "text/html" }, body };
}

export async function startEntra(certificates: Certificates): Promise<Entra> {
  const answers = new Map<string, Answer>();
  const documents = new Map<string, Answer>();
  const server = createHttpsServer({ cert: certificates.cert, key: certificates.key }, async (request, response) => {
    const [, tenant = "", ...rest] = new URL(request.url ?? "", entra.authority).pathname.split("/");
    const form = new URLSearchParams(await text(request));
    const endpoint = rest.join("/");
    if (tenant === "subscriptions") {
      // Azure's resource manager, which the Azure CLI asks when somebody signs in.
      send(response, json({ value: [] }));
    } else if (/^(v2\.0\/)?\.well-known\/openid-configuration$/.test(endpoint)) {
      send(response, documents.get(tenant) ?? json(discoveryOf(`${entra.authority}/${tenant}`)));
    } else if (endpoint === "oauth2/v2.0/token" && request.method === "POST") {
      entra.posted.set(tenant, [...(entra.posted.get(tenant) ?? []), form]);
      send(response, answers.get(tenant) ?? (await grant(form, entra)));
    } else {
      send(response, json({ error: "not_found" }, 404));
    }
  });
  const port = await listen(server);
  const entra: Entra = {
    authority: `https://127.0.0.1:${port}`,
    posted: new Map(),
    lifetime: 3599,
    refreshIn: undefined,
    certificate: undefined,
    federatedToken: undefined,
    answer: (tenant, answer) => void (answer ? answers.set(tenant, answer) : answers.delete(tenant)),
    discovery: (tenant, answer) => void documents.set(tenant, answer),
    close: () => close(server),
  };
  return entra;
}

function discoveryOf(base: string) {
  return {
    issuer: `${base}/v2.0`,
    authorization_endpoint: `${base}/oauth2/v2.0/authorize`,
    token_endpoint: `${base}/oauth2/v2.0/token`,
    jwks_uri: `${base}/discovery/v2.0/keys`,
  };
}

async function grant(form: URLSearchParams, entra: Entra): Promise<Answer> {
  const { lifetime, refreshIn } = entra;
  if (form.get("grant_type") !== "client_credentials") return json({ error: "unsupported_grant_type" }, 400);
  if (form.get("client_id") !== CLIENT_ID) return entraError(700016, "unauthorized_client");
  const assertion = form.get("client_assertion");
  if (assertion === null && form.get("client_secret") !== CLIENT_SECRET) return entraError(7000215, "invalid_client");
  if (assertion !== null && assertion !== entra.federatedToken && !(await isSigned(assertion, entra))) {
    return entraError(decodeProtectedHeader(assertion)["x5t#S256"] ? 700027 : 700213, "invalid_client");
  }
  const token = accessToken(lifetime, { aud: form.get("scope"), appid: CLIENT_ID, oid: randomUUID() });
  const refresh = refreshIn === undefined ? {} : { refresh_in: refreshIn };
  return json({
    token_type: "Bearer",
    expires_in: lifetime,
    ext_expires_in: lifetime,
    ...refresh,
    access_token: token,
  });
}

/** By the application's certificate, for this authority and by this application (RFC 7523). */
async function isSigned(assertion: string, { certificate, authority }: Entra): Promise<boolean> {
  if (certificate === undefined) return false;
  const key = new X509Certificate(certificate).publicKey;
  // The SDK rounds the time that it signs at, up as well.
  const options = { algorithms: ["RS256", "PS256"], issuer: CLIENT_ID, subject: CLIENT_ID, clockTolerance: 2 };
  return jwtVerify(assertion, key, options).then(
    ({ payload }) => String(payload.aud).startsWith(authority),
    () => false,
  );
}

export interface ManagedIdentity {
  /** What `IDENTITY_ENDPOINT` takes. */
  readonly endpoint: string;
  readonly queries: URLSearchParams[];
  answer: Answer | undefined;
  close(): Promise<void>;
}

/** The managed identity endpoint of an App Service: http, with a secret header, on loopback. */
export async function startManagedIdentity(): Promise<ManagedIdentity> {
  const server = createHttpServer((request: IncomingMessage, response: ServerResponse) => {
    const query = new URL(request.url ?? "", identity.endpoint).searchParams;
    identity.queries.push(query);
    if (request.headers["x-identity-header"] !== IDENTITY_HEADER) return send(response, json({ statusCode: 401 }, 401));
    const expires = Math.floor(Date.now() / 1000) + 86_400;
    const token = accessToken(86_400, { aud: query.get("resource"), appid: CLIENT_ID });
    const grant = {
      access_token: token,
      expires_on: String(expires),
      resource: query.get("resource"),
      token_type: "Bearer",
    };
    send(response, identity.answer ?? json(grant));
  });
  const port = await listen(server);
  const identity: ManagedIdentity = {
    endpoint: `http://127.0.0.1:${port}/msi/token`,
    queries: [],
    answer: undefined,
    close: () => close(server),
  };
  return identity;
}

function send(response: ServerResponse, answer: Answer): void {
  if (answer === "hang") return;
  if (answer === "reset") return void response.socket?.destroy();
  response.writeHead(answer.status, answer.headers).end(answer.body);
}

function listen(server: Server): Promise<number> {
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve((server.address() as AddressInfo).port)));
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
