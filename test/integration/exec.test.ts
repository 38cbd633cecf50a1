/** `freshkey exec`: a client as if it had been started without it, but for a token that stays fresh. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { askAgent } from "../../src/os/control-client.ts";
import { FRESHKEY, openSandbox, type Result, type Sandbox, until } from "../support/freshkey.ts";

/** A sandbox with one token, "main", whose source writes a line to `mints` for each token and gives it `life` seconds. */
function open(t: TestContext, life = 600): Sandbox & { mints(): number } {
  const box = openSandbox(t);
  const mints = join(box.directory, "mints");
  const source = box.writeScript(
    "source",
    `#!/bin/sh\necho >>"${mints}"\nprintf '{"token":"token-%s","expires_in":${life}}' "$(date +%s%N)"\n`,
  );
  box.writeConfig(`
[clients.copilot]
token = "main"
base_url = "https://gateway.example/v1"
model = "m"

[tokens.main]
source = "command"
command = ["${source}"]

[tokens.other]
source = "command"
command = ["echo", "other-token"]
`);
  return Object.assign(box, { mints: () => (existsSync(mints) ? readFileSync(mints, "utf8").length : 0) });
}

/** As Copilot CLI runs it, before every request. */
const HOOK = 'sh -c "$COPILOT_PROVIDER_API_KEY_COMMAND"';

/** `freshkey exec OPTIONS -- sh -c SCRIPT`, where `wait` waits until there is a file `go`. */
function sh(script: string, ...options: string[]): string[] {
  return [
    "exec",
    ...options,
    "--",
    "sh",
    "-c",
    `wait() { while [ ! -e "\${1:-go}" ]; do sleep 0.05; done; }\n${script}`,
  ];
}

function go(box: Sandbox, name = "go"): void {
  writeFileSync(join(box.directory, name), "");
}

/** The pid of the agent that answers in the sandbox. */
async function agentPid(box: Sandbox): Promise<number | undefined> {
  const socket = join(box.runPath, "agent/control.sock");
  const status = await askAgent<{ pid: number }>(socket, { op: "status" }, { timeout: 1_000 }).catch(() => undefined);
  return status?.pid;
}

/** Directories of `--mint`. */
function places(box: Sandbox): string[] {
  return existsSync(box.runPath) ? readdirSync(box.runPath).filter((name) => name.startsWith("exec-")) : [];
}

