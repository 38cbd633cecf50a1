/** After a 401: `get({ rejected })` of the reader, and what others who ask meanwhile are given. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { describe, test } from "node:test";
import { FreshkeyError } from "../../src/core/errors.ts";
import { fingerprint } from "../../src/core/token.ts";
import { agent, counting, NOW, place } from "../support/key-file.ts";
import { pause } from "../support/unit.ts";

const request = { v: 1, op: "renew", name: "copilot", seen: fingerprint("one"), reason: "rejected" };

describe("get({ rejected })", () => {
  test("gives another token that is in the file already, and asks nobody", async (t) => {
    const at = place(t);
    at.put("two");
    const requests = await agent(t, at, () => assert.fail("the agent was asked"));
    assert.equal(await at.open().get({ rejected: "one" }), "two");
    assert.equal(await at.open().get({ rejected: fingerprint("one") }), "two");
    assert.deepEqual(requests, []);
  });

  test("tells the agent the fingerprint and the claims, and waits for the new token", async (t) => {
    for (const rejected of ["one", fingerprint("one")]) {
      const at = place(t);
      at.put("one");
      const requests = await agent(t, at, async () => {
        await pause(30);
        at.put("two");
      });
      const claims = '{"access_token":{"nbf":{"essential":true}}}';
      assert.equal(await at.open().get({ rejected, claims }), "two");
      assert.deepEqual(requests, [{ ...request, claims }]);
    }
  });

  test("all who report the same token share one request, whenever they come", async (t) => {
    const at = place(t);
    at.put("one");
    const requests = await agent(t, at, async () => {
      await pause(50);
      at.put("two");
    });
    const key = at.open();
    const first = Array.from({ length: 20 }, () => key.get({ rejected: "one" }));
    await pause(10);
    const more = Array.from({ length: 20 }, () => key.get({ rejected: "one" }));
    assert.deepEqual([...new Set(await Promise.all([...first, ...more]))], ["two"]);
    assert.equal(await key.get({ rejected: "one" }), "two");
    assert.deepEqual(requests, [request]);
  });

  test("does not give the rejected token again, though the agent finds nothing wrong with it", async (t) => {
    const at = place(t);
    at.put("one");
    await agent(t, at, () => ({ result: "already-renewed" }));
    await assert.rejects(at.open({ wait: 300 }).get({ rejected: "one" }), {
      code: "ERR_DEADLINE",
      message: `the token in ${at.path} was rejected by the gateway, and 300ms brought no other`,
    });
  });

  test("nor where it was gone and somebody put it back", async (t) => {
    const at = place(t);
    await agent(t, at, () => at.put("one"));
    await assert.rejects(at.open({ wait: 300 }).get({ rejected: "one" }), { code: "ERR_DEADLINE" });
  });

  test("a token that was rejected too soon: the agent's word, at once", async (t) => {
    const at = place(t);
    at.put("one");
    const details = { hint: "compare the token's audience", retryAfter: 30_000 };
    await agent(t, at, () => {
      throw new FreshkeyError("ERR_BACKOFF", "the gateway rejected a token of copilot minted 3s ago", details);
    });
    const began = performance.now();
    await assert.rejects(at.open().get({ rejected: "one" }), {
      code: "ERR_BACKOFF",
      message: "the gateway rejected a token of copilot minted 3s ago",
      ...details,
    });
    assert.ok(performance.now() - began < 5_000, "it waited all the same");
  });

  test("where no agent runs, the function that was passed in is told the reason and the claims", async (t) => {
    const at = place(t);
    at.put("one");
    const seen: unknown[] = [];
    const key = at.open({
      renew: async (asked) => {
        seen.push(asked);
        at.put("two");
      },
    });
    assert.equal(await key.get({ rejected: "one", claims: "{}" }), "two");
    const { name, reason } = request;
    assert.deepEqual(seen, [{ name, seen: fingerprint("one"), reason, claims: "{}" }]);
  });

  test("a bare token: whoever keeps it is waited for", async (t) => {
    const at = place(t);
    writeFileSync(at.path, "one");
    const key = at.open();
    const other = key.get({ rejected: "one" });
    setTimeout(() => writeFileSync(at.path, "two"), 30);
    assert.equal(await other, "two");
  });

  test("a signal ends the wait of its own caller, and nobody else's", async (t) => {
    const at = place(t);
    at.put("one");
    await agent(t, at, async () => {
      await pause(100);
      at.put("two");
    });
    const key = at.open();
    const controller = new AbortController();
    const reason = new Error("enough");
    const first = assert.rejects(key.get({ rejected: "one", signal: controller.signal }), reason);
    const second = key.get({ rejected: "one" });
    controller.abort(reason);
    await first;
    assert.equal(await second, "two");
  });
});

describe("get() while a token is being replaced after a 401", () => {
  test("waits for the new one", async (t) => {
    const at = place(t);
    at.put("one");
    const requests = await agent(t, at, async () => {
      await pause(50);
      at.put("two");
    });
    const key = at.open();
    assert.equal(await key.get(), "one");
    const reported = key.get({ rejected: "one" });
    await pause(10);
    assert.equal(key.getSync(), undefined);
    assert.equal(await key.get(), "two");
    assert.equal(await reported, "two");
    assert.equal(requests.length, 1);
  });

  test("is given what there is where no new one can be had: it has not expired", async (t) => {
    const at = place(t);
    at.put("one");
    await agent(t, at, async () => {
      await pause(30);
      throw new FreshkeyError("ERR_BACKOFF", "the source failed lately", { retryAfter: 60_000 });
    });
    const key = at.open();
    const reported = assert.rejects(key.get({ rejected: "one" }), { code: "ERR_BACKOFF" });
    await pause(10);
    assert.equal(await key.get(), "one");
    await reported;
    assert.equal(await key.get(), "one");
  });

  test("where the token has expired by then, the failure is the failure", async (t) => {
    const at = place(t);
    at.put("one", NOW + 60_000);
    let now = NOW;
    await agent(t, at, async () => {
      await pause(30);
      now += 60_000;
      throw new FreshkeyError("ERR_SOURCE_REFUSED", "wrong secret");
    });
    const key = at.open({ now: () => now });
    const reported = assert.rejects(key.get({ rejected: "one" }), { code: "ERR_SOURCE_REFUSED" });
    await pause(10);
    await assert.rejects(key.get(), { code: "ERR_SOURCE_REFUSED" });
    await reported;
  });
});

describe("getSync", () => {
  test("gives what get() has read as long as the file is unchanged, with one stat", async (t) => {
    const at = place(t);
    at.put("one");
    const key = at.open();
    assert.equal(key.getSync(), undefined, "nothing was read yet");
    await key.get();
    const costs = await counting(async () => assert.equal(key.getSync(), "one"));
    assert.deepEqual(costs, { opened: 0, looked: 1 });
    at.put("two");
    assert.equal(key.getSync(), undefined);
    assert.equal(await key.get(), "two");
    assert.equal(key.getSync(), "two");
  });

  test("gives nothing that has (nearly) expired", async (t) => {
    const at = place(t);
    at.put("one", NOW + 60_000);
    let now = NOW;
    const key = at.open({ now: () => now });
    await key.get();
    assert.equal(key.getSync(), "one");
    now += 55_000;
    assert.equal(key.getSync(), undefined);
  });
});
