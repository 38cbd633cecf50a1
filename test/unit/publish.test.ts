import assert from "node:assert/strict";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import fsp from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { basename, dirname, join } from "node:path";
import { describe, test } from "node:test";
import { publish, published, restate, touch, unpublish } from "../../src/agent/publish.ts";
import type { TokenConfig } from "../../src/config/load.ts";
import { FreshkeyError } from "../../src/core/errors.ts";
import { fingerprint, UNKNOWN_EXPIRY } from "../../src/core/token.ts";
import { readTokenJson } from "../../src/reader/token-file.ts";
import { tokenConfig } from "../support/agent-parts.ts";
import { assertNothingOf, temporaryDirectory } from "../support/unit.ts";

const NOW = Date.parse("2026-11-23T09:00:00.750Z");
const CONTROL = "/run/user/1000/freshkey/agent/control.sock";
const isRoot = process.geteuid?.() === 0;
const asRoot = { skip: !isRoot && "only root can give a file to any group" };

const put = (config: TokenConfig, value: string, expires = NOW + 3_600_000, force = false) =>
  publish(config, { token: { value, expires }, minted: NOW, control: CONTROL, force });
const modeOf = (path: string) => (lstatSync(path).mode & 0o777).toString(8);

/** What a reader sees after each step that others can see, while `task` runs. */
async function steps(config: TokenConfig, task: () => Promise<void>): Promise<string[]> {
  const seen: string[] = [];
  const { rename, unlink } = fsp;
  const look = (what: string) => {
    const token = existsSync(config.path) ? readFileSync(config.path, "utf8") : "none";
    const json = existsSync(`${config.path}.json`) ? readTokenJson(config.path) : undefined;
    const left = json && (json.expires === 0 ? "unknown" : `${Math.floor(json.expires - NOW / 1000) + 1}s`);
    seen.push(`${what}: ${token}, ${json ? `${left} of ${json.fingerprint}` : "none"}`);
  };
  fsp.rename = async (from, to) => {
    await rename(from, to);
    look(basename(String(to)));
  };
  fsp.unlink = async (path) => {
    await unlink(path);
    look(`no ${basename(String(path))}`);
  };
  syncBuiltinESMExports();
  try {
    await task();
  } finally {
    Object.assign(fsp, { rename, unlink });
    syncBuiltinESMExports();
  }
  return seen;
}

const refused = (code: string, message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof FreshkeyError, String(error));
  assert.equal(error.code, code);
  assert.match(error.message, message);
  assert.ok(error.hint, "no hint");
  return true;
};

