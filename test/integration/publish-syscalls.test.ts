/**
 * How a token reaches its file, seen from below: the system calls of one publication in their order, and what is left
 * when the process is killed at each single one of them. strace shows them, and sends the SIGKILL at the entry of the
 * call that is meant, which the kernel then does not carry out.
 *
 * Only calls on the token's directory and what is in it count. Between two of them nothing changes that a reader could
 * see, so a kill elsewhere leaves what a kill at the next one leaves.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { publish } from "../../src/agent/publish.ts";
import type { TokenConfig } from "../../src/config/load.ts";
import { openKeyFile } from "../../src/reader/index.ts";
import { readTokenFile } from "../../src/reader/token-file.ts";
import { DIST, FRESHKEY_TOKEN, openSandbox, type Sandbox } from "../support/freshkey.ts";

const PUBLISH_ONCE = fileURLToPath(new URL("../support/publish-once.mjs", import.meta.url));
const HOUR = 3600;
/** All threads, all calls that name a file or have one open, descriptors with their paths, no content. */
const STRACE = ["-f", "-e", "trace=%file,%desc", "-y", "-qq", "-s", "0", "-o"];

/** A system call as strace prints it: `TID NAME(ARGUMENTS) = RESULT`. */
interface Call {
  readonly thread: string;
  readonly name: string;
  /** The directory and its files by their last names, whatever else is among the arguments. */
  readonly files: readonly string[];
  readonly flags: string;
  /** `?` where the process was killed before there was one. */
  readonly result: string;
}

describe("the system calls of a publication", { skip: noStrace() }, () => {
  it("are O_EXCL, fsync, rename, rename, fsync of the directory", async (t) => {
    const place = openPlace(t);
    const now = seconds();
    await place.publish(now + HOUR);
    const calls = place.traced(now + 2 * HOUR).filter(changes);
    const [token, json] = [".token.new", ".token.json.new"];
    assert.deepEqual(calls.map(shown), [
      ...written(token),
      ...written(json),
      `rename ${token} token`,
      `rename ${json} token.json`,
      "open copilot O_DIRECTORY",
      "fsync copilot",
    ]);
  });

  it("announce an earlier expiry first", async (t) => {
    const place = openPlace(t);
    const now = seconds();
    await place.publish(now + 2 * HOUR);
    const calls = place.traced(now + HOUR).filter(changes);
    const [token, json] = [".token.new", ".token.json.new"];
    const announced = [...written(json), `rename ${json} token.json`, "open copilot O_DIRECTORY", "fsync copilot"];
    assert.deepEqual(calls.map(shown), [
      ...announced,
      ...written(token),
      ...written(json),
      `rename ${token} token`,
      `rename ${json} token.json`,
      "open copilot O_DIRECTORY",
      "fsync copilot",
    ]);
  });

  for (const [title, before, after] of [
    ["the new token lives longer", HOUR, 2 * HOUR],
    ["the new token ends earlier", 2 * HOUR, HOUR],
    ["it is the first one", undefined, HOUR],
  ] as const) {
    it(`can be cut off by SIGKILL at each of them: ${title}`, async (t) => {
      const place = openPlace(t);
      const old = before && seconds() + before;
      const expires = seconds() + after;
      const reset = async () => {
        rmSync(place.directory, { recursive: true, force: true });
        if (old !== undefined) await place.publish(old);
      };

      await reset();
      const calls = place.traced(expires);
      assert.ok(calls.length > 15, `strace saw only ${calls.length} calls`);
      for (const [index, call] of calls.entries()) {
        const where = `killed at call ${index + 1} of ${calls.length}, ${shown(call)}`;
        await reset();
        place.killedAt(calls, index, expires);
        const replaced = calls.slice(0, index).some((one) => shown(one) === "rename .token.new token");
        await place.holds(replaced ? expires : old, where);
        await place.publish(expires);
        await place.holds(expires, `published again after being ${where}`);
        assert.deepEqual(readdirSync(place.directory).sort(), ["token", "token.json"], where);
      }
      t.diagnostic(`killed at ${calls.length} system calls`);
    });
  }
});

/** What becomes of one temporary file before it takes its place. */
function written(name: string): string[] {
  return [`open ${name} O_EXCL`, `fchmod ${name}`, `write ${name}`, `fsync ${name}`];
}

/** Looks, and the directory itself, which is there already. */
const HARMLESS = /^(statx?|lstat|newfstatat|f?access(at2?)?|read|close|mkdir(at)?)$/;

/** Whether a call changes the disk, or is about the directory's descriptor that is then fsynced. */
function changes(call: Call): boolean {
  if (call.name.startsWith("open")) return /O_CREAT|O_DIRECTORY/.test(call.flags);
  return !HARMLESS.test(call.name);
}

function shown({ name, files, flags }: Call): string {
  // On some processors there are only the newer ones, which take the descriptor of a directory as well.
  const usual = name.replace(/^(open|rename)(at2?)?$/, "$1");
  return [usual, ...files, ...(flags.match(/O_EXCL|O_DIRECTORY/g) ?? [])].join(" ");
}

