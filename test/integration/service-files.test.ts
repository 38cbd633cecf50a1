/** The service files that are in the package: the systems' own tools accept them, and they say what they have to say. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";

const file = (name: string) => fileURLToPath(new URL(`../../${name}`, import.meta.url));
const unit = file("systemd/freshkey.service");
const plist = file("launchd/io.github.freshkey.agent.plist");
const without = (program: string) =>
  spawnSync(program, ["--version"]).error !== undefined && `${program} is not installed`;

let directory: string;
before(() => {
  directory = mkdtempSync(join(tmpdir(), "freshkey-service-"));
});
after(() => rmSync(directory, { recursive: true, force: true }));

describe("systemd/freshkey.service", () => {
  const verify = (path: string) => {
    const env = { PATH: process.env.PATH, HOME: directory, XDG_RUNTIME_DIR: directory };
    const { status, stdout, stderr } = spawnSync("systemd-analyze", ["verify", "--user", path], {
      env,
      encoding: "utf8",
    });
    return { status, output: stdout + stderr };
  };

  it("is accepted by systemd-analyze verify, without a remark", { skip: without("systemd-analyze") }, () => {
    assert.deepEqual(verify(unit), { status: 0, output: "" });
  });

  it("would not be, if something were wrong with it", { skip: without("systemd-analyze") }, () => {
    for (const [right, wrong] of [
      ["RestartSec=5", "RestartSecs=5"],
      ["ExecStart=/usr/bin/env", "ExecStart=/usr/bin/no-such-program"],
    ] as const) {
      const path = join(directory, "freshkey.service");
      writeFileSync(path, readFileSync(unit, "utf8").replace(right, wrong));
      assert.notEqual(verify(path).output, "", wrong);
    }
  });

  it("starts the agent, again after a crash, and not with a wrong configuration", () => {
    const lines = readFileSync(unit, "utf8").split("\n");
    const keys = Object.fromEntries(lines.filter((line) => /^\w+=/.test(line)).map((line) => line.split(/=(.*)/s, 2)));
    const { Type, ExecStart, Restart, LimitCORE, UMask, WantedBy, RestartPreventExitStatus } = keys;
    assert.deepEqual(
      { Type, ExecStart, Restart, LimitCORE, UMask, WantedBy },
      {
        Type: "exec",
        ExecStart: "/usr/bin/env freshkey agent",
        Restart: "on-failure",
        LimitCORE: "0",
        UMask: "0077",
        WantedBy: "default.target",
      },
    );
    assert.deepEqual(RestartPreventExitStatus.split(" "), ["78", "127"]);
    // Five starts in ten seconds, systemd's default limit, would end it for good.
    assert.ok(Number(keys.RestartSec) > 2);
    // V8 compiles to machine code, and configuration and sign-ins are in the home directory.
    for (const fatal of ["MemoryDenyWriteExecute", "ProtectHome", "RuntimeDirectory"])
      assert.ok(!(fatal in keys), fatal);
  });
});

describe("launchd/io.github.freshkey.agent.plist", () => {
  it("is a property list with what launchd needs to know", { skip: without("plistutil") }, () => {
    // plistutil ends with 0 whatever it reads: only what it makes of the file tells.
    const binary = join(directory, "agent.plist");
    const xml = join(directory, "agent.xml");
    assert.equal(spawnSync("plistutil", ["-i", plist, "-o", binary, "-f", "bin"]).status, 0);
    assert.equal(spawnSync("plistutil", ["-i", binary, "-o", xml, "-f", "xml"]).status, 0);
    assert.deepEqual(parse(readFileSync(xml, "utf8")), {
      Label: "io.github.freshkey.agent",
      ProgramArguments: ["/usr/bin/env", "freshkey", "agent"],
      EnvironmentVariables: { PATH: "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" },
      RunAtLoad: true,
      KeepAlive: { SuccessfulExit: false },
      ThrottleInterval: 10,
      ProcessType: "Background",
      Umask: 0o077,
      HardResourceLimits: { Core: 0 },
    });
  });

  it("has its label for a name, as launchctl expects", () => {
    assert.match(readFileSync(plist, "utf8"), /<key>Label<\/key>\s*<string>io\.github\.freshkey\.agent<\/string>/);
  });
});

/** The value of a property list as plistutil writes it: one element a line, no comments, no attributes but on `plist`. */
function parse(xml: string): unknown {
  const tokens = [...xml.matchAll(/<(\/?\w+)(?: [^>]*)?(\/?)>([^<]*)/g)].map(([, name, empty, text]) => ({
    name,
    empty,
    text,
  }));
  let at = tokens.findIndex(({ name }) => name === "plist") + 1;
  const value = (): unknown => {
    const token = tokens[at++];
    switch (token?.name) {
      case "dict": {
        const dict: Record<string, unknown> = {};
        while (tokens[at]?.name !== "/dict") {
          const key = tokens[at]?.text as string;
          at += 2;
          dict[key] = value();
        }
        at++;
        return dict;
      }
      case "array": {
        const array: unknown[] = [];
        while (tokens[at]?.name !== "/array") array.push(value());
        at++;
        return array;
      }
      case "true":
      case "false":
        return token.name === "true";
      case "string":
      case "integer":
        at++;
        return token.name === "integer" ? Number(token.text) : token.text;
      default:
        throw new Error(`unexpected <${token?.name}> in the property list`);
    }
  };
  return value();
}