describe("publish", () => {
  test("both files, in a private directory, as the contract has it", async (t) => {
    const previous = process.umask(0);
    t.after(() => process.umask(previous));
    const run = join(temporaryDirectory(t), "freshkey");
    const config = tokenConfig(run, { baseUrls: ["https://one.example/v1", "https://two.example"] });
    await put(config, "abc");
    assert.equal(readFileSync(config.path, "utf8"), "abc");
    const line = `{"expires":1795428000,"minted":1795424400,"fingerprint":"ba7816bf8f01","name":"copilot","source":"command","control":"${CONTROL}","base_url":"https://one.example/v1 https://two.example","verify":false,"schema":1}\n`;
    assert.equal(readFileSync(`${config.path}.json`, "utf8"), line);
    const modes = [run, dirname(config.path), config.path, `${config.path}.json`].map(modeOf);
    assert.deepEqual(modes, ["700", "700", "600", "600"]);
    assert.deepEqual(readdirSync(dirname(config.path)).sort(), ["token", "token.json"]);
  });

  test("an unknown expiry is 0", async (t) => {
    const config = tokenConfig(temporaryDirectory(t));
    await put(config, "abc", UNKNOWN_EXPIRY);
    assert.equal(readTokenJson(config.path)?.expires, 0);
  });

  const old = fingerprint("old");
  const fresh = fingerprint("new");
  const orders: [what: string, before: number, after: number, expected: string[]][] = [
    [
      "a later expiry: token, then token.json",
      1_000,
      2_000,
      [`token: new, 1s of ${old}`, `token.json: new, 2s of ${fresh}`],
    ],
    ["the same: likewise", 1_000, 1_000, [`token: new, 1s of ${old}`, `token.json: new, 1s of ${fresh}`]],
    [
      "an earlier one is announced first, under the old token's name",
      2_000,
      1_000,
      [`token.json: old, 1s of ${old}`, `token: new, 1s of ${old}`, `token.json: new, 1s of ${fresh}`],
    ],
    [
      "after an unknown one every expiry is earlier",
      UNKNOWN_EXPIRY - NOW,
      1_000,
      [`token.json: old, 1s of ${old}`, `token: new, 1s of ${old}`, `token.json: new, 1s of ${fresh}`],
    ],
    [
      "an unknown one is never earlier",
      1_000,
      UNKNOWN_EXPIRY - NOW,
      [`token: new, 1s of ${old}`, `token.json: new, unknown of ${fresh}`],
    ],
  ];
  for (const [what, before, after, expected] of orders) {
    test(what, async (t) => {
      const config = tokenConfig(temporaryDirectory(t));
      await put(config, "old", NOW + before);
      assert.deepEqual(await steps(config, () => put(config, "new", NOW + after)), expected);
    });
  }

  test("an announcement has time to be read before the token follows", async (t) => {
    const config = tokenConfig(temporaryDirectory(t));
    await put(config, "old", NOW + 2_000);
    const began = performance.now();
    await put(config, "new", NOW + 1_000);
    assert.ok(performance.now() - began >= 99, "too soon");
  });

  test("shared with a group: 0710 and 0640, whatever the umask", asRoot, async (t) => {
    const config = tokenConfig(temporaryDirectory(t), { mode: 0o640, group: 54_321 });
    const previous = process.umask(0o077);
    await put(config, "abc").finally(() => process.umask(previous));
    for (const [path, mode] of [
      [dirname(config.path), "710"],
      [config.path, "640"],
      [`${config.path}.json`, "640"],
    ] as const) {
      assert.deepEqual([modeOf(path), statSync(path).gid], [mode, 54_321], path);
    }
    await put(config, "def");
    assert.equal(modeOf(dirname(config.path)), "710");
  });

  test("a group by its name", asRoot, async (t) => {
    const [name, , gid] =
      readFileSync("/etc/group", "utf8")
        .split("\n")
        .map((line) => line.split(":"))
        .find(([, , id]) => id !== "0") ?? [];
    const config = tokenConfig(temporaryDirectory(t), { mode: 0o640, group: name });
    await put(config, "abc");
    assert.equal(statSync(config.path).gid, Number(gid));
    const unknown = tokenConfig(temporaryDirectory(t), { mode: 0o640, group: "no-such-group" });
    await assert.rejects(put(unknown, "abc"), refused("ERR_TOKEN_DIRECTORY", /there is no group "no-such-group"/));
  });
});

describe("publish refuses", () => {
  function elsewhere(t: { after(clean: () => void): void }): TokenConfig {
    const directory = temporaryDirectory(t);
    return tokenConfig(directory, { path: join(directory, "key"), ownDirectory: false });
  }

  test("a file that freshkey did not write for this token, unless it is forced to", async (t) => {
    const jsons = [undefined, '{"expires":1,"fingerprint":"x","name":"another"}', "not json"];
    for (const json of jsons) {
      const config = elsewhere(t);
      writeFileSync(config.path, "precious");
      if (json !== undefined) writeFileSync(`${config.path}.json`, json);
      await assert.rejects(
        put(config, "abc"),
        refused("ERR_TOKEN_FOREIGN", /key was not written by freshkey for the token copilot/),
      );
      assert.equal(readFileSync(config.path, "utf8"), "precious");
      await put(config, "abc", NOW + 1_000, true);
      assert.equal(readFileSync(config.path, "utf8"), "abc");
      await put(config, "def");
    }
  });

  test("a directory that is not there: those that it was told of are never made", async (t) => {
    const base = temporaryDirectory(t);
    const config = tokenConfig(base, { path: join(base, "missing/key"), ownDirectory: false });
    await assert.rejects(put(config, "abc"), refused("ERR_TOKEN_DIRECTORY", /missing is not there/));
    assert.equal(existsSync(join(base, "missing")), false);
  });

  test("a directory that others can write to, and it does not change its mode", async (t) => {
    const config = elsewhere(t);
    chmodSync(dirname(config.path), 0o777);
    await assert.rejects(
      put(config, "abc"),
      refused("ERR_TOKEN_DIRECTORY", /can be written to by others \(mode 0777\)/),
    );
    assert.deepEqual([modeOf(dirname(config.path)), existsSync(config.path)], ["777", false]);
  });

  test("a directory that is a link, its own or not", async (t) => {
    const base = temporaryDirectory(t);
    mkdirSync(join(base, "real"), { mode: 0o700 });
    symlinkSync(join(base, "real"), join(base, "copilot"));
    const own = tokenConfig(base);
    await assert.rejects(put(own, "abc"), refused("ERR_RUN_DIRECTORY", /copilot is a symbolic link/));
    await assert.rejects(
      put({ ...own, ownDirectory: false }, "abc"),
      refused("ERR_TOKEN_DIRECTORY", /copilot is a symbolic link/),
    );
    assert.deepEqual(readdirSync(join(base, "real")), []);
  });

  test("and its errors hold no token", async (t) => {
    const config = elsewhere(t);
    chmodSync(dirname(config.path), 0o777);
    const secret = "s3cr3t-s3cr3t-s3cr3t";
    const error = await put(config, secret).catch((caught: FreshkeyError) => caught);
    assertNothingOf(secret, `${JSON.stringify(error)}${(error as Error).stack}`, "the error");
  });
});

