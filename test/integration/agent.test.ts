/** `freshkey agent` and what is done without one: the real program, its signals, its remains. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { askAgent } from "../../src/os/control-client.ts";
import {
  FRESHKEY,
  openSandbox,
  pause,
  type Result,
  type RunningAgent,
  type Sandbox,
  until,
} from "../support/freshkey.ts";
import { openSource } from "../support/source.ts";

const socketOf = (box: Sandbox) => join(box.runPath, "agent/control.sock");
const sockets = (box: Sandbox) => readdirSync(join(box.runPath, "agent")).filter((name) => !name.endsWith(".json"));
const contentOf = (path: string) => (existsSync(path) ? readFileSync(path, "utf8") : undefined);
const appears = (box: Sandbox, name: string) => until(`${name} is there`, () => contentOf(box.tokenPath(name)));
const logged = (agent: RunningAgent, text: RegExp) => agent.log().filter(({ msg }) => text.test(String(msg)));

/** Asks the agent for a new token as a person would, and does not wait for it. */
function force(box: Sandbox, name: string): Promise<unknown> {
  const request = { op: "renew", name, seen: "", reason: "manual" } as const;
  return askAgent(socketOf(box), request, { timeout: 60_000 }).catch((error) => error);
}

const linuxOnly = { skip: process.platform !== "linux" && "needs /proc", concurrency: 3 };

