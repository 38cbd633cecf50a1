/** The published reader: what each `get()` costs, waits for, and refuses. */
import assert from "node:assert/strict";
import fs, { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { FreshkeyError } from "../../src/core/errors.ts";
import { fingerprint } from "../../src/core/token.ts";
import { openKeyFile } from "../../src/reader/key-file.ts";
import { agent, counting, LIFE, NOW, place } from "../support/key-file.ts";
import { jwt, pause, temporaryDirectory } from "../support/unit.ts";

/** Milliseconds: long enough for a busy machine to find that nobody listens. */
const SHORT = 500;
const NEVER = new Promise<never>(() => {});

describe("get", () => {
  test("gives the token, and costs one stat as long as the file is unchanged", async (t) => {
    const at = place(t);
    at.put("one");
    const key = at.open();
    assert.equal(await key.get(), "one");
    const costs = await counting(async () => {
      for (let i = 0; i < 10; i++) assert.equal(await key.get(), "one");
    });
    assert.deepEqual(costs, { opened: 0, looked: 10 });
  });

  test("reads again what was replaced, and both files of it", async (t) => {
    const at = place(t);
    at.put("one");
    const key = at.open();
    await key.get();
    at.put("two", NOW + LIFE - 60_000);
    const costs = await counting(async () => assert.equal(await key.get(), "two"));
    assert.equal(costs.opened, 2);
    assert.equal((await key.read()).expires, NOW + LIFE - 60_000);
  });

  test("reads nothing before it is called", async (t) => {
    const at = place(t);
    const costs = await counting(async () => at.open());
    assert.deepEqual(costs, { opened: 0, looked: 0 });
  });

  test("gives a token until it has min_validity left, and not after", async (t) => {
    const at = place(t);
    at.put("one");
    let now = NOW;
    const key = at.open({ now: () => now, wait: 30 });
    now = NOW + LIFE - 30_000;
    assert.equal(await key.get(), "one");
    now += 1;
    await assert.rejects(key.get(), { message: /expires in 30s, and 30ms brought no other/ });
    assert.equal(await at.open({ now: () => now, minValidity: 29_000 }).get(), "one");
  });

  test("of two files that don't match it keeps neither, and looks again", async (t) => {
    const at = place(t);
    at.put("one");
    at.put("two", NOW + LIFE, { only: "token" });
    const key = at.open();
    setTimeout(() => at.put("two", NOW + LIFE - 60_000, { only: "json" }), 20);
    const found = await key.read();
    assert.deepEqual([found.value, found.matches, found.expires], ["two", true, NOW + LIFE - 60_000]);
  });

  test("where they never match, the token's own expiry counts", async (t) => {
    const at = place(t);
    const token = jwt({ exp: (NOW + LIFE / 2) / 1000 });
    at.put("one", NOW - LIFE);
    at.put(token, NOW, { only: "token" });
    const found = await at.open().read();
    assert.deepEqual([found.value, found.matches, found.expires], [token, false, NOW + LIFE / 2]);
  });

  test("a bare token that something else keeps fresh", async (t) => {
    const at = place(t);
    writeFileSync(at.path, "bare-one\n");
    const key = at.open();
    assert.equal(await key.get(), "bare-one");
    writeFileSync(at.path, "bare-two\n");
    assert.equal(await key.get(), "bare-two");
  });

  test("what cannot be a token is an error at once, and no more once it is mended", async (t) => {
    const at = place(t);
    writeFileSync(at.path, "<html>");
    const key = at.open({ wait: 60_000 });
    await assert.rejects(key.get(), { code: "ERR_TOKEN_INVALID" });
    at.put("one");
    assert.equal(await key.get(), "one");
  });
});

describe("a stale token", () => {
  test("the agent is asked, with the fingerprint of what will not do, and waited for", async (t) => {
    const at = place(t);
    at.put("old", NOW + 1_000);
    const requests = await agent(t, at, async () => {
      await pause(30);
      at.put("new");
    });
    assert.equal(await at.open().get(), "new");
    assert.deepEqual(requests, [{ v: 1, op: "renew", name: "copilot", seen: fingerprint("old"), reason: "expired" }]);
  });

  test("where there is none, the agent beside it is asked, by the name of the directory", async (t) => {
    const at = place(t);
    const requests = await agent(t, at, () => at.put("first"));
    assert.equal(await at.open().get(), "first");
    assert.deepEqual(requests, [{ v: 1, op: "renew", name: "copilot", seen: "", reason: "expired" }]);
  });

  test("the agent that token.json names, wherever that is", async (t) => {
    const at = place(t);
    const elsewhere = place(t);
    at.put("old", NOW, { control: elsewhere.control });
    const requests = await agent(t, elsewhere, () => at.put("new"));
    assert.equal(await at.open().get(), "new");
    assert.equal(requests.length, 1);
  });

  test("all who ask at once share one renewal", async (t) => {
    const at = place(t);
    const requests = await agent(t, at, async () => {
      await pause(50);
      at.put("new");
    });
    const key = at.open();
    const tokens = await Promise.all(Array.from({ length: 20 }, () => key.get()));
    assert.deepEqual([...new Set(tokens), requests.length], ["new", 1]);
    at.put("old", NOW);
    await key.get();
    assert.equal(requests.length, 2, "the next stale one is another renewal");
  });

  test("whoever writes the file ends the wait, the agent's answer or not", async (t) => {
    const at = place(t);
    await agent(t, at, () => NEVER);
    setTimeout(() => at.put("by somebody else".replaceAll(" ", "-")), 50);
    const began = performance.now();
    assert.equal(await at.open({ wait: 5_000 }).get(), "by-somebody-else");
    assert.ok(performance.now() - began < 2_000, "it waited for the agent");
  });

  test("the agent's error is the error, at once", async (t) => {
    const at = place(t);
    at.put("old", NOW);
    await agent(t, at, () => {
      throw new FreshkeyError("ERR_SIGN_IN", "somebody has to sign in", { hint: "az login" });
    });
    const began = performance.now();
    const expected = { code: "ERR_SIGN_IN", message: "somebody has to sign in", hint: "az login" };
    await assert.rejects(at.open({ wait: 10_000 }).get(), expected);
    assert.ok(performance.now() - began < 5_000, "it waited all the same");
  });

  test("an agent that takes too long: try again later, and see what it is doing", async (t) => {
    const at = place(t);
    at.put("old", NOW);
    await agent(t, at, () => NEVER);
    const began = performance.now();
    await assert.rejects(at.open({ wait: 50 }).get(), (error: FreshkeyError) => {
      // Its own time-out and the reader's end at the same instant: whichever is said, they mean the same.
      assert.match(error.code, /^ERR_(DEADLINE|AGENT)$/);
      assert.equal(error.exitCode, 75);
      assert.match(error.hint ?? "", /doing: freshkey status$/);
      return true;
    });
    assert.ok(performance.now() - began < 3_000, "it waited for longer");
  });

  test("an agent that finds the token good enough, though this reader wants more", async (t) => {
    const at = place(t);
    at.put("short", NOW + 60_000);
    await agent(t, at, () => ({ result: "already-renewed" }));
    await assert.rejects(at.open({ wait: SHORT, minValidity: 120_000 }).get(), (error: FreshkeyError) => {
      assert.deepEqual([error.code, error.hint], ["ERR_DEADLINE", "see what the agent is doing: freshkey status"]);
      assert.match(error.message, /expires in 1m, and 500ms brought no other$/);
      return true;
    });
  });

  test("a directory for the agent that others can write to is nobody's", async (t) => {
    const at = place(t);
    at.put("old", NOW);
    const requests = await agent(t, at, () => at.put("new"));
    fs.chmodSync(join(at.control, ".."), 0o777);
    await assert.rejects(at.open({ wait: SHORT }).get(), { code: "ERR_TOKEN_EXPIRED" });
    assert.deepEqual(requests, []);
  });
});

describe("no agent", () => {
  test("the function that was passed in renews instead", async (t) => {
    const at = place(t);
    at.put("old", NOW);
    const seen: unknown[] = [];
    const key = at.open({
      renew: async (request, { timeout, signal }) => {
        assert.ok(timeout > 0 && timeout <= 10_000, `${timeout} ms`);
        seen.push(request, signal.aborted);
        at.put("new");
      },
    });
    assert.equal(await key.get(), "new");
    assert.deepEqual(seen, [{ name: "copilot", seen: fingerprint("old"), reason: "expired" }, false]);
  });

  test("it is not called where an agent answers", async (t) => {
    const at = place(t);
    await agent(t, at, () => at.put("by-the-agent"));
    const key = at.open({ renew: async () => assert.fail("the function was called") });
    assert.equal(await key.get(), "by-the-agent");
  });

  test("its error is the error", async (t) => {
    const at = place(t);
    const error = new FreshkeyError("ERR_SOURCE_REFUSED", "wrong secret");
    await assert.rejects(at.open({ renew: () => Promise.reject(error) }).get(), error);
  });

  test("many who ask at once call it once, and again the next time", async (t) => {
    const at = place(t);
    let calls = 0;
    const error = new FreshkeyError("ERR_SOURCE_UNREACHABLE", "no network");
    const key = at.open({
      renew: async () => {
        calls++;
        throw error;
      },
    });
    await Promise.all(Array.from({ length: 5 }, () => assert.rejects(key.get(), error)));
    assert.equal(calls, 1);
    await assert.rejects(key.get(), error);
    assert.equal(calls, 2);
  });

  test("and nothing to renew with: what is there instead, and what to do", async (t) => {
    const at = place(t);
    const key = at.open({ wait: SHORT });
    await assert.rejects(key.get(), (error: FreshkeyError) => {
      assert.deepEqual([error.code, error.exitCode], ["ERR_TOKEN_MISSING", 69]);
      assert.equal(error.message, `there is no token in ${at.path}, and ${SHORT}ms brought none`);
      assert.match(error.hint ?? "", /no agent runs: start one with `freshkey agent`/);
      return true;
    });
    at.put("old", NOW - 60_000);
    await assert.rejects(key.get(), {
      code: "ERR_TOKEN_EXPIRED",
      message: `the token in ${at.path} expired 1m ago, and ${SHORT}ms brought no other`,
    });
  });

  test("a bare token that has expired: freshkey has no part in it", async (t) => {
    const path = join(temporaryDirectory(t), "below/token");
    mkdirSync(join(path, ".."));
    writeFileSync(path, jwt({ exp: (NOW - 60_000) / 1000 }));
    const key = openKeyFile(path, { now: () => NOW, wait: SHORT });
    t.after(() => key.close());
    await assert.rejects(key.get(), (error: FreshkeyError) => {
      assert.deepEqual(
        [error.code, error.hint],
        ["ERR_TOKEN_EXPIRED", "see to what writes that file; freshkey does not keep it"],
      );
      return true;
    });
  });
});

describe("a signal", () => {
  test("that has aborted: nothing is read", async (t) => {
    const at = place(t);
    at.put("one");
    const key = at.open();
    const reason = new Error("enough");
    const costs = await counting(() => assert.rejects(key.get({ signal: AbortSignal.abort(reason) }), reason));
    assert.deepEqual(costs, { opened: 0, looked: 0 });
  });

  test("ends the wait of its own caller, and nobody else's", async (t) => {
    const at = place(t);
    await agent(t, at, async () => {
      await pause(150);
      at.put("new");
    });
    const key = at.open({ wait: 5_000 });
    const controller = new AbortController();
    const reason = new Error("enough");
    const first = assert.rejects(key.get({ signal: controller.signal }), reason);
    const second = key.get();
    setTimeout(() => controller.abort(reason), 20);
    await first;
    assert.equal(await second, "new");
  });
});

describe("close", () => {
  test("rejects who waits, at once", async (t) => {
    const at = place(t);
    const key = at.open({ wait: 60_000 });
    const waiting = assert.rejects(key.get(), { code: "ERR_DEADLINE", message: "the key file was closed" });
    await pause(20);
    await key.close();
    await waiting;
    await assert.rejects(key.get(), { message: "the key file was closed" });
  });

  test("a fresh token can still be had", async (t) => {
    const at = place(t);
    at.put("one");
    const key = at.open();
    await key.close();
    assert.equal(await key.get(), "one");
  });
});

describe("openKeyFile", () => {
  test("without a path: COPILOT_PROVIDER_API_KEY_FILE, else it says what to set", (t) => {
    const before = process.env.COPILOT_PROVIDER_API_KEY_FILE;
    t.after(() => {
      if (before === undefined) delete process.env.COPILOT_PROVIDER_API_KEY_FILE;
      else process.env.COPILOT_PROVIDER_API_KEY_FILE = before;
    });
    process.env.COPILOT_PROVIDER_API_KEY_FILE = "/some/token";
    assert.equal(openKeyFile().path, "/some/token");
    for (const none of [undefined, ""]) {
      if (none === undefined) delete process.env.COPILOT_PROVIDER_API_KEY_FILE;
      else process.env.COPILOT_PROVIDER_API_KEY_FILE = none;
      assert.throws(() => openKeyFile(), { code: "ERR_USAGE", hint: /COPILOT_PROVIDER_API_KEY_FILE/ });
    }
  });
  test("a relative path is that of now, whatever the working directory is later", () => {
    assert.equal(openKeyFile("a/../token").path, join(process.cwd(), "token"));
  });
  test("a file that goes away is none, and another later is one", async (t) => {
    const at = place(t);
    at.put("one");
    const key = at.open({ wait: 30 });
    await key.get();
    rmSync(join(at.path, ".."), { recursive: true });
    await assert.rejects(key.get(), { message: /there is no token in/ });
    mkdirSync(join(at.path, ".."), { mode: 0o700 });
    at.put("two");
    assert.equal(await key.get(), "two");
  });
});
