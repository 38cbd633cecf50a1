/** What credential helpers print: each format as its specification or its program has it, and what is none of it. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { UNKNOWN_EXPIRY } from "../../src/core/token.ts";
import { BadAnswer } from "../../src/sources/formats/answer.ts";
import { formatAwsCredentials } from "../../src/sources/formats/aws.ts";
import { formatDockerCredential } from "../../src/sources/formats/docker.ts";
import { formatGitCredential, gitQuestion, isGitUrl } from "../../src/sources/formats/git.ts";
import type { Fields } from "../../src/sources/formats/json.ts";
import { formatExecCredential } from "../../src/sources/formats/kubernetes.ts";
import { FORMATS, type Format, parseToken } from "../../src/sources/formats/parse.ts";
import { isPointer } from "../../src/sources/formats/pointer.ts";

const NOW = Date.parse("2026-11-23T20:00:00Z");
const EXPIRES = Date.parse("2026-11-23T21:00:00Z");
const SECONDS = EXPIRES / 1000;

const part = (content: unknown) => Buffer.from(JSON.stringify(content)).toString("base64url");
const jwt = (exp: number) => `${part({ alg: "none" })}.${part({ exp })}.c2ln`;

const parse = (output: unknown, format: Format = "auto", fields: Fields = {}) =>
  parseToken(typeof output === "string" ? output : JSON.stringify(output), format, NOW, fields);

const EXEC = {
  apiVersion: "client.authentication.k8s.io/v1",
  kind: "ExecCredential",
  status: { token: "k8s-token", expirationTimestamp: "2026-11-23T21:00:00Z" },
};
const AWS = {
  Version: 1,
  AccessKeyId: "AKIDEXAMPLE",
  SecretAccessKey: "wJalr/XUtn+FEMI",
  SessionToken: "IQoJb3Jp==",
  Expiration: "2026-11-23T21:00:00+00:00",
};
const AWS_TOKEN = JSON.stringify({ ...AWS, Expiration: "2026-11-23T21:00:00.000Z" });
const DOCKER = { ServerURL: "images.example.com", Username: "oauth2", Secret: "docker-secret" };
const GCLOUD = {
  configuration: { active_configuration: "default", properties: { core: { account: "me@example.com" } } },
  credential: { access_token: "ya29.token", id_token: "not-this", token_expiry: "2026-11-23T21:00:00Z" },
  sentinels: { config_sentinel: "/home/me/.config/gcloud/config_sentinel" },
};
const AZURE = {
  accessToken: "azure-token",
  expiresOn: "2026-11-24 09:00:00.000000",
  expires_on: SECONDS,
  subscription: "00000000-0000-0000-0000-000000000000",
  tenant: "00000000-0000-0000-0000-000000000000",
  tokenType: "Bearer",
};
const GIT = `protocol=https\nhost=git.example.com\nusername=me\npassword=git-password\npassword_expiry_utc=${SECONDS}\n`;

/** As the program prints it, and what freshkey is to make of it: by its name, and by its shape alone. */
const GOOD: readonly (readonly [format: Format, output: unknown, value: string, expires: number])[] = [
  ["raw", "plain-token\n", "plain-token", UNKNOWN_EXPIRY],
  ["raw", `${jwt(SECONDS)}\r\n`, jwt(SECONDS), EXPIRES],
  ["json", { access_token: "t", expires_in: 3600, token_type: "Bearer" }, "t", EXPIRES],
  ["json", { token: "t", expires_at: "2026-11-23T22:00:00+01:00" }, "t", EXPIRES],
  ["json", { id_token: jwt(SECONDS) }, jwt(SECONDS), EXPIRES],
  ["json", `"quoted-token"`, "quoted-token", UNKNOWN_EXPIRY],
  ["aws-credential-process", AWS, AWS_TOKEN, EXPIRES],
  ["kubernetes-exec", EXEC, "k8s-token", EXPIRES],
  ["kubernetes-exec", { ...EXEC, status: { token: "t" } }, "t", UNKNOWN_EXPIRY],
  ["kubernetes-exec", { ...EXEC, apiVersion: "client.authentication.k8s.io/v1beta1" }, "k8s-token", EXPIRES],
  ["git-credential", GIT, "git-password", EXPIRES],
  ["git-credential", "password=p=with=signs\n\nignored", "p=with=signs", UNKNOWN_EXPIRY],
  ["git-credential", "capability[]=authtype\nauthtype=Bearer\ncredential=c\n", "c", UNKNOWN_EXPIRY],
  ["docker-credential", DOCKER, "docker-secret", UNKNOWN_EXPIRY],
  ["azure-cli", AZURE, "azure-token", EXPIRES],
  ["gcloud", GCLOUD, "ya29.token", EXPIRES],
];