describe("freshkey agent", linuxOnly, () => {
  it("rotates a token of unknown expiry by its cron schedule", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box, { lifetime: 0 });
    box.writeConfig(source.toml("copilot", 'cron = "* * * * * *"\njitter = "0s"'));
    const agent = await box.startAgent();
    const tokens = new Set<string>();
    for (const end = Date.now() + 5_000; Date.now() < end; await pause(100)) {
      const token = contentOf(box.tokenPath("copilot"));
      if (token) tokens.add(token);
    }
    await agent.stop();
    assert.ok(tokens.size >= 3, `${tokens.size} tokens in 5 s`);
    assert.ok(source.runs() <= 7, `${source.runs()} mints in 5 s`);
    assert.match(readFileSync(`${box.tokenPath("copilot")}.json`, "utf8"), /^\{"expires":0,/);
  });

  it("ends within a second of SIGTERM, with a mint and its children; token files stay, sockets don't", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box);
    box.writeConfig(source.toml("copilot"));
    const agent = await box.startAgent();
    const token = await appears(box, "copilot");
    await until("the mint has ended", () => logged(agent, /^renewed$/).length === 1);
    source.behave({ delay: 60 });
    const asked = force(box, "copilot");
    await until("the agent, the source and its sleep run", () => source.runs() === 2 && box.processes().length >= 3);

    const begun = Date.now();
    const { code } = await agent.stop();
    await until("all processes have ended", () => box.processes().length === 0, 1_000);
    assert.ok(Date.now() - begun < 1_000, `it took ${Date.now() - begun} ms`);
    assert.equal(code, 0);
    assert.ok(contentOf(box.tokenPath("copilot")) === token, "the token file is not what it was");
    assert.ok(existsSync(`${box.tokenPath("copilot")}.json`));
    assert.deepEqual(sockets(box), []);
    assert.ok((await asked) instanceof Error, "whoever waited is told that nothing came of it");
  });

  it("starts over the remains of a killed one, and does not mint what is fresh", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box);
    box.writeConfig(source.toml("copilot"));
    const first = await box.startAgent();
    await appears(box, "copilot");
    const { ino } = statSync(box.tokenPath("copilot"));
    await first.stop("SIGKILL");
    assert.equal(sockets(box).length, 2, "a killed agent leaves its lock and its control socket behind");

    const second = await box.startAgent();
    await pause(1_000);
    assert.equal(sockets(box).length, 2, "the old lock is still there");
    assert.equal(source.runs(), 1);
    assert.equal(statSync(box.tokenPath("copilot")).ino, ino);
    await second.stop();

    const third = await box.startAgent();
    await pause(1_000);
    assert.equal(source.runs(), 1);
    await third.stop();
  });

  it("refuses to run beside another one, and says which", async (t) => {
    const box = openSandbox(t);
    box.writeConfig(openSource(box).toml("copilot"));
    const agent = await box.startAgent();
    const { code, stderr } = await box.run(["agent"]);
    assert.equal(code, 1);
    assert.match(stderr, new RegExp(`an agent runs already \\(pid ${agent.pid}\\)`));
    assert.equal((await box.run(["status", "--check"])).code, 0, "the first one goes on");
  });

  it("queues behind a verb that renews just now", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box);
    box.writeConfig(source.toml("copilot"));
    source.hold();
    const holder = box.start(["renew"]);
    await until("the verb renews", () => source.runs() === 1);
    const starting = box.startAgent();
    await pause(500);
    source.release();
    const agent = await starting;
    assert.equal((await holder.ended).code, 0);
    assert.equal(source.runs(), 1);
    assert.deepEqual(
      agent.log().filter(({ level }) => level !== "info"),
      [],
    );
  });

  it("stops in the queue as well", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box);
    box.writeConfig(source.toml("copilot"));
    source.hold();
    const holder = box.start(["renew"]);
    await until("the verb renews", () => source.runs() === 1);
    const agent = box.start(["agent"]);
    await until("it waits", () => /waiting for a verb/.test(agent.output().stderr));
    const begun = Date.now();
    assert.equal((await agent.stop()).code, 0);
    assert.ok(Date.now() - begun < 1_000);
    source.release();
    assert.equal((await holder.ended).code, 0);
  });

  it("puts a good edit in force, and reports a bad one that changes nothing", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box);
    box.writeConfig(source.toml("one"));
    const agent = await box.startAgent();
    const token = await appears(box, "one");
    const hangUp = () => process.kill(agent.pid, "SIGHUP");

    box.writeConfig(source.toml("one") + source.toml("two"));
    hangUp();
    await appears(box, "two");
    assert.ok(contentOf(box.tokenPath("one")) === token, "a token that is the same was minted anew");

    box.writeConfig(`${source.toml("one")}[tokens.two]\nsource = "comand"\n`);
    hangUp();
    const [complaint] = await until("the mistake is reported", () => {
      const found = logged(agent, /not reloaded/);
      return found.length > 0 ? found : undefined;
    });
    assert.match(String(complaint?.msg), /config\.toml:\d+: tokens\.two\.source: "comand" is unknown/);
    const { stdout } = await box.run(["status", "--json"]);
    const { tokens } = JSON.parse(stdout) as { tokens: { name: string; state: string }[] };
    assert.deepEqual(
      tokens.map(({ name, state }) => [name, state]),
      [
        ["one", "fresh"],
        ["two", "fresh"],
      ],
    );
    assert.equal(source.runs(), 2);
  });

  it("removes the files of a token that leaves the configuration", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box);
    box.writeConfig(source.toml("one") + source.toml("two"));
    const agent = await box.startAgent();
    const token = await appears(box, "one");
    await appears(box, "two");
    box.writeConfig(source.toml("one"));
    process.kill(agent.pid, "SIGHUP");
    await until("its directory has gone", () => !existsSync(join(box.runPath, "two")));
    assert.ok(contentOf(box.tokenPath("one")) === token);
  });

  it("brings a token file back that was removed by hand", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box);
    box.writeConfig(source.toml("copilot"));
    await box.startAgent();
    const token = await appears(box, "copilot");
    rmSync(box.tokenPath("copilot"));
    const other = await appears(box, "copilot");
    assert.ok(other !== token, "a token that nobody has any more came back");
    assert.equal(source.runs(), 2);
  });

  it("heals when its runtime directory is removed", async (t) => {
    const box = openSandbox(t);
    box.writeConfig(openSource(box).toml("copilot"));
    const agent = await box.startAgent();
    await appears(box, "copilot");
    rmSync(box.runPath, { recursive: true });
    await until("it answers again", async () => (await box.run(["status"])).stderr === "", 15_000);
    await appears(box, "copilot");
    const { code, stdout } = await box.run(["token", "copilot"]);
    assert.equal(code, 0);
    assert.ok(stdout === contentOf(box.tokenPath("copilot")));
    assert.match((await box.run(["agent"])).stderr, new RegExp(`pid ${agent.pid}`), "it has its lock again");
  });

  it("asks a source that fails no more often than the back-off allows, however many clients ask", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box, { exit: 3, says: "the provider is down" });
    box.writeConfig(source.toml("copilot"));
    await box.startAgent();
    await until("it has failed", () => existsSync(join(box.runPath, "agent/copilot.failure.json")));
    // Too short a wait for the next try: whoever can wait for it is told what became of that.
    const ask = () => box.run(["token", "--json", "--wait", "600ms", "copilot"]);
    const results = [];
    for (const end = Date.now() + 4_000; Date.now() < end; ) {
      results.push(...(await Promise.all([ask(), ask(), ask(), ask()])));
    }
    const between = source.times().flatMap((at, index, all) => (index === 0 ? [] : [at - (all[index - 1] ?? 0)]));
    assert.ok(source.runs() >= 2, "the agent did not try again");
    assert.ok(
      between.every((ms) => ms >= 950),
      `the source was run again after ${between.join(", ")} ms`,
    );
    // One that comes while the source is asked shares its answer.
    const told = results.filter(({ stdout }) => stdout.includes("ERR_BACKOFF"));
    assert.ok(told.length > 0, `none of ${results.length} was told of the back-off`);
    for (const { stdout, code } of told) {
      assert.equal(code, 75);
      const { error } = JSON.parse(stdout) as { error: { code: string; message: string; hint: string } };
      assert.equal(error.code, "ERR_BACKOFF");
      assert.match(error.message, /exit code 3: the provider is down \(since .+, next try in .+\)/);
      assert.match(error.hint, /run the command/);
    }
    assert.deepEqual(
      results.filter(({ code }) => code !== 75 && code !== 69),
      [],
    );
    source.behave({});
    assert.equal((await box.run(["renew", "--force"])).code, 0, "a person may ask past the back-off");
  });
});

