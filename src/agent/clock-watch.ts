import type { Clock } from "../os/clock.ts";

/** Wall clock and uptime differ by more than this: somebody set the clock. The uptime has whole seconds. */
const CLOCK_SET = 5_000;

export interface ClockNews {
  /** By how many milliseconds the wall clock was set, 0 if it was not. */
  readonly set: number;
  /** Milliseconds since the last look. */
  readonly passed: number;
}

/** Tells a machine that slept from a clock that was set: asleep, both the wall clock and the uptime go on. */
export class ClockWatch {
  readonly #clock: Clock;
  #wall: number;
  #uptime: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#wall = clock.now();
    this.#uptime = clock.uptime();
  }

  /** What has happened since the last look. */
  look(): ClockNews {
    const wall = this.#clock.now();
    const uptime = this.#clock.uptime();
    const passed = uptime - this.#uptime;
    const set = wall - this.#wall - passed;
    this.#wall = wall;
    this.#uptime = uptime;
    return { set: Math.abs(set) > CLOCK_SET ? set : 0, passed };
  }
}
