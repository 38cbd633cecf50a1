/** docs/token-file.md, case by case, as the reader sees it. */
import assert from "node:assert/strict";
import { chmodSync, chownSync, mkdirSync, renameSync, statSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import fc from "fast-check";
import { fingerprint, UNKNOWN_EXPIRY } from "../../src/core/token.ts";
import {
  formatTokenJson,
  isUnchanged,
  isUsable,
  readTokenFile,
  readTokenJson,
  SCHEMA,
  stampOf,
  type TokenJson,
  tokenJsonPath,
} from "../../src/reader/token-file.ts";
import { holds, jwt, temporaryDirectory } from "../support/unit.ts";

const NOW = Date.parse("2026-11-23T09:00:00Z");
const asRoot = { skip: process.geteuid?.() !== 0 && "only root can give a file away" };

function about(value: string, more: Partial<TokenJson> = {}): TokenJson {
  return {
    expires: NOW / 1000 + 3_600,
    minted: NOW / 1000,
    fingerprint: fingerprint(value),
    name: "copilot",
    source: "command",
    control: "/run/user/1000/freshkey/agent/control.sock",
    base_url: "https://gw.example/v1",
    verify: false,
    schema: SCHEMA,
    ...more,
  };
}

/** A token's directory with what is given in it. */
function place(t: { after(clean: () => void): void }, token?: string, json?: TokenJson | string): string {
  const path = join(temporaryDirectory(t), "token");
  if (token !== undefined) writeFileSync(path, token);
  if (json !== undefined) writeFileSync(`${path}.json`, typeof json === "string" ? json : formatTokenJson(json));
  return path;
}

/** What a failed read says, without the path. */
const refused = (code: string, message: RegExp, hint = /./) => ({ name: "FreshkeyError", code, message, hint });

describe("token.json", () => {
  test("is one line, expires first, as the contract shows it", () => {
    const { expires, ...rest } = about("abc");
    const line = formatTokenJson({ ...rest, expires });
    assert.match(
      line,
      /^\{"expires":1795428000,"minted":1795424400,"fingerprint":"ba7816bf8f01",[^\n]*"schema":1\}\n$/,
    );
    assert.deepEqual(JSON.parse(line), about("abc"));
  });
  test("is beside the token, by its name", () => {
    assert.equal(tokenJsonPath("/run/freshkey/copilot/token"), "/run/freshkey/copilot/token.json");
    assert.equal(tokenJsonPath("/elsewhere/key"), "/elsewhere/key.json");
  });
});

describe("reading a token that freshkey keeps", () => {
  test("value, fingerprint, times in milliseconds", (t) => {
    const path = place(t, "abc", about("abc"));
    const { ino, mtimeMs, ctimeMs, size } = statSync(path);
    assert.deepEqual(readTokenFile(path), {
      value: "abc",
      fingerprint: "ba7816bf8f01",
      expires: NOW + 3_600_000,
      minted: NOW,
      json: about("abc"),
      matches: true,
      stamp: { ino, mtimeMs, ctimeMs, size },
    });
  });

  test("fields that are not known are ignored, one that is missing does no harm", (t) => {
    const text = `{"expires":1795428000,"fingerprint":"${fingerprint("abc")}","of_tomorrow":{"x":1}}`;
    const found = readTokenFile(place(t, "abc", text));
    assert.deepEqual([found?.matches, found?.expires], [true, NOW + 3_600_000]);
    assert.equal(found && isUsable(found, NOW), true);
    assert.equal(found && isUsable(found, NOW + 3_580_000), false, "30 s where nobody knows when it was minted");
  });

  test("expires 0 is unknown: the content is taken as it is", (t) => {
    const found = readTokenFile(place(t, "abc", about("abc", { expires: 0 })));
    assert.equal(found?.expires, UNKNOWN_EXPIRY);
    assert.equal(found && isUsable(found, NOW + 1e12), true);
  });

  test("what token.json says counts, also where the token is a JWT that says otherwise", (t) => {
    const token = jwt({ exp: NOW / 1000 + 60, iat: NOW / 1000 - 60 });
    const found = readTokenFile(place(t, token, about(token)));
    assert.deepEqual([found?.expires, found?.minted], [NOW + 3_600_000, NOW]);
  });

  test("nothing is trimmed: a newline is no part of what freshkey writes", (t) => {
    const path = place(t, "abc\n", about("abc"));
    assert.throws(
      () => readTokenFile(path),
      refused("ERR_TOKEN_INVALID", /more than one line/, /renew copilot --force/),
    );
  });
});

describe("two files that don't belong together", () => {
  test("an opaque token: the expiry that is written there, and it does not match", (t) => {
    const found = readTokenFile(place(t, "another", about("abc")));
    assert.deepEqual([found?.matches, found?.expires, found?.minted], [false, NOW + 3_600_000, 0]);
    assert.equal(found?.fingerprint, fingerprint("another"));
  });
  test("a JWT: its own", (t) => {
    const token = jwt({ exp: NOW / 1000 + 60, iat: NOW / 1000 - 60 });
    const found = readTokenFile(place(t, token, about("abc")));
    assert.deepEqual([found?.matches, found?.expires, found?.minted], [false, NOW + 60_000, NOW - 60_000]);
  });
  test("an opaque token and an unknown expiry: unknown", (t) => {
    const found = readTokenFile(place(t, "another", about("abc", { expires: 0 })));
    assert.deepEqual([found?.matches, found?.expires], [false, UNKNOWN_EXPIRY]);
  });
});

describe("a bare token", () => {
  const opaque: [what: string, content: string, value: string][] = [
    ["alone", "abc", "abc"],
    ["with the newline of echo", "abc\n", "abc"],
    ["with that of another system", "abc\r\n", "abc"],
  ];
  for (const [what, content, value] of opaque) {
    test(`${what}: of unknown expiry`, (t) => {
      const found = readTokenFile(place(t, content));
      assert.deepEqual([found?.value, found?.fingerprint], [value, fingerprint(value)]);
      assert.deepEqual(
        [found?.expires, found?.minted, found?.json, found?.matches],
        [UNKNOWN_EXPIRY, 0, undefined, true],
      );
    });
  }
  const invalid = [
    "abc\n\n",
    "\nabc",
    "abc\n ",
    "abc\r",
    " abc",
    "",
    "\n",
    "a b",
    "<html></html>",
    "Bearer abc",
    "ab\u0000c",
    "größe",
  ];
  for (const content of invalid) {
    test(`not ${JSON.stringify(content)}: one newline is dropped, and nothing else`, (t) => {
      const path = place(t, content);
      assert.throws(
        () => readTokenFile(path),
        refused("ERR_TOKEN_INVALID", /does not hold a token: it /, /mend what writes/),
      );
    });
  }
  test("a JWT has its exp and its iat", (t) => {
    const found = readTokenFile(place(t, `${jwt({ exp: NOW / 1000 + 60, iat: NOW / 1000 - 60 })}\n`));
    assert.deepEqual([found?.expires, found?.minted, found?.matches], [NOW + 60_000, NOW - 60_000, true]);
  });
  test("a JWT without iat", (t) => {
    const found = readTokenFile(place(t, jwt({ exp: NOW / 1000 + 60 })));
    assert.deepEqual([found?.expires, found?.minted], [NOW + 60_000, 0]);
  });
  test("may be a link, in any directory", (t) => {
    const base = temporaryDirectory(t);
    mkdirSync(join(base, "open"));
    chmodSync(join(base, "open"), 0o777);
    writeFileSync(join(base, "real"), "abc");
    symlinkSync(join(base, "real"), join(base, "open/token"));
    symlinkSync(join(base, "open"), join(base, "link"));
    assert.equal(readTokenFile(join(base, "link/token"))?.value, "abc");
  });
  test("no token at all", (t) => {
    const path = place(t);
    assert.equal(readTokenFile(path), undefined);
    assert.equal(readTokenFile(join(path, "..", "no/such/token")), undefined);
    writeFileSync(path, "abc");
    assert.equal(readTokenFile(join(path, "below")), undefined);
    symlinkSync(join(path, "..", "nowhere"), `${path}-link`);
    assert.equal(readTokenFile(`${path}-link`), undefined);
    assert.equal(readTokenFile(place(t, undefined, about("abc"))), undefined, "token.json alone is no token");
  });
});

describe("what cannot be read", () => {
  test("token.json that is none", (t) => {
    const texts = ["", "{", "null", "[]", "5", "{}", '{"expires":"1795428000","fingerprint":"ba7816bf8f01"}'];
    for (const text of [
      ...texts,
      '{"expires":1.5,"fingerprint":"x"}',
      '{"expires":1}',
      '{"expires":1e99,"fingerprint":"x"}',
    ]) {
      const path = place(t, "abc", text);
      assert.throws(
        () => readTokenFile(path),
        refused("ERR_TOKEN_INVALID", /token\.json is not what freshkey writes/),
        text,
      );
    }
  });
  test("a directory in its place: the hint names the file that is meant", (t) => {
    const directory = temporaryDirectory(t);
    assert.throws(
      () => readTokenFile(directory),
      refused("ERR_TOKEN_UNREADABLE", /EISDIR/, new RegExp(join(directory, "token"))),
    );
  });
  test("no permission", asRoot, (t) => {
    const path = place(t, "abc");
    chmodSync(path, 0o600);
    chmodSync(join(path, ".."), 0o755);
    process.seteuid?.(54_321);
    try {
      assert.throws(
        () => readTokenFile(path),
        refused("ERR_TOKEN_UNREADABLE", /token: EACCES/, /readable.*mode.*group/),
      );
    } finally {
      process.seteuid?.(0);
    }
  });
  test("no message holds the token", (t) => {
    const path = place(t, "s3cr3t-s3cr3t s3cr3t", about("abc"));
    assert.throws(
      () => readTokenFile(path),
      (error: Error & { hint?: string }) => !/s3cr3t/.test(`${error.message}${error.hint}${error.stack}`),
    );
  });
});

describe("a directory that is not safe", () => {
  test("one that others can write to", (t) => {
    const path = place(t, "abc", about("abc"));
    chmodSync(join(path, ".."), 0o770);
    assert.throws(
      () => readTokenFile(path),
      refused("ERR_TOKEN_DIRECTORY", /can be written to by others \(mode 0770\)/, /chmod go-w/),
    );
  });
  test("a link", (t) => {
    const base = temporaryDirectory(t);
    renameSync(join(place(t, "abc", about("abc")), ".."), join(base, "real"));
    mkdirSync(join(place(t), "..", "unused"));
    symlinkSync(join(base, "real"), join(base, "link"));
    assert.equal(readTokenFile(join(base, "real/token"))?.value, "abc");
    assert.throws(
      () => readTokenFile(join(base, "link/token")),
      refused("ERR_TOKEN_DIRECTORY", /link is a symbolic link/),
    );
  });
  test("somebody else's, unless it is shared with a group", asRoot, (t) => {
    const path = place(t, "abc", about("abc"));
    chownSync(join(path, ".."), 54_321, 54_321);
    assert.throws(() => readTokenFile(path), refused("ERR_TOKEN_DIRECTORY", /belongs to uid 54321, not to 0/));
    chmodSync(join(path, ".."), 0o710);
    assert.equal(readTokenFile(path)?.value, "abc");
  });
  test("it makes no difference whether there is a token in it", (t) => {
    const path = place(t, undefined, about("abc"));
    chmodSync(join(path, ".."), 0o707);
    assert.throws(() => readTokenJson(path), refused("ERR_TOKEN_DIRECTORY", /written to by others/));
  });
});

describe("isUsable", () => {
  const found = (value: string, json?: TokenJson) => ({
    value,
    fingerprint: fingerprint(value),
    expires: (json?.expires ?? 0) * 1000,
    minted: (json?.minted ?? 0) * 1000,
    json,
    matches: true,
    stamp: { ino: 0, mtimeMs: 0, ctimeMs: 0, size: 0 },
  });
  test("with min_validity of life left, to the millisecond", () => {
    const file = found("abc", about("abc"));
    assert.equal(isUsable(file, NOW + 3_570_000), true);
    assert.equal(isUsable(file, NOW + 3_570_001), false);
    assert.equal(isUsable(file, NOW + 3_570_001, 10_000), true);
  });
  test("not once it was minted in the future: then the clock was set back", () => {
    const file = found("abc", about("abc"));
    assert.equal(isUsable(file, NOW - 2_000), true);
    assert.equal(isUsable(file, NOW - 2_001), false);
    assert.equal(isUsable({ ...file, json: undefined }, NOW - 60_000), true, "a bare token's iat is another's clock");
    assert.equal(isUsable({ ...file, matches: false }, NOW - 60_000), true, "so is that of another token");
  });
  test("never an expired one", (t) => {
    const seconds = fc.integer({ min: 0, max: 4e9 });
    holds(
      t,
      fc.property(
        seconds,
        seconds,
        fc.nat(),
        fc.option(fc.nat(), { nil: undefined }),
        (expires, minted, late, required) => {
          const file = found("abc", about("abc", { expires: expires + 1, minted }));
          assert.equal(
            isUsable(file, (expires + 1) * 1000 + late, required === undefined ? undefined : required + 1),
            false,
          );
        },
      ),
    );
  });
});

describe("stampOf and isUnchanged", () => {
  test("is the same as long as the file is, and another after it was replaced or written over", (t) => {
    const path = place(t, "abc");
    const first = stampOf(path);
    const read = readTokenFile(path)!;
    assert.equal(stampOf(path), first);
    assert.equal(isUnchanged(path, read), true);
    writeFileSync(`${path}.new`, "abc");
    utimesSync(`${path}.new`, NOW / 1000, NOW / 1000);
    renameSync(`${path}.new`, path);
    const second = stampOf(path);
    assert.notEqual(second, first);
    assert.equal(isUnchanged(path, read), false);
    const again = readTokenFile(path)!;
    utimesSync(path, NOW / 1000 + 1, NOW / 1000 + 1);
    assert.notEqual(stampOf(path), second);
    assert.equal(isUnchanged(path, again), false);
  });
  test("of a link it is its target's", (t) => {
    const path = place(t, "abc");
    symlinkSync(path, `${path}-link`);
    assert.equal(stampOf(`${path}-link`), stampOf(path));
  });
  test("none where there is no file, whatever is there instead", (t) => {
    const path = place(t, "abc");
    for (const none of [`${path}-x`, join(path, "below"), join(path, "..", "no/such/file")]) {
      assert.equal(stampOf(none), undefined, none);
      assert.equal(isUnchanged(none, readTokenFile(path)!), false, none);
    }
  });
});