describe("a credential helper's output", () => {
  for (const [format, output, value, expires] of GOOD) {
    it(`${format}: ${JSON.stringify(output).slice(0, 60)}`, () => {
      assert.deepEqual(parse(output, format), { value, expires });
      assert.deepEqual(parse(output), { value, expires }, "auto");
    });
  }

  it("is understood in every format there is", () => {
    const tested = new Set(GOOD.map(([format]) => format));
    assert.deepEqual([...tested, "auto"].sort(), [...FORMATS].sort());
  });

  it("never outlives its own JWT", () => {
    const token = jwt(SECONDS);
    assert.equal(parse({ access_token: token, expires_in: 86_400 }).expires, EXPIRES);
    assert.equal(parse({ access_token: token, expires_in: 60 }).expires, NOW + 60_000);
  });
});

describe("fields", () => {
  const vault = { auth: { client_token: "hvs.x", lease_duration: 3600 } };

  it("are found by names joined by dots, or by a JSON pointer", () => {
    for (const token of ["auth.client_token", "/auth/client_token"]) {
      assert.deepEqual(parse(vault, "auto", { token }), { value: "hvs.x", expires: EXPIRES });
    }
    const odd = { "a/b": { "c~d": ["x", "y"] } };
    assert.equal(parse(odd, "json", { token: "/a~1b/c~0d/1" }).value, "y");
    assert.equal(parse([{ t: "z" }], "json", { token: "/0/t" }).value, "z");
  });

  it("take the expiry from beside the token, or from where it is said to be", () => {
    const json = { data: { key: "k", until: "2026-11-23T21:00:00Z" }, expires_in: 5 };
    assert.equal(parse(json, "json", { token: "data.key" }).expires, UNKNOWN_EXPIRY);
    assert.equal(parse(json, "json", { token: "data.key", expiry: "data.until" }).expires, EXPIRES);
    assert.equal(parse({ ...json, token: "t" }, "json", { expiry: "data.until" }).expires, EXPIRES);
  });

  it("must be there, and be a text", () => {
    for (const [output, token] of [
      [vault, "auth.token"],
      [vault, "auth.lease_duration"],
      [vault, "auth.client_token.more"],
      [vault, "__proto__.toString"],
      [{ a: "x" }, "constructor.name"],
      ["null", "a"],
      ['"text"', "length"],
    ] as const) {
      assert.throws(() => parse(output, "json", { token }), BadAnswer, token);
    }
    assert.throws(() => parse(vault, "json", { token: "auth.client_token", expiry: "auth.until" }), /auth\.until/);
  });

  it("know an expiry in every form that programs use", () => {
    const expiry = (until: unknown) => parse({ token: "t", until }, "json", { expiry: "until" }).expires;
    for (const same of [SECONDS, `${SECONDS}`, EXPIRES, 3600, "3600", "2026-11-23T21:00:00.000Z"]) {
      assert.equal(expiry(same), EXPIRES, JSON.stringify(same));
    }
    assert.equal(expiry("2026-11-23 22:00:00+01:00"), EXPIRES);
    assert.equal(expiry("2026-11-23T21:00:00.999999999Z"), EXPIRES + 999);
    assert.equal(expiry("2026-11-23 21:00:00.000000"), new Date(2026, 10, 23, 21).getTime());
    for (const none of [null, "", 0, "0001-01-01T00:00:00Z"]) assert.equal(expiry(none), UNKNOWN_EXPIRY);
    for (const wrong of ["soon", true, {}, [], "2026-13-45T00:00:00Z", "1e400", 1e300, "99999999999999999999"]) {
      assert.throws(() => expiry(wrong), BadAnswer, JSON.stringify(wrong));
    }
  });

  it("are pointers only in the form of RFC 6901", () => {
    for (const pointer of ["", "/a", "/a/0", "/", "/a~0b~1c", "/ä b"]) assert.ok(isPointer(pointer), pointer);
    for (const none of ["a", "a/b", "/a~", "/a~2"]) assert.ok(!isPointer(none), none);
  });
});

