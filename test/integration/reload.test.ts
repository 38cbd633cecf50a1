/** What a running agent makes of edits, of replaced secrets, of a clock that is set, and whom it tells. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { openSandbox, type Sandbox } from "../support/freshkey.ts";

/** Waits until `check` returns something, or fails with `what`. */
async function until<T>(what: string, check: () => T | undefined | false, ms = 5_000): Promise<T> {
  for (const end = Date.now() + ms; Date.now() < end; await sleep(20)) {
    const found = check();
    if (found !== undefined && found !== false) return found;
  }
  return assert.fail(`not within ${ms} ms: ${what}`);
}

function token(box: Sandbox, name: string): string | undefined {
  const path = box.tokenPath(name);
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
}

const json = (box: Sandbox, name: string) => JSON.parse(readFileSync(`${box.tokenPath(name)}.json`, "utf8"));

/** A table of a token whose every mint prints something new that begins with `head`. */
const table = (name: string, head: string, more = "") =>
  `[tokens.${name}]\nsource = "command"\ncommand = ["sh", "-c", "echo ${head}-$(date +%s%N)"]\n${more}\n`;

describe("an edit of the configuration", () => {
  test("is in force within a second or so, for the token that it is about", async (t) => {
    const box = openSandbox(t);
    box.writeConfig(table("a", "one") + table("b", "two"));
    await box.startAgent();
    const before = await until("both tokens", () => token(box, "a") && token(box, "b") && token(box, "a"));
    box.writeConfig(table("a", "one") + table("b", "three") + table("c", "four"));
    await until("b is minted anew", () => token(box, "b")?.startsWith("three-"), 3_000);
    await until("c is there", () => token(box, "c")?.startsWith("four-"), 3_000);
    assert.equal(token(box, "a"), before, "a was left alone");
    box.writeConfig(table("a", "one"));
    await until("the files of b and c are gone", () => !token(box, "b") && !token(box, "c"), 3_000);
    assert.equal(token(box, "a"), before);
  });

  test("with a mistake changes nothing, and is told in the log and in status until it is mended", async (t) => {
    const box = openSandbox(t);
    box.writeConfig(table("a", "one"));
    const agent = await box.startAgent();
    const before = await until("the token", () => token(box, "a"));
    box.writeConfig(table("a", "two", "crn = 1"));
    await until("the mistake is logged", () =>
      agent
        .log()
        .find((line) => line.code === "ERR_CONFIG_INVALID" && /a\.crn.*did you mean "cron"/.test(`${line.msg}`)),
    );
    assert.equal(token(box, "a"), before);
    const status = await box.run(["status"]);
    assert.match(status.stderr, /not in force: .*config\.toml:4: tokens\.a\.crn/);
    assert.equal(
      JSON.parse((await box.run(["status", "--json"])).stdout).agent.config_error.code,
      "ERR_CONFIG_INVALID",
    );
    box.writeConfig(table("a", "two"));
    await until("the mended one is in force", () => token(box, "a")?.startsWith("two-"));
    assert.doesNotMatch((await box.run(["status"])).stderr, /not in force/);
  });
});

test("a secret's file that is replaced renews the token that uses it, and no other", async (t) => {
  const box = openSandbox(t);
  const secret = join(box.directory, "secret");
  writeFileSync(secret, "first", { mode: 0o600 });
  // Nobody listens there: what counts is that it is tried again at once.
  const azure = `[tokens.b]\nsource = "azure"\ncredential = "client-secret"\ntenant_id = "t"\nclient_id = "c"
client_secret = { file = "${secret}" }\nscope = "api://x/.default"\nauthority = "https://127.0.0.1:9"\n`;
  box.writeConfig(table("a", "one") + azure);
  await box.startAgent();
  const status = async () => JSON.parse((await box.run(["status", "--json"])).stdout).tokens;
  await until("the first failure", () => existsSync(join(box.runPath, "agent/b.failure.json")), 10_000);
  const [a, b] = await status();
  await sleep(600);
  writeFileSync(`${secret}.new`, "second", { mode: 0o600 });
  renameSync(`${secret}.new`, secret);
  const tried = Date.now();
  for (;;) {
    const [, again] = await status();
    if (again.failures > b.failures) break;
    assert.ok(Date.now() - tried < 8_000, "b is tried again");
    await sleep(100);
  }
  assert.equal((await status())[0].fingerprint, a.fingerprint);
});

