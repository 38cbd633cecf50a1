/** What the agent is made of beside its refreshers: places for mints, schedules, the memory of failures. */
import assert from "node:assert/strict";
import { readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import fc from "fast-check";
import { FailureFile } from "../../src/agent/failure-file.ts";
import { openSchedule } from "../../src/agent/schedule.ts";
import { Slots } from "../../src/agent/slots.ts";
import { FreshkeyError } from "../../src/core/errors.ts";
import type { Failure } from "../../src/core/state.ts";
import { holds, temporaryDirectory } from "../support/unit.ts";

describe("slots", () => {
  /** Tasks that end when they are told to. */
  function open() {
    const slots = new Slots();
    const running: string[] = [];
    const ends = new Map<string, (error?: Error) => void>();
    const start = (source: string, name: string) =>
      slots.run(source, () => {
        running.push(name);
        return new Promise<string>((resolve, reject) => {
          ends.set(name, (error) => {
            running.splice(running.indexOf(name), 1);
            if (error) reject(error);
            else resolve(name);
          });
        });
      });
    return { start, running, end: (name: string, error?: Error) => ends.get(name)?.(error) };
  }
  const turn = () => new Promise((done) => setImmediate(done));
  const range = (count: number) => Array.from({ length: count }, (_, i) => i);

  test("four of one source, in turn; another source does not wait for them", async () => {
    const { start, running, end } = open();
    const all = [...range(6).map((i) => start("azure", `a${i}`)), start("aws", "b0")];
    await turn();
    assert.deepEqual(running, ["a0", "a1", "a2", "a3", "b0"]);
    end("a1");
    await turn();
    assert.deepEqual(running, ["a0", "a2", "a3", "b0", "a4"]);
    for (const name of ["a0", "a2", "a3", "b0", "a4"]) end(name);
    await turn();
    assert.deepEqual(running, ["a5"]);
    end("a5");
    assert.deepEqual(await Promise.all(all), ["a0", "a1", "a2", "a3", "a4", "a5", "b0"]);
  });

  test("sixteen in all", async () => {
    const { start, running, end } = open();
    const all = range(6).flatMap((source) => range(4).map((i) => start(`s${source}`, `${source}.${i}`)));
    await turn();
    assert.equal(running.length, 16);
    while (running.length > 0) {
      end(running[0] ?? "");
      await turn();
      assert.ok(running.length <= 16, `${running.length}`);
    }
    assert.equal((await Promise.all(all)).length, 24);
  });

  test("a task that fails gives its place back", async () => {
    const { start, running, end } = open();
    const all = range(5).map((i) => start("azure", `a${i}`));
    await turn();
    end("a0", new Error("no"));
    await assert.rejects(all[0] ?? Promise.resolve(), /no/);
    await turn();
    assert.deepEqual(running, ["a1", "a2", "a3", "a4"]);
    for (const name of ["a1", "a2", "a3", "a4"]) end(name);
    await Promise.all(all.slice(1));
  });

  test("one that is past five seconds gives its place to others, and no second one at its end", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const { start, running, end } = open();
    const all = range(9).map((i) => start("azure", `a${i}`));
    await turn();
    t.mock.timers.tick(4_999);
    await turn();
    assert.equal(running.length, 4);
    t.mock.timers.tick(1);
    await turn();
    assert.equal(running.length, 8);
    end("a0");
    await turn();
    assert.equal(running.length, 7, "a0 had no place to give any more");
    end("a4");
    await turn();
    assert.deepEqual(running, ["a1", "a2", "a3", "a5", "a6", "a7", "a8"]);
    for (const name of [...running]) end(name);
    await Promise.all(all);
  });
});