describe("exec: the client", () => {
  it("has its own arguments, stdin, output and exit code", async (t) => {
    const box = open(t);
    const script = 'cat; printf "%s|" "$@" >&2; exit 3';
    const result = await box.run(["exec", "--", "sh", "-c", script, "-", "--json", "a b", "--", ""], {
      input: "typed",
    });
    assert.deepEqual(result, { code: 3, signal: null, stdout: "typed", stderr: "--json|a b|--||" });
    assert.equal((await box.run(["exec", "--", "true"])).code, 0);
    assert.equal((await box.run(sh("exit 255"))).code, 255);
  });

  it("that a signal ends gives the code that a shell would give", async (t) => {
    const box = open(t);
    for (const [signal, code] of [
      ["KILL", 137],
      ["TERM", 143],
      ["INT", 130],
    ] as const) {
      assert.equal((await box.run(sh(`kill -${signal} $$`))).code, code);
    }
  });

  it("gets SIGTERM and SIGHUP, and decides itself what they mean", async (t) => {
    const box = open(t);
    for (const signal of ["SIGTERM", "SIGHUP"] as const) {
      const running = box.start(
        sh(`trap 'echo got; exit 7' ${signal.slice(3)}; echo ready; while :; do sleep 0.05; done`),
      );
      await until("the client is ready", () => running.output().stdout.includes("ready"));
      const { code, stdout } = await running.stop(signal);
      assert.deepEqual([code, stdout], [7, "ready\ngot\n"]);
    }
  });

  it("is waited for when Ctrl-C reaches the whole process group", async (t) => {
    const box = open(t);
    // Copilot CLI takes Ctrl-C for "stop what you are doing", and goes on.
    const args = sh(`trap 'echo stopped' INT; echo ready; wait; exit 9`);
    const child = spawn(FRESHKEY, args, {
      cwd: box.directory,
      env: box.env,
      detached: true,
      stdio: ["ignore", "pipe", 2],
    });
    t.after(() => child.kill("SIGKILL"));
    let said = "";
    child.stdout!.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
    const closed = new Promise((resolve) => child.once("close", resolve));
    await until("the client is ready", () => said.includes("ready"));
    for (const times of [1, 2]) {
      process.kill(-child.pid!, "SIGINT");
      await until("it has got Ctrl-C", () => said.split("stopped").length > times);
    }
    assert.equal(await agentPid(box), child.pid, "the token is still kept");
    go(box);
    assert.equal(await closed, 9);
  });

  it("has the hook in its environment, without the static keys, and all else as it was", async (t) => {
    const box = open(t);
    const env = { COPILOT_PROVIDER_API_KEY: "old", COPILOT_PROVIDER_BEARER_TOKEN: "old", OTHER: "kept" };
    const { stdout } = await box.run(["exec", "--", "env"], { env });
    const seen = Object.fromEntries(
      stdout
        .trim()
        .split("\n")
        .map((line) => line.split(/=(.*)/s).slice(0, 2)),
    );
    for (const name of ["_", "PWD", "SHLVL", "OLDPWD"]) delete seen[name];
    const token = box.tokenPath("main");
    assert.deepEqual(seen, {
      ...box.env,
      OTHER: "kept",
      COPILOT_PROVIDER_BASE_URL: "https://gateway.example/v1",
      COPILOT_MODEL: "m",
      COPILOT_PROVIDER_API_KEY_FILE: token,
      COPILOT_PROVIDER_API_KEY_COMMAND: `exec ${FRESHKEY}-token ${token}`,
      FRESHKEY_TOKEN_FILE: token,
    });
  });

  it("gets the token from its hook, as a client runs it", async (t) => {
    const box = open(t);
    const { stdout } = await box.run(sh(HOOK));
    assert.match(stdout, /^token-\d+$/);
    const other = await box.run(sh(HOOK, "--token", "other"));
    assert.equal(other.stdout, "other-token");
    assert.equal(other.code, 0);
  });

  it("that is not there is said so, and nothing is left behind", async (t) => {
    const box = open(t);
    const { code, stdout, stderr } = await box.run(["exec", "--mint", "echo abc", "--", "no-such-client"]);
    assert.deepEqual([code, stdout], [1, ""]);
    assert.match(stderr, /cannot run no-such-client: ENOENT\n {2}→ install no-such-client/);
    assert.deepEqual(places(box), []);
  });
});

describe("exec: the command line", () => {
  const CASES: readonly [readonly string[], RegExp][] = [
    [["exec"], /there is no command to run/],
    [["exec", "copilot"], /"copilot" stands before the --/],
    [["exec", "--every", "1m", "--", "true"], /--every goes with --mint/],
    [["exec", "--mint", "echo x", "--token", "main", "--", "true"], /--token and --mint exclude each other/],
    [["exec", "--mint", "echo x", "--every", "soon", "--", "true"], /--every soon: must be/],
  ];
  for (const [args, message] of CASES) {
    it(`freshkey ${args.join(" ")}: usage`, async (t) => {
      const box = open(t);
      const { code, stdout, stderr } = await box.run(args);
      assert.deepEqual([code, stdout], [64, ""]);
      assert.match(stderr, message);
      assert.equal(box.mints(), 0);
      assert.deepEqual(places(box), []);
    });
  }

  it("needs a configuration, or --mint", async (t) => {
    const box = openSandbox(t);
    const { code, stderr } = await box.run(["exec", "--", "true"]);
    assert.equal(code, 78);
    assert.match(stderr, /there is no configuration/);
    assert.equal((await box.run(["exec", "--mint", "echo x", "--", "true"])).code, 0);
  });
});

