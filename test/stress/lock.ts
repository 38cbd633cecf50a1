/**
 * The lock under fire: processes that take it as fast as they can, and are killed and suspended at random all the while.
 *
 *     node --import tsx test/stress/lock.ts [--acquisitions 10000] [--processes 12] [--seed 1] [--dist DIRECTORY]
 *
 * That no two have it at a time is witnessed by a file which knows nothing of the lock: see test/support/lock-holder.mjs.
 * The seed decides who is hit when, and how; what the processes do meanwhile is up to the kernel. Ends with one line of
 * figures, and exit code 1 if there was an overlap, if nobody got the lock for a while, or if anything was left behind.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import type { acquireLock } from "../../src/os/lock.ts";
import { randomFrom } from "../support/random.ts";

const HOLDER = fileURLToPath(new URL("../support/lock-holder.mjs", import.meta.url));
/** Milliseconds, at most: how long a lock is kept, between two hits, and that a suspended process stays so. */
const HOLD = 5;
const BETWEEN_HITS = 80;
const SUSPENSION = 250;
/** Milliseconds without an acquisition after which something is taken to be stuck. */
const STUCK = 30_000;

const { values } = parseArgs({
  options: {
    acquisitions: { type: "string", default: "10000" },
    processes: { type: "string", default: "12" },
    seed: { type: "string", default: "1" },
    dist: { type: "string", default: fileURLToPath(new URL("../../dist", import.meta.url)) },
  },
});
const wanted = Number(values.acquisitions);
const processes = Number(values.processes);
const seed = Number(values.seed);
const { dist } = values;
if (process.platform !== "linux") throw new Error("the witness needs Linux's /proc");

const random = randomFrom(seed);
const base = mkdtempSync(join(tmpdir(), "lock-"));
const directory = join(base, "agent");
mkdirSync(directory, { mode: 0o700 });

const figures = { acquisitions: 0, afterKill: 0, kills: 0, suspensions: 0, ended: 0 };
const overlaps: string[] = [];
const contenders = new Map<ChildProcess, { suspended: boolean; doomed: boolean }>();
const began = Date.now();
let lastAcquisition = began;

function startContender(): void {
  const args = [HOLDER, dist, directory, join(base, "witness"), String(HOLD)];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const state = { suspended: false, doomed: false };
  contenders.set(child, state);
  createInterface({ input: child.stdout }).on("line", count);
  child.once("close", () => {
    contenders.delete(child);
    if (!state.doomed) figures.ended++;
  });
}

function count(line: string): void {
  if (line.startsWith("o")) overlaps.push(line.slice(2));
  else {
    figures.acquisitions++;
    if (line === "k") figures.afterKill++;
    lastAcquisition = Date.now();
  }
}

/** Kills one of them, whom another one then replaces, or suspends it for a while. */
function hitSomebody(): void {
  const targets = [...contenders].filter(([, { suspended, doomed }]) => !suspended && !doomed);
  // Anybody, or whoever has it just now: by chance alone few would be hit at that moment.
  const anybody = targets[Math.floor(random() * targets.length)];
  const target = random() < 0.5 ? targets.find(([child]) => child.pid === holder()) : anybody;
  if (!target) return;
  const [child, state] = target;
  if (random() < 0.5) {
    state.doomed = child.kill("SIGKILL");
    figures.kills++;
    return;
  }
  state.suspended = child.kill("SIGSTOP");
  figures.suspensions++;
  // Some are killed while they are suspended.
  const end = random() < 0.2 ? "SIGKILL" : "SIGCONT";
  setTimeout(() => {
    state.suspended = false;
    if (end === "SIGKILL") {
      state.doomed = true;
      figures.kills++;
    }
    child.kill(end);
  }, random() * SUSPENSION);
}

/** The pid in the witness, if there is one. */
function holder(): number | undefined {
  try {
    return Number(readFileSync(join(base, "witness"), "latin1").split(" ", 1)[0]);
  } catch {
    return undefined;
  }
}

async function endAll(): Promise<void> {
  const closed = [...contenders.keys()].map((child) => new Promise((resolve) => child.once("close", resolve)));
  for (const [child, state] of contenders) {
    state.doomed = true;
    child.kill("SIGCONT");
    child.kill("SIGTERM");
  }
  const timer = setTimeout(() => {
    for (const child of contenders.keys()) child.kill("SIGKILL");
  }, 10_000);
  await Promise.all(closed);
  clearTimeout(timer);
}

/** What the killed ones have left behind is removed by the next holder; after that there is to be nothing. */
async function leftBehind(): Promise<string[]> {
  const module: { acquireLock: typeof acquireLock } = await import(pathToFileURL(join(dist, "os/lock.js")).href);
  const lock = await module.acquireLock(directory);
  await lock?.release();
  return lock ? readdirSync(directory) : ["the lock itself"];
}

const problems: string[] = [];
try {
  while (figures.acquisitions < wanted && overlaps.length === 0) {
    // Replaced by the same number, so that the contention stays the same.
    for (let missing = processes - contenders.size; missing > 0; missing--) startContender();
    await sleep(random() * BETWEEN_HITS);
    hitSomebody();
    if (Date.now() - lastAcquisition > STUCK) {
      problems.push(`nobody got the lock for ${STUCK / 1000} s`);
      break;
    }
  }
  await endAll();
  const rest = await leftBehind();
  if (rest.length > 0) problems.push(`left behind: ${rest.join(", ")}`);
  if (figures.ended > 0) problems.push(`${figures.ended} processes ended by themselves`);
} finally {
  for (const child of contenders.keys()) child.kill("SIGKILL");
  rmSync(base, { recursive: true, force: true });
}

for (const problem of [...overlaps, ...problems]) console.error(problem);
const { acquisitions, afterKill, kills, suspensions } = figures;
const time = ((Date.now() - began) / 1000).toFixed(0);
console.log(
  `${acquisitions} acquisitions by ${processes} processes under ${kills} SIGKILL and ${suspensions} SIGSTOP, ` +
    `${afterKill} after a holder was killed: ${overlaps.length} overlaps, in ${time} s, seed ${seed}`,
);
process.exitCode = overlaps.length + problems.length > 0 ? 1 : 0;
