/**
 * The aws source with the real AWS SDK, against local endpoints: API keys for Amazon Bedrock, profiles, failures.
 * The table of every way to credentials is in aws-ways.test.ts, the other kinds of token in aws-kinds.test.ts.
 */
import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import {
  type AwsAnswer,
  type AwsEndpoints,
  makeCredentials,
  startAwsEndpoints,
  stsError,
} from "../support/aws-endpoints.ts";
import { type AwsMinter, makeAwsMinter, NO_INSTANCE, STATIC, staticProfile } from "../support/aws-mint.ts";
import { verifyBedrockKey } from "../support/sigv4.ts";

const HOUR = 3_600_000;

let aws: AwsEndpoints;
let minter: AwsMinter;
const mint: AwsMinter["mint"] = (...input) => minter.mint(...input);
const files: AwsMinter["files"] = (...content) => minter.files(...content);

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
  aws.lifetime = HOUR;
  aws.requests.length = 0;
});

const container = () => ({ AWS_CONTAINER_CREDENTIALS_FULL_URI: aws.container });

describe("a Bedrock API key", () => {
  test("from a container's credentials: its signature is right, and it ends when the first of both ends", async () => {
    const before = Date.now();
    const { token, error, stderr } = await mint({}, container());
    assert.equal(error, undefined, error?.message);
    const given = aws.given.at(-1)!;
    const key = verifyBedrockKey(token!.value, given.secretAccessKey);
    assert.equal(key.valid, true);
    assert.equal(verifyBedrockKey(token!.value, `${given.secretAccessKey}x`).valid, false);
    assert.equal(key.accessKeyId, given.accessKeyId);
    assert.ok(key.sessionToken === given.sessionToken, "signed with another session");
    assert.equal(key.region, "us-west-2");
    assert.ok(key.expires >= before - 1_000 + 12 * HOUR && key.expires <= Date.now() + 12 * HOUR);
    assert.equal(token!.expires, given.expires, "the credentials end first");
    assert.equal(stderr, "");
  });

  test("of an hour, from credentials of twelve: it ends with its own hour, in whole seconds", async () => {
    aws.lifetime = 12 * HOUR;
    const { token } = await mint({ expires_in: "1h" }, container());
    const key = verifyBedrockKey(token!.value, aws.given.at(-1)!.secretAccessKey);
    assert.equal(key.valid, true);
    assert.equal(token!.expires, key.expires);
    assert.equal(token!.expires % 1_000, 0);
    assert.ok(token!.expires <= Date.now() + HOUR && token!.expires > Date.now() + HOUR - 10_000);
  });

  test("two mints ask for credentials twice", async () => {
    const [first, second] = [await mint({}, container()), await mint({}, container())];
    assert.ok(first.token && second.token && first.token.value !== second.token.value);
    assert.deepEqual(aws.requests, ["GET /container", "GET /container"]);
  });

  test("from static credentials: twelve hours, and a region from the environment", async () => {
    const env = { ...STATIC, ...NO_INSTANCE };
    const { token } = await mint(
      { region: undefined },
      { ...env, AWS_REGION: "eu-central-1", AWS_DEFAULT_REGION: "x-y-1" },
    );
    const key = verifyBedrockKey(token!.value, STATIC.AWS_SECRET_ACCESS_KEY);
    assert.deepEqual([key.valid, key.region, key.sessionToken], [true, "eu-central-1", undefined]);
    assert.equal(token!.expires, key.expires);
    const other = await mint({ region: undefined }, { ...env, AWS_DEFAULT_REGION: "eu-west-1" });
    assert.equal(verifyBedrockKey(other.token!.value, STATIC.AWS_SECRET_ACCESS_KEY).region, "eu-west-1");
  });

  test("from an instance's role", async () => {
    const { token, error } = await mint({}, { AWS_EC2_METADATA_SERVICE_ENDPOINT: aws.url });
    assert.equal(error, undefined, error?.message);
    assert.equal(verifyBedrockKey(token!.value, aws.given.at(-1)!.secretAccessKey).valid, true);
  });
});

describe("credentials at their end", () => {
  test("expired or nearly so, they make no key; the SDK's longer life for an instance's does not count", async () => {
    const ended = async (lifetime: number, env: Record<string, string>) => {
      aws.lifetime = lifetime;
      return (await mint({}, env)).error;
    };
    for (const error of [
      await ended(-5_000, container()),
      await ended(-5_000, { AWS_EC2_METADATA_SERVICE_ENDPOINT: aws.url }),
      (await mint({}, { ...STATIC, AWS_CREDENTIAL_EXPIRATION: new Date(Date.now() - 1_000).toISOString() })).error,
    ]) {
      assert.equal(error?.code, "ERR_SOURCE_FAILED");
      assert.match(error.message, /have expired/);
    }
    const nearly = await ended(30_000, container());
    assert.equal(nearly?.code, "ERR_SOURCE_FAILED");
    assert.match(nearly.message, /end in (2\d|30)s/);
    aws.lifetime = 120_000;
    assert.notEqual((await mint({}, container())).token, undefined);
  });
});