describe("exec: a source that fails", () => {
  async function failing(t: TestContext, command: string): Promise<Result> {
    const box = openSandbox(t);
    const mint = await box.run(["exec", "--mint", command, "--", "touch", "started"]);
    assert.deepEqual(places(box), []);
    box.writeConfig(`[tokens.main]\nsource = "command"\nshell = true\ncommand = '''${command}'''`);
    const configured = await box.run(["exec", "--", "touch", "started"]);
    assert.equal(existsSync(join(box.directory, "started")), false, "the client was not started");
    assert.deepEqual([mint.stdout, configured.stdout], ["", ""]);
    assert.deepEqual([mint.code, mint.stderr], [configured.code, configured.stderr]);
    return mint;
  }

  it("is told before the client is started", async (t) => {
    const { code, stderr } = await failing(t, "echo no network >&2; exit 3");
    assert.equal(code, 69);
    assert.match(stderr, /ended with exit code 3: no network\n {2}→ run the command/);
  });

  it("is told with the exit code of its kind: not there", async (t) => {
    const { code, stderr } = await failing(t, "no-such-program");
    assert.equal(code, 78);
    assert.match(stderr, /no-such-program/);
  });

  it("is told with the exit code of its kind: no token", async (t) => {
    const { code, stderr } = await failing(t, "echo '<html>sign in</html>'");
    assert.equal(code, 69);
    assert.match(stderr, /it is HTML or XML, not a token/);
    assert.doesNotMatch(stderr, /sign in<\/html>/);
  });

  it("that takes long can be interrupted, and ends with it", async (t) => {
    const box = openSandbox(t);
    const running = box.start(["exec", "--mint", "echo >waiting; exec sleep 86", "--", "touch", "started"]);
    await until("the source runs", () => existsSync(join(box.directory, "waiting")));
    const begun = Date.now();
    const { code } = await running.stop("SIGINT");
    assert.equal(code, 130);
    assert.ok(Date.now() - begun < 2_000);
    assert.deepEqual(places(box), []);
    assert.deepEqual(box.processes(), []);
    assert.equal(existsSync(join(box.directory, "started")), false);
  });
});

describe("exec: the agent", () => {
  it("is its own while none runs, and ends with it; the token stays", async (t) => {
    const box = open(t, 6);
    const running = box.start(sh("echo ready; wait"));
    await until("the client runs", () => running.output().stdout);
    assert.equal(await agentPid(box), running.pid);
    await until("the token was renewed", () => box.mints() >= 2, 8_000);
    go(box);
    assert.equal((await running.ended).code, 0);
    assert.equal(await agentPid(box), undefined);
    assert.ok(existsSync(box.tokenPath("main")));
    assert.deepEqual(box.processes(), []);
  });

  it("is the one that runs; when that is killed, exec takes over", async (t) => {
    const box = open(t, 6);
    const agent = await box.startAgent();
    const running = box.start(sh("echo ready; wait"));
    await until("the client runs", () => running.output().stdout);
    assert.equal(await agentPid(box), agent.pid);
    await agent.stop("SIGKILL");
    const killed = Date.now();
    await until("exec answers", async () => (await agentPid(box)) === running.pid);
    assert.ok(Date.now() - killed < 3_000, `${Date.now() - killed} ms`);
    const mints = box.mints();
    await until("exec renews", () => box.mints() > mints, 8_000);
    assert.equal((await box.run(["token", "main"])).code, 0);
    go(box);
    assert.equal((await running.ended).code, 0);
  });

  it("is one for several at once, and passes from one to the next", async (t) => {
    const box = open(t);
    const names = ["a", "b", "c", "d"];
    const running = names.map((name, i) => box.start(sh(`echo ready; wait ${name}; exit ${10 + i}`)));
    await until("all clients run", () => running.every(({ output }) => output().stdout !== ""), 20_000);
    assert.equal(box.mints(), 1);
    const left = new Set(running.keys());
    while (left.size > 0) {
      const pid = await until("one of them is the agent", () => agentPid(box));
      const holder = running.findIndex((one) => one.pid === pid);
      assert.ok(left.delete(holder), "the agent is one that still runs");
      go(box, names[holder]);
      const { code, stderr } = await running[holder]!.ended;
      assert.deepEqual([code, stderr], [10 + holder, ""]);
    }
    assert.equal(await agentPid(box), undefined);
    assert.equal(box.mints(), 1);
  });
});

