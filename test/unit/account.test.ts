import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, renameSync, rmSync, statSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { auditLog } from "../../src/agent/audit-log.ts";
import type { TokenEvent } from "../../src/agent/events.ts";
import { notes } from "../../src/agent/notes.ts";
import { prometheusText } from "../../src/agent/prometheus.ts";
import { FreshkeyError } from "../../src/core/errors.ts";

const directory = mkdtempSync(join(tmpdir(), "freshkey-account-"));
after(() => rmSync(directory, { recursive: true, force: true }));

const TOKEN = { name: "copilot", source: "azure" };

function failed(code: "ERR_SIGN_IN" | "ERR_SOURCE_UNREACHABLE", attempts: number, usable = false): TokenEvent {
  const error = new FreshkeyError(code, "it failed", { hint: "do this" }).toJSON();
  const instant = Date.parse("2026-11-23T09:00:00Z");
  return { kind: "failed", usable, failure: { since: instant, attempts, nextTry: instant, notBefore: instant, error } };
}

const PUBLISHED: TokenEvent = {
  kind: "published",
  fingerprint: "0123456789ab",
  expires: Date.parse("2026-11-23T10:00:00Z"),
  identity: "me@example.com",
  reason: "scheduled",
};

describe("notes", () => {
  function told(...events: TokenEvent[]): string[] {
    const shown: string[] = [];
    const observe = notes((text) => shown.push(text));
    for (const event of events) observe(TOKEN, event);
    return shown;
  }

  test("a sign-in that is needed is told once an episode, and when it is over", () => {
    const episode = [failed("ERR_SIGN_IN", 1), failed("ERR_SIGN_IN", 2), failed("ERR_SIGN_IN", 3), PUBLISHED];
    const expected = ["copilot: it failed. do this", "copilot: fresh again"];
    assert.deepEqual(told(...episode), expected);
    assert.deepEqual(told(...episode, ...episode), [...expected, ...expected]);
  });

  test("what may pass by itself is told only when the token is of no use any more, and it lasts", () => {
    const outage = [1, 2, 3, 4, 5, 6].map((attempt) => failed("ERR_SOURCE_UNREACHABLE", attempt, true));
    assert.deepEqual(told(...outage, PUBLISHED), []);
    const long = [1, 2, 3, 4, 5, 6].map((attempt) => failed("ERR_SOURCE_UNREACHABLE", attempt));
    assert.equal(told(...long.slice(0, 4)).length, 0);
    assert.deepEqual(told(...long, PUBLISHED), ["copilot: it failed. do this", "copilot: fresh again"]);
  });

  test("an ordinary renewal is nobody's business", () => assert.deepEqual(told(PUBLISHED, PUBLISHED), []));
});

describe("audit log", () => {
  const lines = (path: string) =>
    readFileSync(path, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));

  test("one line an event, by fingerprint and identity, in a file for nobody else", () => {
    const path = join(directory, "audit.log");
    const previous = process.umask(0);
    const observe = auditLog(path, assert.fail, () => Date.parse("2026-11-23T09:30:00Z"));
    observe(TOKEN, PUBLISHED);
    observe(TOKEN, { kind: "rejected", fingerprint: "0123456789ab", reason: "rejected" });
    observe(TOKEN, failed("ERR_SIGN_IN", 2));
    process.umask(previous);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    const head = { time: "2026-11-23T09:30:00.000Z", name: "copilot", source: "azure" };
    assert.deepEqual(lines(path), [
      {
        ...head,
        event: "published",
        fingerprint: "0123456789ab",
        expires: "2026-11-23T10:00:00.000Z",
        identity: "me@example.com",
        reason: "scheduled",
      },
      { ...head, event: "rejected", fingerprint: "0123456789ab", reason: "rejected" },
      {
        ...head,
        event: "failed",
        code: "ERR_SIGN_IN",
        message: "it failed",
        attempts: 2,
        since: "2026-11-23T09:00:00.000Z",
      },
    ]);
  });

  test("it may be moved away at any time", () => {
    const path = join(directory, "rotated.log");
    const observe = auditLog(path, assert.fail);
    observe(TOKEN, PUBLISHED);
    renameSync(path, `${path}.1`);
    observe(TOKEN, { kind: "removed" });
    assert.equal(lines(`${path}.1`).length, 1);
    assert.equal(lines(path)[0].event, "removed");
  });

  test("what keeps it from being written is said once, until it works again", () => {
    const path = join(directory, "target.log");
    symlinkSync(join(directory, "elsewhere"), path);
    const problems: string[] = [];
    const observe = auditLog(path, (problem) => problems.push(problem));
    observe(TOKEN, PUBLISHED);
    observe(TOKEN, PUBLISHED);
    assert.equal(problems.length, 1);
    assert.match(problems[0]!, /cannot write the audit log .*target\.log: ELOOP/);
    rmSync(path);
    observe(TOKEN, PUBLISHED);
    rmSync(path);
    symlinkSync(join(directory, "elsewhere"), path);
    observe(TOKEN, PUBLISHED);
    assert.equal(problems.length, 2);
  });
});

test("prometheus text: one state is 1, an unknown expiry has no sample", () => {
  const common = { source: "azure", path: "/t", fingerprint: "0123456789ab", minted: 1_000, next_renewal: 2_000 };
  const text = prometheusText(
    true,
    [
      { ...common, name: "a", state: "fresh", expires: 1_800_000_060, renewals: 3, failures: 0, rejections: 1 },
      { ...common, name: "b", state: "sign-in-needed", expires: 0, renewals: 0, failures: 7, rejections: 0 },
    ],
    1_800_000_000_500,
  );
  assert.match(text, /^freshkey_agent_up 1$/m);
  assert.match(text, /^freshkey_token_state\{name="a",source="azure",state="fresh"\} 1$/m);
  assert.equal(text.match(/^freshkey_token_state\{.*\} 1$/gm)?.length, 2);
  assert.match(text, /^freshkey_token_remaining_seconds\{name="a",source="azure"\} 60$/m);
  assert.doesNotMatch(text, /remaining_seconds\{name="b"/);
  assert.match(text, /^freshkey_token_failures_total\{name="b",source="azure"\} 7$/m);
  // Every line is a comment or a sample in the text format.
  for (const line of text.trimEnd().split("\n")) {
    assert.match(line, /^(# (HELP|TYPE) freshkey_[a-z_]+ .+|freshkey_[a-z_]+(\{[^{}]*\})? -?\d+)$/);
  }
});
