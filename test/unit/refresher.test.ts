/** One token's life, by a clock that stands still until the test lets time pass. */
import assert from "node:assert/strict";
import { chmodSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { describe, test } from "node:test";
import { publish, published } from "../../src/agent/publish.ts";
import type { Refresher } from "../../src/agent/refresher.ts";
import { FreshkeyError } from "../../src/core/errors.ts";
import { backoff } from "../../src/core/policy.ts";
import { fingerprint } from "../../src/core/token.ts";
import { formatTokenJson, type TokenJson, tokenJsonPath } from "../../src/reader/token-file.ts";
import { LIFE, openWorkshop, type Workshop } from "../support/agent-parts.ts";
import { assertNothingOf, pause } from "../support/unit.ts";

const S = 1_000;
const M = 60 * S;
const first = fingerprint("token-number-1");
const second = fingerprint("token-number-2");

const value = (shop: Workshop) => published(shop.config)?.value;
const kinds = (shop: Workshop) => shop.events.map((event) => event.kind);
/** Milliseconds from now to when something is due. */
const due = (shop: Workshop, refresher: Refresher) => Math.ceil(refresher.nextDue - shop.clock.now());

/** Lets a mint that a tick has begun come to its end. */
async function settle(refresher: Refresher): Promise<void> {
  for (
    let turn = 0;
    refresher.status().state === "renewing" || refresher.nextDue === Number.POSITIVE_INFINITY;
    turn++
  ) {
    assert.ok(turn < 500, "the mint does not end");
    await pause(5);
  }
}

async function tick(refresher: Refresher): Promise<void> {
  refresher.tick();
  await settle(refresher);
}

const failing = (code: "ERR_SOURCE_UNREACHABLE" | "ERR_SOURCE_REFUSED" | "ERR_SIGN_IN", retryAfter?: number) => () => {
  throw new FreshkeyError(code, "it failed", { hint: "do this", retryAfter });
};

/** Changes a token.json as somebody with an editor would. */
function edit(path: string, change: (json: TokenJson) => TokenJson): void {
  writeFileSync(path, formatTokenJson(change(JSON.parse(readFileSync(path, "utf8")))));
}

describe("a scheduled renewal", () => {
  test("the first tick mints and publishes, and plans the next one", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    assert.ok(due(shop, refresher) <= 0, "due at once");
    await tick(refresher);
    assert.equal(value(shop), "token-number-1");
    assert.deepEqual(kinds(shop), ["minted", "published"]);
    assert.equal(due(shop, refresher), 40 * M);
    assert.equal(shop.woken, 1);
    assert.deepEqual([shop.mints.length, shop.mints[0]?.now, shop.mints[0]?.claims], [1, shop.clock.now(), undefined]);
  });

  test("nothing before it is due, one when it is, however often the loop turns", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    await tick(refresher);
    shop.clock.pass(40 * M - 1);
    for (let turn = 0; turn < 3; turn++) await tick(refresher);
    assert.equal(shop.mints.length, 1);
    shop.clock.pass(1);
    for (let turn = 0; turn < 3; turn++) refresher.tick();
    await settle(refresher);
    assert.deepEqual([shop.mints.length, value(shop)], [2, "token-number-2"]);
  });

  test("after a start it is spread over [1/20, 2/3] of the lifetime, once", async (t) => {
    const shop = openWorkshop(t);
    await tick(shop.open());
    shop.random = 0.5;
    const restarted = shop.open();
    restarted.start();
    assert.equal(due(shop, restarted), 21.5 * M);
    shop.clock.pass(22 * M);
    await tick(restarted);
    assert.equal(due(shop, restarted), 40 * M - 1.5 * M);
  });

  test("the source's own hint", async (t) => {
    const shop = openWorkshop(t);
    shop.mint = () => ({ value: "hinted", expires: shop.clock.now() + LIFE, renewAt: shop.clock.now() + 50 * M });
    const refresher = shop.open();
    await tick(refresher);
    assert.equal(due(shop, refresher), 50 * M);
  });

  test("refresh_before and cron of the configuration", async (t) => {
    const early = openWorkshop(t, { refreshBefore: 50 * M });
    const one = early.open();
    await tick(one);
    assert.equal(due(early, one), 10 * M);
    const scheduled = openWorkshop(t);
    const asked: number[] = [];
    const next = (after: number) => {
      asked.push(after);
      return after + 7 * M;
    };
    const other = scheduled.open({ schedule: { next } });
    await tick(other);
    assert.equal(due(scheduled, other), 7 * M);
    assert.deepEqual(asked, [scheduled.clock.now()], "it counts from the mint");
  });

  test("a token that is in place after a restart is taken over; one that does not match its token.json is not", async (t) => {
    const shop = openWorkshop(t);
    await tick(shop.open());
    shop.clock.pass(10 * M);
    assert.equal(due(shop, shop.open()), 30 * M);
    writeFileSync(shop.config.path, "half-published");
    const restarted = shop.open();
    assert.equal(due(shop, restarted), 0);
    await tick(restarted);
    assert.equal(published(shop.config)?.matches, true);
  });
});

