/**
 * An identity provider that can fail in every way that real ones do: Entra's endpoints for client credentials, over
 * https, in front of the demo's issuer, whose keys the gateway knows.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { fingerprint } from "../../src/core/token.ts";
import { type Identity, startIdentity } from "../../src/demo/identity.ts";
import { makeCertificates } from "../support/certificates.ts";

/** How it fails. `slow` says after how many milliseconds it answers, `throttled` for how many seconds nobody may ask. */
export type Trouble =
  | { readonly kind: "down" | "error-500" | "html" | "half-json" | "tls-broken" }
  | { readonly kind: "slow"; readonly after: number }
  | { readonly kind: "throttled"; readonly retryAfter: number };

/** A token that was handed out. Instants are epoch milliseconds of the true clock. */
export interface Issue {
  /** The token's name in freshkey's configuration. */
  readonly name: string;
  readonly fingerprint: string;
  readonly at: number;
  readonly expires: number;
}

export interface Provider {
  readonly identity: Identity;
  readonly origin: string;
  /** What trusts it: for NODE_EXTRA_CA_CERTS. */
  readonly caFile: string;
  readonly issues: readonly Issue[];
  /** Requests for a token, answered or not, and those that came before a `Retry-After` was over. */
  readonly counts: { requests: number; tooEarly: number };
  /** Fails from now on; undefined: works. */
  trouble(trouble: Trouble | undefined): Promise<void>;
  close(): Promise<void>;
}

export const AUDIENCE = "api://freshkey-chaos";
export const TENANT = "chaos";
/** Client ids, and the token of the configuration that each stands for. */
export const CLIENTS: Readonly<Record<string, string>> = { "entra-client": "entra", helper: "helper" };
export const SECRET = "chaos-secret-4d1c";

const PAGE = `<!DOCTYPE html><html><body>${"<p>Please accept the terms of the Hotel Wi-Fi.</p>".repeat(40)}</body></html>`;

/** @param lifetime what its answers state, in milliseconds: whole seconds. */
export async function startProvider(lifetime: number): Promise<Provider> {
  const identity = await startIdentity();
  const trusted = makeCertificates();
  const untrusted = makeCertificates();
  const issues: Issue[] = [];
  const counts = { requests: 0, tooEarly: 0 };
  let current: Trouble | undefined;
  /** Until when each client was told to stay away. */
  const closedUntil = new Map<string, number>();

  const server = createServer({ cert: trusted.cert, key: trusted.key }, (request, response) => {
    answer(request, response).catch(() => response.destroy());
  });
  const listen = (port: number) =>
    new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(port, "127.0.0.1", () => resolve());
    });
  await listen(0);
  const { port } = server.address() as AddressInfo;
  const origin = `https://127.0.0.1:${port}`;

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname } = new URL(request.url ?? "/", origin);
    const form = new URLSearchParams(await text(request));
    const forToken = pathname === `/${TENANT}/oauth2/v2.0/token` && request.method === "POST";
    const client = form.get("client_id") ?? "";
    if (forToken) {
      counts.requests++;
      if (Date.now() < (closedUntil.get(client) ?? 0)) counts.tooEarly++;
    }
    switch (current?.kind) {
      case "slow":
        // Asked for while it was slow is answered slowly, also when the trouble is over meanwhile.
        await sleep(current.after);
        break;
      case "error-500":
        return send(response, 500, JSON.stringify({ error: "server_error" }));
      case "html":
        return send(response, 200, PAGE, { "content-type": "text/html" });
      case "half-json":
        return send(response, 200, '{"token_type":"Bearer","expires_in":8,"access_tok');
      case "throttled":
        if (!forToken) break;
        // A command's exit code cannot say how long to wait: only the SDK passes it on.
        if (CLIENTS[client] === "entra") closedUntil.set(client, Date.now() + current.retryAfter * 1_000);
        return send(response, 429, '{"error":"throttled"}', { "retry-after": String(current.retryAfter) });
    }
    if (pathname === `/${TENANT}/v2.0/.well-known/openid-configuration`) {
      return send(response, 200, JSON.stringify(discovery(`${origin}/${TENANT}`)));
    }
    const name = CLIENTS[client];
    if (!forToken || name === undefined || form.get("client_secret") !== SECRET) return send(response, 400, "{}");
    // The JWT has whole seconds, rounded down: a second more, so that what is stated is never later than its end.
    const token = await identity.sign({ audience: AUDIENCE, lifetime: lifetime + 1_000 });
    const { exp } = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString()) as { exp: number };
    const at = Date.now();
    issues.push({ name, fingerprint: fingerprint(token), at, expires: exp * 1000 });
    send(response, 200, JSON.stringify({ token_type: "Bearer", expires_in: lifetime / 1_000, access_token: token }));
  }

  return {
    identity,
    origin,
    caFile: trusted.caFile,
    issues,
    counts,
    async trouble(next) {
      const before = current?.kind;
      current = next;
      if (next?.kind === "down") {
        server.closeAllConnections();
        await new Promise<void>((resolve) => server.close(() => resolve()));
      } else if (before === "down") {
        await listen(port);
      }
      if (next?.kind === "tls-broken") server.setSecureContext({ cert: untrusted.cert, key: untrusted.key });
      else if (before === "tls-broken") server.setSecureContext({ cert: trusted.cert, key: trusted.key });
    },
    async close() {
      if (server.listening) {
        server.closeAllConnections();
        await new Promise<void>((resolve) => server.close(() => resolve()));
      }
      await identity.close();
      trusted.remove();
      untrusted.remove();
    },
  };
}

function discovery(base: string) {
  return {
    issuer: `${base}/v2.0`,
    authorization_endpoint: `${base}/oauth2/v2.0/authorize`,
    token_endpoint: `${base}/oauth2/v2.0/token`,
    jwks_uri: `${base}/discovery/v2.0/keys`,
  };
}

function send(response: ServerResponse, status: number, body: string, headers: Record<string, string> = {}): void {
  response.writeHead(status, { "content-type": "application/json", connection: "close", ...headers }).end(body);
}
