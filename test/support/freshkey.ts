/**
 * The built program (bin/, dist/) in surroundings of its own: a home and a runtime directory that nobody else has, and an
 * environment with nothing of the caller's in it.
 *
 *     const box = openSandbox(t);
 *     box.writeConfig(`[tokens.copilot]\nsource = "command"\ncommand = ["print-token"]`);
 *     const agent = await box.startAgent();
 *     const { code, stdout } = await box.run(["token", "copilot"]);
 */
import { type ChildProcess, spawn } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { askAgent } from "../../src/os/control-client.ts";
import { runDirectory } from "../../src/os/paths.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
/** `bin/freshkey`. */
export const FRESHKEY = join(root, "bin/freshkey");
/** `bin/freshkey-token`. */
export const FRESHKEY_TOKEN = join(root, "bin/freshkey-token");
/** Where the compiled modules are, for scripts that import them. */
export const DIST = join(root, "dist");

export interface Result {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  /** Added to the sandbox's environment; `undefined` takes a variable away. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Written to stdin, which is then closed. */
  readonly input?: string;
  /** Milliseconds until the program is killed and the promise rejected: 30,000 unless told. */
  readonly timeout?: number;
  /** Another program than `bin/freshkey`. */
  readonly program?: string;
  readonly cwd?: string;
}

/** A program that is running. */
export interface Running {
  readonly pid: number;
  readonly ended: Promise<Result>;
  /** What it has written so far. */
  output(): { stdout: string; stderr: string };
  /** Sends a signal (SIGTERM unless told) and waits for the end. */
  stop(signal?: NodeJS.Signals): Promise<Result>;
}

export interface RunningAgent extends Running {
  /** Its log so far, one object a line. */
  log(): Record<string, unknown>[];
}

export interface AgentOptions extends Pick<RunOptions, "env"> {
  /** More arguments of `freshkey agent`. */
  readonly args?: readonly string[];
  /** Milliseconds until it must answer on its control socket: 10,000 unless told. */
  readonly timeout?: number;
}

export interface Sandbox {
  /** Everything is below this directory. */
  readonly directory: string;
  readonly home: string;
  /** `RUN`. */
  readonly runPath: string;
  /** What the programs get: `HOME`, `XDG_RUNTIME_DIR`, `PATH`, and nothing of the caller's. */
  readonly env: Readonly<Record<string, string>>;
  readonly configFile: string;
  /** Writes `~/.config/freshkey/config.toml`, 0600. */
  writeConfig(toml: string): void;
  /** Writes an executable script into the sandbox and returns its path. */
  writeScript(name: string, text: string): string;
  /** The path of the token file of `name`. */
  tokenPath(name: string): string;
  /** Runs `bin/freshkey` to its end. */
  run(args: readonly string[], options?: RunOptions): Promise<Result>;
  /** Starts `bin/freshkey` and returns at once. */
  start(args: readonly string[], options?: RunOptions): Running;
  /** Starts `freshkey agent` and returns when it answers. Rejects with what it said if it ended instead. */
  startAgent(options?: AgentOptions): Promise<RunningAgent>;
  /** Pids of all processes that were started in this sandbox and live, children's children too. Linux only. */
  processes(): number[];
  /** Ends what was started here and is left, and removes the directory. */
  remove(): Promise<void>;
}

export interface SandboxOptions {
  /** On a file system in memory where there is one, as a runtime directory usually is: fsync costs nothing there. */
  readonly inMemory?: boolean;
}

