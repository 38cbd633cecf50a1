/**
 * Every way to AWS credentials, with the real SDK against local endpoints: it mints, the expiry is right, a second mint
 * is a new one, and a hang, 429, 500 and a refusal are what they are.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { ErrorCode } from "../../src/core/errors.ts";
import { type AwsAnswer, type AwsEndpoints, startAwsEndpoints, stsError } from "../support/aws-endpoints.ts";
import {
  type AwsMinter,
  type Environment,
  makeAwsMinter,
  NO_INSTANCE,
  ROLE_ARN,
  STATIC,
  staticProfile,
} from "../support/aws-mint.ts";
import { verifyBedrockKey } from "../support/sigv4.ts";

const HOUR = 3_600_000;

let minter: AwsMinter;

before(async () => {
  minter = await makeAwsMinter();
});

after(() => minter.close());

interface Way {
  readonly name: string;
  readonly input?: object;
  env(aws: AwsEndpoints): Environment;
  /** What one mint asks for, in order. */
  readonly requests: readonly string[];
  /** How often an endpoint that fails is asked, where it is not once. */
  readonly attempts?: number;
  /** An answer that only a person can do something about, and what it is. */
  readonly permanent: { answer: AwsAnswer; code: ErrorCode; message: RegExp; hint: RegExp };
}

const awsJson = (status: number, type: string, message: string): AwsAnswer => ({
  status,
  headers: { "x-amzn-errortype": type },
  body: JSON.stringify({ message }),
});

const webIdentityFile = () => {
  const file = join(minter.home, "web-identity-token");
  writeFileSync(file, "eyJ0.web-identity.token");
  return file;
};

const DENIED = {
  answer: stsError(
    403,
    "AccessDenied",
    `User: x is not authorized to perform: sts:AssumeRole on resource: ${ROLE_ARN}`,
  ),
  code: "ERR_SOURCE_REFUSED",
  message: /^127\.0\.0\.1 refused: AccessDenied: User: x is not authorized/,
  hint: /trust policy/,
} as const;

const SSO =
  "sso_account_id = 123456789012\nsso_role_name = Dev\nregion = us-east-1\n" +
  "[sso-session corp]\nsso_start_url = https://corp.awsapps.com/start\nsso_region = us-east-1\n";
const EXPIRED_SSO = {
  answer: awsJson(401, "UnauthorizedException", "Session token not found or invalid"),
  code: "ERR_SIGN_IN",
  message: /^the sign-in of the AWS profile dev is missing or has expired$/,
  hint: /^Run: aws sso login --profile dev$/,
} as const;