describe("without an agent", linuxOnly, () => {
  it("a source that takes longer than --wait is finished in the background", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box);
    box.writeConfig(source.toml("copilot"));
    source.hold();
    const first = await box.run(["token", "--wait", "2s", "copilot"]);
    assert.equal(first.code, 75);
    assert.match(first.stderr, /goes on in the background/);
    assert.equal(contentOf(box.tokenPath("copilot")), undefined);
    // Whoever comes meanwhile begins nothing anew.
    await until("it goes on", () => source.runs() === 2);
    assert.notEqual((await box.run(["token", "--wait", "500ms", "copilot"])).code, 0);
    source.release();
    const token = await appears(box, "copilot");
    const second = await box.run(["token", "copilot"]);
    assert.deepEqual([second.code, second.stdout === token], [0, true]);
    // The first client's own mint ended with it; the one in the background is the other.
    assert.equal(source.runs(), 2);
    await until("nothing is left running", () => box.processes().length === 0);
  });

  it("a client that has time is not let down by one that has none and renews for both", async (t) => {
    const box = openSandbox(t);
    const source = openSource(box);
    box.writeConfig(source.toml("copilot"));
    source.hold();
    const hasty = box.start(["token", "--wait", "2s", "copilot"]);
    await until("it renews", () => source.runs() === 1);
    const others = [box.run(["token", "--wait", "20s", "copilot"]), box.run(["renew"])];
    assert.equal((await hasty.ended).code, 75);
    await until("somebody else renews", () => source.runs() === 2);
    source.release();
    const [patient, cron] = (await Promise.all(others)) as [Result, Result];
    assert.deepEqual([patient.code, patient.stderr], [0, ""]);
    assert.ok(patient.stdout === contentOf(box.tokenPath("copilot")));
    assert.equal(cron.code, 0, cron.stderr);
    assert.equal(source.runs(), 2);
  });

  it("the back-off outlives the process that met the failure", async (t) => {
    const box = openSandbox(t);
    // A shell's own code for a program that is not there: that is asked for again a quarter of a minute later.
    const source = openSource(box, { exit: 127, says: "corp-auth is not there" });
    box.writeConfig(source.toml("copilot", "shell = true"));
    assert.equal((await box.run(["token", "copilot"])).code, 78);
    for (const { code, stderr } of await Promise.all([1, 2, 3, 4].map(() => box.run(["token", "copilot"])))) {
      assert.equal(code, 78);
      assert.match(stderr, /corp-auth is not there\) \(since .+, next try in .+\)\n {2}→ install it/);
    }
    assert.equal(source.runs(), 1);
  });

  // Where there is a runtime directory of the user's own, it is found without XDG_RUNTIME_DIR: that one is not for tests.
  const found = existsSync(`/run/user/${process.geteuid?.()}`) && "this user has a runtime directory";

  it("renew publishes in the bare environment of cron", { skip: found }, async (t) => {
    const box = openSandbox(t);
    box.writeConfig(openSource(box).toml("copilot"));
    const bare = ["-i", `HOME=${box.env.HOME}`, `PATH=${box.env.PATH}`, FRESHKEY, "renew"];
    const { code, stderr, stdout } = await box.run(bare, { program: "/usr/bin/env" });
    assert.deepEqual([code, stdout], [0, ""], stderr);
    assert.match(stderr, /^copilot: renewed, expires in (1h|59m \d+s)\n$/);
    const directory = join(box.home, `.local/state/freshkey/run-${hostname()}`);
    assert.equal(statSync(join(directory, "copilot/token")).mode & 0o777, 0o600);
    assert.equal(statSync(join(directory, "copilot")).mode & 0o777, 0o700);

    const agent = await box.startAgent({ env: { XDG_RUNTIME_DIR: undefined } });
    const [warning] = logged(agent, /no runtime directory in memory/);
    assert.equal(warning?.level, "warn");
    assert.equal(warning?.path, directory);
  });
});
