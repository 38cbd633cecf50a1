/** The units that are in the package: systemd's own tools accept them, and they say what they have to say. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("../../systemd", import.meta.url));
const skip = spawnSync("systemd-analyze", ["--version"]).error !== undefined && "systemd-analyze is not installed";
/** The exposure level of the machine-wide services, out of 10, is this or better. */
const EXPOSURE = 2;

const isUnit = (name: string) => /\.(service|timer)$/.test(name);
const userUnits = readdirSync(folder).filter(isUnit);
const systemUnits = readdirSync(join(folder, "system")).filter(isUnit);

let directory: string;
before(() => {
  directory = mkdtempSync(join(tmpdir(), "freshkey-units-"));
});
after(() => rmSync(directory, { recursive: true, force: true }));

function analyze(...args: string[]): { status: number | null; output: string } {
  const env = { PATH: process.env.PATH, HOME: directory, XDG_RUNTIME_DIR: directory, LANG: "C.UTF-8" };
  const { status, stdout, stderr } = spawnSync("systemd-analyze", args, { env, encoding: "utf8" });
  return { status, output: stdout + stderr };
}

/** The settings of a unit; one that is given several times has its values in lines. */
function settings(path: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const line of readFileSync(join(folder, path), "utf8").split("\n")) {
    const [, key, value = ""] = /^(\w+)=(.*)$/.exec(line) ?? [];
    if (key !== undefined) found[key] = key in found ? `${found[key]}\n${value}` : value;
  }
  return found;
}

function without(all: Record<string, string>, ...names: string[]): Record<string, string> {
  return Object.fromEntries(Object.entries(all).filter(([name]) => !names.includes(name)));
}

describe("systemd-analyze", { skip }, () => {
  it("verifies every unit without a remark", () => {
    assert.deepEqual(userUnits, ["freshkey-renew.service", "freshkey-renew.timer", "freshkey.service"]);
    assert.deepEqual(systemUnits, userUnits);
    for (const name of userUnits) {
      assert.deepEqual(analyze("verify", "--user", join(folder, name)), { status: 0, output: "" }, name);
    }
    for (const name of systemUnits) {
      assert.deepEqual(analyze("verify", join(folder, "system", name)), { status: 0, output: "" }, name);
    }
  });

  it("would remark if something were wrong", () => {
    for (const [right, wrong] of [
      ["RestartSec=500ms", "RestartSecs=500ms"],
      ["ExecStart=/usr/bin/env", "ExecStart=/usr/bin/no-such-program"],
    ] as const) {
      const path = join(directory, "freshkey.service");
      writeFileSync(path, readFileSync(join(folder, "freshkey.service"), "utf8").replace(right, wrong));
      assert.notEqual(analyze("verify", "--user", path).output, "", wrong);
    }
  });

  it(`finds the machine-wide services exposed at ${EXPOSURE}.0 or better`, () => {
    const score = (path: string) =>
      Number(/exposure level for \S+: ([\d.]+)/.exec(analyze("security", "--offline=true", path).output)?.[1]);
    for (const name of systemUnits.filter((unit) => unit.endsWith(".service"))) {
      const found = score(join(folder, "system", name));
      assert.ok(found <= EXPOSURE, `${name}: ${found}`);
    }
    assert.ok(score(join(folder, "freshkey.service")) > EXPOSURE, "it tells one from the other");
  });
});

describe("the units", () => {
  for (const path of ["freshkey.service", "system/freshkey.service"]) {
    it(`${path} is ready when the agent says so, and started again, but not over a mistake`, () => {
      const { Type, NotifyAccess, WatchdogSec, Restart, LimitCORE, UMask, ...unit } = settings(path);
      assert.deepEqual(
        { Type, NotifyAccess, WatchdogSec, Restart, LimitCORE, UMask },
        {
          Type: "notify",
          NotifyAccess: "all",
          WatchdogSec: "5min",
          Restart: "on-failure",
          LimitCORE: "0",
          UMask: "0077",
        },
      );
      for (const code of ["64", "78", "127"]) assert.ok(unit.RestartPreventExitStatus?.split(" ").includes(code), code);
      assert.equal(unit.StartLimitIntervalSec, "0", "it never gives up");
    });
  }

  for (const name of ["freshkey.service", "freshkey-renew.service"]) {
    for (const path of [name, `system/${name}`]) {
      it(`${path} keeps the tokens when it ends, and lets V8 compile`, () => {
        const unit = settings(path);
        assert.equal(unit.RuntimeDirectoryMode, "0700");
        assert.equal(unit.RuntimeDirectoryPreserve, "yes");
        assert.ok(!("MemoryDenyWriteExecute" in unit));
      });
    }
  }

  it("protect the machine-wide timer's service as they do the agent", () => {
    const agents = ["Type", "NotifyAccess", "WatchdogSec", "WatchdogSignal", "ExecReload", "Restart", "RestartSec"];
    const rest = ["RestartPreventExitStatus", "KillMode", "TimeoutStopSec", "StartLimitIntervalSec", "WantedBy"];
    const own = ["Description", "ExecStart", "TimeoutStartSec"];
    const common = (path: string) => without(settings(path), ...agents, ...rest, ...own);
    assert.deepEqual(common("system/freshkey-renew.service"), common("system/freshkey.service"));
  });

  it("have one timer, for a user and for a machine", () => {
    assert.deepEqual(settings("system/freshkey-renew.timer"), settings("freshkey-renew.timer"));
    const { Persistent, RandomizedDelaySec } = settings("freshkey-renew.timer");
    assert.deepEqual({ Persistent, RandomizedDelaySec }, { Persistent: "yes", RandomizedDelaySec: "1min" });
  });
});
