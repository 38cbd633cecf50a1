import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, type TestContext, test } from "node:test";
import { FreshkeyError } from "../../src/core/errors.ts";
import { removeFiles, replaceFiles } from "../../src/os/atomic-file.ts";
import { temporaryDirectory } from "../support/unit.ts";

const read = (...path: string[]) => readFileSync(join(...path), "utf8");
const modeOf = (...path: string[]) => statSync(join(...path)).mode & 0o7777;

/** Expects `ERR_TOKEN_WRITE` that names the directory and the system's error, with advice. */
const refused = (directory: string, code: string, hint: RegExp) => (error: unknown) => {
  assert.ok(error instanceof FreshkeyError, String(error));
  assert.deepEqual([error.code, error.message], ["ERR_TOKEN_WRITE", `cannot write in ${directory}: ${code}`]);
  assert.match(error.hint ?? "", hint);
  return true;
};

describe("replaceFiles", () => {
  test("contents, in a directory that has nothing else afterwards", async (t) => {
    const directory = temporaryDirectory(t);
    await replaceFiles(directory, [
      { name: "token", data: "one" },
      { name: "token.json", data: "{}\n" },
    ]);
    await replaceFiles(directory, [{ name: "token", data: "two" }]);
    assert.deepEqual(readdirSync(directory).sort(), ["token", "token.json"]);
    assert.deepEqual([read(directory, "token"), read(directory, "token.json")], ["two", "{}\n"]);
  });

  test("another file each time: whoever has the old one open reads it to its end", async (t) => {
    const directory = temporaryDirectory(t);
    await replaceFiles(directory, [{ name: "token", data: "one" }]);
    const before = statSync(join(directory, "token")).ino;
    await replaceFiles(directory, [{ name: "token", data: "two" }]);
    assert.notEqual(statSync(join(directory, "token")).ino, before);
  });

  test("modes as told, whatever the umask and whatever was there", async (t) => {
    const directory = temporaryDirectory(t);
    for (const umask of [0o000, 0o077, 0o777]) {
      const previous = process.umask(umask);
      try {
        await replaceFiles(directory, [
          { name: "private", data: "x" },
          { name: "shared", data: "x", mode: 0o640 },
        ]);
      } finally {
        process.umask(previous);
      }
      assert.deepEqual([modeOf(directory, "private"), modeOf(directory, "shared")], [0o600, 0o640], umask.toString(8));
      chmodSync(join(directory, "private"), 0o666);
    }
  });

  test("a group as told", async (t) => {
    if (process.geteuid?.() !== 0) return t.skip("only root can give a file to any group");
    const directory = temporaryDirectory(t);
    await replaceFiles(directory, [{ name: "token", data: "x", mode: 0o640, group: 54_321 }]);
    const { uid, gid } = statSync(join(directory, "token"));
    assert.deepEqual([uid, gid, modeOf(directory, "token")], [0, 54_321, 0o640]);
  });

  test("what a killed writer left is replaced, and its mode does not stay", async (t) => {
    const directory = temporaryDirectory(t);
    writeFileSync(join(directory, ".token.new"), "half a tok", { mode: 0o666 });
    chmodSync(join(directory, ".token.new"), 0o666);
    await replaceFiles(directory, [{ name: "token", data: "whole" }]);
    assert.deepEqual(readdirSync(directory), ["token"]);
    assert.deepEqual([read(directory, "token"), modeOf(directory, "token")], ["whole", 0o600]);
  });

  test("a link at the temporary name is not followed", async (t) => {
    const base = temporaryDirectory(t);
    const directory = join(base, "tokens");
    mkdirSync(directory);
    writeFileSync(join(base, "victim"), "precious");
    for (const target of [join(base, "victim"), join(base, "new-file")]) {
      symlinkSync(target, join(directory, ".token.new"));
      await replaceFiles(directory, [{ name: "token", data: "secret" }]);
      assert.equal(lstatSync(join(directory, "token")).isFile(), true);
    }
    assert.equal(read(base, "victim"), "precious");
    assert.equal(existsSync(join(base, "new-file")), false);
  });

  test("a link at the target is replaced, not followed", async (t) => {
    const base = temporaryDirectory(t);
    writeFileSync(join(base, "victim"), "precious");
    symlinkSync(join(base, "victim"), join(base, "token"));
    await replaceFiles(base, [{ name: "token", data: "secret" }]);
    assert.deepEqual([read(base, "victim"), read(base, "token")], ["precious", "secret"]);
    assert.equal(lstatSync(join(base, "token")).isSymbolicLink(), false);
  });

  test("none is replaced if the last one cannot be written, and nothing is left lying about", async (t) => {
    const directory = temporaryDirectory(t);
    await replaceFiles(directory, [{ name: "token", data: "old" }]);
    mkdirSync(join(directory, ".token.json.new"));
    const files = [
      { name: "token", data: "new" },
      { name: "token.json", data: "{}" },
    ];
    await assert.rejects(replaceFiles(directory, files), { code: "ERR_TOKEN_WRITE" });
    assert.equal(read(directory, "token"), "old");
    assert.deepEqual(readdirSync(directory).sort(), [".token.json.new", "token"]);
  });

  test("in the order given: the first is in place when the second fails", async (t) => {
    const directory = temporaryDirectory(t);
    mkdirSync(join(directory, "token.json/in-the-way"), { recursive: true });
    const files = [
      { name: "token", data: "new" },
      { name: "token.json", data: "{}" },
    ];
    await assert.rejects(replaceFiles(directory, files), { code: "ERR_TOKEN_WRITE" });
    assert.equal(read(directory, "token"), "new");
    assert.deepEqual(readdirSync(directory).sort(), ["token", "token.json"]);
  });

  test("errors: a directory that is not there, or is none", async (t) => {
    const base = temporaryDirectory(t);
    const missing = join(base, "missing");
    await assert.rejects(
      replaceFiles(missing, [{ name: "token", data: "x" }]),
      refused(missing, "ENOENT", /make the directory again/),
    );
    writeFileSync(join(base, "file"), "");
    const file = join(base, "file");
    await assert.rejects(replaceFiles(file, [{ name: "token", data: "x" }]), refused(file, "ENOTDIR", /directory/));
  });

  test("errors: no permission", async (t) => {
    const directory = temporaryDirectory(t);
    writeFileSync(join(directory, "token"), "old");
    // Root may do anything, so for a moment this is somebody else.
    const root = process.geteuid?.() === 0;
    chmodSync(directory, root ? 0o755 : 0o500);
    if (root) process.seteuid?.(54_321);
    const outcome = await replaceFiles(directory, [{ name: "token", data: "new" }]).catch((error) => error);
    if (root) process.seteuid?.(0);
    refused(directory, "EACCES", /make the directory yours and writable/)(outcome);
    chmodSync(directory, 0o700);
    assert.equal(read(directory, "token"), "old");
  });

  test("errors: a full disk leaves the old token whole, and the next try succeeds", async (t) => {
    const directory = tmpfs(t, "size=64k,nr_inodes=16");
    if (!directory) return t.skip("a file system can only be mounted by root, and not everywhere");
    await replaceFiles(directory, [
      { name: "token", data: "old" },
      { name: "token.json", data: "{}" },
    ]);
    writeFileSync(join(directory, "ballast"), "x".repeat(40_000));
    const large = "y".repeat(40_000);
    await assert.rejects(
      replaceFiles(directory, [
        { name: "token", data: large },
        { name: "token.json", data: "{}" },
      ]),
      refused(directory, "ENOSPC", /make room/),
    );
    assert.deepEqual(readdirSync(directory).sort(), ["ballast", "token", "token.json"]);
    assert.equal(read(directory, "token"), "old");
    rmSync(join(directory, "ballast"));
    await replaceFiles(directory, [{ name: "token", data: large }]);
    assert.equal(read(directory, "token"), large);
  });

  test("errors: a disk without room for one more file", async (t) => {
    const directory = tmpfs(t, "size=64k,nr_inodes=3");
    if (!directory) return t.skip("a file system can only be mounted by root, and not everywhere");
    await replaceFiles(directory, [{ name: "token", data: "old" }]);
    writeFileSync(join(directory, "ballast"), "");
    await assert.rejects(
      replaceFiles(directory, [{ name: "token", data: "new" }]),
      refused(directory, "ENOSPC", /make room/),
    );
    assert.equal(read(directory, "token"), "old");
  });

  test("errors: a disk that can only be read", async (t) => {
    const directory = tmpfs(t, "size=64k");
    if (!directory) return t.skip("a file system can only be mounted by root, and not everywhere");
    await replaceFiles(directory, [{ name: "token", data: "old" }]);
    execFileSync("mount", ["-o", "remount,ro", directory]);
    await assert.rejects(
      replaceFiles(directory, [{ name: "token", data: "new" }]),
      refused(directory, "EROFS", /mount it writable/),
    );
    assert.equal(read(directory, "token"), "old");
    await assert.rejects(removeFiles(directory, ["token"]), refused(directory, "EROFS", /mount it writable/));
  });
});