describe("what is no token", () => {
  const BAD: readonly (readonly [format: Format, output: unknown, why: RegExp])[] = [
    ["auto", " \n", /nothing/],
    ["auto", "null\n", /word null/],
    ["raw", "undefined", /word undefined/],
    ["auto", "<html><body>Sign in</body></html>", /HTML/],
    ["auto", "two\nlines", /more than one line/],
    ["auto", "Please log in first", /spaces/],
    ["auto", "täken", /printable ASCII/],
    ["auto", "{", /not JSON/],
    ["auto", "[]", /a list/],
    ["auto", {}, /without any of the fields/],
    ["auto", { error: "invalid_grant", error_description: "expired" }, /an error instead of a token: invalid_grant/],
    ["auto", { access_token: "" }, /not a text/],
    ["auto", { access_token: "null" }, /word null/],
    ["auto", { token: 17 }, /without any of the fields/],
    ["json", "plain-token", /not JSON/],
    ["auto", { access_token: "t", expires_in: "soon" }, /neither a time nor a number/],
    ["kubernetes-exec", { token: "t" }, /no ExecCredential/],
    ["auto", { ...EXEC, apiVersion: "client.authentication.k8s.io/v2" }, /apiVersion/],
    ["auto", { ...EXEC, status: undefined }, /without a status/],
    ["auto", { ...EXEC, status: { clientCertificateData: "PEM", clientKeyData: "PEM" } }, /client certificate/],
    ["auto", { ...EXEC, status: { token: "t", expirationTimestamp: "tomorrow" } }, /RFC 3339/],
    ["auto", { ...AWS, Version: 2 }, /Version/],
    ["auto", { ...AWS, SecretAccessKey: 7 }, /SecretAccessKey/],
    ["auto", { ...AWS, Expiration: 1795459999 }, /RFC 3339/],
    ["auto", { ...AWS, SessionToken: "two words" }, /spaces/],
    ["git-credential", "protocol=https\nhost=git.example.com\n", /no password/],
    ["git-credential", "quit=1\n", /nobody is to be asked/],
    ["git-credential", "plain-token", /key=value/],
    ["git-credential", "password=\n", /no password/],
    ["auto", "host=a\npassword=p\npassword_expiry_utc=never\n", /password_expiry_utc/],
    ["docker-credential", { Username: "me" }, /Secret/],
    ["auto", { ...DOCKER, Secret: "" }, /Secret/],
    ["azure-cli", { access_token: "t" }, /accessToken/],
    ["gcloud", { access_token: "t" }, /credential\.access_token/],
    ["gcloud", { credential: { access_token: "t", token_expiry: "soon" } }, /token_expiry/],
  ];
  for (const [format, output, why] of BAD) {
    it(`${format}: ${JSON.stringify(output).slice(0, 60)}`, () => {
      assert.throws(
        () => parse(output, format),
        (error) => error instanceof BadAnswer && why.test(error.message),
      );
    });
  }

  it("is never quoted", () => {
    const secret = "Tr0ub4dor";
    for (const output of [`${secret} {`, `{"a": ${secret}}`, `{"x":"${secret}"}`, `["${secret}"]`, `"${secret}`]) {
      for (const format of FORMATS.filter((name) => name !== "raw")) {
        assert.throws(
          () => parse(output, format),
          (error: Error) => !`${error.message} ${error.cause}`.includes(secret),
        );
      }
    }
  });
});

describe("freshkey as a helper", () => {
  const token = { value: "the-token", expires: EXPIRES + 999 };

  it("answers what it would itself understand", () => {
    assert.deepEqual(parse(formatExecCredential(token, undefined)), { value: "the-token", expires: EXPIRES });
    assert.deepEqual(parse(formatGitCredential(token, "oauth2")), { value: "the-token", expires: EXPIRES });
    assert.equal(parse(formatDockerCredential(token, "images.example.com", "u")).value, "the-token");
    assert.equal(formatAwsCredentials(AWS_TOKEN), `${AWS_TOKEN}\n`);
  });

  it("says nothing of an expiry that nobody knows", () => {
    const bare = { value: "the-token", expires: UNKNOWN_EXPIRY };
    assert.doesNotMatch(formatExecCredential(bare, undefined), /expirationTimestamp/);
    assert.equal(formatGitCredential(bare, undefined), "password=the-token\n");
  });

  it("answers kubectl in the version that it asks in", () => {
    const version = (info: string | undefined) => JSON.parse(formatExecCredential(token, info)).apiVersion;
    assert.equal(
      version('{"apiVersion":"client.authentication.k8s.io/v1beta1"}'),
      "client.authentication.k8s.io/v1beta1",
    );
    for (const info of [undefined, "", "{", "null", '{"apiVersion":"v2"}']) {
      assert.equal(version(info), "client.authentication.k8s.io/v1");
    }
  });

  it("makes no AWS credentials of what is none", () => {
    for (const value of ["the-token", "{}", jwt(SECONDS), '{"Version":1,"AccessKeyId":"a"}']) {
      assert.equal(formatAwsCredentials(value), undefined);
    }
  });

  it("asks git's helpers in git's words", () => {
    assert.equal(gitQuestion("https://git.example.com"), "protocol=https\nhost=git.example.com\n\n");
    assert.equal(
      gitQuestion("https://me@git.example.com:8443/team/a%20b.git"),
      "protocol=https\nhost=git.example.com:8443\npath=team/a b.git\nusername=me\n\n",
    );
    for (const url of ["https://git.example.com/a%0Ahost=evil", "https://git.example.com/%", "git.example.com"]) {
      assert.ok(!isGitUrl(url), url);
    }
  });
});
