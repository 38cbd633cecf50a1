import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { acquireLock, checkSocketPath, type Lock, lockIsHeld } from "../../src/os/lock.ts";
import { randomFrom } from "../support/random.ts";
import { pause, temporaryDirectory, until } from "../support/unit.ts";

const SEED = Number(process.env.SEED ?? 20_261_123);
const lockFile = fileURLToPath(new URL("../../src/os/lock.ts", import.meta.url));

async function acquired(directory: string): Promise<Lock> {
  const lock = await acquireLock(directory);
  if (!lock) assert.fail("somebody has the lock");
  return lock;
}

/** A path like that of a holder that was killed: bound once, and nobody listens. */
function deadPath(directory: string, name: string): string {
  const path = join(directory, name);
  const script = `require("node:net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`;
  try {
    execFileSync(process.execPath, ["-e", script], { stdio: "ignore" });
  } catch {
    // Killed, as it was told to be.
  }
  assert.equal(existsSync(path), true);
  return path;
}

describe("the lock", () => {
  test("has one holder, until it is released", async (t) => {
    const directory = temporaryDirectory(t);
    assert.equal(await lockIsHeld(directory), false);
    const lock = await acquired(directory);
    assert.equal(await lockIsHeld(directory), true);
    assert.equal(await acquireLock(directory), undefined);
    assert.equal(lock.holds(), true);
    await lock.release();
    assert.deepEqual([lock.holds(), await lockIsHeld(directory), readdirSync(directory)], [false, false, []]);
    await (await acquired(directory)).release();
  });

  test("of two directories are two locks", async (t) => {
    const [one, two] = [await acquired(temporaryDirectory(t)), await acquired(temporaryDirectory(t))];
    await Promise.all([one.release(), two.release()]);
  });

  test("of many who come at once at most one gets it, and one of them does in the end", async (t) => {
    const directory = temporaryDirectory(t);
    for (let round = 0; round < 10; round++) {
      let held: (Lock | undefined)[] = [];
      for (let turn = 0; turn < 100 && held.every((lock) => lock === undefined); turn++) {
        held = await Promise.all(Array.from({ length: 8 }, () => acquireLock(directory)));
      }
      assert.equal(held.filter((lock) => lock !== undefined).length, 1);
      for (const lock of held) await lock?.release();
    }
  });

  test("a holder's death frees it, and what it left is removed", async (t) => {
    const directory = temporaryDirectory(t);
    for (const name of ["lock.1", "lock.2"]) deadPath(directory, name);
    writeFileSync(join(directory, "lock.plain"), "");
    writeFileSync(join(directory, "control.sock"), "");
    assert.equal(await lockIsHeld(directory), false);
    const lock = await acquired(directory);
    const [own, ...others] = readdirSync(directory).filter((name) => name !== "control.sock");
    assert.match(own ?? "", /^lock\.[0-9a-f]{12}$/);
    assert.deepEqual(others, []);
    await lock.release();
    assert.deepEqual(readdirSync(directory), ["control.sock"]);
  });

  test("a path that is bound and on which nobody listens holds nothing", async (t) => {
    const directory = temporaryDirectory(t);
    const path = join(directory, "lock.bound");
    // Node.js always listens after it has bound. A socket that was renamed after its server's end is the same to connect to.
    const server = createServer();
    await new Promise<void>((listening) => server.listen(`${path}.1`, listening));
    execFileSync("ln", [`${path}.1`, path]);
    await new Promise((closed) => server.close(closed));
    assert.deepEqual(readdirSync(directory), ["lock.bound"]);
    const lock = await acquired(directory);
    assert.equal(existsSync(path), false);
    await lock.release();
  });

  test("a suspended holder still has it, also with its backlog full", { timeout: 20_000 }, async (t) => {
    const directory = temporaryDirectory(t);
    const path = join(directory, "lock.suspended");
    const script = `require("node:net").createServer().listen({ path: ${JSON.stringify(path)}, backlog: 1 }, () => console.log("listens"))`;
    const holder = spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "inherit"] });
    t.after(() => holder.kill("SIGKILL"));
    await new Promise((listens) => holder.stdout.once("data", listens));
    holder.kill("SIGSTOP");
    // Linux keeps backlog + 1 connections that nobody has accepted, then it is EAGAIN.
    for (let attempt = 0; attempt < 5; attempt++) assert.equal(await lockIsHeld(directory), true, `attempt ${attempt}`);
    assert.equal(await acquireLock(directory), undefined);
    assert.equal(existsSync(path), true);
    holder.kill("SIGKILL");
    await until("its end", () => holder.exitCode !== null || holder.signalCode !== null);
    await (await acquired(directory)).release();
  });

  test("one that cannot be asked counts as held: that proves nobody's death", async (t) => {
    if (process.geteuid?.() !== 0) return t.skip("needs root, to be somebody else for a moment");
    const directory = temporaryDirectory(t);
    chmodSync(directory, 0o755);
    const lock = await acquired(directory);
    for (const name of readdirSync(directory)) chmodSync(join(directory, name), 0o600);
    process.seteuid?.(54_321);
    const held = await lockIsHeld(directory).finally(() => process.seteuid?.(0));
    await lock.release();
    assert.equal(held, true);
  });

  test("one whose directory was emptied says that it is not to be seen any more", async (t) => {
    const directory = temporaryDirectory(t);
    const lock = await acquired(directory);
    for (const name of readdirSync(directory)) rmSync(join(directory, name));
    assert.equal(lock.holds(), false);
    await lock.release();
  });

  test("a signal that has aborted", async (t) => {
    const reason = new Error("enough");
    await assert.rejects(acquireLock(temporaryDirectory(t), { signal: AbortSignal.abort(reason) }), reason);
  });
});

