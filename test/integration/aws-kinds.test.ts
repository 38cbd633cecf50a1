/**
 * The kinds of token that AWS credentials can be made into beside an API key for Bedrock, with the real SDK against local
 * endpoints: web identity tokens of STS, checked by the keys of their issuer, and session tokens. And what assumes a role.
 */
import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { createRemoteJWKSet, decodeProtectedHeader, jwtVerify } from "jose";
import {
  type AwsAnswer,
  type AwsEndpoints,
  makeCredentials,
  startAwsEndpoints,
  stsError,
} from "../support/aws-endpoints.ts";
import {
  type AwsMinter,
  type Environment,
  makeAwsMinter,
  NO_INSTANCE,
  ROLE_ARN,
  STATIC,
  staticProfile,
} from "../support/aws-mint.ts";
import { signerOf } from "../support/sigv4.ts";

const HOUR = 3_600_000;
const AUDIENCE = "https://gateway.example.com";
const JWT = { kind: "web-identity-token", audience: AUDIENCE };
const SESSION = { kind: "session-token" };

let aws: AwsEndpoints;
let minter: AwsMinter;
const mint: AwsMinter["mint"] = (...input) => minter.mint(...input);

before(async () => {
  minter = await makeAwsMinter();
  aws = await startAwsEndpoints();
});

after(async () => {
  await aws.close();
  minter.close();
});

beforeEach(() => {
  aws.answer = undefined;
  aws.answers.clear();
  aws.lifetime = HOUR;
  aws.requests.length = 0;
  aws.received.length = 0;
});

const sts = (): Environment => ({ ...STATIC, ...NO_INSTANCE, AWS_ENDPOINT_URL_STS: aws.url });
const container = (): Environment => ({
  AWS_CONTAINER_CREDENTIALS_FULL_URI: aws.container,
  AWS_ENDPOINT_URL_STS: aws.url,
});

/** As a gateway with validate-jwt does it: by the keys that the issuer's discovery document leads to. */
async function verify(token: string, audience: string) {
  const discovery = await (await fetch(`${aws.url}/.well-known/openid-configuration`)).json();
  const { issuer, jwks_uri } = discovery as { issuer: string; jwks_uri: string };
  return jwtVerify(token, createRemoteJWKSet(new URL(jwks_uri)), { issuer, audience });
}

