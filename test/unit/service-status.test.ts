/** The line that `systemctl status` shows, the journal's priorities, and when the watchdog is fed. */
import assert from "node:assert/strict";
import { closeSync, fstatSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import type { AgentStatus } from "../../src/agent/agent.ts";
import { FreshkeyError } from "../../src/core/errors.ts";
import type { Clock } from "../../src/os/clock.ts";
import { journalPrefix } from "../../src/os/journal.ts";
import { serviceManager, withoutServiceManager } from "../../src/os/sd-notify.ts";
import { Reporter } from "../../src/service/reporter.ts";
import { statusLine } from "../../src/service/status-line.ts";

type Token = AgentStatus["tokens"][number];

const NOW = new Date(2026, 10, 23, 13, 0).getTime();
const MINUTE = 60_000;

function token(name: string, more: Partial<Token> = {}, next = NOW + 65 * MINUTE): Token {
  const times = { expires: NOW / 1_000 + 5_400, minted: NOW / 1_000, next_renewal: next / 1_000 };
  const counts = { renewals: 0, failures: 0, rejections: 0 };
  return { name, source: "azure", state: "fresh", path: "", fingerprint: "0123456789ab", ...times, ...counts, ...more };
}

function failing(code: ConstructorParameters<typeof FreshkeyError>[0]): Partial<Token> {
  const error = { ...new FreshkeyError(code, "words").toJSON(), since: 0, attempts: 1, next_try: 0 };
  return { state: error.class === "sign-in" ? "sign-in-needed" : "failing", error };
}

describe("statusLine", () => {
  const none = { fingerprint: "", expires: 0, minted: 0 };
  const table: [name: string, tokens: Token[], line: string][] = [
    [
      "all fresh: the earliest renewal",
      [token("aws", {}, NOW + 3 * 60 * MINUTE), token("copilot"), token("corp", {}, NOW + 2 * 60 * MINUTE)],
      "3 tokens fresh, next renewal 14:05 (copilot)",
    ],
    ["one", [token("copilot")], "1 token fresh, next renewal 14:05 (copilot)"],
    [
      "renewed while it is good",
      [token("copilot", { state: "renewing" })],
      "1 token fresh, next renewal 14:05 (copilot)",
    ],
    [
      "the first one under way",
      [token("copilot", { ...none, state: "renewing" }, 0)],
      "0 of 1 token fresh, copilot renewing",
    ],
    [
      "failing",
      [token("aws"), token("copilot", failing("ERR_SOURCE_UNREACHABLE"), NOW + MINUTE)],
      "1 of 2 tokens fresh, copilot failing: the source cannot be reached, next renewal 13:01 (copilot)",
    ],
    [
      "a sign-in",
      [token("copilot", failing("ERR_SIGN_IN"))],
      "0 of 1 token fresh, copilot sign in needed, next renewal 14:05 (copilot)",
    ],
    [
      "many failing",
      ["a", "b", "c", "d", "e"].map((name) => token(name, { ...none, state: "missing" }, 0)),
      "0 of 5 tokens fresh, a missing, b missing, c missing, 2 more not fresh",
    ],
    [
      "another day",
      [token("copilot", {}, NOW + 48 * 60 * MINUTE)],
      "1 token fresh, next renewal 2026-11-25 13:00 (copilot)",
    ],
    ["no renewal planned", [token("copilot", {}, 0)], "1 token fresh"],
  ];
  for (const [name, tokens, line] of table) {
    it(name, () => assert.equal(statusLine({ tokens }, NOW), line));
  }

  it("tells that the configuration on disk is not in force", () => {
    const config_error = new FreshkeyError("ERR_CONFIG_SYNTAX", "words").toJSON();
    assert.equal(
      statusLine({ tokens: [token("copilot", {}, 0)], config_error }, NOW),
      "1 token fresh, the configuration on disk has a mistake and is not in force",
    );
  });
});

describe("Reporter", () => {
  function setUp(watchdog: number | undefined) {
    const sent: string[][] = [];
    let now = 0;
    const clock: Clock = { now: () => NOW + now, uptime: () => now, after: () => ({ cancel: () => undefined }) };
    const notify = async (...lines: readonly string[]) => void sent.push([...lines]);
    const reporter = new Reporter({ watchdog, notify }, clock);
    let tokens = [token("copilot")];
    const status = () => ({ pid: 1, resident: true, since: 0, tokens });
    const turnUntil = (end: number) => {
      for (; now < end; now += 2_000) reporter.turned(status);
    };
    const change = (next: Token[]) => {
      tokens = next;
    };
    return { sent, reporter, status, turnUntil, change };
  }
  const meals = (sent: string[][]) => sent.flat().filter((line) => line === "WATCHDOG=1").length;

  it("feeds the watchdog well within its period, and no more often than that", async () => {
    const { sent, reporter, status, turnUntil } = setUp(300_000);
    await reporter.ready(status());
    turnUntil(3_600_000);
    assert.ok(meals(sent) >= 24 && meals(sent) <= 36, `${meals(sent)} times in an hour`);
  });

  it("does not feed it when the loop does not turn, nor before it is ready", async () => {
    const { sent, reporter, status, turnUntil } = setUp(6_000);
    turnUntil(60_000);
    assert.deepEqual(sent, []);
    await reporter.ready(status());
    assert.equal(meals(sent), 0);
  });

  it("sends a status where it has changed, and only then", async () => {
    const { sent, reporter, status, turnUntil, change } = setUp(undefined);
    await reporter.ready(status());
    turnUntil(60_000);
    assert.deepEqual(sent, [["READY=1", "STATUS=1 token fresh, next renewal 14:05 (copilot)"]]);
    change([token("copilot", {}, NOW + 70 * MINUTE)]);
    turnUntil(120_000);
    assert.deepEqual(sent.slice(1), [["STATUS=1 token fresh, next renewal 14:10 (copilot)"]]);
  });

  it("does not even ask for the status where there is no service manager", () => {
    new Reporter(undefined).turned(() => assert.fail("it was asked"));
  });
});

describe("serviceManager", () => {
  it("is there where systemd waits to be told, and takes its variables away", () => {
    const env = { NOTIFY_SOCKET: "/nowhere", WATCHDOG_USEC: "3000000", WATCHDOG_PID: String(process.pid), HOME: "/" };
    const manager = serviceManager(() => undefined, env);
    assert.equal(manager?.watchdog, 3_000);
    assert.deepEqual(env, { HOME: "/" });
  });

  it("is not there without a socket", () => {
    const env = { WATCHDOG_USEC: "3000000" };
    assert.equal(
      serviceManager(() => undefined, env),
      undefined,
    );
    assert.deepEqual(env, {});
  });

  it("watches nothing without a period, or for another process", () => {
    const watchdog = (more: NodeJS.ProcessEnv) =>
      serviceManager(() => undefined, { NOTIFY_SOCKET: "/x", ...more })?.watchdog;
    assert.equal(watchdog({}), undefined);
    assert.equal(watchdog({ WATCHDOG_USEC: "0" }), undefined);
    assert.equal(watchdog({ WATCHDOG_USEC: "1000000", WATCHDOG_PID: "1" }), undefined);
    assert.equal(watchdog({ WATCHDOG_USEC: "1000000" }), 1_000);
  });

  it("keeps its variables from those who are started", () => {
    assert.deepEqual(withoutServiceManager({ NOTIFY_SOCKET: "/x", WATCHDOG_USEC: "1", WATCHDOG_PID: "1", A: "b" }), {
      A: "b",
    });
  });
});

describe("journalPrefix", () => {
  it("is the level's priority where the descriptor leads to the journal, and empty elsewhere", () => {
    const directory = mkdtempSync(join(tmpdir(), "freshkey-journal-"));
    const file = openSync(join(directory, "stream"), "w");
    try {
      const { dev, ino } = fstatSync(file, { bigint: true });
      const env = { JOURNAL_STREAM: `${dev}:${ino}` };
      const levels = ["trace", "debug", "info", "warn", "error", "fatal"] as const;
      assert.equal(levels.map((level) => journalPrefix(level, file, env)).join(""), "<7><7><6><4><3><2>");
      assert.equal(journalPrefix("info", file, {}), "");
      assert.equal(journalPrefix("info", file, { JOURNAL_STREAM: `${dev}:${ino + 1n}` }), "");
    } finally {
      closeSync(file);
      rmSync(directory, { recursive: true });
    }
  });
});
