/** How each fault is brought about, and how what does not mend itself is mended. */
import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fingerprint } from "../../src/core/token.ts";
import { type Machine, MINT_TIMEOUT, signalAll } from "./machine.ts";
import { far, type PlannedFault } from "./plan.ts";
import { AUDIENCE, type Provider, type Trouble } from "./provider.ts";

export const TOKENS = ["entra", "helper"] as const;
export type TokenName = (typeof TOKENS)[number];

/** What a fault does to whoever wants a token. */
export interface Effect {
  /** The one token that it is about; all unless told. */
  readonly token?: TokenName;
  /** As long as it lasts, no mint can succeed and be published. */
  readonly blocks?: boolean;
  /** A hand has put something there that is no good. Fingerprints of it, for those who read it. */
  readonly laid?: readonly string[];
  /** Ends it. */
  heal?(): Promise<void>;
}

/** Why a fault cannot be brought about here. */
export class Skipped extends Error {}

/** @throws Skipped */
export async function inject(fault: PlannedFault, machine: Machine, provider: Provider): Promise<Effect> {
  if (fault.lane === "provider") return troubleProvider(fault, provider);
  const token: TokenName = (fault.amount * 16) % 1 < 0.5 ? "entra" : "helper";
  return MACHINE_FAULTS[fault.kind]!({ fault, machine, provider, token, path: machine.box.tokenPath(token) });
}

async function troubleProvider({ kind, amount }: PlannedFault, provider: Provider): Promise<Effect> {
  // From what a mint survives to twice the time that it has. Entra is asked twice for a token.
  const slow = 300 + amount ** 2 * (2 * MINT_TIMEOUT - 300);
  const trouble =
    kind === "slow"
      ? { kind, after: slow }
      : kind === "throttled"
        ? { kind, retryAfter: 1 + Math.floor(amount * 4) }
        : ({ kind } as Trouble);
  await provider.trouble(trouble);
  return { blocks: kind !== "slow" || slow > MINT_TIMEOUT / 4, heal: () => provider.trouble(undefined) };
}

interface Scene {
  readonly fault: PlannedFault;
  readonly machine: Machine;
  readonly provider: Provider;
  readonly token: TokenName;
  /** The token file of `token`. */
  readonly path: string;
}

const setClock =
  (offset: (amount: number) => number) =>
  async ({ fault, machine }: Scene): Promise<Effect> => {
    machine.setClock(offset(fault.amount));
    return { heal: async () => machine.setClock(0) };
  };

