/**
 * A cloud's identity endpoints on this machine: just enough of Azure and AWS for their real SDKs to mint with it,
 * and of an OpenID provider for a gateway to check what was minted. The keys live as long as the process.
 */
import { createHash, randomBytes, randomUUID, timingSafeEqual } from "node:crypto";
import { calculateJwkThumbprint, exportJWK, generateKeyPair, SignJWT } from "jose";
import { sendJson, serve } from "./loopback.ts";

export interface IdentityOptions {
  /** How long a JWT lives, in milliseconds: whole seconds, 8,000 unless told. */
  readonly lifetime?: number;
  /** How long AWS credentials live, in milliseconds: an hour unless told. */
  readonly awsLifetime?: number;
}

export interface JwtRequest {
  /** Whom the token is for (`aud`). */
  readonly audience: string;
  /** Milliseconds, whole seconds; below zero for a token that has expired. The server's own unless told. */
  readonly lifetime?: number;
  /** Another issuer than the server itself: for a token that a gateway must refuse. */
  readonly issuer?: string;
}

export interface Identity {
  /** The issuer of the JWTs, and where its discovery document is. */
  readonly issuer: string;
  /** What a process needs in its environment so that the SDKs in it mint here. It holds secrets. */
  readonly environment: Readonly<Record<string, string>>;
  /** How often each endpoint gave something out. */
  readonly mints: { readonly azure: number; readonly aws: number };
  /** A JWT at once, without a request. */
  sign(request: JwtRequest): Promise<string>;
  close(): Promise<void>;
}

const ALGORITHM = "ES256";
/** Whom the tokens speak for: `sub`, and `appid` as in a token of Microsoft Entra ID. */
const SUBJECT = "freshkey-demo";

/** Starts the identity endpoints on loopback. */
export async function startIdentity(options: IdentityOptions = {}): Promise<Identity> {
  const { lifetime: usualLifetime = 8_000, awsLifetime = 3_600_000 } = options;
  const { privateKey, publicKey } = await generateKeyPair(ALGORITHM);
  const jwk = await exportJWK(publicKey);
  const kid = await calculateJwkThumbprint(jwk);
  // Whoever may mint knows these, as with the real endpoints: other programs on this machine do not.
  const identityHeader = randomUUID();
  const containerToken = randomBytes(24).toString("base64url");
  const mints = { azure: 0, aws: 0 };

  const server = await serve(async (request, response, url) => {
    switch (`${request.method} ${url.pathname}`) {
      case "GET /.well-known/openid-configuration":
        return sendJson(response, 200, discovery(server.origin));
      case "GET /jwks":
        return sendJson(response, 200, { keys: [{ ...jwk, kid, alg: ALGORITHM, use: "sig" }] });
      case "GET /msi/token": {
        if (!same(request.headers["x-identity-header"], identityHeader)) {
          return sendJson(response, 401, { statusCode: 401, message: "X-IDENTITY-HEADER is missing or wrong" });
        }
        const resource = url.searchParams.get("resource");
        if (!resource) return sendJson(response, 400, { statusCode: 400, message: "resource is missing" });
        const { token, expires } = await mint({ audience: resource });
        mints.azure++;
        return sendJson(response, 200, {
          access_token: token,
          expires_on: String(expires),
          resource,
          token_type: "Bearer",
          client_id: SUBJECT,
        });
      }
      case "GET /aws/credentials":
        if (!same(request.headers.authorization, containerToken)) {
          return sendJson(response, 401, { Code: "Unauthorized", Message: "Authorization is missing or wrong" });
        }
        mints.aws++;
        return sendJson(response, 200, awsCredentials(Date.now() + awsLifetime));
      default:
        return sendJson(response, 404, { error: "not_found" });
    }
  });

  async function mint({ audience, lifetime = usualLifetime, issuer = server.origin }: JwtRequest) {
    const now = Math.floor(Date.now() / 1000);
    const expires = now + Math.round(lifetime / 1000);
    const token = await new SignJWT({ appid: SUBJECT })
      .setProtectedHeader({ alg: ALGORITHM, kid, typ: "JWT" })
      .setIssuer(issuer)
      .setAudience(audience)
      .setSubject(SUBJECT)
      .setIssuedAt(now)
      .setNotBefore(Math.min(now, expires))
      .setExpirationTime(expires)
      // Two tokens of one second are two tokens.
      .setJti(randomUUID())
      .sign(privateKey);
    return { token, expires };
  }

  return {
    issuer: server.origin,
    environment: {
      IDENTITY_ENDPOINT: `${server.origin}/msi/token`,
      IDENTITY_HEADER: identityHeader,
      AWS_CONTAINER_CREDENTIALS_FULL_URI: `${server.origin}/aws/credentials`,
      AWS_CONTAINER_AUTHORIZATION_TOKEN: containerToken,
    },
    mints,
    sign: async (request) => (await mint(request)).token,
    close: server.close,
  };
}

/** What OpenID Connect Discovery 1.0, section 3, requires, for a provider that has no users to sign in. */
function discovery(issuer: string) {
  return {
    issuer,
    jwks_uri: `${issuer}/jwks`,
    authorization_endpoint: `${issuer}/authorize`,
    response_types_supported: ["none"],
    subject_types_supported: ["public"],
    id_token_signing_alg_values_supported: [ALGORITHM],
  };
}

/** Made up, in the form that a container's credentials have: AWS itself would accept none of them. */
function awsCredentials(expires: number) {
  return {
    RoleArn: `arn:aws:iam::000000000000:role/${SUBJECT}`,
    AccessKeyId: `ASIA${randomBytes(8).toString("hex").toUpperCase()}`,
    SecretAccessKey: randomBytes(30).toString("base64"),
    Token: randomBytes(192).toString("base64"),
    Expiration: new Date(expires).toISOString(),
  };
}

/** Compares secrets without telling by the time it takes how much of them is the same. */
function same(given: string | string[] | undefined, expected: string): boolean {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return typeof given === "string" && timingSafeEqual(digest(given), digest(expected));
}