describe("a path that is too long for a socket", () => {
  test("is refused from 104 bytes on, whatever its characters", () => {
    checkSocketPath("x".repeat(103));
    checkSocketPath(`x${"é".repeat(51)}`);
    for (const path of ["x".repeat(104), `${"é".repeat(52)}`]) {
      assert.throws(() => checkSocketPath(path), { code: "ERR_RUN_DIRECTORY", message: /has 104 bytes.*at most 103/ });
    }
  });
  test("so is a lock there, before anything is made", async (t) => {
    const directory = join(temporaryDirectory(t), "x".repeat(90));
    mkdirSync(directory);
    await assert.rejects(acquireLock(directory), { code: "ERR_RUN_DIRECTORY", message: /at most 103/ });
    assert.deepEqual(readdirSync(directory), []);
  });
  test("so is a directory that is not there", async (t) => {
    const directory = join(temporaryDirectory(t), "gone");
    await assert.rejects(acquireLock(directory), { code: "ENOENT" });
  });
});

/** Contenders, and how often they must get the lock. */
const PROCESSES = 12;
const ACQUISITIONS = 300;

test("twelve processes under SIGKILL and SIGSTOP: never two holders", { timeout: 60_000 }, async (t) => {
  if (process.platform !== "linux") return t.skip("the witness needs Linux's /proc");
  t.diagnostic(`seed ${SEED}`);
  const random = randomFrom(SEED);
  const base = temporaryDirectory(t);
  const directory = join(base, "agent");
  mkdirSync(directory, { mode: 0o700 });
  // Compiled once: a dozen processes that each compile it for themselves would be all that this test does.
  await build({
    entryPoints: [lockFile],
    outfile: join(base, "dist/os/lock.js"),
    bundle: true,
    platform: "node",
    format: "esm",
  });
  writeFileSync(join(base, "package.json"), '{"type":"module"}');
  const program = fileURLToPath(new URL("../support/lock-holder.mjs", import.meta.url));
  const figures = { acquisitions: 0, kills: 0, suspensions: 0 };
  const overlaps: string[] = [];
  const running = new Set<ChildProcess>();
  let ending = false;

  const start = () => {
    const args = [program, join(base, "dist"), directory, join(base, "witness"), "5"];
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    running.add(child);
    createInterface({ input: child.stdout }).on("line", (line) => {
      if (line.startsWith("o")) overlaps.push(line);
      else figures.acquisitions++;
    });
    child.once("close", () => {
      running.delete(child);
      if (!ending) start();
    });
  };
  t.after(() => {
    ending = true;
    for (const child of running) child.kill("SIGKILL");
  });
  for (let i = 0; i < PROCESSES; i++) start();

  while (figures.acquisitions < ACQUISITIONS) {
    await pause(10 + random() * 60);
    const victim = [...running][Math.floor(random() * running.size)];
    if (random() < 0.4) {
      victim?.kill("SIGKILL");
      figures.kills++;
    } else {
      victim?.kill("SIGSTOP");
      figures.suspensions++;
      setTimeout(() => victim?.kill("SIGCONT"), random() * 200);
    }
  }
  ending = true;
  const ended = [...running].map((child) => new Promise((closed) => child.once("close", closed)));
  for (const child of running) child.kill("SIGKILL");
  await Promise.all(ended);
  t.diagnostic(JSON.stringify(figures));
  assert.deepEqual(overlaps, []);
  assert.ok(figures.kills > 3 && figures.suspensions > 3, "hardly anything happened");
  // Whatever they left, the next one gets the lock and puts the directory in order.
  const lock = await acquired(directory);
  assert.equal(readdirSync(directory).length, 1);
  await lock.release();
});
