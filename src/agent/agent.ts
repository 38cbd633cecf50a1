import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { Config, TokenConfig } from "../config/load.ts";
import { formatDuration } from "../core/duration.ts";
import { FreshkeyError } from "../core/errors.ts";
import { type Clock, systemClock } from "../os/clock.ts";
import type { ControlRequest } from "../os/control-client.ts";
import { acquireLock, checkSocketPath, type Lock } from "../os/lock.ts";
import type { Log } from "../os/log.ts";
import { makePrivateDirectory } from "../os/paths.ts";
import { type ControlServer, serveControl } from "./control-server.ts";
import { FailureFile } from "./failure-file.ts";
import { mint } from "./mint.ts";
import { Refresher, type RefresherTools } from "./refresher.ts";
import { openSchedule } from "./schedule.ts";
import { Slots } from "./slots.ts";
import type { TokenStatus } from "./token-status.ts";

export interface AgentOptions {
  /** The runtime directory. */
  readonly run: string;
  readonly log: Log;
  /** Reads the configuration again, for `reload`. Without it there is nothing to reload. */
  readonly reload?: () => Promise<Config>;
  readonly clock?: Clock;
  readonly random?: () => number;
  readonly mint?: typeof mint;
}

export interface AgentStatus {
  readonly pid: number;
  /** False for a verb that holds the lock for one renewal. */
  readonly resident: boolean;
  /** Epoch seconds. */
  readonly since: number;
  readonly tokens: readonly TokenStatus[];
}

/** The longest the loop sleeps: so soon after a laptop wakes up the wall clock is looked at. */
const LONGEST_SLEEP = 2_000;
/** A turn of the loop that comes later than this by the uptime: the machine, or this process, was suspended. */
const ASLEEP = 10_000;
/** Wall clock and uptime differ by more than this: somebody set the clock. The uptime has whole seconds. */
const CLOCK_SET = 5_000;

/** Where the agent of the runtime directory `run` has its lock and its sockets. */
export function agentDirectory(run: string): string {
  return join(run, "agent");
}

export function controlSocket(run: string): string {
  return join(agentDirectory(run), "control.sock");
}

/**
 * The holder of a runtime directory's lock: answers on the control socket and, once `start` is called, keeps every
 * token fresh. There is one at a time; a verb that renews without an agent is one for just that long.
 */
export class Agent {
  readonly #options: AgentOptions;
  readonly #clock: Clock;
  readonly #lock: Lock;
  readonly #slots = new Slots();
  readonly #refreshers = new Map<string, Refresher>();
  readonly #since: number;
  #server: ControlServer | undefined;
  #timer: { cancel(): void } | undefined;
  #running = false;
  #before = { wall: 0, uptime: 0 };
  #reloading: Promise<void> = Promise.resolve();

  private constructor(lock: Lock, options: AgentOptions) {
    this.#lock = lock;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#since = this.#clock.now();
  }

  /**
   * Takes the lock and listens.
   *
   * @returns undefined if somebody else has the lock.
   * @throws FreshkeyError `ERR_RUN_DIRECTORY`.
   */
  static async open(config: Config, options: AgentOptions): Promise<Agent | undefined> {
    const directory = agentDirectory(options.run);
    // Both: whoever can write to the one above can put another in the place of the one below.
    makePrivateDirectory(options.run);
    makePrivateDirectory(directory);
    checkSocketPath(controlSocket(options.run));
    const lock = await acquireLock(directory);
    if (!lock) return undefined;
    const agent = new Agent(lock, options);
    try {
      await agent.#take(config);
      agent.#server = await serveControl(controlSocket(options.run), (request) => agent.#answer(request));
      return agent;
    } catch (error) {
      await agent.close();
      throw error;
    }
  }