describe("a client that asks", () => {
  test("gets another token than the one that it has seen", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    const expires = Math.floor((shop.clock.now() + LIFE) / 1000);
    assert.deepEqual(await refresher.renew({ seen: "", reason: "expired" }), {
      result: "renewed",
      fingerprint: first,
      expires,
    });
    shop.clock.pass(M);
    const answer = await refresher.renew({ seen: first, reason: "expired" });
    assert.deepEqual([answer.result, answer.fingerprint], ["renewed", second]);
  });

  test("is told at once if that one is not the one in place any more", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    await tick(refresher);
    for (const reason of ["expired", "rejected", "suspect"] as const) {
      const answer = await refresher.renew({ seen: "0123456789ab", reason });
      assert.deepEqual([answer.result, answer.fingerprint], ["already-renewed", first]);
    }
    assert.equal(shop.mints.length, 1);
  });

  test("but not with one that has run out itself", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    await tick(refresher);
    shop.clock.pass(LIFE - 20 * S);
    assert.equal((await refresher.renew({ seen: "0123456789ab", reason: "expired" })).result, "renewed");
  });

  test("shares one mint with all the others", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    shop.mint = async () => {
      await pause(20);
      return { value: "shared", expires: shop.clock.now() + LIFE };
    };
    refresher.tick();
    const reasons = ["expired", "rejected", "suspect", "manual"] as const;
    const asked = Array.from({ length: 20 }, (_, i) =>
      refresher.renew({ seen: "", reason: reasons[i % 4] ?? "expired" }),
    );
    const answers = await Promise.all(asked);
    assert.equal(shop.mints.length, 1);
    assert.deepEqual([...new Set(answers.map((answer) => answer.fingerprint))], [fingerprint("shared")]);
  });

  test("shares its failure as well", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    shop.mint = async () => {
      await pause(20);
      return failing("ERR_SOURCE_UNREACHABLE")();
    };
    const asked = Array.from({ length: 5 }, () => refresher.renew({ seen: "", reason: "expired" }));
    for (const result of await Promise.allSettled(asked)) assert.equal(result.status, "rejected");
    assert.deepEqual([shop.mints.length, refresher.status().error?.attempts], [1, 1]);
  });

  test("shares one that is under way rather than to be told of the failure before it", async (t) => {
    const shop = openWorkshop(t);
    shop.mint = failing("ERR_SOURCE_UNREACHABLE");
    const refresher = shop.open();
    await tick(refresher);
    shop.mint = async () => {
      await pause(20);
      return { value: "shared", expires: shop.clock.now() + LIFE };
    };
    const person = refresher.renew({ seen: "", reason: "manual" });
    const client = refresher.renew({ seen: "", reason: "expired" });
    assert.deepEqual(await client, await person);
    assert.equal(shop.mints.length, 2);
  });

  test("of a token minted a moment ago that it has expired is not believed", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    await tick(refresher);
    shop.clock.pass(5 * S - 1);
    assert.equal((await refresher.renew({ seen: first, reason: "expired" })).result, "already-renewed");
    shop.clock.pass(1);
    assert.equal((await refresher.renew({ seen: first, reason: "expired" })).result, "renewed");
  });
});

