/** `freshkey demo`, as a newcomer runs it: out of the checkout, and out of the package. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { openSandbox, type Result, type Sandbox, until } from "../support/freshkey.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** A sandbox with a temporary directory of its own, so that what is left behind can be seen. */
function open(t: TestContext): Sandbox & { temporary: string; env: Record<string, string> } {
  const box = openSandbox(t);
  const temporary = join(box.directory, "t");
  mkdirSync(temporary);
  return Object.assign(box, { temporary, env: { ...box.env, TMPDIR: temporary } });
}

/** Nothing is left: no file, and no process that had the demo's temporary directory as its home. */
async function assertNothingLeft(box: ReturnType<typeof open>): Promise<void> {
  assert.deepEqual(readdirSync(box.temporary), []);
  assert.deepEqual(readdirSync(box.home), [], "the user's own directories were not touched");
  assert.equal(existsSync(box.runPath), false);
  const inside = async () => (await processesBelow(box.temporary)).length === 0;
  await until("the demo's processes have ended", inside, 3_000);
}

/** Processes whose environment names `directory`. Linux only. */
async function processesBelow(directory: string): Promise<string[]> {
  if (!existsSync("/proc/self/environ")) return [];
  const { stdout } = await promisify(execFile)("sh", [
    "-c",
    'grep -lsaF "HOME=$0/" /proc/[0-9]*/environ || true',
    directory,
  ]);
  return stdout.split("\n").filter(Boolean);
}

interface Summary {
  readonly lanes: Record<"static" | "freshkey", { requests: number; refused: number }>;
  readonly renewals: number;
  readonly bedrockKeys: number;
  readonly kills: number;
}

function assertShown(result: Result, seconds: number): Summary {
  assert.equal(result.code, 0, result.stderr);
  assert.equal(result.stderr, "");
  const summary = JSON.parse(result.stdout) as Summary;
  const { static: once, freshkey } = summary.lanes;
  assert.equal(freshkey.refused, 0);
  assert.ok(freshkey.requests >= seconds * 0.7, `${freshkey.requests} requests`);
  assert.ok(once.refused > 0, "the key that was read once has expired");
  assert.ok(once.refused < once.requests, "it was good at first");
  assert.equal(summary.kills, 1);
  return summary;
}

describe("freshkey demo", { concurrency: 2 }, () => {
  it("never has its client refused over several renewals and a kill, and leaves nothing behind", async (t) => {
    const box = open(t);
    const result = await box.run(["demo", "--json", "--seconds", "26"], { env: box.env, timeout: 60_000 });
    const { renewals, bedrockKeys } = assertShown(result, 26);
    assert.ok(renewals >= 3, `${renewals} renewals`);
    assert.ok(bedrockKeys >= 2, `${bedrockKeys} keys for Bedrock`);
    await assertNothingLeft(box);
  });

  it("writes plain lines where there is no terminal, with a curl command that works and no token", async (t) => {
    const box = open(t);
    const running = box.start(["demo", "--seconds", "6"], { env: box.env });
    const line = await until("the curl command", () => / {2}(printf .*)\n/.exec(running.output().stdout)?.[1], 15_000);
    const { stdout: models } = await promisify(execFile)("sh", ["-c", line], { env: box.env });
    assert.equal(JSON.parse(models).data[0].id, "gpt-5.1");
    const { code, stdout, stderr } = await running.ended;
    assert.deepEqual([code, stderr], [0, ""]);
    assert.doesNotMatch(stdout, /[\x00-\x09\x0b-\x1f\x7f]/);
    assert.match(stdout, /^ +\d+ s {2}key read once {2}answered$/m);
    assert.match(stdout, /^ +\d+ s {2}with freshkey {2}answered$/m);
    assert.match(stdout, /^ +\d+ s {2}the agent is killed \(SIGKILL\)$/m);
    assert.match(stdout, /\nThe client with freshkey was never refused in \d+ requests over \d+ renewals/);
    assert.doesNotMatch(stdout, /eyJ|bedrock-api-key-/);
    await assertNothingLeft(box);
  });

  it("can be interrupted, and leaves nothing behind then either", async (t) => {
    const box = open(t);
    for (const [signal, code] of [
      ["SIGINT", 130],
      ["SIGTERM", 143],
    ] as const) {
      const running = box.start(["demo"], { env: box.env });
      await until("it runs", () => running.output().stdout.includes("answered"), 15_000);
      const begun = Date.now();
      assert.equal((await running.stop(signal)).code, code);
      assert.ok(Date.now() - begun < 3_000, `${Date.now() - begun} ms`);
      await assertNothingLeft(box);
    }
  });

  it("says what --copilot needs", async (t) => {
    const box = open(t);
    const { code, stderr } = await box.run(["demo", "--copilot"], { env: box.env });
    assert.equal(code, 1);
    assert.match(stderr, /copilot is not on the PATH\n {2}→ npm install/);
    const usage = await box.run(["demo", "--seconds", "1.5"], { env: box.env });
    assert.equal(usage.code, 64);
    await assertNothingLeft(box);
  });
});