describe("exec --mint", () => {
  it("needs no configuration, and leaves nothing behind", async (t) => {
    const box = openSandbox(t);
    // Were the configuration read, this one would be refused.
    box.writeConfig("not = TOML [");
    const mint = `printf '{"accessToken":"from-%s","expires_on":%s}' az "$(($(date +%s) + 600))"`;
    const script = `${HOOK}; dirname "$(dirname "$FRESHKEY_TOKEN_FILE")" >&2; exit 4`;
    const result = await box.run(sh(script, "--mint", mint));
    assert.deepEqual([result.code, result.stdout], [4, "from-az"]);
    const place = result.stderr.trim();
    assert.ok(place.startsWith(`${box.runPath}/exec-`), place);
    assert.equal(existsSync(place), false);
    assert.deepEqual(readdirSync(box.runPath), []);
  });

  it("keeps several apart", async (t) => {
    const box = openSandbox(t);
    const script = `${HOOK}; echo; wait; ${HOOK}`;
    const names = ["one", "two", "three"];
    const running = names.map((name) => box.start(sh(script, "--mint", `echo token-${name}`)));
    await until("all clients run", () => running.every(({ output }) => output().stdout !== ""));
    assert.equal(places(box).length, 3);
    go(box);
    const results = await Promise.all(running.map(({ ended }) => ended));
    assert.deepEqual(
      results.map(({ stdout }) => stdout),
      names.map((name) => `token-${name}\ntoken-${name}`),
    );
    assert.deepEqual(places(box), []);
  });

  it("ties the token to the base URL in the environment", async (t) => {
    const box = openSandbox(t);
    const env = { COPILOT_PROVIDER_BASE_URL: "https://gateway.example/v1" };
    const other = `COPILOT_PROVIDER_BASE_URL=https://elsewhere.example ${HOOK}`;
    const { code, stdout, stderr } = await box.run(sh(other, "--mint", "echo t"), { env });
    assert.deepEqual([code, stdout], [77, ""]);
    assert.match(stderr, /https:\/\/elsewhere\.example/);
  });

  it("runs the command again as --every says, where its output tells no expiry", async (t) => {
    const box = openSandbox(t);
    const mint = 'echo x >>mints; echo "opaque-$(wc -l <mints)"';
    const running = box.start(sh("wait", "--mint", mint, "--every", "1s"));
    const mints = () =>
      existsSync(join(box.directory, "mints")) ? readFileSync(join(box.directory, "mints")).length / 2 : 0;
    await until("the first", () => mints() >= 1);
    const begun = Date.now();
    await until("three more", () => mints() >= 4, 8_000);
    assert.ok(Date.now() - begun > 1_000, "not one after the other without a pause");
    go(box);
    assert.equal((await running.ended).code, 0);
  });

  it("clears away what a killed one has left, and nothing that is in use or new", async (t) => {
    const box = openSandbox(t);
    const start = async () => {
      const running = box.start(sh("echo ready; wait", "--mint", "echo t"));
      await until("the client runs", () => running.output().stdout);
      return { running, place: join(box.runPath, `exec-${running.pid}`) };
    };
    const [abandoned, fresh, used] = [await start(), await start(), await start()];
    for (const { running } of [abandoned, fresh]) process.kill(running.pid, "SIGKILL");
    await until("they are gone", () => [abandoned, fresh].every(({ running }) => !isAlive(running.pid)));
    const longAgo = new Date(Date.now() - 120_000);
    for (const { place } of [abandoned, used]) utimesSync(place, longAgo, longAgo);

    assert.equal((await box.run(["exec", "--mint", "echo t", "--", "true"])).code, 0);
    assert.deepEqual(
      [abandoned, fresh, used].map(({ place }) => existsSync(place)),
      [false, true, true],
    );
    go(box);
    assert.equal((await used.running.ended).code, 0);
    // The clients of the killed ones end as well, since they wait for the same file.
    await until("nobody is left", () => box.processes().length === 0);
  });

  it("never takes over the token of an earlier one with the same pid", async (t) => {
    const box = openSandbox(t);
    const place = join(box.runPath, "exec-4242");
    mkdirSync(join(place, "mint"), { recursive: true, mode: 0o700 });
    writeFileSync(join(place, "mint/token"), "an-old-token", { mode: 0o600 });
    const samePid = box.writeScript("pid.mjs", 'Object.defineProperty(process, "pid", { value: 4242 });');
    const script = `${HOOK}; echo; echo "$FRESHKEY_TOKEN_FILE"`;
    const { stdout } = await box.run(sh(script, "--mint", "echo new-token"), {
      env: { NODE_OPTIONS: `--import ${samePid}` },
    });
    assert.equal(stdout, `new-token\n${place}/mint/token\n`);
  });
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
