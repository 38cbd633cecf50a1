/** Who looks after a token file between two renewals. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { Caretaker } from "../../src/agent/caretaker.ts";
import type { TokenConfig } from "../../src/config/load.ts";

const LOOK = 5_000;
const HOUR = 3_600_000;

function open(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), "freshkey-caretaker-"));
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "token");
  const config = { name: "copilot", path, ownDirectory: false } as unknown as TokenConfig;
  return { path, caretaker: new Caretaker(config, 0, { warn: () => undefined }) };
}

describe("the caretaker of a token file", () => {
  it("finds once that a token has gone, also one that went while it was still being published", (t) => {
    const { path, caretaker } = open(t);
    writeFileSync(path, "tok-1");
    caretaker.written(0);
    rmSync(path);
    assert.equal(caretaker.findsItSpoilt(LOOK - 1), false, "it looks every five seconds");
    assert.equal(caretaker.findsItSpoilt(LOOK), true);
    assert.equal(caretaker.findsItSpoilt(2 * LOOK), false, "it has said so");
    caretaker.written(2 * LOOK);
    assert.equal(caretaker.findsItSpoilt(3 * LOOK), true);
  });

  it("misses nothing where there never was a token, and minds another good one as little", (t) => {
    const { path, caretaker } = open(t);
    assert.equal(caretaker.findsItSpoilt(LOOK), false);
    writeFileSync(path, "tok-by-somebody-else");
    assert.equal(caretaker.findsItSpoilt(2 * LOOK), false);
    writeFileSync(path, "<html>");
    assert.equal(caretaker.findsItSpoilt(3 * LOOK), true);
  });

  it("touches the file every six hours, and is not misled by that", (t) => {
    const { path, caretaker } = open(t);
    writeFileSync(path, "tok-1");
    caretaker.begin(0);
    assert.equal(caretaker.findsItSpoilt(6 * HOUR), false);
    assert.equal(statSync(path).mtimeMs, 6 * HOUR);
    assert.equal(caretaker.findsItSpoilt(6 * HOUR + LOOK), false);
    rmSync(path);
    assert.equal(caretaker.findsItSpoilt(12 * HOUR), true);
  });
});