const MACHINE_FAULTS: Record<string, (scene: Scene) => Promise<Effect>> = {
  "clock-forward": setClock(far),
  "clock-back": setClock((amount) => -far(amount)),
  "clock-nudged": setClock((amount) => (amount - 0.5) * 2_000),

  /** The whole machine, clients included: what closing the lid does. */
  async asleep({ machine }) {
    const stopped = machine.box.processes();
    signalAll(stopped, "SIGSTOP");
    return { blocks: true, heal: async () => signalAll(stopped, "SIGCONT") };
  },
  async "agent-stopped"({ machine }) {
    const stopped = machine.agents;
    signalAll(stopped, "SIGSTOP");
    return { blocks: true, heal: async () => signalAll(stopped, "SIGCONT") };
  },
  async "agent-killed"({ machine }) {
    signalAll(machine.agents, "SIGKILL");
    return {};
  },
  async "mints-killed"({ machine }) {
    let going = true;
    const done = (async () => {
      while (going) {
        signalAll(machine.box.processes().filter(isMint), "SIGKILL");
        await sleep(50);
      }
    })();
    return {
      blocks: true,
      async heal() {
        going = false;
        await done;
      },
    };
  },

  async "disk-full"({ machine }) {
    if (!machine.mounted) throw new Skipped("a file system to fill up needs root and the right to mount");
    const filler = join(machine.box.env.XDG_RUNTIME_DIR!, "filler");
    fill(filler);
    return { blocks: true, heal: async () => rmSync(filler) };
  },
  async "read-only"({ machine }) {
    const runtime = machine.box.env.XDG_RUNTIME_DIR!;
    if (machine.mounted) {
      await remount(runtime, "ro");
      return { blocks: true, heal: () => remount(runtime, "rw") };
    }
    if (process.geteuid?.() === 0) throw new Skipped("modes mean nothing to root, and it may not mount here");
    const directories = TOKENS.map((name) => dirname(machine.box.tokenPath(name))).filter((path) => existsSync(path));
    const setModes = (mode: number) => {
      for (const path of directories) if (existsSync(path)) chmodSync(path, mode);
    };
    setModes(0o500);
    return { blocks: true, heal: async () => setModes(0o700) };
  },
  async "directory-removed"({ path }) {
    rmSync(dirname(path), { recursive: true, force: true });
    return {};
  },
  async "directory-replaced"({ fault, machine, token, path }) {
    const directory = dirname(path);
    const old = join(machine.box.directory, `moved-away-${token}`);
    rmSync(old, { recursive: true, force: true });
    if (existsSync(directory)) execFileSync("mv", [directory, old]);
    if (fault.amount < 0.5) {
      mkdirSync(directory, { mode: 0o700 });
      return {};
    }
    // A link, which the writer must not follow: it is not healed before somebody takes it away.
    const elsewhere = join(machine.box.directory, "elsewhere");
    mkdirSync(elsewhere, { recursive: true, mode: 0o700 });
    symlinkSync(elsewhere, directory);
    return { token, blocks: true, heal: async () => rmSync(directory) };
  },
  /** Somebody empties the runtime directory, the agent's lock and sockets included; now and then an agent comes with it. */
  async "runtime-removed"({ fault, machine }) {
    rmSync(machine.box.runPath, { recursive: true, force: true });
    if (fault.amount < 0.5) machine.startAgent();
    return {};
  },

  async "token-removed"({ path }) {
    rmSync(path, { force: true });
    return {};
  },
  async "token-edited"({ fault, token, path }) {
    if (!existsSync(path)) return {};
    if (fault.amount < 0.33) appendFileSync(path, "\n");
    else truncateSync(path, fault.amount < 0.66 ? 0 : 300);
    return { token, laid: [fingerprint(readFileSync(path, "latin1"))] };
  },
  async "token-replaced"({ provider, token, path }) {
    const value = await provider.identity.sign({ audience: AUDIENCE, lifetime: 20_000 });
    if (!existsSync(dirname(path))) return {};
    writeFileSync(`${path}.by-hand`, value, { mode: 0o600 });
    renameSync(`${path}.by-hand`, path);
    return { token, laid: [fingerprint(value)] };
  },
  async "json-removed"({ path }) {
    rmSync(`${path}.json`, { force: true });
    return {};
  },
  async "json-edited"({ fault, token, path }) {
    if (!existsSync(`${path}.json`)) return {};
    const text = readFileSync(`${path}.json`, "utf8");
    // Nonsense, or an expiry long ago. One in the future everybody has to believe who has not written the file.
    const long = text.replace(/"expires":(\d+)/, (_, seconds) => `"expires":${Number(seconds) - 3_600}`);
    writeFileSync(`${path}.json`, fault.amount < 0.5 ? "expires: tomorrow\n" : long);
    return { token, laid: [] };
  },

  async "config-broken"({ machine }) {
    machine.configure('[tokens.third]\nsource = "comand"\n');
    return { heal: async () => machine.configure() };
  },
  async "config-extended"({ machine }) {
    machine.configure(machine.extraToken("extra"));
    return { heal: async () => machine.configure() };
  },
  async "two-agents-more"({ machine }) {
    machine.startAgent();
    machine.startAgent();
    return {};
  },
  async "killed-and-two-started"({ machine }) {
    signalAll(machine.agents, "SIGKILL");
    machine.startAgent();
    machine.startAgent();
    return {};
  },
};

function isMint(pid: number): boolean {
  try {
    return /mint-process\.js|chaos\/mint\.mjs/.test(readFileSync(`/proc/${pid}/cmdline`, "latin1"));
  } catch {
    return false;
  }
}

function fill(path: string): void {
  const file = openSync(path, "w");
  try {
    for (let size = 65_536; size > 0; ) {
      try {
        writeSync(file, Buffer.alloc(size));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
        size = Math.floor(size / 2);
      }
    }
  } finally {
    closeSync(file);
  }
}

/** A file that is just being written keeps a file system from becoming read-only. */
async function remount(path: string, how: "ro" | "rw"): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return void execFileSync("mount", ["-o", `remount,${how}`, path], { stdio: "pipe" });
    } catch (error) {
      if (attempt === 50) throw error;
      await sleep(20);
    }
  }
}
