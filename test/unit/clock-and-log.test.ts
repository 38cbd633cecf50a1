/** The clock's helpers and the log: the small things of src/os. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { abortable, deadline, isTimeout, sleep, systemClock } from "../../src/os/clock.ts";
import { openLog } from "../../src/os/log.ts";
import { assertNothingOf, jwt, pause } from "../support/unit.ts";

describe("systemClock", () => {
  test("asks the wall clock and the uptime", () => {
    assert.ok(Math.abs(systemClock.now() - Date.now()) < 1_000, "now");
    assert.ok(systemClock.uptime() > 1_000, "uptime in milliseconds");
  });
  test("a timer calls back once, unless it is cancelled", async () => {
    let calls = 0;
    systemClock.after(1, () => calls++);
    systemClock.after(1, () => calls++).cancel();
    await pause(20);
    assert.equal(calls, 1);
  });
});

describe("sleep", () => {
  test("ends by itself", async () => {
    const began = performance.now();
    await sleep(20);
    assert.ok(performance.now() - began >= 19, "too early");
  });
  test("is rejected with the signal's reason, at once, and leaves no listener behind", async () => {
    const reason = new Error("enough");
    await assert.rejects(sleep(60_000, AbortSignal.abort(reason)), reason);
    const controller = new AbortController();
    const slept = sleep(60_000, controller.signal);
    controller.abort(reason);
    await assert.rejects(slept, reason);
  });
});

describe("deadline", () => {
  test("aborts with a TimeoutError when the time is over", async () => {
    const { signal } = deadline(10);
    await assert.rejects(sleep(60_000, signal), isTimeout);
    assert.equal(isTimeout(signal.reason), true);
  });
  test("aborts with another's reason, also one that has aborted already", () => {
    const reason = new Error("closed");
    const controller = new AbortController();
    const later = deadline(60_000, undefined, controller.signal);
    assert.equal(later.signal.aborted, false);
    controller.abort(reason);
    assert.equal(later.signal.reason, reason);
    const at = deadline(60_000, AbortSignal.abort(reason));
    assert.equal(at.signal.reason, reason);
    for (const one of [later, at]) one.end();
    assert.equal(isTimeout(reason), false);
  });
  test("once ended it does not abort any more", async () => {
    const controller = new AbortController();
    const { signal, end } = deadline(5, controller.signal);
    end();
    controller.abort();
    await pause(15);
    assert.equal(signal.aborted, false);
  });
});

describe("abortable", () => {
  test("gives what the promise gives", async () => {
    assert.equal(await abortable(Promise.resolve(5), undefined), 5);
    assert.equal(await abortable(Promise.resolve(5), new AbortController().signal), 5);
    await assert.rejects(abortable(Promise.reject(new Error("no")), new AbortController().signal), /no/);
  });
  test("does not wait for it once the signal has aborted; what fails later is nobody's concern", async () => {
    const reason = new Error("enough");
    let fail = (_error: Error) => {};
    const never = new Promise((_, reject) => {
      fail = reject;
    });
    await assert.rejects(abortable(never, AbortSignal.abort(reason)), reason);
    const controller = new AbortController();
    const waiting = abortable(never, controller.signal);
    controller.abort(reason);
    await assert.rejects(waiting, reason);
    fail(new Error("too late"));
    await pause(5);
  });
});

describe("log", () => {
  function lines(isTTY: boolean, level: Parameters<typeof openLog>[0] = "info") {
    const written: string[] = [];
    return { written, log: openLog(level, { isTTY, write: (line: string) => written.push(line) }) };
  }

  test("one JSON object a line, with the level's name, and nothing of the machine", () => {
    const { written, log } = lines(false);
    log.info({ name: "copilot", fingerprint: "ba7816bf8f01" }, "renewed");
    log.warn("hm");
    assert.equal(written.length, 2);
    for (const line of written) assert.match(line, /^\{.*\}\n$/);
    const { time, ...rest } = JSON.parse(written[0]!);
    assert.deepEqual(rest, { level: "info", name: "copilot", fingerprint: "ba7816bf8f01", msg: "renewed" });
    assert.ok(Math.abs(time - Date.now()) < 5_000, "time");
    assert.equal(JSON.parse(written[1]!).level, "warn");
  });

  test("no token gets in, wherever it stands", () => {
    const token = jwt({ exp: 1_795_459_999 });
    for (const isTTY of [true, false]) {
      const { written, log } = lines(isTTY);
      log.error({ token, nested: { list: [`Bearer ${token}`] }, err: new Error(`bad ${token}`) }, `got ${token}`);
      log.child({ header: token }).info("x");
      assert.equal(written.length, 2);
      for (const line of written) assertNothingOf(token, line, "the log");
    }
  });

  test("what is less than the level is left out", () => {
    const { written, log } = lines(false, "warn");
    log.info("x");
    log.warn("y");
    assert.equal(written.length, 1);
    const { written: none, log: silent } = lines(false, "silent");
    silent.error("z");
    assert.equal(none.length, 0);
  });

  test("on a terminal: a line for a person", () => {
    const { written, log } = lines(true);
    log.info({ name: "copilot", expires_in: "58m", attempt: 3 }, "renewed");
    log.warn("just so");
    assert.match(written[0]!, /^\d\d:\d\d:\d\d info {2}copilot: renewed expires_in=58m attempt=3\n$/);
    assert.match(written[1]!, /^\d\d:\d\d:\d\d warn {2}just so\n$/);
  });
});