describe("a token that the gateway rejects", () => {
  test("a challenge is answered by a mint of its own: neither one under way nor a young token will do", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    const claims = '{"access_token":{"nbf":{"essential":true,"value":"1"}}}';
    let answer = () => {};
    shop.mint = () =>
      new Promise((resolve) => {
        answer = () => resolve({ value: "without-claims", expires: shop.clock.now() + LIFE });
      });
    refresher.tick();
    await pause(5);
    shop.mint = () => ({ value: `token-number-${shop.mints.length}`, expires: shop.clock.now() + LIFE });
    const challenged = Array.from({ length: 5 }, () => refresher.renew({ seen: first, reason: "rejected", claims }));
    answer();
    for (const one of await Promise.all(challenged)) assert.equal(one.fingerprint, second);
    assert.deepEqual(
      shop.mints.map((mint) => mint.claims),
      [undefined, claims],
    );
    // The same challenge again, or another one a moment later: the gateway is not content with anything.
    for (const more of [claims, '{"access_token":{"nbf":{"essential":true,"value":"2"}}}']) {
      await assert.rejects(refresher.renew({ seen: second, reason: "rejected", claims: more }), {
        code: "ERR_BACKOFF",
      });
    }
    assert.equal(shop.mints.length, 2);
    shop.clock.pass(30 * S);
    assert.equal((await refresher.renew({ seen: second, reason: "rejected", claims })).result, "renewed");
  });

  test("is minted anew, with the claims of its challenge", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    await tick(refresher);
    shop.clock.pass(30 * S);
    const claims = '{"access_token":{"nbf":{"essential":true}}}';
    const answer = await refresher.renew({ seen: first, reason: "rejected", claims });
    assert.deepEqual([answer.result, shop.mints[1]?.claims], ["renewed", claims]);
    assert.deepEqual(shop.events[2], { kind: "rejected", fingerprint: first, reason: "rejected" });
  });

  test("within 30 s of its mint is not: the gateway is at fault", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    await tick(refresher);
    shop.clock.pass(30 * S - 1);
    for (const reason of ["rejected", "suspect"] as const) {
      await assert.rejects(refresher.renew({ seen: first, reason }), (error: FreshkeyError) => {
        assert.deepEqual([error.code, error.exitCode, error.retryAfter], ["ERR_BACKOFF", 75, 30 * S]);
        assert.match(error.message, /the gateway rejected a token of copilot minted 30s ago/);
        assert.match(error.hint ?? "", /audience and scope/);
        return true;
      });
    }
    assert.deepEqual([shop.mints.length, value(shop)], [1, "token-number-1"]);
    assert.deepEqual(kinds(shop).slice(2), ["rejected", "refused", "rejected", "refused"]);
    assert.equal(refresher.status().state, "fresh", "it is no failure of the source");
  });
});