describe("profiles", () => {
  test("a profile's keys and region, whatever else the environment has", async () => {
    const keys = makeCredentials(0);
    const env = files(
      `[profile dev]\nregion = ap-southeast-2\n`,
      `[dev]\naws_access_key_id = ${keys.accessKeyId}\naws_secret_access_key = ${keys.secretAccessKey}\n`,
    );
    const { token } = await mint({ profile: "dev", region: undefined }, { ...env, ...STATIC });
    const key = verifyBedrockKey(token!.value, keys.secretAccessKey);
    assert.deepEqual([key.valid, key.region, key.accessKeyId], [true, "ap-southeast-2", keys.accessKeyId]);
  });

  test("a role of a profile, by STS", async () => {
    const env = files(
      "[profile dev]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = base\n",
      staticProfile("base"),
    );
    const at = { ...env, AWS_ENDPOINT_URL_STS: aws.url };
    const { token, error } = await mint({ profile: "dev" }, at);
    assert.equal(error, undefined, error?.message);
    assert.deepEqual(aws.requests, ["POST / AssumeRole"]);
    assert.equal(verifyBedrockKey(token!.value, aws.given.at(-1)!.secretAccessKey).valid, true);
    const cases: [AwsAnswer, string, RegExp][] = [
      [stsError(403, "AccessDenied"), "ERR_SOURCE_REFUSED", /refused: AccessDenied/],
      [stsError(403, "ExpiredToken"), "ERR_SIGN_IN", /to sign with have expired/],
      [stsError(400, "Throttling"), "ERR_SOURCE_FAILED", /HTTP 400/],
      [stsError(500, "InternalFailure"), "ERR_SOURCE_FAILED", /HTTP 500/],
    ];
    for (const [answer, code, message] of cases) {
      aws.answer = answer;
      aws.requests.length = 0;
      const refused = await mint({ profile: "dev" }, at);
      assert.equal(refused.error?.code, code);
      assert.match(refused.error.message, message);
      assert.equal(aws.requests.length, 1, `${code} was retried inside`);
    }
  });

  test("a profile that there is not is said so, and no other credentials are taken", async () => {
    const { error } = await mint({ profile: "nobody" }, { ...files(""), ...container() });
    assert.equal(error?.code, "ERR_SOURCE_CONFIG");
    assert.match(error.message, /no AWS profile nobody/);
    const empty = await mint(
      { profile: "empty" },
      { ...files("[profile empty]\nregion = us-west-2\n"), ...container() },
    );
    assert.equal(empty.error?.code, "ERR_SOURCE_CONFIG");
    assert.deepEqual(aws.requests, []);
  });

  test("a credential_process that fails, a role that asks for an MFA code", async () => {
    const env = files(
      "[profile tool]\ncredential_process = sh -c 'echo SecretAccessKey=abcdef >&2; exit 1'\n" +
        "[profile mfa]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = base\nmfa_serial = arn:aws:iam::1:mfa/me\n",
      staticProfile("base"),
    );
    const [tool, mfa] = await Promise.all([mint({ profile: "tool" }, env), mint({ profile: "mfa" }, env)]);
    assert.equal(tool.error?.code, "ERR_SOURCE_FAILED");
    assert.match(tool.error.hint ?? "", /aws configure export-credentials --profile tool/);
    assert.doesNotMatch(JSON.stringify(tool.error), /abcdef/);
    assert.equal(mfa.error?.code, "ERR_SOURCE_CONFIG");
    assert.match(mfa.error.message, /asks for an MFA code/);
  });
});

