import { spawn } from "node:child_process";

/** systemd's side of sd_notify(3), where this process is a service of type `notify`. */
export interface ServiceManager {
  /** The watchdog's period in milliseconds (sd_watchdog_enabled(3)); undefined where nothing is watched. */
  readonly watchdog: number | undefined;
  /**
   * Sends `VARIABLE=VALUE` lines as one message, after all earlier ones. The promise is fulfilled when systemd has taken
   * it; it never rejects, what went wrong is told to `complain`.
   */
  notify(...assignments: readonly string[]): Promise<void>;
}

/** What systemd tells a service about itself. Another process with these would speak in the service's name. */
const OWN_VARIABLES = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];
/** systemd-notify waits up to five seconds until the message has been taken. */
const LONGEST = 10_000;

/**
 * The service manager that waits to be told, or undefined where there is none: no `NOTIFY_SOCKET`. Takes its variables
 * out of `env`, so that no process started from here inherits them.
 *
 * Node.js has no datagram Unix sockets, so systemd-notify (5 ms) is the one to speak; it does so with a pid of its own,
 * which is why the unit has `NotifyAccess=all`.
 */
export function serviceManager(
  complain: (problem: string) => void,
  env: NodeJS.ProcessEnv = process.env,
): ServiceManager | undefined {
  const { NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID, PATH = "/usr/bin:/bin" } = env;
  for (const name of OWN_VARIABLES) delete env[name];
  if (!NOTIFY_SOCKET) return undefined;
  const period = Number(WATCHDOG_USEC) / 1_000;
  const watched = period > 0 && (WATCHDOG_PID === undefined || Number(WATCHDOG_PID) === process.pid);
  let last: Promise<void> = Promise.resolve();
  return {
    watchdog: watched ? period : undefined,
    notify(...assignments) {
      last = last.then(() => send(assignments, { NOTIFY_SOCKET, PATH })).catch((error) => complain(error.message));
      return last;
    },
  };
}

/** `env` without what only the service itself may have. */
export function withoutServiceManager(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !OWN_VARIABLES.includes(name)));
}

/** Now by the clock that `RELOADING=1` is dated with. */
export function monotonicUsec(): string {
  return `MONOTONIC_USEC=${process.hrtime.bigint() / 1_000n}`;
}

function send(assignments: readonly string[], env: NodeJS.ProcessEnv): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn("systemd-notify", ["--", ...assignments], { env, stdio: "ignore", timeout: LONGEST });
    child.once("error", (error) => reject(new Error(`systemd is not told ${assignments[0]}: ${error.message}`)));
    child.once("exit", (code, signal) => {
      if (code === 0) resolve();
      else reject(new Error(`systemd is not told ${assignments[0]}: systemd-notify ended with ${code ?? signal}`));
    });
  });
}
