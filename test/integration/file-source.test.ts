/** The `file` source: a token that something else keeps fresh, seen by a real agent and without one. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { jwt, openSandbox, pause, type Sandbox, until } from "../support/freshkey.ts";

/** What the agent is to notice a change within: two ticks at most, and the mint. */
const SOON = 4_500;

function sandbox(t: TestContext, keys: Record<string, string> = {}): { box: Sandbox; path: string } {
  const box = openSandbox(t);
  const path = keys.path ?? join(box.directory, "kept", "token");
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const lines = Object.entries({ ...keys, path }).map(([key, value]) => `${key} = ${JSON.stringify(value)}`);
  box.writeConfig(`[tokens.kept]\nsource = "file"\n${lines.join("\n")}\n`);
  return { box, path };
}

const inAnHour = (n: number) => jwt(Date.now() + 3_600_000, { jti: `token ${n}` });
const published = (box: Sandbox) => {
  const path = box.tokenPath("kept");
  return existsSync(path) ? readFileSync(path, "latin1") : "";
};

describe("a file that something else keeps", () => {
  it("is published again within seconds, as Kubernetes swaps it: by the link ..data", async (t) => {
    const { box, path } = sandbox(t);
    const volume = dirname(path);
    const put = (n: number) => {
      const name = `..2026_11_23_${n}`;
      mkdirSync(join(volume, name));
      writeFileSync(join(volume, name, "token"), inAnHour(n));
      symlinkSync(name, join(volume, "..data_tmp"));
      renameSync(join(volume, "..data_tmp"), join(volume, "..data"));
      rmSync(join(volume, `..2026_11_23_${n - 1}`), { recursive: true, force: true });
      return readFileSync(path, "latin1");
    };
    symlinkSync(join("..data", "token"), path);
    const first = put(1);
    await box.startAgent();
    assert.equal((await box.run(["token", "kept"])).stdout, first);
    for (const n of [2, 3]) {
      const next = put(n);
      await until(`token ${n} is published`, () => published(box) === next, SOON);
    }
    const { tokens } = JSON.parse((await box.run(["status", "--json"])).stdout);
    assert.equal(tokens[0].state, "fresh");
    assert.equal(tokens[0].source, "file");
  });

  it("is taken when it is whole, though it is written in place and slowly", async (t) => {
    const { box, path } = sandbox(t);
    writeFileSync(path, "old-token");
    await box.startAgent();
    await until("the old one is published", () => published(box) === "old-token", SOON);
    const next = `new-${"x".repeat(40)}-token`;
    const seen = new Set<string>();
    // Longer than the agent waits between two looks, so that it looks at half a token.
    for (let i = 0; i < 150; i++) {
      writeFileSync(path, next.slice(0, 4 + (i % 40)));
      await pause(20);
      seen.add(published(box));
    }
    writeFileSync(path, `${next}\n`);
    await until("the new one is published", () => seen.add(published(box)) && seen.has(next), SOON);
    assert.deepEqual([...seen], ["old-token", next]);
  });

  it("keeps its last good token while the file is away or spoilt, and comes back at once", async (t) => {
    const { box, path } = sandbox(t);
    const good = inAnHour(1);
    writeFileSync(path, good);
    const agent = await box.startAgent();
    await until("it is published", () => published(box) === good, SOON);
    writeFileSync(path, "<html>sign in</html>");
    await until(
      "the agent says so",
      () => agent.log().some(({ msg }) => /holds what is not a token/.test(String(msg))),
      SOON,
    );
    assert.equal(published(box), good);
    rmSync(path);
    await pause(2_500);
    assert.equal(published(box), good);
    // Back-off, which has begun, does not keep a good file waiting.
    const next = inAnHour(2);
    writeFileSync(path, next);
    await until("the new one is published", () => published(box) === next, SOON);
  });

  it("is looked at anew when an agent starts, and by renew without one", async (t) => {
    const { box, path } = sandbox(t);
    writeFileSync(path, inAnHour(1));
    assert.equal((await box.run(["token", "kept"])).stdout, readFileSync(path, "latin1"));
    writeFileSync(path, inAnHour(2));
    assert.equal((await box.run(["renew"])).code, 0);
    assert.equal(published(box), readFileSync(path, "latin1"));
    writeFileSync(path, inAnHour(3));
    await box.startAgent();
    await until("the third is published", () => published(box) === readFileSync(path, "latin1"), SOON);
  });
});

describe("a file with JSON in it", () => {
  const json = { credentials: { "my/token": "in-json", expires: new Date(Date.now() + 3_600_000).toISOString() } };

  it("has its token and its expiry where the pointers say", async (t) => {
    const { box, path } = sandbox(t, { pointer: "/credentials/my~1token", expiry_pointer: "/credentials/expires" });
    writeFileSync(path, JSON.stringify(json, null, 2));
    const { stdout } = await box.run(["token", "--json", "kept"]);
    const { token, expires } = JSON.parse(stdout);
    assert.deepEqual([token, expires], ["in-json", Math.floor(Date.parse(json.credentials.expires) / 1000)]);
  });

  it("and an error that names the way where it has none", async (t) => {
    const { box, path } = sandbox(t, { pointer: "/credentials/token" });
    writeFileSync(path, JSON.stringify(json));
    const { code, stderr, stdout } = await box.run(["token", "kept"]);
    assert.deepEqual([code, stdout], [69, ""]);
    assert.match(stderr, /token holds JSON without credentials\.token/);
    assert.doesNotMatch(stderr, /in-json/);
  });
});

describe("a file that cannot be taken", () => {
  const cases: readonly [what: string, make: (path: string) => void, why: RegExp][] = [
    ["is not there", () => undefined, /cannot read .*kept\/token: ENOENT/],
    ["is empty", (path) => writeFileSync(path, "\n"), /holds nothing/],
    ["is a directory", (path) => mkdirSync(path), /it is a directory/],
    ["is a named pipe", (path) => execFileSync("mkfifo", [path]), /no regular file/],
    ["is too large", (path) => writeFileSync(path, "x".repeat(1024 * 1024 + 1)), /larger than 1024 KiB/],
    ["is no text", (path) => writeFileSync(path, Buffer.from([0xff, 0xfe, 0])), /not a token/],
    [
      "has expired",
      (path) => writeFileSync(path, jwt(Date.now() - 600_000)),
      /kept\/token holds a token that expired 10m( \d+s)? ago/,
    ],
  ];
  for (const [what, make, why] of cases) {
    it(`since it ${what}: exit 69, and why`, async (t) => {
      const { box, path } = sandbox(t);
      make(path);
      const { code, stdout, stderr } = await box.run(["token", "kept"]);
      assert.deepEqual([code, stdout], [69, ""], stderr);
      assert.match(stderr, why);
      assert.doesNotMatch(stderr, /\bat .*\.[jt]s:/);
    });
  }

  it("since it is where the token itself is to go", async (t) => {
    const { box } = sandbox(t, { file: "/tmp/kept", path: "/tmp/kept" });
    const { code, stderr } = await box.run(["token", "kept"]);
    assert.equal(code, 78);
    assert.match(stderr, /tokens\.kept\.path: is where this token itself is put/);
  });
});