test("the notify command is run once an episode, the audit log tells of every event, neither has a token", async (t) => {
  const box = openSandbox(t);
  const told = join(box.directory, "told");
  const audit = join(box.directory, "audit.log");
  const head = `audit = "${audit}"\nnotify = ["sh", "-c", "echo \\"$0\\" >> ${told}"]\n`;
  box.writeConfig(`${head}[tokens.a]\nsource = "command"\ncommand = ["no-such-program"]\n`);
  await box.startAgent();
  await until("the note", () => existsSync(told));
  assert.match(
    readFileSync(told, "utf8"),
    /^a: the command cannot be run \(no-such-program is not in PATH=.+\)\. install it/,
  );
  box.writeConfig(head + table("a", "sesame"));
  await until("the token", () => token(box, "a"));
  await until("the audit log", () => existsSync(audit) && /"published"/.test(readFileSync(audit, "utf8")));
  const events = readFileSync(audit, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    events.map((event) => event.event),
    ["failed", "removed", "minted", "published"],
  );
  assert.equal(events.at(-1).fingerprint, json(box, "a").fingerprint);
  for (const path of [told, audit]) assert.doesNotMatch(readFileSync(path, "utf8"), /sesame/);
  assert.equal(readFileSync(told, "utf8").trimEnd().split("\n").length, 1);
});

describe("a clock that is set", () => {
  /** An agent whose wall clock is off by what the file says, in milliseconds. */
  async function agentWithClock(t: Parameters<typeof openSandbox>[0], first = "") {
    const box = openSandbox(t);
    const offset = join(box.directory, "offset");
    const module = join(box.directory, "clock.mjs");
    writeFileSync(offset, "0");
    writeFileSync(
      module,
      `import { readFileSync } from "node:fs";
       const now = Date.now;
       Date.now = () => now() + Number(readFileSync(${JSON.stringify(offset)}, "utf8"));`,
    );
    const print = box.writeScript(
      "print-token",
      `#!/bin/sh
${first}printf '{"token":"t-%s","expires_in":3600}' "$(date +%s%N)"
`,
    );
    box.writeConfig(`[tokens.a]
source = "command"
command = ["${print}"]
`);
    const agent = await box.startAgent({ env: { NODE_OPTIONS: `--import ${module}` } });
    await until("the token", () => token(box, "a"));
    const set = (ms: number) => writeFileSync(offset, String(ms));
    return { box, agent, set };
  }

  test("back: a dead token is not kept fresh by it; the token is renewed", async (t) => {
    const { box, agent, set } = await agentWithClock(t);
    const before = json(box, "a");
    set(-2 * 3_600_000);
    await until("it is noticed", () =>
      agent.log().some((line) => /clock was set back by (2h|1h 59m)/.test(`${line.msg}`)),
    );
    const after = await until("a new token", () => json(box, "a").fingerprint !== before.fingerprint && json(box, "a"));
    const expected = before.expires - 2 * 3_600;
    assert.ok(Math.abs(after.expires - expected) < 15, `expires by the new clock: ${after.expires - expected}`);
  });

  test("back, while the source fails: the expiry of the token in place is corrected", async (t) => {
    const broken = `broken-${process.pid}`;
    const { box, agent, set } = await agentWithClock(t, `if test -e ${broken}; then exit 1; fi; `);
    const before = json(box, "a");
    writeFileSync(join(box.directory, broken), "");
    set(-3_600_000);
    await until("it is noticed", () => agent.log().some((line) => /clock was set back/.test(`${line.msg}`)));
    const after = await until("token.json", () => json(box, "a").expires !== before.expires && json(box, "a"));
    assert.equal(after.fingerprint, before.fingerprint);
    assert.ok(Math.abs(after.expires - (before.expires - 3_600)) <= 6, `${after.expires - before.expires}`);
  });

  test("forward: what has expired by the new clock is renewed at once", async (t) => {
    const { box, agent, set } = await agentWithClock(t);
    const before = json(box, "a").fingerprint;
    set(24 * 3_600_000);
    await until("it is noticed", () =>
      agent.log().some((line) => /clock was set forward by (1d|23h 59m)/.test(`${line.msg}`)),
    );
    await until("a new token", () => json(box, "a").fingerprint !== before);
  });
});