const WAYS: readonly Way[] = [
  {
    name: "a container's role",
    env: (aws) => ({ AWS_CONTAINER_CREDENTIALS_FULL_URI: aws.container }),
    requests: ["GET /container"],
    // The SDK has two providers for a container: where the one fails, the other asks as well.
    attempts: 2,
    permanent: {
      answer: { status: 403, body: "{}" },
      code: "ERR_SOURCE_REFUSED",
      message: /^127\.0\.0\.1 refused \(HTTP 403\)$/,
      hint: /AWS_CONTAINER_AUTHORIZATION_TOKEN/,
    },
  },
  {
    name: "an instance's role (IMDSv2)",
    env: (aws) => ({ AWS_EC2_METADATA_SERVICE_ENDPOINT: aws.url }),
    requests: [
      "PUT /latest/api/token",
      "GET /latest/meta-data/iam/security-credentials/",
      "GET /latest/meta-data/iam/security-credentials/role",
    ],
    attempts: 2,
    permanent: {
      answer: { status: 404, body: "" },
      code: "ERR_SOURCE_REFUSED",
      message: /^127\.0\.0\.1 has no role for this machine \(HTTP 404\)$/,
      hint: /has a role/,
    },
  },
  {
    name: "a role to assume (STS)",
    input: { role_arn: ROLE_ARN },
    env: (aws) => ({ ...STATIC, ...NO_INSTANCE, AWS_ENDPOINT_URL_STS: aws.url }),
    requests: ["POST / AssumeRole"],
    permanent: DENIED,
  },
  {
    name: "a role of a profile (STS)",
    input: { profile: "dev" },
    env: (aws) => ({
      ...minter.files(`[profile dev]\nrole_arn = ${ROLE_ARN}\nsource_profile = base\n`, staticProfile("base")),
      AWS_ENDPOINT_URL_STS: aws.url,
    }),
    requests: ["POST / AssumeRole"],
    permanent: DENIED,
  },
  {
    name: "web identity, from the environment",
    env: (aws) => ({
      ...NO_INSTANCE,
      AWS_ENDPOINT_URL_STS: aws.url,
      AWS_WEB_IDENTITY_TOKEN_FILE: webIdentityFile(),
      AWS_ROLE_ARN: ROLE_ARN,
    }),
    requests: ["POST / AssumeRoleWithWebIdentity"],
    permanent: {
      answer: stsError(400, "InvalidIdentityToken", "Incorrect token audience"),
      code: "ERR_SOURCE_REFUSED",
      message: /refused: InvalidIdentityToken\w*: Incorrect token audience/,
      hint: /trust policy/,
    },
  },
  {
    name: "web identity, from a profile",
    input: { profile: "dev" },
    env: (aws) => ({
      ...minter.files(`[profile dev]\nrole_arn = ${ROLE_ARN}\nweb_identity_token_file = ${webIdentityFile()}\n`),
      AWS_ENDPOINT_URL_STS: aws.url,
    }),
    requests: ["POST / AssumeRoleWithWebIdentity"],
    permanent: {
      answer: stsError(403, "IDPRejectedClaim", "The identity provider rejected the claim"),
      code: "ERR_SOURCE_REFUSED",
      message: /refused: IDPRejectedClaim/,
      hint: /trust policy/,
    },
  },
  {
    name: "IAM Identity Center, a session",
    input: { profile: "dev" },
    env: (aws) => ({
      ...minter.files(`[profile dev]\nsso_session = corp\n${SSO}`),
      ...minter.signedIn("corp", HOUR),
      AWS_ENDPOINT_URL_SSO: aws.url,
    }),
    requests: ["GET /federation/credentials"],
    permanent: EXPIRED_SSO,
  },
  {
    name: "IAM Identity Center, a start URL in the profile",
    input: { profile: "dev" },
    env: (aws) => ({
      ...minter.files(
        "[profile dev]\nsso_start_url = https://old.awsapps.com/start\nsso_region = us-east-1\n" +
          "sso_account_id = 123456789012\nsso_role_name = Dev\n",
      ),
      ...minter.signedIn("https://old.awsapps.com/start", HOUR),
      AWS_ENDPOINT_URL_SSO: aws.url,
    }),
    requests: ["GET /federation/credentials"],
    permanent: EXPIRED_SSO,
  },
  {
    name: "a role to assume with a role of a profile (STS, chained)",
    input: { profile: "dev", role_arn: ROLE_ARN },
    env: (aws) => ({
      ...minter.files(`[profile dev]\nrole_arn = ${ROLE_ARN}\nsource_profile = base\n`, staticProfile("base")),
      AWS_ENDPOINT_URL_STS: aws.url,
    }),
    requests: ["POST / AssumeRole", "POST / AssumeRole"],
    permanent: {
      answer: stsError(400, "ValidationError", "The requested DurationSeconds exceeds the 1 hour session limit"),
      code: "ERR_SOURCE_REFUSED",
      message: /refused: ValidationError: The requested DurationSeconds exceeds the 1 hour/,
      hint: /role limits duration/,
    },
  },
];

