/** Rules of this repository that no other tool checks. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
/** A registry's host in a URL or a setting. The lock file has none, so that it works with every registry and mirror. */
const REGISTRY = /registry[.][a-z-]+[.](?:org|com|io|net|dev|pkg)|\bregistry\s*=\s*\S*:\/\//i;
const RESOLVED = /"resolved"\s*:/;

/** The repository's files: what is tracked and what would be, if it were added now. */
function tracked(): string[] | undefined {
  if (!existsSync(join(root, ".git"))) return undefined;
  const args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
  const files = execFileSync("git", args, { cwd: root, encoding: "utf8" }).split("\0");
  return files.filter((file) => file !== "" && existsSync(join(root, file)));
}

const files = tracked();
const options = { skip: files === undefined && "this is no git repository" };
const text = (file: string) => readFileSync(join(root, file), "utf8");

describe("the house", options, () => {
  it("has no source file over 300 lines", () => {
    const sources = (files ?? []).filter((file) => /^(src|bin|scripts)\//.test(file));
    assert.ok(sources.length > 0);
    const long = sources
      .map((file) => ({ file, lines: text(file).split("\n").length - 1 }))
      .filter(({ lines }) => lines > 300);
    assert.deepEqual(long, []);
  });

  it("names no package registry", () => {
    assert.deepEqual(
      (files ?? []).filter((file) => REGISTRY.test(text(file))),
      [],
    );
    assert.doesNotMatch(text("package-lock.json"), RESOLVED);
  });

  it("would see one", () => {
    const host = ["registry", "example", "org"].join(".");
    assert.match(`https://${host}/x/-/x-1.0.0.tgz`, REGISTRY);
    assert.match(["registry", "https://packages.example/npm/"].join("="), REGISTRY);
    assert.match('"resolved": "https://packages.example/x"', RESOLVED);
    assert.doesNotMatch("the registry of the token", REGISTRY);
  });

  it("has programs that can be run", () => {
    const programs = (files ?? []).filter((file) => file.startsWith("bin/") || file === ".ci/run");
    assert.ok(programs.includes("bin/freshkey-token"));
    for (const file of programs) {
      assert.ok((statSync(join(root, file)).mode & 0o111) === 0o111, `${file} is not executable`);
      assert.match(text(file), /^#!\//, `${file} has no first line that names its interpreter`);
    }
  });
});
