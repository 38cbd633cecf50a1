/**
 * Runs the tests with Node's own runner: `node scripts/test.js [--unit] [--real] [--coverage]`.
 *
 * Without options, the unit and the integration tests; --unit leaves the integration tests out, --real adds those that
 * drive the real clients. --coverage measures src/core, src/os and src/reader with c8, in the processes that the tests
 * start as well, and prints its table before the runner's closing lines.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));

const { values: options } = parseArgs({
  options: { unit: { type: "boolean" }, real: { type: "boolean" }, coverage: { type: "boolean" } },
});
const suites = ["unit", ...(options.unit ? [] : ["integration"]), ...(options.real ? ["real"] : [])];
// Node.js 20 takes no patterns, so the files are looked for here.
const files = suites.flatMap((suite) => {
  const folder = join("test", suite);
  const names = existsSync(folder) ? readdirSync(folder, { recursive: true }) : [];
  const found = names.filter((name) => name.endsWith(".test.ts")).sort();
  if (found.length === 0) throw new Error(`there are no tests in ${folder}`);
  return found.map((name) => join(folder, name));
});
const runner = ["--import", "tsx", "--test", "--test-reporter", "spec", "--test-concurrency", "2", ...files];

process.exitCode = options.coverage
  ? await runWithCoverage()
  : await exitCode(spawn(process.execPath, runner, { stdio: "inherit" }));

function exitCode(child) {
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve(code ?? 1));
  });
}

/**
 * One run, whose output goes straight through as far as the runner's closing lines (`ℹ tests 123` and what follows).
 * These wait until the coverage of that same run has been printed.
 */
async function runWithCoverage() {
  const raw = join("coverage", "raw");
  rmSync(raw, { recursive: true, force: true });
  const colours = process.stdout.isTTY ? { FORCE_COLOR: "1" } : {};
  const env = { ...process.env, ...colours, NODE_V8_COVERAGE: raw };
  const child = spawn(process.execPath, runner, { stdio: ["inherit", "pipe", "inherit"], env });
  const ended = exitCode(child);
  let closing = [];
  for await (const line of createInterface({ input: child.stdout })) {
    // In colours, on a terminal. Should a test print such a line, the runner's own comes after it.
    const isFirst = /^(\x1b\[\d+m)*ℹ tests \d+(\x1b\[\d+m)*$/.test(line);
    if (isFirst) closing = print(closing);
    if (isFirst || closing.length > 0) closing.push(line);
    else print([line]);
  }
  const code = await ended;
  const reported = report(raw);
  print(closing);
  return code || reported;
}

function print(lines) {
  for (const line of lines) process.stdout.write(`${line}\n`);
  return [];
}

/** Prints the table. The sources are those in src, whether they ran from there or, compiled, from dist. */
function report(raw) {
  const c8 = join(dirname(createRequire(import.meta.url).resolve("c8/package.json")), "bin/c8.js");
  const include = ["core", "os", "reader"].flatMap((layer) => ["--include", `src/${layer}/**`]);
  const settings = ["--exclude-after-remap", "--all", "--src", "src", "--temp-directory", raw, "--reporter", "text"];
  const { status } = spawnSync(process.execPath, [c8, "report", ...settings, ...include], { stdio: "inherit" });
  rmSync(raw, { recursive: true, force: true });
  return status ?? 1;
}