  /** Begins to renew by itself, until `close`. */
  start(): void {
    this.#running = true;
    this.#before = this.#instant();
    for (const refresher of this.#refreshers.values()) refresher.start();
    this.#tick();
  }

  /** @throws FreshkeyError `ERR_CONFIG_TOKEN` if the agent has no such token. */
  refresher(name: string): Refresher {
    const refresher = this.#refreshers.get(name);
    if (refresher) return refresher;
    throw new FreshkeyError("ERR_CONFIG_TOKEN", `the agent has no token "${name}"`, {
      hint: `it has ${[...this.#refreshers.keys()].join(", ")}; see that it runs with the right configuration`,
    });
  }

  status(): AgentStatus {
    const tokens = [...this.#refreshers.values()].map((refresher) => refresher.status());
    const since = Math.floor(this.#since / 1000);
    return { pid: process.pid, resident: this.#running, since, tokens };
  }

  /**
   * Puts the configuration in force that is on disk now: tokens that are the same go on undisturbed, files of those
   * that are gone are removed.
   *
   * @throws FreshkeyError what is wrong with it; then nothing has changed.
   */
  reload(): Promise<void> {
    const read = this.#options.reload;
    if (!read) throw new FreshkeyError("ERR_USAGE", "this agent has no configuration file to read again");
    this.#reloading = this.#reloading
      .catch(() => undefined)
      .then(async () => {
        await this.#take(await read());
        this.#options.log.info({ tokens: this.#refreshers.size }, "configuration reloaded");
      });
    return this.#reloading;
  }

  /** Whether the lock is still to be seen; without it another agent may start beside this one. */
  holdsLock(): boolean {
    return this.#lock.holds();
  }

  /** Ends everything that is under way; token files stay, sockets don't. */
  async close(): Promise<void> {
    this.#running = false;
    this.#timer?.cancel();
    await Promise.all([...this.#refreshers.values()].map((refresher) => refresher.stop()));
    await this.#server?.close();
    await this.#lock.release();
  }

  #tick(): void {
    this.#watchClock();
    for (const refresher of this.#refreshers.values()) refresher.tick();
    this.#schedule();
  }

  /** One timer for all tokens: it ends when the earliest is due, and soon enough to notice that the machine slept. */
  #schedule(): void {
    this.#timer?.cancel();
    if (!this.#running) return;
    const due = Math.min(...[...this.#refreshers.values()].map((refresher) => refresher.nextDue));
    const sleep = Math.max(10, Math.min(LONGEST_SLEEP, due - this.#clock.now()));
    this.#timer = this.#clock.after(sleep, () => this.#tick());
  }

  /** Tells a machine that slept from a clock that was set: asleep, both the wall clock and the uptime go on. */
  #watchClock(): void {
    const before = this.#before;
    const after = this.#instant();
    this.#before = after;
    const passed = after.uptime - before.uptime;
    const set = after.wall - before.wall - passed;
    if (Math.abs(set) > CLOCK_SET) {
      this.#options.log.warn(`the clock was set ${set > 0 ? "forward" : "back"} by ${formatDuration(Math.abs(set))}`);
      for (const refresher of this.#refreshers.values()) void refresher.clockSet(set);
    } else if (passed > LONGEST_SLEEP + ASLEEP) {
      this.#options.log.info(`awake after ${formatDuration(passed)}`);
      for (const refresher of this.#refreshers.values()) refresher.resumed();
    }
  }

  #instant(): { wall: number; uptime: number } {
    return { wall: this.#clock.now(), uptime: this.#clock.uptime() };
  }

  async #take(config: Config): Promise<void> {
    for (const [name, refresher] of this.#refreshers) {
      const next = config.tokens.get(name);
      if (next && isDeepStrictEqual(next, refresher.config)) continue;
      this.#refreshers.delete(name);
      // Another identity's token must not be left in place; other changes keep it until the next one is there.
      await (next && samePlaceAndIdentity(next, refresher.config) ? refresher.hand() : refresher.remove());
    }
    for (const [name, token] of config.tokens) {
      if (this.#refreshers.has(name)) continue;
      const refresher = new Refresher(token, await this.#tools(token));
      this.#refreshers.set(name, refresher);
      if (this.#running) refresher.start();
    }
    this.#schedule();
  }

  async #tools(config: TokenConfig): Promise<RefresherTools> {
    const { run, log, random = Math.random } = this.#options;
    return {
      clock: this.#clock,
      random,
      log,
      mint: this.#options.mint ?? mint,
      slots: this.#slots,
      failures: new FailureFile(agentDirectory(run), config.name),
      schedule: await openSchedule(config),
      control: controlSocket(run),
      wake: () => this.#schedule(),
    };
  }

  async #answer(request: ControlRequest): Promise<object> {
    switch (request.op) {
      case "status":
        return this.status();
      case "reload":
        await this.reload();
        return {};
      case "renew":
        return this.refresher(request.name).renew(request);
    }
  }
}

/** Options that do not decide whose token it is. */
const NOT_THE_IDENTITY = ["client_secret", "expires_in", "format", "shell"];

function samePlaceAndIdentity(a: TokenConfig, b: TokenConfig): boolean {
  const identity = ({ options }: TokenConfig) =>
    Object.entries(options).filter(([key]) => !NOT_THE_IDENTITY.includes(key));
  return a.path === b.path && a.source === b.source && isDeepStrictEqual(identity(a), identity(b));
}
