import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import {
  backoff,
  EVERY,
  isFresh,
  type Lifetime,
  minValidity,
  nextAfterSame,
  nextRenewal,
  type RenewalRules,
} from "../../src/core/policy.ts";
import { UNKNOWN_EXPIRY } from "../../src/core/token.ts";
import { randomFrom } from "../support/random.ts";
import { holds, random01 } from "../support/unit.ts";

const S = 1_000;
const M = 60 * S;
const H = 60 * M;
/** An epoch in milliseconds has four digits after the point. */
const ROUNDING = 1e-6;
const MINTED = Date.parse("2026-11-23T09:00:00Z");

const token = (lifetime: number, more: Partial<Lifetime> = {}): Lifetime => ({
  minted: MINTED,
  expires: MINTED + lifetime,
  ...more,
});
const unknown: Lifetime = { minted: MINTED, expires: UNKNOWN_EXPIRY };

/** From five seconds to a day: what providers hand out. */
const lifetime = fc.integer({ min: 5 * S, max: 24 * H });

describe("nextRenewal", () => {
  /** Milliseconds after the mint. */
  const cases: [what: string, token: Lifetime, rules: RenewalRules, random: number, after: number][] = [
    ["two thirds of an hour", token(H), {}, 0, 40 * M],
    ["a random twentieth of the lifetime earlier", token(H), {}, 0.5, 40 * M - 90 * S],
    ["two thirds of nine seconds", token(9 * S), {}, 0, 6 * S],
    ["of five seconds: before the last two, and a twentieth for the mint", token(5 * S), {}, 0, 2.75 * S],
    ["two thirds of a day", token(24 * H), {}, 0, 16 * H],
    ["the first after a start: from a twentieth on", token(H), { first: true }, 0, 3 * M],
    ["the first after a start: half way", token(H), { first: true }, 0.5, 21.5 * M],
    ["the source's own hint", token(H, { renewAt: MINTED + 50 * M }), {}, 0.5, 50 * M],
    ["a hint after the expiry counts for nothing", token(H, { renewAt: MINTED + 2 * H }), {}, 0, 40 * M],
    ["a hint at the expiry counts for nothing", token(H, { renewAt: MINTED + H }), {}, 0, 40 * M],
    ["a hint before the mint is no busy loop", token(H, { renewAt: MINTED - H }), {}, 0, 3 * M],
    ["a hint does not undo the spread of a start", token(H, { renewAt: MINTED + 50 * M }), { first: true }, 0, 3 * M],
    ["refresh_before is a latest time", token(H), { refreshBefore: 30 * M }, 0, 30 * M],
    ["refresh_before is no earliest time", token(H), { refreshBefore: M }, 0, 40 * M],
    ["refresh_before wins over a hint", token(H, { renewAt: MINTED + 50 * M }), { refreshBefore: 30 * M }, 0, 30 * M],
    ["refresh_before of the whole lifetime is no busy loop", token(H), { refreshBefore: H }, 0, 3 * M],
    ["refresh_before above the lifetime is no busy loop", token(H), { refreshBefore: 9 * H }, 0, 3 * M],
    ["a schedule that comes first", token(H), { cron: MINTED + 10 * M }, 0, 10 * M],
    ["a schedule that comes later does not delay", token(H), { cron: MINTED + 2 * H }, 0, 40 * M],
    ["a schedule wins over the least share of the lifetime", token(24 * H), { cron: MINTED + M }, 0, M],
    ["unknown expiry: every half hour", unknown, {}, 0, EVERY],
    ["unknown expiry: a twentieth earlier", unknown, {}, 0.5, EVERY - 45 * S],
    ["unknown expiry: as often as told", unknown, { every: 10 * M }, 0, 10 * M],
    ["unknown expiry: on schedule and at no other time", unknown, { cron: MINTED + 2 * H, every: M }, 0.9, 2 * H],
    ["unknown expiry: a start changes nothing", unknown, { first: true }, 0, EVERY],
    ["no lifetime at all", token(0), {}, 0, S],
    ["expired when it was minted", token(-H), {}, 0.5, S],
  ];
  for (const [what, one, rules, random, after] of cases) {
    test(what, () => assert.equal(nextRenewal(one, rules, random) - MINTED, after));
  }

  test("within [2/3 - 1/20, 2/3] of the lifetime", (t) => {
    holds(
      t,
      fc.property(lifetime, random01, (life, random) => {
        const share = (nextRenewal(token(life), {}, random) - MINTED) / life;
        // Of less than seven seconds, the last two are a larger share.
        const least = Math.min(2 / 3 - 1 / 20, 19 / 20 - (2 * S) / life);
        assert.ok(share > least - ROUNDING && share <= 2 / 3 + ROUNDING, `${share}`);
      }),
    );
  });

  test("spread evenly: ten thousand machines fill each tenth of the spread alike", () => {
    const counts = Array.from({ length: 10 }, () => 0);
    for (let i = 0; i < 10_000; i++) {
      const before = (MINTED + 40 * M - nextRenewal(token(H), {}, i / 10_000)) / (3 * M);
      counts[Math.min(9, Math.floor(before * 10 + 1e-9))]!++;
    }
    for (const count of counts) assert.ok(count > 950 && count < 1_050, `${counts}`);
  });

  test("the first renewal is within [1/20, 2/3] of the lifetime, and reaches both ends", (t) => {
    holds(
      t,
      fc.property(lifetime, random01, fc.option(fc.double({ min: 0, max: 1 })), (life, random, hint) => {
        const one = token(life, hint === null ? {} : { renewAt: MINTED + life * hint });
        const share = (nextRenewal(one, { first: true }, random) - MINTED) / life;
        // A lifetime below 20 s has a twentieth below the second that is always kept.
        assert.ok(share >= Math.max(1 / 20, S / life) - ROUNDING && share <= 2 / 3 + ROUNDING, `${share}`);
      }),
    );
    assert.equal(nextRenewal(token(H), { first: true }, 0), MINTED + 3 * M);
    assert.equal(Math.round((nextRenewal(token(H), { first: true }, 0.999_999) - MINTED) / M), 40);
  });

  test("never later than refresh_before, as far as there is life for it", (t) => {
    const rules = fc.record({ refreshBefore: fc.integer({ min: 1, max: 25 * H }), first: fc.boolean() });
    holds(
      t,
      fc.property(lifetime, rules, random01, fc.option(fc.double({ min: -1, max: 2 })), (life, rule, random, hint) => {
        const one = token(life, hint === null ? {} : { renewAt: MINTED + life * hint });
        const at = nextRenewal(one, rule, random);
        const latest = one.expires - rule.refreshBefore;
        const possible = MINTED + Math.max(S, life / 20);
        assert.ok(at <= Math.max(latest, possible), `${at - latest} ms after refresh_before`);
      }),
    );
  });

  test("never a busy loop, and never at no time", (t) => {
    const anything = fc.record({
      refreshBefore: fc.option(fc.integer({ min: 1, max: 400 * 24 * H }), { nil: undefined }),
      every: fc.option(fc.integer({ min: 2 * S, max: 24 * H }), { nil: undefined }),
      first: fc.boolean(),
    });
    const hint = fc.option(fc.double({ min: -3, max: 3, noNaN: true }), { nil: undefined });
    const known = fc.record({ life: fc.oneof(lifetime, fc.integer({ min: -H, max: 5 * S })), hint });
    holds(
      t,
      fc.property(fc.option(known), anything, random01, (about, rules, random) => {
        const one = about
          ? token(about.life, about.hint === undefined ? {} : { renewAt: MINTED + about.life * about.hint })
          : unknown;
        const at = nextRenewal(one, rules, random);
        assert.ok(Number.isFinite(at) && at >= MINTED + S, `${at - MINTED} ms after the mint`);
      }),
      1_000,
    );
  });
});

