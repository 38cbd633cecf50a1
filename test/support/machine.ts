/**
 * A machine of its own with a real systemd, booted in two seconds: this system's files under an overlay in memory, in a
 * container. Nothing that happens there reaches the host's files, and everything ends with the test's process.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
/** Where this repository and this Node.js are there. */
export const INSTALLED = "/opt/freshkey";
export const PATH = `${INSTALLED}/bin:/opt/node/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`;

export interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  /** Another user than root. */
  readonly user?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string;
}

export interface Machine {
  /** Runs a program there. */
  run(args: readonly string[], options?: RunOptions): Promise<Result>;
  /** Runs a shell script there and returns what it prints, without the last newline; throws if it fails. */
  sh(script: string, options?: RunOptions): Promise<string>;
  write(path: string, text: string, options?: { mode?: string; owner?: string }): Promise<void>;
  remove(): Promise<void>;
}

/** Why no machine can be booted here, or false. */
export function noMachine(): string | false {
  if (process.platform !== "linux") return "there is no systemd on this system";
  if (process.geteuid?.() !== 0) return "only root can boot a container";
  if (spawnSync("systemd-nspawn", ["--version"]).error) return "systemd-nspawn is not installed (systemd-container)";
  return false;
}

/** In a mount namespace of their own, the file systems go with the last process that uses them, however that ends. */
const SET_UP = `
cd "$1"; shift
mount -t tmpfs -o size=1g,mode=0755 tmpfs .
cd "$PWD"
mkdir up work root
mount -t overlay -o "lowerdir=/,upperdir=$PWD/up,workdir=$PWD/work" overlay root
rm -rf root/etc/systemd/system/* root/etc/systemd/user/* root/var/log/journal root/opt/freshkey root/opt/node
# Its own, so that it keeps a journal of its own; without any it would ask questions.
systemd-id128 new >root/etc/machine-id
exec systemd-nspawn -D "$PWD/root" --register=no --keep-unit --console=pipe --link-journal=no \\
  --bind-ro="$1:${INSTALLED}" --bind-ro="$2:/opt/node/bin/node" --boot -- --unit=basic.target`;

/** @throws Error with what systemd-nspawn said if the machine is not up within 20 seconds. */
export async function bootMachine(): Promise<Machine> {
  const directory = mkdtempSync(join(tmpdir(), "freshkey-machine-"));
  const inNamespace = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", SET_UP, "sh"];
  // SIGTERM is what systemd-nspawn takes for "power off". It must come even if this process is killed.
  const args = ["--pdeathsig", "TERM", ...inNamespace, directory, root, process.execPath];
  const child = spawn("setpriv", args, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
  }
  let init = 0;
  const remove = () => powerOff(child, init, directory);
  try {
    init = await until("its first process", () => running(child, said) && firstProcess(child));
    const run = (command: readonly string[], options: RunOptions = {}) => enter(init, command, options);
    const isUp = async () => running(child, said) && (await run(["systemctl", "is-active", "basic.target"])).code === 0;
    await until("its basic.target", isUp);
    const sh: Machine["sh"] = async (script, options) => {
      const { code, stdout, stderr } = await run(["sh", "-euc", script], options);
      if (code !== 0) throw new Error(`exit code ${code} of: ${script}\n${stdout}${stderr}`);
      return stdout.trimEnd();
    };
    const write: Machine["write"] = async (path, text, { mode = "0644", owner = "root" } = {}) => {
      const script = `mkdir -p "$(dirname ${path})"; umask 077; cat >${path}; chown ${owner} ${path}; chmod ${mode} ${path}`;
      await sh(script, { input: text });
    };
    return { run, sh, write, remove };
  } catch (error) {
    await remove();
    throw new Error(`the machine does not boot: ${(error as Error).message}; it said: ${said}`);
  }
}

function running(child: ChildProcess, said: string): true {
  if (child.exitCode === null && child.signalCode === null) return true;
  throw new Error(`systemd-nspawn ended with ${child.exitCode ?? child.signalCode}: ${said}`);
}

/** The child of `child` that is process 1 in its own namespace. */
function firstProcess({ pid }: ChildProcess): number | undefined {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8")
    .split(" ")
    .filter((text) => text !== "")
    .map(Number)
    .find((one) => /^NSpid:.*\t1$/m.test(readFileSync(`/proc/${one}/status`, "utf8")));
}

function enter(init: number, command: readonly string[], { user, env, input }: RunOptions): Promise<Result> {
  const as = user === undefined ? [] : ["setpriv", `--reuid=${user}`, `--regid=${user}`, "--init-groups"];
  const child = spawn("nsenter", ["-t", String(init), "-a", ...as, ...command], {
    env: { PATH, LANG: "C.UTF-8", HOME: user === undefined ? "/root" : `/home/${user}`, ...env },
    stdio: ["pipe", "pipe", "pipe"],
    timeout: 60_000,
  });
  const output = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const) {
    child[stream].setEncoding("utf8").on("data", (text: string) => {
      output[stream] += text;
    });
  }
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, ...output }));
  });
}

async function powerOff(child: ChildProcess, init: number, directory: string): Promise<void> {
  const gone = () => child.exitCode !== null || child.signalCode !== null;
  if (!gone()) {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    // The kernel ends all others with their first process; systemd-nspawn ends when it has. Not the other way round.
    const timer = setTimeout(() => (init > 0 ? process.kill(init, "SIGKILL") : child.kill("SIGKILL")), 15_000);
    child.kill("SIGTERM");
    await ended;
    clearTimeout(timer);
  }
  rmdirSync(directory);
  for (const group of ownControlGroups()) removeEmptyGroups(group);
}

/** What systemd-nspawn makes below its own control group, and leaves. */
function ownControlGroups(): string[] {
  const mounts = readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => line.split(" "));
  const groups = mounts.filter(([, , type]) => type === "cgroup" || type === "cgroup2").map(([, path = ""]) => path);
  const own = readFileSync("/proc/self/cgroup", "utf8")
    .split("\n")
    .map((line) => line.split(":")[2] ?? "");
  const paths = groups.flatMap((mount) => [...new Set(own)].map((path) => join(mount, path)));
  return paths
    .flatMap((path) => ["payload", "supervisor"].map((name) => join(path, name)))
    .filter((path) => existsSync(path));
}

function removeEmptyGroups(path: string): void {
  try {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      if (entry.isDirectory()) removeEmptyGroups(join(path, entry.name));
    }
    rmdirSync(path);
  } catch {
    // Gone meanwhile, or still in use by another one than this.
  }
}

/** Waits until `condition` gives something true, and returns that; throws after `timeout` milliseconds (20,000). */
export async function until<T>(
  what: string,
  condition: () => T | Promise<T>,
  timeout = 20_000,
): Promise<NonNullable<T>> {
  for (const end = Date.now() + timeout; ; await pause(50)) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`after ${timeout} ms still not: ${what}`);
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