describe("removeFiles", () => {
  test("files and what a killed writer left of them; what is not there is no error, what is not named stays", async (t) => {
    const directory = temporaryDirectory(t);
    for (const name of ["token", ".token.new", ".token.json.new", "other"]) writeFileSync(join(directory, name), "x");
    await removeFiles(directory, ["token", "token.json"]);
    assert.deepEqual(readdirSync(directory), ["other"]);
    await removeFiles(directory, ["token", "token.json"]);
  });

  test("in the order given", async (t) => {
    const directory = temporaryDirectory(t);
    mkdirSync(join(directory, "first"));
    writeFileSync(join(directory, "second"), "x");
    await assert.rejects(removeFiles(directory, ["first", "second"]), { code: "ERR_TOKEN_WRITE" });
    assert.equal(existsSync(join(directory, "second")), true);
  });
});

/** A file system of one's own, with these options; undefined where none can be mounted. */
function tmpfs(t: TestContext, options: string): string | undefined {
  const directory = mkdtempSync(join(tmpdir(), "fk-unit-"));
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", options, "freshkey-test", directory], { stdio: "ignore" });
  } catch {
    rmdirSync(directory);
    return undefined;
  }
  t.after(() => {
    execFileSync("umount", [directory]);
    rmdirSync(directory);
  });
  return directory;
}
