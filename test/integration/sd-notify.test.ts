/** What `freshkey agent` says to systemd, received on a socket as systemd has one. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { openSandbox, until } from "../support/freshkey.ts";

const programs = ["python3", "systemd-notify"];
const missing = programs.filter((program) => spawnSync(program, ["--version"]).error !== undefined);
const skip = missing.length > 0 && `not installed: ${missing.join(", ")}`;

/** Prints each datagram as one JSON line. systemd-notify hands over a descriptor and waits until it has been closed. */
const RECEIVER = `
import array, json, os, socket, sys
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.bind(sys.argv[1])
print("[]", flush=True)
while True:
    data, ancillary, flags, address = receiver.recvmsg(65536, 4096)
    for level, kind, content in ancillary:
        if kind == socket.SCM_RIGHTS:
            for descriptor in array.array("i", content): os.close(descriptor)
    lines = [line for line in data.decode().split("\\n") if line and line != "BARRIER=1"]
    if lines: print(json.dumps(lines), flush=True)
`;

/** systemd's end of `NOTIFY_SOCKET`. */
async function receive(t: TestContext, path: string): Promise<string[][]> {
  const child = spawn("python3", ["-c", RECEIVER, path], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
    for (let end = output.indexOf("\n"); end >= 0; end = output.indexOf("\n")) {
      messages.push(JSON.parse(output.slice(0, end)) as string[]);
      output = output.slice(end + 1);
    }
  });
  const messages: string[][] = [];
  await until("the socket", () => messages.length > 0);
  messages.shift();
  return messages;
}

describe("freshkey agent and systemd", { skip }, () => {
  const config = (command: string) => `[tokens.copilot]\nsource = "command"\ncommand = ["${command}"]\n`;
  const print = `#!/bin/sh\nenv >"$HOME/env"\necho '{"accessToken":"abc","expires_in":3600}'\n`;

  it("says when it is ready, how it is, that its loop turns, that it reloads and that it stops", async (t) => {
    const box = openSandbox(t);
    const socket = join(box.directory, "notify");
    const messages = await receive(t, socket);
    box.writeConfig(config(box.writeScript("print", print)));
    const agent = await box.startAgent({ env: { NOTIFY_SOCKET: socket, WATCHDOG_USEC: "3000000" } });
    const said = (words: string) => messages.findIndex((lines) => lines.some((line) => line.startsWith(words)));
    await until("READY", () => said("READY=1") >= 0);
    assert.equal(said("READY=1"), 0, "nothing comes before it");
    assert.match(messages[0]?.[1] ?? "", /^STATUS=0 of 1 token fresh/);
    await until("the status", () => said("STATUS=1 token fresh, next renewal ") > 0);
    await until("three meals", () => messages.flat().filter((line) => line === "WATCHDOG=1").length >= 3);

    const soFar = messages.length;
    process.kill(agent.pid, "SIGHUP");
    await until("ready again", () => messages.slice(soFar).flat().includes("READY=1"));
    const [reloading, ready] = messages.slice(soFar).filter((lines) => !lines.includes("WATCHDOG=1"));
    assert.equal(reloading?.[0], "RELOADING=1");
    const [, usec] = /^MONOTONIC_USEC=(\d+)$/.exec(reloading?.[1] ?? "") ?? [];
    const now = process.hrtime.bigint() / 1_000n;
    assert.ok(now - BigInt(usec ?? 0) < 10_000_000n && now >= BigInt(usec ?? 0), `${usec} by the same clock as ${now}`);
    assert.equal(ready?.[0], "READY=1");

    await agent.stop();
    await until("STOPPING", () => said("STOPPING=1") > 0);
    const statuses = messages.flat().filter((line) => line.startsWith("STATUS="));
    assert.equal(statuses.length, 2, `no status is sent twice: ${statuses.join("\n")}`);
    const { stdout } = await box.run(["-c", 'cat "$HOME/env"'], { program: "/bin/sh" });
    assert.match(stdout, /^HOME=/m);
    assert.doesNotMatch(stdout, /NOTIFY_SOCKET|WATCHDOG/);
  });

  it("does not feed a watchdog that is another process's", async (t) => {
    const box = openSandbox(t);
    const socket = join(box.directory, "notify");
    const messages = await receive(t, socket);
    box.writeConfig(config(box.writeScript("print", print)));
    await box.startAgent({ env: { NOTIFY_SOCKET: socket, WATCHDOG_USEC: "3000000", WATCHDOG_PID: "1" } });
    await until("the status", () => messages.flat().some((line) => line.startsWith("STATUS=1 token fresh")));
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    assert.ok(!messages.flat().includes("WATCHDOG=1"));
  });

  it("says why it does not start", async (t) => {
    const box = openSandbox(t);
    const socket = join(box.directory, "notify");
    const messages = await receive(t, socket);
    box.writeConfig("[tokens.copilot]\nsource = 5\n");
    const { code } = await box.run(["agent"], { env: { NOTIFY_SOCKET: socket } });
    assert.equal(code, 78);
    await until("the status", () => messages.length > 0);
    assert.match(messages[0]?.[0] ?? "", /^STATUS=.*config\.toml/);
    assert.ok(!messages.flat().includes("READY=1"));
  });

  it("goes on where systemd cannot be told, and says so in its log", async (t) => {
    const box = openSandbox(t);
    box.writeConfig(config(box.writeScript("print", print)));
    const agent = await box.startAgent({ env: { NOTIFY_SOCKET: join(box.directory, "nobody") } });
    await until("the token", async () => (await box.run(["token", "copilot"])).code === 0);
    await until("the log", () => agent.log().some(({ msg }) => String(msg).includes("systemd is not told READY=1")));
    assert.equal((await agent.stop()).code, 0);
  });
});
