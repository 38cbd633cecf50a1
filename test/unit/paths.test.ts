import assert from "node:assert/strict";
import { chmodSync, chownSync, mkdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { FreshkeyError } from "../../src/core/errors.ts";
import {
  configFile,
  makePrivateDirectory,
  runDirectory,
  type Surroundings,
  surroundings,
  unsafeDirectory,
} from "../../src/os/paths.ts";
import { temporaryDirectory } from "../support/unit.ts";

const uid = process.geteuid?.() ?? -1;
/** Nobody's, on every system. */
const OTHER = 54_321;
const asRoot = { skip: uid !== 0 && "only root can give a file away" };

function around(home: string, more: Partial<Surroundings> = {}): Surroundings {
  return { env: {}, platform: "linux", uid, home, hostname: "build-7", ...more };
}

/** A directory whose mode the umask has no part in. */
function directory(path: string, mode: number, owner?: number): string {
  mkdirSync(path);
  chmodSync(path, mode);
  if (owner !== undefined) chownSync(path, owner, owner);
  return path;
}

describe("runDirectory", () => {
  test("below XDG_RUNTIME_DIR", (t) => {
    const own = temporaryDirectory(t);
    const where = around("/home/me", { env: { XDG_RUNTIME_DIR: own } });
    assert.deepEqual(runDirectory(where), { path: join(own, "freshkey"), onDisk: false });
  });

  test("on a disk, for this host alone, where there is no runtime directory", (t) => {
    const own = temporaryDirectory(t);
    const file = join(own, "file");
    writeFileSync(file, "");
    const disk = { path: "/home/me/.local/state/freshkey/run-build-7", onDisk: true };
    // Nobody has this uid, so there is no /run/user of it either.
    const values = [undefined, "", "relative/path", join(own, "missing"), join(file, "below")];
    for (const value of values) {
      const env = value === undefined ? {} : { XDG_RUNTIME_DIR: value };
      assert.deepEqual(runDirectory(around("/home/me", { env, uid: OTHER })), disk, `${value}`);
    }
  });

  test("somebody else's XDG_RUNTIME_DIR (su, sudo -E) counts for nothing", (t) => {
    const env = { XDG_RUNTIME_DIR: temporaryDirectory(t) };
    assert.equal(runDirectory(around("/home/me", { env, uid: OTHER })).onDisk, true);
  });

  test("/run/user/UID, where it is this user's", asRoot, (t) => {
    const path = `/run/user/${OTHER}`;
    try {
      mkdirSync(path, { recursive: true });
    } catch {
      return t.skip("there is no /run/user here");
    }
    t.after(() => import("node:fs").then(({ rmdirSync }) => rmdirSync(path)));
    assert.equal(runDirectory(around("/home/me", { uid: OTHER })).onDisk, true, "root's");
    chownSync(path, OTHER, OTHER);
    assert.deepEqual(runDirectory(around("/home/me", { uid: OTHER })), { path: `${path}/freshkey`, onDisk: false });
    const env = { XDG_RUNTIME_DIR: temporaryDirectory(t) };
    const found = runDirectory(around("/home/me", { uid: OTHER, env }));
    assert.deepEqual(found, { path: `${path}/freshkey`, onDisk: false }, "instead of a foreign XDG_RUNTIME_DIR");
  });

  test("macOS: below Library, whatever the variables say", (t) => {
    const env = { XDG_RUNTIME_DIR: temporaryDirectory(t), TMPDIR: "/tmp" };
    const path = "/Users/me/Library/Application Support/freshkey/run";
    assert.deepEqual(runDirectory(around("/Users/me", { env, platform: "darwin" })), { path, onDisk: true });
  });

  test("the surroundings of now", () => {
    const found = surroundings();
    assert.deepEqual([found.uid, found.platform, found.env], [uid, process.platform, process.env]);
    assert.equal(found.home, process.env.HOME ?? found.home);
  });
});

describe("configFile", () => {
  test("--config, then FRESHKEY_CONFIG, then the user's own", (t) => {
    const home = temporaryDirectory(t);
    const own = join(home, ".config/freshkey/config.toml");
    assert.equal(configFile("/a.toml", around(home, { env: { FRESHKEY_CONFIG: "/b.toml" } })), "/a.toml");
    assert.equal(configFile(undefined, around(home, { env: { FRESHKEY_CONFIG: "/b.toml" } })), "/b.toml");
    assert.equal(configFile(undefined, around(home, { env: { FRESHKEY_CONFIG: "" } })), own);
    assert.equal(
      configFile(undefined, around(home, { env: { XDG_CONFIG_HOME: "/xdg" } })),
      "/xdg/freshkey/config.toml",
    );
  });
});

describe("unsafeDirectory", () => {
  test("one's own, whoever may read it, is safe", (t) => {
    const own = temporaryDirectory(t);
    for (const mode of [0o700, 0o710, 0o750, 0o755, 0o500]) {
      chmodSync(own, mode);
      assert.equal(unsafeDirectory(own), undefined, mode.toString(8));
    }
  });

  test("one that others can write to is not", (t) => {
    const own = temporaryDirectory(t);
    for (const mode of [0o720, 0o702, 0o777, 0o1777, 0o770]) {
      chmodSync(own, mode);
      const shown = (mode & 0o777).toString(8).padStart(4, "0");
      assert.deepEqual(unsafeDirectory(own), {
        problem: `can be written to by others (mode ${shown})`,
        hint: `chmod go-w ${own}`,
      });
      assert.notEqual(unsafeDirectory(own, uid, { sharedIsFine: true }), undefined, "for a reader as little");
    }
  });

  test("a symbolic link is not, wherever it leads", (t) => {
    const base = temporaryDirectory(t);
    symlinkSync(directory(join(base, "real"), 0o700), join(base, "link"));
    assert.equal(unsafeDirectory(join(base, "link"))?.problem, "is a symbolic link");
  });

  test("a file is not", (t) => {
    const path = join(temporaryDirectory(t), "file");
    writeFileSync(path, "");
    assert.equal(unsafeDirectory(path)?.problem, "is not a directory");
  });

  test("somebody else's is not; root's is", asRoot, (t) => {
    const base = temporaryDirectory(t);
    const foreign = directory(join(base, "foreign"), 0o700, OTHER);
    assert.equal(unsafeDirectory(foreign, uid)?.problem, `belongs to uid ${OTHER}, not to ${uid}`);
    assert.equal(unsafeDirectory(foreign, OTHER), undefined);
    assert.equal(unsafeDirectory(base, OTHER), undefined, "root could do anything anyway");
  });

  test("somebody else's that is shared with a group is fine for a reader, and for nobody else", asRoot, (t) => {
    const base = temporaryDirectory(t);
    const shared = directory(join(base, "shared"), 0o710, OTHER);
    assert.notEqual(unsafeDirectory(shared, uid), undefined);
    assert.equal(unsafeDirectory(shared, uid, { sharedIsFine: true }), undefined);
    chmodSync(shared, 0o701);
    assert.notEqual(unsafeDirectory(shared, uid, { sharedIsFine: true }), undefined, "shared with all is not meant");
    chmodSync(shared, 0o730);
    assert.notEqual(unsafeDirectory(shared, uid, { sharedIsFine: true }), undefined, "the group may write");
  });
});

describe("makePrivateDirectory", () => {
  const refused = (what: RegExp) => (error: unknown) => {
    assert.ok(error instanceof FreshkeyError, String(error));
    assert.equal(error.code, "ERR_RUN_DIRECTORY");
    assert.match(error.message, what);
    assert.notEqual(error.hint, undefined);
    return true;
  };

  test("0700 all the way down, whatever the umask", (t) => {
    const base = temporaryDirectory(t);
    const previous = process.umask(0);
    t.after(() => process.umask(previous));
    makePrivateDirectory(join(base, "a/b/c"));
    for (const path of ["a", "a/b", "a/b/c"]) assert.equal(statSync(join(base, path)).mode & 0o777, 0o700, path);
  });

  test("one that is there is checked and left as it is", (t) => {
    const base = temporaryDirectory(t);
    const open = directory(join(base, "open"), 0o755);
    makePrivateDirectory(open);
    assert.equal(statSync(open).mode & 0o777, 0o755);
    chmodSync(open, 0o777);
    assert.throws(() => makePrivateDirectory(open), refused(/open can be written to by others \(mode 0777\)/));
  });

  test("neither a link nor a file is taken for one", (t) => {
    const base = temporaryDirectory(t);
    symlinkSync(directory(join(base, "real"), 0o700), join(base, "link"));
    symlinkSync(join(base, "nowhere"), join(base, "dangling"));
    writeFileSync(join(base, "file"), "");
    assert.throws(() => makePrivateDirectory(join(base, "link")), refused(/link is a symbolic link/));
    assert.throws(() => makePrivateDirectory(join(base, "dangling")), refused(/cannot make .*dangling: E/));
    assert.throws(() => makePrivateDirectory(join(base, "file")), refused(/cannot make .*file: EEXIST/));
    assert.throws(() => makePrivateDirectory(join(base, "file/below")), refused(/cannot make .*below: ENOTDIR/));
  });

  test("not below somebody else's directory (sudo -E)", asRoot, (t) => {
    const base = temporaryDirectory(t);
    const foreign = directory(join(base, "foreign"), 0o700, OTHER);
    assert.throws(
      () => makePrivateDirectory(join(foreign, "freshkey/agent")),
      refused(/foreign belongs to uid 54321, not to 0/),
    );
    assert.throws(() => statSync(join(foreign, "freshkey")), { code: "ENOENT" });
    mkdirSync(join(foreign, "theirs"));
    chownSync(join(foreign, "theirs"), OTHER, OTHER);
    assert.throws(() => makePrivateDirectory(join(foreign, "theirs")), refused(/theirs belongs to uid 54321/));
  });
});