describe("published", () => {
  test("the token that is in place; none where nothing there can be used", async (t) => {
    const config = tokenConfig(temporaryDirectory(t));
    assert.equal(published(config), undefined);
    await put(config, "abc");
    const found = published(config);
    assert.deepEqual([found?.fingerprint, found?.matches, found?.expires], ["ba7816bf8f01", true, 1_795_428_000_000]);
    writeFileSync(`${config.path}.json`, "{");
    assert.equal(published(config), undefined);
    await put(config, "abc");
    writeFileSync(config.path, "<html>");
    assert.equal(published(config), undefined);
    await put(config, "def");
    assert.equal(published(config)?.value, "def", "what was spoilt is replaced");
  });
});

describe("unpublish", () => {
  test("token before token.json, and the directory that was made for them", async (t) => {
    const config = tokenConfig(temporaryDirectory(t));
    await put(config, "abc", NOW + 1_000);
    const expected = [`no token: none, 1s of ba7816bf8f01`, "no token.json: none, none"];
    assert.deepEqual(await steps(config, () => unpublish(config)), expected);
    assert.equal(existsSync(dirname(config.path)), false);
    await unpublish(config);
  });

  test("with what a killed writer left; somebody else's files stay, and so does the directory then", async (t) => {
    const config = tokenConfig(temporaryDirectory(t));
    await put(config, "abc");
    for (const name of [".token.new", "theirs"]) writeFileSync(join(dirname(config.path), name), "");
    await unpublish(config);
    assert.deepEqual(readdirSync(dirname(config.path)), ["theirs"]);
  });

  test("a directory that the user named stays; so does a file that freshkey did not write", async (t) => {
    const directory = temporaryDirectory(t);
    const config = tokenConfig(directory, { path: join(directory, "key"), ownDirectory: false });
    writeFileSync(config.path, "precious");
    await unpublish(config);
    assert.equal(readFileSync(config.path, "utf8"), "precious");
    await put(config, "abc", NOW + 1_000, true);
    await unpublish(config);
    assert.deepEqual(readdirSync(directory), []);
  });
});

describe("restate", () => {
  test("a clock that was set back takes the expiry and the mint with it; one set forward leaves them", async (t) => {
    const config = tokenConfig(temporaryDirectory(t));
    await put(config, "abc");
    await restate(config, 3_600_000);
    assert.equal(readTokenJson(config.path)?.expires, 1_795_428_000);
    await restate(config, -7_200_500);
    const json = readTokenJson(config.path);
    assert.deepEqual([json?.expires, json?.minted], [1_795_428_000 - 7_201, 1_795_424_400 - 7_201]);
    assert.equal(published(config)?.matches, true);
  });
  test("nothing to say of an unknown expiry, or of no token", async (t) => {
    const config = tokenConfig(temporaryDirectory(t));
    await restate(config, -1_000);
    assert.equal(existsSync(`${config.path}.json`), false);
    await put(config, "abc", UNKNOWN_EXPIRY);
    await restate(config, -1_000);
    assert.equal(readTokenJson(config.path)?.expires, 0);
  });
});

test("touch gives both files a new time, and no new content", async (t) => {
  const config = tokenConfig(temporaryDirectory(t));
  touch(config, NOW);
  await put(config, "abc");
  touch(config, NOW + 86_400_000);
  for (const path of [config.path, `${config.path}.json`]) {
    assert.equal(Math.round(statSync(path).mtimeMs), NOW + 86_400_000, path);
  }
  assert.equal(published(config)?.value, "abc");
});
