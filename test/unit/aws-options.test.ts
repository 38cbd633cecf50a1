/** The configuration's keys of `source = "aws"`: what each may be, and which go together. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as v from "valibot";
import { awsOptions } from "../../src/sources/aws-options.ts";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

const KEY = { kind: "bedrock-api-key" };
const JWT = { kind: "web-identity-token", audience: "https://gateway.example.com" };
const SESSION = { kind: "session-token" };
const ROLE = { role_arn: "arn:aws:iam::123456789012:role/team/gateway" };

const parse = (input: object) => v.parse(awsOptions, input);
const issues = (input: object) =>
  (v.safeParse(awsOptions, input).issues ?? []).map((issue) => `${v.getDotPath(issue)}: ${issue.message}`);

describe("durations of source = aws", () => {
  test("become milliseconds; the longest that AWS accepts where nothing is said", () => {
    assert.equal(parse(KEY).expires_in, 12 * HOUR);
    assert.equal(parse({ ...KEY, expires_in: "90m" }).expires_in, 90 * MINUTE);
    assert.equal(parse(JWT).expires_in, HOUR);
    assert.equal(parse({ ...JWT, expires_in: "60s" }).expires_in, MINUTE);
    assert.equal(parse({ ...SESSION, ...ROLE, duration: "12h" }).duration, 12 * HOUR);
    assert.equal(parse({ ...SESSION, ...ROLE }).duration, undefined);
  });

  test("too short, too long, or none at all, say what is allowed for this kind", () => {
    for (const wrong of ["13h", "0s", "999ms", "12", ""]) {
      assert.deepEqual(issues({ ...KEY, expires_in: wrong }), [
        'expires_in: must be a duration up to 12h, such as "12h" or "90m"',
      ]);
    }
    for (const wrong of ["61m", "59s", "1"]) {
      assert.deepEqual(issues({ ...JWT, expires_in: wrong }), [
        'expires_in: must be a duration from 1m to 1h, such as "1h" or "15m"',
      ]);
    }
    assert.deepEqual(issues({ ...KEY, expires_in: 12 }), ['expires_in: must be a duration, such as "1h" or "90m"']);
    for (const wrong of ["14m", "13h", "soon", 3600]) {
      assert.match(
        issues({ ...KEY, ...ROLE, duration: wrong }).join(),
        /^duration: must be a duration from 15m to 12h/,
      );
    }
  });
});

describe("keys of source = aws", () => {
  test("what is wrong is named with its key, and says what is allowed", () => {
    assert.deepEqual(issues({ kind: "gold" }), [
      'kind: must be one of "bedrock-api-key", "web-identity-token", "session-token"',
    ]);
    assert.match(issues({ ...KEY, region: "Oregon" })[0] ?? "", /^region: must be the name of a region/);
    assert.match(issues({ ...KEY, profile: "" })[0] ?? "", /^profile: must be the name of a profile/);
    assert.match(issues({ ...KEY, account: "1" })[0] ?? "", /^account: /);
    assert.match(issues({ ...KEY, role_arn: "gateway" })[0] ?? "", /^role_arn: must be the ARN of a role, such as/);
    assert.match(issues({ ...KEY, ...ROLE, session_name: "a b" })[0] ?? "", /^session_name: must be 2 to 64/);
    assert.match(issues({ ...KEY, ...ROLE, external_id: "x" })[0] ?? "", /^external_id: must be/);
    assert.match(issues({ ...JWT, signing_algorithm: "HS256" })[0] ?? "", /must be "RS256" or "ES384"/);
    for (const audience of ["", [], Array(11).fill("a"), [""], 7]) {
      assert.match(issues({ ...JWT, audience }).join(), /^audience(\.0)?: must be who the token is for/);
    }
  });

  test("what AWS itself accepts is right", () => {
    for (const region of ["us-west-2", "us-gov-west-1", "ap-southeast-2"]) {
      assert.deepEqual(issues({ ...KEY, region }), []);
    }
    for (const role_arn of [
      ROLE.role_arn,
      "arn:aws-us-gov:iam::123456789012:role/r",
      "arn:aws-cn:iam::000000000000:role/r",
    ]) {
      assert.deepEqual(issues({ ...KEY, role_arn, external_id: "a/b:c-1", session_name: "me@example.com" }), []);
    }
    assert.deepEqual(issues({ ...JWT, audience: ["a", "b"], signing_algorithm: "ES384" }), []);
  });

  test("a key without a meaning for the kind is named, and so is one that is missing", () => {
    assert.deepEqual(issues({ kind: "web-identity-token" }), ['audience: is needed for kind = "web-identity-token"']);
    assert.deepEqual(issues({ ...KEY, audience: "a", signing_algorithm: "RS256" }), [
      'audience: has no meaning for kind = "bedrock-api-key"',
      'signing_algorithm: has no meaning for kind = "bedrock-api-key"',
    ]);
    assert.deepEqual(issues({ ...SESSION, expires_in: "1h" }), [
      'expires_in: has no meaning for kind = "session-token"',
    ]);
    assert.deepEqual(issues({ ...KEY, external_id: "ab", session_name: "ab", duration: "1h" }), [
      "external_id: has no meaning without role_arn",
      "session_name: has no meaning without role_arn",
      "duration: has no meaning without role_arn",
    ]);
  });
});