describe("schedule", () => {
  const HOUR = 3_600_000;
  const open = async (cron: string, more: { timezone?: string; jitter?: number; name?: string } = {}) => {
    const schedule = await openSchedule({ name: "copilot", jitter: 0, cron, ...more });
    if (!schedule) assert.fail("no schedule");
    return schedule;
  };
  const runs = async (cron: string, timezone: string, after: string, count: number) => {
    const schedule = await open(cron, { timezone });
    const found: string[] = [];
    for (let at = Date.parse(after); found.length < count; ) {
      at = schedule.next(at);
      found.push(new Date(at).toISOString().slice(0, 16));
    }
    return found;
  };

  test("none without cron", async () => assert.equal(await openSchedule({ name: "x", jitter: 60_000 }), undefined));

  test("the runs after an instant, whatever time it is now (node-cron's own timeMatcher)", async () => {
    const expected = ["2031-05-06T07:30", "2031-05-06T08:00", "2031-05-06T08:30"];
    assert.deepEqual(await runs("*/30 * * * *", "UTC", "2031-05-06T07:12:34Z", 3), expected);
    assert.deepEqual(await runs("*/30 * * * *", "UTC", "2001-05-06T07:12:34Z", 1), ["2001-05-06T07:30"]);
  });

  test("a run is after the instant, not at it: what was minted at a run waits for the next one", async () => {
    const schedule = await open("*/30 * * * *", { timezone: "UTC" });
    const run = Date.parse("2026-11-23T09:30:00Z");
    assert.equal(schedule.next(run), run + HOUR / 2);
    assert.equal(schedule.next(run - 1), run);
    assert.equal(schedule.next(run + 1), run + HOUR / 2);
  });

  test("in its time zone", async () => {
    assert.deepEqual(await runs("0 9 * * *", "Europe/Berlin", "2026-11-23T00:00:00Z", 1), ["2026-11-23T08:00"]);
    assert.deepEqual(await runs("0 9 * * *", "Europe/Berlin", "2026-07-23T00:00:00Z", 1), ["2026-07-23T07:00"]);
    assert.deepEqual(await runs("0 9 * * 1", "America/New_York", "2026-11-23T00:00:00Z", 2), [
      "2026-11-23T14:00",
      "2026-11-30T14:00",
    ]);
    assert.deepEqual(await runs("15 0 * * *", "Asia/Kolkata", "2026-11-23T00:00:00Z", 1), ["2026-11-23T18:45"]);
  });

  test("over both changes of the clocks: the same hour by the clock on the wall", async () => {
    assert.deepEqual(await runs("0 9 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", 3), [
      "2026-03-28T08:00",
      "2026-03-29T07:00",
      "2026-03-30T07:00",
    ]);
    assert.deepEqual(await runs("0 9 * * *", "Europe/Berlin", "2026-10-23T12:00:00Z", 3), [
      "2026-10-24T07:00",
      "2026-10-25T08:00",
      "2026-10-26T08:00",
    ]);
  });

  test("into summer time every half hour goes on every half hour, and a time that is skipped runs at the change", async () => {
    const expected = ["2026-03-29T00:30", "2026-03-29T01:00", "2026-03-29T01:30"];
    assert.deepEqual(await runs("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:10:00Z", 3), expected);
    assert.deepEqual(await runs("30 2 * * *", "Europe/Berlin", "2026-03-28T00:10:00Z", 3), [
      "2026-03-28T01:30",
      "2026-03-29T01:00",
      "2026-03-30T00:30",
    ]);
    assert.deepEqual(await runs("0 3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2), [
      "2026-03-29T01:00",
      "2026-03-30T01:00",
    ]);
  });

  test("out of summer time, too: an hour that comes twice has its runs twice", async () => {
    const expected = [
      "2026-10-25T00:00",
      "2026-10-25T00:30",
      "2026-10-25T01:00",
      "2026-10-25T01:30",
      "2026-10-25T02:00",
    ];
    assert.deepEqual(await runs("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:50:00Z", 5), expected);
    assert.deepEqual(await runs("30 1 * * *", "America/New_York", "2026-11-01T00:00:00Z", 3), [
      "2026-11-01T05:30",
      "2026-11-01T06:30",
      "2026-11-02T06:30",
    ]);
  });

  test("a change by half an hour, a schedule that runs once a year, one that runs every second", async () => {
    assert.deepEqual(await runs("*/20 * * * *", "Australia/Lord_Howe", "2026-04-04T14:35:00Z", 4), [
      "2026-04-04T14:40",
      "2026-04-04T15:10",
      "2026-04-04T15:30",
      "2026-04-04T15:50",
    ]);
    assert.deepEqual(await runs("0 12 1 7 *", "Europe/Berlin", "2026-07-02T00:00:00Z", 2), [
      "2027-07-01T10:00",
      "2028-07-01T10:00",
    ]);
    const schedule = await open("* * * * * *", { timezone: "Europe/Berlin" });
    const change = Date.parse("2026-10-25T01:00:00Z");
    for (const at of [change - 1_000, change - 1, change]) {
      assert.equal(schedule.next(at), (Math.floor(at / 1_000) + 1) * 1_000);
    }
  });

  test("whatever the zone and the instant: no gap is longer than the schedule's own, and no run is early", async () => {
    for (const timezone of ["America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"]) {
      const schedule = await open("*/30 * * * *", { timezone });
      let at = Date.parse("2026-01-01T00:00:00Z");
      for (const end = at + 366 * 24 * HOUR; at < end; ) {
        const next = schedule.next(at);
        assert.ok(next > at && next - at <= HOUR / 2, `${timezone}: from ${new Date(at)} to ${new Date(next)}`);
        at = next;
      }
    }
  });

  test("each host has an offset of its own: whole seconds, below jitter, and always the same", async () => {
    const seen = new Set<number>();
    const after = Date.parse("2026-11-23T09:12:34Z");
    for (let i = 0; i < 40; i++) {
      const name = `token-${i}`;
      const [one, again, without] = await Promise.all([
        open("*/30 * * * *", { jitter: 60_000, name }),
        open("*/30 * * * *", { jitter: 60_000, name }),
        open("*/30 * * * *", { name }),
      ]);
      const offset = one.next(after) - without.next(after);
      assert.ok(offset >= 0 && offset < 60_000 && offset % 1_000 === 0, `${offset} ms`);
      assert.equal(again.next(after), one.next(after));
      seen.add(offset);
    }
    assert.ok(seen.size > 15, `only ${seen.size} offsets for 40 tokens`);
  });

  test("always after the mint, and not by more than there is between two runs and the offset", async (t) => {
    const schedule = await open("*/30 * * * *", { timezone: "UTC", jitter: 60_000 });
    holds(
      t,
      fc.property(fc.integer({ min: 0, max: 4e12 }), (minted) => {
        const wait = schedule.next(minted) - minted;
        assert.ok(wait > 0 && wait <= HOUR / 2, `${wait} ms`);
      }),
    );
  });
});