describe("a web identity token", () => {
  test("is a JWT that its issuer's keys verify, for the audience, with the expiry that it says", async () => {
    const before = Date.now();
    const { token, error, stderr } = await mint(JWT, sts());
    assert.equal(error, undefined, error?.message);
    assert.deepEqual(aws.requests, ["POST / GetWebIdentityToken"]);
    const { payload, protectedHeader } = await verify(token!.value, AUDIENCE);
    assert.equal(protectedHeader.alg, "RS256");
    assert.equal(payload.sub, ROLE_ARN);
    assert.equal(token!.expires, payload.exp! * 1000);
    assert.ok(token!.expires >= before - 1_000 + HOUR && token!.expires <= Date.now() + HOUR);
    await assert.rejects(verify(token!.value, "https://elsewhere.example.com"), {
      code: "ERR_JWT_CLAIM_VALIDATION_FAILED",
    });
    await assert.rejects(verify(`${token!.value.slice(0, -8)}AAAAAAAA`, AUDIENCE), {
      code: "ERR_JWS_SIGNATURE_VERIFICATION_FAILED",
    });
    assert.equal(stderr, "");
  });

  test("of another algorithm, for several audiences, for a quarter of an hour", async () => {
    const audience = [AUDIENCE, "second"];
    const { token } = await mint({ ...JWT, audience, signing_algorithm: "ES384", expires_in: "15m" }, sts());
    for (const one of audience) await verify(token!.value, one);
    assert.equal(decodeProtectedHeader(token!.value).alg, "ES384");
    assert.ok(token!.expires <= Date.now() + HOUR / 4 && token!.expires > Date.now() + HOUR / 4 - 10_000);
  });

  test("is asked for with the credentials' signature, for the region; a second mint is a second token", async () => {
    const values = new Set<string>();
    for (let round = 0; round < 2; round++) {
      const { token } = await mint({ ...JWT, region: "eu-central-1" }, container());
      values.add(token!.value);
      const given = aws.given.at(-1)!;
      const signer = signerOf(aws.received.at(-1)!, given.secretAccessKey);
      assert.deepEqual(signer, {
        accessKeyId: given.accessKeyId,
        region: "eu-central-1",
        service: "sts",
        sessionToken: given.sessionToken,
      });
      assert.equal(signerOf(aws.received.at(-1)!, `${given.secretAccessKey}x`), undefined);
    }
    assert.equal(values.size, 2);
    const once = ["GET /container", "POST / GetWebIdentityToken"];
    assert.deepEqual(aws.requests, [...once, ...once]);
  });

  test("never outlives the credentials that asked for it", async () => {
    aws.lifetime = 600_000;
    const { token } = await mint(JWT, container());
    assert.ok(token!.expires <= aws.given.at(-1)!.expires, "it outlives them");
    assert.ok(token!.expires > Date.now() + 590_000, "it is shorter than it has to be");
    const asked = Number(aws.received.at(-1)!.parameters.get("DurationSeconds"));
    assert.ok(asked > 580 && asked < 600, `${asked} s`);
    aws.lifetime = 61_000;
    aws.requests.length = 0;
    const { error } = await mint(JWT, container());
    assert.match(error?.message ?? "", /^the AWS credentials end in /);
    assert.deepEqual(aws.requests, ["GET /container"]);
  });

  test("is asked for at the region's own endpoint: the global one has none", async () => {
    for (const region of ["us-east-1", "eu-west-1", "us-gov-west-1"]) {
      const { error } = await mint({ ...JWT, region }, { ...STATIC, ...NO_INSTANCE, FRESHKEY_TEST_NO_DNS: "1" });
      assert.equal(error?.code, "ERR_SOURCE_UNREACHABLE");
      assert.equal(error.message, `sts.${region}.amazonaws.com cannot be reached (ENOTFOUND)`);
    }
  });

  test("is not to be had: each reason has its own sentence", async () => {
    const asked = async (answer: AwsAnswer, timeout = 10_000) => {
      aws.answers.set("GetWebIdentityToken", answer);
      aws.requests.length = 0;
      const outcome = await mint(JWT, sts(), { timeout });
      assert.equal(aws.requests.length, 1, "retried inside");
      return outcome;
    };
    const off = await asked(stsError(403, "OutboundWebIdentityFederationDisabledException"));
    assert.equal(off.error?.code, "ERR_SOURCE_REFUSED");
    assert.equal(off.error.message, "127.0.0.1 says that outbound identity federation is off in this AWS account");
    assert.match(off.error.hint ?? "", /aws iam enable-outbound-web-identity-federation$/);
    const denied = await asked(stsError(403, "AccessDenied", "not authorized to perform: sts:GetWebIdentityToken"));
    assert.equal(denied.error?.code, "ERR_SOURCE_REFUSED");
    assert.match(denied.error.message, /not authorized to perform: sts:GetWebIdentityToken/);
    const longer = await asked(stsError(403, "SessionDurationEscalationException"));
    assert.equal(longer.error?.code, "ERR_SOURCE_FAILED");
    assert.match(longer.error.message, /no token that outlives the AWS session/);
    const region = await asked(stsError(403, "RegionDisabledException"));
    assert.equal(region.error?.code, "ERR_SOURCE_REFUSED");
    assert.match(region.error.message, /not active for this region/);
    const expired = await asked(stsError(403, "ExpiredToken", "The security token included in the request is expired"));
    assert.equal(expired.error?.code, "ERR_SIGN_IN");
    const busy = await asked({ status: 429, headers: { "retry-after": "9" }, body: "" });
    assert.deepEqual([busy.error?.code, busy.error?.retryAfter], ["ERR_SOURCE_FAILED", 9_000]);
    const throttled = await asked(stsError(400, "Throttling", "Rate exceeded"));
    assert.equal(throttled.error?.code, "ERR_SOURCE_FAILED");
    const broken = await asked({ status: 500, body: "<html>" });
    assert.match(broken.error?.message ?? "", /^127\.0\.0\.1 answered with HTTP 500/);
    const hung = await asked("hang", 1_500);
    assert.equal(hung.error?.code, "ERR_SOURCE_TIMEOUT");
    assert.ok(hung.elapsed < 1_500, `${hung.elapsed} ms`);
  });

  test("is a JWT or nothing", async () => {
    const end = new Date(Date.now() + HOUR).toISOString();
    const answers = [
      "<html>sign in to the network</html>",
      "<GetWebIdentityTokenResponse><GetWebIdentityTokenResult></GetWebIdentityTokenResult></GetWebIdentityTokenResponse>",
      `<GetWebIdentityTokenResponse><GetWebIdentityTokenResult><WebIdentityToken>opaque</WebIdentityToken><Expiration>${end}</Expiration></GetWebIdentityTokenResult></GetWebIdentityTokenResponse>`,
    ];
    for (const body of answers) {
      aws.answer = { status: 200, headers: { "content-type": "text/xml" }, body };
      const { error } = await mint(JWT, sts());
      assert.equal(error?.code, "ERR_SOURCE_ANSWER", body);
    }
  });
});

