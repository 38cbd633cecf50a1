import assert from "node:assert/strict";
import { test } from "node:test";
import { ClockWatch } from "../../src/agent/clock-watch.ts";

function watched() {
  const time = { wall: 1_800_000_000_000, uptime: 5_000_000 };
  const clock = { now: () => time.wall, uptime: () => time.uptime, after: () => ({ cancel() {} }) };
  const pass = (wall: number, uptime = wall) => {
    time.wall += wall;
    time.uptime += uptime;
  };
  return { watch: new ClockWatch(clock), pass };
}

test("time that passes is no news", () => {
  const { watch, pass } = watched();
  pass(2_000);
  assert.deepEqual(watch.look(), { set: 0, passed: 2_000 });
});

test("asleep, wall clock and uptime go on alike: the clock was not set", () => {
  const { watch, pass } = watched();
  pass(8 * 3_600_000);
  assert.deepEqual(watch.look(), { set: 0, passed: 8 * 3_600_000 });
});

test("a clock that is set shows by how much, in both directions, and once", () => {
  const { watch, pass } = watched();
  pass(2_000 - 3_600_000, 2_000);
  assert.deepEqual(watch.look(), { set: -3_600_000, passed: 2_000 });
  pass(2_000);
  assert.equal(watch.look().set, 0);
  pass(2_000 + 600_000, 2_000);
  assert.equal(watch.look().set, 600_000);
});

test("an uptime of whole seconds, and a clock that is slewed, are not a clock that is set", () => {
  const { watch, pass } = watched();
  pass(2_400, 2_000);
  assert.equal(watch.look().set, 0);
  pass(2_000, 3_000);
  assert.equal(watch.look().set, 0);
});
