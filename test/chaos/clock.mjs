/**
 * The clock of a machine that only exists for a test: every process that was started with `--import` of this file has
 * its wall clock off by what the file FRESHKEY_TEST_CLOCK says (milliseconds). The uptime and the timers are the real
 * ones, as when somebody sets the clock. FRESHKEY_TEST_NODE is a node that does the same for mint processes, which
 * get no NODE_OPTIONS. Nothing but tests loads it.
 */
import { readFileSync } from "node:fs";

const file = process.env.FRESHKEY_TEST_CLOCK;
const RealDate = globalThis.Date;
/** So long an offset is taken from memory: a loop that asks for the time must not read a file each time. */
const KEPT = 20;

let offset = 0;
let readAt = Number.NEGATIVE_INFINITY;

function now() {
  if (performance.now() - readAt > KEPT) {
    readAt = performance.now();
    offset = Number(readFileSync(file, "utf8"));
  }
  return RealDate.now() + offset;
}

if (file && !globalThis.freshkeyTestClock) {
  globalThis.freshkeyTestClock = true;
  class OffsetDate extends RealDate {
    constructor(...args) {
      if (args.length === 0) super(now());
      else super(...args);
    }
    static now() {
      return now();
    }
  }
  globalThis.Date = OffsetDate;
  if (process.env.FRESHKEY_TEST_NODE) process.execPath = process.env.FRESHKEY_TEST_NODE;
}