describe("the package, packed and installed into an empty directory", () => {
  let place: string;
  let missing: string | undefined;
  const program = (name: string) => join(place, "node_modules/.bin", name);

  before(async () => {
    place = mkdtempSync(join(tmpdir(), "freshkey-package-"));
    const quiet = ["--no-audit", "--no-fund", "--loglevel=error"];
    await npm(["pack", "--pack-destination", place, ...quiet]);
    const [tarball] = readdirSync(place).filter((name) => name.endsWith(".tgz"));
    const install = ["install", "--prefix", place, "--prefer-offline", ...quiet, join(place, tarball!)];
    await npm(install).catch((error: Error & { stderr?: string }) => {
      // Without a network, and without what `npm ci` has left in npm's cache, there is nothing to install from.
      missing = /ENOTCACHED|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT/.exec(error.stderr ?? "")?.[0];
      if (!missing) throw error;
    });
  });
  after(() => rmSync(place, { recursive: true, force: true }));

  it("runs the demo", async (t) => {
    if (missing) return t.skip(`its dependencies cannot be had: ${missing}`);
    const box = open(t);
    const how = { env: box.env, program: program("freshkey"), timeout: 60_000 };
    assertShown(await box.run(["demo", "--json", "--seconds", "20"], how), 20);
    await assertNothingLeft(box);
  });

  it("has a reader that finds the program beside it, and a library", async (t) => {
    if (missing) return t.skip(`its dependencies cannot be had: ${missing}`);
    const box = open(t);
    const token = join(box.directory, "a token");
    writeFileSync(token, "opaque\n");
    const reader = { program: program("freshkey-token") };
    assert.match((await box.run(["--help"], reader)).stdout, /^freshkey token \[NAME\|PATH\]\n/);
    // A bare token is for the program: the script hands over to it.
    assert.deepEqual(await box.run([token], reader), { code: 0, signal: null, stdout: "opaque", stderr: "" });
    const env = { COPILOT_PROVIDER_BASE_URL: "https://gateway.example/v1", COPILOT_PROVIDER_API_KEY_FILE: token };
    const connect = ["connect", "copilot", "--write", "--yes", "--enable-experimental"];
    assert.equal((await box.run(connect, { env, program: program("freshkey") })).code, 0);
    assert.ok(existsSync(join(box.home, ".copilot/extensions/freshkey/extension.mjs")));
    const version = await box.run(["--version"], { program: program("freshkey") });
    assert.match(version.stdout, /^\d+\.\d+\.\d+\n$/);
    const script = `import { openKeyFile } from "freshkey/reader"; console.log(await openKeyFile(process.argv[1]).get());`;
    const args = ["--input-type=module", "-e", script, token];
    assert.equal((await box.run(args, { program: process.execPath, cwd: place })).stdout, "opaque\n");
  });
});

/** In the surroundings of whoever runs the tests: npm's settings and its cache are theirs. */
async function npm(args: readonly string[]): Promise<void> {
  await promisify(execFile)("npm", args, { cwd: root });
}