describe("IAM Identity Center", () => {
  const CONFIG =
    "[profile dev]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Dev\nregion = us-east-1\n" +
    "[sso-session corp]\nsso_start_url = https://corp.awsapps.com/start\nsso_region = us-east-1\n";

  const signedIn = (lifetime: number, more?: object) => minter.signedIn("corp", lifetime, more);

  const REFRESHABLE = {
    clientId: "c",
    clientSecret: "s",
    refreshToken: "r",
    registrationExpiresAt: "2099-01-01T00:00:00Z",
  };
  const endpoints = () => ({ AWS_ENDPOINT_URL_SSO: aws.url, AWS_ENDPOINT_URL_SSO_OIDC: aws.url });

  test("a session in force gives a key; none, an expired one and a revoked one give the command to sign in", async () => {
    const env = { ...files(CONFIG), ...endpoints() };
    const good = await mint({ profile: "dev" }, { ...env, ...signedIn(HOUR) });
    assert.equal(good.error, undefined, good.error?.message);
    assert.equal(verifyBedrockKey(good.token!.value, aws.given.at(-1)!.secretAccessKey).valid, true);

    const body = JSON.stringify({ message: "Session token not found or invalid" });
    aws.answer = { status: 401, headers: { "x-amzn-errortype": "UnauthorizedException" }, body };
    for (const where of [{}, signedIn(-HOUR), signedIn(HOUR)]) {
      const { error } = await mint({ profile: "dev" }, { ...env, ...where });
      assert.equal(error?.code, "ERR_SIGN_IN", error?.message);
      assert.equal(error.hint, "Run: aws sso login --profile dev");
    }
  });

  test("a session that cannot be renewed because of an outage is no reason to sign in", async () => {
    const env = { ...files(CONFIG), ...endpoints(), ...signedIn(-1_000, REFRESHABLE) };
    aws.answer = { status: 503, headers: { "retry-after": "3" }, body: "{}" };
    const busy = await mint({ profile: "dev" }, env);
    assert.equal(busy.error?.code, "ERR_SOURCE_FAILED");
    assert.equal(busy.error.retryAfter, 3_000);
    const gone = await mint({ profile: "dev" }, { ...env, AWS_ENDPOINT_URL_SSO_OIDC: "http://127.0.0.1:9" });
    assert.equal(gone.error?.code, "ERR_SOURCE_UNREACHABLE");
    assert.match(gone.error.message, /127\.0\.0\.1 cannot be reached \(ECONNREFUSED\)/);
  });

  test("an access token that has expired is renewed with the refresh token of the session", async () => {
    const { token, error } = await mint(
      { profile: "dev" },
      { ...files(CONFIG), ...endpoints(), ...signedIn(-1_000, REFRESHABLE) },
    );
    assert.equal(error, undefined, error?.message);
    assert.deepEqual(aws.requests, ["POST /token", "GET /federation/credentials"]);
    assert.equal(aws.received.at(-1)?.headers["x-amz-sso_bearer_token"], "renewed-sso-access-token");
    assert.equal(verifyBedrockKey(token!.value, aws.given.at(-1)!.secretAccessKey).valid, true);
  });

  test("a role that the user does not have is refused", async () => {
    aws.answer = {
      status: 403,
      headers: { "x-amzn-errortype": "ForbiddenException" },
      body: '{"message":"No access"}',
    };
    const { error } = await mint({ profile: "dev" }, { ...files(CONFIG), ...endpoints(), ...signedIn(HOUR) });
    assert.equal(error?.code, "ERR_SOURCE_REFUSED");
    assert.match(error.message, /No access/);
  });
});

describe("failures", () => {
  test("no credentials anywhere, no region anywhere", async () => {
    const [none, nowhere] = await Promise.all([
      mint({}, files("")),
      mint({ region: undefined }, { ...files(""), ...STATIC }),
    ]);
    assert.equal(none.error?.code, "ERR_SOURCE_CONFIG");
    assert.match(none.error.message, /no AWS credentials/);
    assert.match(none.error.hint ?? "", /profile = /);
    assert.equal(nowhere.error?.code, "ERR_SOURCE_CONFIG");
    assert.match(nowhere.error.message, /no AWS region is set/);
    assert.match(nowhere.error.hint ?? "", /AWS_REGION/);
  });

  test("429 with Retry-After, 500, something else than JSON, a refused connection", async () => {
    const failing = async (answer: AwsAnswer) => {
      aws.answer = answer;
      return (await mint({}, container())).error;
    };
    const busy = await failing({ status: 429, headers: { "retry-after": "11" }, body: "{}" });
    assert.equal(busy?.code, "ERR_SOURCE_FAILED");
    assert.equal(busy.retryAfter, 11_000);
    const broken = await failing({ status: 500, body: "<html>" });
    assert.equal(broken?.code, "ERR_SOURCE_FAILED");
    assert.match(broken.message, /127\.0\.0\.1 answered with HTTP 500/);
    assert.equal((await failing({ status: 200, body: "<html>" }))?.code, "ERR_SOURCE_ANSWER");
    assert.equal((await failing({ status: 400, body: "{}" }))?.code, "ERR_SOURCE_FAILED");
    const refused = await mint({}, { AWS_CONTAINER_CREDENTIALS_FULL_URI: "http://127.0.0.1:9/" });
    assert.equal(refused.error?.code, "ERR_SOURCE_UNREACHABLE");
    assert.match(refused.error.message, /ECONNREFUSED/);
  });

  test("an endpoint that hangs is given up before the deadline, and nothing keeps the process alive", async () => {
    aws.answer = "hang";
    const env = files(
      "[profile dev]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = base\n",
      staticProfile("base"),
    );
    const outcomes = await Promise.all([
      mint({}, container(), { timeout: 1_500 }),
      mint({ profile: "dev" }, { ...env, AWS_ENDPOINT_URL_STS: aws.url }, { timeout: 1_500 }),
    ]);
    for (const { error, elapsed, lived } of outcomes) {
      assert.equal(error?.code, "ERR_SOURCE_TIMEOUT");
      assert.match(error.message, /^127\.0\.0\.1 did not answer within 1s$/);
      assert.ok(elapsed < 1_500, `${elapsed} ms`);
      // The SDK's chain goes on to a second request to a container, which it gives up itself after a second.
      assert.ok(lived < elapsed + 2_500, `the process lived for ${lived} ms`);
    }
  });
});