describe("a source that fails", () => {
  test("is left alone for a while, longer each time; who asks meanwhile gets the last error at once", async (t) => {
    const shop = openWorkshop(t);
    shop.mint = failing("ERR_SOURCE_UNREACHABLE");
    const refresher = shop.open();
    await assert.rejects(refresher.renew({ seen: "", reason: "expired" }), {
      code: "ERR_SOURCE_UNREACHABLE",
      message: "it failed",
    });
    assert.equal(due(shop, refresher), S);
    shop.clock.pass(400);
    await assert.rejects(refresher.renew({ seen: "", reason: "expired" }), (error: FreshkeyError) => {
      assert.equal(error.code, "ERR_BACKOFF");
      assert.equal(error.message, "it failed (since 400ms, next try in 600ms)");
      assert.deepEqual([error.hint, error.retryAfter], ["do this", 600]);
      return true;
    });
    assert.equal(shop.mints.length, 1);
    const pauses: number[] = [];
    for (let attempt = 2; attempt <= 8; attempt++) {
      shop.clock.pass(due(shop, refresher));
      await tick(refresher);
      assert.equal(shop.mints.length, attempt);
      pauses.push(due(shop, refresher));
    }
    const planned = [2, 3, 4, 5, 6, 7, 8].map((attempt) => Math.ceil(backoff(attempt, 0)));
    assert.deepEqual(pauses, planned);
    shop.random = 0.999_999;
    shop.clock.pass(due(shop, refresher));
    await tick(refresher);
    assert.equal(due(shop, refresher), M);
  });

  test("the last good token stays in place, also past its end", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    await tick(refresher);
    shop.mint = failing("ERR_SOURCE_UNREACHABLE");
    shop.clock.pass(40 * M);
    await tick(refresher);
    assert.deepEqual([value(shop), refresher.status().state], ["token-number-1", "failing"]);
    assert.deepEqual(shop.events.at(-1)?.kind === "failed" && shop.events.at(-1), {
      kind: "failed",
      usable: true,
      failure: {
        since: shop.clock.now(),
        attempts: 1,
        nextTry: shop.clock.now() + S,
        notBefore: shop.clock.now() + S,
        error: { code: "ERR_SOURCE_UNREACHABLE", class: "transient", message: "it failed", hint: "do this" },
      },
    });
    shop.clock.pass(LIFE);
    await tick(refresher);
    assert.deepEqual([value(shop), refresher.status().state], ["token-number-1", "expired"]);
    const last = shop.events.at(-1);
    assert.equal(last?.kind === "failed" && last.usable, false);
  });

  test("Retry-After is honoured", async (t) => {
    const shop = openWorkshop(t);
    shop.mint = failing("ERR_SOURCE_UNREACHABLE", 90 * S);
    const refresher = shop.open();
    await tick(refresher);
    assert.equal(due(shop, refresher), 90 * S);
  });

  test("once it works again that is said, and the next failure is a first one", async (t) => {
    const shop = openWorkshop(t);
    const works = shop.mint;
    shop.mint = failing("ERR_SOURCE_UNREACHABLE");
    const refresher = shop.open();
    await tick(refresher);
    shop.clock.pass(S);
    await tick(refresher);
    shop.mint = works;
    shop.clock.pass(4 * S);
    await tick(refresher);
    assert.deepEqual(kinds(shop), ["failed", "failed", "minted", "recovered", "published"]);
    assert.equal(shop.lines.find((line) => String(line.msg).startsWith("works again"))?.msg, "works again after 5s");
    assert.deepEqual([refresher.status().state, refresher.status().error], ["fresh", undefined]);
    shop.mint = failing("ERR_SOURCE_UNREACHABLE");
    shop.clock.pass(40 * M);
    await tick(refresher);
    assert.equal(refresher.status().error?.attempts, 1);
  });

  test("the first failure is a warning, what follows is for who wants to know", async (t) => {
    const shop = openWorkshop(t);
    shop.mint = failing("ERR_SOURCE_UNREACHABLE");
    const refresher = shop.open();
    for (let attempt = 0; attempt < 3; attempt++) {
      await tick(refresher);
      shop.clock.pass(due(shop, refresher));
    }
    assert.deepEqual(
      shop.lines.map((line) => [line.level, line.attempt]),
      [
        ["warn", 1],
        ["debug", 2],
        ["debug", 3],
      ],
    );
    assert.equal(shop.lines[0]?.msg, "it failed; next try in 1s");
    assert.deepEqual([shop.lines[0]?.code, shop.lines[0]?.hint], ["ERR_SOURCE_UNREACHABLE", "do this"]);
  });

  test("what nobody has foreseen is transient", async (t) => {
    const shop = openWorkshop(t);
    shop.mint = () => {
      throw new TypeError("x is not a function");
    };
    const refresher = shop.open();
    await assert.rejects(refresher.renew({ seen: "", reason: "expired" }), {
      code: "ERR_SOURCE_FAILED",
      message: "x is not a function",
    });
    assert.equal(due(shop, refresher), S);
  });

  test("the clock of failures outlives the process that met them", async (t) => {
    const shop = openWorkshop(t);
    shop.mint = failing("ERR_SOURCE_UNREACHABLE");
    await tick(shop.open());
    shop.clock.pass(500);
    const next = shop.open();
    await assert.rejects(next.renew({ seen: "", reason: "expired" }), { code: "ERR_BACKOFF" });
    await assert.rejects(next.renewIfDue(), { code: "ERR_BACKOFF" });
    assert.equal(shop.mints.length, 1);
    shop.clock.pass(500);
    await tick(next);
    assert.equal(next.status().error?.attempts, 2);
  });
});

describe("what only a person can mend", () => {
  for (const code of ["ERR_SOURCE_REFUSED", "ERR_SIGN_IN"] as const) {
    test(`${code}: tried again in ten minutes, and after 20 s for who asks`, async (t) => {
      const shop = openWorkshop(t);
      shop.mint = failing(code);
      const refresher = shop.open();
      await tick(refresher);
      assert.equal(due(shop, refresher), 7.5 * M);
      shop.clock.pass(20 * S - 1);
      await assert.rejects(refresher.renew({ seen: "", reason: "expired" }), (error: FreshkeyError) => {
        assert.deepEqual([error.code, error.exitCode, error.hint], [code, 77, "do this"]);
        assert.match(error.message, /^it failed \(since 20s, next try in 1ms\)$/);
        return true;
      });
      assert.equal(shop.mints.length, 1);
      shop.clock.pass(1);
      await assert.rejects(refresher.renew({ seen: "", reason: "expired" }), { code, message: "it failed" });
      assert.equal(shop.mints.length, 2);
      assert.equal(refresher.status().state, code === "ERR_SIGN_IN" ? "sign-in-needed" : "failing");
    });
  }
});

