/**
 * Whatever a command prints or a file holds: a token that can be published, or a `BadAnswer`. Nothing else comes out of
 * a parser. `FUZZ_RUNS=1000000 SEED=42 node --import tsx --test test/unit/formats-fuzz.test.ts` looks longer, elsewhere.
 */
import assert from "node:assert/strict";
import { describe, it, type TestContext } from "node:test";
import fc from "fast-check";
import { unpublishable } from "../../src/core/token.ts";
import { BadAnswer } from "../../src/sources/formats/answer.ts";
import { formatAwsCredentials, parseAwsCredentials } from "../../src/sources/formats/aws.ts";
import { formatDockerCredential } from "../../src/sources/formats/docker.ts";
import { formatGitCredential, gitQuestion, isGitUrl, parseAttributes } from "../../src/sources/formats/git.ts";
import type { Fields } from "../../src/sources/formats/json.ts";
import { formatExecCredential } from "../../src/sources/formats/kubernetes.ts";
import { FORMATS, parseToken } from "../../src/sources/formats/parse.ts";

const SEED = Number(process.env.SEED ?? 20_261_123);
const RUNS = Number(process.env.FUZZ_RUNS ?? 3_000);
const NOW = Date.parse("2026-11-23T20:00:00Z");
const YEAR_10000 = Date.parse("9999-12-31T23:59:59.999Z") + 1;

function holds<T>(t: TestContext, property: fc.IRawProperty<T>, numRuns = RUNS): void {
  t.diagnostic(`seed ${SEED}, ${numRuns} cases`);
  fc.assert(property, { seed: SEED, numRuns });
}

/** The one thing that must hold of every parser. */
function parsesOrRefuses(output: string, format: (typeof FORMATS)[number], fields: Fields = {}): string {
  try {
    const { value, expires, ...others } = parseToken(output, format, NOW, fields);
    assert.deepEqual(others, {});
    assert.equal(unpublishable(value), undefined);
    assert.ok(!["null", "undefined", "None", "nil", "NaN", "true", "false"].includes(value), value);
    assert.ok(Number.isSafeInteger(expires) && expires >= 0 && expires < YEAR_10000, `expires ${expires}`);
    return "token";
  } catch (error) {
    if (!(error instanceof BadAnswer)) throw error;
    assert.ok(error.message.length < 400 && error.cause === undefined);
    return "refused";
  }
}

const format = fc.constantFrom(...FORMATS);
/** Words that parsers look for, beside anything at all. */
const word = fc.constantFrom(
  ..."access_token accessToken token id_token expires_on expires_in expiresOn expires_at expiration Expiration expiry".split(
    " ",
  ),
  ..."lease_duration apiVersion kind status ExecCredential expirationTimestamp clientCertificateData Version".split(
    " ",
  ),
  ..."AccessKeyId SecretAccessKey SessionToken AccountId ServerURL Username Secret credential token_expiry error".split(
    " ",
  ),
  ..."client.authentication.k8s.io/v1 __proto__ constructor toString password password_expiry_utc quit true".split(" "),
);
const scalar = fc.oneof(
  fc.string({ maxLength: 40 }),
  word,
  fc.double(),
  fc.integer(),
  fc.bigInt({ min: 0n, max: 10n ** 25n }).map(String),
  fc.constantFrom<unknown>(null, true, false, 0, -1, 1, 1e300, "1e400", "2026-11-23T21:00:00Z", "2026-11-23 21:00:00"),
  fc.date({ noInvalidDate: true }).map((date) => date.toISOString()),
);
const { json } = fc.letrec<{ json: unknown }>((tie) => ({
  json: fc.oneof(
    { maxDepth: 4, depthSize: "small" },
    scalar,
    fc.array(tie("json"), { maxLength: 3 }),
    fc
      .array(fc.tuple(fc.oneof(word, fc.string({ maxLength: 8 })), tie("json")), { maxLength: 7 })
      .map(Object.fromEntries),
  ),
}));
const attributes = fc
  .array(fc.tuple(fc.oneof(word, fc.string({ maxLength: 8 })), fc.constantFrom("=", "=", "=", ""), scalar))
  .map((lines) => lines.map(([key, divider, value]) => `${key}${divider}${value}`).join("\n"));

/** What each program prints when all is well, to be spoilt. */
const GOOD = [
  '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"t0ken","expirationTimestamp":"2026-11-23T21:00:00Z"}}',
  '{"Version":1,"AccessKeyId":"AKIDEXAMPLE","SecretAccessKey":"s3cr/et","SessionToken":"tok==","Expiration":"2026-11-23T21:00:00Z"}',
  '{"ServerURL":"images.example.com","Username":"oauth2","Secret":"s3cret"}',
  '{"credential":{"access_token":"ya29.a","id_token":"b","token_expiry":"2026-11-23T21:00:00Z"}}',
  '{"accessToken":"t0ken","expiresOn":"2026-11-23 21:00:00.000000","expires_on":1795467600,"tokenType":"Bearer"}',
  '{"access_token":"t0ken","expires_in":3600}',
  "protocol=https\nhost=git.example.com\nusername=me\npassword=s3cret\npassword_expiry_utc=1795467600\n",
  "eyJhbGciOiJub25lIn0.eyJleHAiOjE3OTU0Njc2MDB9.c2ln",
  '"t0ken"',
];
const spoilt = fc
  .tuple(
    fc.constantFrom(...GOOD),
    fc.nat(),
    fc.nat({ max: 12 }),
    fc.oneof(fc.string({ maxLength: 6 }), scalar.map(String)),
  )
  .map(([text, at, cut, put]) => text.slice(0, at % text.length) + put + text.slice((at % text.length) + cut));
