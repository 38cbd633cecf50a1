import { execFile, spawn } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { copilotEnvironment } from "../clients/copilot.ts";
import { FreshkeyError } from "../core/errors.ts";
import type { KeyFile } from "../reader/key-file.ts";
import type { Gateway } from "./gateway.ts";

export interface CopilotLane {
  readonly copilot: string;
  /** A directory of the demo's own: nothing of the user's Copilot CLI is touched. */
  readonly home: string;
  readonly gateway: Gateway;
  readonly key: KeyFile;
  readonly reader: string;
  readonly signal: AbortSignal;
}

/** Has the CLI unpack itself into the demo's directory (some seconds, 235 MB), so that no token's life is spent on it. */
export async function unpackCopilot(copilot: string, home: string, signal: AbortSignal): Promise<void> {
  await promisify(execFile)(copilot, ["--version"], { cwd: home, env: environment(home), signal }).catch((error) => {
    throw cannotRun(copilot, error);
  });
}

function environment(home: string): NodeJS.ProcessEnv {
  const { PATH, TERM } = process.env;
  return { PATH, TERM, HOME: join(home, "copilot"), XDG_RUNTIME_DIR: home, COPILOT_OFFLINE: "true" };
}

/**
 * The real GitHub Copilot CLI, offline, in one run that the gateway's script of tool calls makes last. It asks the
 * reader before every request, through its command hook.
 */
export function startCopilotLane({ copilot, home, gateway, key, reader, signal }: CopilotLane): Promise<void> {
  const hooks = copilotEnvironment({ tokenPath: key.path, baseUrl: gateway.baseUrl, model: "gpt-5.1" }, reader);
  const child = spawn(copilot, ["-p", "Wait a while.", "--allow-all-tools"], {
    cwd: home,
    env: { ...environment(home), ...hooks },
    stdio: "ignore",
    detached: true,
  });
  const end = () => {
    try {
      process.kill(-child.pid!, "SIGTERM");
    } catch {
      // It has ended already.
    }
  };
  signal.addEventListener("abort", end, { once: true });
  return new Promise((resolve, reject) => {
    child.once("error", (error) => reject(cannotRun(copilot, error)));
    child.once("exit", (code) => {
      end();
      if (signal.aborted || code === 0) resolve();
      else reject(new FreshkeyError("ERR_CLIENT", `${copilot} ended with exit code ${code}`));
    });
  });
}

function cannotRun(copilot: string, error: Error): FreshkeyError {
  return new FreshkeyError("ERR_CLIENT", `cannot run ${copilot}: ${error.message}`, { cause: error });
}