describe("a person who asks (manual)", () => {
  test("gets a new token, though the one in place is good", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    await tick(refresher);
    const answer = await refresher.renew({ seen: "", reason: "manual" });
    assert.deepEqual([answer.result, answer.fingerprint], ["renewed", second]);
  });

  test("passes the back-off, once in five seconds", async (t) => {
    const shop = openWorkshop(t);
    shop.mint = failing("ERR_SIGN_IN");
    const refresher = shop.open();
    await tick(refresher);
    await assert.rejects(refresher.renew({ seen: "", reason: "manual" }), { message: "it failed" });
    assert.equal(shop.mints.length, 2);
    shop.clock.pass(5 * S - 1);
    await assert.rejects(refresher.renew({ seen: "", reason: "manual" }), { message: /^it failed \(since/ });
    assert.equal(shop.mints.length, 2);
    shop.clock.pass(1);
    await assert.rejects(refresher.renew({ seen: "", reason: "manual" }), { message: "it failed" });
    assert.equal(shop.mints.length, 3);
  });
});

describe("a source that hands out the same token again", () => {
  test("is no renewal, and is asked again when it can give a new one", async (t) => {
    const shop = openWorkshop(t);
    const expires = shop.clock.now() + LIFE;
    shop.mint = () => ({ value: "cached", expires });
    const refresher = shop.open();
    await tick(refresher);
    const written = readFileSync(`${shop.config.path}.json`, "utf8");
    shop.clock.pass(40 * M);
    await tick(refresher);
    assert.equal(due(shop, refresher), 15 * M, "five minutes before the expiry");
    assert.equal(readFileSync(`${shop.config.path}.json`, "utf8"), written);
    assert.deepEqual(kinds(shop), ["minted", "published"]);
    let mints = 0;
    for (; shop.clock.now() < expires && mints < 100; mints++) {
      shop.clock.pass(due(shop, refresher));
      await tick(refresher);
    }
    assert.ok(mints < 40, `${mints} mints`);
  });

  test("who needs another one is told so", async (t) => {
    const shop = openWorkshop(t);
    const expires = shop.clock.now() + LIFE;
    shop.mint = () => ({ value: "cached", expires });
    const refresher = shop.open();
    await tick(refresher);
    shop.clock.pass(M);
    const seen = fingerprint("cached");
    await assert.rejects(refresher.renew({ seen, reason: "rejected" }), {
      code: "ERR_BACKOFF",
      message: "the source of copilot hands out the same token from its cache",
      hint: /asked again in 54m/,
    });
    assert.equal((await refresher.renew({ seen, reason: "manual" })).result, "already-renewed");
  });

  test("ends a run of failures all the same", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    const expires = shop.clock.now() + LIFE;
    const cached = () => ({ value: "cached", expires });
    shop.mint = cached;
    await tick(refresher);
    shop.mint = failing("ERR_SOURCE_UNREACHABLE");
    shop.clock.pass(40 * M);
    await tick(refresher);
    shop.mint = cached;
    shop.clock.pass(S);
    await tick(refresher);
    assert.equal(refresher.status().state, "fresh");
  });
});

describe("renewIfDue (cron)", () => {
  test("renews what is due, and nothing else", async (t) => {
    const shop = openWorkshop(t);
    assert.equal((await shop.open().renewIfDue()).result, "renewed");
    shop.clock.pass(40 * M - S);
    assert.deepEqual((await shop.open().renewIfDue()).fingerprint, first);
    assert.equal(shop.mints.length, 1);
    shop.clock.pass(S);
    assert.equal((await shop.open().renewIfDue()).fingerprint, second);
  });
  test("what has run out is due, whatever was planned", async (t) => {
    const shop = openWorkshop(t);
    shop.mint = () => ({
      value: `short-${shop.mints.length}`,
      expires: shop.clock.now() + M,
      renewAt: shop.clock.now() + 59 * S,
    });
    const refresher = shop.open();
    await refresher.renewIfDue();
    shop.clock.pass(58 * S);
    assert.equal((await refresher.renewIfDue()).result, "renewed");
  });
});