const anything = fc.oneof(
  fc.string({ unit: "binary", maxLength: 200 }),
  fc.string({ maxLength: 200 }),
  json.map((value) => JSON.stringify(value) ?? ""),
  attributes,
  spoilt,
);

describe("a parser, whatever it is given", () => {
  it("gives a token that can be published, or refuses", (t) => {
    const seen = new Map<string, number>();
    holds(
      t,
      fc.property(anything, format, (text, name) => {
        const outcome = parsesOrRefuses(text, name);
        seen.set(outcome, (seen.get(outcome) ?? 0) + 1);
      }),
    );
    // Neither is rare: the cases are neither all nonsense nor all well.
    for (const outcome of ["token", "refused"]) assert.ok((seen.get(outcome) ?? 0) > RUNS / 50, `${outcome} is rare`);
  });

  it("does so with fields that are named", (t) => {
    const steps = fc.array(fc.oneof(word, fc.string({ maxLength: 4 }), fc.nat({ max: 3 }).map(String)), {
      minLength: 1,
      maxLength: 4,
    });
    const field = fc.oneof(
      steps.map((names) => names.join(".")),
      steps.map((names) => `/${names.join("/")}`),
    );
    holds(
      t,
      fc.property(
        fc.oneof(
          json.map((value) => JSON.stringify(value) ?? ""),
          spoilt,
        ),
        field,
        fc.option(field),
        (text, token, expiry) => {
          parsesOrRefuses(text, "json", { token, expiry: expiry ?? undefined });
          parsesOrRefuses(text, "auto", { token });
        },
      ),
    );
  });

  it("is not slow with what is long", () => {
    for (const long of ["{", "[", '{"a":', "a=b\n", "=", "a", "9", " ", "password=", "2026-", '"', "\\"]) {
      const text = long.repeat(256 * 1024).slice(0, 256 * 1024);
      const began = performance.now();
      for (const name of FORMATS) parsesOrRefuses(text, name);
      assert.ok(performance.now() - began < 2_000, `${FORMATS.length} parsers take long for ${JSON.stringify(long)} …`);
    }
  });

  it("never quotes what may be the token", (t) => {
    const secret = "Zq9xTr0ub4dorZq9x";
    holds(
      t,
      fc.property(spoilt, fc.nat(), format, (text, at, name) => {
        const output = text.slice(0, at % (text.length + 1)) + secret + text.slice(at % (text.length + 1));
        try {
          parseToken(output, name, NOW);
        } catch (error) {
          assert.ok(!`${(error as Error).message} ${(error as Error).cause}`.includes(secret));
        }
      }),
    );
  });
});

describe("the helper's side", () => {
  const token = fc.record({
    value: fc.string({ minLength: 1, maxLength: 60 }).filter((text) => unpublishable(text) === undefined),
    expires: fc.oneof(fc.constant(0), fc.integer({ min: 1_000, max: YEAR_10000 - 1 })),
  });
  const seconds = (expires: number) => Math.floor(expires / 1000) * 1000;
  const words = ["null", "undefined", "None", "nil", "NaN", "true", "false"];

  it("says every token so that its own parser finds it again", (t) => {
    holds(
      t,
      fc.property(token, fc.string(), (one, info) => {
        fc.pre(!words.includes(one.value));
        const back = { value: one.value, expires: seconds(one.expires) };
        assert.deepEqual(parseToken(formatExecCredential(one, info), "auto", NOW), back);
        assert.deepEqual(parseToken(formatGitCredential(one, "oauth2"), "auto", NOW), back);
        assert.equal(parseToken(formatDockerCredential(one, "r.example.com", "u"), "auto", NOW).value, one.value);
      }),
    );
  });

  it("makes AWS credentials of nothing but AWS credentials", (t) => {
    holds(
      t,
      fc.property(anything, (text) => {
        const answer = formatAwsCredentials(text);
        if (answer !== undefined) assert.equal(parseAwsCredentials(answer).value, answer.trim());
      }),
    );
  });

  it("understands or passes over every question", (t) => {
    holds(
      t,
      fc.property(fc.oneof(anything, attributes), (text) => {
        const found = parseAttributes(text);
        for (const [key, value] of found ?? []) assert.ok(key !== "" && !/\n/.test(key + value));
      }),
    );
  });

  it("asks about no more than it was told to", (t) => {
    holds(
      t,
      fc.property(fc.webUrl({ withQueryParameters: true, withFragments: true }), (url) => {
        fc.pre(isGitUrl(url));
        const lines = gitQuestion(url).split("\n");
        assert.deepEqual(lines.slice(-2), ["", ""]);
        assert.match(lines[0]!, /^protocol=https?$/);
        assert.ok(lines.length >= 4 && lines.length <= 5);
      }),
    );
  });
});