describe("failure file", () => {
  const failure: Failure = {
    since: 1_795_424_400_000,
    attempts: 3,
    nextTry: 1_795_424_408_000,
    notBefore: 1_795_424_405_000,
    error: new FreshkeyError("ERR_SIGN_IN", "sign in", { hint: "az login", retryAfter: 5 }).toJSON(),
  };

  test("is what was written, for nobody else, until it is cleared", async (t) => {
    const directory = temporaryDirectory(t);
    const file = new FailureFile(directory, "copilot");
    assert.equal(file.read(), undefined);
    await file.write(failure);
    assert.deepEqual(new FailureFile(directory, "copilot").read(), failure);
    assert.equal(new FailureFile(directory, "other").read(), undefined);
    assert.deepEqual(readdirSync(directory), ["copilot.failure.json"]);
    assert.equal(statSync(join(directory, "copilot.failure.json")).mode & 0o777, 0o600);
    file.clear();
    file.clear();
    assert.deepEqual([file.read(), readdirSync(directory)], [undefined, []]);
  });

  test("one that cannot be understood counts for none", (t) => {
    const directory = temporaryDirectory(t);
    const file = new FailureFile(directory, "copilot");
    for (const text of [
      "",
      "{",
      "null",
      "5",
      "{}",
      '{"nextTry":5}',
      '{"nextTry":"5","error":{"code":"ERR_SIGN_IN"}}',
    ]) {
      writeFileSync(join(directory, "copilot.failure.json"), text);
      assert.equal(file.read(), undefined, text);
    }
  });

  test("a directory that cannot be written to is no error: then memory has to do", async (t) => {
    const directory = temporaryDirectory(t);
    rmSync(directory, { recursive: true });
    const file = new FailureFile(directory, "copilot");
    await file.write(failure);
    assert.equal(file.read(), undefined);
    file.clear();
  });
});
