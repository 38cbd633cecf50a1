import type { AgentStatus } from "../agent/agent.ts";
import { type Clock, systemClock } from "../os/clock.ts";
import { monotonicUsec, type ServiceManager } from "../os/sd-notify.ts";
import { statusLine } from "./status-line.ts";

/** The status is composed this often at most: it is for a person's eyes, and is sent only where it has changed. */
const LOOK_EVERY = 5_000;

/** Tells systemd how the agent is. Without a service manager it does nothing. */
export class Reporter {
  readonly #manager: ServiceManager | undefined;
  readonly #clock: Clock;
  #ready = false;
  #told = "";
  #lastLook = Number.NEGATIVE_INFINITY;
  #lastFed = Number.NEGATIVE_INFINITY;

  constructor(manager: ServiceManager | undefined, clock: Clock = systemClock) {
    this.#manager = manager;
    this.#clock = clock;
  }

  /** The agent answers, and renews by itself from now on. Whether its sources do is the status's matter. */
  async ready(status: AgentStatus): Promise<void> {
    this.#ready = true;
    this.#lastFed = this.#clock.uptime();
    await this.#send(["READY=1", ...this.#status(status)]);
  }

  /**
   * Called at each turn of the agent's loop, and from nowhere else: the watchdog hears of a loop that turns, not of a
   * process that lives.
   */
  turned(status: () => AgentStatus): void {
    if (!this.#manager || !this.#ready) return;
    const now = this.#clock.uptime();
    // A third: the loop's pause of two seconds and a busy machine stay within a period of seconds, too.
    const hungry = this.#manager.watchdog !== undefined && now - this.#lastFed >= this.#manager.watchdog / 3;
    const look = now - this.#lastLook >= LOOK_EVERY;
    if (hungry) this.#lastFed = now;
    if (look) this.#lastLook = now;
    const news = [...(hungry ? ["WATCHDOG=1"] : []), ...(look ? this.#status(status()) : [])];
    if (news.length > 0) void this.#send(news);
  }

  async reloading(): Promise<void> {
    await this.#send(["RELOADING=1", monotonicUsec()]);
  }

  async stopping(): Promise<void> {
    await this.#send(["STOPPING=1"]);
  }

  /** Why the agent ends, or does not start. */
  async failed(message: string): Promise<void> {
    await this.#send([`STATUS=${message.replaceAll("\n", "; ")}`]);
  }

  #status(status: AgentStatus): string[] {
    const line = statusLine(status, this.#clock.now());
    if (line === this.#told) return [];
    this.#told = line;
    return [`STATUS=${line}`];
  }

  async #send(assignments: readonly string[]): Promise<void> {
    await this.#manager?.notify(...assignments);
  }
}
