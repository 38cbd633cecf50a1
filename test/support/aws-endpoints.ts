/** Where AWS credentials come from, on loopback: a container's endpoint, an instance's, STS, IAM Identity Center. */
import { randomBytes } from "node:crypto";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";

export interface Credentials {
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken: string;
  /** Epoch milliseconds. */
  expires: number;
}

/** How an endpoint answers; `hang`: never. */
export type AwsAnswer = "hang" | { status: number; headers?: Record<string, string>; body: string };

export interface AwsEndpoints {
  /** `http://127.0.0.1:PORT`: base of the instance's metadata and of all services. */
  readonly url: string;
  /** What `AWS_CONTAINER_CREDENTIALS_FULL_URI` takes. */
  readonly container: string;
  /** `METHOD /path` of every request, and what `Action` it asked of STS. */
  readonly requests: string[];
  /** All credentials that were given out. */
  readonly given: Credentials[];
  /** How long credentials live, in milliseconds. */
  lifetime: number;
  /** In place of credentials. */
  answer: AwsAnswer | undefined;
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

export async function startAwsEndpoints(): Promise<AwsEndpoints> {
  const server = createServer(async (request, response) => {
    const action = new URLSearchParams(await text(request)).get("Action");
    const path = new URL(request.url ?? "", "http://localhost").pathname;
    endpoints.requests.push(`${request.method} ${path}${action ? ` ${action}` : ""}`);
    const answer = endpoints.answer ?? route(request, path, action, endpoints);
    if (answer !== "hang") response.writeHead(answer.status, answer.headers).end(answer.body);
  });
  const port = await new Promise<number>((resolve) =>
    server.listen(0, "127.0.0.1", () => resolve((server.address() as AddressInfo).port)),
  );
  const endpoints: AwsEndpoints = {
    url: `http://127.0.0.1:${port}`,
    container: `http://127.0.0.1:${port}/container`,
    requests: [],
    given: [],
    lifetime: 3_600_000,
    answer: undefined,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return endpoints;
}

function route(request: IncomingMessage, path: string, action: string | null, endpoints: AwsEndpoints): AwsAnswer {
  const give = () => {
    const credentials = makeCredentials(endpoints.lifetime);
    endpoints.given.push(credentials);
    return credentials;
  };
  const role = "/latest/meta-data/iam/security-credentials/";
  if (path === "/container") return { status: 200, body: credentialsJson(give()) };
  if (path === "/latest/api/token" && request.method === "PUT") return { status: 200, body: "metadata-token" };
  if (path === role) return { status: 200, body: "role" };
  if (path === `${role}role`) return { status: 200, body: credentialsJson(give()) };
  if (action === "AssumeRole") return { status: 200, headers: { "content-type": "text/xml" }, body: stsXml(give()) };
  if (path === "/federation/credentials") return { status: 200, body: ssoJson(give()) };
  return { status: 404, body: "{}" };
}

function stsXml({ accessKeyId, secretAccessKey, sessionToken, expires }: Credentials): string {
  return `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
    <AccessKeyId>${accessKeyId}</AccessKeyId><SecretAccessKey>${secretAccessKey}</SecretAccessKey>
    <SessionToken>${sessionToken}</SessionToken><Expiration>${iso(expires)}</Expiration></Credentials>
    <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/r/s</Arn><AssumedRoleId>A:s</AssumedRoleId></AssumedRoleUser>
    </AssumeRoleResult></AssumeRoleResponse>`;
}

function ssoJson({ accessKeyId, secretAccessKey, sessionToken, expires }: Credentials): string {
  return JSON.stringify({ roleCredentials: { accessKeyId, secretAccessKey, sessionToken, expiration: expires } });
}

/** STS's form of an error. */
export function stsError(status: number, code: string): AwsAnswer {
  const body = `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>${code}</Code><Message>In prose.</Message></Error><RequestId>1</RequestId></ErrorResponse>`;
  return { status, headers: { "content-type": "text/xml" }, body };
}

function iso(ms: number): string {
  return new Date(ms).toISOString().replace(".000Z", "Z");
}
