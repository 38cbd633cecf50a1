/**
 * A contender of test/stress/lock.ts, run with the compiled modules of `DIST`:
 *
 *     lock-holder.mjs DIST DIRECTORY WITNESS HOLD
 *
 * Takes the lock of DIRECTORY again and again and keeps it for up to HOLD milliseconds, until SIGTERM. While it has the
 * lock it has the file WITNESS as well, which says who it is. That somebody else's is there on the way in, or one's own
 * is not on the way out, is an overlap, unless that other was killed. One character a line is printed: `a` (acquired),
 * `k` (acquired, after a holder that was killed), `o` and what was seen (overlap).
 *
 * The witness knows nothing of the lock: it is one file that is made with O_EXCL. A holder that is killed between the
 * lock and the witness leaves none, and its acquisition is not counted; one that is killed before it removes its
 * witness leaves it behind, and the next holder looks whether that process can still do anything at all.
 */
import { readdirSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const [dist, directory, witness, hold] = process.argv.slice(2);
const { acquireLock } = await import(pathToFileURL(`${dist}/os/lock.js`).href);

const NOBODY = "nobody";
/** The flag PF_EXITING of a task, in Linux's include/linux/sched.h: it runs no more of its program. */
const EXITING = 0x4;

/** State, flags and start (in clock ticks since the machine's) of a task; undefined where there is none. */
function task(path) {
  let text;
  try {
    text = readFileSync(`/proc/${path}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // The program's name, in parentheses, may hold anything. proc_pid_stat(5) counts the fields from 1.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0], flags: Number(fields[6]), start: fields[19] };
}

/** Whether the process that wrote `id` can still run: a killed one closes its sockets some time before it is gone. */
function isAlive(id) {
  const [pid, start] = id.split(" ");
  if (task(pid)?.start !== start) return false;
  return threads(pid).some((thread) => {
    const found = task(`${pid}/task/${thread}`);
    return found !== undefined && !"ZX".includes(found.state) && (found.flags & EXITING) === 0;
  });
}

function threads(pid) {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

function readWitness() {
  try {
    return readFileSync(witness, "latin1");
  } catch {
    return NOBODY;
  }
}

/** Whether the file was made; false if there is one already. */
function makeWitness(id) {
  try {
    writeFileSync(witness, id, { flag: "wx", mode: 0o600 });
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  }
}

const say = (line) => writeSync(1, `${line}\n`);

let stopping = false;
process.once("SIGTERM", () => {
  stopping = true;
});

const self = `${process.pid} ${task("self").start}`;
for (let number = 0; !stopping; number++) {
  const lock = await acquireLock(directory);
  if (!lock) {
    await sleep(1 + Math.random() * 10);
    continue;
  }
  const id = `${self} ${number}`;
  let after = "a";
  if (!makeWitness(id)) {
    const other = readWitness();
    // An empty one is of somebody who was killed while writing, or who will notice in turn. One that has just been
    // removed is of somebody who was still there.
    if (other === NOBODY || isAlive(other)) say(`o ${id} has the lock, and so had ${other}`);
    else after = "k";
    rmSync(witness, { force: true });
    if (!makeWitness(id)) say(`o ${id} has the lock, and somebody came after it`);
  }
  say(after);
  await sleep(Math.random() * hold);
  const now = readWitness();
  if (now !== id) say(`o ${id} had the lock, and ${now} had it before it was released`);
  else rmSync(witness, { force: true });
  await lock.release();
}
