import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { FreshkeyError } from "../../src/core/errors.ts";
import { CLIENT_BASE_URLS, checkOrigin, checkTarget } from "../../src/reader/origin.ts";

const check = (configured: string, actual: string | undefined) => () => checkOrigin(configured, actual, "THE_URL");

describe("checkOrigin", () => {
  const allowed: [configured: string, actual: string | undefined][] = [
    ["https://gw.example/v1", "https://gw.example/v1"],
    ["https://gw.example/v1", "https://gw.example/other/path?x=1"],
    ["https://gw.example/v1", "https://GW.Example:443"],
    ["https://gw.example:8443/v1", "https://gw.example:8443"],
    ["https://one.example https://two.example/v1", "https://two.example"],
    ["http://127.0.0.1:8080/v1", "http://127.0.0.1:8080"],
    ["https://gw.example", undefined],
    ["https://gw.example", ""],
    ["", "https://evil.example"],
    [" ", "https://evil.example"],
  ];
  for (const [configured, actual] of allowed) {
    test(`${configured || "nothing"} allows ${actual ?? "nothing"}`, check(configured, actual));
  }

  const refused: [configured: string, actual: string][] = [
    ["https://gw.example/v1", "http://gw.example/v1"],
    ["https://gw.example/v1", "https://gw.example:8443/v1"],
    ["https://gw.example/v1", "https://gw.example.evil.example/v1"],
    ["https://gw.example/v1", "https://evil.example/https://gw.example/v1"],
    ["https://gw.example/v1", "https://gw.example@evil.example/v1"],
    ["https://gw.example/v1", "https://sub.gw.example/v1"],
    ["https://one.example https://two.example", "https://three.example"],
    ["https://gw.example/v1", "not a url"],
    ["https://gw.example/v1", "file:///etc/passwd"],
    ["https://gw.example/v1", "//gw.example/v1"],
  ];
  for (const [configured, actual] of refused) {
    test(`${configured} refuses ${actual}`, () => {
      assert.throws(check(configured, actual), { code: "ERR_ORIGIN", hint: /unset THE_URL/, message: /THE_URL/ });
    });
  }

  test("a password in the URL is not repeated", () => {
    assert.throws(
      check("https://gw.example/v1", "https://me:hunter2@evil.example/x?key=hunter2"),
      (error: FreshkeyError) => {
        assert.equal(error.exitCode, 77);
        assert.match(
          error.message,
          /^THE_URL is at https:\/\/evil\.example, but this token is for https:\/\/gw\.example\/v1$/,
        );
        assert.doesNotMatch(`${error.message}${error.hint}`, /hunter2/);
        return true;
      },
    );
  });

  test("the variables that clients have for it", () => {
    assert.deepEqual(CLIENT_BASE_URLS, ["COPILOT_PROVIDER_BASE_URL", "ANTHROPIC_BASE_URL"]);
  });
});

describe("checkTarget", () => {
  const gateway = "https://gw.example/v1";
  const allowed: [url: string, own: string[], configured: string][] = [
    [`${gateway}/models?x=1`, [gateway], ""],
    [`${gateway}/models`, [], gateway],
    [`${gateway}/models`, [gateway], gateway],
    ["https://two.example/", [gateway, "https://two.example"], `${gateway} https://two.example`],
    ["http://127.0.0.1:8080/v1", ["http://127.0.0.1:8080"], ""],
    ["http://localhost:8080/v1", ["http://localhost:8080"], ""],
    ["http://[::1]:8080/v1", [], "http://[::1]:8080"],
  ];
  for (const [url, own, configured] of allowed) {
    test(`${own} and ${configured || "nothing"} allow ${url}`, () => checkTarget(url, { own, configured }));
  }

  const refused: [url: string, own: string[], configured: string][] = [
    [gateway, [], ""],
    ["https://evil.example/v1", [gateway], ""],
    ["https://evil.example/v1", [], gateway],
    ["https://evil.example/v1", ["https://evil.example"], gateway],
    ["https://gw.example:8443/v1", [gateway], ""],
    ["https://gw.example.evil.example", [gateway], ""],
    ["https://gw.example@evil.example", [gateway], ""],
    ["http://gw.example/v1", ["http://gw.example"], ""],
    ["http://127.0.0.2.nip.example/", ["http://127.0.0.2.nip.example"], ""],
    ["not a url", ["not a url"], ""],
    ["file:///etc/passwd", ["file:///etc"], ""],
  ];
  for (const [url, own, configured] of refused) {
    test(`${own.join(" ") || "nothing"} and ${configured || "nothing"} refuse ${url}`, () => {
      assert.throws(() => checkTarget(url, { own, configured }), { code: "ERR_ORIGIN" });
    });
  }

  test("a password in a URL is not in the error", () => {
    const url = "https://user:hunter2@evil.example/v1?key=hunter2";
    assert.throws(
      () => checkTarget(url, { own: ["https://me:hunter2@gw.example"], configured: "" }),
      (error: FreshkeyError) =>
        !`${error.message} ${error.hint}`.includes("hunter2") && /evil\.example/.test(error.message),
    );
  });
});
