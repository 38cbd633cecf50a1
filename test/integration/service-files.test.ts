/** The property list that is in the package: the tool for such files accepts it, and it says what it has to say. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";

const file = (name: string) => fileURLToPath(new URL(`../../${name}`, import.meta.url));
const plist = file("launchd/io.github.freshkey.agent.plist");
const without = (program: string) =>
  spawnSync(program, ["--version"]).error !== undefined && `${program} is not installed`;

let directory: string;
before(() => {
  directory = mkdtempSync(join(tmpdir(), "freshkey-service-"));
});
after(() => rmSync(directory, { recursive: true, force: true }));

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
