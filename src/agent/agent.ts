import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { samePlaceAndIdentity } from "../config/identity.ts";
import type { Config, TokenConfig } from "../config/load.ts";
import { secretFiles } from "../config/secrets.ts";
import { formatDuration } from "../core/duration.ts";
import { type ErrorRecord, FreshkeyError } from "../core/errors.ts";
import { type Clock, systemClock } from "../os/clock.ts";
import type { ControlRequest } from "../os/control-client.ts";
import { showNote } from "../os/desktop-note.ts";
import { acquireLock, checkSocketPath, type Lock } from "../os/lock.ts";
import type { Log } from "../os/log.ts";
import { makePrivateDirectory } from "../os/paths.ts";
import { fileStamp } from "../sources/file.ts";
import { auditLog } from "./audit-log.ts";
import { ClockWatch } from "./clock-watch.ts";
import { type ControlServer, serveControl } from "./control-server.ts";
import type { Observer, TokenEvent } from "./events.ts";
import { FailureFile } from "./failure-file.ts";
import { mint } from "./mint.ts";
import { notes } from "./notes.ts";
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
  /** Called at the end of every turn of the loop, once it has begun: at least every two seconds. */
  readonly onTurn?: () => void;
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
  readonly tokens: readonly (TokenStatus & Counts)[];
  /** What is wrong with the configuration on disk, where the one in force is an older one. */
  readonly config_error?: ErrorRecord;
}

/** Since the agent was started. */
export interface Counts {
  renewals: number;
  failures: number;
  rejections: number;
}

/** The longest the loop sleeps: so soon after a laptop wakes up the wall clock is looked at. */
const LONGEST_SLEEP = 2_000;
/** A turn of the loop that comes later than this by the uptime: the machine, or this process, was suspended. */
const ASLEEP = 10_000;

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
  #config: Config;
  #configError: FreshkeyError | undefined;
  readonly #counts = new Map<string, Counts>();
  readonly #notes = notes((text) => showNote(text, this.#config.notify));
  #audit: Observer | undefined;
  readonly #clockWatch: ClockWatch;
  #reloading: Promise<void> = Promise.resolve();

  private constructor(lock: Lock, config: Config, options: AgentOptions) {
    this.#lock = lock;
    this.#config = config;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#since = this.#clock.now();
    this.#clockWatch = new ClockWatch(this.#clock);
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
    const agent = new Agent(lock, config, options);
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
    const tokens = [...this.#refreshers].map(([name, one]) => ({ ...one.status(), ...this.#countsOf(name) }));
    const since = Math.floor(this.#since / 1000);
    const mistake = this.#configError && { config_error: this.#configError.toJSON() };
    return { pid: process.pid, resident: this.#running, since, tokens, ...mistake };
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
        try {
          await this.#take(await read());
          this.#configError = undefined;
        } catch (error) {
          this.#configError = FreshkeyError.from(error);
          throw this.#configError;
        }
        this.#options.log.info({ tokens: this.#refreshers.size }, "configuration reloaded");
      });
    return this.#reloading;
  }

  /** The files that the configuration in force comes from and depends on. */
  get files(): { config: string; secrets: readonly string[] } {
    return { config: this.#config.file, secrets: [...this.#config.tokens.values()].flatMap(secretFiles) };
  }

  /** A file that tokens' sources read has changed: they are renewed with it. */
  secretChanged(path: string): void {
    for (const refresher of this.#refreshers.values()) {
      if (secretFiles(refresher.config).includes(path)) refresher.sourceChanged();
    }
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
    this.#options.onTurn?.();
  }

  /** One timer for all tokens: it ends when the earliest is due, and soon enough to notice that the machine slept. */
  #schedule(): void {
    this.#timer?.cancel();
    if (!this.#running) return;
    const due = Math.min(...[...this.#refreshers.values()].map((refresher) => refresher.nextDue));
    const sleep = Math.max(10, Math.min(LONGEST_SLEEP, due - this.#clock.now()));
    this.#timer = this.#clock.after(sleep, () => this.#tick());
  }

  #watchClock(): void {
    const { set, passed } = this.#clockWatch.look();
    if (set !== 0) {
      this.#options.log.warn(`the clock was set ${set > 0 ? "forward" : "back"} by ${formatDuration(Math.abs(set))}`);
      for (const refresher of this.#refreshers.values()) void refresher.clockSet(set);
    } else if (passed > LONGEST_SLEEP + ASLEEP) {
      this.#options.log.info(`awake after ${formatDuration(passed)}`);
      for (const refresher of this.#refreshers.values()) refresher.resumed();
    }
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
    this.#config = config;
    this.#audit =
      config.audit === undefined ? undefined : auditLog(config.audit, (text) => this.#options.log.error(text));
    this.#schedule();
  }

  #observe(token: TokenConfig, event: TokenEvent): void {
    const counts = this.#countsOf(token.name);
    if (event.kind === "published") counts.renewals++;
    if (event.kind === "failed") counts.failures++;
    if (event.kind === "rejected") counts.rejections++;
    this.#audit?.(token, event);
    // A verb that renews says itself what fails, to whoever has called it.
    if (this.#running) this.#notes(token, event);
  }

  #countsOf(name: string): Counts {
    const known = this.#counts.get(name) ?? { renewals: 0, failures: 0, rejections: 0 };
    this.#counts.set(name, known);
    return known;
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
      sourceStamp: config.source === "file" ? () => fileStamp(config.options.path) : undefined,
      observe: (event) => this.#observe(config, event),
    };
  }

  async #answer(request: ControlRequest): Promise<object> {
    // A client may be awake before the loop is: what it is told must not go by the clock of before.
    this.#watchClock();
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