function openPlace(t: TestContext) {
  const box = openSandbox(t);
  const path = box.tokenPath("copilot");
  const directory = dirname(path);
  mkdirSync(dirname(directory), { mode: 0o700 });
  const trace = join(box.directory, "trace");
  const config = { name: "copilot", source: "command", path, ownDirectory: true, options: {}, baseUrls: [] };

  /** Publishes under strace, which tells of the calls on `files` alone; with `inject` it kills. */
  const strace = (files: readonly string[], expires: number, inject?: string) => {
    const args = [...STRACE, trace, ...files.flatMap((file) => ["-P", file])];
    if (inject) args.push("-e", `inject=${inject}`);
    args.push(process.execPath, PUBLISH_ONCE, DIST, path, String(expires));
    // One thread for what Node.js does off its main one, so that there is one order of calls.
    const env = { ...box.env, UV_THREADPOOL_SIZE: "1" };
    return spawnSync("strace", args, { env, encoding: "utf8", timeout: 30_000 });
  };
  const temporary = [".token.new", ".token.json.new"].map((name) => join(directory, name));
  const everything = [directory, path, `${path}.json`, ...temporary];

  return {
    directory,

    /** Publishes the token that ends at `expires` (epoch seconds), in this process. */
    async publish(expires: number) {
      const token = { value: `until-${expires}`, expires: expires * 1000 };
      await publish(config as unknown as TokenConfig, { token, minted: Date.now(), control: `${path}.sock` });
    },

    /** The calls of a publication that is left alone. */
    traced(expires: number): Call[] {
      const { status, stderr } = strace(everything, expires);
      assert.equal(status, 0, stderr);
      return readCalls(trace, directory);
    },

    /** Publishes and is killed at the call `calls[index]`. */
    killedAt(calls: readonly Call[], index: number, expires: number) {
      const call = calls[index]!;
      const same = calls.slice(0, index + 1).filter(({ name, thread }) => name === call.name && thread === call.thread);
      // strace counts for each thread by itself. Of what both use, the main thread has its calls first, on files that
      // the other one never opens.
      const main = call.thread === calls[0]!.thread;
      const files = main ? everything : [directory, ...temporary];
      const { signal, stderr } = strace(files, expires, `${call.name}:signal=SIGKILL:when=${same.length}`);
      assert.equal(signal, "SIGKILL", stderr);
      const last = readCalls(trace, directory).filter(({ result }) => result === "?");
      assert.deepEqual(last.map(shown), [shown(call)], "strace killed at another call than the one that was meant");
    },

    /** Whoever reads gets the token that ends at `expires`, or none, and is not told that it lives longer. */
    async holds(expires: number | undefined, where: string) {
      await holds(box, path, expires, where);
    },
  };
}

async function holds(box: Sandbox, path: string, expires: number | undefined, where: string): Promise<void> {
  if (expires === undefined) {
    assert.equal(readTokenFile(path), undefined, where);
    return;
  }
  const value = `until-${expires}`;
  const key = openKeyFile(path, { wait: 1_000 });
  const read = await key.read();
  assert.equal(read.value, value, where);
  assert.ok(!later(read.expires / 1000, expires), `${where}: the library says ${read.expires / 1000}`);
  // token.json is what any other program goes by, freshkey-token among them.
  const stated = Number(JSON.parse(readFileSync(`${path}.json`, "utf8")).expires);
  assert.ok(!later(stated, expires), `${where}: token.json says ${stated}`);
  const { code, stdout, stderr } = await box.run([path], { program: FRESHKEY_TOKEN });
  assert.deepEqual({ code, stdout, stderr }, { code: 0, stdout: value, stderr: "" }, where);
}

/** Whether the instant `a` is later than `b`, an unknown one (0) being the latest of all. */
function later(a: number, b: number): boolean {
  return (a || Number.POSITIVE_INFINITY) > (b || Number.POSITIVE_INFINITY);
}

/** What strace has written, with the two halves of a call that another thread interrupted put together again. */
function readCalls(trace: string, directory: string): Call[] {
  const calls: Call[] = [];
  const halves = new Map<string, { index: number; text: string }>();
  for (const line of readFileSync(trace, "utf8").split("\n")) {
    const [, thread = "", text = ""] = /^(\d+) +(.*)$/.exec(line) ?? [];
    const rest = /^<\.\.\. \w+ resumed>(.*)$/.exec(text)?.[1];
    const half = halves.get(thread);
    if (rest !== undefined && half) {
      calls[half.index] = parse(thread, half.text + rest, directory) ?? calls[half.index]!;
      halves.delete(thread);
      continue;
    }
    const unfinished = / <unfinished \.\.\.>(?:\) = \?)?$/;
    const call = parse(thread, text.replace(unfinished, ""), directory);
    if (!call) continue;
    if (unfinished.test(text)) halves.set(thread, { index: calls.length, text: text.replace(unfinished, "") });
    calls.push(call);
  }
  return calls;
}

function parse(thread: string, text: string, directory: string): Call | undefined {
  const name = /^(\w+)\(/.exec(text)?.[1];
  if (name === undefined) return undefined;
  const files = [...text.matchAll(/["<]([^">]+)[">]/g)].map(([, path = ""]) => path);
  const own = files.filter((file) => file === directory || dirname(file) === directory);
  const result = /\) += (-?\d+|\?)/.exec(text)?.[1] ?? "?";
  const flags = /O_[A-Z_|]+/.exec(text)?.[0] ?? "";
  // A descriptor that is returned has the path that was opened as well: once is enough.
  return { thread, name, files: [...new Set(own.map((file) => basename(file)))], flags, result };
}

function noStrace(): string | false {
  const { status, error } = spawnSync("strace", [...STRACE, "/dev/null", "true"]);
  if (error) return "strace is not installed";
  return status !== 0 && "strace cannot trace here";
}

function seconds(): number {
  return Math.floor(Date.now() / 1000);
}
