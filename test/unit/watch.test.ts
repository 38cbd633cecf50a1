/** Push events: they come soon, and from chokidar alone. */
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, type TestContext, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";
import { fingerprint } from "../../src/core/token.ts";
import { KeyFile, type Rotation } from "../../src/reader/key-file.ts";
import { formatTokenJson } from "../../src/reader/token-file.ts";
import { watchToken } from "../../src/reader/watch.ts";
import { pause, temporaryDirectory, until } from "../support/unit.ts";

/** Milliseconds within which an event is to arrive. */
const SOON = 500;
const source = fileURLToPath(new URL("../../src/reader/key-file.ts", import.meta.url));

function tokenPath(t: TestContext): string {
  const path = join(temporaryDirectory(t), "copilot/token");
  mkdirSync(dirname(path), { mode: 0o700 });
  return path;
}

/** As the writer does it: both files, by rename. */
function put(path: string, value: string): void {
  const json = { minted: 1, fingerprint: fingerprint(value), name: "copilot", source: "command", control: "" };
  writeFileSync(`${path}.new`, value);
  writeFileSync(`${path}.json.new`, formatTokenJson({ expires: 0, ...json, base_url: "", verify: false, schema: 1 }));
  renameSync(`${path}.new`, path);
  renameSync(`${path}.json.new`, `${path}.json`);
}

/** Listens, and waits until the watch must be in place. */
async function rotations(t: TestContext, key: KeyFile): Promise<Rotation[]> {
  const seen: Rotation[] = [];
  key.on("rotated", (rotation) => seen.push(rotation));
  t.after(() => key.close());
  await pause(300);
  return seen;
}

/** How long it takes until there is one more rotation. */
async function timeTo(seen: readonly unknown[], change: () => void): Promise<number> {
  const before = seen.length;
  change();
  const began = performance.now();
  await until("a rotation", () => seen.length > before);
  return performance.now() - began;
}

describe("rotated", { concurrency: true }, () => {
  test("within half a second of a publication, without anybody asking, and with no token in it", async (t) => {
    const path = tokenPath(t);
    put(path, "one");
    const seen = await rotations(t, new KeyFile(path, {}));
    assert.deepEqual(seen, [], "the token of now is none");
    for (const value of ["two", "three", "four"]) {
      const took = await timeTo(seen, () => put(path, value));
      assert.ok(took < SOON, `${took} ms`);
      assert.deepEqual(seen.at(-1), { fingerprint: fingerprint(value), expires: 0 });
      await pause(50);
    }
    assert.equal(seen.length, 3, "once each");
  });

  test("also for the first token of all", async (t) => {
    const path = tokenPath(t);
    const seen = await rotations(t, new KeyFile(path, {}));
    const took = await timeTo(seen, () => put(path, "first"));
    assert.ok(took < SOON, `${took} ms`);
  });

  test("nothing for the same token again, or after close", async (t) => {
    const path = tokenPath(t);
    put(path, "one");
    const key = new KeyFile(path, {});
    const seen = await rotations(t, key);
    put(path, "one");
    await pause(SOON);
    await key.close();
    put(path, "two");
    await pause(SOON);
    assert.deepEqual(seen, []);
  });

  test("a directory that is removed and made again is found again", async (t) => {
    const path = tokenPath(t);
    put(path, "one");
    const seen = await rotations(t, new KeyFile(path, {}));
    rmSync(dirname(path), { recursive: true });
    await pause(100);
    mkdirSync(dirname(path), { mode: 0o700 });
    put(path, "two");
    await until("a rotation", () => seen.length === 1);
    assert.ok((await timeTo(seen, () => put(path, "three"))) < SOON, "and watched as before");
  });

  test("a directory that is made only later is found", async (t) => {
    const path = tokenPath(t);
    rmSync(dirname(path), { recursive: true });
    const seen = await rotations(t, new KeyFile(path, {}));
    mkdirSync(dirname(path), { mode: 0o700 });
    put(path, "one");
    await until("a rotation", () => seen.length === 1);
  });

  test("Kubernetes: a link beside it is replaced, the token's own never is", async (t) => {
    const directory = temporaryDirectory(t);
    const project = (version: string, value: string) => {
      mkdirSync(join(directory, version));
      writeFileSync(join(directory, version, "token"), value);
      symlinkSync(version, join(directory, "..data_tmp"));
      renameSync(join(directory, "..data_tmp"), join(directory, "..data"));
    };
    project("..2026_11_23_09_00_00.1", "one");
    symlinkSync("..data/token", join(directory, "token"));
    const key = new KeyFile(join(directory, "token"), {});
    const seen = await rotations(t, key);
    const took = await timeTo(seen, () => project("..2026_11_23_09_50_00.2", "two"));
    assert.ok(took < SOON, `${took} ms`);
    assert.equal(await key.get(), "two");
    rmSync(join(directory, "..2026_11_23_09_00_00.1"), { recursive: true });
    assert.ok((await timeTo(seen, () => project("..2026_11_23_10_40_00.3", "three"))) < SOON, "the next one as well");
  });
});

