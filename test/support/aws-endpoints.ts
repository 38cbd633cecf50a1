/**
 * Where AWS credentials come from, on loopback: a container's endpoint, an instance's (version 2 of its metadata service
 * alone), STS, IAM Identity Center; and the OpenID provider whose tokens STS hands out.
 */
import { randomBytes, randomUUID, type webcrypto } from "node:crypto";
import { createServer, type IncomingHttpHeaders, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { exportJWK, generateKeyPair, type JWK, SignJWT } from "jose";

export interface Credentials {
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken: string;
  /** Epoch milliseconds. */
  expires: number;
}

/** How an endpoint answers; `hang`: never. */
export type AwsAnswer = "hang" | { status: number; headers?: Record<string, string>; body: string };

/** A request as it came. */
export interface Received {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  /** What was asked of STS. */
  readonly parameters: URLSearchParams;
}

export interface AwsEndpoints {
  /** `http://127.0.0.1:PORT`: base of the instance's metadata and of all services, and the issuer of web identity tokens. */
  readonly url: string;
  /** What `AWS_CONTAINER_CREDENTIALS_FULL_URI` takes. */
  readonly container: string;
  /** `METHOD /path` of every request, and what `Action` it asked of STS. */
  readonly requests: string[];
  /** The same requests in full. */
  readonly received: Received[];
  /** All credentials that were given out. */
  readonly given: Credentials[];
  /** How long credentials live, in milliseconds. */
  lifetime: number;
  /** In place of credentials. */
  answer: AwsAnswer | undefined;
  /** In place of an answer to one `Action` of STS. */
  readonly answers: Map<string, AwsAnswer>;
  close(): Promise<void>;
}

export function makeCredentials(lifetime: number): Credentials {
  return {
    accessKeyId: `ASIA${randomBytes(8).toString("hex").toUpperCase()}`,
    secretAccessKey: randomBytes(30).toString("base64"),
    sessionToken: randomBytes(90).toString("base64"),
    expires: Math.floor((Date.now() + lifetime) / 1000) * 1000,
  };
}

/** The JSON that containers and instances get. */
export function credentialsJson({ accessKeyId, secretAccessKey, sessionToken, expires }: Credentials): string {
  return JSON.stringify({
    Code: "Success",
    AccessKeyId: accessKeyId,
    SecretAccessKey: secretAccessKey,
    Token: sessionToken,
    Expiration: iso(expires),
  });
}

/** The keys of the OpenID provider, one an algorithm. */
type Keys = Record<string, { readonly jwk: JWK; readonly privateKey: webcrypto.CryptoKey }>;

export async function startAwsEndpoints(): Promise<AwsEndpoints> {
  const keys = await makeKeys();
  const server = createServer(async (request, response) => {
    const body = await text(request);
    const parameters = new URLSearchParams(body);
    const action = parameters.get("Action");
    const { method = "", headers } = request;
    const path = new URL(request.url ?? "", "http://localhost").pathname;
    endpoints.requests.push(`${method} ${path}${action ? ` ${action}` : ""}`);
    const received = { method, path, headers, body, parameters };
    endpoints.received.push(received);
    const instead = endpoints.answers.get(action ?? "") ?? endpoints.answer;
    const answer = instead ?? (await route(request, received, endpoints, keys));
    if (answer !== "hang") response.writeHead(answer.status, answer.headers).end(answer.body);
  });
  const port = await new Promise<number>((resolve) =>
    server.listen(0, "127.0.0.1", () => resolve((server.address() as AddressInfo).port)),
  );
  const endpoints: AwsEndpoints = {
    url: `http://127.0.0.1:${port}`,
    container: `http://127.0.0.1:${port}/container`,
    requests: [],
    received: [],
    given: [],
    lifetime: 3_600_000,
    answer: undefined,
    answers: new Map(),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return endpoints;
}

async function makeKeys(): Promise<Keys> {
  const keys: Keys = {};
  for (const alg of ["RS256", "ES384"]) {
    const { publicKey, privateKey } = await generateKeyPair(alg);
    keys[alg] = { jwk: { ...(await exportJWK(publicKey)), alg, kid: alg, use: "sig" }, privateKey };
  }
  return keys;
}

/** Given for a PUT, asked for with every GET: version 1 of the metadata service, which has none, is not there. */
const METADATA_TOKEN = "metadata-token";
const ROLE = "/latest/meta-data/iam/security-credentials/";

async function route(
  { method }: IncomingMessage,
  { path, headers, parameters }: Received,
  endpoints: AwsEndpoints,
  keys: Keys,
): Promise<AwsAnswer> {
  const give = () => {
    const credentials = makeCredentials(endpoints.lifetime);
    endpoints.given.push(credentials);
    return credentials;
  };
  if (path === "/container") return { status: 200, body: credentialsJson(give()) };
  if (path === "/latest/api/token" && method === "PUT") return { status: 200, body: METADATA_TOKEN };
  if (path.startsWith("/latest/") && headers["x-aws-ec2-metadata-token"] !== METADATA_TOKEN) {
    return { status: 401, body: "" };
  }
  if (path === ROLE) return { status: 200, body: "role" };
  if (path === `${ROLE}role`) return { status: 200, body: credentialsJson(give()) };
  if (path === "/federation/credentials") return { status: 200, body: ssoJson(give()) };
  if (path === "/token") return { status: 200, body: '{"accessToken":"renewed-sso-access-token","expiresIn":3600}' };
  if (path === "/.well-known/openid-configuration") {
    return json({ issuer: endpoints.url, jwks_uri: `${endpoints.url}/.well-known/jwks.json` });
  }
  if (path === "/.well-known/jwks.json") return json({ keys: Object.values(keys).map(({ jwk }) => jwk) });
  switch (parameters.get("Action")) {
    case "AssumeRole":
    case "AssumeRoleWithWebIdentity":
      return roleXml(parameters.get("Action") ?? "", give());
    case "GetWebIdentityToken":
      return webIdentityXml(parameters, endpoints.url, keys);
  }
  return { status: 404, body: "{}" };
}

const json = (content: object): AwsAnswer => ({ status: 200, body: JSON.stringify(content) });

function stsXml(action: string, result: string): AwsAnswer {
  const body = `<${action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><${action}Result>${result}</${action}Result></${action}Response>`;
  return { status: 200, headers: { "content-type": "text/xml" }, body };
}

function roleXml(action: string, { accessKeyId, secretAccessKey, sessionToken, expires }: Credentials): AwsAnswer {
  return stsXml(
    action,
    `<Credentials><AccessKeyId>${accessKeyId}</AccessKeyId><SecretAccessKey>${secretAccessKey}</SecretAccessKey>
    <SessionToken>${sessionToken}</SessionToken><Expiration>${iso(expires)}</Expiration></Credentials>
    <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/r/s</Arn><AssumedRoleId>A:s</AssumedRoleId></AssumedRoleUser>`,
  );
}

/** As AWS describes them: whole seconds, `aud` a text where there is one audience. */
async function webIdentityXml(parameters: URLSearchParams, issuer: string, keys: Keys): Promise<AwsAnswer> {
  const audience = [...parameters].filter(([name]) => name.startsWith("Audience.member.")).map(([, value]) => value);
  const alg = parameters.get("SigningAlgorithm") ?? "";
  const seconds = Number(parameters.get("DurationSeconds") ?? 300);
  const key = keys[alg];
  if (!key || audience.length === 0 || seconds < 60 || seconds > 3_600) return stsError(400, "ValidationError");
  const now = Math.floor(Date.now() / 1000);
  const jwt = await new SignJWT({ "https://sts.amazonaws.com/": { aws_account: "123456789012" } })
    .setProtectedHeader({ alg, kid: alg, typ: "JWT" })
    .setIssuer(issuer)
    .setSubject("arn:aws:iam::123456789012:role/r")
    .setAudience(audience.length === 1 ? (audience[0] as string) : audience)
    .setJti(randomUUID())
    .setIssuedAt(now)
    .setExpirationTime(now + seconds)
    .sign(key.privateKey);
  const expires = iso((now + seconds) * 1000);
  return stsXml(
    "GetWebIdentityToken",
    `<WebIdentityToken>${jwt}</WebIdentityToken><Expiration>${expires}</Expiration>`,
  );
}

function ssoJson({ accessKeyId, secretAccessKey, sessionToken, expires }: Credentials): string {
  return JSON.stringify({ roleCredentials: { accessKeyId, secretAccessKey, sessionToken, expiration: expires } });
}

/** STS's form of an error. */
export function stsError(status: number, code: string, message = "In prose."): AwsAnswer {
  const body = `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>${code}</Code><Message>${message}</Message></Error><RequestId>1</RequestId></ErrorResponse>`;
  return { status, headers: { "content-type": "text/xml" }, body };
}

function iso(ms: number): string {
  return new Date(ms).toISOString().replace(".000Z", "Z");
}
