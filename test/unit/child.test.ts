import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { type ChildOptions, runChild } from "../../src/os/child.ts";
import { temporaryDirectory, until } from "../support/unit.ts";

const sh = (script: string, options: Partial<ChildOptions> = {}) =>
  runChild("/bin/sh", ["-c", script], { timeout: 10_000, limit: 1_024, ...options });

/** Whether a process is there and can still do something. */
function lives(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return !existsSync("/proc/self/stat");
  }
}

const pidIn = (path: string) => until("a pid", () => existsSync(path) && Number(readFileSync(path, "utf8")));

describe("runChild", () => {
  test("answer, stderr and exit code", async () => {
    const result = await sh("printf one; printf two >&2; printf three; exit 7");
    assert.deepEqual(result, { answer: "onethree", stderr: "two", code: 7, killed: null });
  });

  test("an answer in several parts, cut within a character", async () => {
    const { answer } = await sh("printf 'a\\303'; sleep 0.05; printf '\\244b'");
    assert.equal(answer, "aäb");
  });

  test("no shell: an argument is one argument", async () => {
    const args = ["-c", 'printf "%s|" "$@"', "sh", "a b", "$(id)", "*", ""];
    const { answer } = await runChild("/bin/sh", args, { timeout: 10_000, limit: 1_024 });
    assert.equal(answer, "a b|$(id)|*||");
  });

  test("the environment and the directory that it is given, and no other", async (t) => {
    const cwd = temporaryDirectory(t);
    const { answer } = await sh('printf "%s %s %s" "$A" "$HOME" "$(pwd -P)"', { env: { A: "1" }, cwd });
    assert.match(answer, new RegExp(`^1  .*${cwd}$`));
  });

  test("stdin holds the input and stays open until the end", async () => {
    const script = `process.stdin.on("data", (data) => process.stdout.write(data)).on("end", () => process.stdout.write("closed"));
      setTimeout(() => process.exit(), 200);`;
    const { answer } = await runChild(process.execPath, ["-e", script], {
      input: "line\n",
      timeout: 10_000,
      limit: 99,
    });
    assert.equal(answer, "line\n");
  });

  test("without input stdin is empty", async () => {
    assert.equal((await sh("cat; printf done")).answer, "done");
  });

  test("an input that nobody reads is no error", async () => {
    assert.equal((await sh("exit 0", { input: "x".repeat(1_000_000) })).code, 0);
  });

  test("descriptor 3: what goes to stdout cannot spoil the answer", async () => {
    const { answer, stderr } = await sh("printf noise; printf answer >&3; printf words >&2", { answerOn: 3 });
    assert.deepEqual([answer, stderr], ["answer", "words"]);
  });

  test("at the deadline it is killed with its children's children", async (t) => {
    const file = join(temporaryDirectory(t), "pid");
    const began = performance.now();
    const running = sh(`sh -c 'sh -c "echo \\$\\$ >${file}.part; mv ${file}.part ${file}; sleep 60" & wait' & wait`, {
      timeout: 400,
    });
    const grandchild = await pidIn(file);
    assert.equal(lives(grandchild), true);
    const result = await running;
    assert.deepEqual([result.ended, result.code, result.killed], ["timeout", null, "SIGKILL"]);
    assert.ok(performance.now() - began < 5_000, "it was waited for");
    await until("the grandchild's end", () => !lives(grandchild));
  });

  test("one that ignores SIGTERM as well", async () => {
    const result = await sh("trap '' TERM HUP INT; while :; do sleep 1; done", { timeout: 100 });
    assert.deepEqual([result.ended, result.killed], ["timeout", "SIGKILL"]);
  });

  test("what it left running is ended with it", async (t) => {
    const file = join(temporaryDirectory(t), "pid");
    const { answer, code, ended } = await sh(`sleep 60 & echo $! >${file}; printf token`);
    assert.deepEqual([answer, code, ended], ["token", 0, undefined]);
    const left = Number(readFileSync(file, "utf8"));
    await until("its end", () => !lives(left));
  });

  test("a daemon that keeps the pipes open is not waited for", async (t) => {
    const file = join(temporaryDirectory(t), "pid");
    const script = join(temporaryDirectory(t), "daemon.mjs");
    // A session of its own: the process group does not reach it.
    writeFileSync(
      script,
      `import { spawn } from "node:child_process";
       import { writeFileSync } from "node:fs";
       const daemon = spawn("sleep", ["60"], { detached: true, stdio: "inherit" });
       writeFileSync(${JSON.stringify(file)}, String(daemon.pid));
       process.stdout.write("token", () => process.exit(0));`,
    );
    const began = performance.now();
    const { answer, code } = await runChild(process.execPath, [script], { timeout: 10_000, limit: 1_024 });
    const took = performance.now() - began;
    process.kill(await pidIn(file), "SIGKILL");
    assert.deepEqual([answer, code], ["token", 0]);
    assert.ok(took < 5_000, `${took} ms`);
  });

  test("a signal ends it, also one that has aborted already", async () => {
    const controller = new AbortController();
    const running = sh("sleep 60", { signal: controller.signal });
    setTimeout(() => controller.abort(), 50);
    const result = await running;
    assert.deepEqual([result.ended, result.killed], ["abort", "SIGKILL"]);
    assert.equal((await sh("sleep 60", { signal: AbortSignal.abort() })).ended, "abort");
  });

  test("too much output ends it, and what came before the limit is kept", async () => {
    const result = await sh("while :; do printf 0123456789; done", { limit: 1_000_000 });
    assert.equal(result.ended, "limit");
    assert.ok(result.answer.length <= 1_000_000, `${result.answer.length}`);
  });

  test("exactly as much as the limit is fine", async () => {
    const result = await sh("printf 0123456789", { limit: 10 });
    assert.deepEqual([result.answer, result.ended], ["0123456789", undefined]);
  });

  test("of stderr the first 8 KiB are kept, and it never blocks", async () => {
    const { stderr, code } = await sh(
      "i=0; while [ $i -lt 3000 ]; do printf 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done",
    );
    assert.deepEqual([stderr.length, code], [8 * 1_024, 0]);
  });

  test("killed by somebody else", async () => {
    const { code, killed, ended } = await sh("kill -TERM $$; sleep 5");
    assert.deepEqual([code, killed, ended], [null, "SIGTERM", undefined]);
  });

  test("one that cannot be started: the system's error", async (t) => {
    const plain = join(temporaryDirectory(t), "plain");
    writeFileSync(plain, "not a program", { mode: 0o600 });
    const options = { timeout: 1_000, limit: 10 };
    await assert.rejects(runChild("/no/such/program", [], options), { code: "ENOENT" });
    await assert.rejects(runChild(plain, [], options), { code: "EACCES" });
    await assert.rejects(runChild("/bin/sh", ["a\0b"], options), { code: "ERR_INVALID_ARG_VALUE" });
  });
});
