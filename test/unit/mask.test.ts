import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { mask } from "../../src/core/mask.ts";
import { assertNothingOf, holds, jwt } from "../support/unit.ts";

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64");
const base64url = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64url");
const bytes = (min: number, max = min) => fc.uint8Array({ minLength: min, maxLength: max });
const from = (alphabet: string, length: number) =>
  fc
    .array(fc.constantFrom(...alphabet), { minLength: length, maxLength: length })
    .map((characters) => characters.join(""));
const UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const LOWER = UPPER.toLowerCase();
const DIGITS = "0123456789";
const WORD = `${UPPER}${LOWER}${DIGITS}_-`;

/** What sources really hand out, and what they are given to do so. */
const SECRETS: Record<string, fc.Arbitrary<string>> = {
  "an access token of Entra ID (a JWT)": fc
    .record({ aud: fc.uuid(), exp: fc.integer(), oid: fc.uuid(), name: fc.string(), roles: fc.array(fc.string()) })
    .map((claims) => jwt(claims, { typ: "JWT", alg: "RS256", x5t: "abc", kid: "abc" })),
  "an encrypted token (a JWE has five parts)": fc
    .tuple(bytes(256), bytes(12), bytes(100, 400), bytes(16))
    .map((parts) =>
      ['{"alg":"RSA-OAEP","enc":"A256GCM"}', ...parts].map((part) => base64url(Buffer.from(part))).join("."),
    ),
  "a key for Amazon Bedrock": bytes(300, 600).map((random) => `bedrock-api-key-${base64(random)}&Version=1`),
  "a refresh token of Entra ID": bytes(200, 600).map((random) => `0.AXoA${base64url(random)}.AgABAAEAAAD`),
  "a client secret of Entra ID": fc
    .tuple(from(`${WORD}.`, 3), from(DIGITS, 1), from(`${WORD}.~`, 34))
    .map(([head, digit, rest]) => `${head}${digit}Q~${rest}`),
  "an access token of Google": bytes(100, 160).map((random) => `ya29.a0Aa4x${base64url(random)}`),
  "a secret access key of AWS": bytes(30).map((random) => `w1${base64(random).slice(2)}`),
  "an access key of AWS": from(`${UPPER}234567`, 16).map((rest) => `ASIA${rest}`),
  "a session token of AWS": bytes(300, 500).map((random) => `IQoJb3JpZ2luX2Vj${base64(random)}`),
  "a token of GitHub": from(`${UPPER}${LOWER}${DIGITS}`, 36).map((rest) => `gho_${rest}`),
  "an API key": from(WORD, 45).map((rest) => `sk-proj-${rest}`),
  "32 bytes in hexadecimal digits": bytes(32).map((random) => `a1${hex(random)}`),
};

/** How it gets into a text. */
const TEXTS: ((secret: string) => string)[] = [
  (secret) => secret,
  (secret) => `error: unexpected answer: ${secret}`,
  (secret) => `Authorization: Bearer ${secret}\r\nHost: gw.example`,
  (secret) => `{"accessToken": "${secret}", "expires_on": 1795459999}`,
  (secret) => `POST /token?access_token=${secret}&x=1 HTTP/1.1`,
  (secret) => `the token '${secret}' was rejected`,
  (secret) => `line one\nTOKEN=${secret}\nline three`,
  (secret) => `<p>${secret}</p>`,
  (secret) => `(${secret})`,
];