describe("nextAfterSame", () => {
  const cases: [what: string, token: Lifetime, now: number, random: number, after: number][] = [
    ["when the source's cache ends, five minutes before the expiry", token(H), 20 * M, 0, 55 * M],
    ["up to ten seconds later, so that not everybody comes at once", token(H), 20 * M, 0.5, 55 * M + 5 * S],
    ["within them, after a minute at most", token(H), 55 * M, 0, 56 * M],
    ["ever closer to the end", token(H), 58 * M, 0, 58 * M + 30 * S],
    ["a second before the end", token(H), H - 2 * S, 0, H - S],
    ["after the end, every second", token(H), H + M, 0, H + M + S],
    ["unknown expiry: as if it were new", unknown, 20 * M, 0, 20 * M + EVERY],
  ];
  for (const [what, one, now, random, after] of cases) {
    test(what, () => assert.equal(nextAfterSame(one, MINTED + now, random) - MINTED, after));
  }

  test("asks a few dozen times at most, however long the source goes on so", (t) => {
    holds(
      t,
      fc.property(lifetime, fc.double({ min: 0, max: 1, noNaN: true }), random01, (life, asked, random) => {
        const one = token(life);
        let now = MINTED + asked * life;
        let asks = 0;
        let quick = 0;
        while (now < one.expires) {
          const next = nextAfterSame(one, now, random);
          assert.ok(next > now, "time does not go on");
          // The moment before the cache ends may fall anywhere; after that there are pauses.
          if (next - now < 750) quick++;
          asks++;
          assert.ok(asks <= 50, "a loop");
          now = next;
        }
        assert.ok(quick <= 1, `${quick} pauses below 750 ms`);
      }),
    );
  });
});