describe("a token file that somebody else", () => {
  test("removed is noticed within five seconds, and made again", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    await tick(refresher);
    rmSync(dirname(shop.config.path), { recursive: true });
    shop.clock.pass(5 * S - 1);
    await tick(refresher);
    assert.equal(existsSync(shop.config.path), false);
    shop.clock.pass(1);
    await tick(refresher);
    assert.equal(value(shop), "token-number-2");
    assert.match(String(shop.lines.find((line) => line.level === "warn")?.msg), /removed or changed the token file/);
  });

  test("wrote over likewise", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    await tick(refresher);
    writeFileSync(shop.config.path, "not-the-agents");
    shop.clock.pass(5 * S);
    await tick(refresher);
    assert.equal(value(shop), "token-number-2");
  });

  test("put a file in the place of its directory: an error that says so, and the loop goes on", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    await tick(refresher);
    rmSync(dirname(shop.config.path), { recursive: true });
    writeFileSync(dirname(shop.config.path), "");
    shop.clock.pass(5 * S);
    await tick(refresher);
    assert.match(refresher.status().error?.message ?? "", /copilot: EEXIST/);
    const minted = shop.mints.length;
    shop.clock.pass(2 * S);
    await tick(refresher);
    assert.equal(refresher.status().error?.attempts, 2);
    rmSync(dirname(shop.config.path));
    assert.equal(due(shop, refresher), 4 * S, "ever longer");
    shop.clock.pass(4 * S);
    await tick(refresher);
    assert.deepEqual([refresher.status().state, value(shop)], ["fresh", "token-number-2"]);
    assert.equal(shop.mints.length, minted, "what has been minted is kept until it can be put in place");
  });

  test("a token that could not be put in place is not kept beyond its own life, nor for another source", async (t) => {
    const shop = openWorkshop(t);
    writeFileSync(dirname(shop.config.path), "");
    const refresher = shop.open();
    await tick(refresher);
    assert.equal(refresher.status().error?.attempts, 1);
    shop.clock.pass(LIFE);
    await tick(refresher);
    assert.equal(shop.mints.length, 2);
    rmSync(dirname(shop.config.path));
    refresher.sourceChanged();
    await tick(refresher);
    assert.deepEqual([shop.mints.length, value(shop)], [3, "token-number-3"]);
  });

  test("a token that could not be put in place: --force and other claims have a new one minted, and lose none", async (t) => {
    const shop = openWorkshop(t);
    writeFileSync(dirname(shop.config.path), "");
    const refresher = shop.open();
    await tick(refresher);
    await assert.rejects(refresher.renew({ seen: "", reason: "manual" }));
    assert.equal(shop.mints.length, 2);
    shop.mint = failing("ERR_SOURCE_UNREACHABLE");
    shop.clock.pass(M);
    await assert.rejects(refresher.renew({ seen: "", reason: "expired", claims: '{"access_token":{}}' }), /it failed/);
    rmSync(dirname(shop.config.path));
    shop.clock.pass(M);
    await tick(refresher);
    assert.deepEqual([value(shop), shop.mints.length], ["token-number-2", 3]);
  });

  test("without an agent the next process waits as long as the source is to be spared", async (t) => {
    const shop = openWorkshop(t);
    writeFileSync(dirname(shop.config.path), "");
    let mints = 0;
    for (const end = shop.clock.now() + 10 * M; shop.clock.now() < end; shop.clock.pass(S)) {
      await assert.rejects(shop.open().renew({ seen: "", reason: "expired" }));
      mints = shop.mints.length;
    }
    assert.ok(mints > 3 && mints <= 30, `${mints} mints in ten minutes`);
  });

  test("a token in place that could not be synced to the disk is no obstacle to the next mint", async (t) => {
    const shop = openWorkshop(t);
    writeFileSync(dirname(shop.config.path), "");
    const refresher = shop.open();
    await tick(refresher);
    rmSync(dirname(shop.config.path));
    // Both renames were done, and the last fsync was not.
    const token = { value: "token-number-1", expires: shop.clock.now() + LIFE };
    await publish(shop.config, { token, minted: shop.clock.now(), control: "" });
    shop.clock.pass(M);
    await tick(refresher);
    assert.equal((await refresher.renew({ seen: first, reason: "rejected" })).fingerprint, second);
  });

  for (const [what, change] of [
    ["removed", (path: string) => rmSync(path)],
    ["wrote over", (path: string) => writeFileSync(path, "<html>")],
    ["gave a later expiry", (path: string) => edit(path, (json) => ({ ...json, expires: json.expires + 86_400 }))],
    ["gave an expiry that has passed", (path: string) => edit(path, (json) => ({ ...json, expires: 1 }))],
  ] as const) {
    test(`${what}, as far as token.json goes: that is written again, without a mint`, async (t) => {
      const shop = openWorkshop(t);
      const refresher = shop.open();
      await tick(refresher);
      const path = tokenJsonPath(shop.config.path);
      const written = readFileSync(path, "utf8");
      change(path);
      shop.clock.pass(5 * S);
      await tick(refresher);
      await refresher.stop();
      assert.deepEqual([readFileSync(path, "utf8"), shop.mints.length], [written, 1]);
      assert.match(String(shop.lines.find((line) => line.level === "warn")?.msg), /changed token.json/);
    });
  }

  test("token.json that is gone at the start: nobody knows the token's expiry, so there is a new one", async (t) => {
    const shop = openWorkshop(t);
    await tick(shop.open());
    rmSync(tokenJsonPath(shop.config.path));
    const refresher = shop.open();
    assert.ok(due(shop, refresher) <= 0);
    await tick(refresher);
    assert.equal(published(shop.config)?.json?.fingerprint, second);
  });

  test("a directory that is not safe any more is a failure that a person has to mend, and noticed when it is", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    await tick(refresher);
    chmodSync(dirname(shop.config.path), 0o777);
    shop.clock.pass(40 * M);
    await tick(refresher);
    const { error } = refresher.status();
    assert.deepEqual([error?.code, error?.class], ["ERR_RUN_DIRECTORY", "config"]);
    chmodSync(dirname(shop.config.path), 0o700);
    assert.equal(due(shop, refresher), 2 * S);
    shop.clock.pass(2 * S);
    await tick(refresher);
    assert.equal(value(shop), "token-number-2");
  });
});