describe("mask: no 12 characters of a secret survive", () => {
  for (const [what, secrets] of Object.entries(SECRETS)) {
    test(what, (t) => {
      holds(
        t,
        fc.property(secrets, fc.constantFrom(...TEXTS), (secret, text) => {
          assertNothingOf(secret, mask(text(secret), 10_000), "what is left");
        }),
        200,
      );
    });
  }

  const named = ["password", "passwd", "secret", "client_secret", "clientSecret", "access_token", "accessToken"];
  const more = [
    "refresh_token",
    "refreshToken",
    "id_token",
    "api_key",
    "api-key",
    "apiKey",
    "SecretAccessKey",
    "assertion",
  ];
  for (const name of [...named, ...more, "aws_secret_access_key", "sessionToken", "AZURE_CLIENT_SECRET"]) {
    test(`whatever ${name} is`, () => {
      // Starts with a slash as a path does, and is short: nothing but its name gives it away.
      for (const secret of ["/correct.horse:battery", "tr0ub4dor&3x"]) {
        const value = secret.split("&")[0]!;
        for (const text of [
          `${name}=${secret} x`,
          `${name}: ${secret}`,
          `{"${name}":"${secret}"}`,
          `'${name}' = '${secret}'`,
        ]) {
          assert.equal(mask(text).includes(value), false, text.replace(secret, "…"));
        }
      }
    });
  }

  test("an authorization code in a URL, and basic credentials", () => {
    assert.equal(mask("GET /callback?code=0.AXo_short-code&state=1"), "GET /callback?code=***&state=1");
    assert.equal(mask("authorization: basic dXNlcjpwYXNz"), "authorization: basic ***");
  });
});

describe("mask: what a person needs survives", () => {
  const texts = [
    "AADSTS50076: Due to a configuration change, you must use multi-factor authentication to access '5c211941-0000-0000-c000-000000000000'.",
    "Trace ID: 9d2fa0a7-1f5c-4a4e-8c3e-5b1d2c3e4f50 Correlation ID: 0b8f9a3e-2f0d-4f5e-9a6c-7d8e9f0a1b2c Timestamp: 2026-11-23 09:00:00Z",
    "Please run 'az login' to setup account.",
    "getaddrinfo ENOTFOUND my-apim-gateway-production-westus2.azure-api.us",
    "connect ECONNREFUSED 127.0.0.1:8443 (ip-10-0-12-34.us-west-2.compute.internal)",
    "cannot read /run/user/1000/freshkey/copilot/token: EACCES",
    "/home/alice/.local/state/freshkey/run-build-host-0123456789.example.com/copilot/token.json is not what freshkey writes",
    "~/.config/freshkey/config.toml:12: tokens.copilot.scope: unknown key",
    "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/oauth2/v2.0/token answered 503",
    "the program ended with exit code: 1, error code: invalid_grant",
    "works again after 1h 5m; fingerprint ba7816bf8f01, next try in 8s",
    "sh: 1: corp-auth: not found",
    "UnrecognizedClientException: The security token included in the request is invalid.",
    "arn:aws:iam::123456789012:role/deploy",
    "Error: Cannot find module '@aws-sdk/credential-providers' (Node.js v20.19.0)",
  ];
  for (const text of texts) test(text.slice(0, 60), () => assert.equal(mask(text), text));
});

describe("mask: form", () => {
  test("one line, trimmed, without control characters", () => {
    assert.equal(mask("  \u001b[31mone\r\n\ttwo\u0000three  \n"), "[31mone two three");
    assert.equal(mask(" \n "), "");
  });
  test("at most so many characters, cut after masking", () => {
    assert.equal(mask("x ".repeat(500)).length, 300);
    assert.equal(mask("abcdef", 5), "abcd…");
    assert.equal(mask("abcde", 5), "abcde");
    const secret = jwt({ exp: 1 });
    assertNothingOf(secret, mask(`${"a ".repeat(140)}${secret}`), "a text that is cut");
  });
  test("in no time, whatever comes", () => {
    const began = process.cpuUsage();
    for (const piece of ["-eyJ", "eyJa.", "a.", "secret ", " ", "a1", "=", "bearer "])
      mask(piece.repeat(8_192 / piece.length));
    const { user } = process.cpuUsage(began);
    assert.ok(user < 2_000_000, `${user / 1000} ms`);
  });
});
