/** The property lists that are in the package: the tool for such files accepts them, and they say what they have to say. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";

const file = (name: string) => fileURLToPath(new URL(`../../${name}`, import.meta.url));
const without = (program: string) =>
  spawnSync(program, ["--version"]).error !== undefined && `${program} is not installed`;

let directory: string;
before(() => {
  directory = mkdtempSync(join(tmpdir(), "freshkey-service-"));
});
after(() => rmSync(directory, { recursive: true, force: true }));

const BACKGROUND = { ProcessType: "Background", Umask: 0o077, HardResourceLimits: { Core: 0 } };
const RESTARTED = { RunAtLoad: true, KeepAlive: { SuccessfulExit: false }, ThrottleInterval: 10 };
const PATH = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

const EXPECTED: Record<string, object> = {
  "io.github.freshkey.agent.plist": {
    Label: "io.github.freshkey.agent",
    ProgramArguments: ["/usr/bin/env", "freshkey", "agent"],
    EnvironmentVariables: { PATH },
    ...RESTARTED,
    ...BACKGROUND,
  },
  "io.github.freshkey.renew.plist": {
    Label: "io.github.freshkey.renew",
    ProgramArguments: ["/usr/bin/env", "freshkey", "renew"],
    EnvironmentVariables: { PATH },
    RunAtLoad: true,
    StartCalendarInterval: [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55].map((Minute) => ({ Minute })),
    ...BACKGROUND,
  },
  "daemon/io.github.freshkey.agent.plist": {
    Label: "io.github.freshkey.agent",
    ProgramArguments: ["/usr/bin/env", "freshkey", "agent", "--config", "/etc/freshkey/config.toml"],
    UserName: "_freshkey",
    GroupName: "_freshkey",
    EnvironmentVariables: { PATH: PATH.replace("/opt/homebrew/bin:", ""), HOME: "/var/db/freshkey" },
    ...RESTARTED,
    ...BACKGROUND,
    StandardErrorPath: "/var/db/freshkey/agent.log",
  },
};

describe("launchd", () => {
  for (const [name, expected] of Object.entries(EXPECTED)) {
    it(`${name} is a property list with what launchd needs to know`, { skip: without("plistutil") }, () => {
      // plistutil ends with 0 whatever it reads: only what it makes of the file tells.
      const binary = join(directory, "binary.plist");
      const xml = join(directory, "plain.plist");
      assert.equal(spawnSync("plistutil", ["-i", file(`launchd/${name}`), "-o", binary, "-f", "bin"]).status, 0);
      assert.equal(spawnSync("plistutil", ["-i", binary, "-o", xml, "-f", "xml"]).status, 0);
      assert.deepEqual(parse(readFileSync(xml, "utf8")), expected);
      assert.equal(`${(expected as { Label: string }).Label}.plist`, basename(name), "launchctl expects the label");
    });

    it(`${name} says where it goes, and so does the page beside it`, () => {
      const place = name.startsWith("daemon/") ? "/Library/LaunchDaemons/" : "~/Library/LaunchAgents/";
      const [comment = ""] = /<!--[\s\S]*?-->/.exec(readFileSync(file(`launchd/${name}`), "utf8")) ?? [];
      assert.ok(comment.includes(`${place}${basename(name)}`), "its first lines bootstrap it from there");
      assert.ok(readFileSync(file("launchd/README.md"), "utf8").includes(`| \`${name}\` | \`${place}\` |`));
    });
  }

  it("has no list that is not checked here", () => {
    const lists = readdirSync(file("launchd"), { recursive: true, encoding: "utf8" }).filter((name) =>
      /plist$/.test(name),
    );
    assert.deepEqual(lists.sort(), Object.keys(EXPECTED).sort());
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
