/** Durations, tokens, states and errors: the vocabulary that everything else speaks. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { formatDuration, parseDuration } from "../../src/core/duration.ts";
import { CODES, type ErrorCode, errno, FreshkeyError } from "../../src/core/errors.ts";
import type { Lifetime } from "../../src/core/policy.ts";
import { type Failure, stateOf } from "../../src/core/state.ts";
import { fingerprint, jwtTimes, UNKNOWN_EXPIRY, unpublishable } from "../../src/core/token.ts";
import { holds, jwt } from "../support/unit.ts";

const NOW = Date.parse("2026-11-23T09:00:00Z");

describe("parseDuration", () => {
  const good: [string, number][] = [
    ["0s", 0],
    ["1ms", 1],
    ["30s", 30_000],
    ["4m", 240_000],
    ["1h30m", 5_400_000],
    ["2d", 172_800_000],
    ["0.5h", 1_800_000],
    ["1.5s", 1_500],
    ["1m500ms", 60_500],
  ];
  for (const [text, ms] of good) test(text, () => assert.equal(parseDuration(text), ms));

  const bad = ["", "30", "s", "30 s", " 30s", "30s ", "-5s", "+5s", "1e3s", "30S", "1h 30m", "30sec", "1.s", ".5s"];
  for (const text of [...bad, "1..5s", "5s\n", "0x10s", "٣s", `${"9".repeat(30)}d`, "Infinitys"]) {
    test(`none: ${JSON.stringify(text)}`, () => assert.equal(parseDuration(text), undefined));
  }
});

describe("formatDuration", () => {
  const cases: [number, string][] = [
    [0, "0ms"],
    [850, "850ms"],
    [4_000, "4s"],
    [4_499, "4s"],
    [59_999, "1m"],
    [3_510_000, "58m 30s"],
    [3_600_000, "1h"],
    [3_605_000, "1h"],
    [3_900_000, "1h 5m"],
    [183_600_000, "2d 3h"],
    [-4_000, "-4s"],
    [-850, "-850ms"],
  ];
  for (const [ms, text] of cases) test(`${ms} ms: ${text}`, () => assert.equal(formatDuration(ms), text));

  test("is within a thirtieth of what it says, and can be read again", (t) => {
    holds(
      t,
      fc.property(fc.integer({ min: 0, max: 400 * 86_400_000 }), (ms) => {
        const read = parseDuration(formatDuration(ms).replaceAll(" ", ""));
        assert.ok(read !== undefined && Math.abs(read - ms) <= Math.max(500, ms / 24), formatDuration(ms));
      }),
    );
  });
});

describe("unpublishable", () => {
  const good = [
    "a",
    jwt({ exp: 1 }),
    "bedrock-api-key-YmVkcm9jaw==&Version=1",
    "~!@#$%^&*()[]{}|;:'\",.<>?/",
    "x".repeat(65_536),
  ];
  for (const value of good) test(`fine: ${value.slice(0, 20)}`, () => assert.equal(unpublishable(value), undefined));

  const bad: [value: string, why: RegExp][] = [
    ["", /empty/],
    ["x".repeat(65_537), /longer than 64 KiB/],
    ["<!DOCTYPE html><title>Sign in</title>", /HTML/],
    ["  <html>", /HTML/],
    ["abc\n", /more than one line/],
    ["abc\rdef", /more than one line/],
    ["Bearer abc", /spaces/],
    [" abc", /spaces/],
    ["ab\tc", /spaces/],
    ["ab\u00a0c", /spaces/],
    ["abc\u0000", /printable ASCII/],
    ["abc\u007f", /printable ASCII/],
    ["tökén", /printable ASCII/],
    ["\ufeffabc", /spaces|printable ASCII/],
  ];
  for (const [value, why] of bad) {
    test(`not: ${JSON.stringify(value.slice(0, 20))}`, () => assert.match(unpublishable(value) ?? "fine", why));
  }

  test("exactly the printable characters of ASCII", () => {
    for (let code = 0; code < 0x180; code++) {
      const fine = code > 0x20 && code < 0x7f;
      assert.equal(unpublishable(`a${String.fromCharCode(code)}b`) === undefined, fine, `U+${code.toString(16)}`);
    }
  });
});

describe("fingerprint", () => {
  test("12 hex digits of SHA-256", () => {
    // FIPS 180-2, appendix B.1.
    assert.equal(fingerprint("abc"), "ba7816bf8f01");
    assert.equal(fingerprint(""), "e3b0c44298fc");
  });
});

describe("jwtTimes", () => {
  test("exp and iat, in milliseconds", () => {
    assert.deepEqual(jwtTimes(jwt({ exp: 1_795_459_999, iat: 1_795_456_399 })), {
      expires: 1_795_459_999_000,
      issued: 1_795_456_399_000,
    });
  });
  test("NumericDate may have a fraction (RFC 7519 2)", () => {
    assert.deepEqual(jwtTimes(jwt({ exp: 1_795_459_999.75 })), { expires: 1_795_459_999_750, issued: undefined });
  });
  test("exp of a wrong type is none", () => {
    for (const exp of ["1795459999", null, -1, 0, [1], {}, true, undefined]) {
      assert.equal(jwtTimes(jwt({ exp, iat: 1 })), undefined, JSON.stringify(exp));
    }
  });
  test("iat of a wrong type is none", () => {
    assert.deepEqual(jwtTimes(jwt({ exp: 5, iat: "4" })), { expires: 5_000, issued: undefined });
  });
  const part = (text: string) => Buffer.from(text).toString("base64url");
  const garbage = [
    "",
    ".",
    "..",
    "...",
    "a.b.c",
    "a.b",
    `x.${part("null")}.y`,
    `x.${part("[]")}.y`,
    `x.${part("5")}.y`,
  ];
  const more = [
    `x.${part('{"exp":')}.y`,
    `x.${part('{"exp":1e999}')}.y`,
    `x.${part('{"exp":5}')}`,
    `${jwt({ exp: 5 })}.z.z`,
  ];
  for (const value of [...garbage, ...more, "opaque", `x.${"\u0000".repeat(9)}.y`]) {
    test(`none: ${JSON.stringify(value.slice(0, 30))}`, () => assert.equal(jwtTimes(value), undefined));
  }
  test("whatever comes, it gives an instant or nothing", (t) => {
    const payload = fc.oneof(fc.string(), fc.json(), fc.record({ exp: fc.anything(), iat: fc.anything() }).map(text));
    holds(
      t,
      fc.property(fc.string(), payload, fc.string(), (head, body, tail) => {
        const times = jwtTimes(`${head}.${part(body)}.${tail}`);
        const expires = times?.expires ?? 1;
        assert.ok(Number.isFinite(expires) && expires > UNKNOWN_EXPIRY, `${expires}`);
      }),
      1_000,
    );
  });
});

function text(value: unknown): string {
  try {
    return JSON.stringify(value) ?? "";
  } catch {
    return "";
  }
}

describe("stateOf", () => {
  const fresh: Lifetime = { minted: NOW - 60_000, expires: NOW + 3_540_000 };
  const stale: Lifetime = { minted: NOW - 3_590_000, expires: NOW + 10_000 };
  const expired: Lifetime = { minted: NOW - 3_600_000, expires: NOW };
  const unknown: Lifetime = { minted: NOW - 86_400_000, expires: UNKNOWN_EXPIRY };
  const failure = (code: ErrorCode): Failure => ({
    since: NOW,
    attempts: 1,
    nextTry: NOW,
    notBefore: NOW,
    error: new FreshkeyError(code, "it failed").toJSON(),
  });
  const broken = failure("ERR_SOURCE_UNREACHABLE");
  const refused = failure("ERR_SOURCE_REFUSED");
  const signIn = failure("ERR_SIGN_IN");

  const cases: [string, Lifetime | undefined, Failure | undefined, boolean, ReturnType<typeof stateOf>][] = [
    ["fresh", fresh, undefined, false, "fresh"],
    ["fresh of unknown expiry", unknown, undefined, false, "fresh"],
    ["fresh, being renewed", fresh, undefined, true, "renewing"],
    ["fresh, failing", fresh, broken, false, "failing"],
    ["fresh, failing, tried again", fresh, broken, true, "failing"],
    ["fresh, refused", fresh, refused, false, "failing"],
    ["too little life", stale, undefined, false, "expired"],
    ["too little life, failing", stale, broken, false, "failing"],
    ["expired", expired, undefined, false, "expired"],
    ["expired, failing", expired, broken, false, "expired"],
    ["expired, being renewed", expired, broken, true, "renewing"],
    ["missing", undefined, undefined, false, "missing"],
    ["missing, being minted", undefined, undefined, true, "renewing"],
    ["missing, failing", undefined, broken, false, "failing"],
    ["sign-in needed, whatever else", fresh, signIn, true, "sign-in-needed"],
    ["sign-in needed, nothing there", undefined, signIn, false, "sign-in-needed"],
    ["sign-in needed, expired", expired, signIn, false, "sign-in-needed"],
  ];
  for (const [what, one, failed, minting, state] of cases) {
    test(what, () => assert.equal(stateOf(one, failed, minting, NOW), state));
  }
});

describe("FreshkeyError", () => {
  const codes = Object.keys(CODES) as ErrorCode[];

  test("its JSON and back, for every code", () => {
    for (const code of codes) {
      const error = new FreshkeyError(code, "what failed", { hint: "what to do", retryAfter: 8_000 });
      const copy = FreshkeyError.fromJSON(JSON.parse(JSON.stringify(error)));
      assert.deepEqual(copy.toJSON(), error.toJSON());
      assert.deepEqual(
        [copy.code, copy.class, copy.exitCode, copy.message, copy.hint, copy.retryAfter],
        [code, CODES[code].class, CODES[code].exit, "what failed", "what to do", 8_000],
      );
    }
  });

  test("what is not there is left out, and no cause crosses a pipe", () => {
    const error = new FreshkeyError("ERR_USAGE", "what failed", { cause: new Error("inner") });
    assert.equal(JSON.stringify(error), '{"code":"ERR_USAGE","class":"usage","message":"what failed"}');
    assert.equal((error.cause as Error).message, "inner");
  });

  test("a code that nobody knows, also one that every object has, is an internal error", () => {
    for (const code of ["ERR_OF_TOMORROW", "toString", "constructor", "__proto__", undefined, 5]) {
      const error = FreshkeyError.fromJSON({ code: code as ErrorCode, message: "hm" });
      assert.deepEqual([error.code, error.class, error.exitCode, error.message], ["ERR_INTERNAL", "internal", 1, "hm"]);
    }
    assert.equal(FreshkeyError.fromJSON({}).message, "unknown error");
  });

  test("from: itself, or a wrapper with the cause", () => {
    const error = new FreshkeyError("ERR_SIGN_IN", "sign in");
    assert.equal(FreshkeyError.from(error, "ERR_INTERNAL"), error);
    const cause = new TypeError("bad");
    const wrapped = FreshkeyError.from(cause, "ERR_SOURCE_FAILED");
    assert.deepEqual([wrapped.code, wrapped.message, wrapped.cause], ["ERR_SOURCE_FAILED", "bad", cause]);
    assert.deepEqual([FreshkeyError.from("text").code, FreshkeyError.from("text").message], ["ERR_INTERNAL", "text"]);
  });

  test("exit codes are those that DESIGN promises, one class a code", () => {
    const exits: Record<number, ErrorCode[]> = {};
    for (const code of codes) {
      exits[CODES[code].exit] ??= [];
      exits[CODES[code].exit]?.push(code);
    }
    assert.deepEqual(Object.keys(exits).map(Number), [1, 64, 69, 75, 77, 78]);
    assert.deepEqual(exits[64], ["ERR_USAGE"]);
    assert.deepEqual(exits[77], ["ERR_SOURCE_REFUSED", "ERR_SIGN_IN", "ERR_ORIGIN"]);
    assert.deepEqual(exits[75], ["ERR_SOURCE_TIMEOUT", "ERR_BACKOFF", "ERR_DEADLINE", "ERR_AGENT"]);
    for (const code of exits[75] ?? []) assert.equal(CODES[code].class, "transient");
    for (const code of codes) assert.match(code, /^ERR_[A-Z_]+$/);
  });

  test("errno", () => {
    assert.equal(errno(Object.assign(new Error(), { code: "ENOENT" })), "ENOENT");
    for (const none of [undefined, null, "ENOENT", new Error("x"), { code: 5 }]) assert.equal(errno(none), undefined);
  });
});
