/**
 * Builds dist: TypeScript to JavaScript, and the library and the Copilot CLI extension into one file each. Quick when
 * there is nothing to do, since `npm run demo` and `npm test` begin with it; silent where there is nothing to build from
 * (an installed package).
 */
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));

const EXTENSION = "src/clients/copilot-extension.ts";
const READER = "src/reader/index.ts";

const compiler = findCompiler();
if (compiler && existsSync("src") && !isUpToDate()) await build(compiler);

/** The script of TypeScript's compiler; undefined where it is not installed. */
function findCompiler() {
  try {
    const manifest = createRequire(import.meta.url).resolve("typescript/package.json");
    return join(dirname(manifest), JSON.parse(readFileSync(manifest, "utf8")).bin.tsc);
  } catch {
    return undefined;
  }
}

/** Whether dist was built after the last change. A file that was removed shows in the time of its directory. */
function isUpToDate() {
  if (!existsSync("dist")) return false;
  const inputs = ["src", ...readdirSync("src", { recursive: true }).map((path) => join("src", path))];
  const built = statSync("dist").mtimeMs;
  return [...inputs, "package.json", "tsconfig.json", "scripts/build.js"].every(
    (path) => statSync(path).mtimeMs < built,
  );
}

async function build(tsc) {
  // Built aside and moved into place: neither a failed build nor two at a time leave half a dist.
  const aside = `dist.${process.pid}`;
  const started = new Date();
  try {
    rmSync(aside, { recursive: true, force: true });
    const { status } = spawnSync(process.execPath, [tsc, "-p", ".", "--outDir", aside], { stdio: ["ignore", 2, 2] });
    if (status !== 0) throw new Error("the TypeScript compiler found errors");
    if (existsSync(EXTENSION)) await bundle(EXTENSION, join(aside, "clients/copilot-extension.bundle.mjs"));
    if (existsSync(READER)) await bundle(READER, join(aside, "reader/index.js"));
    for (const program of readdirSync("bin")) chmodSync(join("bin", program), 0o755);
    // What changes while the compiler runs may have been missed: dist is as old as the beginning of its build.
    utimesSync(aside, started, started);
    replace("dist", aside);
  } catch (error) {
    process.exitCode = 1;
    process.stderr.write(`build: ${error.message}\n`);
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
}

/**
 * Makes one file of `entry` and all that it imports. The extension is copied into the Copilot CLI's directory, where the
 * user can read it, and runs there without node_modules. The reader is loaded by other people's programs: one file of it
 * takes a third of the time that its parts do.
 */
async function bundle(entry, outfile) {
  const esbuild = await import("esbuild");
  await esbuild.build({
    entryPoints: [entry],
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    // Copilot CLI itself resolves its SDK; chokidar is for those who listen for rotations, which the extension does not.
    external: ["@github/copilot-sdk/extension", "chokidar"],
    legalComments: "inline",
    logLevel: "warning",
  });
  // The compiler's, of the file that was there before.
  rmSync(`${outfile}.map`, { force: true });
}

/** Puts the directory `fresh` in the place of `path`. A directory cannot be renamed over one that is not empty. */
function replace(path, fresh) {
  const old = `${fresh}.old`;
  try {
    if (existsSync(path)) renameSync(path, old);
    renameSync(fresh, path);
  } catch (error) {
    // Another build, just as new, was quicker by a moment.
    if (!["ENOENT", "ENOTEMPTY", "EEXIST"].includes(error.code) || !existsSync(path)) throw error;
  } finally {
    rmSync(old, { recursive: true, force: true });
  }
}
