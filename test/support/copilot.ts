/**
 * The real GitHub Copilot CLI, offline, with the demo's gateway as its provider. It is run only where
 * FRESHKEY_TEST_CLIENTS names a directory to install it into: it is 190 MB, and its licence is its own.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { access, mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { errno } from "../../src/core/errors.ts";
import { type Gateway, type GatewayOptions, type GatewayRequest, startGateway } from "../../src/demo/gateway.ts";
import { type Identity, startIdentity } from "../../src/demo/identity.ts";

const VERSION = "1.0.102";
const AUDIENCE = "api://copilot";
const MODEL = "gpt-5.1";

/** For the `skip` of a test: why it can't run here, or false. */
export const SKIP = process.env.FRESHKEY_TEST_CLIENTS
  ? false
  : "set FRESHKEY_TEST_CLIENTS to a directory in which the real clients may be installed (it is kept and used again)";

/**
 * Installs Copilot CLI, unless it is there already; undefined where FRESHKEY_TEST_CLIENTS is not set. Test files that
 * run at the same time may all ask for it: whoever is first puts it in place, whole.
 */
export async function installCopilot(): Promise<{ copilot: string } | undefined> {
  const root = process.env.FRESHKEY_TEST_CLIENTS;
  if (!root) return undefined;
  const directory = join(root, `copilot-${VERSION}`);
  const copilot = join(directory, "node_modules", ".bin", "copilot");
  if (await exists(copilot)) return { copilot };

  await mkdir(root, { recursive: true });
  const fresh = await mkdtemp(join(root, ".installing-"));
  try {
    const options = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts"];
    await promisify(execFile)("npm", ["install", "--prefix", fresh, ...options, `@github/copilot@${VERSION}`]);
    await rename(fresh, directory);
  } catch (error) {
    await rm(fresh, { recursive: true, force: true });
    if (!(await exists(copilot))) throw error;
  }
  return { copilot };
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

export interface Home {
  readonly home: string;
  remove(): Promise<void>;
}

/**
 * A home directory for all runs of one test file. Copilot CLI has unpacked its 235 MB into it, so that no token's
 * lifetime is spent on that.
 */
export async function sharedHome(copilot: string): Promise<Home> {
  const home = await mkdtemp(join(tmpdir(), "freshkey-copilot-"));
  await promisify(execFile)(copilot, ["--version"], { cwd: home, env: environment(home) });
  return { home, remove: () => rm(home, { recursive: true, force: true, maxRetries: 5 }) };
}

/** Nothing is inherited but PATH. */
function environment(home: string) {
  return { PATH: process.env.PATH, HOME: home, COPILOT_OFFLINE: "true" };
}

export interface CopilotRun {
  readonly copilot: string;
  readonly home: string;
  /** The whole environment beside PATH, HOME and what keeps Copilot CLI offline: nothing is inherited. */
  readonly env: Readonly<Record<string, string>>;
  readonly prompt?: string;
  readonly args?: readonly string[];
  /** What runs it, as in `freshkey exec --`. */
  readonly wrapper?: readonly string[];
  /**
   * Milliseconds, after which it is killed with its process group: two minutes unless told. A command that its bash
   * tool is running then has a session of its own, and ends by itself.
   */
  readonly timeout?: number;
}

export interface CopilotResult {
  /** The exit code; null where it was killed. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `copilot -p PROMPT` in an empty directory, which is no repository. */
export async function runCopilot(run: CopilotRun): Promise<CopilotResult> {
  const { copilot, home, prompt = "say hi", args = [], wrapper = [], timeout = 120_000 } = run;
  const cwd = join(home, "work");
  await mkdir(cwd, { recursive: true });
  const [program = copilot, ...rest] = [...wrapper, copilot, "-p", prompt, "--allow-all-tools", ...args];
  const child = spawn(program, rest, {
    cwd,
    env: { ...environment(home), ...run.env },
    stdio: ["ignore", "pipe", "pipe"],
    // A process group of its own, so that its children can be ended with it.
    detached: true,
  });
  const output = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const) {
    child[stream].setEncoding("utf8").on("data", (text: string) => {
      output[stream] += text;
    });
  }
  const overdue = setTimeout(() => endGroup(child), timeout);
  try {
    const code = await new Promise<number | null>((resolve, reject) => child.on("error", reject).on("close", resolve));
    return { code, ...output };
  } finally {
    clearTimeout(overdue);
  }
}

/** Ends a child and all of its process group, and waits no longer for output of those that left the group. */
function endGroup(child: ChildProcess): void {
  try {
    if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
  } catch (error) {
    if (errno(error) !== "ESRCH") throw error;
  }
  child.stdout?.destroy();
  child.stderr?.destroy();
}

/** An identity provider and a gateway that trusts it, with all that the gateway told of its requests. */
export interface Provider {
  readonly identity: Identity;
  readonly gateway: Gateway;
  readonly requests: readonly (GatewayRequest & { readonly at: number })[];
  /** A new token that the gateway accepts. */
  mint(): Promise<string>;
  close(): Promise<void>;
}

export interface ProviderOptions extends Partial<GatewayOptions> {
  /** Of each token, in milliseconds. */
  readonly lifetime: number;
}

export async function startProvider({ lifetime, ...options }: ProviderOptions): Promise<Provider> {
  const identity = await startIdentity({ lifetime });
  const requests: (GatewayRequest & { at: number })[] = [];
  const gateway = await startGateway({
    issuer: identity.issuer,
    audience: AUDIENCE,
    onRequest: (request) => void requests.push({ ...request, at: Date.now() }),
    ...options,
  });
  return {
    identity,
    gateway,
    requests,
    mint: () => identity.sign({ audience: AUDIENCE }),
    close: async () => {
      await Promise.all([gateway.close(), identity.close()]);
    },
  };
}

/**
 * Keeps `file` fresh, as `while mint > file.new && mv file.new file; do sleep 4; done` would: the plainest writer there
 * is. The first token is in place when the promise resolves.
 *
 * @param every Milliseconds.
 */
export async function rotate(provider: Provider, file: string, every: number): Promise<{ stop(): Promise<void> }> {
  const once = async () => {
    await writeFile(`${file}.new`, await provider.mint(), { mode: 0o600 });
    await rename(`${file}.new`, file);
  };
  await once();
  let last: Promise<void> = Promise.resolve();
  const timer = setInterval(() => {
    last = last.then(once);
  }, every);
  return {
    stop: () => {
      clearInterval(timer);
      return last;
    },
  };
}

/** What the gateway saw of one run. */
export interface Session extends CopilotResult {
  /** Requests to the model, those that were refused among them. */
  readonly requests: number;
  readonly refused: number;
  /** How many different tokens were accepted. */
  readonly tokens: number;
  /** Milliseconds from the first request to the last. */
  readonly span: number;
}

/** One run of Copilot CLI as a session with the provider's gateway, and what the gateway saw of it. */
export async function session({
  provider,
  env,
  ...run
}: CopilotRun & { readonly provider: Provider }): Promise<Session> {
  const earlier = provider.requests.length;
  const result = await runCopilot({
    ...run,
    env: { COPILOT_PROVIDER_BASE_URL: provider.gateway.baseUrl, COPILOT_MODEL: MODEL, ...env },
  });
  const seen = provider.requests.slice(earlier).filter(({ method }) => method === "POST");
  return {
    ...result,
    requests: seen.length,
    refused: seen.filter(({ status }) => status === 401).length,
    tokens: new Set(seen.filter(({ status }) => status === 200).map(({ fingerprint }) => fingerprint)).size,
    span: (seen.at(-1)?.at ?? 0) - (seen[0]?.at ?? 0),
  };
}