/** Opens a sandbox; with a test's context (`t`) it is removed when that test ends. */
export function openSandbox(
  context?: { after(clean: () => Promise<void>): void },
  { inMemory = false }: SandboxOptions = {},
): Sandbox {
  if (!existsSync(join(DIST, "cli/main.js"))) throw new Error("the program is not built: npm run build");
  const directory = mkdtempSync(join(inMemory && existsSync("/dev/shm") ? "/dev/shm" : shortTmp(), "fk-"));
  const home = join(directory, "h");
  const runtime = join(directory, "r");
  for (const path of [home, runtime]) mkdirSync(path, { mode: 0o700 });
  const env: Record<string, string> = {
    HOME: home,
    XDG_RUNTIME_DIR: runtime,
    PATH: `${dirname(process.execPath)}:/usr/local/bin:/usr/bin:/bin`,
    LANG: "C.UTF-8",
    // So that coverage is measured in these processes as well.
    ...(process.env.NODE_V8_COVERAGE && { NODE_V8_COVERAGE: process.env.NODE_V8_COVERAGE }),
  };
  const where = { env, platform: process.platform, uid: process.geteuid?.() ?? -1, home, hostname: hostname() };
  const runPath = runDirectory(where).path;
  const configFile = join(home, ".config/freshkey/config.toml");
  const started = new Set<ChildProcess>();

  const start = (args: readonly string[], options: RunOptions = {}): Running => {
    const child = spawn(options.program ?? FRESHKEY, args, {
      env: merge(env, options.env),
      cwd: options.cwd ?? directory,
      stdio: [options.input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    });
    started.add(child);
    return follow(child, options, () => started.delete(child));
  };

  const sandbox: Sandbox = {
    directory,
    home,
    runPath,
    env,
    configFile,
    writeConfig(toml) {
      mkdirSync(dirname(configFile), { recursive: true, mode: 0o700 });
      writeFileSync(configFile, toml, { mode: 0o600 });
    },
    writeScript(name, text) {
      const path = join(directory, name);
      writeFileSync(path, text, { mode: 0o755 });
      chmodSync(path, 0o755);
      return path;
    },
    tokenPath: (name) => join(runPath, name, "token"),
    start,
    async run(args, options = {}) {
      const { timeout = 30_000 } = options;
      const running = start(args, options);
      const { value, overdue } = await within(running.ended, timeout);
      if (!overdue) return value;
      const { stderr } = await running.stop("SIGKILL");
      throw new Error(`${args[0]} did not end within ${timeout} ms; its stderr: ${stderr}`);
    },
    async startAgent({ args = [], env: more, timeout = 10_000 } = {}) {
      const running = start(["agent", ...args], more ? { env: more } : {});
      const socket = join(runDirectory({ ...where, env: merge(env, more) }).path, "agent/control.sock");
      let over: Result | undefined;
      void running.ended.then((result) => {
        over = result;
      });
      for (const end = Date.now() + timeout; Date.now() < end; await pause(10)) {
        if (over) throw new Error(`the agent ended with exit code ${over.code}: ${over.stderr}`);
        const status = await askAgent<{ pid: number }>(socket, { op: "status" }, { timeout }).catch(() => undefined);
        if (status?.pid === running.pid) return { ...running, log: () => records(running.output().stderr) };
      }
      const { stderr } = await running.stop("SIGKILL");
      throw new Error(`the agent did not answer within ${timeout} ms; its stderr: ${stderr}`);
    },
    processes: () => processesOf(home),
    async remove() {
      const closed = [...started].map((child) => new Promise((resolve) => child.once("close", resolve)));
      for (const child of started) child.kill("SIGKILL");
      // What they started in turn carries the sandbox's HOME, which nothing else on this machine does.
      for (const pid of processesOf(home)) kill(pid);
      await within(Promise.all(closed), 5_000);
      rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
    },
  };
  context?.after(sandbox.remove);
  return sandbox;
}

type Falsy = false | undefined | null | "" | 0;

/** Waits until `condition` gives something true, and returns that; throws after `timeout` milliseconds (10,000). */
export async function until<T>(
  what: string,
  condition: () => T | Promise<T>,
  timeout = 10_000,
): Promise<Exclude<T, Falsy>> {
  for (const end = Date.now() + timeout; ; await pause(20)) {
    const value = await condition();
    if (value) return value as Exclude<T, Falsy>;
    if (Date.now() > end) throw new Error(`after ${timeout} ms still not: ${what}`);
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** The text of a JWT whose `exp` is `expires` (epoch milliseconds), signed by nobody. */
export function jwt(expires: number, claims: Record<string, unknown> = {}): string {
  const part = (content: unknown) => Buffer.from(JSON.stringify(content)).toString("base64url");
  return `${part({ alg: "none", typ: "JWT" })}.${part({ exp: Math.floor(expires / 1000), ...claims })}.c2lnbmF0dXJl`;
}

function follow(child: ChildProcess, options: RunOptions, over: () => void): Running {
  const output = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const) {
    child[stream]?.setEncoding("utf8").on("data", (text: string) => {
      output[stream] += text;
    });
  }
  child.stdin?.on("error", () => undefined);
  child.stdin?.end(options.input);
  const ended = new Promise<Result>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => {
      over();
      resolve({ code, signal, ...output });
    });
  });
  return {
    pid: child.pid ?? -1,
    ended,
    output: () => ({ ...output }),
    stop(signal = "SIGTERM") {
      child.kill(signal);
      return ended;
    },
  };
}

/** JSON lines; other lines (a crash's) are left out. */
function records(text: string): Record<string, unknown>[] {
  return text
    .split("\n")
    .filter((line) => line.startsWith("{") && line.endsWith("}"))
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

function merge(env: Readonly<Record<string, string>>, more: RunOptions["env"] = {}): Record<string, string> {
  const all = Object.entries({ ...env, ...more });
  return Object.fromEntries(all.filter((entry): entry is [string, string] => entry[1] !== undefined));
}

async function within<T>(
  promise: Promise<T>,
  ms: number,
): Promise<{ value: T; overdue: false } | { value?: T; overdue: true }> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<{ overdue: true }>((resolve) => {
    timer = setTimeout(() => resolve({ overdue: true }), ms);
  });
  try {
    return await Promise.race([promise.then((value) => ({ value, overdue: false as const })), late]);
  } finally {
    clearTimeout(timer);
  }
}

function processesOf(home: string): number[] {
  if (!existsSync("/proc/self/environ")) return [];
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        // A zombie's environment is empty: it has ended and only waits to be noticed.
        return `\0${readFileSync(`/proc/${pid}/environ`, "latin1")}`.includes(`\0HOME=${home}\0`);
      } catch {
        return false;
      }
    });
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended meanwhile.
  }
}

/** A socket's path has 103 bytes at most; macOS's temporary directory takes half of them. */
function shortTmp(): string {
  return tmpdir().length <= 24 ? tmpdir() : "/tmp";
}