describe("chokidar", { concurrency: true }, () => {
  /** The reader with another chokidar in it. */
  async function readerWith(t: TestContext, chokidar: string | undefined): Promise<typeof KeyFile> {
    const directory = temporaryDirectory(t);
    const stub = join(directory, "chokidar.mjs");
    if (chokidar !== undefined) writeFileSync(stub, chokidar);
    const outfile = join(directory, "reader.mjs");
    const alias = chokidar === undefined ? {} : { chokidar: stub };
    await build({ entryPoints: [source], outfile, bundle: true, platform: "node", format: "esm", alias });
    return (await import(pathToFileURL(outfile).href)).KeyFile;
  }

  test("is what brings `rotated`: with one that says nothing there is none", async (t) => {
    const silent =
      'import { EventEmitter } from "node:events"; export const watch = () => Object.assign(new EventEmitter(), { close() {} });';
    for (const [chokidar, expected] of [
      [silent, 0],
      [undefined, 1],
    ] as const) {
      const path = tokenPath(t);
      put(path, "one");
      const Reader = await readerWith(t, chokidar);
      const key = new Reader(path, {});
      const seen = await rotations(t, key);
      put(path, "two");
      await pause(2 * SOON);
      assert.equal(seen.length, expected, chokidar ? "a silent one" : "the real one");
      assert.equal(await key.get(), "two", "what is read does not rest on an event");
    }
  });

  test("is what `watchToken` hears: with one that says nothing, nothing", async (t) => {
    const path = tokenPath(t);
    let calls = 0;
    const silent = { watch: () => Object.assign(new EventEmitter(), { close() {} }) };
    const watch = watchToken(
      path,
      () => calls++,
      async () => silent as unknown as typeof import("chokidar"),
    );
    t.after(() => watch.close());
    await pause(50);
    put(path, "one");
    await pause(SOON);
    assert.equal(calls, 0);
  });

  test("watches the token's directory and none above it, without keeping the process alive", async (t) => {
    const path = tokenPath(t);
    const watched: unknown[][] = [];
    const fake = Object.assign(new EventEmitter(), { close() {} });
    const watchDirectory = (...args: unknown[]) => {
      watched.push(args);
      return fake;
    };
    const load = async () => ({ watch: watchDirectory });
    let calls = 0;
    const watch = watchToken(path, () => calls++, load as unknown as () => Promise<typeof import("chokidar")>);
    t.after(() => watch.close());
    await until("a watch", () => watched.length);
    assert.deepEqual(watched, [[dirname(path), { depth: 0, ignoreInitial: true, persistent: false }]]);
    fake.emit("ready");
    fake.emit("all", "add", path);
    assert.equal(calls, 2);
  });
});

// By itself: this clock would be that of the others as well.
test("a chokidar that breaks, or is not there, breaks nothing: it is tried again, until the watch is closed", async (t) => {
  const path = tokenPath(t);
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const turn = () => new Promise((done) => setImmediate(done));
  let loads = 0;
  const fakes: EventEmitter[] = [];
  const load = async () => {
    loads++;
    if (loads === 1) throw new Error("Cannot find package 'chokidar'");
    return {
      watch() {
        if (loads === 2) throw new Error("ENOSPC: System limit for number of file watchers reached");
        fakes.push(Object.assign(new EventEmitter(), { close() {} }));
        return fakes.at(-1);
      },
    };
  };
  const watch = watchToken(path, () => undefined, load as unknown as () => Promise<typeof import("chokidar")>);
  for (const expected of [1, 2, 3]) {
    await turn();
    assert.equal(loads, expected);
    t.mock.timers.tick(1_000);
  }
  fakes[0]?.emit("error", new Error("EMFILE"));
  t.mock.timers.tick(1_000);
  await turn();
  assert.deepEqual([loads, fakes.length], [4, 2]);
  watch.close();
  fakes[1]?.emit("error", new Error("EMFILE"));
  t.mock.timers.tick(5_000);
  await turn();
  assert.equal(loads, 4);
});