// Two at a time: most of each is waiting for a process to start, and there are machines with few cores.
describe("the ways to AWS credentials", { concurrency: 2 }, () => {
  for (const way of WAYS) {
    test(way.name, async (t) => {
      const aws = await startAwsEndpoints();
      t.after(() => aws.close());
      const env = way.env(aws);
      const mint = async (answer?: AwsAnswer, timeout = 10_000) => {
        aws.answer = answer;
        aws.requests.length = 0;
        return minter.mint(way.input ?? {}, env, { timeout });
      };

      // Three hours: the SDK's own memory would keep them.
      aws.lifetime = 3 * HOUR;
      const values = new Set<string>();
      for (const attempt of [1, 2]) {
        const { token, error, stderr } = await mint();
        assert.equal(error, undefined, error?.message);
        assert.deepEqual(aws.requests, way.requests, `mint ${attempt}`);
        const given = aws.given.at(-1)!;
        const key = verifyBedrockKey(token!.value, given.secretAccessKey);
        assert.deepEqual([key.valid, key.accessKeyId], [true, given.accessKeyId]);
        assert.ok(key.sessionToken === given.sessionToken, "signed with another session");
        assert.equal(token!.expires, given.expires, "the credentials end before the twelve hours of the key");
        assert.equal(stderr, "");
        values.add(token!.value);
      }
      assert.equal(values.size, 2, "the second mint gave the first token again");

      const busy = await mint({ status: 429, headers: { "retry-after": "7" }, body: "{}" });
      assert.deepEqual([busy.error?.code, busy.error?.retryAfter], ["ERR_SOURCE_FAILED", 7_000], busy.error?.message);
      assert.equal(aws.requests.length, way.attempts ?? 1, "429 was retried inside");
      const broken = await mint({ status: 500, body: "<html>" });
      assert.equal(broken.error?.code, "ERR_SOURCE_FAILED");
      assert.match(broken.error.message, /^127\.0\.0\.1 answered with HTTP 500/);
      assert.equal(aws.requests.length, way.attempts ?? 1, "500 was retried inside");

      const refused = await mint(way.permanent.answer);
      assert.equal(refused.error?.code, way.permanent.code, refused.error?.message);
      assert.match(refused.error.message, way.permanent.message);
      assert.match(refused.error.hint ?? "", way.permanent.hint);
      assert.notEqual(refused.error.class, "transient");

      const hung = await mint("hang", 1_500);
      assert.equal(hung.error?.code, "ERR_SOURCE_TIMEOUT", hung.error?.message);
      assert.match(hung.error.message, /^127\.0\.0\.1 did not answer/);
      assert.ok(hung.elapsed < 1_500, `${hung.elapsed} ms`);
    });
  }
});

describe("what a way sends", () => {
  test("a container's authorization, from the variable and from the file", async (t) => {
    const aws = await startAwsEndpoints();
    t.after(() => aws.close());
    const file = join(minter.home, "authorization");
    writeFileSync(file, "from-the-file");
    const env = { AWS_CONTAINER_CREDENTIALS_FULL_URI: aws.container };
    await minter.mint({}, { ...env, AWS_CONTAINER_AUTHORIZATION_TOKEN: "from-the-variable" });
    await minter.mint({}, { ...env, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: file });
    assert.deepEqual(
      aws.received.map(({ headers }) => headers.authorization),
      ["from-the-variable", "from-the-file"],
    );
    const { error } = await minter.mint({}, { ...env, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: `${file}.gone` });
    assert.equal(error?.code, "ERR_SOURCE_CONFIG");
    assert.match(error.message, /authorization\.gone cannot be read \(ENOENT\)$/);
  });

  test("a web identity token is read anew for each mint; a missing or an expired one is said so", async (t) => {
    const aws = await startAwsEndpoints();
    t.after(() => aws.close());
    const file = join(minter.home, "projected-token");
    const env = {
      ...NO_INSTANCE,
      AWS_ENDPOINT_URL_STS: aws.url,
      AWS_WEB_IDENTITY_TOKEN_FILE: file,
      AWS_ROLE_ARN: ROLE_ARN,
    };
    for (const content of ["first", "second"]) {
      writeFileSync(file, content);
      await minter.mint({}, env);
      assert.equal(aws.received.at(-1)?.parameters.get("WebIdentityToken"), content);
    }
    aws.answer = stsError(400, "ExpiredTokenException", "Token expired: current date/time 2 must be before 1");
    const expired = await minter.mint({}, env);
    assert.equal(expired.error?.code, "ERR_SOURCE_FAILED");
    assert.match(expired.error.message, /web identity token to sign in with has expired/);
    assert.match(expired.error.hint ?? "", /AWS_WEB_IDENTITY_TOKEN_FILE/);
    const { error } = await minter.mint({}, { ...env, AWS_WEB_IDENTITY_TOKEN_FILE: `${file}.gone` });
    assert.equal(error?.code, "ERR_SOURCE_CONFIG");
    assert.match(error.message, /projected-token\.gone cannot be read \(ENOENT\)$/);
  });
});