test("the clock is set back during a mint: what comes of it is not believed to live longer than it does", async (t) => {
  const shop = openWorkshop(t);
  let answer = () => {};
  shop.mint = ({ now }) =>
    new Promise((resolve) => {
      answer = () => resolve({ value: "by-the-old-clock", expires: now + LIFE });
    });
  const refresher = shop.open();
  refresher.tick();
  await pause(5);
  shop.clock.wall -= LIFE;
  await refresher.clockSet(-LIFE);
  shop.mint = failing("ERR_SOURCE_UNREACHABLE");
  answer();
  await settle(refresher);
  assert.equal(published(shop.config)?.expires, shop.clock.now() + LIFE);
  await tick(refresher);
  assert.equal(shop.mints.length, 2, "asked once more");
  assert.deepEqual(
    shop.lines.filter(({ msg }) => /corrected|cannot write/.test(String(msg))),
    [],
  );
});

test("a source with a cache of its own is asked again by its schedule", async (t) => {
  const shop = openWorkshop(t);
  shop.mint = () => ({ value: "the-same", expires: 0 });
  const schedule = { next: (after: number) => (Math.floor(after / (10 * M)) + 1) * 10 * M };
  const refresher = shop.open({ schedule });
  await tick(refresher);
  shop.clock.pass(10 * M);
  await tick(refresher);
  assert.deepEqual([shop.mints.length, due(shop, refresher)], [2, 10 * M]);
});

test("a token that could not be put in place, and that the gateway rejects by then, is given up", async (t) => {
  const shop = openWorkshop(t);
  let rejects = false;
  const refresher = shop.open({ gatewayRejects: async (token) => rejects && token !== "token-number-1" });
  await tick(refresher);
  shop.clock.pass(40 * M);
  chmodSync(dirname(shop.config.path), 0o777);
  await tick(refresher);
  chmodSync(dirname(shop.config.path), 0o700);
  assert.equal(shop.mints.length, 2);
  rejects = true;
  for (let turn = 0; turn < 60; turn++) {
    shop.clock.pass(2 * S);
    await tick(refresher);
  }
  assert.equal(value(shop), "token-number-1");
  assert.match(refresher.status().error?.message ?? "", /answered 401/);
  assert.ok(shop.mints.length > 3, "the source is asked again");
  assert.ok(kinds(shop).filter((kind) => kind === "refused").length <= 10);
});