describe("a session token", () => {
  test("is the credentials' own, and ends with them", async () => {
    const { token } = await mint(SESSION, container());
    const given = aws.given.at(-1)!;
    assert.ok(token!.value === given.sessionToken, "another session's");
    assert.equal(token!.expires, given.expires);
  });

  test("of an assumed role needs no region of its own but STS's; other credentials need none", async () => {
    const { token } = await mint({ ...SESSION, role_arn: ROLE_ARN }, sts());
    assert.ok(token!.value === aws.given.at(-1)!.sessionToken, "another session's");
    const none = await mint({ ...SESSION, region: undefined }, container());
    assert.equal(none.error, undefined, none.error?.message);
    const role = await mint({ ...SESSION, region: undefined, role_arn: ROLE_ARN }, sts());
    assert.match(role.error?.message ?? "", /no AWS region is set/);
  });

  test("is not in a long-term key", async () => {
    const { error } = await mint(SESSION, sts());
    assert.equal(error?.code, "ERR_SOURCE_CONFIG");
    assert.match(error.message, /long-term key/);
    assert.match(error.hint ?? "", /role_arn/);
  });

  test("in a profile that a program wrote: its end is unknown, or what the program wrote beside it", async () => {
    const { sessionToken } = makeCredentials(0);
    const end = Math.floor(Date.now() / 1000) * 1000 + HOUR;
    const profile = (more: string) =>
      mint(
        { ...SESSION, profile: "base" },
        minter.files("", `${staticProfile("base")}aws_session_token = ${sessionToken}\n${more}`),
      );
    const { token } = await profile("");
    assert.ok(token!.value === sessionToken, "another session's");
    assert.equal(token!.expires, 0);
    assert.equal((await profile(`x_security_token_expires = ${new Date(end).toISOString()}\n`)).token?.expires, end);
    assert.equal((await profile(`aws_expiration = ${new Date(end).toISOString()}\n`)).token?.expires, end);
    const over = await profile("x_security_token_expires = 2024-01-01T00:00:00+01:00\n");
    assert.match(over.error?.message ?? "", /^the AWS credentials have expired$/);
  });
});

describe("a role to assume", () => {
  test("is asked for with all that the configuration says, signed by the credentials that were found", async () => {
    const role = { role_arn: ROLE_ARN, external_id: "corp/42", session_name: "me@example.com", duration: "2h" };
    const { error } = await mint({ ...SESSION, ...role }, container());
    assert.equal(error, undefined, error?.message);
    const { parameters } = aws.received.at(-1)!;
    const sent = (name: string) => parameters.get(name);
    assert.deepEqual(
      [sent("RoleArn"), sent("ExternalId"), sent("RoleSessionName"), sent("DurationSeconds")],
      [ROLE_ARN, "corp/42", "me@example.com", "7200"],
    );
    const first = aws.given.at(-2)!;
    assert.equal(signerOf(aws.received.at(-1)!, first.secretAccessKey)?.accessKeyId, first.accessKeyId);
  });

  test("has a session that is named after the token, and STS's own duration, where nothing is said", async () => {
    await mint({ ...SESSION, role_arn: ROLE_ARN }, sts(), { name: "b".repeat(63) });
    const { parameters } = aws.received.at(-1)!;
    assert.equal(parameters.get("RoleSessionName"), `freshkey-${"b".repeat(55)}`);
    assert.deepEqual([parameters.get("ExternalId"), parameters.get("DurationSeconds")], [null, null]);
  });

  test("is the one whose credentials make the token: they sign the request for it", async () => {
    const { token } = await mint({ ...JWT, role_arn: ROLE_ARN }, sts());
    await verify(token!.value, AUDIENCE);
    assert.deepEqual(aws.requests.slice(0, 2), ["POST / AssumeRole", "POST / GetWebIdentityToken"]);
    const given = aws.given.at(-1)!;
    assert.equal(signerOf(aws.received[1]!, given.secretAccessKey)?.sessionToken, given.sessionToken);
  });

  test("is not asked for with credentials that have expired", async () => {
    const over = { AWS_CREDENTIAL_EXPIRATION: new Date(Date.now() - 1_000).toISOString() };
    const { error } = await mint({ ...SESSION, role_arn: ROLE_ARN }, { ...sts(), ...over });
    assert.equal(error?.message, "the AWS credentials have expired");
    assert.deepEqual(aws.requests, []);
  });

  test("whose answer has no credentials is said so", async () => {
    aws.answer = { status: 200, headers: { "content-type": "text/xml" }, body: "<AssumeRoleResponse/>" };
    const { error } = await mint({ ...SESSION, role_arn: ROLE_ARN }, sts());
    assert.equal(error?.code, "ERR_SOURCE_ANSWER");
  });
});
