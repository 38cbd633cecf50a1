import type { Agent } from "../agent/agent.ts";
import { FreshkeyError } from "../core/errors.ts";
import type { Log, LogLevel } from "../os/log.ts";
import type { Reporter } from "../service/reporter.ts";
import { openConfig } from "./context.ts";
import type { Invocation, Verb } from "./verb.ts";

/** How often a starting agent tries to succeed a verb that renews just now. */
const QUEUE_EVERY = 100;
/** How often the lock is looked after: whoever empties the runtime directory takes it away. */
const LOCK_EVERY = 5_000;

export const agent: Verb = {
  usage: "agent",
  summary: "keep every token fresh, in the foreground, until it is stopped",
  details: `This is what a systemd or launchd service runs. One agent runs for a user at a time. An edit of the
configuration is in force within a second (SIGHUP does the same); one with a mistake changes nothing. SIGTERM and SIGINT
stop it, the token files stay. The log goes to stderr: lines for a person on a terminal, JSON elsewhere; no token is ever
in it.`,
  options: { "log-level": { value: "LEVEL", help: "trace, debug, info (the default), warn or error" } },
  examples: [["freshkey agent", "watch it work in a terminal"]],
  operands: 0,
  run,
};

async function run(invocation: Invocation): Promise<number> {
  const { openLog } = await import("../os/log.ts");
  const { serviceManager } = await import("../os/sd-notify.ts");
  const { Reporter } = await import("../service/reporter.ts");
  const log = openLog(logLevel(invocation));
  const reporter = new Reporter(serviceManager((problem) => log.error(problem)));
  try {
    return await keep(invocation, log, reporter);
  } catch (error) {
    await reporter.failed((error as Error).message);
    throw error;
  }
}

async function keep(invocation: Invocation, log: Log, reporter: Reporter): Promise<number> {
  const { runDirectory } = await import("../os/paths.ts");
  const { ConfigWatch } = await import("../agent/config-watch.ts");
  const config = await openConfig(invocation);
  const directory = runDirectory();
  if (directory.onDisk && process.platform !== "darwin") {
    log.warn({ path: directory.path }, "there is no runtime directory in memory: tokens are kept on a disk");
  }
  const stopped = signalled(["SIGTERM", "SIGINT"]);
  for (;;) {
    const reload = () => openConfig(invocation);
    const onTurn = () => reporter.turned(() => held!.status());
    const held: Agent | undefined = await open(config, { run: directory.path, log, reload, onTurn }, stopped);
    if (!held) return 0;
    const watch = new ConfigWatch(held, log);
    const hangUp = async () => {
      await reporter.reloading();
      await watch.reload();
      await reporter.ready(held.status());
    };
    process.on("SIGHUP", hangUp);
    held.start();
    void reporter.ready(held.status());
    log.info({ pid: process.pid, tokens: config.tokens.size, config: config.file }, "agent started");
    const why = await Promise.race([stopped.then(() => "stopped"), lockLost(held)]);
    process.off("SIGHUP", hangUp);
    watch.close();
    if (why === "stopped") void reporter.stopping();
    await held.close();
    if (why === "stopped") {
      log.info("agent stopped");
      return 0;
    }
    log.error({ path: directory.path }, "the runtime directory was emptied by somebody else; starting over");
  }
}

type Opening = Parameters<typeof import("../agent/agent.ts").Agent.open>;

/** Becomes the holder. Queues behind a verb that renews; gives way to another agent. */
async function open(config: Opening[0], options: Opening[1], stopped: Promise<void>) {
  const { Agent, controlSocket } = await import("../agent/agent.ts");
  const { askAgent } = await import("../os/control-client.ts");
  const { sleep } = await import("../os/clock.ts");
  let stop = false;
  let told = false;
  void stopped.then(() => {
    stop = true;
  });
  while (!stop) {
    const held = await Agent.open(config, options);
    if (held) return held;
    const status = await askAgent<{ pid: number; resident: boolean }>(
      controlSocket(options.run),
      { op: "status" },
      { timeout: 1_000 },
    ).catch(() => undefined);
    if (status?.resident) {
      throw new FreshkeyError("ERR_AGENT_RUNNING", `an agent runs already (pid ${status.pid})`, {
        hint: "see what it does: freshkey status; one agent keeps all tokens",
      });
    }
    if (!told) options.log.info("waiting for a verb that renews just now");
    told = true;
    await sleep(QUEUE_EVERY);
  }
  return undefined;
}

function signalled(signals: readonly NodeJS.Signals[]): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of signals) process.on(signal, () => resolve());
  });
}

function lockLost(held: { holdsLock(): boolean }): Promise<string> {
  return new Promise((resolve) => {
    const timer = setInterval(() => {
      if (held.holdsLock()) return;
      clearInterval(timer);
      resolve("lost");
    }, LOCK_EVERY).unref();
  });
}

const LEVELS: readonly string[] = ["trace", "debug", "info", "warn", "error"];

function logLevel(invocation: Invocation): LogLevel {
  const level =
    invocation.text("log-level") ?? (invocation.flag("verbose") ? "debug" : invocation.flag("quiet") ? "warn" : "info");
  if (LEVELS.includes(level)) return level as LogLevel;
  throw new FreshkeyError("ERR_USAGE", `--log-level ${level}: must be one of ${LEVELS.join(", ")}`, {
    hint: "see: freshkey agent --help",
  });
}
