/**
 * A machine of its own for the run: a home, a runtime directory in a small file system, a clock that can be set, and a
 * supervisor that starts the agent again a second after it has ended, as systemd would.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { openSandbox, type Running, type Sandbox } from "../support/freshkey.ts";
import { AUDIENCE, type Provider, SECRET, TENANT } from "./provider.ts";

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const RESTART_AFTER = 1_000;
/** Room for a few tokens, quickly filled. */
const RUNTIME_SIZE = "512k";
/** The longest that a mint may take: a slow provider is met within a token's life. */
export const MINT_TIMEOUT = 4_000;

export class Machine {
  readonly box: Sandbox;
  /** The runtime directory is a file system of its own, which can be filled and made read-only. Needs root. */
  readonly mounted: boolean;
  readonly env: Readonly<Record<string, string>>;
  readonly #agents = new Set<Running>();
  readonly #clockFile: string;
  readonly #provider: Provider;
  #supervising = false;
  #restarting = false;
  /** How often an agent was started, and what ended agents said last. */
  starts = 0;
  readonly ends: { code: number | null; signal: string | null; stderr: string }[] = [];

  readonly #clean = () => {
    signalAll(this.box.processes(), "SIGKILL");
    if (this.mounted) spawnSync("umount", ["--lazy", this.box.env.XDG_RUNTIME_DIR!]);
    rmSync(this.box.directory, { recursive: true, force: true });
  };

  constructor(provider: Provider) {
    this.box = openSandbox();
    this.#provider = provider;
    const { directory } = this.box;
    this.mounted = mountRuntime(this.box.env.XDG_RUNTIME_DIR!);
    // Also where somebody ends the run half-way: nothing of it may stay mounted.
    process.once("exit", this.#clean);
    this.#clockFile = join(directory, "clock");
    this.setClock(0);
    const bin = join(directory, "bin");
    mkdirSync(bin);
    const clock = pathToFileURL(here("clock.mjs")).href;
    script(join(bin, "node-by-that-clock"), `exec '${process.execPath}' --import '${clock}' "$@"`);
    // freshkey-token asks `date` for the time.
    script(join(bin, "date"), `read -r ms <"$FRESHKEY_TEST_CLOCK"\necho $((($(/bin/date +%s%3N) + ms) / 1000))`);
    this.env = {
      PATH: `${bin}:${this.box.env.PATH}`,
      NODE_OPTIONS: `--import=${clock}`,
      NODE_EXTRA_CA_CERTS: provider.caFile,
      FRESHKEY_TEST_CLOCK: this.#clockFile,
      FRESHKEY_TEST_NODE: join(bin, "node-by-that-clock"),
      CHAOS_SECRET: SECRET,
    };
  }

  /** Sets the machine's clock `offset` milliseconds off the true one. */
  setClock(offset: number): void {
    writeFileSync(`${this.#clockFile}.new`, `${Math.round(offset)}\n`);
    renameSync(`${this.#clockFile}.new`, this.#clockFile);
  }

  /** Writes the configuration: two tokens by two sources, and whatever `more` says. */
  configure(more = ""): void {
    this.box.writeConfig(`${configText(this.#provider, "entra", "helper")}\n${more}`);
  }

  /** The table of one more token. */
  extraToken(name: string): string {
    return helperTable(this.#provider, name);
  }

  /** Has an agent run from now on. */
  supervise(): void {
    this.#supervising = true;
    this.startAgent();
  }

  /** Starts an agent, whether one runs or not. */
  startAgent(): void {
    const agent = this.box.start(["agent", "--log-level", "debug"], { env: this.env });
    this.starts++;
    this.#agents.add(agent);
    void agent.ended.then(({ code, signal, stderr }) => {
      this.#agents.delete(agent);
      this.ends.push({ code, signal, stderr });
      void this.#restart();
    });
  }

  /** Pids of the agents that live. */
  get agents(): number[] {
    return [...this.#agents].map(({ pid }) => pid);
  }

  /** Everything that the agents have said: for whoever has to find out what went wrong. */
  said(): string {
    return [...this.ends.map(({ stderr }) => stderr), ...[...this.#agents].map((agent) => agent.output().stderr)].join(
      "",
    );
  }

  /** Ends the agents as a service manager does; returns how long that took, milliseconds. */
  async stop(): Promise<number> {
    this.#supervising = false;
    const begun = performance.now();
    await Promise.all([...this.#agents].map((agent) => agent.stop("SIGTERM")));
    return performance.now() - begun;
  }

  /** Ends whatever is left and removes everything. */
  async remove(): Promise<void> {
    this.#supervising = false;
    signalAll(this.box.processes(), "SIGKILL");
    await sleep(200);
    process.off("exit", this.#clean);
    this.#clean();
    await this.box.remove();
  }

  async #restart(): Promise<void> {
    if (this.#restarting || this.#agents.size > 0) return;
    this.#restarting = true;
    await sleep(RESTART_AFTER);
    this.#restarting = false;
    if (this.#supervising && this.#agents.size === 0) this.startAgent();
  }
}

/** Sends a signal to processes that may have ended meanwhile. */
export function signalAll(pids: readonly number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch {
      // ESRCH: it has ended.
    }
  }
}

function mountRuntime(path: string): boolean {
  if (process.platform !== "linux" || process.geteuid?.() !== 0) return false;
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${RUNTIME_SIZE},mode=0700`, "freshkey-chaos", path], {
      stdio: "pipe",
    });
    return true;
  } catch {
    // A container without the right to mount.
    return false;
  }
}

function script(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  chmodSync(path, 0o755);
}

function configText(provider: Provider, entra: string, helper: string): string {
  return `[tokens.${entra}]
source = "azure"
credential = "client-secret"
tenant_id = "${TENANT}"
client_id = "entra-client"
client_secret = { env = "CHAOS_SECRET" }
scope = "${AUDIENCE}/.default"
authority = "${provider.origin}"
timeout = "${MINT_TIMEOUT}ms"

${helperTable(provider, helper)}`;
}

function helperTable(provider: Provider, name: string): string {
  return `[tokens.${name}]
source = "command"
command = ["${process.execPath}", "${here("mint.mjs")}", "${provider.origin}/${TENANT}/oauth2/v2.0/token"]
timeout = "${MINT_TIMEOUT}ms"
`;
}