describe("backoff", () => {
  test("doubles from 2 s to 60 s, half of it random, and 1 s at least", (t) => {
    const attempts = fc.integer({ min: 1, max: 1_000_000 });
    holds(
      t,
      fc.property(attempts, random01, (attempt, random) => {
        const ceiling = Math.min(60 * S, S * 2 ** Math.min(attempt, 10));
        const wait = backoff(attempt, random);
        assert.ok(wait >= Math.max(S, ceiling / 2) && wait <= ceiling, `${wait} ms after ${attempt} attempts`);
      }),
    );
    assert.deepEqual(
      [1, 2, 3, 4, 5, 6, 7, 99].map((attempt) => Math.round(backoff(attempt, 0))),
      [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000],
    );
    assert.equal(backoff(99, 1), 60 * S);
  });

  test("an outage of ten minutes sees 24 attempts at most, and its end is noticed within a minute", (t) => {
    holds(
      t,
      fc.property(fc.integer(), (seed) => {
        const random = randomFrom(seed);
        let passed = 0;
        let attempts = 0;
        while (passed < 10 * M) passed += backoff(++attempts, random());
        assert.ok(attempts <= 24, `${attempts} attempts`);
        assert.ok(passed < 11 * M, `tried again after ${passed} ms`);
      }),
      2_000,
    );
  });

  test("Retry-After is a lower bound, exceeded by a tenth at most", (t) => {
    holds(
      t,
      fc.property(
        fc.integer({ min: 1, max: 20 }),
        random01,
        fc.integer({ min: 0, max: H }),
        (attempt, random, told) => {
          const wait = backoff(attempt, random, { retryAfter: told });
          assert.ok(wait >= told && wait <= Math.max(60 * S, told * 1.1), `${wait} ms`);
          assert.ok(wait >= backoff(attempt, random), `${wait} ms`);
        },
      ),
    );
  });

  test("what only a person can mend is tried every ten minutes", (t) => {
    holds(
      t,
      fc.property(fc.integer({ min: 1, max: 1_000 }), random01, (attempt, random) => {
        const wait = backoff(attempt, random, { permanent: true });
        assert.ok(wait >= 7.5 * M && wait <= 10 * M, `${wait} ms`);
      }),
    );
  });
});

describe("minValidity", () => {
  const cases: [lifetime: number, required: number][] = [
    [5 * S, 2 * S],
    [20 * S, 2 * S],
    [30 * S, 3 * S],
    [2 * M, 12 * S],
    [5 * M, 30 * S],
    [H, 30 * S],
    [24 * H, 30 * S],
    [-H, 2 * S],
  ];
  for (const [life, required] of cases) {
    test(`${life / S} s of life: ${required / S} s`, () => assert.equal(minValidity(token(life)), required));
  }
  test("30 s where nobody knows when it was minted", () => {
    assert.equal(minValidity({ minted: 0, expires: MINTED }), 30 * S);
  });
  test("between 2 s and 30 s, and a tenth of the lifetime in between", (t) => {
    holds(
      t,
      fc.property(lifetime, (life) => {
        assert.equal(minValidity(token(life)), Math.min(30 * S, Math.max(2 * S, life / 10)));
      }),
    );
  });
});

describe("isFresh", () => {
  test("to the millisecond", () => {
    assert.equal(isFresh(token(H), MINTED + H - 30 * S), true);
    assert.equal(isFresh(token(H), MINTED + H - 30 * S + 1), false);
    assert.equal(isFresh(token(H), MINTED + H - 5 * S, 5 * S), true);
    assert.equal(isFresh(token(H), MINTED + H - 5 * S + 1, 5 * S), false);
  });
  test("never once it has expired", (t) => {
    holds(
      t,
      fc.property(lifetime, fc.nat(), (life, late) => {
        assert.equal(isFresh(token(life), MINTED + life + late), false);
      }),
    );
  });
  test("an unknown expiry is taken as it is", () => assert.equal(isFresh(unknown, MINTED + 1_000 * H), true));
  test("renewals come before a token of four seconds or more is refused, whatever the source's hint", (t) => {
    const hint = fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { nil: undefined });
    holds(
      t,
      fc.property(fc.integer({ min: 4 * S, max: 24 * H }), random01, hint, (life, random, share) => {
        const one = token(life, share === undefined ? {} : { renewAt: MINTED + life * share });
        assert.equal(isFresh(one, nextRenewal(one, {}, random) + life / 20 - ROUNDING), true);
      }),
    );
  });
});