test("a source that changes while it is being asked is asked once more", async (t) => {
  const shop = openWorkshop(t);
  let answer = () => {};
  shop.mint = () =>
    new Promise((resolve) => {
      answer = () => resolve({ value: "by-the-old-secret", expires: shop.clock.now() + LIFE });
    });
  const refresher = shop.open();
  refresher.tick();
  await pause(5);
  refresher.sourceChanged();
  shop.mint = () => ({ value: "by-the-new-secret", expires: shop.clock.now() + LIFE });
  answer();
  await settle(refresher);
  await tick(refresher);
  assert.deepEqual([value(shop), shop.mints.length], ["by-the-new-secret", 2]);
  assert.equal(due(shop, refresher), 40 * M);
});

describe("the end", () => {
  /** A mint that ends with its signal, as a child process does. */
  const hanging = (shop: Workshop) => {
    shop.mint = ({ signal }) =>
      new Promise((_, reject) => signal?.addEventListener("abort", () => reject(new Error("killed")), { once: true }));
  };

  test("a mint that is under way is ended, and that is nobody's failure", async (t) => {
    const shop = openWorkshop(t);
    hanging(shop);
    const refresher = shop.open();
    const asked = assert.rejects(refresher.renew({ seen: "", reason: "expired" }), { code: "ERR_AGENT" });
    await pause(5);
    await refresher.stop();
    await asked;
    assert.deepEqual([shop.mints[0]?.signal?.aborted, existsSync(shop.config.path)], [true, false]);
    assert.deepEqual([kinds(shop), shop.open().status().error], [[], undefined]);
  });

  test("a token that comes too late is not published", async (t) => {
    const shop = openWorkshop(t);
    let deliver = () => {};
    shop.mint = () =>
      new Promise((resolve) => {
        deliver = () => resolve({ value: "too-late", expires: shop.clock.now() + LIFE });
      });
    const refresher = shop.open();
    const asked = assert.rejects(refresher.renew({ seen: "", reason: "expired" }));
    await pause(5);
    const stopped = refresher.stop();
    deliver();
    await Promise.all([asked, stopped]);
    assert.equal(existsSync(shop.config.path), false);
  });

  test("remove takes the files along, and the failures", async (t) => {
    const shop = openWorkshop(t);
    const refresher = shop.open();
    await tick(refresher);
    shop.mint = failing("ERR_SOURCE_UNREACHABLE");
    shop.clock.pass(40 * M);
    await tick(refresher);
    await refresher.remove();
    assert.equal(existsSync(dirname(shop.config.path)), false);
    assert.equal(shop.open().status().state, "missing");
    assert.equal(shop.events.at(-1)?.kind, "removed");
  });
});

test("status", async (t) => {
  const shop = openWorkshop(t);
  const refresher = shop.open();
  const common = { name: "copilot", source: "command", path: shop.config.path };
  const seconds = shop.clock.now() / S;
  assert.deepEqual(refresher.status(), {
    ...common,
    state: "missing",
    fingerprint: "",
    expires: 0,
    minted: 0,
    next_renewal: seconds,
  });
  await tick(refresher);
  const times = { expires: seconds + 3_600, minted: seconds, next_renewal: seconds + 2_400 };
  assert.deepEqual(refresher.status(), { ...common, state: "fresh", fingerprint: first, ...times });
});

test("no token is in the log, in an event, in an error or in the status", async (t) => {
  const shop = openWorkshop(t);
  const secret = `opaque-${"s3cr3t".repeat(5)}`;
  shop.mint = () => ({ value: secret, expires: shop.clock.now() + LIFE });
  const refresher = shop.open();
  await tick(refresher);
  shop.clock.pass(M);
  const error = await refresher
    .renew({ seen: fingerprint(secret), reason: "rejected" })
    .catch((caught: Error) => caught);
  const all = JSON.stringify([shop.lines, shop.events, error, String(error), refresher.status()]);
  assert.ok(all.includes(fingerprint(secret)), "by its fingerprint it is");
  assertNothingOf(secret, all, "what is told");
});
